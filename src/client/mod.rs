//! The half that people type into. The map of its files is in the documentation of the [crate].

pub mod backoff;
pub mod chat;
pub mod connect;
pub mod connection;
pub mod console;
pub mod event;
pub mod flags;
pub mod format;
pub mod limits;
pub mod outbox;
pub mod pipe;
pub mod session;
pub mod terminal;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
pub mod tls;
