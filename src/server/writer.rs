//! The one way out of a connection: whatever is sent to a client passes here, so that frames of
//! the room and of the WebSocket library can never end up inside each other. It also measures how
//! fast the client takes what is sent.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, SimplexStream};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout};

use crate::server::limits::Limits;

/// Pieces that are written in one call; more gain nothing.
const SLICES: usize = 64;

/// The sending side of a connection.
#[derive(Debug)]
pub struct Writer<W> {
    socket: W,
    /// The pipe through which the WebSocket library sends frames: pongs.
    control: ReadHalf<SimplexStream>,
    /// The beginning of such a frame.
    partial: BytesMut,
    /// What is to be written before anything else; the first may be half written.
    unwritten: Vec<Bytes>,
    pace: Pace,
}

/// How far a write came.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// Everything was written.
    All,
    /// A client that is waited for takes less than it must. Writing can go on.
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
    /// Writes to `socket`, also the frames that arrive in `control`.
    #[must_use]
    pub fn new(socket: W, control: ReadHalf<SimplexStream>, limits: &Limits) -> Self {
        Self {
            socket,
            control,
            partial: BytesMut::new(),
            unwritten: Vec::new(),
            pace: Pace::new(limits),
        }
    }

    /// Puts frames behind what is not written yet.
    pub fn push(&mut self, frames: impl IntoIterator<Item = Bytes>) {
        self.unwritten.extend(frames);
    }

    /// Waits until the library has something to send, and puts it behind the rest. May be
    /// cancelled: nothing is lost.
    pub async fn push_control(&mut self) {
        loop {
            let frames = self.whole_frames();
            if !frames.is_empty() {
                return self.unwritten.push(frames);
            }
            if !matches!(self.control.read_buf(&mut self.partial).await, Ok(1..)) {
                // The library will send nothing any more.
                std::future::pending::<()>().await;
            }
            // One such read takes little; whoever sends pings in masses gets all pongs in one write.
            let mut more = || self.control.read_buf(&mut self.partial).now_or_never();
            while matches!(more(), Some(Ok(1..))) {}
        }
    }

    /// The same with what is there already.
    pub fn push_ready_control(&mut self) {
        let _ = self.push_control().now_or_never();
    }

    /// Takes the whole frames out of what the library has sent. Its pipe may be full in the middle
    /// of a frame, and nothing else must be sent before that frame's end.
    fn whole_frames(&mut self) -> Bytes {
        let mut end = 0;
        // Control frames have the two bytes of the short form (RFC 6455 5.5), and no mask.
        while let Some([_, len]) = self.partial[end..].first_chunk()
            && self.partial.len() >= end + 2 + usize::from(*len)
        {
            end += 2 + usize::from(*len);
        }
        self.partial.split_to(end).freeze()
    }

    /// Writes what waits; `counted` is whether others wait for this client. May be cancelled: the
    /// rest waits on.
    pub async fn flush(&mut self, counted: bool) -> Written {
        while !self.unwritten.is_empty() {
            let written = match self.write_now() {
                Some(written) => written,
                // Boxed, since it is rare, and an idle connection should not keep room for it.
                None => match Box::pin(self.wait_to_write(counted)).await {
                    Ok(written) => written,
                    Err(Written::All) => continue,
                    Err(late) => return late,
                },
            };
            match written {
                Ok(n @ 1..) => {
                    self.pace.pay(n);
                    self.advance(n);
                }
                _ => return Written::Broken,
            }
        }
        Written::All
    }

    /// Whether the client owes something, or was ever too slow.
    #[must_use]
    pub fn was_late(&self) -> bool {
        self.pace.debt > 0 || self.pace.slow.is_some()
    }

    /// The client has taken everything there is: what it was late with is forgotten.
    pub fn caught_up(&mut self) {
        self.pace.debt = 0;
    }

    /// Whether the client has not been too slow during the last probation.
    #[must_use]
    pub fn keeps_up(&self) -> bool {
        let pace = &self.pace;
        pace.slow
            .is_none_or(|slow| slow.elapsed() >= pace.probation)
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

    /// One call of the system with all that waits.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // On the stack, not in the future, which is kept for each connection.
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = self.unwritten.len().min(SLICES);
        for (slice, bytes) in slices.iter_mut().zip(&self.unwritten) {
            *slice = IoSlice::new(bytes);
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..count])
    }

    /// What the system takes at once; `None` when it takes nothing now.
    fn write_now(&mut self) -> Option<io::Result<usize>> {
        // A turn that has been long must not look like a client that takes nothing.
        unconstrained(poll_fn(|cx| self.poll_write(cx))).now_or_never()
    }

    /// Waits until the system takes more, and keeps account of the time that takes.
    async fn wait_to_write(&mut self, counted: bool) -> Result<io::Result<usize>, Written> {
        let patience = self.pace.begin(counted);
        match timeout(patience, poll_fn(|cx| self.poll_write(cx))).await {
            Ok(written) => {
                self.pace.end();
                Ok(written)
            }
            // A last attempt has just failed, so the system really takes nothing now.
            Err(_) => Err(self.pace.expire(counted)),
        }
    }

    /// Takes `n` written bytes off what waits.
    fn advance(&mut self, mut n: usize) {
        let mut whole = 0;
        for bytes in &mut self.unwritten {
            if n < bytes.len() {
                let _ = bytes.split_to(n);
                break;
            }
            n -= bytes.len();
            whole += 1;
        }
        self.unwritten.drain(..whole);
    }
}

/// How fast a client takes what is sent to it, as an account: for each second in which the system
/// takes no more, the client owes so many bytes; whatever it takes pays for it. Bytes and not only
/// time decide, so that a client is not blamed when this server was the one without time: a client
/// that was ready meanwhile takes much at once.
#[derive(Debug)]
struct Pace {
    /// Bytes a second that the client owes while it is behind.
    rate: u64,
    /// The debt at which it is too slow.
    allowance: u64,
    probation: Duration,
    stuck: Duration,
    debt: u64,
    /// Until when the debt is accounted, while a write waits.
    since: Instant,
    /// When the client last took something, while a write waits.
    taken: Option<Instant>,
    /// When the client was last too slow.
    slow: Option<Instant>,
    progressed: bool,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            rate: limits.rate as u64,
            allowance: limits.allowance as u64,
            probation: limits.probation,
            stuck: limits.stuck,
            debt: 0,
            since: Instant::now(),
            taken: None,
            slow: None,
            progressed: false,
        }
    }

    /// The system takes no more. Returns how long that can go on before it means something.
    fn begin(&mut self, counted: bool) -> Duration {
        let now = Instant::now();
        let taken = *self.taken.get_or_insert(now);
        self.since = now;
        let until_stuck = (taken + self.stuck).saturating_duration_since(now);
        if !counted {
            return until_stuck;
        }
        let left = self.allowance.saturating_sub(self.debt);
        until_stuck.min(Duration::from_micros(left * 1_000_000 / self.rate))
    }

    /// The system takes more.
    fn end(&mut self) {
        self.account(Instant::now());
        (self.taken, self.progressed) = (None, true);
    }

    /// The system has taken nothing for as long as `begin` returned.
    fn expire(&mut self, counted: bool) -> Written {
        let now = Instant::now();
        self.account(now);
        if self.taken.is_some_and(|taken| now - taken >= self.stuck) {
            return Written::Stuck(self.stuck);
        }
        if counted && self.slow == Some(now) {
            return Written::TooSlow;
        }
        Written::All
    }

    /// Adds the time since `begin` to the debt.
    fn account(&mut self, now: Instant) {
        let micros = u64::try_from((now - self.since).as_micros()).unwrap_or(u64::MAX);
        let owed = micros.saturating_mul(self.rate) / 1_000_000;
        self.debt = self.allowance.min(self.debt.saturating_add(owed));
        self.since = now;
        if self.debt == self.allowance {
            self.slow = Some(now);
        }
    }

    /// The client has taken so many bytes.
    fn pay(&mut self, bytes: usize) {
        self.debt = self.debt.saturating_sub(bytes as u64);
    }
}
