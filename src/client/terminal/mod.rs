//! The keyboard and the screen of a person: a line editor below messages that arrive at any time.
//! A reader of the chat may pass this folder by: nothing outside knows more of it than
//! [`Terminal`] and [`Colours`], and it knows nothing of the chat but what an `Event` is.
//!
//! It is ours because those that exist fail when a chat scrolls by. rustyline 19 erases chat when
//! a wrapped line is resized, can go deaf after Alt and a digit, and needs a signal to itself to
//! end; rustyline-async 0.4.9 has no Ctrl+Z, misplaces wide characters, and has one maintainer;
//! reedline 0.52 erased seven of eight messages above a wrapped line.
//!
//! `keys` makes keys of bytes, `editor` makes a line of keys, `screen` shows it all.
//! `colours` tells the senders apart.

mod colours;
mod editor;
mod keys;
mod screen;

pub use colours::Colours;
pub use screen::Terminal;
