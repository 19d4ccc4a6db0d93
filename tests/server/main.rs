//! The server: what it does for those who keep to the rules, and what it bears of those who do not.
//!
//! - [`room`]: the room in memory, its order, and what exactly is counted as missed
//! - [`direct`]: who has everything, to whom the room writes itself
//! - [`keepalive`]: what takes seconds, by a clock that is moved and not waited for
//! - [`properties`]: what holds for every input, of what judges requests and cleans text
//! - [`handshake`]: who gets in, and what those hear who do not
//! - [`text`]: what the text of a message can do to those who read it
//! - [`faults`]: the faults of the WebSocket library, and what breaks the protocol
//! - [`readers`]: who keeps reading gets every line, and who does not is told
//! - [`promises`]: the promises where they are hardest to keep
//! - [`crowd`]: more strangers than there is room for
//! - [`rooms`]: rooms and names, and how little they have to do with each other
//! - [`access`]: who may come in, with which token and under which name
//! - [`addresses`]: how many connections an address may have
//! - [`rate`]: how many lines a second somebody may say, by a clock that is moved
//! - [`interleavings`]: the log of a room, with all that can happen to it, against a simple model
//! - [`presence`]: who is told that somebody came or left, by a clock that is moved
//! - [`sessions`]: who comes back over another connection
//! - [`history`]: who comes late, and is shown what was said before
//! - `without_store`, `without_nats`: what a build without SQLite says of a store, and one without NATS
//! - [`output`]: standard output and standard error that are closed, or that nobody reads
//! - [`shutdown`]: a server that is asked to stop
//! - [`watched`]: how whoever watches the server learns how it is; see also `tests/metrics`
//! - [`service`]: a server that systemd starts, and the package that has it do so
//! - `tls`: the same through TLS, in a build that has it

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod addresses;
mod crowd;
mod direct;
mod faults;
mod handshake;
mod history;
mod interleavings;
mod keepalive;
mod output;
mod presence;
mod promises;
mod properties;
mod rate;
mod readers;
mod room;
mod rooms;
mod service;
mod sessions;
mod shutdown;
mod text;
#[cfg(feature = "tls")]
mod tls;
mod watched;
#[cfg(not(feature = "nats"))]
mod without_nats;
#[cfg(not(feature = "sqlite"))]
mod without_store;
