//! A chat pair for the terminal: `server` relays each line that a client types to all the
//! others over WebSocket, `client` is what people type into.
//!
//! - [`protocol`]: what both ends know
//! - [`server`]: the half that relays
//! - [`client`]: the half that people type into
//! - [`flags`], [`os`]: how both read their flags and speak with the system

pub mod client;
pub mod flags;
pub mod os;
pub mod protocol;
pub mod server;
