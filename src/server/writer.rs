//! The one way out of a connection: whatever is sent to a client passes here. It also measures how
//! fast the client takes what is sent.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::unconstrained;
use tokio::time::Instant;

use crate::server::deadline::passed;
use crate::server::limits::Limits;
use crate::server::unwritten::Unwritten;

/// The sending side of a connection.
#[derive(Debug)]
pub struct Writer<W> {
    socket: W,
    unwritten: Unwritten,
    pace: Pace,
}

/// How far a write came.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// Everything was written.
    All,
    /// The client takes less than it must to be waited for. Writing can go on.
    TooSlow,
    /// The client has taken nothing for so long.
    Stuck(Duration),
    /// The connection is broken.
    Broken,
}

impl<W> Writer<W>
where
    W: AsyncWrite + Unpin,
{
    /// Writes to `socket`.
    #[must_use]
    pub fn new(socket: W, limits: &Limits) -> Self {
        Self {
            socket,
            unwritten: Unwritten::default(),
            pace: Pace::new(limits),
        }
    }

    /// What it writes to.
    pub fn socket(&self) -> &W {
        &self.socket
    }

    /// Puts frames behind what is not written yet.
    pub fn push(&mut self, frames: impl IntoIterator<Item = Bytes>) {
        self.unwritten.push(frames);
    }

    /// Writes what was pushed, as far as the system takes it at once. `None` when something is left.
    pub fn flush_now(&mut self) -> Option<Written> {
        while !self.unwritten.is_empty() {
            let written = self.write_now()?;
            if let Err(end) = self.advance(&written) {
                return Some(end);
            }
        }
        Some(Written::All)
    }

    /// Writes what was pushed. `congested` returns when others have to wait for this client: then
    /// this gives up if the client is too slow for that. May be cancelled: the rest can be written
    /// later.
    pub async fn flush(&mut self, congested: impl Future<Output = ()>) -> Written {
        let mut congested = pin!(congested);
        loop {
            if let Some(written) = self.flush_now() {
                return written;
            }
            let waited = self.wait_to_write(congested.as_mut()).await;
            if let Err(end) = waited.and_then(|written| self.advance(&written)) {
                return end;
            }
        }
    }

    /// Whether the client has used some of its credit.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.pace.credit < self.pace.patience
    }

    /// The client has taken everything that there is for it, so it has all of its credit again. Not
    /// during its probation: lines may have been left out for it, so that it is up to date says little of its speed.
    pub fn forgive(&mut self) {
        if !self.pace.is_on_probation(Instant::now()) {
            self.pace.credit = self.pace.patience;
        }
    }

    /// Begins a probation: the client counts as too slow as soon as others have to wait for it.
    pub fn distrust(&mut self) {
        self.pace.too_slow = Some(Instant::now());
    }

    /// Whether the client has taken something that waited, since this was last asked.
    pub fn has_progressed(&mut self) -> bool {
        std::mem::take(&mut self.pace.progressed)
    }

    /// Ends the stream, behind everything that was written.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.socket.shutdown().await
    }

    /// Offers all that waits to the system, in one call.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self {
            socket, unwritten, ..
        } = self;
        unwritten.offer(|slices| Pin::new(socket).poll_write_vectored(cx, slices))
    }

    /// What the system takes at once; `None` when it takes nothing now.
    fn write_now(&mut self) -> Option<io::Result<usize>> {
        // tokio lets a task that has done much look as if nothing were ready, so that others run
        // (its cooperative budget). That must not look like a client that takes nothing.
        unconstrained(poll_fn(|cx| self.poll_write(cx))).now_or_never()
    }

    /// Waits until the system takes more, or the client is too slow.
    async fn wait_to_write(
        &mut self,
        congested: impl Future<Output = ()>,
    ) -> Result<io::Result<usize>, Written> {
        let begun = Instant::now();
        let stuck = self.pace.stuck_at(begun);
        let too_slow = self.pace.too_slow_at(begun);
        let mut is_too_slow = false;
        let written = tokio::select! {
            biased;
            // Tried first. So when one of the others is true, the system really takes nothing now.
            written = poll_fn(|cx| self.poll_write(cx)) => Ok(written),
            () = passed(stuck) => Err(Written::Stuck(self.pace.stuck)),
            // As long as nobody has to wait for it, a client may be as slow as it likes.
            () = async {
                passed(too_slow).await;
                is_too_slow = true;
                congested.await;
            } => Err(Written::TooSlow),
        };
        self.pace.spend(begun, Instant::now(), is_too_slow);
        written
    }

    /// Takes what was written off what waits.
    fn advance(&mut self, written: &io::Result<usize>) -> Result<(), Written> {
        let Ok(n @ 1..) = *written else {
            return Err(Written::Broken);
        };
        self.pace.earn(n);
        self.unwritten.advance(n);
        Ok(())
    }
}

/// Control frames (RFC 6455 5.5) on their way from the loop that reads to the loop that writes.
#[derive(Debug, Default)]
pub struct Control {
    frames: Mutex<Vec<u8>>,
    /// Whoever waits for some, or until there are none: both loops are in one task.
    task: AtomicWaker,
}

impl Control {
    /// Hands frames over, as soon as those before them were taken: a client that sends pings and
    /// does not read is not read any more.
    pub async fn put(&self, frames: Vec<u8>) {
        *self.when(Vec::is_empty).await = frames;
        self.task.wake();
    }

    /// Waits until all frames were taken.
    pub async fn taken(&self) {
        drop(self.when(Vec::is_empty).await);
    }

    /// Waits for frames. May be cancelled: nothing is lost.
    pub async fn take(&self) -> Bytes {
        let frames = std::mem::take(&mut *self.when(|frames| !frames.is_empty()).await);
        self.task.wake();
        frames.into()
    }

    /// Waits until the frames are as they should be.
    async fn when(&self, ready: impl Fn(&Vec<u8>) -> bool) -> MutexGuard<'_, Vec<u8>> {
        poll_fn(|cx| {
            self.task.register(cx.waker());
            let frames = self.frames();
            if ready(&frames) {
                Poll::Ready(frames)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    fn frames(&self) -> MutexGuard<'_, Vec<u8>> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How fast a client takes what is sent to it, as an account of time. It begins with some patience
/// to its credit; while a write waits the credit runs down, and each byte that the client takes adds
/// the time that it may take at the lowest rate.
///
/// Time alone would be unfair: when this server was busy for a while, every write has waited. But
/// then a client that was not to blame takes much at once, and has its credit back.
#[derive(Debug)]
struct Pace {
    /// The most credit that there can be.
    patience: Duration,
    /// The time that one byte may take, in nanoseconds.
    nanos_a_byte: u64,
    /// How long a client that was too slow is not waited for.
    probation: Duration,
    /// How long a client may take nothing at all.
    stuck: Duration,
    /// How long the client's writes may still have to wait before it is too slow.
    credit: Duration,
    /// When the client was last too slow, or was put on probation.
    too_slow: Option<Instant>,
    /// Since when a write waits of which the client has taken nothing.
    waiting_since: Option<Instant>,
    /// The client has taken something that had to wait.
    progressed: bool,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            patience: limits.patience,
            nanos_a_byte: 1_000_000_000 / limits.rate,
            probation: limits.probation,
            stuck: limits.stuck,
            credit: limits.patience,
            too_slow: None,
            waiting_since: None,
            progressed: false,
        }
    }

    /// A write has to wait. Returns when the client counts as stuck.
    fn stuck_at(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now) + self.stuck
    }

    /// A write has to wait. Returns when the client counts as too slow: at once if it was too slow
    /// a short while ago.
    fn too_slow_at(&self, now: Instant) -> Instant {
        if self.is_on_probation(now) {
            now
        } else {
            now + self.credit
        }
    }

    fn is_on_probation(&self, now: Instant) -> bool {
        self.too_slow
            .is_some_and(|then| now - then < self.probation)
    }

    /// A write has waited so long. That alone does not make the client too slow: this program may have
    /// been stopped meanwhile.
    fn spend(&mut self, begun: Instant, now: Instant, is_too_slow: bool) {
        self.credit = self.credit.saturating_sub(now - begun);
        if self.credit.is_zero() && is_too_slow {
            self.too_slow = Some(now);
        }
    }

    /// The client has taken so many bytes.
    fn earn(&mut self, bytes: usize) {
        self.progressed |= self.waiting_since.take().is_some();
        let earned = Duration::from_nanos(self.nanos_a_byte * bytes as u64);
        self.credit = self.patience.min(self.credit + earned);
    }
}
