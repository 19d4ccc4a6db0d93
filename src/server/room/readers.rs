//! Those who hear what is said in a room.
//!
//! Whoever has taken everything gets what is new from the task that publishes it, which writes it to each
//! socket. To wake a task for each reader, only so that it writes the same bytes as all the others, would
//! cost nearly as much again as the write: what a task needs is seldom in the processor's caches.
//!
//! So a reader that has nothing to write lends its socket to the room. As soon as the system does not take
//! everything at once, the reader gets it back, with what is left to write and a subscription to the
//! channel. Now its own task writes and waits, until it has everything again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::oneshot::{self, Receiver, Sender};

use super::{Batches, Subscription};
use crate::server::batch::Batch;
use crate::server::metrics;
use crate::server::sessions::Subscriber;
use crate::server::unwritten::Unwritten;

/// A socket that can be written to without waiting.
pub trait TryWrite: Debug + Send + Sync {
    /// Writes as much as the system takes now, and returns how many bytes that was.
    ///
    /// # Errors
    ///
    /// The system takes nothing now (`WouldBlock`), or the connection is broken.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// All who hear the room.
#[derive(Debug)]
pub(super) struct Readers {
    /// For those who write themselves. `None` when the room is closed.
    channel: Option<broadcast::Sender<Arc<Batch>>>,
    /// Those who have everything and have lent their sockets, by the numbers of their connections.
    up_to_date: BTreeMap<u64, UpToDate>,
    /// Batches that are not published yet.
    fresh: Vec<Arc<Batch>>,
    /// Bytes after which a reader gets what it has, instead of one more batch with it.
    gather: usize,
}

/// A reader that has everything.
#[derive(Debug)]
struct UpToDate {
    who: Subscriber,
    socket: Arc<dyn TryWrite>,
    /// The position of the next line.
    position: u64,
    /// How many lines were its own since it lent its socket.
    own: u64,
    returns: Sender<Returned>,
}

/// What a reader gets back with its socket.
#[derive(Debug)]
pub(super) struct Returned {
    position: u64,
    own: u64,
    unwritten: Unwritten,
    batches: Batches,
}

impl Readers {
    /// Nobody yet. The channel has so many places.
    pub(super) fn new(places: usize, gather: usize) -> Self {
        Self {
            channel: Some(broadcast::channel(places).0),
            up_to_date: BTreeMap::new(),
            fresh: Vec::new(),
            gather,
        }
    }

    /// Whether the room is closed: nobody will hear anything any more.
    pub(super) fn is_closed(&self) -> bool {
        self.channel.is_none()
    }

    /// Adds a batch to what is to be published.
    pub(super) fn push(&mut self, batch: Batch) {
        self.fresh.push(Arc::new(batch));
    }

    /// Publishes what was added, as many batches at a time as one write should have.
    pub(super) fn publish(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        let mut left = &fresh[..];
        while !left.is_empty() {
            let mut bytes = 0;
            let is_last = |batch: &Arc<Batch>| {
                bytes += batch.bytes();
                bytes >= self.gather
            };
            let count = left
                .iter()
                .position(is_last)
                .map_or(left.len(), |at| at + 1);
            let (now, later) = left.split_at(count);
            self.publish_together(now);
            left = later;
        }
    }

    fn publish_together(&mut self, batches: &[Arc<Batch>]) {
        let Some(channel) = &self.channel else {
            return;
        };
        for batch in batches {
            // An error means that nobody is behind.
            let _ = channel.send(batch.clone());
        }
        let mut delivered = metrics::DELIVERIES.later();
        let mut unwritten = Unwritten::default();
        let mut behind = Vec::new();
        for (id, reader) in &mut self.up_to_date {
            delivered.add(reader.write(batches, &mut unwritten));
            if !unwritten.is_empty() {
                behind.push((*id, std::mem::take(&mut unwritten)));
            }
        }
        for (id, unwritten) in behind {
            self.give_back(id, unwritten);
        }
    }

    /// What is published from now on; `None` when the room is closed.
    pub(super) fn subscribe(&mut self) -> Option<Batches> {
        self.publish();
        self.channel.as_ref().map(broadcast::Sender::subscribe)
    }

    /// Closes the room for all, when they have heard what was said.
    pub(super) fn close(&mut self) {
        self.publish();
        while let Some((id, _)) = self.up_to_date.first_key_value() {
            self.give_back(*id, Unwritten::default());
        }
        self.channel = None;
    }

    /// Gives a socket back, if it was lent.
    fn give_back(&mut self, id: u64, unwritten: Unwritten) {
        if let Some(reader) = self.up_to_date.remove(&id)
            && let Some(channel) = &self.channel
        {
            // An error means that the reader is gone.
            let _ = reader.returns.send(Returned {
                position: reader.position,
                own: reader.own,
                unwritten,
                batches: channel.subscribe(),
            });
        }
    }
}

impl UpToDate {
    /// Writes batches, and leaves what the system does not take in `unwritten`. Returns how many lines they
    /// have for this reader.
    fn write(&mut self, batches: &[Arc<Batch>], unwritten: &mut Unwritten) -> u64 {
        let mut lines = 0;
        for batch in batches {
            let own = batch.frames_for(self.who, &mut unwritten.0);
            self.position = batch.position + batch.lines;
            self.own += own;
            lines += batch.lines - own;
        }
        while !unwritten.is_empty() {
            match unwritten.offer(|slices| self.socket.try_write(slices)) {
                Ok(written @ 1..) => unwritten.advance(written),
                // The reader learns what is wrong when it writes the rest.
                _ => break,
            }
        }
        lines
    }
}

impl Subscription {
    /// Lets the room write to this socket whenever this reader has everything: while
    /// [`Subscription::next_frames`] waits, and after that until [`Subscription::take_back`]. So that is
    /// called only when all was written that it returned before.
    pub fn lend_when_up_to_date(&mut self, socket: Arc<dyn TryWrite>) {
        self.socket = Some(socket);
    }

    /// Takes the socket back, if it was lent. Returns what the room has not written to it, which has to be
    /// written first.
    pub fn take_back(&mut self) -> Vec<Bytes> {
        let Some(mut lent) = self.lent.take() else {
            return Vec::new();
        };
        let id = self.bookmark.who.connection;
        let mut state = self.room.state();
        state.readers.give_back(id, Unwritten::default());
        drop(state);
        let returned = lent.try_recv();
        returned.map_or_else(|_| Vec::new(), |returned| self.go_on(returned))
    }

    /// Lends the socket to the room if this reader has everything. Returns whether the room has it.
    pub(super) fn lend(&mut self) -> bool {
        if self.lent.is_some() {
            return true;
        }
        let Some(socket) = &self.socket else {
            return false;
        };
        let mut state = self.room.state();
        if !self.has_everything() || state.readers.is_closed() {
            return false;
        }
        let (returns, lent) = oneshot::channel();
        let who = self.bookmark.who;
        let reader = UpToDate {
            who,
            socket: socket.clone(),
            position: self.bookmark.position(),
            own: 0,
            returns,
        };
        state.readers.up_to_date.insert(who.connection, reader);
        self.batches = None;
        self.lent = Some(lent);
        true
    }

    /// Waits until the socket is given back, and returns what is left to write.
    pub(super) async fn returned(&mut self) -> Option<Vec<Bytes>> {
        let returned = self.lent.as_mut()?.await;
        self.lent = None;
        Some(self.go_on(returned.ok()?))
    }

    fn go_on(&mut self, returned: Returned) -> Vec<Bytes> {
        self.bookmark.pass(returned.position, returned.own);
        self.batches = Some(returned.batches);
        returned.unwritten.0
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Where a socket that was lent comes back.
pub(super) type Lent = Receiver<Returned>;
