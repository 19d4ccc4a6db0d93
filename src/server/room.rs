//! The room: what is said goes into a `tokio::sync::broadcast` channel in batches, and whoever
//! speaks waits until the slowest reader that keeps up has space for it.
//!
//! The channel alone would not do: it overwrites its oldest batch when it is full, whoever has not
//! read it. So the room counts, for each batch, the readers that it waits for and that have not
//! taken it yet. As long as the oldest of these batches is too far behind, nobody's lines are let
//! in. A reader that does not keep up is not counted any more: for it alone the channel overwrites,
//! and it is told how many lines it missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::server::batch::{Batch, BatchMut, Lines};
use crate::server::frame;
use crate::server::limits::Limits;

/// The room. It is open until [`Room::close`] and until its last speaker has left.
#[derive(Debug)]
pub struct Room {
    state: Mutex<State>,
    /// There are lines to publish, or the room is closed.
    said: Notify,
    /// The speaker that holds this waits for space; the others wait for it, in the order they came.
    floor: tokio::sync::Mutex<()>,
    /// There is space again, or nobody may speak any more.
    space: Notify,
    limits: Limits,
}

/// What all connections share. A std Mutex guards it, since nothing awaits while holding it.
#[derive(Debug)]
struct State {
    /// `None` when the room is closed.
    batches: Option<broadcast::Sender<Arc<Batch>>>,
    /// What was said since the last batch.
    next: BatchMut,
    /// How many lines are in batches that were published.
    lines: u64,
    /// How many batches were published.
    published: u64,
    /// The last batches, from the oldest on that a counted reader has not taken.
    backlog: VecDeque<Unread>,
    /// Bytes of the backlog.
    bytes: usize,
    /// Readers that the room waits for.
    counted: usize,
    /// Connections that may still say something.
    speakers: usize,
    /// How many connections there ever were.
    connections: u64,
    phase: Phase,
}

/// A batch that counted readers have not taken.
#[derive(Debug)]
struct Unread {
    readers: usize,
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Everybody may enter and speak.
    Open,
    /// Nobody enters; those who speak say what they had read.
    Closing,
    /// Whoever still waits to speak is refused.
    Refusing,
}

/// The room is closed: what was said did not get in.
#[derive(Debug)]
pub struct Closed;

impl Room {
    /// An empty room.
    #[must_use]
    pub fn open(limits: &Limits) -> Arc<Self> {
        let state = State {
            batches: Some(broadcast::channel(limits.ring).0),
            next: BatchMut::default(),
            lines: 0,
            published: 0,
            backlog: VecDeque::new(),
            bytes: 0,
            counted: 0,
            speakers: 0,
            connections: 0,
            phase: Phase::Open,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            said: Notify::new(),
            floor: tokio::sync::Mutex::new(()),
            space: Notify::new(),
            limits: limits.clone(),
        })
    }

    /// Publishes what is said, until the room is closed. Everyone who has something to say in the
    /// same turn of the runtime says it before this task runs, so it becomes one batch, and each
    /// receiver takes it along in one write.
    pub async fn publish(self: Arc<Self>) {
        while self.state().batches.is_some() {
            self.said.notified().await;
            self.send(&mut self.state());
        }
    }

    /// Enters: everything said from now on will be heard. `None` when the room is closed.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<(Speaker, Subscription)> {
        let mut state = self.state();
        self.send(&mut state); // What was said before is not for the newcomer.
        if state.phase > Phase::Open {
            return None;
        }
        let batches = state.batches.as_ref()?.subscribe();
        state.connections += 1;
        state.speakers += 1;
        state.counted += 1;
        let id = state.connections;
        let own = Arc::new(Mutex::default());
        let subscription = Subscription {
            room: self.clone(),
            id,
            batches,
            counted: true,
            taken: state.published,
            heard: state.lines,
            own: own.clone(),
        };
        drop(state);
        let room = self.clone();
        Some((Speaker { room, id, own }, subscription))
    }

    /// Lets nobody enter any more. When the last speaker has left, the room is closed: everyone
    /// still hears what was said, then the end.
    pub fn close(&self) {
        self.begin(Phase::Closing);
    }

    /// Refuses what those who wait for space have to say.
    pub fn refuse(&self) {
        self.begin(Phase::Refusing);
        self.space.notify_one();
    }

    fn begin(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        self.send(&mut state);
    }

    /// Publishes what was said as one batch, if there is space, and ends the room if this was the
    /// last one.
    fn send(&self, state: &mut State) {
        if !state.next.is_empty() && self.has_space(state) {
            let (number, before) = (state.published, state.lines);
            let batch = std::mem::take(&mut state.next).freeze(number, before);
            state.published += 1;
            state.lines += batch.lines;
            if state.counted > 0 {
                state.bytes += batch.bytes();
                state.backlog.push_back(Unread {
                    readers: state.counted,
                    bytes: batch.bytes(),
                });
            }
            if let Some(batches) = &state.batches {
                // An error means that nobody is there to hear it.
                let _ = batches.send(Arc::new(batch));
            }
        }
        if state.phase > Phase::Open && state.speakers == 0 && state.next.is_empty() {
            state.batches = None;
            self.said.notify_one();
        }
    }

    /// Whether one more batch overwrites nothing that a counted reader has not taken.
    fn has_space(&self, state: &State) -> bool {
        state.backlog.len() < self.limits.ring && state.bytes < self.limits.backlog
    }

    /// Takes batches of the backlog as read by one counted reader: those from number `from` up to
    /// `to`, which is not included.
    fn release(&self, state: &mut State, from: u64, to: u64) {
        let first = state.published - state.backlog.len() as u64;
        for number in from.max(first)..to {
            let place = usize::try_from(number - first).unwrap_or(usize::MAX);
            if let Some(unread) = state.backlog.get_mut(place) {
                unread.readers -= 1;
            }
        }
        let mut freed = false;
        while let Some(unread) = state.backlog.front()
            && unread.readers == 0
        {
            state.bytes -= unread.bytes;
            state.backlog.pop_front();
            freed = true;
        }
        if freed {
            self.send(state);
            self.space.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A panic while holding one of these locks leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which of a connection's own lines its subscription has not passed yet: (number of the batch,
/// lines in it). They come back to it from the room, and are neither shown to it nor missed by it.
type OwnLines = Arc<Mutex<VecDeque<(u64, u64)>>>;

/// One connection's right to speak in the room, until it is dropped.
#[derive(Debug)]
pub struct Speaker {
    room: Arc<Room>,
    id: u64,
    own: OwnLines,
}

impl Speaker {
    /// Says the lines to everyone else, as soon as there is space for them. When this returns, all
    /// counted readers will get them. If it is cancelled, nothing was said.
    ///
    /// # Errors
    ///
    /// The room is closed, and the lines were not said.
    pub async fn say(&self, lines: &Lines<'_>) -> Result<(), Closed> {
        let _floor = self.room.floor.lock().await;
        while !self.try_say(lines)? {
            self.room.space.notified().await;
        }
        Ok(())
    }

    /// Says the lines if nobody waits for space, and there is some. Returns whether it did.
    ///
    /// # Errors
    ///
    /// The room is closed, and the lines were not said.
    pub fn say_now(&self, lines: &Lines<'_>) -> Result<bool, Closed> {
        match self.room.floor.try_lock() {
            Ok(_floor) => self.try_say(lines),
            Err(_) => Ok(false),
        }
    }

    /// Says the lines if there is space.
    fn try_say(&self, lines: &Lines<'_>) -> Result<bool, Closed> {
        let room = &*self.room;
        let mut state = room.state();
        if state.batches.is_none() || state.phase == Phase::Refusing {
            return Err(Closed);
        }
        if !state.next.is_empty() && state.next.len() + lines.frames.len() > room.limits.batch {
            room.send(&mut state);
            if !state.next.is_empty() {
                return Ok(false);
            }
        }
        if state.next.is_empty() {
            room.said.notify_one();
        }
        state.next.add(self.id, lines);
        self.note_own(state.published, lines.count);
        Ok(true)
    }

    /// Notes that `count` own lines are in the batch with this number.
    fn note_own(&self, number: u64, count: u64) {
        let mut own = lock(&self.own);
        match own.back_mut() {
            Some((last, lines)) if *last == number => *lines += count,
            _ => own.push_back((number, count)),
        }
        // Of two batches that the channel keeps no longer, the subscription will miss both.
        if own.len() > self.room.limits.ring + 2
            && let Some((_, oldest)) = own.pop_front()
            && let Some((_, next)) = own.front_mut()
        {
            *next += oldest;
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.speakers -= 1;
        self.room.send(&mut state);
    }
}

/// What one connection hears of the room.
#[derive(Debug)]
pub struct Subscription {
    room: Arc<Room>,
    id: u64,
    batches: broadcast::Receiver<Arc<Batch>>,
    /// The room waits for this reader.
    counted: bool,
    /// How many of the room's batches were taken or missed.
    taken: u64,
    /// How many of the room's lines were heard, missed, or its own.
    heard: u64,
    own: OwnLines,
}

impl Subscription {
    /// Waits for something to be said, and returns its frames and those of what is there already,
    /// but for this connection's own; what was missed stands among them as a line of its own.
    /// `None` when the room is closed and all of it was heard. If it is cancelled, nothing is lost.
    pub async fn next_frames(&mut self) -> Option<Vec<Bytes>> {
        let first = loop {
            match self.batches.recv().await {
                Ok(batch) => break batch,
                Err(RecvError::Lagged(_)) => {} // Still subscribed; `missed` will tell.
                Err(RecvError::Closed) => return None,
            }
        };
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let from = self.taken;
        let mut next = Some(first);
        while let Some(batch) = next {
            let missed = self.missed(&batch);
            if missed > 0 {
                frames.push(frame::missed(missed));
            }
            batch.frames_but_of(self.id, &mut frames);
            bytes += batch.bytes();
            next = if bytes < self.room.limits.gather {
                self.ready()
            } else {
                None
            };
        }
        if self.counted {
            let room = &self.room;
            room.release(&mut room.state(), from, self.taken);
        }
        Some(frames)
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

    /// How many lines of others were lost between the last batch and this one.
    fn missed(&mut self, batch: &Batch) -> u64 {
        let mut missed = batch.before - self.heard;
        self.heard = batch.before + batch.lines;
        self.taken = batch.number + 1;
        let mut own = lock(&self.own);
        while let Some(&(number, lines)) = own.front()
            && number <= batch.number
        {
            if number < batch.number {
                missed -= lines;
            }
            own.pop_front();
        }
        missed
    }

    /// Whether everything that was published so far was taken.
    #[must_use]
    pub fn has_everything(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether the room waits for this reader.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.counted
    }

    /// This reader is too slow: the room waits for it no longer.
    pub fn give_up(&mut self) {
        if std::mem::replace(&mut self.counted, false) {
            let room = &self.room;
            let mut state = room.state();
            state.counted -= 1;
            let published = state.published;
            room.release(&mut state, self.taken, published);
        }
    }

    /// This reader keeps up again: the room waits for it, if it has taken everything so far.
    pub fn catch_up(&mut self) {
        let mut state = self.room.state();
        if !self.counted && self.taken == state.published {
            self.counted = true;
            state.counted += 1;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.give_up();
    }
}
