//! The client: what is typed goes to the server, what the server sends is shown.

use std::future::poll_fn;
use std::io::{self, Write};
use std::process::ExitCode;
use std::task::Poll;

use chat_pair::connect::{connect, plain};
use chat_pair::head::Socket;
use chat_pair::input::{self, Typed};
use chat_pair::keepalive::{Alarm, Keepalive};
use chat_pair::limits::Limits;
use chat_pair::output::{Output, ReaderGone};
use chat_pair::{close, flags, line};
use futures_util::{SinkExt, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};
use tokio_websockets::{CloseCode, Error, Message, WebSocketStream};

fn main() -> ExitCode {
    let ended = match flags::parse::<flags::Client>("client") {
        Ok(flags) => run(&flags),
        Err(exit) => return exit,
    };
    let Err(line) = ended else {
        return ExitCode::SUCCESS;
    };
    note(&line);
    ExitCode::FAILURE
}

fn run(flags: &flags::Client) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start: {}", plain(&error)))?;
    let ended = runtime.block_on(chat(flags));
    // A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    ended
}

/// One line about the chat, beside the chat.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "client: {line}");
}

async fn chat(flags: &flags::Client) -> Result<(), String> {
    let limits = Limits {
        message: flags.max_message,
        ..Limits::DEFAULT
    };
    let mut stop = Stop::listen().map_err(|error| format!("cannot start: {}", plain(&error)))?;
    let ws = tokio::select! {
        connected = connect(&flags.url, &limits) => {
            connected.map_err(|why| format!("cannot connect to {}: {why}", flags.url))?
        }
        () = stop.asked() => return Ok(()),
    };
    note(&format!(
        "connected to {} (Ctrl+C or Ctrl+D leaves)",
        flags.url
    ));
    let mut talk = Talk {
        ws,
        sending: false,
        leaving: None,
        closed: None,
        shown: String::new(),
    };
    let mut input = input::lines(&limits);
    let output = Output::open();
    let ended = talk.go(&mut input, &output, &mut stop, &limits).await;
    // Everything received is shown first, unless whoever waits for the end asks again.
    tokio::select! {
        () = output.finish(talk.shown) => {}
        () = stop.asked() => {}
    }
    ended
}

/// One connection's talk.
struct Talk {
    ws: WebSocketStream<Socket>,
    /// Something said is still on its way to the socket.
    sending: bool,
    leaving: Option<Leaving>,
    /// The server's Close.
    closed: Option<(CloseCode, String)>,
    /// Received, but not taken by the output yet.
    shown: String,
}

/// The client has said goodbye and waits for the answer.
struct Leaving {
    until: Instant,
    /// Whether it matters that the server took everything: so at the end of the input.
    mind: bool,
}

/// What the connection did.
enum Event {
    Sent(Result<(), Error>),
    Received(Option<Result<Message, Error>>),
}

impl Talk {
    async fn go(
        &mut self,
        input: &mut Receiver<Typed>,
        output: &Output,
        stop: &mut Stop,
        limits: &Limits,
    ) -> Result<(), String> {
        let mut unsent = 0;
        let mut keepalive = Keepalive::new(limits.quiet);
        let alarm = sleep_until(keepalive.due());
        tokio::pin!(alarm);
        loop {
            let (sending, leaving) = (self.sending, self.leaving.is_some());
            let until = self
                .leaving
                .as_ref()
                .map_or_else(Instant::now, |leaving| leaving.until);
            let room = self.shown.len() < limits.gather;
            tokio::select! {
                // A line was typed.
                typed = input.recv(), if !sending && !leaving => match typed {
                    Some(typed) => unsent += self.say(typed, input, limits),
                    None => self.leave(4 * limits.quiet, true),
                },
                // A frame arrived, or what was said is sent.
                event = next(&mut self.ws, sending, room) => match event {
                    Event::Sent(sent) => {
                        self.sending = false;
                        sent.map_err(|_| LOST)?;
                    }
                    Event::Received(Some(Ok(message))) => {
                        keepalive.heard();
                        self.hear(&message)?;
                    }
                    Event::Received(_) => return self.ended(unsent),
                },
                // What arrived can be shown.
                shown = output.write(&mut self.shown), if !self.shown.is_empty() => {
                    if let Err(ReaderGone) = shown {
                        self.shown.clear();
                        self.leave(limits.close, false);
                    }
                }
                () = stop.asked() => {
                    if leaving { return Ok(()); }
                    self.leave(limits.close, false);
                }
                () = &mut alarm => {
                    match keepalive.alarm() {
                        Alarm::Early => {}
                        Alarm::Ask => self.send(Message::ping("")),
                        Alarm::Dead if room => return Err(DEAD.to_owned()),
                        Alarm::Dead => keepalive.heard(), // we are the ones who did not listen
                    }
                    alarm.as_mut().reset(keepalive.due());
                }
                () = sleep_until(until), if leaving => return self.ended(unsent),
            }
        }
    }

    /// Queues a line and those that are there already; returns how many cannot be sent.
    fn say(&mut self, first: Typed, input: &mut Receiver<Typed>, limits: &Limits) -> u64 {
        let (mut unsent, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(typed) = next {
            match typed {
                Typed::Line(line) => {
                    bytes += line.len();
                    self.send(Message::text(line));
                }
                Typed::Bad(number, why) => {
                    unsent += 1;
                    note(&format!("line {number} is {why}: not sent"));
                }
                Typed::Broken(why) => {
                    unsent += 1;
                    note(&format!("cannot read standard input: {why}"));
                }
            }
            next = if bytes < limits.batch {
                input.try_recv().ok()
            } else {
                None
            };
        }
        unsent
    }

    /// Queues a message; `next` writes it.
    fn send(&mut self, message: Message) {
        // An error means that the connection is closing; the next event says so.
        self.sending |= self.ws.start_send_unpin(message).is_ok();
    }

    fn leave(&mut self, patience: std::time::Duration, mind: bool) {
        self.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), ""));
        self.leaving = Some(Leaving {
            until: Instant::now() + patience,
            mind,
        });
    }

    fn hear(&mut self, message: &Message) -> Result<(), String> {
        if let Some((code, reason)) = message.as_close() {
            self.closed = Some((code, line::clean(reason).into_owned()));
        } else if message.is_text() {
            let text = line::text(message).map_err(|_| "the server sent text that is not UTF-8")?;
            for line in line::lines(text) {
                self.shown.push_str(&line::clean(line));
                self.shown.push('\n');
            }
        }
        Ok(())
    }

    /// What it means that nothing more will come.
    fn ended(&self, unsent: u64) -> Result<(), String> {
        let answered = matches!(self.closed, Some((CloseCode::NORMAL_CLOSURE, _)));
        match (&self.leaving, &self.closed) {
            (Some(leaving), _) if answered || !leaving.mind => match unsent {
                0 => Ok(()),
                1 => Err("1 line was not sent".to_owned()),
                many => Err(format!("{many} lines were not sent")),
            },
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
            (Some(_), None) => Err("the server did not confirm that it took everything".to_owned()),
            (None, None) => Err(LOST.to_owned()),
        }
    }
}

const LOST: &str = "connection lost: the server went away without a goodbye";
const DEAD: &str = "connection lost: the server does not answer any more";

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

/// SIGINT, SIGTERM and SIGHUP.
struct Stop([Signal; 3]);

impl Stop {
    fn listen() -> io::Result<Self> {
        let [interrupt, terminate, hangup] = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ]
        .map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
