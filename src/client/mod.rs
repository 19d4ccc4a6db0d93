//! The half that people type into.
//!
//! - [`connect`]: from a URL to an open stream; [`tls`]: whose certificate is trusted;
//!   [`backoff`]: how long to wait before the next try
//! - [`connection`]: one WebSocket's life, with the `select!` over typed lines and frames
//! - [`chat`]: what stays while connections come and go; [`outbox`]: the lines on their way
//! - [`session`]: who the client is across connections, so that nothing is missed or said twice
//! - [`console`]: the two ends, a person's [`terminal`] or a [`pipe`], and the [`event`]s that both
//!   tell; [`mod@format`]: how a line looks
//! - [`flags`], [`limits`]

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
