//! The client: in a pipeline, in a terminal, and with servers that go or that are hostile.
//!
//! - [`connection`]: one connection over a stream in memory, with a clock that is moved
//! - [`pipes`]: what it reads, what it writes, and when it ends
//! - [`reconnect`]: a server that goes and comes back under a client that stays
//! - [`sessions`]: nothing is missed and nothing is said twice, over a server made by hand
//! - [`names`]: rooms and names, and who is here
//! - [`token`]: the token that it shows, and that nobody sees
//! - [`terminal`]: a real pseudo-terminal, and what a person would see in it
//! - [`faults`]: the faults of the WebSocket library, and servers that break the protocol

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod connection;
mod faults;
mod names;
mod pipes;
mod reconnect;
mod sessions;
mod terminal;
mod token;
