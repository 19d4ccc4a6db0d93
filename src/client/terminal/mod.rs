//! The keyboard and the screen of a person. A reader of the chat may pass this folder by.

pub mod editor;
pub mod keys;
pub mod screen;
