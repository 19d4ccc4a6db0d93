//! The log of all rooms in a stream of NATS (JetStream), which several servers share.
//!
//! - [`connection`]: the connection, the stream, and what the operator hears of them
//!
//! A room is the subject `STREAM.room.ROOM`; the seed's, which has no name, is `STREAM.room.SEED`, since
//! no name of a room has capitals.

// Without NATS there never is a connection, and the compiler notices that what is here is not used.
#![cfg_attr(not(feature = "nats"), allow(dead_code, unused_variables))]

#[cfg(feature = "nats")]
pub mod connection;
#[cfg(not(feature = "nats"))]
#[path = "../without_nats.rs"]
pub mod connection;

use std::path::Path;
use std::sync::Arc;

pub use connection::Nats;

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

/// The part of a stream that belongs to one room.
#[derive(Clone, Debug)]
pub struct RoomLog {
    /// The connection.
    pub nats: Nats,
    room: Arc<str>,
    /// What the messages of the room are published to.
    pub subject: Arc<str>,
}

impl RoomLog {
    /// The part of the room with this name.
    #[must_use]
    pub fn new(nats: &Nats, room: &str) -> Self {
        let token = if room.is_empty() { "SEED" } else { room };
        Self {
            nats: nats.clone(),
            room: room.into(),
            subject: format!("{}.room.{token}", nats.stream()).into(),
        }
    }

    /// The author that a session is: the same on each server, and never that of a connection.
    #[must_use]
    pub fn session(&self, key: &Key) -> u64 {
        self.nats.digest(&["session", &self.room, key.secret()]) | 1 << 63
    }
}
