//! Every number of the client, each with its reason. Tests shrink them instead of waiting.

use std::time::Duration;

use crate::protocol::limits::{CLOSE, HEAD, MESSAGE, MESSAGE_MOST, QUIET, longest};

/// What a slow server, a dead link or a reader that stops may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one line to send.
    pub message: usize,
    /// Bytes of HTTP head in a server's answer.
    pub head: usize,
    /// A name lookup, a TCP connection and a handshake.
    pub connect: Duration,
    /// After this another address of the same name is tried beside those that do not answer (RFC 8305 5).
    pub next_address: Duration,
    /// Bytes that the system receives for us before we take them. Left alone, Linux makes that
    /// megabytes for a client that was fast for a while. If its output is then read slowly, a server
    /// sees nothing being taken until much of that is empty again, and would not wait so long.
    pub receive: u32,
    /// The body of an HTTP answer that is no WebSocket: a sentence that says why.
    pub sentence: Duration,
    /// A goodbye: Close, its answer, the end of the TCP stream.
    pub close: Duration,
    /// Silence before a ping, and again how long its answer may take.
    pub quiet: Duration,
    /// What a reader that stopped may take of the end, after a wish to leave: once for what was
    /// received and once for the last line about the chat. Together with `close` less than 3 s.
    pub last_words: Duration,
    /// Lines that are read ahead of the socket.
    pub queue: usize,
    /// Bytes that are encoded and not yet written, beyond which no more lines are encoded. Behind
    /// each batch of lines a ping asks whether they have arrived.
    pub batch: usize,
    /// Bytes that are encoded and not yet written, beyond which nothing is read: answers to a
    /// server that pings and does not read. Far more than `batch` and the longest line, since two
    /// ends that both only write would wait for ever.
    pub unwritten: usize,
    /// Bytes that wait for a slow standard output before the socket is not read any more.
    pub gather: usize,
    /// Bytes that wait for a standard output that nobody reads before a server is given up that
    /// may have answered behind them.
    pub ahead: usize,
    /// Bytes of lines that are kept until the server has taken them.
    pub outbox: usize,
    /// Bytes of one message from a server: the longest line of one that allows the most.
    pub from_server: usize,
}

impl Limits {
    /// What the client runs with unless a flag says otherwise.
    pub const DEFAULT: Self = Self {
        message: MESSAGE,
        head: HEAD,
        connect: Duration::from_secs(10),
        next_address: Duration::from_millis(250),
        receive: 64 * 1024,
        sentence: Duration::from_secs(1),
        close: CLOSE,
        quiet: QUIET,
        last_words: Duration::from_millis(300),
        queue: 256,
        batch: 16 * 1024,
        unwritten: 1024 * 1024,
        gather: 128 * 1024,
        ahead: 1024 * 1024,
        outbox: 1024 * 1024,
        from_server: longest(MESSAGE_MOST),
    };
}
