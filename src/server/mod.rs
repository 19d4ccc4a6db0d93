//! The half that relays: each line that a client sends goes to all the others.
//!
//! - [`listener`], [`socket`], [`handshake`]: from the socket to a connection, or a refusal;
//!   [`entrance`]: all that a stranger has to pass
//! - [`connection`]: one client's connection, as two loops; [`codec`]: its way in; [`writer`]: its way
//!   out; [`unwritten`]: what is on it; [`deadline`]: when a deadline counts; [`ended`]: why it ended
//! - [`room`]: what all connections share; [`batch`] and [`frame`]: what travels through it
//! - [`identity`], [`log`]: how a client is called, and what the operator reads
//! - [`rooms`], [`name`], [`presence`]: names, rooms, and who is here, which may be passed by
//! - [`refused`]: those for whom there is no place
//! - [`access`], [`addresses`], [`rate`]: who may come in, how many from one address, and how much
//!   each may say, which may be passed by too; [`tls`]: the same chat, encrypted; [`files`]: what is
//!   read again when it changes
//! - [`history`], [`window`], [`sessions`]: what is kept of a room for those who come back, which may
//!   be passed by, too
//! - [`store`]: what outlives the server, which may be passed by, too
//! - [`metrics`]: what is counted, for whoever watches the server, which may be passed by, too
//! - [`service`]: what a service manager passes, and is told
//! - [`flags`], [`limits`]

pub mod access;
pub mod addresses;
pub mod batch;
pub mod codec;
pub mod connection;
pub mod deadline;
pub mod ended;
pub mod entrance;
pub mod files;
pub mod flags;
pub mod frame;
pub mod handshake;
pub mod history;
pub mod identity;
pub mod limits;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod name;
pub mod presence;
pub mod rate;
pub mod refused;
pub mod room;
pub mod rooms;
pub mod service;
pub mod sessions;
pub mod socket;
pub mod store;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
pub mod tls;
pub mod unwritten;
pub mod window;
pub mod writer;
