//! One WebSocket's life: typed lines go out, frames come in, until either end sends a Close or the
//! link is dead.
//!
//! Each thing has one verb here. Lines of the input are *taken* from the console, messages of the
//! server are *received*, and `handle_…` is what is done with either.
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

/// The WebSocket library. It first reads the bytes that came together with the end of the
/// handshake, and then the socket. It writes into memory.
type Codec<S> = WebSocketStream<Join<Chain<Cursor<Bytes>, ReadHalf<S>>, Vec<u8>>>;

/// A WebSocket, and the chat that goes over it.
pub struct Connection<'c, S> {
    chat: &'c mut Chat,
    codec: Codec<S>,
    socket: WriteHalf<S>,
    /// What is encoded and not yet written to the socket.
    unwritten: BytesMut,
    /// Writing has failed. What would be written is thrown away, and we only receive.
    write_failed: bool,
    keepalive: Keepalive,
    /// Why we have sent a Close, if we have.
    goodbye: Option<Goodbye>,
}

/// Why we have sent a Close, and how long we wait for the server's answer.
enum Goodbye {
    /// Somebody wants to leave.
    Leaving(Instant),
    /// The input has ended.
    InputEnded(Instant),
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
    /// Nobody reads standard output. So we stopped receiving, and cannot tell whether the server
    /// still answers.
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
            write_failed: false,
            keepalive: Keepalive::new(chat.limits.quiet),
            goodbye: None,
            chat,
        }
    }

    /// Talks until the connection is over. Then prints the lines that the server may not have taken,
    /// unless it can still be asked.
    pub async fn talk(mut self) -> ConnectionEnd {
        let end = self.run().await;
        if let ConnectionEnd::Closed(..) | ConnectionEnd::Fault(_) = end {
            self.finish().await;
        }
        self.chat.disconnected(&end);
        end
    }

    async fn run(&mut self) -> ConnectionEnd {
        if self.chat.session.is_asked() {
            // A server that knows nothing of sessions may have nothing to say, but it answers this.
            self.send(Message::ping(""));
        }
        loop {
            self.send_lines();
            let may_take_input = self.may_take_input();
            let may_receive = self.may_receive(self.output_limit());
            let deadline = self.deadline();
            let end = tokio::select! {
                // A line was typed, or something else happened at the console.
                event = self.chat.console.next(may_take_input) => self.handle_events(event),
                // A message arrived.
                received = self.codec.next(), if may_receive => self.handle_all_received(received).await,
                // The socket has taken some of what is encoded. If it takes nothing, it never will.
                written = self.socket.write_buf(&mut self.unwritten),
                    if !self.unwritten.is_empty() => {
                        self.write_failed |= matches!(written, Ok(0) | Err(_));
                        None
                    }
                // Nobody has heard from the server for a while.
                () = sleep_until(self.keepalive.due()) => self.handle_alarm().await,
                // Without a deadline the time does not matter, but `select!` still evaluates it.
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.handle_deadline()
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Encodes everything that is queued, and before that queues lines from the outbox, as many as
    /// the limit for unwritten bytes allows. A server that was asked for our session first says which
    /// lines it has.
    fn send_lines(&mut self) {
        let may_send = self.goodbye.is_none() && !self.chat.session.is_asked();
        if may_send && !self.write_failed {
            let free = self.chat.limits.batch.saturating_sub(self.unwritten.len());
            for message in self.chat.outbox.batch(free) {
                self.send(message);
            }
        }
        self.encode();
    }

    /// Queues a message to be encoded.
    fn send(&mut self, message: Message) {
        // An error means that a Close was sent already, and nothing may be sent after it.
        let _ = self.codec.start_send_unpin(message);
    }

    /// Encodes what is queued: messages, and the library's answers to pings and to a Close.
    fn encode(&mut self) {
        // Writing into memory is done at once and does not fail.
        let _ = self.codec.flush().now_or_never();
        let encoded = self.codec.get_mut().writer_mut();
        self.unwritten.extend_from_slice(encoded);
        encoded.clear();
        if self.write_failed {
            self.unwritten.clear();
        }
    }

    /// Whether lines of the input are taken. After our Close nothing can be sent.
    fn may_take_input(&self) -> bool {
        self.goodbye.is_none() && !self.chat.is_full()
    }

    /// How many bytes may wait for the reader of the output before we stop receiving.
    ///
    /// When nobody reads the output, messages stay in the socket. If we have just sent a ping or our
    /// Close, the answer is behind them. So we receive more of them than usual, up to `ahead`, before we
    /// conclude that the server does not answer.
    fn output_limit(&self) -> usize {
        let limits = &self.chat.limits;
        if self.keepalive.is_asking() || self.goodbye.is_some() {
            limits.ahead
        } else {
            limits.gather
        }
    }

    /// Whether messages are received. They are not while the output has reached its limit, nor
    /// while the server sends pings and does not read our answers, which would fill the memory.
    fn may_receive(&self, output_limit: usize) -> bool {
        self.chat.console.waiting() < output_limit
            && self.unwritten.len() < self.chat.limits.unwritten
    }

    /// Handles an event of the console, and those after it that can be taken without waiting, so
    /// that all their lines are sent together.
    fn handle_events(&mut self, first: Event) -> Option<ConnectionEnd> {
        if self.goodbye.is_some() {
            return self.handle_event_after_close(first);
        }
        let mut next = Some(first);
        while let Some(event) = next {
            if self.chat.handle(event).is_break() {
                return self.leave();
            }
            next = self.chat.console.try_next(self.may_take_input());
        }
        None
    }

    /// After our Close, lines are ignored, since nothing can be sent any more.
    fn handle_event_after_close(&mut self, event: Event) -> Option<ConnectionEnd> {
        if let Event::Leave = event {
            return self.leave();
        }
        if let Event::OutputEnded(_) = event {
            // The chat remembers the error, because the program must still fail with it.
            let _ = self.chat.handle(event);
        }
        None
    }

    /// Somebody wants to leave: sends a Close, and waits a short time for the server's answer.
    fn leave(&mut self) -> Option<ConnectionEnd> {
        match self.goodbye {
            None => self.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")),
            // This is the second wish to leave, so the answer is not waited for any longer.
            Some(Goodbye::Leaving(_)) => return Some(ConnectionEnd::Left),
            // A Close was sent already at the end of the input, but now there is less time.
            Some(Goodbye::InputEnded(_)) => {}
        }
        self.goodbye = Some(Goodbye::Leaving(Instant::now() + self.chat.limits.close));
        None
    }

    /// When [`Self::handle_deadline`] is to be called, if at all. After the end of the input, the
    /// lines that wait are sent first.
    fn deadline(&self) -> Option<Instant> {
        match self.goodbye {
            Some(Goodbye::Leaving(until) | Goodbye::InputEnded(until)) => Some(until),
            None if self.chat.session.is_asked() && !self.chat.outbox.is_empty() => None,
            None if self.chat.outbox.waiting() == 0 => self.chat.leave_at,
            None => None,
        }
    }

    /// The server did not answer our Close in time; or the input has ended, and it is time to send
    /// the Close.
    fn handle_deadline(&mut self) -> Option<ConnectionEnd> {
        if self.goodbye.is_some() {
            return Some(self.end(None));
        }
        self.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), ""));
        self.goodbye = Some(Goodbye::InputEnded(Instant::now()));
        self.wait_for_answer();
        None
    }

    /// At the end of the input, gives the server time to answer our Close. Other clients that read
    /// slowly can hold it up before it reads our last line, and so can its limit on lines a second.
    /// So it gets more time than when somebody wants to leave, and again with each ping and pong,
    /// which say that it still has to do with us.
    fn wait_for_answer(&mut self) {
        if let Some(Goodbye::InputEnded(until)) = &mut self.goodbye {
            *until = Instant::now() + 2 * self.chat.limits.quiet;
        }
    }

    /// The server was silent for a while: sends a ping, or gives up when that was not answered.
    async fn handle_alarm(&mut self) -> Option<ConnectionEnd> {
        match self.keepalive.alarm() {
            Alarm::Early => return None,
            Alarm::Ask => {
                self.send(Message::ping(""));
                return None;
            }
            // If this program was stopped for a while (Ctrl+Z), the answer may have arrived. Tokio
            // gives a task a budget of operations, and when it is used up, even a socket with data
            // claims to have none; yielding renews the budget.
            Alarm::Dead => yield_now().await,
        }
        let output_limit = self.chat.limits.ahead;
        match self.try_receive(output_limit) {
            Some(received) => self.handle_all_received(received).await,
            None if self.chat.console.waiting() < output_limit => Some(ConnectionEnd::Silent),
            None => Some(ConnectionEnd::Unread),
        }
    }

    /// What can be received without waiting, if anything may be received.
    fn try_receive(&mut self, output_limit: usize) -> Option<Received> {
        self.encode();
        if !self.may_receive(output_limit) {
            return None;
        }
        self.codec.next().now_or_never()
    }

    /// Handles what was received, and what can be received after it without waiting.
    async fn handle_all_received(&mut self, first: Received) -> Option<ConnectionEnd> {
        // The limit is higher after a ping, and `heard` forgets that there was one.
        let output_limit = self.output_limit();
        self.keepalive.heard();
        let mut next = Some(first);
        while let Some(received) = next {
            let end = self.handle_received(&received);
            if end.is_some() {
                return end;
            }
            next = self.try_receive(output_limit);
        }
        // When the server is fast, there is always something to receive, and this task would never
        // pause. Tokio needs the pause to notice signals and keys.
        yield_now().await;
        None
    }

    fn handle_received(&mut self, received: &Received) -> Option<ConnectionEnd> {
        if let Some(Ok(message)) = received {
            return self.handle_message(message);
        }
        // After our Close we cannot send another one, so it does not matter what is wrong.
        if let Some(Err(error)) = received
            && self.goodbye.is_none()
            && let Some(fault) = close::fault(error)
        {
            return Some(self.fault(fault));
        }
        Some(self.end(None))
    }

    fn handle_message(&mut self, message: &Message) -> Option<ConnectionEnd> {
        if let Some((code, reason)) = message.as_close() {
            let reason = line::clean(reason).into_owned();
            return Some(self.end(Some((code, reason))));
        }
        if message.is_pong() {
            self.chat.outbox.confirm(message.as_payload());
        }
        if message.is_ping() || message.is_pong() {
            self.wait_for_answer();
        }
        if message.is_text() {
            let Ok(text) = line::text(message) else {
                return Some(self.fault(close::NOT_UTF8));
            };
            for line in line::lines(text) {
                self.chat.hear(line);
            }
        } else {
            self.chat.hear_no_text();
        }
        None
    }

    /// The server broke the protocol: our Close tells it how (RFC 6455 7.1.7).
    fn fault(&mut self, fault: Fault) -> ConnectionEnd {
        self.send(Message::close(Some(fault.0), &fault.1));
        ConnectionEnd::Fault(fault)
    }

    /// Why the connection ended: the server has sent `close`, or it is `None` and nothing more
    /// will be received.
    fn end(&mut self, close: Option<(CloseCode, String)>) -> ConnectionEnd {
        // The server answers our Close with the same code, 1000, after it has read all lines before
        // it. With any other code it closes for a reason of its own, and may not have read them.
        let normal = matches!(close, Some((CloseCode::NORMAL_CLOSURE, _)));
        if self.goodbye.is_some() && normal {
            self.chat.outbox.settle_all();
        }
        match (&self.goodbye, close) {
            // A wish to leave explains the end, whether or not the input had ended before, and
            // however the server took it.
            (Some(Goodbye::Leaving(_)), _) => ConnectionEnd::Left,
            // Once every line is confirmed, it does not matter how the connection ended.
            (Some(_), _) if self.chat.outbox.is_empty() => ConnectionEnd::InputSent,
            (_, Some((code, reason))) => ConnectionEnd::Closed(code, reason),
            (Some(_), None) => ConnectionEnd::Unconfirmed,
            (None, None) => ConnectionEnd::Lost,
        }
    }

    /// Writes what is left, ends our half of the stream, and reads to the end of the server's half,
    /// so that our Close is not lost (see [`close::linger`]).
    async fn finish(&mut self) {
        self.encode();
        let finished = async {
            let written = self.socket.write_all_buf(&mut self.unwritten).await;
            if written.is_ok() {
                let reader = self.codec.get_mut().reader_mut();
                close::linger(&mut tokio::io::join(reader, &mut self.socket)).await;
            }
        };
        let _ = timeout(self.chat.limits.close, finished).await;
    }
}
