//! Sessions: who somebody is across several connections. Whoever asks for one, by `?session=KEY`,
//! can come back after its link broke, hears what it missed, and learns which of its own lines were
//! taken. All that is told to it and to nobody else begins with `@`:
//!
//! ```text
//! @EPOCH POSITION TAKEN     the first message: which past the room has, which position is next for
//!                           this client, and how many lines of its session were taken
//! @POSITION MILLISECONDS    before a line: its position, and when it was said (Unix time); each line
//!                           behind it is one further, until the next `@`
//! ```
//!
//! A line has a position if it begins neither with `@` nor with `* `. To come back, a client asks for
//! `&after=EPOCH.POSITION` of the line that would be next, and then says its lines again from number
//! TAKEN on. The second form comes before the first line of each batch, and wherever the client's own
//! lines were left out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use http::StatusCode;
use tokio::sync::Notify;

use crate::protocol::session::{is_epoch, is_url_safe, number};
use crate::server::ended::Ended;
use crate::server::handshake::{Refusal, refuse};

/// What `?session=` has to be.
pub const NO_SESSION: Refusal = bad(
    "a session is 22 to 64 of A to Z, a to z, 0 to 9, - and _, chosen at random, and there is one \
     at most",
);
/// What `&after=` has to be.
pub const NO_AFTER: Refusal = bad(
    "after is EPOCH.POSITION, as the lines that begin with @ say them, once, and with a session",
);
/// What `&sent=` has to be.
pub const NO_SENT: Refusal = bad("sent is a number of lines, once, and with a session");
/// A position that does not exist yet.
pub const NOT_YET: Refusal = bad("after is a position that this room has not reached");

const fn bad(why: &'static str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, why)
}

/// The key of a session, which is a secret: it is never printed, not even for debugging.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// What nobody else may know.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

/// A session that a client asks for.
#[derive(Debug)]
pub struct Asked {
    /// Which one.
    pub key: Key,
    /// From where on the client wants to hear; what is new if it does not say.
    pub after: Option<After>,
    /// How many of its lines the client knows to be taken, if it says so.
    pub sent: Option<u64>,
}

/// A place in the log of a room.
#[derive(Debug)]
pub struct After {
    /// Of which past the room was.
    pub epoch: String,
    /// The line that comes next.
    pub position: u64,
}

impl Asked {
    /// What `?session=`, `&after=` and `&sent=` ask for.
    ///
    /// # Errors
    ///
    /// One of them is not what it has to be.
    pub fn new(
        session: Option<&str>,
        after: Option<&str>,
        sent: Option<&str>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(session) = session else {
            return match (after, sent) {
                (Some(_), _) => Err(NO_AFTER),
                (_, Some(_)) => Err(NO_SENT),
                (None, None) => Ok(None),
            };
        };
        if !(22..=64).contains(&session.len()) || !session.bytes().all(is_url_safe) {
            return Err(NO_SESSION);
        }
        let after = after.map(|after| After::new(after).ok_or(NO_AFTER));
        let sent = sent.map(|sent| number(sent).ok_or(NO_SENT));
        Ok(Some(Self {
            key: Key(session.into()),
            after: after.transpose()?,
            sent: sent.transpose()?,
        }))
    }

    /// The same session, asked for with a past that no room has.
    #[must_use]
    pub fn without_past(&self) -> Self {
        let after = After {
            epoch: String::new(),
            position: 0,
        };
        Self {
            key: self.key.clone(),
            after: Some(after),
            sent: self.sent,
        }
    }
}

impl After {
    fn new(text: &str) -> Option<Self> {
        let (epoch, position) = text.split_once('.')?;
        let position = number(position)?;
        is_epoch(epoch).then(|| Self {
            epoch: epoch.to_owned(),
            position,
        })
    }
}

/// Who speaks for a session that has come to another server.
pub const ELSEWHERE: u64 = 0;
/// Who speaks for a session that is to come back, since the past of its room is another one.
pub const RENEWED: u64 = u64::MAX;

/// A connection that hears.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// Its number, in the order in which connections entered.
    pub connection: u64,
    /// Whose lines are its own.
    pub author: u64,
    /// Whether it asked to be told where each line is in the log.
    pub marked: bool,
}

/// Who says lines: a session, or a connection that has none. It changes under the lock of its room
/// only.
#[derive(Debug)]
pub struct Author {
    /// What tells it from all others in the room.
    pub id: u64,
    /// The key of its session.
    pub key: Option<Key>,
    /// The connection that speaks for it.
    connection: AtomicU64,
    /// How many newer ones ask for it now: nothing is taken from that one meanwhile.
    suspended: AtomicUsize,
    /// Lines that were said and are not stored yet, if there is a store.
    in_flight: AtomicU64,
    /// Notified when one of these changes.
    changed: Notify,
    /// How many of its lines are known to be in the log of the room.
    said: AtomicU64,
    /// What `said` was when this began, and what the client had counted by then.
    began: (u64, u64),
    /// How many lines it will have said in the log when all those are in it that were sent to be stored
    /// there, if several servers share that.
    sent: AtomicU64,
    /// Where its last lines in a row begin, where they end, and where those before them end.
    run: AtomicU64,
    end: AtomicU64,
    earlier: AtomicU64,
}

impl Author {
    /// A connection without a session.
    #[must_use]
    pub fn connection(id: u64) -> Arc<Self> {
        Self::unnamed(id, id)
    }

    /// A connection without a session whose lines are those of this author.
    #[must_use]
    pub fn unnamed(id: u64, connection: u64) -> Arc<Self> {
        Self::new(id, None, connection, (0, 0), 0)
    }

    /// A session that begins at `position` with `said` lines that are there already, and with
    /// `sent` lines by the client's own count.
    #[must_use]
    pub fn session(
        id: u64,
        key: &Key,
        connection: u64,
        (said, sent): (u64, u64),
        position: u64,
    ) -> Arc<Self> {
        Self::new(id, Some(key.clone()), connection, (said, sent), position)
    }

    fn new(
        id: u64,
        key: Option<Key>,
        connection: u64,
        began: (u64, u64),
        position: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            key,
            connection: AtomicU64::new(connection),
            suspended: AtomicUsize::new(0),
            in_flight: AtomicU64::new(0),
            changed: Notify::new(),
            said: AtomicU64::new(began.0),
            began,
            sent: AtomicU64::new(0),
            run: AtomicU64::new(position),
            end: AtomicU64::new(position),
            earlier: AtomicU64::new(position),
        })
    }

    /// The connection that speaks for it, or was the last to do so.
    #[must_use]
    pub fn speaker(&self) -> u64 {
        self.connection.load(Relaxed)
    }

    /// From now on another connection speaks for it.
    pub fn replace(&self, connection: u64) {
        self.connection.store(connection, Relaxed);
        self.changed.notify_waiters();
    }

    /// Whether this connection speaks for it, and may now.
    #[must_use]
    pub fn may_speak(&self, connection: u64) -> bool {
        self.speaker() == connection && self.suspended.load(Relaxed) == 0
    }

    /// Waits until this connection may speak for it, or another one does.
    pub async fn resumed(&self, connection: u64) {
        loop {
            let changed = self.changed.notified();
            if self.speaker() != connection || self.may_speak(connection) {
                return;
            }
            changed.await;
        }
    }

    /// It begins to say lines behind so many.
    pub fn begin_at(&self, taken: u64) {
        self.sent.store(taken, Relaxed);
    }

    /// Counts lines that are sent to be stored. Returns how many were sent before.
    pub fn send(&self, lines: u64) -> u64 {
        self.sent.fetch_add(lines, Relaxed)
    }

    /// Counts lines that are said and are to be stored.
    pub fn say(&self, lines: u64) {
        self.in_flight.fetch_add(lines, Relaxed);
    }

    /// Counts lines that are stored.
    pub fn settle(&self, lines: u64) {
        self.in_flight.fetch_sub(lines, Relaxed);
        self.changed.notify_waiters();
    }

    /// Whether all lines that were said are stored.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }

    /// Waits until all lines that were said are stored.
    pub async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_settled() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until this connection does not speak for it any more. Returns why it has to end.
    pub async fn replaced(&self, connection: u64) -> Ended {
        loop {
            let changed = self.changed.notified();
            match self.speaker() {
                RENEWED => return Ended::Renewed,
                speaker if speaker != connection => return Ended::Replaced,
                _ => changed.await,
            }
        }
    }

    /// Counts lines that are in the log now, from `position` on.
    pub fn count(&self, position: u64, lines: u64) {
        let end = self.end.load(Relaxed);
        if end != position {
            self.earlier.store(end, Relaxed);
            self.run.store(position, Relaxed);
        }
        self.end.store(position + lines, Relaxed);
        self.said.fetch_add(lines, Relaxed);
    }

    /// How many of its lines are known to be in the log.
    #[must_use]
    pub fn said(&self) -> u64 {
        self.said.load(Relaxed)
    }

    /// Whether it has said anything since it is known here.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.said() != self.began.0
    }

    /// How many of its lines were in the log before a position, if that is known: it is if all of its lines
    /// from there on are in a row, as they mostly are when a link has broken.
    #[must_use]
    pub fn said_before(&self, position: u64) -> Option<u64> {
        let (run, end) = (self.run.load(Relaxed), self.end.load(Relaxed));
        let since = end.saturating_sub(run.max(position));
        (position >= self.earlier.load(Relaxed)).then(|| self.said() - since)
    }

    /// How many of the client's lines have been taken, by its own count.
    #[must_use]
    pub fn taken(&self) -> u64 {
        let (said, sent) = self.began;
        sent + (self.said() - said)
    }
}

/// As long as this is there, nothing is taken from an author's connection, since a newer one asks for
/// its session.
#[derive(Debug)]
pub struct Suspended(Arc<Author>);

impl Suspended {
    /// Nothing is taken from its connection from now on.
    #[must_use]
    pub fn new(author: Arc<Author>) -> Self {
        author.suspended.fetch_add(1, Relaxed);
        Self(author)
    }

    /// Who it is.
    #[must_use]
    pub fn author(&self) -> &Author {
        &self.0
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        self.0.suspended.fetch_sub(1, Relaxed);
        self.0.changed.notify_waiters();
    }
}
