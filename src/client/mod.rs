//! The half that people type into.

pub mod backoff;
pub mod connect;
pub mod console;
pub mod flags;
pub mod format;
pub mod input;
pub mod limits;
pub mod outbox;
pub mod output;
pub mod terminal;
