//! What stays while connections come and go: the console, the lines that are not confirmed yet, and
//! what became of the others.

use std::io;
use std::iter;
use std::ops::ControlFlow;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_websockets::CloseCode;

use crate::client::connection::ConnectionEnd;
use crate::client::console::Console;
use crate::client::event::Event;
use crate::client::limits::Limits;
use crate::client::outbox::Outbox;
use crate::client::session::{Heard, Session};
use crate::os::describe;
use crate::protocol::line;

/// The client, whether it is connected or not.
pub struct Chat {
    /// Where lines are typed and shown.
    pub console: Console,
    /// Lines that the server is not known to have.
    pub outbox: Outbox,
    /// Who this client is for a server that it comes back to.
    pub session: Session,
    /// Every limit of the client.
    pub limits: Limits,
    /// Whether there is a connection.
    pub connected: bool,
    /// How long to go on receiving after the end of the input.
    wait: Duration,
    /// When to leave. It is set at the end of the input.
    pub leave_at: Option<Instant>,
    /// How many lines were not sent and never will be.
    unsent: usize,
    /// The server has closed the last connection because a line was too long for it.
    refused: bool,
    /// There were lines that the server may not have taken.
    in_doubt: bool,
    /// Standard input could not be read, or standard output not be written, for this reason.
    broken: Option<String>,
}

/// Why the chat is over.
#[derive(Debug, PartialEq, Eq)]
pub enum ChatEnd {
    /// A person or a signal asked for it, or nobody reads the output any more.
    Left,
    /// The same while there was no connection.
    LeftOffline,
    /// The input has ended, and the server has taken all of it.
    InputSent,
    /// It could not go on; this says why.
    Failed(String),
}

/// What the user is told when a sent line was never confirmed. Then it may have been lost, so this
/// is a failure. The end of a connection and the end of the chat both say it.
pub const UNCONFIRMED: &str = "the server did not confirm that it took everything";

impl Chat {
    /// A chat that has not connected yet. `wait` is how long to go on receiving after the end of the
    /// input.
    #[must_use]
    pub fn new(console: Console, limits: Limits, wait: Duration) -> Self {
        Self {
            console,
            outbox: Outbox::default(),
            session: Session::default(),
            limits,
            connected: false,
            wait,
            leave_at: None,
            unsent: 0,
            refused: false,
            in_doubt: false,
            broken: None,
        }
    }

    /// Does some work while there is no connection, and handles the console's events at the same
    /// time. A person's lines are kept, but a pipe is not read, since it can wait.
    ///
    /// # Errors
    ///
    /// The chat is over before the work is done, since somebody wants to leave, or it is time to, and
    /// the server has taken everything.
    pub async fn meanwhile<F: Future>(&mut self, work: F) -> Result<F::Output, ChatEnd> {
        let mut work = pin!(work);
        loop {
            let leave_at = self.leave_at.filter(|_| self.outbox.is_empty());
            tokio::select! {
                done = &mut work => return Ok(done),
                event = self.console.next(false) => if self.handle(event).is_break() {
                    return Err(ChatEnd::LeftOffline);
                },
                // Without a time it does not matter, but `select!` still evaluates it.
                () = sleep_until(leave_at.unwrap_or_else(Instant::now)), if leave_at.is_some() => {
                    return Err(ChatEnd::InputSent);
                }
            }
        }
    }

    /// Whether no more lines are kept until the server has confirmed some.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outbox.bytes() >= self.limits.outbox
    }

    /// Handles an event of the console. Returns [`ControlFlow::Break`] when it is a reason to leave,
    /// and [`ControlFlow::Continue`] otherwise.
    pub fn handle(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Line(line) => self.keep(line),
            Event::Unfit(why) => {
                self.unsent += 1;
                self.console.note(&why);
            }
            Event::End(None) => self.leave_at = Some(Instant::now() + self.wait),
            Event::End(Some(error)) => {
                // What was read before is sent; nobody waits for the answers of a failure.
                self.leave_at = Some(Instant::now());
                self.broken = Some(format!("cannot read standard input: {}", describe(&error)));
            }
            Event::Shown => {}
            Event::Leave => return ControlFlow::Break(()),
            Event::OutputEnded(error) => {
                // A reader that closes the pipe has read enough, as in `client | head -3`. That is
                // no failure.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    self.broken = Some(format!(
                        "cannot write standard output: {}",
                        describe(&error)
                    ));
                }
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Keeps a line to be sent. A pipe is not read while the outbox is full. A person can type all
    /// the same, and is told when a line is not kept or cannot be sent yet.
    fn keep(&mut self, line: String) {
        let person = self.console.is_terminal();
        if person && self.is_full() {
            let why = if self.connected {
                "the server takes nothing"
            } else {
                "not connected"
            };
            let lost = "and too much is waiting: this line is not kept";
            self.unsent += 1;
            return self.console.note(&format!("{why}, {lost}"));
        }
        self.outbox.push(line);
        if person && !self.connected {
            let waiting = self.outbox.waiting();
            let kept = "not connected: kept to be sent later";
            self.console.note(&format!("{kept} ({waiting} waiting)"));
        }
    }

    /// A line came from the server, which may be one of its own about our session.
    pub fn hear(&mut self, line: &str) {
        let was_asked = self.session.is_asked();
        match self.session.hear(line) {
            Heard::Begun { taken, same_past } => self.resume(taken, same_past),
            Heard::Place => {}
            Heard::Line(said) => {
                if was_asked {
                    self.name_doubtful();
                }
                self.console.show(&line::clean(line), said);
            }
        }
    }

    /// Something that is no text came from the server. If it was to answer for our session first, it
    /// knows nothing of sessions.
    pub fn hear_no_text(&mut self) {
        if self.session.is_asked() {
            self.session.set_plain();
            self.name_doubtful();
        }
    }

    /// The server has our session, and has taken so many lines. If it has not lost any since, those
    /// behind them are sent again.
    fn resume(&mut self, taken: u64, same_past: bool) {
        let refused = std::mem::take(&mut self.refused);
        if !(same_past && self.outbox.resume(taken)) {
            self.name_doubtful();
            self.outbox.count_from(taken);
        } else if refused && let Some(line) = self.outbox.skip() {
            // The server had taken those before it. This one it would refuse again and again.
            self.unsent += 1;
            self.name("not taken, since it is too long for the server", [line]);
        }
    }

    /// A connection is over. Prints the lines that the server may not have taken, unless it can be
    /// asked for them by our session.
    pub fn disconnected(&mut self, end: &ConnectionEnd) {
        self.connected = false;
        if self.session.is_plain() {
            self.name_doubtful();
        }
        let too_long = matches!(end, ConnectionEnd::Closed(CloseCode::MESSAGE_TOO_BIG, _));
        self.refused = too_long && self.session.is_kept();
    }

    /// Whether it is worth connecting again after a connection is lost: lines are not known to be
    /// taken, or it is not yet time to leave.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.outbox.is_empty() || self.leave_at.is_none_or(|time| Instant::now() < time)
    }

    /// Nobody can be asked any more: prints the lines that the server may not have taken.
    pub fn name_doubtful(&mut self) {
        let doubtful = self.outbox.doubtful();
        self.in_doubt |= !doubtful.is_empty();
        self.name("the server may not have taken", doubtful);
    }

    /// The chat is over: prints the lines that were not sent.
    ///
    /// Somebody who leaves `tail -f log | client` expects that the rest of the log is not sent. So
    /// when somebody leaves a pipe that has not ended, nothing is printed, unless there is no
    /// connection: then even lines that were read long ago may not be sent.
    fn name_unsent(&mut self, end: &ChatEnd) {
        // The thread that reads the input can hold one more event while the queue is full. There
        // has to be a limit, since an endless input would fill the queue again and again.
        let queued = iter::from_fn(|| self.console.try_next(true));
        let queued: Vec<_> = queued.take(self.limits.queue + 1).collect();
        let ended = self.leave_at.is_some() || matches!(queued.last(), Some(Event::End(_)));
        // Those that wait for the server's answer about our session were read long ago, too.
        let is_held = self.session.is_asked();
        if *end == ChatEnd::Left && !self.console.is_terminal() && !ended && !is_held {
            return;
        }
        for event in queued {
            let _ = self.handle(event);
        }
        let unsent = self.outbox.unsent();
        self.unsent += unsent.len();
        self.name("not sent", unsent);
    }

    /// Prints a note for each of the first few lines, and for the rest a note that says how many
    /// there are.
    fn name(&mut self, what: &str, lines: impl IntoIterator<Item = String>) {
        const SOME: usize = 5;
        let mut lines = lines.into_iter();
        for line in lines.by_ref().take(SOME) {
            let line = shortened(&line::clean(&line));
            self.console.note(&format!("{what}: {line}"));
        }
        let more = lines.count();
        if more > 0 {
            self.console
                .note(&format!("{what}: {more} more lines after that"));
        }
    }

    /// Shows what is left to show, gives the terminal back, and says why the chat is over. Returns
    /// what the program ends with.
    pub async fn close(mut self, end: ChatEnd) -> ExitCode {
        self.console.begin_to_end();
        self.name_doubtful();
        self.name_unsent(&end);
        // A terminal shows everything in order, so the reason of a failure comes after what was
        // received. In a pipe the reason goes to standard error, and is written at once, even if
        // nobody reads standard output.
        let at_once = matches!(end, ChatEnd::Failed(_)) && !self.console.is_terminal();
        if !at_once && let Err(error) = self.console.finish().await {
            let _ = self.handle(Event::OutputEnded(error));
        }
        let (exit, last_note) = match self.outcome(end) {
            Ok(note) => (ExitCode::SUCCESS, note),
            Err(note) => (ExitCode::FAILURE, note),
        };
        self.console.note(&last_note);
        self.console.close().await;
        exit
    }

    /// The last note: why the chat is over, or as an error, what went wrong.
    fn outcome(&self, end: ChatEnd) -> Result<String, String> {
        match (end, &self.broken) {
            (ChatEnd::Failed(why), _) => Err(why),
            (_, Some(why)) => Err(why.clone()),
            _ if self.unsent == 1 => Err("1 line was not sent".to_owned()),
            _ if self.unsent > 1 => Err(format!("{} lines were not sent", self.unsent)),
            _ if self.in_doubt => Err(UNCONFIRMED.to_owned()),
            (ChatEnd::Left | ChatEnd::LeftOffline, _) => Ok("left the chat".to_owned()),
            (ChatEnd::InputSent, _) => {
                Ok("left the chat: the server has taken all of the input".to_owned())
            }
        }
    }
}

/// The beginning of a line, and its length if that is not all of it.
fn shortened(line: &str) -> String {
    const LETTERS: usize = 100;
    match line.char_indices().nth(LETTERS) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_named_by_its_beginning() {
        assert_eq!(shortened("short"), "short");
        let named = shortened(&"é".repeat(1000));
        assert_eq!(named, format!("{}… (2000 bytes)", "é".repeat(100)));
    }
}
