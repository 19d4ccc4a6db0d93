//! The room: a `tokio::sync::broadcast` channel of batches, and the count of lines that lets a
//! reader who fell behind be told the true number it missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::batch::{self, Batch, Lines};
use crate::limits::Limits;

/// The room as its owner holds it. When it is dropped, the room closes: each seat still hears
/// what was said before, then the end.
#[derive(Debug)]
pub struct Room {
    /// Held, never used: the channel lives as long as its strong sender.
    _batches: broadcast::Sender<Batch>,
    door: Door,
}

/// A way into the room that does not keep it open.
#[derive(Clone, Debug)]
pub struct Door {
    batches: broadcast::WeakSender<Batch>,
    tally: Arc<Mutex<Tally>>,
    ring: usize,
    gather: usize,
}

/// What the room has had so far.
#[derive(Debug, Default)]
struct Tally {
    lines: u64,
    seats: u64,
}

impl Room {
    /// An empty room.
    #[must_use]
    pub fn open(limits: &Limits) -> Self {
        let (batches, _) = broadcast::channel(limits.ring);
        let door = Door {
            batches: batches.downgrade(),
            tally: Arc::default(),
            ring: limits.ring,
            gather: limits.gather,
        };
        Self {
            _batches: batches,
            door,
        }
    }

    /// A way in, for a connection's task to keep.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door.clone()
    }
}

impl Door {
    /// Takes a seat: everything said from now on will be heard. `None` when the room is closed.
    #[must_use]
    pub fn enter(&self) -> Option<Seat> {
        let room = self.batches.upgrade()?;
        let mut tally = self.tally();
        tally.seats += 1;
        // Under the same lock as the sends, or lines between the two would count as missed.
        let (batches, heard, id) = (room.subscribe(), tally.lines, tally.seats);
        drop(tally);
        Some(Seat {
            door: self.clone(),
            id,
            batches,
            heard,
            own: VecDeque::new(),
        })
    }

    /// A std Mutex: nothing awaits while holding it. A panic elsewhere leaves the counts whole.
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room is closed: what was said did not get in.
#[derive(Debug)]
pub struct Closed;

/// One client's place in the room.
#[derive(Debug)]
pub struct Seat {
    door: Door,
    id: u64,
    batches: broadcast::Receiver<Batch>,
    /// How many of the room's lines are behind this seat: heard, missed, or its own.
    heard: u64,
    /// The batches this seat said and has not met again yet: (lines before it, its lines).
    own: VecDeque<(u64, u64)>,
}

impl Seat {
    /// Says the lines to everyone else.
    ///
    /// # Errors
    ///
    /// The room is closed.
    pub fn say(&mut self, lines: Lines<'_>) -> Result<(), Closed> {
        let room = self.door.batches.upgrade().ok_or(Closed)?;
        let mut tally = self.door.tally();
        let before = tally.lines;
        tally.lines += lines.count;
        let batch = Batch {
            from: self.id,
            frames: lines.frames.into(),
            lines: lines.count,
            before,
        };
        self.own.push_back((before, lines.count));
        // Counted and sent under one lock, so that `before` rises along the channel.
        room.send(batch).map(drop).map_err(|_| Closed)
    }

    /// Whether the slowest reader is more than half the ring behind, so that who speaks should
    /// wait a moment.
    #[must_use]
    pub fn crowded(&self) -> bool {
        self.door
            .batches
            .upgrade()
            .is_some_and(|room| room.len() > self.door.ring / 2)
    }

    /// Waits for something to be said; `None` when the room is closed and all of it was heard.
    /// May be cancelled: nothing is lost. What it returns belongs into [`Seat::gather`].
    pub async fn hear(&mut self) -> Option<Batch> {
        loop {
            match self.batches.recv().await {
                Ok(batch) => return Some(batch),
                Err(RecvError::Lagged(_)) => {} // still subscribed; `missed` will tell
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The frames of this batch and of all that others have said since, in one piece, because
    /// one write of many lines costs the system little more than one of a single line. Empty
    /// when all of it was the seat's own.
    pub fn gather(&mut self, first: Batch) -> Bytes {
        let mut joined = Joined::default();
        let mut next = Some(first);
        while let Some(batch) = next {
            let missed = self.missed(&batch);
            if missed > 0 {
                joined.push(batch::missed(missed));
            }
            if batch.from != self.id {
                joined.push(batch.frames);
            }
            let more = joined.len() < self.door.gather;
            next = if more { self.ready() } else { None };
        }
        joined.into_bytes()
    }

    /// The next batch if it is there already.
    fn ready(&mut self) -> Option<Batch> {
        loop {
            match self.batches.try_recv() {
                Ok(batch) => return Some(batch),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// How many lines of others were lost between the last batch and this one. A seat's own
    /// lines are no loss to it.
    fn missed(&mut self, batch: &Batch) -> u64 {
        let mut missed = batch.before - self.heard;
        while let Some(&(before, lines)) = self.own.front()
            && before <= batch.before
        {
            if before < batch.before {
                missed -= lines;
            }
            self.own.pop_front();
        }
        self.heard = batch.before + batch.lines;
        missed
    }
}

/// Frames joined into one piece; a single piece is passed on uncopied.
#[derive(Default)]
struct Joined {
    only: Bytes,
    all: Vec<u8>,
}

impl Joined {
    fn len(&self) -> usize {
        self.only.len() + self.all.len()
    }

    fn push(&mut self, frames: Bytes) {
        if self.len() == 0 {
            self.only = frames;
        } else {
            self.all.extend_from_slice(&std::mem::take(&mut self.only));
            self.all.extend_from_slice(&frames);
        }
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() {
            self.only
        } else {
            self.all.into()
        }
    }
}
