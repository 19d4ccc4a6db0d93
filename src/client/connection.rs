//! One WebSocket's life: typed lines go out, frames come in, until either end says goodbye or the
//! link is dead.
//!
//! The WebSocket library works in memory here. It reads from the socket, but what it sends it
//! encodes into a vector, and this file writes that to the socket. So encoding never waits, and
//! after a failed write the library still reads: the server's Close, which says why, may be there.

use std::fmt;
use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::io::{Chain, Join, ReadHalf, WriteHalf};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_websockets::WebSocketStream;
use tokio_websockets::{ClientBuilder, CloseCode, Error, Limits as WsLimits, Message};

use crate::client::chat::{Chat, UNCONFIRMED};
use crate::client::connect::Opened;
use crate::client::event::Event;
use crate::protocol::close::{self, Fault};
use crate::protocol::keepalive::{Alarm, Keepalive};
use crate::protocol::line;

/// Reads what came behind the handshake and then the socket; writes into memory.
type Codec<S> = WebSocketStream<Join<Chain<Cursor<Bytes>, ReadHalf<S>>, Vec<u8>>>;

/// A WebSocket, and the chat that goes over it.
pub struct Connection<'c, S> {
    chat: &'c mut Chat,
    codec: Codec<S>,
    socket: WriteHalf<S>,
    /// What is encoded and not yet written to the socket.
    unwritten: BytesMut,
    /// Writing has failed. What would be written is thrown away, and we only read.
    broken: bool,
    keepalive: Keepalive,
    /// We have sent a Close.
    goodbye: Option<Goodbye>,
}

struct Goodbye {
    /// Somebody wants to leave; otherwise it is the end of the input.
    wanted: bool,
    /// How long the server's answer may take.
    until: Instant,
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// Somebody wanted to leave.
    Left,
    /// The input has ended, and the server has taken all of it.
    InputSent,
    /// The input has ended, but the server did not answer our Close.
    Unconfirmed,
    /// The server sent a Close: its code and its reason.
    Closed(CloseCode, String),
    /// The server went away without a Close.
    Lost,
    /// The server does not answer any more.
    Silent,
    /// Nobody reads standard output, so the server was not heard for a long time.
    Unread,
    /// The server broke the protocol; we sent a Close with this code and this reason.
    Fault(Fault),
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left the chat",
            Self::InputSent => "the server has taken all of the input",
            Self::Unconfirmed => UNCONFIRMED,
            Self::Closed(code, reason) => {
                let no_reason = reason.is_empty().then_some("it gave no reason");
                let (reason, code) = (no_reason.unwrap_or(reason), close::words(*code));
                return write!(f, "the server closed the chat: {reason} ({code})");
            }
            Self::Lost => "connection lost: the server went away without a goodbye",
            Self::Silent => "connection lost: the server does not answer",
            Self::Unread => "connection lost: nobody reads the output, and too much is waiting",
            Self::Fault((code, why)) => {
                let code = close::words(*code);
                return write!(
                    f,
                    "connection closed: the server broke the rules: {why} ({code})"
                );
            }
        })
    }
}

/// What the library has read: a message, an error, or `None` when nothing more will come.
type Received = Option<Result<Message, Error>>;

impl<'c, S: AsyncRead + AsyncWrite> Connection<'c, S> {
    /// A connection over a stream that was just opened.
    #[must_use]
    pub fn new(opened: Opened<S>, chat: &'c mut Chat) -> Self {
        let (reader, socket) = tokio::io::split(opened.stream);
        let reader = Cursor::new(opened.early).chain(reader);
        let limits = WsLimits::default().max_payload_len(Some(chat.limits.from_server));
        let builder = ClientBuilder::new().limits(limits);
        chat.connected = true;
        Self {
            codec: builder.take_over(tokio::io::join(reader, Vec::new())),
            socket,
            unwritten: BytesMut::new(),
            broken: false,
            keepalive: Keepalive::new(chat.limits.quiet),
            goodbye: None,
            chat,
        }
    }

    /// Talks until the connection is over, and names the lines that are in doubt then.
    pub async fn talk(mut self) -> ConnectionEnd {
        let end = self.run().await;
        if let ConnectionEnd::Closed(..) | ConnectionEnd::Fault(_) = end {
            self.finish().await;
        }
        self.chat.connected = false;
        self.chat.name_doubtful();
        end
    }

    async fn run(&mut self) -> ConnectionEnd {
        loop {
            self.send_lines();
            let reading = self.reads_input();
            let listening = self.listens(self.most_to_show());
            let deadline = self.deadline();
            let end = tokio::select! {
                // A line was typed.
                event = self.chat.console.next(reading) => self.typed(event),
                // A frame arrived.
                received = self.codec.next(), if listening => self.received(received).await,
                // The socket has taken some of what is encoded.
                written = self.socket.write_buf(&mut self.unwritten),
                    if !self.unwritten.is_empty() => {
                        self.broken |= !matches!(written, Ok(1..));
                        None
                    }
                // Nobody has heard from the server for a while.
                () = sleep_until(self.keepalive.due()) => self.alarm().await,
                // The time to leave has come, or our Close was not answered.
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.late()
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Encodes lines that wait, as long as not much is unwritten, and all that is queued.
    fn send_lines(&mut self) {
        if self.goodbye.is_none() && !self.broken {
            let room = self.chat.limits.batch.saturating_sub(self.unwritten.len());
            for message in self.chat.outbox.batch(room) {
                self.send(message);
            }
        }
        self.encode();
    }

    /// Queues a message to be encoded.
    fn send(&mut self, message: Message) {
        // An error means that a Close was sent already, and nothing may come behind it.
        let _ = self.codec.start_send_unpin(message);
    }

    /// Encodes what is queued: messages, and the library's answers to pings and to a Close.
    fn encode(&mut self) {
        // Writing into memory is done at once and does not fail.
        let _ = self.codec.flush().now_or_never();
        let encoded = self.codec.get_mut().writer_mut();
        self.unwritten.extend_from_slice(encoded);
        encoded.clear();
        if self.broken {
            self.unwritten.clear();
        }
    }

    /// Whether more input is taken. After our Close nothing can be sent.
    fn reads_input(&self) -> bool {
        self.goodbye.is_none() && !self.chat.is_full()
    }

    /// How many bytes may wait for the reader of the output before the server is not heard any
    /// more. After a ping it is heard longer: a sign of life may be behind what nobody reads.
    fn most_to_show(&self) -> usize {
        let limits = &self.chat.limits;
        if self.keepalive.is_asking() {
            limits.ahead
        } else {
            limits.gather
        }
    }

    /// Whether messages are read. Not while the server lets our answers to its pings pile up.
    fn listens(&self, most_to_show: usize) -> bool {
        self.chat.console.waiting() < most_to_show
            && self.unwritten.len() < self.chat.limits.unwritten
    }

    /// Takes what happened at one of the ends, and the lines that are there already behind it.
    fn typed(&mut self, event: Event) -> Option<ConnectionEnd> {
        // After our Close nothing can be sent. A second wish to leave matters, and an output that
        // cannot be written is still a failure.
        if self.goodbye.is_some() {
            let leaves = matches!(event, Event::Leave);
            if let Event::OutputEnded(_) = event {
                let _ = self.chat.take(event);
            }
            return leaves.then(|| self.leave(true)).flatten();
        }
        let mut next = Some(event);
        while let Some(event) = next {
            if self.chat.take(event).is_break() {
                return self.leave(true);
            }
            let more = self.reads_input();
            next = more.then(|| self.chat.console.ready()).flatten();
        }
        None
    }

    /// Sends a Close. Whoever wants to leave a second time does not wait for the answer.
    fn leave(&mut self, wanted: bool) -> Option<ConnectionEnd> {
        match &self.goodbye {
            None => self.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")),
            Some(goodbye) if goodbye.wanted => return Some(ConnectionEnd::Left),
            Some(_) => {}
        }
        let limits = &self.chat.limits;
        // The server may be held up by others before it reads our last line.
        let patience = if wanted {
            limits.close
        } else {
            2 * limits.quiet
        };
        let until = Instant::now() + patience;
        self.goodbye = Some(Goodbye { wanted, until });
        None
    }

    /// When to leave, or to stop waiting for the answer to our Close. What is left of the input
    /// is sent before.
    fn deadline(&self) -> Option<Instant> {
        match &self.goodbye {
            Some(goodbye) => Some(goodbye.until),
            None => self.chat.until.filter(|_| self.chat.outbox.waiting() == 0),
        }
    }

    fn late(&mut self) -> Option<ConnectionEnd> {
        match self.goodbye {
            Some(_) => Some(self.end(None)),
            None => self.leave(false),
        }
    }

    async fn alarm(&mut self) -> Option<ConnectionEnd> {
        let alarm = self.keepalive.alarm();
        if alarm == Alarm::Ask {
            self.send(Message::ping(""));
        }
        if alarm != Alarm::Dead {
            return None;
        }
        // After this program was stopped for a while, the answer may be there already. A task
        // that ran for long is told that nothing is ready, so others run first.
        yield_now().await;
        let ahead = self.chat.limits.ahead;
        match self.ready(ahead) {
            Some(received) => self.received(received).await,
            None if self.chat.console.waiting() < ahead => Some(ConnectionEnd::Silent),
            None => Some(ConnectionEnd::Unread),
        }
    }

    /// What is there to be read already, if anything may be read.
    fn ready(&mut self, most_to_show: usize) -> Option<Received> {
        self.encode();
        let listens = self.listens(most_to_show);
        listens.then(|| self.codec.next().now_or_never()).flatten()
    }

    /// Takes what was read, and what is there to be read already behind it.
    async fn received(&mut self, received: Received) -> Option<ConnectionEnd> {
        let most_to_show = self.most_to_show();
        self.keepalive.heard();
        let mut next = Some(received);
        while let Some(received) = next {
            let end = self.hear(received);
            if end.is_some() {
                return end;
            }
            next = self.ready(most_to_show);
        }
        // However fast the server is, signals and keys come through.
        yield_now().await;
        None
    }

    fn hear(&mut self, received: Received) -> Option<ConnectionEnd> {
        let fault = match received {
            Some(Ok(message)) => return self.message(&message),
            Some(Err(error)) if self.goodbye.is_none() => close::fault(&error),
            _ => None,
        };
        Some(match fault {
            Some(fault) => self.fault(fault),
            None => self.end(None),
        })
    }

    fn message(&mut self, message: &Message) -> Option<ConnectionEnd> {
        if let Some((code, reason)) = message.as_close() {
            let reason = line::clean(reason).into_owned();
            return Some(self.end(Some((code, reason))));
        }
        if message.is_pong() {
            self.chat.outbox.confirm(message.as_payload());
        }
        if message.is_text() {
            let Ok(text) = line::text(message) else {
                return Some(self.fault(close::NOT_UTF8));
            };
            for line in line::lines(text) {
                self.chat.console.show(&line::clean(line));
            }
        }
        None
    }

    /// The server broke the protocol: it is told how, in a Close (RFC 6455 7.1.7).
    fn fault(&mut self, fault: Fault) -> ConnectionEnd {
        self.send(Message::close(Some(fault.0), &fault.1));
        ConnectionEnd::Fault(fault)
    }

    /// What it means that the server's Close came, or that nothing more will come.
    fn end(&mut self, close: Option<(CloseCode, String)>) -> ConnectionEnd {
        let normal = matches!(close, Some((CloseCode::NORMAL_CLOSURE, _)));
        if self.goodbye.is_some() && normal {
            self.chat.outbox.confirm_all();
        }
        match (&self.goodbye, close) {
            (Some(goodbye), _) if goodbye.wanted => ConnectionEnd::Left,
            (Some(_), _) if self.chat.outbox.is_empty() => ConnectionEnd::InputSent,
            (_, Some((code, reason))) => ConnectionEnd::Closed(code, reason),
            (Some(_), None) => ConnectionEnd::Unconfirmed,
            (None, None) => ConnectionEnd::Lost,
        }
    }

    /// Writes what is left, ends our half of the stream, and reads to the end of the server's.
    async fn finish(&mut self) {
        self.encode();
        let goodbye = async {
            let written = self.socket.write_all_buf(&mut self.unwritten).await;
            if written.is_ok() {
                let reader = self.codec.get_mut().reader_mut();
                close::linger(&mut tokio::io::join(reader, &mut self.socket)).await;
            }
        };
        let _ = timeout(self.chat.limits.close, goodbye).await;
    }
}
