//! The room: what is said goes into a `tokio::sync::broadcast` channel in batches, and whoever
//! speaks waits until there is space.
//!
//! The channel alone would not do: it overwrites its oldest batch when it is full, also when
//! somebody has not taken that one yet. So the room has a fixed number of bytes of space. Whoever
//! speaks first gets space for its lines, in the order in which they came, and the space travels
//! with the lines and comes back when the last subscriber has taken them. Speakers are slowed down
//! to the slowest subscriber in this way (backpressure), and nothing is ever overwritten.
//!
//! Most readers have everything most of the time. To those the room writes itself, and nothing has to wait
//! in the channel (`readers`).
//!
//! A reader that is too slow to be waited for, while somebody waits, lets go of its subscription
//! until it can take more. Then it subscribes again, and reads what is kept of the past before what is
//! new (`past`). The rest is missed by it alone, and it is told how many lines those were. Whoever
//! comes back to its session reads on in the same way.
//!
//! What is different in a room whose log is in a store is in `stored`, and if several servers share
//! that, in `shared`.

mod past;
mod readers;
mod shared;
mod stored;

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;
use tokio::time::Instant;

use crate::server::batch::{Batch, BatchMut, Lines};
use crate::server::ended::Ended;
use crate::server::handshake::{Refusal, SHUTTING_DOWN};
use crate::server::history::{Bookmark, History};
use crate::server::limits::Limits;
use crate::server::metrics;
use crate::server::sessions::{Asked, Author};
use crate::server::store::{Known, RoomStore};
use crate::server::window::Budget;
use past::Older;
pub use readers::TryWrite;
use readers::{Lent, Readers};
use shared::Progress;
pub use stored::StoreAnswer;
use stored::Stored;

/// The room. It is open until both [`Room::close`] was called and its last speaker has left.
#[derive(Debug)]
pub struct Room {
    state: Mutex<State>,
    /// Notified when there are lines to publish, or when the room is closed.
    to_publish: Notify,
    /// Bytes that may be said and not yet taken by every subscriber.
    space: Arc<Semaphore>,
    /// Notified when somebody begins to wait for space.
    congested: Notify,
    /// Its log, if that is in a store.
    stored: Option<Stored>,
    limits: Limits,
}

/// What all connections share. A std Mutex guards it, since nothing awaits while holding it.
#[derive(Debug)]
struct State {
    /// Who hears what is said.
    readers: Readers,
    /// What was said since the last batch.
    next: BatchMut,
    /// What was said before.
    history: History,
    /// How many connections there ever were.
    connections: u64,
    /// Connections that may still say something.
    speakers: usize,
    /// A batch is being stored.
    storing: bool,
    /// What those who are here were told, while nothing can be stored.
    interrupted: Option<&'static str>,
    /// How far it has come in a log that several servers share.
    progress: Progress,
    /// Nobody may enter any more.
    closing: bool,
    /// When a newcomer was last too slow.
    slow_newcomer: Option<Instant>,
}

/// The room is closed, or a newer connection has the session: what was said did not get in.
#[derive(Debug)]
pub struct Closed;

impl From<Closed> for Ended {
    fn from(Closed: Closed) -> Self {
        Self::Stopped
    }
}

/// What is new, for one subscriber.
type Batches = broadcast::Receiver<Arc<Batch>>;

/// A connection's two ends in the room, and the first frame that it gets, if it asked for a session.
pub type Entered = (Speaker, Subscription, Option<Bytes>);

impl Room {
    /// An empty room.
    #[must_use]
    pub fn open(limits: &Limits) -> Arc<Self> {
        Self::among(limits, &Budget::new(limits.windows), None)
    }

    /// An empty room among others, with which it shares the budget for what is kept. With a store, its log
    /// is there.
    #[must_use]
    pub fn among(limits: &Limits, budget: &Arc<Budget>, store: Option<RoomStore>) -> Arc<Self> {
        let history = History::new(limits, budget, store.as_ref());
        let stored = store.map(|store| Stored::new(store, limits));
        let more = stored.as_ref().map_or(0, |stored| stored.places(limits));
        let state = State {
            readers: Readers::new(limits.ring + more, limits.gather),
            next: BatchMut::default(),
            history,
            connections: 0,
            speakers: 0,
            storing: false,
            interrupted: None,
            progress: Progress::default(),
            closing: false,
            slow_newcomer: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            to_publish: Notify::new(),
            space: Arc::new(Semaphore::new(limits.backlog)),
            congested: Notify::new(),
            stored,
            limits: limits.clone(),
        })
    }

    /// Publishes what is said, until the room is closed. Everyone who has something to say in the
    /// same turn of the runtime says it before this task runs, so it becomes one batch, and each
    /// receiver takes it along in one write.
    pub async fn publish(self: Arc<Self>) {
        if let Some(stored) = &self.stored {
            return self.publish_stored(stored).await;
        }
        while !self.state().readers.is_closed() {
            self.to_publish.notified().await;
            let mut state = self.state();
            state.append();
            state.readers.publish();
        }
    }

    /// Enters without a session: everything said from now on will be heard. `None` when the room is
    /// closed.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<(Speaker, Subscription)> {
        let (speaker, subscription, _) = self.enter_as(None).ok()?;
        Some((speaker, subscription))
    }

    /// Enters, and takes a session over if one is asked for: from now on nothing more is taken from
    /// the connection that had it. In a room that has a store this is only for those who neither speak
    /// nor ask for what is past; for all others see [`Room::ask`].
    ///
    /// # Errors
    ///
    /// The room is closed, or something is asked for that does not exist.
    pub fn enter_as(self: &Arc<Self>, asked: Option<&Asked>) -> Result<Entered, Refusal> {
        self.enter_in(&mut self.state(), asked, None)
    }

    fn enter_in(
        self: &Arc<Self>,
        state: &mut State,
        asked: Option<&Asked>,
        known: Option<&Known>,
    ) -> Result<Entered, Refusal> {
        if state.closing {
            return Err(SHUTTING_DOWN);
        }
        state.append(); // What was said before is not for the newcomer.
        let id = state.connections + 1;
        let (mut bookmark, first) = state.history.enter(id, asked, known)?;
        state.connections = id;
        state.speakers += 1;
        let (room, author) = (self.clone(), bookmark.author.clone());
        let speaker = Speaker { room, id, author };
        let batches = state.hear(&mut bookmark);
        let subscription = Subscription {
            room: self.clone(),
            batches,
            socket: None,
            lent: None,
            bookmark,
            older: None,
            entered: Instant::now(),
        };
        Ok((speaker, subscription, first))
    }

    /// Does something with the past, to which belongs what was said until now.
    pub fn history<T>(&self, act: impl FnOnce(&mut History) -> T) -> T {
        let mut state = self.state();
        state.append();
        act(&mut state.history)
    }

    /// Lets nobody enter any more. When the last speaker has left, the room is closed: everyone
    /// still hears what was said, then the end.
    pub fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        self.end(&mut state);
    }

    /// Refuses what those who wait for space have to say, and whatever is said later.
    pub fn refuse(&self) {
        self.space.close();
        if let Some(stored) = &self.stored {
            stored.refuse();
        }
        self.end(&mut self.state());
    }

    /// Closes the channel of a closing room when its last speaker has left and everything that was said is
    /// applied. After [`Room::refuse`], lines that could not be stored are not waited for.
    fn end(&self, state: &mut State) {
        if state.closing && state.speakers == 0 {
            state.append();
            let is_waited_for = state.storing || !state.next.is_empty();
            if !is_waited_for || self.space.is_closed() {
                state.readers.close();
            }
            self.to_publish.notify_one();
            if let Some(stored) = &self.stored {
                stored.applied.notify_waiters();
            }
        }
    }

    /// Waits for the space that so many bytes need. `speaks` is false for notices and for lines of other
    /// servers, for which no client waits.
    async fn space(
        &self,
        space: &Arc<Semaphore>,
        bytes: usize,
        speaks: bool,
    ) -> Result<OwnedSemaphorePermit, Closed> {
        let space = space.clone().acquire_many_owned(self.space_for(bytes));
        let mut space = pin!(space);
        // tokio lets a task that has done much look as if there were no space, and does not let it wait in the
        // queue then (its cooperative budget). `congested` would look too early.
        let space = if let Some(space) = unconstrained(space.as_mut()).now_or_never() {
            space
        } else {
            // tokio's semaphore has given all free permits to the one that waits first. So as long
            // as anybody waits there are no free ones, which is how `congested` sees it. There are none
            // either when just all of them are taken: then a late reader is given up one batch early.
            self.congested.notify_waiters();
            let _waiting = speaks.then(metrics::Holding::begin);
            space.await
        };
        space.map_err(|_| Closed)
    }

    fn space_for(&self, bytes: usize) -> u32 {
        u32::try_from(self.limits.space_for(bytes)).unwrap_or(u32::MAX)
    }

    /// Whether somebody waits for space.
    fn is_waited_for(&self) -> bool {
        let others = self.stored.iter().map(|stored| &stored.others);
        let mut all = others.chain([&self.space]);
        all.any(|space| space.available_permits() == 0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in another task does not matter here: none can happen while this lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts what was said since the last batch into the log, as one batch. In memory that is all
    /// there is to do, so it is applied at once, and published with what else is said in this turn, or
    /// when somebody comes or goes. With a store it is left to [`Room::publish`].
    fn append(&mut self) {
        if !self.next.is_empty() && !self.history.is_stored() {
            let batch = std::mem::take(&mut self.next);
            let batch = self.history.apply(batch, None);
            self.readers.push(batch);
        }
    }

    /// Applies the next batch of a log in a store, where it was stored at this time, and publishes it.
    fn apply(&mut self, batch: BatchMut, stored: u64) {
        let batch = self.history.apply(batch, Some(stored));
        self.readers.push(batch);
        self.readers.publish();
    }
}

/// One connection's right to speak in the room, until it is dropped.
#[derive(Debug)]
pub struct Speaker {
    room: Arc<Room>,
    id: u64,
    /// Who speaks through it, as long as no newer connection does.
    author: Arc<Author>,
}

impl Speaker {
    /// What tells it from all others that ever were in the room.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What tells its session from all others in the room, if it has one.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        self.author.key.as_ref().map(|_| self.author.id)
    }

    /// Waits until a newer connection has the session of this one, or it is to come back: for ever, if
    /// it has none.
    pub fn replaced(&self) -> impl Future<Output = Ended> + use<> {
        let (id, author) = (self.id, self.author.clone());
        async move {
            match author.key {
                // Boxed, since the others should not keep room for it.
                Some(_) => Box::pin(author.replaced(id)).await,
                None => pending().await,
            }
        }
    }

    /// Says the lines to everyone else, as soon as there is space for them, and waits until they are in
    /// the log. If it is cancelled, nothing was said; but with a store, lines that wait to be stored are
    /// said all the same.
    ///
    /// # Errors
    ///
    /// The room is closed, or a newer connection has the session, and the lines were not said.
    pub async fn say(&self, lines: &Lines) -> Result<(), Closed> {
        self.begin_to_say(lines).await?;
        self.settled().await
    }

    /// As [`Speaker::say`], but with a store they may be lost until [`Speaker::settled`] has returned.
    ///
    /// # Errors
    ///
    /// The room is closed, or a newer connection has the session, and the lines were not said.
    pub async fn begin_to_say(&self, lines: &Lines) -> Result<(), Closed> {
        loop {
            let (bytes, speaks) = (lines.frames.len(), lines.count > 0);
            let space = self.room.space(&self.room.space, bytes, speaks);
            match self.add(lines, space.await?) {
                // A newer connection asks for the session, but may not get it; or has just not got it.
                Err(Closed) if self.author.speaker() == self.id => {
                    self.author.resumed(self.id).await;
                }
                said => return said,
            }
        }
    }

    /// Waits until everything that was said is in the log, as good as applied, and all who are subscribed
    /// will get it. Without a store that is so as soon as it is said. May be cancelled.
    ///
    /// # Errors
    ///
    /// The room is closed, and what was said last may not be in the log.
    pub async fn settled(&self) -> Result<(), Closed> {
        match &self.room.stored {
            None => Ok(()),
            Some(stored) => self.wait_for_store(stored).await,
        }
    }

    /// Adds lines, which have their space, to the next batch.
    fn add(&self, lines: &Lines, space: OwnedSemaphorePermit) -> Result<(), Closed> {
        let mut state = self.room.state();
        if !self.author.may_speak(self.id) {
            return Err(Closed);
        }
        if self.room.stored.is_some() {
            self.author.say(lines.count);
        }
        if state.next.len() + lines.frames.len() > self.room.limits.batch {
            state.append();
        }
        if state.next.is_empty() {
            self.room.to_publish.notify_one();
        }
        state.next.add(&self.author, lines, space);
        Ok(())
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.history.leave(self.id, &self.author);
        state.speakers -= 1;
        self.room.end(&mut state);
    }
}

/// What one connection hears of the room.
#[derive(Debug)]
pub struct Subscription {
    room: Arc<Room>,
    /// What is new, behind what is left of the past. `None` while the room does not wait for this
    /// reader, or writes to its socket.
    batches: Option<Batches>,
    /// What the room may write to when this reader has everything …
    socket: Option<Arc<dyn TryWrite>>,
    /// … and where it comes back, when that is so.
    lent: Option<Lent>,
    /// Who it is, and how far it has come in the log.
    bookmark: Bookmark,
    /// What was asked of the store for this reader.
    older: Option<Box<Older>>,
    entered: Instant,
}

impl Subscription {
    /// Whether the room trusts newcomers to keep up. It does not while others who had just come were
    /// too slow: else strangers who come again and again and never read would hold it for ever.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        let slow = self.room.state().slow_newcomer;
        slow.is_none_or(|then| then.elapsed() >= self.room.limits.distrust)
    }

    /// Waits for something to be said, and returns its frames and those of what is there already,
    /// but for its own, and for what the room has written itself. After a pause the first is the notice of
    /// what was missed. `None` when the room is closed and all of it was heard. If it is cancelled, nothing
    /// is lost.
    pub async fn next_frames(&mut self) -> Option<Vec<Bytes>> {
        if self.lend() {
            return self.returned().await;
        }
        let batches = match &mut self.batches {
            Some(batches) if !self.bookmark.is_behind() => batches,
            _ => return self.read_on().await,
        };
        let mut batch = loop {
            match batches.recv().await {
                Ok(batch) => break batch,
                // This cannot happen, since whoever speaks has waited for space.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        };
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let mut delivered = metrics::DELIVERIES.later();
        loop {
            let own = batch.frames_for(self.bookmark.who, &mut frames);
            delivered.add(batch.lines - own);
            self.bookmark.pass(batch.position + batch.lines, own);
            bytes += batch.bytes();
            if bytes >= self.room.limits.gather {
                return Some(frames);
            }
            match batches.try_recv() {
                Ok(more) => batch = more,
                Err(_) => return Some(frames),
            }
        }
    }

    /// Lets go of the subscription: nobody waits for this reader any more. Of what it has not taken
    /// yet, and of what is said until the next [`Subscription::next_frames`], it misses what is not
    /// kept.
    pub fn pause(&mut self) {
        self.batches = None;
        if self.entered.elapsed() < self.room.limits.probation {
            self.room.state().slow_newcomer = Some(Instant::now());
        }
    }

    /// Waits until somebody has to wait for space, perhaps because of this reader; not during a
    /// pause.
    pub async fn congested(&self) {
        loop {
            let notified = self.room.congested.notified();
            if self.batches.is_some() && self.room.is_waited_for() {
                return;
            }
            notified.await;
        }
    }

    /// Whether everything that was published so far was taken.
    #[must_use]
    pub fn has_everything(&self) -> bool {
        let is_empty = broadcast::Receiver::is_empty;
        !self.bookmark.is_behind() && self.batches.as_ref().is_some_and(is_empty)
    }
}
