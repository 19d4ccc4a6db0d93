//! What both ends of a connection know: what a line is, the HTTP head at the start, the token in it,
//! the goodbye at the end, how a dead link is noticed, the numbers that both need, what a session's
//! lines are made of, and what becomes of a stream through TLS.

pub mod close;
pub mod head;
pub mod keepalive;
pub mod limits;
pub mod line;
pub mod session;
#[cfg(feature = "tls")]
pub mod tls;
pub mod token;
