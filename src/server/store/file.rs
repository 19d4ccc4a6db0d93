//! A store in a file, which outlives the server (`server --store FILE`): whatever was heard or confirmed
//! is there after a crash, too.
//!
//! Two threads do the work, so that no disk ever keeps the runtime waiting: one writes, one reads.
//! What waits for them is bounded by those who wait: a room has one batch at most with the writer,
//! made of what has space in the room; a connection has one question at most with the reader, and one
//! session that begins with the writer. Those who enter and give up leave a question behind, of which there are
//! no more than connections.

// Without SQLite there never is a store, and the compiler notices that what is here is not used.
#![cfg_attr(not(feature = "sqlite"), allow(dead_code, unused_variables))]

#[cfg(feature = "sqlite")]
#[path = "sqlite.rs"]
mod sqlite;
#[cfg(not(feature = "sqlite"))]
#[path = "without_sqlite.rs"]
mod sqlite;

use std::fmt::Arguments;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::server::batch::BatchMut;
use crate::server::limits::Limits;
use crate::server::sessions::{Key, Subscriber};
use crate::server::store::number;

use sqlite::File;

/// How lines are stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// What is confirmed survives a power cut, too, and not only the end of the program.
    pub sync: bool,
    /// For how many days a line is kept; `None` for ever.
    pub days: Option<u32>,
}

/// An open store. Each clone is the same one.
#[derive(Clone, Debug)]
pub struct Store {
    orders: mpsc::Sender<Order>,
    questions: mpsc::Sender<Question>,
    /// Places for the questions of those who want to enter.
    places: Arc<Semaphore>,
    /// Why nothing can be stored now, if that is so.
    trouble: watch::Receiver<Option<String>>,
    /// Why nothing can be read now, if that is so.
    unreadable: watch::Receiver<Option<String>>,
    /// Since when the disk was asked to write something, and to read something.
    writing: Since,
    reading: Since,
    /// How long either may take before that is trouble.
    patience: Duration,
    /// What the operator calls the file.
    shown: Arc<str>,
    /// The number of the next connection that has no session. No connection of an earlier run of the
    /// server had it.
    next_author: Arc<AtomicU64>,
    file: File,
}

/// Since when something lasts, if it does: for others to look at, since a disk may never answer.
#[derive(Clone, Debug, Default)]
struct Since(Arc<Mutex<Option<Instant>>>);

impl Since {
    /// Does something, and returns what comes of it.
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        *self.lock() = Some(Instant::now());
        let done = work();
        *self.lock() = None;
        done
    }

    /// How long it has taken so far.
    fn took(&self) -> Duration {
        let since = *self.lock();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread that writes is asked to do.
#[derive(Debug)]
enum Order {
    /// To store a batch, and to give it back then.
    Append(Append),
    /// To store that a session is here, and to say how many lines were taken from it.
    Touch(Touch),
    /// To end, and to say so.
    End(mpsc::Sender<()>),
}

/// A batch of a room's log.
#[derive(Debug)]
struct Append {
    room: Arc<str>,
    position: u64,
    /// When its lines were said, in milliseconds of Unix time.
    time: u64,
    batch: BatchMut,
    done: oneshot::Sender<BatchMut>,
}

/// A session that is in a room now.
#[derive(Debug)]
struct Touch {
    room: Arc<str>,
    session: [u8; 32],
    /// How many lines were taken from it, if nothing is stored of that yet; afterwards, what is.
    taken: u64,
    done: oneshot::Sender<u64>,
}

/// What the thread that reads is asked.
#[derive(Debug)]
enum Question {
    Known {
        room: Arc<str>,
        session: Option<[u8; 32]>,
        answer: oneshot::Sender<Known>,
        place: OwnedSemaphorePermit,
    },
    Lines {
        room: Arc<str>,
        who: Subscriber,
        range: Range<u64>,
        /// Up to where those are to be counted that are for the subscriber.
        count: Option<u64>,
        answer: oneshot::Sender<Piece>,
    },
}

impl Question {
    /// Whether nobody waits for the answer any more.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Known { answer, .. } => answer.is_closed(),
            Self::Lines { answer, .. } => answer.is_closed(),
        }
    }
}

/// What is known of a room, and of a session in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The position of the first line that is stored.
    pub start: u64,
    /// The position of the next line.
    pub end: u64,
    /// How many lines of the session were taken; `None` if it has said nothing yet.
    pub taken: Option<u64>,
}

/// Some of the lines of a room, as the frames that a subscriber gets.
#[derive(Debug, Default)]
pub struct Piece {
    /// The frames.
    pub frames: Vec<u8>,
    /// Whether lines before them are gone.
    pub gap: bool,
    /// Where the next piece begins.
    pub position: u64,
    /// How many lines up to there were left out, since they are the subscriber's own.
    pub own: u64,
    /// How many there are for the subscriber, if that was asked.
    pub counted: u64,
}

impl Store {
    /// Opens the store in a file, or makes one. `tell` tells the operator.
    ///
    /// # Errors
    ///
    /// One line that names the file and says why it cannot be used.
    pub fn open(
        file: &Path,
        terms: Terms,
        limits: &Limits,
        tell: impl Fn(Arguments<'_>) + Clone + Send + 'static,
    ) -> Result<Self, String> {
        sqlite::open(file, terms, limits, tell)
    }

    /// Its part for one room.
    #[must_use]
    pub fn room(&self, name: &str) -> RoomStore {
        RoomStore {
            store: self.clone(),
            room: name.into(),
        }
    }

    /// Why nothing can be stored or read now, if that is so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let (writer, reader, shown) = (&self.trouble, &self.unreadable, &self.shown);
        // A thread that is there no more.
        if writer.has_changed().and(reader.has_changed()).is_err() {
            return Some(format!(
                "a fault of this server: {shown} is not used any more (start it anew)"
            ));
        }
        for (since, what) in [
            (&self.writing, "store lines in"),
            (&self.reading, "read lines from"),
        ] {
            if since.took() >= self.patience {
                return Some(format!("cannot {what} {shown}: the disk does not answer"));
            }
        }
        let trouble = writer.borrow().clone();
        trouble.or_else(|| reader.borrow().clone())
    }

    /// Waits until what it has was written, but no longer than the deadline.
    pub fn close(self, deadline: Duration) {
        let (done, ended) = mpsc::channel();
        if self.orders.send(Order::End(done)).is_ok() {
            // An error means that it takes too long, and there is nothing more to do about that.
            let _ = ended.recv_timeout(deadline);
        }
    }
}

/// The part of a store that belongs to one room.
#[derive(Clone, Debug)]
pub struct RoomStore {
    store: Store,
    room: Arc<str>,
}

impl RoomStore {
    /// What tells the past of this room from all others: 16 hexadecimal digits, the same as long as
    /// the file is the same.
    #[must_use]
    pub fn epoch(&self) -> String {
        let digest = self.store.file.digest("epoch", &self.room);
        format!("{:016x}", number(&digest))
    }

    /// The author that a session is: the same in every run of the server, and never that of a
    /// connection.
    #[must_use]
    pub fn session(&self, key: &Key) -> u64 {
        number(&self.digest(key)) | 1 << 63
    }

    /// The author that a new connection is which has no session: no other one ever, in no run.
    #[must_use]
    pub fn connection(&self) -> u64 {
        self.store.next_author.fetch_add(1, Relaxed)
    }

    /// What is known of the room, and of a session in it. `None` if it cannot be read.
    pub async fn known(&self, session: Option<&Key>) -> Option<Known> {
        let place = self.store.places.clone().acquire_owned().await.ok()?;
        let (answer, known) = oneshot::channel();
        let question = Question::Known {
            room: self.room.clone(),
            session: session.map(|key| self.digest(key)),
            answer,
            place,
        };
        self.store.questions.send(question).ok()?;
        known.await.ok()
    }

    /// Stores that a session is here now, and how many lines were taken from it, unless that is known
    /// already. The answer is how many that are. When nobody waits for it any more, it need not be
    /// stored.
    #[must_use]
    pub fn touch(&self, key: &Key, taken: u64) -> oneshot::Receiver<u64> {
        let (done, stored) = oneshot::channel();
        // When the thread is not there any more, the answer is dropped with the order.
        let _ = self.store.orders.send(Order::Touch(Touch {
            room: self.room.clone(),
            session: self.digest(key),
            taken,
            done,
        }));
        stored
    }

    /// Stores how many lines a session says that were taken from it, unless it is known already, and
    /// returns how many that are. So a crash before the first commit of its lines leaves it in no
    /// doubt. While nothing can be stored this does not wait: whoever comes then can hear at least.
    pub async fn begin(&self, key: &Key, taken: u64) -> Option<u64> {
        tokio::select! {
            biased;
            stored = self.touch(key, taken) => stored.ok(),
            () = self.trouble() => None,
        }
    }

    /// Asks for the lines of a range that are for this subscriber, as many as are written at once,
    /// and how many there are from its start up to `count`. The answer is an error if they cannot be
    /// read.
    #[must_use]
    pub fn read(
        &self,
        who: Subscriber,
        range: Range<u64>,
        count: Option<u64>,
    ) -> oneshot::Receiver<Piece> {
        let (answer, piece) = oneshot::channel();
        // When the thread is not there any more, the answer is dropped with the question.
        let _ = self.store.questions.send(Question::Lines {
            room: self.room.clone(),
            who,
            range,
            count,
            answer,
        });
        piece
    }

    /// Stores a batch, and returns it when that is done, however long it takes. `None` when the
    /// store was closed before.
    pub async fn append(&self, position: u64, time: u64, batch: BatchMut) -> Option<BatchMut> {
        let (done, stored) = oneshot::channel();
        let append = Append {
            room: self.room.clone(),
            position,
            time,
            batch,
            done,
        };
        self.store.orders.send(Order::Append(append)).ok()?;
        stored.await.ok()
    }

    /// Waits until nothing can be stored.
    pub async fn trouble(&self) {
        let mut trouble = self.store.trouble.clone();
        // An error means that the store was closed, which `append` notices.
        let _ = trouble.wait_for(Option::is_some).await;
    }

    /// What stands for a session in the file, so that nobody who has a copy of it has the key.
    fn digest(&self, key: &Key) -> [u8; 32] {
        self.store.file.digest("session", key.secret())
    }
}
