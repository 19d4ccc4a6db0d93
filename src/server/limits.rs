//! Every number of the server, each with its reason. Tests shrink them instead of waiting.

use std::time::Duration;

use crate::protocol::limits::{CLOSE, HEAD, MESSAGE, QUIET, longest};

/// What a stranger, a slow reader or a dead link may cost.
///
/// # Memory
///
/// The server's resident memory stays below
///
/// ```text
///   16 MiB                                     program and allocator
/// + 4           * log                          two outputs: what waits and what is being written
/// + ring        * full                         the room's backlog
/// + connections * (2 * message + gather + 3 * full + 32 * ring + 16 KiB)
/// ```
///
/// where `full = batch + longest` is a full batch, to which one line more was added, and `longest`
/// is one line as it is relayed ([`longest`]). The third line is what slow readers can leave
/// unread; the fourth what one connection can hold: a half-received message and the buffer it is
/// read through, what is being written to it (the batch that fills `gather` may be a whole one),
/// lines that wait for the room to take them, as frames and as text for the log, where its own
/// lines stand in the room, and its task. [`Limits::memory`] computes it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one message from a client.
    pub message: usize,
    /// Connections at once, handshakes included: four times what one chat room can be.
    pub connections: usize,
    /// Connections beyond `connections` that are being told so (503). The next ones wait in the
    /// listener's queue.
    pub refusals: usize,
    /// Descriptors beside the connections: the three standard ones, the listener, the runtime's.
    pub descriptors: usize,
    /// Connections that the system holds until they are accepted. Beyond it newcomers wait for
    /// lost packets to be sent again, so a crowd that comes back must fit.
    pub accept_queue: u32,
    /// Bytes of HTTP head.
    pub head: usize,
    /// From the TCP connection to the open WebSocket: twice a round trip to the other side of
    /// the world with a lost packet or two.
    pub handshake: Duration,
    /// Bytes of pongs that wait to be written to one connection. A peer that sends pings and
    /// does not read is not read any more when its pongs exceed this.
    pub control: usize,
    /// Bytes a second that a reader must take while it is behind, to be waited for. A little less
    /// than the 64 KiB of the promise, so that no jitter decides about a reader at just that rate.
    pub rate: usize,
    /// Bytes that a reader may be behind this rate before the room no longer waits for it. A
    /// system often shows that its reader takes something only when the whole receive buffer,
    /// usually 128 KiB, is empty again; so this is a little more than that.
    pub allowance: usize,
    /// How long a reader that was too slow must keep up before the room waits for it again.
    pub probation: Duration,
    /// A reader that takes nothing for this long is gone. At 10 KB/s it takes 13 s until a
    /// receive buffer of 128 KiB is empty and its system shows that something was taken.
    pub stuck: Duration,
    /// Bytes that the system holds for a reader beyond what is on its way to it.
    pub unsent: u32,
    /// A goodbye: Close and the end of the TCP stream.
    pub close: Duration,
    /// Silence before a ping, and again how long its answer may take.
    pub quiet: Duration,
    /// After the signal to stop, lines that were read already get this long to be said.
    pub last_words: Duration,
    /// From the signal to the end of the server; the promise is 5 s.
    pub drain: Duration,
    /// Batches that the room keeps for those who are behind (a power of two).
    pub ring: usize,
    /// Bytes that the slowest reader that is waited for may be behind before those who speak
    /// wait. At the lowest rate, these and what is being written are delivered before `drain`.
    pub backlog: usize,
    /// Bytes after which a batch is full: big enough that its overhead vanishes, small enough
    /// that a flood does not delay the line after it.
    pub batch: usize,
    /// Bytes after which a connection lets the others go on …
    pub turn: usize,
    /// … and messages, since those without a line cost time too.
    pub messages: usize,
    /// Bytes after which a receiver writes instead of taking one more batch that is ready.
    pub gather: usize,
    /// Bytes of output that wait for a slow standard output or standard error.
    pub log: usize,
    /// How long a line of output may wait for others to be written with it.
    pub log_pause: Duration,
    /// How long the log waits after an error, for instance of a full disk, before it tries again.
    pub log_retry: Duration,
    /// Lines a second on standard error about refused strangers.
    pub complaints: u32,
    /// The accept loop's rest when the system is out of descriptors, doubled up to `rest_most`.
    pub rest: Duration,
    /// The longest rest of the accept loop.
    pub rest_most: Duration,
}

impl Limits {
    /// Bytes of a full batch to which one line more was added.
    const fn full(&self) -> usize {
        self.batch + longest(self.message)
    }

    /// Bytes of resident memory that the server stays below, whatever its clients do.
    #[must_use]
    pub const fn memory(&self) -> usize {
        let own_lines = 32 * self.ring;
        let connection = 2 * self.message + self.gather + 3 * self.full() + own_lines + 16 * 1024;
        16 * 1024 * 1024
            + 4 * self.log
            + self.ring * self.full()
            + (self.connections + self.refusals) * connection
    }

    /// What the server runs with unless a flag says otherwise.
    pub const DEFAULT: Self = Self {
        message: MESSAGE,
        connections: 4096,
        refusals: 16,
        descriptors: 16,
        accept_queue: 1024,
        head: HEAD,
        handshake: Duration::from_secs(5),
        control: 4 * 1024,
        rate: 56 * 1024,
        allowance: 144 * 1024,
        probation: Duration::from_secs(10),
        stuck: Duration::from_secs(15),
        unsent: 16 * 1024,
        close: CLOSE,
        quiet: QUIET,
        last_words: Duration::from_millis(500),
        drain: Duration::from_millis(4500),
        ring: 256,
        backlog: 128 * 1024,
        batch: 16 * 1024,
        turn: 64 * 1024,
        messages: 1024,
        gather: 64 * 1024,
        log: 4 * 1024 * 1024,
        log_pause: Duration::from_millis(5),
        log_retry: Duration::from_secs(1),
        complaints: 5,
        rest: Duration::from_millis(10),
        rest_most: Duration::from_secs(1),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
