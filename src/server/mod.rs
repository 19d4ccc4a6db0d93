//! The half that relays: each line that a client sends goes to all the others.

pub mod batch;
pub mod connection;
pub mod flags;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod listener;
pub mod log;
pub mod room;
pub mod writer;
