//! What the server counts of itself, and who is told: monitoring (`exporter`, a cargo feature), and
//! whoever sends SIGUSR1, in a line on standard error.
//!
//! What is counted is the whole program's, so it is in statics, and each place that counts has one line
//! for that. A counter is an atomic number that nobody waits for; it is counted once for each batch or
//! each call of the system, and not for each line, so it costs nothing that can be measured. How long
//! something took is kept only in a build with the feature.

#[cfg(feature = "metrics")]
pub mod exporter;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/without_exporter.rs"]
pub mod exporter;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::os::cannot_start;
use crate::server::ended::Ended;
use crate::server::handshake::Refusal;
use crate::server::log::Log;
use crate::server::rooms::Rooms;
pub use exporter::Times;

/// Connections that came into a room.
pub static CONNECTIONS: Counter = Counter::new();
/// Those that are in one.
pub static OPEN: Gauge = Gauge::new();
/// Lines that were taken from clients.
pub static LINES: Counter = Counter::new();
/// Lines that were handed on to receivers, one for each of them.
pub static DELIVERIES: Counter = Counter::new();
/// Lines that receivers were told they had missed, where it is known how many.
pub static MISSED: Counter = Counter::new();
/// Bytes that came from clients and strangers, decrypted.
pub static RECEIVED: Counter = Counter::new();
/// Bytes that went to them, before they were encrypted.
pub static SENT: Counter = Counter::new();
/// Lines of output that were dropped, since nobody read it.
pub static DROPPED: Counter = Counter::new();
/// Those who wait to speak until receivers, or a store, have taken what was said before.
pub static HELD: Gauge = Gauge::new();
/// How long they waited.
pub static HOLDS: Times = Times::new();
/// From the TCP connection to a place in a room, with TLS and all questions to a store.
pub static HANDSHAKES: Times = Times::new();
/// Commits of `--store`.
pub static COMMITS: Times = Times::new();
/// Lines to NATS, until it delivered them.
pub static PUBLISHES: Times = Times::new();

/// Strangers that were refused, by the status that they were answered with.
pub static REFUSALS: Family<12> = Family::new([
    "400", "401", "403", "405", "408", "409", "426", "429", "431", "503", "none", "other",
]);
/// Connections that ended, by the code of the Close. 1006 stands for none (RFC 6455 7.4.1). Clients can
/// send 4,000 others, which are one here.
pub static CLOSES: Family<12> = Family::new([
    "1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009", "1011", "1012", "other",
]);

/// A number that only grows.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Counts what is added to this, all at once when it is dropped.
    pub fn later(&self) -> Later<'_> {
        Later {
            counter: self,
            more: 0,
        }
    }
}

/// What a counter gets when this is dropped.
#[derive(Debug)]
pub struct Later<'c> {
    counter: &'c Counter,
    more: u64,
}

impl Later<'_> {
    /// So many more.
    pub fn add(&mut self, more: u64) {
        self.more += more;
    }
}

impl Drop for Later<'_> {
    fn drop(&mut self) {
        self.counter.add(self.more);
    }
}

/// How many there are of something now.
#[derive(Debug)]
pub struct Gauge(AtomicU64);

impl Gauge {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more, until what this returns is dropped.
    pub fn hold(&'static self) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(self)
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One of those that a gauge counts.
#[derive(Debug)]
pub struct Held(&'static Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// Somebody who has to wait to speak, until this is dropped.
#[derive(Debug)]
pub struct Holding {
    since: Instant,
    _held: Held,
}

impl Holding {
    /// The wait begins.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            since: Instant::now(),
            _held: HELD.hold(),
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        HOLDS.observe(self.since.elapsed());
    }
}

/// Counters that differ in a label, of which there are so many values. The last one stands for all that
/// are not among them, so nobody can make it more.
#[derive(Debug)]
pub struct Family<const N: usize> {
    values: [&'static str; N],
    counters: [Counter; N],
}

impl<const N: usize> Family<N> {
    const fn new(values: [&'static str; N]) -> Self {
        let counters = [const { Counter::new() }; N];
        Self { values, counters }
    }

    /// One more with this value.
    fn count(&self, value: &str) {
        let found = self.values.iter().position(|known| *known == value);
        self.counters[found.unwrap_or(N - 1)].add(1);
    }

    /// Each value with its number.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let values = self.values.iter().copied();
        values.zip(self.counters.iter().map(Counter::get))
    }
}

/// A stranger who waits for an answer. It is counted when it has one: who is refused may still be a while
/// in leaving. Dropped before, it was turned away without a word.
#[derive(Debug)]
pub struct Stranger {
    came: Instant,
    is_answered: AtomicBool,
}

impl Stranger {
    /// Somebody has come.
    #[must_use]
    pub fn arrives() -> Self {
        Self {
            came: Instant::now(),
            is_answered: AtomicBool::new(false),
        }
    }

    /// It is let in.
    pub fn count_admitted(self) {
        HANDSHAKES.observe(self.came.elapsed());
        self.is_answered.store(true, Relaxed);
    }

    /// It is refused, or has left by itself. Only the first call counts.
    pub fn count_refused(&self, refusal: &Refusal) {
        if self.is_answered.swap(true, Relaxed) {
            return;
        }
        match refusal {
            Refusal::Answered(status, _) => REFUSALS.count(status.as_str()),
            Refusal::Unanswered(_) => turned_away(),
            Refusal::Left | Refusal::HealthCheck(_) => {}
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        if !*self.is_answered.get_mut() {
            turned_away();
        }
    }
}

/// A stranger was turned away without a word, since there are too many from its address, or too many for
/// whom there is no place.
pub fn turned_away() {
    REFUSALS.count("none");
}

/// A connection that is in a room. When this is dropped it has ended.
#[derive(Debug)]
pub struct Open {
    code: u16,
    _held: Held,
}

impl Open {
    /// Somebody has come in.
    #[must_use]
    pub fn begin() -> Self {
        CONNECTIONS.add(1);
        Self {
            code: 1006, // until it is known
            _held: OPEN.hold(),
        }
    }

    /// It ends, for this reason.
    pub fn ends(&mut self, ended: &Ended) {
        if let Some((code, _)) = ended.goodbye() {
            self.code = code.into();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        CLOSES.count(&self.code.to_string());
    }
}

/// The state of the server in one line for the operator.
struct State<'a>(&'a Rooms);

impl fmt::Display for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rooms, sessions) = self.0.count();
        let refused: u64 = REFUSALS.iter().map(|(_, count)| count).sum();
        write!(
            f,
            "connections: {} ({} so far); rooms: {rooms}; sessions: {sessions}; lines taken: {}, \
             delivered: {}, missed: {}; waiting to speak: {}; strangers refused: {refused}; log lines \
             dropped: {}; ",
            OPEN.get(),
            CONNECTIONS.get(),
            LINES.get(),
            DELIVERIES.get(),
            MISSED.get(),
            HELD.get(),
            DROPPED.get(),
        )?;
        match self.0.trouble() {
            None => write!(f, "no trouble"),
            Some(trouble) => write!(f, "trouble: {trouble}"),
        }
    }
}

/// SIGUSR1, by which the operator asks how the server is, and which ends the program no more.
#[derive(Debug)]
pub struct StatusSignal(Signal);

impl StatusSignal {
    /// Listens for it. To be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// One line: the system does not allow it.
    pub fn listen() -> Result<Self, String> {
        let asked = signal(SignalKind::user_defined1());
        asked.map(Self).map_err(cannot_start)
    }

    /// Tells the operator how the server is whenever that was asked, from now on.
    pub fn tell(mut self, rooms: &Arc<Rooms>, log: &Log) {
        let (rooms, log) = (rooms.clone(), log.clone());
        tokio::spawn(async move {
            while self.0.recv().await.is_some() {
                log.warn(format_args!("{}", State(&rooms)));
            }
        });
    }
}
