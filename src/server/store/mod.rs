//! What outlives the memory of the rooms: a file of this server's own (`server --store FILE`), or a log
//! that several servers share (`server --nats URL`).
//!
//! - [`mod@file`]: what is said is in an SQLite database before anybody hears it
//! - [`nats`]: what is said is in a stream of NATS before anybody hears it, and every server that reads
//!   that stream says it, in the stream's order: so all of them together are one chat
//!
//! With either, a room applies a batch of its log only when that is stored. Until then nobody has heard
//! its lines, and nobody was told that they were taken.

// Without NATS there is nothing behind what makes its part of a store.
#![cfg_attr(not(feature = "nats"), allow(unreachable_code, unused_variables))]

pub mod file;
pub mod nats;

use std::sync::Arc;
use std::time::Duration;

pub use file::{Known, Piece, Terms};
pub use nats::{Claim, Unclaimed};
use tokio::time::timeout;

use crate::server::name::Name;
use crate::server::presence::Presence;
use crate::server::sessions::Key;

/// What is open. Each clone is the same one.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file.
    File(file::Store),
    /// A stream of NATS.
    Nats(nats::Nats),
}

impl Store {
    /// Its part for one room.
    #[must_use]
    pub fn room(&self, name: &str) -> RoomStore {
        match self {
            Self::File(file) => RoomStore::File(file.room(name)),
            Self::Nats(nats) => RoomStore::Nats(nats::RoomLog::new(nats, name)),
        }
    }

    /// Whether other servers have the same rooms.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Nats(_))
    }

    /// Starts the task that tells other servers, if there are any, who is in a room here, and learns who
    /// is there on them.
    pub fn share_presence(&self, room: &str, presence: &Arc<Presence>) {
        match self {
            Self::File(_) => {}
            Self::Nats(nats) => {
                let sharing = nats.clone();
                tokio::spawn(sharing.share_presence(room.to_owned(), presence.clone()));
            }
        }
    }

    /// Claims a name in a room, if several servers have the room. A name that another connection of the
    /// session has goes from that one to this.
    ///
    /// # Errors
    ///
    /// Somebody else has it, or a name that looks like it, or this cannot be known now.
    pub async fn claim(
        &self,
        room: &str,
        name: &Name,
        session: Option<&Key>,
    ) -> Result<Option<Claim>, Unclaimed> {
        match self {
            Self::File(_) => Ok(None),
            Self::Nats(nats) => {
                let log = nats::RoomLog::new(nats, room);
                let session = session.map(|key| log.session(key));
                nats.claim(room, name, session).await.map(Some)
            }
        }
    }

    /// Why nothing can be stored or read now, in words for the operator, if that is so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::File(file) => file.trouble(),
            Self::Nats(nats) => nats.trouble(),
        }
    }

    /// What is in trouble, in words for strangers.
    #[must_use]
    pub fn trouble_in_general(&self) -> &'static str {
        match self {
            Self::File(_) => "the store cannot be used for now",
            Self::Nats(_) => "NATS cannot be used for now",
        }
    }

    /// Waits until what it has was written, but no longer than the deadline.
    pub async fn close(self, deadline: Duration) {
        match self {
            Self::File(file) => file.close(deadline),
            // What was confirmed is in the stream.
            Self::Nats(nats) => drop(timeout(deadline, nats.names_given_back()).await),
        }
    }
}

/// The first eight bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().take(8);
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The part that belongs to one room.
#[derive(Clone, Debug)]
pub enum RoomStore {
    /// Of a file.
    File(file::RoomStore),
    /// Of a stream.
    Nats(nats::RoomLog),
}

impl RoomStore {
    /// What tells the past of this room from all others: 16 hexadecimal digits.
    #[must_use]
    pub fn epoch(&self) -> String {
        match self {
            Self::File(file) => file.epoch(),
            // It is not known before the stream is.
            Self::Nats(_) => String::new(),
        }
    }

    /// The author that a session is, at any time and on each server; never that of a connection.
    #[must_use]
    pub fn session(&self, key: &Key) -> u64 {
        match self {
            Self::File(file) => file.session(key),
            Self::Nats(log) => log.session(key),
        }
    }

    /// The author that a new connection is which has no session: no other one ever.
    #[must_use]
    pub fn connection(&self) -> u64 {
        match self {
            Self::File(file) => file.connection(),
            Self::Nats(log) => log.nats.connection(),
        }
    }
}
