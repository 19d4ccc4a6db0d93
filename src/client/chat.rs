//! What stays while connections come and go: the two ends, the lines on their way, and what
//! became of them.

use std::io;
use std::iter;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::console::Console;
use crate::client::event::Event;
use crate::client::limits::Limits;
use crate::client::outbox::Outbox;
use crate::os::describe;
use crate::protocol::line;

/// The client, whether it is connected or not.
pub struct Chat {
    /// Where lines come from and go to.
    pub console: Console,
    /// Lines that the server is not known to have.
    pub outbox: Outbox,
    /// Every number.
    pub limits: Limits,
    /// Whether there is a connection.
    pub connected: bool,
    /// How long to listen after the end of the input.
    wait: Duration,
    /// The input has ended, and this is when to leave.
    pub until: Option<Instant>,
    /// How many lines were not sent.
    unsent: usize,
    /// There were lines that the server may not have taken.
    in_doubt: bool,
    /// What was received could not be written, and why.
    output_error: Option<io::Error>,
}

/// Why the chat is over.
#[derive(Debug, PartialEq, Eq)]
pub enum ChatEnd {
    /// A person or a signal asked for it, or nobody reads the output any more.
    Left,
    /// The input has ended, and the server has taken all of it.
    InputSent,
    /// It could not go on, and why.
    Failed(String),
}

/// What is said when lines are in doubt.
pub const UNCONFIRMED: &str = "the server did not confirm that it took everything";

impl Chat {
    /// Nothing typed, nothing received. `wait` is how long to listen after the end of the input.
    #[must_use]
    pub fn new(console: Console, limits: Limits, wait: Duration) -> Self {
        Self {
            console,
            outbox: Outbox::default(),
            limits,
            connected: false,
            wait,
            until: None,
            unsent: 0,
            in_doubt: false,
            output_error: None,
        }
    }

    /// Does something while there is no connection; `None` when somebody wants to leave
    /// meanwhile. A person's lines are kept; a pipe can wait.
    pub async fn meanwhile<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                event = self.console.next(false) => if self.take(event).is_break() {
                    return None;
                },
            }
        }
    }

    /// Whether no more lines are kept until the server has taken some.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outbox.bytes() >= self.limits.outbox
    }

    /// Takes what happened at one of the two ends; breaks when that is a wish to leave.
    pub fn take(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Line(line) => self.take_line(line),
            Event::Unfit(why) => {
                self.unsent += 1;
                self.console.note(&why);
            }
            Event::End => self.until = Some(Instant::now() + self.wait),
            Event::Shown => {}
            Event::Leave => return ControlFlow::Break(()),
            Event::OutputEnded(error) => {
                // Whoever stops reading has read enough, as in `client | head -3`.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    self.output_error = Some(error);
                }
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Keeps a line to be sent. A pipe is not read while there is no room for its lines; a person
    /// cannot be made to wait, so a person is told what becomes of a line.
    fn take_line(&mut self, line: String) {
        let person = self.console.is_terminal();
        if person && self.is_full() {
            let why = if self.connected {
                "the server takes nothing"
            } else {
                "not connected"
            };
            let lost = "and too much is waiting: this line is not kept";
            return self.console.note(&format!("{why}, {lost}"));
        }
        self.outbox.push(line);
        if person && !self.connected {
            let waiting = self.outbox.waiting();
            let kept = "not connected: kept to be sent later";
            self.console.note(&format!("{kept} ({waiting} waiting)"));
        }
    }

    /// Whether there is something left to say or to hear when a connection is lost.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.outbox.waiting() > 0 || self.until.is_none_or(|until| Instant::now() < until)
    }

    /// A connection is over: names the lines that the server may not have taken.
    pub fn name_doubtful(&mut self) {
        let doubtful = self.outbox.doubtful();
        self.in_doubt |= !doubtful.is_empty();
        self.name("the server may not have taken", doubtful);
    }

    /// The chat is over: names the lines that were not sent. Lines of a pipe that goes on and on
    /// were only read ahead; whoever leaves it has lost nothing.
    fn name_unsent(&mut self, end: &ChatEnd) {
        let ready = iter::from_fn(|| self.console.ready());
        let ahead: Vec<_> = ready.take(self.limits.queue + 1).collect();
        let ended = self.until.is_some() || matches!(ahead.last(), Some(Event::End));
        if *end == ChatEnd::Left && !self.console.is_terminal() && !ended {
            return;
        }
        for event in ahead {
            let _ = self.take(event);
        }
        let unsent = self.outbox.unsent();
        self.unsent += unsent.len();
        self.name("not sent", unsent);
    }

    /// Names lines: some by their text, many by their number.
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

    /// Shows what is left to show, gives the terminal back, and says why the chat is over.
    ///
    /// # Errors
    ///
    /// It was not a normal end: the program fails.
    pub async fn close(mut self, end: ChatEnd) -> Result<(), ()> {
        self.name_unsent(&end);
        // In a pipe, why it failed need not wait for the reader of what was received.
        let at_once = matches!(end, ChatEnd::Failed(_)) && !self.console.is_terminal();
        if !at_once && let Err(error) = self.console.finish().await {
            let _ = self.take(Event::OutputEnded(error));
        }
        let outcome = self.outcome(end);
        let (Ok(last) | Err(last)) = &outcome;
        self.console.note(last);
        self.console.close().await;
        outcome.map(drop).map_err(drop)
    }

    /// The last line about the chat: it went well, or what did not.
    fn outcome(&self, end: ChatEnd) -> Result<String, String> {
        match (end, &self.output_error) {
            (ChatEnd::Failed(why), _) => Err(why),
            (_, Some(error)) => Err(format!("cannot write standard output: {}", describe(error))),
            _ if self.unsent == 1 => Err("1 line was not sent".to_owned()),
            _ if self.unsent > 1 => Err(format!("{} lines were not sent", self.unsent)),
            _ if self.in_doubt => Err(UNCONFIRMED.to_owned()),
            (ChatEnd::Left, _) => Ok("left the chat".to_owned()),
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
