//! One WebSocket's life: typed lines go out, frames come in, until either end says goodbye or the
//! link is dead.

use std::fmt;
use std::future::poll_fn;
use std::task::Poll;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_websockets::{CloseCode, Error, Message, WebSocketStream};

use crate::client::chat::{Chat, Over, UNCONFIRMED};
use crate::client::console::Event;
use crate::client::limits::Limits;
use crate::client::outbox::Outbox;
use crate::client::socket::ReadToEnd;
use crate::protocol::close::{self, Fault};
use crate::protocol::keepalive::{Alarm, Keepalive};
use crate::protocol::line;

/// A WebSocket, and the chat that goes over it.
pub struct Connection<'c, S> {
    ws: WebSocketStream<ReadToEnd<S>>,
    chat: &'c mut Chat,
    keepalive: Keepalive,
    /// Pings that came since all was sent; the library has queued a pong for each.
    pongs: usize,
    /// We have said goodbye.
    goodbye: Option<Goodbye>,
    /// The server's Close, an answer to ours or of its own accord.
    closed: Option<(CloseCode, String)>,
}

struct Goodbye {
    over: Over,
    /// How long its answer may take.
    until: Instant,
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// We said goodbye, and the whole chat is over.
    Over(Over),
    /// The server said goodbye: its code and its reason.
    Closed(CloseCode, String),
    /// The server went away without a word.
    Lost,
    /// The server does not answer any more.
    Silent,
    /// Nobody reads standard output, so the server was not heard for a long time.
    Unread,
    /// The server did not answer our goodbye at the end of the input.
    Unconfirmed,
    /// The server broke the rules; we closed with this code and this reason.
    Fault(Fault),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over(_) => write!(f, "left the chat"),
            Self::Closed(code, reason) => {
                let reason = if reason.is_empty() {
                    "it gave no reason"
                } else {
                    reason
                };
                let words = close::words(*code);
                write!(f, "the server closed the chat: {reason} ({words})")
            }
            Self::Lost => write!(f, "connection lost: the server went away without a goodbye"),
            Self::Silent => write!(f, "connection lost: the server does not answer"),
            Self::Unread => write!(
                f,
                "connection lost: nobody reads the output, and too much is waiting"
            ),
            Self::Unconfirmed => f.write_str(UNCONFIRMED),
            Self::Fault((code, why)) => {
                let words = close::words(*code);
                write!(
                    f,
                    "connection closed: the server broke the rules: {why} ({words})"
                )
            }
        }
    }
}

/// What the connection did.
enum Traffic {
    /// Lines were sent.
    Sent,
    /// A message came, or the end.
    Received(Option<Result<Message, Error>>),
}

impl<'c, S: AsyncRead + AsyncWrite + Unpin> Connection<'c, S> {
    /// A WebSocket that was just opened.
    #[must_use]
    pub fn new(ws: WebSocketStream<ReadToEnd<S>>, chat: &'c mut Chat) -> Self {
        Self {
            ws,
            keepalive: Keepalive::new(chat.limits.quiet),
            chat,
            pongs: 0,
            goodbye: None,
            closed: None,
        }
    }

    /// Talks until the connection is over, and names the lines that are in doubt then.
    pub async fn talk(mut self) -> Ended {
        let ended = self.run().await;
        self.chat.console.flush();
        self.chat.name_doubtful();
        ended
    }

    async fn run(&mut self) -> Ended {
        loop {
            let reading = !self.chat.is_full() && self.goodbye.is_none();
            let sending = self.sends();
            let listening = self.chat.console.has_room();
            let deadline = self.deadline();
            let Chat {
                console,
                outbox,
                stop,
                limits,
                ..
            } = &mut *self.chat;
            let ended = tokio::select! {
                // A line was typed.
                event = console.next(reading) => self.typed(event),
                // A frame arrived.
                traffic = exchange(
                    &mut self.ws, outbox, &mut self.pongs, limits, sending, listening,
                ) => self.received(traffic).await,
                // Nobody has heard from the server for a while.
                () = sleep_until(self.keepalive.due()) => self.alarm().await,
                // The time to leave has come, or a goodbye was not answered.
                () = at(deadline) => self.late(),
                () = stop.asked() => self.leave(Over::Left),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Whether lines may be sent: nobody has said goodbye, and the link is whole.
    fn sends(&self) -> bool {
        self.goodbye.is_none() && self.closed.is_none() && !self.ws.get_ref().is_broken()
    }

    fn typed(&mut self, event: Event) -> Option<Ended> {
        match event {
            // Nobody hears it any more.
            Event::Line(_) | Event::OutputEnded(_) if self.goodbye.is_some() => return None,
            _ => {}
        }
        let mut next = Some(event);
        while let Some(event) = next {
            if let Err(over) = self.chat.take(event, "the server takes nothing") {
                return self.leave(over);
            }
            // Lines that are there already go together.
            let room = !self.chat.is_full() && self.goodbye.is_none();
            next = if room {
                self.chat.console.ready()
            } else {
                None
            };
        }
        None
    }

    /// Says goodbye. Who asks a second time does not wait for the answer.
    fn leave(&mut self, over: Over) -> Option<Ended> {
        let limits = &self.chat.limits;
        let patience = match over {
            // The server may be held up by others before it reads our last line.
            Over::InputEnded => 2 * limits.quiet,
            _ => limits.close,
        };
        match &self.goodbye {
            None => self.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")),
            Some(goodbye) if goodbye.over == Over::InputEnded => {}
            Some(_) => return Some(Ended::Over(over)),
        }
        let until = Instant::now() + patience;
        self.goodbye = Some(Goodbye { over, until });
        None
    }

    /// Queues a message; [`exchange`] sends it.
    fn send(&mut self, message: Message) {
        // An error means that the connection is closing, and then nothing need be sent.
        let _ = self.ws.start_send_unpin(message);
    }

    /// When to leave, or to stop waiting for the answer to a goodbye. What is left of the input
    /// is sent before.
    fn deadline(&self) -> Option<Instant> {
        match &self.goodbye {
            Some(goodbye) => Some(goodbye.until),
            None => self.chat.until.filter(|_| self.chat.outbox.waiting() == 0),
        }
    }

    fn late(&mut self) -> Option<Ended> {
        if self.goodbye.is_some() {
            return Some(self.over());
        }
        self.leave(Over::InputEnded)
    }

    async fn alarm(&mut self) -> Option<Ended> {
        match self.keepalive.alarm() {
            Alarm::Early => None,
            Alarm::Ask => {
                self.send(Message::ping(""));
                None
            }
            Alarm::Dead => self.look_ahead().await,
        }
    }

    /// Before a link counts as dead: perhaps the server's answer is there already, and was not
    /// read because nobody reads the output.
    async fn look_ahead(&mut self) -> Option<Ended> {
        // A task that ran for long is told that nothing is ready, to let others run.
        tokio::task::yield_now().await;
        let (ahead, queue) = (self.chat.limits.ahead, self.chat.limits.queue);
        let mut heard = false;
        while self.chat.console.waiting() < ahead
            && self.pongs < queue
            && let Some(message) = self.ws.next().now_or_never()
        {
            heard = true;
            if let Some(ended) = self.hear(message).await {
                return Some(ended);
            }
        }
        if heard {
            self.keepalive.heard();
            return None;
        }
        let full = self.chat.console.waiting() >= ahead;
        Some(if full { Ended::Unread } else { Ended::Silent })
    }

    /// Shows what has arrived, and all that is there already.
    async fn received(&mut self, traffic: Traffic) -> Option<Ended> {
        let Traffic::Received(first) = traffic else {
            return None;
        };
        // What we sent ourselves, a ping for instance, is no sign of life; this is.
        self.keepalive.heard();
        let mut next = Some(first);
        while let Some(message) = next {
            if let Some(ended) = self.hear(message).await {
                return Some(ended);
            }
            let room = self.chat.console.has_room() && self.pongs < self.chat.limits.queue;
            next = if room {
                self.ws.next().now_or_never()
            } else {
                None
            };
        }
        self.chat.console.flush();
        // However fast the server is, signals and keys come through.
        tokio::task::yield_now().await;
        None
    }

    /// Takes a message, or the end.
    async fn hear(&mut self, message: Option<Result<Message, Error>>) -> Option<Ended> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) if self.goodbye.is_none() => match close::fault(&error) {
                Some(fault) => return Some(self.fault(fault).await),
                None => return Some(self.over()),
            },
            _ => return Some(self.over()),
        };
        if let Some((code, reason)) = message.as_close() {
            self.closed = Some((code, line::clean(reason).into_owned()));
        } else if message.is_ping() {
            self.pongs += 1;
        } else if message.is_pong() {
            self.chat.outbox.confirm(message.as_payload());
        } else if message.is_text() {
            let Ok(text) = line::text(&message) else {
                return Some(self.fault(close::NOT_UTF8).await);
            };
            for line in line::lines(text) {
                self.chat.console.show(&line::clean(line));
            }
        }
        None
    }

    async fn fault(&mut self, fault: Fault) -> Ended {
        close::close(&mut self.ws, fault.0, &fault.1, self.chat.limits.close).await;
        Ended::Fault(fault)
    }

    /// What it means that nothing more will come.
    fn over(&mut self) -> Ended {
        let (goodbye, closed) = (self.goodbye.take(), self.closed.take());
        let answer = matches!(closed, Some((CloseCode::NORMAL_CLOSURE, _)));
        match goodbye.map(|goodbye| goodbye.over) {
            None => closed.map_or(Ended::Lost, |(code, reason)| Ended::Closed(code, reason)),
            Some(over) => {
                if answer {
                    self.chat.outbox.confirm_all();
                }
                if over == Over::InputEnded && !self.chat.outbox.is_empty() {
                    let other = closed.map(|(code, reason)| Ended::Closed(code, reason));
                    return other.unwrap_or(Ended::Unconfirmed);
                }
                Ended::Over(over)
            }
        }
    }
}

/// Sends what waits in the outbox and receives what comes. One future for both, since neither may
/// wait for the other: two ends that write and do not read would wait for ever.
async fn exchange<S>(
    ws: &mut WebSocketStream<ReadToEnd<S>>,
    outbox: &mut Outbox,
    pongs: &mut usize,
    limits: &Limits,
    sending: bool,
    listening: bool,
) -> Traffic
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let mut sent = false;
        if let Poll::Ready(Ok(())) = ws.poll_flush_unpin(cx) {
            *pongs = 0;
            for message in outbox.batch(if sending { limits.batch } else { 0 }) {
                sent |= ws.start_send_unpin(message).is_ok();
            }
        }
        // While the server does not take our pongs, their queue must not grow.
        if listening
            && *pongs < limits.queue
            && let Poll::Ready(message) = ws.poll_next_unpin(cx)
        {
            return Poll::Ready(Traffic::Received(message));
        }
        if sent {
            Poll::Ready(Traffic::Sent)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Waits until then, or for ever.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
