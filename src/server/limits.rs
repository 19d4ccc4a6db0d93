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
/// + 4           * journal                      two outputs: what waits and what is being written
/// + ring        * (batch + longest)            the room's backlog
/// + connections * (2 * message + gather + batch + longest + 16 KiB)
/// ```
///
/// where `longest` is one line as it is relayed: at most `3 * message + 64` bytes, since each
/// replaced control character grows from one byte to three and a name is put in front. The
/// third line is what all senders together can leave unread; the fourth what one connection can
/// hold: a half-received message and the buffer it is read through, what is being written to it
/// (the batch that fills `gather` may be a whole one), and its task. [`Limits::memory`] computes it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one message from a client: a long paragraph, several times over.
    pub message: usize,
    /// Connections at once, handshakes included: four times what one chat room can be.
    pub connections: usize,
    /// Connections beyond `connections` that are being told so (503). The next ones wait in the
    /// listener's backlog.
    pub refusals: usize,
    /// Descriptors beside the connections: the three standard ones, the listener, the runtime's.
    pub descriptors: usize,
    /// Connections that the system holds until they are accepted. Beyond it newcomers wait for
    /// lost packets to be sent again, so a crowd that comes back must fit.
    pub backlog: u32,
    /// Bytes of HTTP head, as most web servers allow.
    pub head: usize,
    /// From the TCP connection to the open WebSocket: twice a round trip to the other side of
    /// the world with a lost packet or two.
    pub handshake: Duration,
    /// One write may make no progress for this long. The others are at most this long beside a
    /// reader that stopped.
    pub write: Duration,
    /// Bytes that the system holds for a reader beyond what is on its way to it.
    pub unsent: u32,
    /// A goodbye: Close, its answer, the end of the TCP stream.
    pub close: Duration,
    /// Silence after which a ping asks whether the link lives, and again how long the answer
    /// may take: a dead link is noticed within twice this.
    pub quiet: Duration,
    /// From the signal to the end of the server; the promise is 5 s.
    pub drain: Duration,
    /// Batches that the room keeps for those who are behind (a power of two).
    pub ring: usize,
    /// Bytes after which a batch is full: big enough that its overhead vanishes, small enough
    /// that a flood does not delay the line after it.
    pub batch: usize,
    /// Bytes after which a connection lets the others go on …
    pub turn: usize,
    /// … and messages, since those without a line cost time too.
    pub messages: usize,
    /// Bytes after which a receiver writes instead of taking one more batch that is ready.
    pub gather: usize,
    /// While the slowest reader is more than half the ring behind, a speaker waits this long
    /// before it looks again …
    pub pause: Duration,
    /// … and this long at most for one batch: nobody who types notices it, and one stuck reader
    /// cannot stretch it.
    pub hold: Duration,
    /// Bytes of output that wait for a slow standard output or standard error.
    pub journal: usize,
    /// How long a line of output may wait for others to be written with it.
    pub journal_pause: Duration,
    /// Lines a second on standard error about refused strangers.
    pub complaints: u32,
    /// The accept loop's rest when the system is out of descriptors, doubled up to `rest_most`.
    pub rest: Duration,
    /// The longest rest of the accept loop.
    pub rest_most: Duration,
}

impl Limits {
    /// Bytes of the longest line as it is relayed.
    #[must_use]
    pub const fn longest(&self) -> usize {
        longest(self.message)
    }

    /// Bytes of resident memory that the server stays below, whatever its clients do.
    #[must_use]
    pub const fn memory(&self) -> usize {
        let batch = self.batch + self.longest();
        let connection = 2 * self.message + self.gather + batch + 16 * 1024;
        16 * 1024 * 1024 + self.ring * batch + (self.connections + self.refusals) * connection
    }

    /// What the programs run with unless a flag says otherwise.
    pub const DEFAULT: Self = Self {
        message: MESSAGE,
        connections: 4096,
        refusals: 16,
        descriptors: 16,
        backlog: 1024,
        head: HEAD,
        handshake: Duration::from_secs(5),
        write: Duration::from_secs(5),
        unsent: 16 * 1024,
        close: CLOSE,
        quiet: QUIET,
        drain: Duration::from_millis(4500),
        ring: 1024,
        batch: 16 * 1024,
        turn: 64 * 1024,
        messages: 1024,
        gather: 128 * 1024,
        pause: Duration::from_millis(5),
        hold: Duration::from_millis(250),
        journal: 4 * 1024 * 1024,
        journal_pause: Duration::from_millis(5),
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
