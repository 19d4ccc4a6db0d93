//! The client: what is typed goes to the server, what the server sends is shown.

use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use chat_pair::client::backoff::Backoff;
use chat_pair::client::connect::connect;
use chat_pair::client::console::{Console, Event as Typing};
use chat_pair::client::flags::Client as Flags;
use chat_pair::client::format::Look;
use chat_pair::client::input::Typed;
use chat_pair::client::limits::Limits;
use chat_pair::client::outbox::Outbox;
use chat_pair::flags;
use chat_pair::os::{Stop, plain};
use chat_pair::protocol::head::Socket;
use chat_pair::protocol::keepalive::{Alarm, Keepalive};
use chat_pair::protocol::{close, line};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::signal::unix::SignalKind;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_websockets::{CloseCode, Error, Message, WebSocketStream};

fn main() -> ExitCode {
    let ended = match flags::parse::<Flags>("client") {
        Ok(flags) => run(flags),
        Err(exit) => return exit,
    };
    let Err(line) = ended else {
        return ExitCode::SUCCESS;
    };
    note(&line);
    ExitCode::FAILURE
}

fn run(flags: Flags) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot start: {}", plain(&error));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(cannot)?;
    let ended = runtime.block_on(async {
        let mut client = Client::open(flags).map_err(cannot)?;
        let ended = client.chat().await;
        client.close(ended).await
    });
    // A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    ended
}

/// The client, whether it is connected or not.
struct Client {
    flags: Flags,
    limits: Limits,
    console: Console,
    stop: Stop,
    outbox: Outbox,
    /// How many lines were not fit to be sent.
    unfit: u64,
    /// The input has ended; this is when to leave.
    input_ended: Option<Instant>,
}

/// How the client came to leave.
enum Left {
    /// By its own wish, with or without the server's answer.
    Willingly,
    /// At the end of the input, all of which the server has taken.
    AtTheEnd,
}

impl Client {
    fn open(flags: Flags) -> io::Result<Self> {
        let limits = Limits {
            message: flags.max_message,
            ..Limits::DEFAULT
        };
        let look = Look {
            times: flags.timestamps,
            json: flags.json,
            ..Look::default()
        };
        Ok(Self {
            stop: Stop::listen(&[
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ])?,
            console: Console::open(look, &limits)?,
            flags,
            limits,
            outbox: Outbox::default(),
            unfit: 0,
            input_ended: None,
        })
    }

    /// Connects and talks, again and again if so asked, until somebody leaves.
    async fn chat(&mut self) -> Result<Left, String> {
        let (url, limits) = (self.flags.url.clone(), self.limits.clone());
        let mut backoff = Backoff::default();
        loop {
            let Some(connected) = self.meanwhile(connect(&url, &limits)).await else {
                return Ok(Left::Willingly);
            };
            let why = match connected {
                Ok(ws) => {
                    backoff = Backoff::default();
                    self.console
                        .note(&format!("connected to {url} (Ctrl+C or Ctrl+D leaves)"));
                    match Talk::begin(ws, self).go().await {
                        Ok(left) => return Ok(left),
                        Err(why) => why,
                    }
                }
                Err(why) => format!("cannot connect to {url}: {why}"),
            };
            let doubtful = self.outbox.doubtful();
            self.name("the server may not have taken", doubtful);
            if !self.flags.reconnect || self.input_ended.is_some_and(|end| end <= Instant::now()) {
                return Err(why);
            }
            let wait = backoff.wait();
            self.console.note(&format!(
                "{why}; trying again in {:.1} s",
                wait.as_secs_f32()
            ));
            if self.meanwhile(sleep(wait)).await.is_none() {
                return Ok(Left::Willingly);
            }
        }
    }

    /// Does something else than talk; `None` when the user leaves meanwhile. A person's lines
    /// are kept; a pipe can wait.
    async fn meanwhile<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                typing = self.console.next(self.console.is_terminal()) => match typing {
                    Typing::Typed(typed) => self.keep(typed),
                    Typing::Shown => {}
                    Typing::InputEnded | Typing::Leave | Typing::ReaderGone => return None,
                },
                () = self.stop.asked() => return None,
            }
        }
    }

    /// Keeps a line that was typed without a connection.
    fn keep(&mut self, typed: Typed) {
        if self.is_full() {
            self.console
                .note("not connected, and too much is waiting: this line is not kept");
            return;
        }
        self.take(typed);
        let waiting = self.outbox.waiting();
        if waiting > 0 {
            self.console.note(&format!(
                "not connected: kept to be sent later ({waiting} waiting)"
            ));
        }
    }

    /// Whether no more lines are kept until the server has taken some.
    fn is_full(&self) -> bool {
        self.outbox.bytes() >= self.limits.outbox
    }

    /// Takes what was typed.
    fn take(&mut self, typed: Typed) {
        match typed {
            Typed::Line(line) => {
                self.console.show_own(&line);
                self.outbox.push(line);
            }
            Typed::Bad(number, why) => {
                self.unfit += 1;
                self.console
                    .note(&format!("line {number} is {why}: not sent"));
            }
            Typed::Broken(why) => {
                self.unfit += 1;
                self.console
                    .note(&format!("cannot read standard input: {why}"));
            }
        }
    }

    /// Names lines that are in doubt: some by their text, many by their number.
    fn name(&mut self, what: &str, lines: impl IntoIterator<Item = String>) {
        const SOME: usize = 5;
        let mut lines = lines.into_iter();
        for line in lines.by_ref().take(SOME) {
            self.console
                .note(&format!("{what}: {}", line::clean(&line)));
        }
        match lines.count() {
            0 => {}
            more => self
                .console
                .note(&format!("{what}: {more} more lines after that")),
        }
    }

    /// Shows what is left to show, and says why the chat is over.
    async fn close(mut self, ended: Result<Left, String>) -> Result<(), String> {
        // What was read ahead of a chat that is over.
        for _ in 0..self.limits.queue {
            let Some(typed) = self.console.ready() else {
                break;
            };
            self.take(typed);
        }
        let doubtful = self.outbox.doubtful();
        let confirmed = doubtful.is_empty();
        self.name("the server may not have taken", doubtful);
        let unsent = self.outbox.unsent();
        let lost = self.unfit + unsent.len() as u64;
        self.name("not sent", unsent);
        // Everything received is shown, unless whoever waits for the end asks again.
        let Self {
            console, mut stop, ..
        } = self;
        tokio::select! {
            () = console.close() => {}
            () = stop.asked() => {}
        }
        match ended? {
            _ if lost == 1 => Err("1 line was not sent".to_owned()),
            _ if lost > 1 => Err(format!("{lost} lines were not sent")),
            Left::Willingly if !confirmed => Err(UNCONFIRMED.to_owned()),
            Left::Willingly => Ok("left the chat"),
            Left::AtTheEnd => Ok("left the chat: the server has taken all of the input"),
        }
        .map(note)
    }
}

/// One line about the chat once there is no console any more.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "client: {line}");
}

/// One connection's talk.
struct Talk<'a> {
    ws: WebSocketStream<Socket>,
    client: &'a mut Client,
    /// Something said is still on its way to the socket.
    sending: bool,
    /// Pings that came since all was sent; the library has queued a pong for each.
    pongs: usize,
    /// A goodbye was said; this is how long its answer may take.
    leaving: Option<Instant>,
    /// The server's Close.
    closed: Option<(CloseCode, String)>,
}

/// What the connection did.
enum Event {
    Sent(Result<(), Error>),
    Received(Option<Result<Message, Error>>),
}

/// What comes next on a connection: on, or why it is over.
type Next = Result<Option<Left>, String>;
const GO_ON: Next = Ok(None);

impl<'a> Talk<'a> {
    fn begin(ws: WebSocketStream<Socket>, client: &'a mut Client) -> Self {
        Self {
            ws,
            client,
            sending: false,
            pongs: 0,
            leaving: None,
            closed: None,
        }
    }

    async fn go(&mut self) -> Result<Left, String> {
        let limits = self.client.limits.clone();
        let mut keepalive = Keepalive::new(limits.quiet);
        let mut alarm = pin!(sleep_until(keepalive.due()));
        loop {
            self.send_what_waits();
            let reading = self.leaving.is_none() && self.client.input_ended.is_none();
            // A pipe can wait; a person's keys are read, since Ctrl+C is one of them.
            let reading = reading && (self.client.console.is_terminal() || !self.client.is_full());
            let room = self.has_room();
            // What is left of the input is sent before anything else counts.
            let all_sent = self.client.outbox.waiting() == 0;
            let end = self
                .leaving
                .or(self.client.input_ended.filter(|_| all_sent));
            let next = tokio::select! {
                // A line was typed.
                typing = self.client.console.next(reading) => { self.typed(typing); GO_ON }
                // A frame arrived, or what was said is sent.
                event = next(&mut self.ws, self.sending, room) => {
                    // What we sent ourselves, a ping for instance, is no sign of life.
                    if matches!(event, Event::Received(_)) {
                        keepalive.heard();
                    }
                    self.connection(event).await
                }
                // Nobody has heard from the server for a while.
                () = &mut alarm => {
                    let alive = self.ask(&keepalive.alarm());
                    alarm.as_mut().reset(keepalive.due());
                    alive
                }
                // Patience, or `--wait`, has an end.
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => self.end(),
                () = self.client.stop.asked() => self.stopped(),
            };
            if let Some(left) = next? {
                return Ok(left);
            }
        }
    }

    /// Queues what was typed; `next` writes it.
    fn send_what_waits(&mut self) {
        if self.sending || self.leaving.is_some() {
            return;
        }
        for message in self.client.outbox.send(self.client.limits.batch) {
            self.send(message);
        }
    }

    fn send(&mut self, message: Message) {
        // An error means that the connection is closing; the next event says so.
        self.sending |= self.ws.start_send_unpin(message).is_ok();
    }

    fn typed(&mut self, typing: Typing) {
        match typing {
            Typing::Typed(_) if self.client.is_full() => self
                .client
                .console
                .note("the server takes nothing, and too much is waiting: this line is not kept"),
            Typing::Typed(typed) => {
                self.client.take(typed);
                while !self.client.is_full()
                    && let Some(typed) = self.client.console.ready()
                {
                    self.client.take(typed);
                }
            }
            Typing::InputEnded => {
                self.client.input_ended = Some(Instant::now() + self.client.flags.wait);
            }
            Typing::Shown => {}
            Typing::Leave | Typing::ReaderGone => self.leave(self.client.limits.close),
        }
    }

    fn leave(&mut self, patience: Duration) {
        self.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), ""));
        self.leaving = Some(Instant::now() + patience);
    }

    /// A signal: leave, or do not even wait for the answer.
    fn stopped(&mut self) -> Next {
        if self.leaving.is_some() {
            return Ok(Some(Left::Willingly));
        }
        self.leave(self.client.limits.close);
        GO_ON
    }

    /// The input has ended some time ago, or a goodbye was not answered.
    fn end(&mut self) -> Next {
        if self.leaving.is_some() {
            return self.over();
        }
        // The server may be held up by others before it reads our last line.
        self.leave(2 * self.client.limits.quiet);
        GO_ON
    }

    fn ask(&mut self, alarm: &Alarm) -> Next {
        match alarm {
            Alarm::Early => {}
            Alarm::Ask => self.send(Message::ping("")),
            // When our own reader is slow, it is us who do not listen.
            Alarm::Dead if !self.client.console.has_room() => {}
            Alarm::Dead => return Err("connection lost: the server does not answer".to_owned()),
        }
        GO_ON
    }

    /// Whether more may be read: its reader keeps up, and so does the server with our pongs, whose
    /// queue would grow without end otherwise.
    fn has_room(&self) -> bool {
        self.client.console.has_room() && self.pongs < self.client.limits.queue
    }

    /// Shows what has arrived, and all that is there already.
    async fn connection(&mut self, event: Event) -> Next {
        let mut next = match event {
            Event::Sent(sent) => {
                (self.sending, self.pongs) = (false, 0);
                return sent.map(|()| None).map_err(|_| LOST.to_owned());
            }
            Event::Received(message) => Some(message),
        };
        while let Some(message) = next {
            let fault = match message {
                Some(Ok(message)) => self.hear(&message),
                Some(Err(error)) if self.leaving.is_none() => match close::fault(&error) {
                    None => return self.over(),
                    fault => fault,
                },
                _ => return self.over(),
            };
            if let Some((code, why)) = fault {
                close::close(&mut self.ws, code, why, self.client.limits.close).await;
                let words = close::words(code);
                return Err(format!(
                    "connection closed: the server broke the rules: {why} ({words})"
                ));
            }
            next = if self.has_room() {
                self.ws.next().now_or_never()
            } else {
                None
            };
        }
        // A terminal that is gone says so at the next key.
        let _ = self.client.console.flush();
        // However fast the server is, signals and keys come through.
        tokio::task::yield_now().await;
        GO_ON
    }

    /// Takes a message; returns what is wrong with it.
    fn hear(&mut self, message: &Message) -> Option<(CloseCode, &'static str)> {
        if let Some((code, reason)) = message.as_close() {
            self.closed = Some((code, line::clean(reason).into_owned()));
        } else if message.is_ping() {
            (self.sending, self.pongs) = (true, self.pongs + 1);
        } else if message.is_pong() {
            self.client.outbox.confirm(message.as_payload());
        } else if message.is_text() {
            let Ok(text) = line::text(message) else {
                return Some(close::NOT_UTF8);
            };
            for line in line::lines(text) {
                self.client.console.show(&line::clean(line));
            }
        }
        None
    }

    /// What it means that nothing more will come.
    fn over(&mut self) -> Next {
        let _ = self.client.console.flush();
        let at_the_end = self.client.input_ended.is_some();
        match (&self.leaving, &self.closed) {
            (Some(_), Some((CloseCode::NORMAL_CLOSURE, _))) => {
                self.client.outbox.doubtful(); // the answer confirms them all
                Ok(Some(if at_the_end {
                    Left::AtTheEnd
                } else {
                    Left::Willingly
                }))
            }
            (Some(_), _) if !at_the_end => Ok(Some(Left::Willingly)),
            (_, Some((code, reason))) => {
                let reason = if reason.is_empty() {
                    "it gave no reason"
                } else {
                    reason
                };
                Err(format!(
                    "the server closed the chat: {reason} ({})",
                    close::words(*code)
                ))
            }
            (Some(_), None) => Err(UNCONFIRMED.to_owned()),
            (None, None) => Err(LOST.to_owned()),
        }
    }
}

const UNCONFIRMED: &str = "the server did not confirm that it took everything";
const LOST: &str = "connection lost: the server went away without a goodbye";

/// Waits for what the connection does next: all that was queued is written (while `sending`), or
/// a message arrived (while there is `room` for it). One future for both, since neither may wait
/// for the other: two ends that write and do not read would wait for ever.
async fn next(ws: &mut WebSocketStream<Socket>, sending: bool, room: bool) -> Event {
    poll_fn(|cx| {
        if sending && let Poll::Ready(sent) = ws.poll_flush_unpin(cx) {
            return Poll::Ready(Event::Sent(sent));
        }
        if room {
            ws.poll_next_unpin(cx).map(Event::Received)
        } else {
            Poll::Pending
        }
    })
    .await
}
