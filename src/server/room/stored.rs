//! What is different in a room whose log is in a store: what is said is stored first, and applied
//! then; and before somebody enters, the store is asked what it knows of the past.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use super::{Closed, Entered, Room, Speaker, State};
use crate::server::batch::{BatchMut, Lines};
use crate::server::frame;
use crate::server::handshake::Refusal;
use crate::server::history::now;
use crate::server::limits::Limits;
use crate::server::sessions::{Asked, Author, Suspended};
use crate::server::store::nats::counts::Claim;
use crate::server::store::{Known, RoomStore, file};

/// What those in a room hear when their lines cannot be stored, and when they can again.
const WAITING: &str = "the chat cannot be stored for now: lines are kept, and sent later";
const GOES_ON: &str = "the chat goes on";

/// The log of a room in a store.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) store: RoomStore,
    /// Places for what is said without space, which is that the store has trouble.
    notices: Arc<Semaphore>,
    /// Notified when nothing is waited for any more.
    refused: Notify,
    /// Notified when something of a log is applied that several servers share.
    pub(super) applied: Notify,
    /// Bytes of other servers that may be said and not yet taken by every subscriber.
    pub(super) others: Arc<Semaphore>,
}

/// What the store has of a room and of a session in it, so that somebody may enter.
#[derive(Debug)]
pub struct StoreAnswer {
    known: Known,
    /// How many sessions were forgotten before the store was asked.
    forgotten: u64,
    /// The client knows lines of this past that a log which several servers share does not have any more.
    is_beyond: bool,
    /// What has given the session to this server, if several share the log.
    claim: Option<Claim>,
    /// The connection that has the session says nothing meanwhile.
    _suspended: Option<Suspended>,
}

impl StoreAnswer {
    /// What a log has that several servers share.
    pub(super) fn shared(
        is_beyond: bool,
        claim: Option<Claim>,
        suspended: Option<Suspended>,
    ) -> Self {
        Self {
            known: Known::default(),
            forgotten: 0,
            is_beyond,
            claim,
            _suspended: suspended,
        }
    }
}

impl Stored {
    pub(super) fn new(store: RoomStore, limits: &Limits) -> Self {
        Self {
            store,
            notices: Arc::new(Semaphore::new(limits.store_notices)),
            refused: Notify::new(),
            applied: Notify::new(),
            // One more than any batch takes, so that a batch alone does not look as if somebody waited.
            others: Arc::new(Semaphore::new(limits.backlog + 1)),
        }
    }

    /// Places of the room's channel beside those for what is said here.
    pub(super) fn places(&self, limits: &Limits) -> usize {
        match self.store {
            RoomStore::File(_) => limits.store_notices,
            RoomStore::Nats(_) => limits.store_notices + limits.ring,
        }
    }

    /// The file, if it is in one.
    pub(super) fn file(&self) -> Option<&file::RoomStore> {
        match &self.store {
            RoomStore::File(file) => Some(file),
            RoomStore::Nats(_) => None,
        }
    }

    /// What could not be stored until now is waited for no more.
    pub(super) fn refuse(&self) {
        self.refused.notify_waiters();
    }
}

impl Room {
    /// As [`Room::publish`].
    pub(super) async fn publish_stored(&self, stored: &Stored) {
        match &stored.store {
            RoomStore::Nats(log) => self.share(stored, log).await,
            RoomStore::File(file) => {
                while !self.state().readers.is_closed() {
                    self.to_publish.notified().await;
                    self.store(stored, file).await;
                }
            }
        }
    }

    /// Stores what is said, then applies it, until there is nothing more. Everything that is said
    /// while one batch is being stored is in the next one.
    async fn store(&self, stored: &Stored, file: &file::RoomStore) {
        loop {
            let next = self.state().begin_to_store();
            let Some((position, batch)) = next else {
                return;
            };
            let time = now();
            let mut told = false;
            let batch = if batch.lines() == 0 {
                Some(batch) // Notices are for those who are there.
            } else {
                let mut storing = pin!(file.append(position, time, batch));
                loop {
                    tokio::select! {
                        biased;
                        batch = &mut storing => break batch,
                        () = file.trouble(), if !told => {
                            self.interrupt(stored, WAITING);
                            told = true;
                        }
                    }
                }
            };
            let Some(batch) = batch else {
                // The store was closed, at the end of the server.
                self.refuse();
                self.state().readers.close();
                return;
            };
            let mut state = self.state();
            state.settle(batch, |state, batch| state.apply(batch, time));
            self.end(&mut state);
            drop(state);
            if told {
                self.go_on(stored);
            }
        }
    }

    /// Tells those who are in the room that nothing can be stored, and why.
    pub(super) fn interrupt(&self, stored: &Stored, why: &'static str) {
        self.state().interrupted = Some(why);
        self.tell(stored, why);
    }

    /// Tells them that it can be again.
    pub(super) fn go_on(&self, stored: &Stored) {
        self.state().interrupted = None;
        self.tell(stored, GOES_ON);
    }

    /// What whoever comes is told first, if those who are here wait for the store.
    #[must_use]
    pub fn interruption(&self) -> Option<Bytes> {
        self.state().interrupted.map(frame::notice)
    }

    /// Tells those who are in the room, without taking space, unless they have not taken in what was
    /// told before.
    pub(super) fn tell(&self, stored: &Stored, notice: &str) {
        let Ok(place) = stored.notices.clone().try_acquire_owned() else {
            return;
        };
        let mut batch = BatchMut::default();
        let nobody = Author::connection(0);
        batch.add(&nobody, &Lines::notice(notice, None), place);
        self.state().apply(batch, 0);
    }

    /// Asks the store what it has of the room and of a session. Before that, nothing more is taken from
    /// the connection that has the session now, and what was said is stored: so it is known how many
    /// lines were taken. `None` if it cannot be known now; without a store nothing has to be asked.
    pub async fn ask(&self, asked: Option<&Asked>) -> Option<StoreAnswer> {
        let stored = self.stored.as_ref()?;
        let store = match &stored.store {
            RoomStore::Nats(log) => return self.ask_shared(stored, log, asked).await,
            RoomStore::File(file) => file,
        };
        let key = asked.map(|asked| &asked.key);
        let author = key.and_then(|key| self.state().history.author_of(key));
        let suspended = author.map(Suspended::new);
        if let Some(author) = suspended.as_ref().map(Suspended::author) {
            tokio::select! {
                biased;
                () = author.settled() => {}
                () = store.trouble() => return None,
            }
        }
        let forgotten = self.state().history.forgotten_so_far();
        let mut known = store.known(key).await?;
        if let (Some(asked), None) = (asked, known.taken) {
            known.taken = store.begin(&asked.key, asked.sent.unwrap_or(0)).await;
        }
        Some(StoreAnswer {
            known,
            forgotten,
            is_beyond: false,
            claim: None,
            _suspended: suspended,
        })
    }

    /// Enters a room with a store, when what that has is known. Returns `None` if it has to be asked
    /// for again.
    ///
    /// # Errors
    ///
    /// As [`Room::enter_as`].
    pub fn enter_knowing(
        self: &Arc<Self>,
        asked: Option<&Asked>,
        answer: &StoreAnswer,
    ) -> Result<Option<Entered>, Refusal> {
        let mut state = self.state();
        let stored = self.stored.as_ref().map(|stored| &stored.store);
        if matches!(stored, Some(RoomStore::Nats(_))) {
            let is_there = state.has_reached(asked) || answer.is_beyond;
            if !is_there || !state.history.is_claimed(asked, answer.claim) {
                return Ok(None);
            }
            let unknown = asked.filter(|_| answer.is_beyond).map(Asked::without_past);
            let asked = unknown.as_ref().or(asked);
            return self.enter_in(&mut state, asked, None).map(Some);
        }
        let (known, forgotten) = (&answer.known, answer.forgotten);
        if !state.history.is_known(asked, known, forgotten) {
            return Ok(None);
        }
        self.enter_in(&mut state, asked, Some(known)).map(Some)
    }

    /// Whether something is being stored, or waits for that: then the room must not be dropped.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        let state = self.state();
        state.storing || self.stored.is_some() && !state.next.is_empty()
    }
}

impl State {
    /// What is to be stored next, and the position of its first line.
    fn begin_to_store(&mut self) -> Option<(u64, BatchMut)> {
        if self.next.is_empty() || self.readers.is_closed() {
            return None;
        }
        self.storing = true;
        Some((self.history.end(), std::mem::take(&mut self.next)))
    }

    /// Applies what was being stored, since it is, and tells those who said it.
    pub(super) fn settle(&mut self, batch: BatchMut, apply: impl FnOnce(&mut Self, BatchMut)) {
        let said = batch.said();
        let said: Vec<_> = said
            .map(|(author, _, lines)| (author.clone(), lines))
            .collect();
        self.storing = false;
        apply(self, batch);
        for (author, lines) in said {
            author.settle(lines);
        }
    }
}

impl Speaker {
    /// Waits until everything that was said is stored, and applied.
    pub(super) async fn wait_for_store(&self, stored: &Stored) -> Result<(), Closed> {
        let refused = stored.refused.notified();
        if self.room.space.is_closed() {
            return Err(Closed);
        }
        tokio::select! {
            biased;
            () = self.author.settled() => Ok(()),
            () = refused => Err(Closed),
        }
    }
}
