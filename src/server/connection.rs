//! One client's connection: what it says goes to the room, what the room says goes to it, until
//! one of the two ends. Why it ended is a value; one place turns it into a close code and a log
//! line.
//!
//! Speaking and hearing are two loops beside each other, and neither waits for the other: a client
//! that reads slowly is still listened to, and one whose lines have to wait still hears.

use std::borrow::Cow;
use std::fmt;
use std::io::Cursor;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Chain, Join, SimplexStream, WriteHalf};
use tokio::time::{sleep_until, timeout};
use tokio_websockets::{CloseCode, Error, Message, WebSocketStream};

use crate::protocol::close::{self, Fault};
use crate::protocol::keepalive::{Alarm, Keepalive};
use crate::protocol::line;
use crate::server::batch::Lines;
use crate::server::frame;
use crate::server::limits::Limits;
use crate::server::log::Log;
use crate::server::room::{Closed, Speaker, Subscription};
use crate::server::writer::{Writer, Written};

/// The stream below the WebSocket library: it reads what was read too far during the handshake and
/// then the socket, and it writes into a pipe that ends at the connection's [`Writer`].
pub type Inlet<R> = Join<Chain<Cursor<Bytes>, R>, WriteHalf<SimplexStream>>;

/// An open connection to one client.
#[derive(Debug)]
pub struct Connection<R, W> {
    /// Where the client's messages come from.
    pub ws: WebSocketStream<Inlet<R>>,
    /// Where everything goes that the client gets.
    pub writer: Writer<W>,
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    /// The client said goodbye, with this code.
    Left(CloseCode),
    /// The connection ended without a goodbye.
    Lost,
    /// The client sent what the protocol or this chat does not allow.
    Broke(CloseCode, Cow<'static, str>),
    /// The client took nothing for so long.
    Stuck(Duration),
    /// The client did not answer a ping within the limit.
    Silent(Duration),
    /// The server is shutting down.
    Stopped,
}

impl Ended {
    #[allow(clippy::needless_pass_by_value)] // for map_err
    fn by(error: Error) -> Self {
        close::fault(&error).map_or(Self::Lost, Self::broke)
    }

    fn of(Closed: Closed) -> Self {
        Self::Stopped
    }

    fn broke((code, reason): Fault) -> Self {
        Self::Broke(code, reason)
    }

    /// The close code to say goodbye with (RFC 6455 7.4.1) and the reason in words. `None` when
    /// the other end takes nothing any more.
    #[must_use]
    pub fn goodbye(&self) -> Option<(CloseCode, &str)> {
        match self {
            Self::Left(code) => Some((*code, "")),
            Self::Broke(code, reason) => Some((*code, reason)),
            Self::Silent(_) => Some((CloseCode::POLICY_VIOLATION, "no answer to a ping")),
            Self::Stopped => Some((CloseCode::GOING_AWAY, "server shutting down")),
            Self::Lost | Self::Stuck(_) => None,
        }
    }

    /// Whether the operator should hear of it.
    #[must_use]
    pub fn is_worth_a_line(&self) -> bool {
        matches!(self, Self::Broke(..) | Self::Stuck(_) | Self::Silent(_))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left(_) => write!(f, "left"),
            Self::Lost => write!(f, "was lost"),
            Self::Broke(code, reason) => write!(f, "was closed: {reason} ({})", u16::from(*code)),
            Self::Stuck(limit) => write!(f, "was cut off: it took nothing for {limit:?}"),
            Self::Silent(limit) => write!(f, "was cut off: silent for {limit:?}"),
            Self::Stopped => write!(f, "was told that the server is shutting down"),
        }
    }
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// Relays between the client called `name` and the room until either ends. After `stopping`
    /// the client is not listened to any more, and hears what is left to hear.
    pub async fn relay(
        &mut self,
        name: &str,
        speaker: Speaker,
        subscription: &mut Subscription,
        log: &Log,
        limits: &Limits,
        stopping: impl Future,
    ) -> Ended {
        let keepalive = Mutex::new(Keepalive::new(limits.quiet));
        let mut hearing = pin!(hear(&mut self.writer, subscription, &keepalive));
        let speaking = Speaking {
            ws: &mut self.ws,
            name,
            speaker,
            log,
            limits,
            keepalive: &keepalive,
        };
        tokio::select! {
            // The room speaks.
            ended = &mut hearing => return ended,
            // The client speaks.
            ended = speaking.speak(stopping) => if ended != Ended::Stopped {
                return ended;
            }
        }
        tokio::select! {
            ended = hearing => ended,
            () = discard(self.ws.get_mut()) => Ended::Lost,
        }
    }

    /// Sends what waits and a Close, ends the stream, and reads until the client has ended its own
    /// (RFC 6455 7.1.1), all within the deadline for a goodbye. Whatever the library still wanted
    /// to send stays behind: it could confirm what was not taken.
    pub async fn close(&mut self, code: CloseCode, reason: &str, limits: &Limits) {
        self.writer.push_ready_control();
        self.writer.push([frame::close(code, reason)]);
        let goodbye = async {
            if self.writer.flush(false).await == Written::All
                && self.writer.shutdown().await.is_ok()
            {
                let mut unread = [0; 1024];
                let reader = self.ws.get_mut();
                while matches!(reader.read(&mut unread).await, Ok(1..)) {}
            }
        };
        // Who does not take the goodbye in time does without.
        let _ = timeout(limits.close, goodbye).await;
    }
}

/// Reads and throws away, for ever. A socket that is closed while input is unread makes the
/// system cut the connection, and the client would lose what is still on its way to it.
async fn discard(reader: &mut (impl AsyncRead + Unpin)) {
    let mut unread = [0; 1024];
    while matches!(reader.read(&mut unread).await, Ok(1..)) {}
    std::future::pending::<()>().await;
}

/// The loop of one who hears: what the room says is written to the client.
async fn hear<W>(
    writer: &mut Writer<W>,
    subscription: &mut Subscription,
    keepalive: &Mutex<Keepalive>,
) -> Ended
where
    W: AsyncWrite + Unpin,
{
    let due = lock(keepalive).due();
    let mut alarm = pin!(sleep_until(due));
    loop {
        match writer.flush(subscription.is_counted()).await {
            Written::All => {}
            Written::TooSlow => {
                subscription.give_up();
                continue;
            }
            Written::Stuck(limit) => return Ended::Stuck(limit),
            Written::Broken => return Ended::Lost,
        }
        if writer.has_progressed() {
            lock(keepalive).heard();
        }
        if writer.was_late() && subscription.has_everything() {
            writer.caught_up();
            if writer.keeps_up() {
                subscription.catch_up();
            }
        }
        tokio::select! {
            frames = subscription.next_frames() => match frames {
                Some(frames) => writer.push(frames),
                None => return Ended::Stopped,
            },
            // The library answers a ping.
            () = writer.push_control() => {}
            // Nothing came from the client for a while.
            () = &mut alarm => {
                let mut keepalive = lock(keepalive);
                match keepalive.alarm() {
                    Alarm::Early => {}
                    Alarm::Ask => writer.push([frame::PING]),
                    Alarm::Dead => return Ended::Silent(keepalive.patience()),
                }
                alarm.as_mut().reset(keepalive.due());
            }
        }
    }
}

/// A panic elsewhere leaves nothing half done in it.
fn lock(keepalive: &Mutex<Keepalive>) -> MutexGuard<'_, Keepalive> {
    keepalive.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one who speaks needs: what the client sends is said to the room.
struct Speaking<'a, R> {
    ws: &'a mut WebSocketStream<Inlet<R>>,
    name: &'a str,
    speaker: Speaker,
    log: &'a Log,
    limits: &'a Limits,
    keepalive: &'a Mutex<Keepalive>,
}

impl<'a, R> Speaking<'a, R>
where
    R: AsyncRead + Unpin,
{
    /// The loop of one who speaks. At the end nothing that was read is left unsaid, unless the
    /// room refused it.
    async fn speak(mut self, stopping: impl Future) -> Ended {
        let mut stopping = pin!(stopping);
        loop {
            let message = tokio::select! {
                message = self.ws.next() => message,
                _ = &mut stopping => return Ended::Stopped,
            };
            lock(self.keepalive).heard();
            if let Err(ended) = self.take_all(message).await {
                return ended;
            }
        }
    }

    /// Takes a message and those that are there already, and says their lines to the room: some
    /// batches of them at most, so that nobody's flood keeps the others waiting.
    async fn take_all(&mut self, first: Option<Result<Message, Error>>) -> Result<(), Ended> {
        let mut lines = Lines::of(self.name);
        let mut next = Some(first);
        let (mut messages, mut bytes) = (0, 0);
        let (mut taken, mut enough) = (Ok(()), false);
        while let Some(message) = next {
            messages += 1;
            bytes += message.as_ref().map_or(0, length);
            taken = self.take(message, &mut lines).await;
            enough = messages >= self.limits.messages || bytes >= self.limits.turn;
            let stop = enough || taken.is_err();
            next = if stop {
                None
            } else {
                self.ws.next().now_or_never()
            };
        }
        self.say(&mut lines).await?;
        if enough {
            tokio::task::yield_now().await;
        }
        taken
    }

    /// Adds one message to `lines`, and says those whenever they are enough for a batch.
    async fn take(
        &mut self,
        message: Option<Result<Message, Error>>,
        lines: &mut Lines<'a>,
    ) -> Result<(), Ended> {
        let message = message.ok_or(Ended::Lost)?.map_err(Ended::by)?;
        if message.is_ping() {
            // A pong says that everything before the ping was taken: so that is said first.
            self.say(lines).await?;
            // The library has queued the pong. Unless each is written before the next ping is
            // read, a client that never reads makes that queue grow without end.
            return self.ws.flush().await.map_err(Ended::by);
        }
        if let Some((code, _)) = message.as_close() {
            return Err(Ended::Left(code));
        }
        if message.is_binary() {
            return Err(Ended::Broke(
                CloseCode::UNSUPPORTED_DATA,
                "only text messages, please".into(),
            ));
        }
        if message.is_text() {
            let text = line::text(&message).map_err(|_| Ended::broke(close::NOT_UTF8))?;
            for line in line::lines(text) {
                // One message of many short lines grows by a name each: it becomes several.
                if lines.frames.len() >= self.limits.batch {
                    self.say(lines).await?;
                }
                lines.push(line);
            }
        }
        Ok(())
    }

    /// Says the lines to the room, as soon as it takes them, then to the log, and leaves none.
    async fn say(&mut self, lines: &mut Lines<'a>) -> Result<(), Ended> {
        let lines = std::mem::replace(lines, Lines::of(self.name));
        if lines.count == 0 {
            return Ok(());
        }
        if !self.speaker.say_now(&lines).map_err(Ended::of)? {
            // Boxed, since it is rare, and an idle connection should not keep room for it.
            Box::pin(self.wait_to_say(&lines)).await?;
        }
        self.log.say_all(&lines.log, lines.count);
        Ok(())
    }

    /// Waits until the room takes the lines.
    async fn wait_to_say(&self, lines: &Lines<'_>) -> Result<(), Ended> {
        let mut said = pin!(self.speaker.say(lines));
        loop {
            match timeout(self.limits.quiet / 2, &mut said).await {
                Ok(said) => return said.map_err(Ended::of),
                // It is not the client that is silent: nobody reads what it sends now.
                Err(_) => lock(self.keepalive).heard(),
            }
        }
    }
}

/// Bytes of what a message carries.
fn length(message: &Result<Message, Error>) -> usize {
    message
        .as_ref()
        .map_or(0, |message| message.as_payload().len())
}
