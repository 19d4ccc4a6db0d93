//! The room: what is said goes into a `tokio::sync::broadcast` channel in batches, and a count of
//! lines lets a reader who fell behind be told the true number it missed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::server::batch::{self, Batch, BatchMut, Lines};
use crate::server::limits::Limits;

/// The room. It stays open until [`Room::close`].
#[derive(Debug)]
pub struct Room {
    now: Mutex<Now>,
    said: Notify,
    /// As [`Seat::crowded`] last said; read by everyone before each word.
    crowded: AtomicBool,
    ring: usize,
    batch: usize,
    gather: usize,
}

/// What all seats share. A std Mutex guards it: nothing awaits while holding it.
#[derive(Debug)]
struct Now {
    /// `None` when the room is closed.
    batches: Option<broadcast::Sender<Arc<Batch>>>,
    /// What was said since the last batch.
    next: BatchMut,
    /// How many lines were ever said.
    lines: u64,
    /// How many seats were ever taken.
    seats: u64,
}

/// The room is closed: what was said did not get in.
#[derive(Debug)]
pub struct Closed;

impl Room {
    /// An empty room.
    #[must_use]
    pub fn open(limits: &Limits) -> Arc<Self> {
        let batches = Some(broadcast::channel(limits.ring).0);
        let now = Now {
            batches,
            next: BatchMut::default(),
            lines: 0,
            seats: 0,
        };
        Arc::new(Self {
            now: Mutex::new(now),
            said: Notify::new(),
            crowded: AtomicBool::new(false),
            ring: limits.ring,
            batch: limits.batch,
            gather: limits.gather,
        })
    }

    /// Publishes what is said until the room is closed. Everyone who has something to say in the
    /// same turn of the runtime says it before this task runs, so it becomes one batch, and each
    /// receiver takes it along in one write.
    pub async fn publish(self: Arc<Self>) {
        loop {
            self.said.notified().await;
            let mut now = self.now();
            if now.batches.is_none() {
                return;
            }
            self.send(&mut now);
        }
    }

    /// Takes a seat: everything said from now on will be heard. `None` when the room is closed.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Seat> {
        let mut now = self.now();
        self.send(&mut now); // what was said before is not for the newcomer
        let batches = now.batches.as_ref()?.subscribe();
        now.seats += 1;
        let (id, heard) = (now.seats, now.lines);
        drop(now);
        Some(Seat {
            room: self.clone(),
            id,
            batches,
            heard,
            own: VecDeque::new(),
        })
    }

    /// Closes the room: everyone still hears what was said, then the end.
    pub fn close(&self) {
        let mut now = self.now();
        self.send(&mut now);
        now.batches = None;
        self.said.notify_one();
    }

    /// Sends what was said as one batch.
    fn send(&self, now: &mut Now) {
        if let Some(batches) = &now.batches
            && !now.next.is_empty()
        {
            let batch = std::mem::take(&mut now.next).freeze(now.lines);
            // An error means that nobody is there to hear it.
            let _ = batches.send(Arc::new(batch));
            self.measure(now);
        }
    }

    /// Whether the slowest reader is more than half the ring behind.
    fn measure(&self, now: &Now) -> bool {
        let behind = now.batches.as_ref().map_or(0, broadcast::Sender::len);
        let crowded = behind > self.ring / 2;
        self.crowded.store(crowded, Ordering::Relaxed);
        crowded
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // A panic elsewhere has left the counts whole.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client's place in the room.
#[derive(Debug)]
pub struct Seat {
    room: Arc<Room>,
    id: u64,
    batches: broadcast::Receiver<Arc<Batch>>,
    /// How many of the room's lines are behind this seat: heard, missed, or its own.
    heard: u64,
    /// What this seat said and has not met again yet: (lines before it, its lines).
    own: VecDeque<(u64, u64)>,
}

impl Seat {
    /// Says the lines to everyone else.
    ///
    /// # Errors
    ///
    /// The room is closed.
    pub fn say(&mut self, lines: &Lines<'_>) -> Result<(), Closed> {
        let mut now = self.room.now();
        if now.batches.is_none() {
            return Err(Closed);
        }
        if now.next.len() + lines.frames.len() > self.room.batch {
            self.room.send(&mut now);
        }
        if now.next.is_empty() {
            self.room.said.notify_one();
        }
        self.own.push_back((now.lines, lines.count));
        now.lines += lines.count;
        now.next.add(self.id, lines);
        Ok(())
    }

    /// Whether the slowest reader was more than half the ring behind at the last batch, so that
    /// who speaks should wait a moment. Costs next to nothing.
    #[must_use]
    pub fn crowded(&self) -> bool {
        self.room.crowded.load(Ordering::Relaxed)
    }

    /// The same as of now.
    #[must_use]
    pub fn still_crowded(&self) -> bool {
        self.room.measure(&self.room.now())
    }

    /// Waits for something to be said; `None` when the room is closed and all of it was heard.
    /// May be cancelled: nothing is lost. What it returns belongs into [`Seat::gather`].
    pub async fn hear(&mut self) -> Option<Arc<Batch>> {
        loop {
            match self.batches.recv().await {
                Ok(batch) => return Some(batch),
                Err(RecvError::Lagged(_)) => {} // still subscribed; `missed` will tell
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The frames of this batch and of those that are there already, but for the seat's own.
    pub fn gather(&mut self, first: Arc<Batch>) -> Vec<Bytes> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(batch) = next {
            let missed = self.missed(&batch);
            if missed > 0 {
                frames.push(batch::missed(missed));
            }
            batch.frames_but_of(self.id, &mut frames);
            bytes += batch.bytes();
            next = if bytes < self.room.gather {
                self.ready()
            } else {
                None
            };
        }
        frames
    }

    /// The next batch if it is there already.
    fn ready(&mut self) -> Option<Arc<Batch>> {
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
        self.heard = batch.before + batch.lines;
        while let Some(&(before, lines)) = self.own.front()
            && before < self.heard
        {
            if before < batch.before {
                missed -= lines;
            }
            self.own.pop_front();
        }
        missed
    }
}
