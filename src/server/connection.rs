//! One client's stay: what it says goes to the room, what the room says goes to it, until one of
//! the two ends. Why it ended is a value; one place turns it into a close code and a log line.

use std::fmt;
use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_websockets::{CloseCode, Error, Message, WebSocketStream};

use crate::protocol::close;
use crate::protocol::keepalive::{Alarm, Keepalive};
use crate::protocol::line;
use crate::server::batch::Lines;
use crate::server::limits::Limits;
use crate::server::log::Journal;
use crate::server::room::{Closed, Seat};

/// Why a stay ended.
#[derive(Debug)]
#[must_use]
pub enum Ended {
    /// The client said goodbye.
    Left,
    /// The connection ended without a goodbye.
    Lost,
    /// The client sent what the protocol or this chat does not allow.
    Broke(CloseCode, &'static str),
    /// A write made no progress within the limit.
    Stuck(Duration),
    /// The client did not answer a ping within the limit.
    Silent(Duration),
    /// The server is shutting down.
    RoomClosed,
}

impl Ended {
    #[allow(clippy::needless_pass_by_value)] // for map_err
    fn by(error: Error) -> Self {
        close::fault(&error).map_or(Self::Lost, Self::broke)
    }

    fn broke((code, reason): (CloseCode, &'static str)) -> Self {
        Self::Broke(code, reason)
    }

    /// The close code to say goodbye with (RFC 6455 7.4.1) and the reason in words. `None` when
    /// the other end takes nothing any more.
    #[must_use]
    pub fn goodbye(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::Left => Some((CloseCode::NORMAL_CLOSURE, "")),
            Self::Broke(code, reason) => Some((*code, reason)),
            Self::Silent(_) => Some((CloseCode::POLICY_VIOLATION, "no answer to a ping")),
            Self::RoomClosed => Some((CloseCode::GOING_AWAY, "server shutting down")),
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
            Self::Left => write!(f, "left"),
            Self::Lost => write!(f, "was lost"),
            Self::Broke(code, reason) => write!(f, "was closed: {reason} ({})", u16::from(*code)),
            Self::Stuck(limit) => write!(f, "was cut off: it took nothing for {limit:?}"),
            Self::Silent(limit) => write!(f, "was cut off: silent for {limit:?}"),
            Self::RoomClosed => write!(f, "was told that the server is shutting down"),
        }
    }
}

/// Relays between one client and the room until either ends.
pub async fn relay<S>(
    ws: &mut WebSocketStream<S>,
    name: &str,
    seat: &mut Seat,
    journal: &Journal,
    limits: &Limits,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stay = Stay {
        ws,
        name,
        seat,
        journal,
        limits,
    };
    let mut keepalive = Keepalive::new(limits.quiet);
    let mut held: Option<Hold> = None;
    // A hold has run out: one message may pass, however far behind the reader is.
    let mut pass = false;
    let alarm = sleep_until(keepalive.due());
    tokio::pin!(alarm);
    loop {
        // A reader is far behind: who speaks waits for it before the next word, for a bounded
        // time. The word itself waits in its socket.
        if !pass && held.is_none() && stay.seat.crowded() {
            held = Some(Hold::now(limits));
        }
        let went_on = tokio::select! {
            // The client speaks.
            message = stay.ws.next(), if held.is_none() => {
                keepalive.heard();
                pass = false;
                stay.said(message).await
            }
            // The room speaks.
            batch = stay.seat.hear() => match batch {
                Some(batch) => {
                    let frames = stay.seat.gather(batch);
                    stay.write(&frames).await
                }
                None => Err(Ended::RoomClosed),
            },
            // Is it still?
            () = look_again(held.as_ref()), if held.is_some() => {
                let crowded = stay.seat.still_crowded();
                held = held.filter(|_| crowded).and_then(|hold| hold.longer(limits));
                pass = crowded && held.is_none();
                Ok(())
            }
            // Nothing came from the client for a while.
            () = &mut alarm => {
                let asked = stay.ask(&mut keepalive).await;
                alarm.as_mut().reset(keepalive.due());
                asked
            }
        };
        if let Err(ended) = went_on {
            return ended;
        }
    }
}

fn length(message: &Result<Message, Error>) -> usize {
    message
        .as_ref()
        .map_or(0, |message| message.as_payload().len())
}

/// When a held speaker looks again, and when it goes on in any case.
struct Hold {
    look: Instant,
    end: Instant,
}

impl Hold {
    fn now(limits: &Limits) -> Self {
        let now = Instant::now();
        Self {
            look: now + limits.pause,
            end: now + limits.hold,
        }
    }

    fn longer(self, limits: &Limits) -> Option<Self> {
        let look = self.look + limits.pause;
        (look <= self.end).then_some(Self { look, ..self })
    }
}

async fn look_again(held: Option<&Hold>) {
    if let Some(hold) = held {
        sleep_until(hold.look).await;
    }
}

/// The parts of a stay.
struct Stay<'a, S> {
    ws: &'a mut WebSocketStream<S>,
    name: &'a str,
    seat: &'a mut Seat,
    journal: &'a Journal,
    limits: &'a Limits,
}

impl<'a, S> Stay<'a, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Takes a message and those that are there already, and says their lines to the room: some
    /// batches of them at most, so that nobody's flood keeps the others waiting.
    async fn said(&mut self, first: Option<Result<Message, Error>>) -> Result<(), Ended> {
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
        self.publish(&mut lines)?;
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
            // A pong says that everything before the ping was taken: so it is said first.
            self.publish(lines)?;
            // The library has queued the pong. Unless each is written before the next ping is
            // read, a peer that never reads makes that queue grow without end.
            return self.flush().await;
        }
        if message.is_close() {
            return Err(Ended::Left);
        }
        if message.is_binary() {
            return Err(Ended::Broke(
                CloseCode::UNSUPPORTED_DATA,
                "only text messages, please",
            ));
        }
        if message.is_text() {
            let text = line::text(&message).map_err(|_| Ended::broke(close::NOT_UTF8))?;
            for line in line::lines(text) {
                // One message of many short lines grows by a name each: it becomes several.
                if lines.frames.len() >= self.limits.batch {
                    self.publish(lines)?;
                }
                lines.push(line);
            }
        }
        Ok(())
    }

    /// Says the lines, and leaves none.
    fn publish(&mut self, lines: &mut Lines<'a>) -> Result<(), Ended> {
        let lines = std::mem::replace(lines, Lines::of(self.name));
        if lines.count == 0 {
            return Ok(());
        }
        self.journal.say_all(&lines.journal, lines.count);
        self.seat.say(&lines).map_err(|Closed| Ended::RoomClosed)
    }

    /// Writes frames, all in one call if the system takes them; a write that makes no progress
    /// for too long ends the stay.
    async fn write(&mut self, frames: &[Bytes]) -> Result<(), Ended> {
        // Between two arms the library's own queue is empty: each pong and ping was flushed at
        // once. So nothing of it can end up inside our frames.
        let mut slices: Vec<_> = frames.iter().map(|frames| IoSlice::new(frames)).collect();
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let written = self.ws.get_mut().write_vectored(slices);
            match timeout(self.limits.write, written).await {
                Ok(Ok(n)) if n > 0 => IoSlice::advance_slices(&mut slices, n),
                Ok(_) => return Err(Ended::Lost),
                Err(_) => return Err(Ended::Stuck(self.limits.write)),
            }
        }
        Ok(())
    }

    /// Writes what the library has queued: pongs and pings.
    async fn flush(&mut self) -> Result<(), Ended> {
        match timeout(self.limits.write, self.ws.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Lost),
            Err(_) => Err(Ended::Stuck(self.limits.write)),
        }
    }

    /// Pings a silent client; gives up on one that was asked and stayed silent.
    async fn ask(&mut self, keepalive: &mut Keepalive) -> Result<(), Ended> {
        match keepalive.alarm() {
            Alarm::Early => Ok(()),
            Alarm::Dead => Err(Ended::Silent(2 * self.limits.quiet)),
            Alarm::Ask => {
                // Only queues: the frame is small, and the queue is empty between two arms.
                let _ = self.ws.feed(Message::ping("")).await;
                self.flush().await
            }
        }
    }
}
