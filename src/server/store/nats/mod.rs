//! The log of all rooms in a stream of NATS (JetStream), which several servers share.
//!
//! - [`connection`]: the connection, the stream, and what the operator hears of them
//! - [`message`]: what a message of the stream says
//! - [`counts`]: how many lines were taken from whom, so that each is in the room once
//! - [`behind`]: how servers wait for each other's readers
//! - [`names`]: the names that people have on all servers; [`presence`]: who is where
//!
//! A room is the subject `STREAM.room.ROOM`; the seed's, which has no name, is `STREAM.room.SEED`, since
//! no name of a room has capitals.

// Without NATS there never is a connection, and the compiler notices that what is here is not used.
#![cfg_attr(not(feature = "nats"), allow(dead_code, unused_variables))]

#[cfg(feature = "nats")]
pub mod behind;
#[cfg(feature = "nats")]
pub mod connection;
#[cfg(not(feature = "nats"))]
#[path = "../without_nats.rs"]
pub mod connection;
#[cfg(feature = "nats")]
pub mod names;
#[cfg(feature = "nats")]
pub mod presence;

pub mod counts;
pub mod message;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(not(feature = "nats"))]
pub use connection::Claim;
pub use connection::Nats;
#[cfg(feature = "nats")]
pub use names::Claim;

use crate::server::sessions::Key;

/// Where the stream is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The servers of NATS, of which any one will do.
    pub urls: &'a [String],
    /// The name of the stream.
    pub stream: &'a str,
    /// A file with credentials, if they are needed.
    pub credentials: Option<&'a Path>,
}

/// The place of a message in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Its sequence.
    pub sequence: u64,
    /// When the stream had it, in nanoseconds of Unix time.
    pub time: i128,
}

impl At {
    /// When the stream had it, in milliseconds.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.time / 1_000_000).unwrap_or_default()
    }
}

/// A message as the stream delivers it.
#[derive(Debug)]
pub struct Entry {
    /// Where it is.
    pub at: At,
    /// What it says.
    pub message: Bytes,
}

/// The stream can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Up {
    /// How often there was a connection: what was sent on an earlier one may be lost.
    pub round: u64,
    /// When the stream was made, in nanoseconds of Unix time.
    pub created: i128,
    /// It was cut back since this server knows it, and this is when the last message that it has lost was
    /// sent, in nanoseconds of Unix time.
    pub cut: Option<i128>,
}

/// Why somebody does not have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// Somebody else has it, or one that looks like it.
    Taken,
    /// A newer connection of the same session has it.
    Moved,
    /// NATS does not answer.
    Unknown,
}

/// What stands for a room in the subjects and keys that belong to it.
fn token(room: &str) -> &str {
    if room.is_empty() { "SEED" } else { room }
}

/// The part of a stream that belongs to one room.
#[derive(Clone, Debug)]
pub struct RoomLog {
    /// The connection.
    pub nats: Nats,
    /// The name of the room.
    pub room: Arc<str>,
    /// What the messages of the room are published to.
    pub subject: Arc<str>,
}

impl RoomLog {
    /// The part of the room with this name.
    #[must_use]
    pub fn new(nats: &Nats, room: &str) -> Self {
        Self {
            nats: nats.clone(),
            room: room.into(),
            subject: format!("{}.room.{}", nats.stream(), token(room)).into(),
        }
    }

    /// The epoch of the room in a stream that was made at this time. The salt is 0, unless the stream was
    /// cut back: it tells what came after that from what was there before.
    #[must_use]
    pub fn epoch(&self, created: i128, salt: u64) -> u64 {
        let of = ["epoch", &self.room, &created.to_string(), &salt.to_string()];
        self.nats.digest(&of)
    }

    /// The author that a session is: the same on each server, and never that of a connection.
    #[must_use]
    pub fn session(&self, key: &Key) -> u64 {
        self.nats.digest(&["session", &self.room, key.secret()]) | 1 << 63
    }
}
