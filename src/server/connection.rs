//! One client's connection: what it says goes to the room, what the room says goes to it, until
//! one of the two ends. Why it ended is a value ([`ended`](crate::server::ended)).
//!
//! Reading and writing are two loops beside each other, and neither waits for the other: a client
//! that reads slowly is still listened to, and one whose lines have to wait still hears.
//!
//! The WebSocket library never writes to the socket: what it has to send by itself, which are the
//! answers to pings, it writes into memory ([`codec`](crate::server::codec)). So there is one place
//! that writes, and frames can never end up inside each other.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_websockets::{CloseCode, Error, Message};

use crate::protocol::close;
use crate::protocol::keepalive::{Alarm, Keepalive};
use crate::protocol::line;
use crate::server::batch::Lines;
use crate::server::codec::Codec;
use crate::server::deadline::{passed, within};
use crate::server::ended::Ended;
use crate::server::frame;
use crate::server::identity::Identity;
use crate::server::limits::Limits;
use crate::server::log::{Log, Unlogged};
use crate::server::rate::Rate;
use crate::server::room::{Closed, Speaker, Subscription};
use crate::server::writer::{Control, Writer, Written};

/// An open connection to one client.
#[derive(Debug)]
pub struct Connection<R, W> {
    /// Where the client's messages come from.
    pub codec: Codec<R>,
    /// Where everything goes that the client gets.
    pub writer: Writer<W>,
}

/// What may come to a connection from outside while it is open.
#[derive(Debug)]
pub struct Outside<'a, S, E> {
    /// After this the client is not listened to any more, and hears what is left to hear.
    pub stopping: Pin<&'a mut S>,
    /// It has to end, for this reason.
    pub ended: Pin<&'a mut E>,
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// Relays between the client, which is called `identity`, and the room, until either ends or it has to
    /// end for another reason.
    pub async fn relay(
        &mut self,
        identity: &Identity,
        speaker: Speaker,
        subscription: &mut Subscription,
        log: &Log,
        limits: &Limits,
        outside: Outside<'_, impl Future, impl Future<Output = Ended>>,
    ) -> Ended {
        let keepalive = Mutex::new(Keepalive::new(limits.quiet));
        let control = Control::default();
        let client = async {
            let replaced = speaker.replaced();
            let reader = Reader {
                codec: &mut self.codec,
                identity,
                speaker,
                limits,
                keepalive: &keepalive,
                control: &control,
                unlogged: Unlogged::new(log),
                rate: Rate::new(limits),
                stopping: outside.stopping,
                stopped: false,
                waited: false,
            };
            tokio::select! {
                biased;
                // It is not heard or waited for any more when it is back on a newer connection.
                ended = replaced => ended,
                // At once: lines that were read and are not said yet were not confirmed either.
                ended = outside.ended => ended,
                ended = reader.read() => ended,
                // Behind that, which may have heard something meanwhile.
                ended = mind_silence(&keepalive, &control) => ended,
            }
        };
        let ended = tokio::select! {
            // In this order each time; neither loop can starve the other, since both give way to
            // the runtime again and again.
            biased;
            // The room speaks.
            ended = write(&mut self.writer, subscription, &keepalive, &control) => ended,
            // The client speaks.
            ended = client => ended,
        };
        // What the loop that writes did not come to take.
        self.writer.push(subscription.take_back());
        self.writer.push(control.take().now_or_never());
        ended
    }

    /// Sends what waits and a Close, ends the stream, and reads until the client has ended its own
    /// (RFC 6455 7.1.1), all within the deadline for a goodbye. The library has an answer of its own
    /// ready when the client has sent a Close. That is never flushed: to the client it would mean
    /// that all of its lines were taken, and the room may have refused the last ones.
    pub async fn close(&mut self, code: CloseCode, reason: &str, limits: &Limits) {
        let pongs = std::mem::take(self.codec.pongs());
        self.writer.push([pongs.into(), frame::close(code, reason)]);
        let goodbye = async {
            if self.writer.flush(pending()).await == Written::All
                && self.writer.shutdown().await.is_ok()
            {
                close::discard(self.codec.socket()).await;
            }
        };
        // Who does not take the goodbye in time does without.
        within(limits.close, goodbye).await;
    }
}

/// The loop that writes: what the room says is sent to the client.
async fn write<W>(
    writer: &mut Writer<W>,
    subscription: &mut Subscription,
    keepalive: &Mutex<Keepalive>,
    control: &Control,
) -> Ended
where
    W: AsyncWrite + Unpin,
{
    if !subscription.is_trusted() {
        writer.distrust();
    }
    loop {
        let written = match writer.flush_now() {
            Some(written) => written,
            // Boxed, since it is rare, and an idle connection should not keep room for it.
            None => Box::pin(writer.flush(subscription.congested())).await,
        };
        match written {
            Written::All => {}
            Written::TooSlow => {
                // What is left is written without anybody waiting for it.
                subscription.pause();
                continue;
            }
            Written::Stuck(limit) => return Ended::Stuck(limit),
            Written::Broken => return Ended::Lost,
        }
        if writer.has_progressed() {
            lock(keepalive).heard();
        }
        if writer.is_late() && subscription.has_everything() {
            // It is not behind any more, so what it owes says nothing about it.
            writer.forgive();
        }
        tokio::select! {
            biased;
            // First, since for a client that is behind there is always more from the room. It is not read
            // further before it has the pongs, so they cannot hold up the room.
            frames = control.take() => {
                writer.push(subscription.take_back());
                writer.push([frames]);
            }
            frames = subscription.next_frames() => match frames {
                Some(frames) => writer.push(frames),
                None => return Ended::Stopped,
            },
        }
    }
}

/// Asks the client whether it is there whenever nothing came from it for a while, until it does not answer.
async fn mind_silence(keepalive: &Mutex<Keepalive>, control: &Control) -> Ended {
    loop {
        let due = lock(keepalive).due();
        passed(due).await;
        let alarm = lock(keepalive).alarm();
        match alarm {
            Alarm::Early => {}
            Alarm::Ask => {
                control.put(frame::PING.to_vec()).await;
                // What is written before it may take long.
                control.taken().await;
            }
            Alarm::Dead => return Ended::Silent(lock(keepalive).patience()),
        }
    }
}

/// A panic elsewhere does not matter here: no panic can leave a keepalive in a wrong state.
fn lock(keepalive: &Mutex<Keepalive>) -> MutexGuard<'_, Keepalive> {
    keepalive.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loop that reads: what the client sends is said in the room.
struct Reader<'a, R, S> {
    codec: &'a mut Codec<R>,
    identity: &'a Identity,
    speaker: Speaker,
    limits: &'a Limits,
    keepalive: &'a Mutex<Keepalive>,
    control: &'a Control,
    /// Lines that the room has taken. They go to standard output once they are in its log, or when the
    /// connection ends.
    unlogged: Unlogged<'a>,
    /// How many lines the client may say; `None` when there is no limit.
    rate: Option<Rate>,
    stopping: Pin<&'a mut S>,
    /// `stopping` has come.
    stopped: bool,
    /// The room was waited for.
    waited: bool,
}

impl<R, S> Reader<'_, R, S>
where
    R: AsyncRead + Unpin,
    S: Future,
{
    /// Runs until the client ends. When the server stops, nothing that was read is left unsaid,
    /// unless the room refused it, and what comes later is thrown away.
    #[allow(clippy::manual_async_fn)] // which would keep room for `self` twice
    fn read(mut self) -> impl Future<Output = Ended> {
        async move {
            while !self.stopped {
                let message = tokio::select! {
                    message = self.codec.next() => message,
                    _ = &mut self.stopping => break,
                };
                if self.rate.as_mut().is_some_and(Rate::was_used_up) {
                    // This may have been sent long ago, before the client had to wait.
                    lock(self.keepalive).excuse();
                } else {
                    lock(self.keepalive).heard();
                }
                // Boxed, so that a client that says nothing keeps no room for it.
                match Box::pin(self.take_all(message)).await {
                    Ok(()) => {}
                    Err(Ended::Stopped) => break,
                    Err(ended) => return ended,
                }
            }
            drop(self.speaker);
            close::discard(self.codec.socket()).await;
            // The loop that writes ends the connection, when the room has.
            pending().await
        }
    }

    /// Takes a message and those that are there already, and says their lines in the room. It stops
    /// after a number of bytes, so that a client which floods the server does not keep the others
    /// waiting; and when the room was waited for, since more may have come meanwhile each time, and what
    /// was said before is to be confirmed.
    async fn take_all(&mut self, first: Option<Result<Message, Error>>) -> Result<(), Ended> {
        let mut lines = Lines::default();
        let (mut next, mut bytes) = (first, 0);
        self.waited = false;
        let taken = loop {
            let message = match next {
                Some(Ok(message)) => message,
                Some(Err(error)) => break Err(error.into()),
                None => break Err(Ended::Lost),
            };
            bytes += self.limits.cost + message.as_payload().len();
            let taken = self.take(&message, &mut lines).await;
            if taken.is_err() || bytes >= self.limits.turn || self.waited {
                break taken;
            }
            match self.codec.next().now_or_never() {
                Some(more) => next = more,
                None => break Ok(()),
            }
        };
        self.say(&mut lines).await?;
        self.settle().await?;
        if taken.is_ok() {
            self.send_pongs(1).await;
        }
        if bytes >= self.limits.turn {
            tokio::task::yield_now().await;
        }
        taken
    }

    /// Adds the lines of one message to `lines`, and says those whenever they are enough for a
    /// batch.
    async fn take(&mut self, message: &Message, lines: &mut Lines) -> Result<(), Ended> {
        if message.is_ping() {
            // A pong says that everything before the ping was taken: so that is said first.
            self.say(lines).await?;
            self.settle().await?;
            self.codec.flush().await?;
            self.send_pongs(self.limits.control).await;
        } else if let Some((code, _)) = message.as_close() {
            return Err(Ended::Left(code));
        } else if message.is_binary() {
            return Err(Ended::Fault(close::NOT_TEXT));
        } else if message.is_text() {
            let text = line::text(message).map_err(|_| Ended::Fault(close::NOT_UTF8))?;
            for line in line::lines(text) {
                // Each line gets a name in front, and more in the log, so a message of many short lines may
                // become far more than one batch.
                if lines.frames.len() >= self.limits.batch || lines.log.len() >= self.limits.turn {
                    self.say(lines).await?;
                }
                while let Some(until) = self.rate.as_mut().and_then(Rate::spend) {
                    self.say(lines).await?;
                    self.settle().await?;
                    self.wait_to_take(until).await;
                }
                lines.push(self.identity, line);
            }
        }
        Ok(())
    }

    /// Hands the pongs over that the library has written, if they are `least` bytes or more, as soon as
    /// those before them were taken. When the server stops they are left for the goodbye: who does not read
    /// must not keep its room open.
    async fn send_pongs(&mut self, least: usize) {
        if self.stopped || self.codec.pongs().len() < least {
            return;
        }
        tokio::select! {
            biased;
            () = self.control.taken() => {
                let pongs = std::mem::take(self.codec.pongs());
                self.control.put(pongs).await;
            }
            _ = &mut self.stopping => self.stop(),
        }
    }

    /// Says the lines in the room, as soon as it takes them, and leaves none.
    async fn say(&mut self, lines: &mut Lines) -> Result<(), Ended> {
        let lines = std::mem::take(lines);
        if lines.count == 0 {
            return Ok(());
        }
        self.waited |= self.wait_for(self.speaker.begin_to_say(&lines)).await?;
        self.unlogged.push(lines.log, lines.count);
        if let Some(settled) = self.speaker.settled().now_or_never() {
            settled?;
            self.unlogged.write();
        }
        if self.unlogged.bytes >= self.limits.turn {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits until what was said is in the log of the room.
    async fn settle(&mut self) -> Result<(), Ended> {
        if self.unlogged.bytes > 0 {
            self.waited |= self.wait_for(self.speaker.settled()).await?;
            self.unlogged.write();
        }
        Ok(())
    }

    /// Waits for the room, and returns whether that was necessary.
    async fn wait_for(
        &self,
        room: impl Future<Output = Result<(), Closed>>,
    ) -> Result<bool, Ended> {
        let mut room = pin!(room);
        if let Some(said) = room.as_mut().now_or_never() {
            said?;
            return Ok(false);
        }
        loop {
            match timeout(self.limits.quiet / 2, &mut room).await {
                Ok(said) => {
                    said?;
                    return Ok(true);
                }
                // It is not the client that is silent: nobody reads what it sends now.
                Err(_) => lock(self.keepalive).excuse(),
            }
        }
    }

    /// Waits until the client may say another line, but not too long to excuse its silence.
    async fn wait_to_take(&mut self, until: Instant) {
        lock(self.keepalive).excuse();
        let soon = Instant::now() + self.limits.quiet / 2;
        tokio::select! {
            () = sleep_until(until.min(soon)) => {}
            _ = &mut self.stopping => self.stop(),
        }
    }

    /// The server stops. What was read is to be said, so there is no limit any more.
    fn stop(&mut self) {
        (self.rate, self.stopped) = (None, true);
    }
}
