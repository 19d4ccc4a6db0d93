//! What stays while connections come and go: the two ends, the lines on their way, and what
//! became of them.

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::console::{Console, Event};
use crate::client::limits::Limits;
use crate::client::outbox::Outbox;
use crate::os::{Stop, describe};
use crate::protocol::line;

/// The client, whether it is connected or not.
pub struct Chat {
    /// Where lines come from and go to.
    pub console: Console,
    /// Lines that the server is not known to have.
    pub outbox: Outbox,
    /// Signals that ask to leave.
    pub stop: Stop,
    /// Every number.
    pub limits: Limits,
    /// How long to listen after the end of the input.
    wait: Duration,
    /// The input has ended, and this is when to leave.
    pub until: Option<Instant>,
    /// How many lines were not sent, or not fit to be.
    lost: u64,
    /// How many lines the server may not have taken.
    doubtful: u64,
    /// What was received could not be written, and why.
    unwritten: Option<io::Error>,
}

/// Why the client ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Over {
    /// A person or a signal asked for it, or nobody reads the output any more.
    Left,
    /// The input has ended, and the server has taken all of it.
    InputEnded,
    /// It could not go on, and why.
    Failed(String),
}

impl Chat {
    /// Nothing typed, nothing received. `wait` is how long to listen after the end of the input.
    #[must_use]
    pub fn new(console: Console, stop: Stop, limits: Limits, wait: Duration) -> Self {
        Self {
            console,
            outbox: Outbox::default(),
            stop,
            limits,
            wait,
            until: None,
            lost: 0,
            doubtful: 0,
            unwritten: None,
        }
    }

    /// Does something while there is no connection; `None` when somebody wants to leave
    /// meanwhile. A person's lines are kept; a pipe can wait.
    pub async fn meanwhile<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                event = self.console.next(false) => {
                    let before = self.outbox.waiting();
                    self.take(event, "not connected").ok()?;
                    let waiting = self.outbox.waiting();
                    if waiting > before {
                        self.console.note(&format!(
                            "not connected: kept to be sent later ({waiting} waiting)"
                        ));
                    }
                }
                () = self.stop.asked() => return None,
            }
        }
    }

    /// Whether no more lines are kept until the server has taken some.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outbox.bytes() >= self.limits.outbox
    }

    /// Takes what happened at one of the two ends. A line that there is no place for is not kept,
    /// since a person cannot be made to wait, and `full` says why there is none.
    ///
    /// # Errors
    ///
    /// Somebody wants to leave.
    pub fn take(&mut self, event: Event, full: &str) -> Result<(), Over> {
        match event {
            Event::Line(_) if self.is_full() => self.console.note(&format!(
                "{full}, and too much is waiting: this line is not kept"
            )),
            Event::Line(line) => {
                self.console.show_own(&line);
                self.outbox.push(line);
            }
            Event::Unfit(why) => {
                self.lost += 1;
                self.console.note(&why);
            }
            Event::End => self.until = Some(Instant::now() + self.wait),
            Event::Shown => {}
            Event::Leave => return Err(Over::Left),
            Event::OutputEnded(error) => {
                // Whose reader goes away has read enough, as in `client | head -3`.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    self.unwritten = Some(error);
                }
                return Err(Over::Left);
            }
        }
        Ok(())
    }

    /// Whether there is something left to say or to hear when a connection is lost.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.outbox.waiting() > 0 || self.until.is_none_or(|until| Instant::now() < until)
    }

    /// A connection is over: names the lines that the server may not have taken.
    pub fn name_doubtful(&mut self) {
        let doubtful = self.outbox.doubtful();
        self.doubtful += doubtful.len() as u64;
        self.name("the server may not have taken", doubtful);
    }

    /// Names lines: some by their text, many by their number.
    fn name(&mut self, what: &str, lines: impl IntoIterator<Item = String>) {
        const SOME: usize = 5;
        let mut lines = lines.into_iter();
        for line in lines.by_ref().take(SOME) {
            let line = shortened(&line::clean(&line));
            self.console.note(&format!("{what}: {line}"));
        }
        match lines.count() {
            0 => {}
            more => self
                .console
                .note(&format!("{what}: {more} more lines after that")),
        }
    }

    /// The lines that were not sent. What a pipe brings on and on was only read ahead: who leaves
    /// it loses nothing.
    fn name_unsent(&mut self, over: &Over) {
        let mut ahead = Vec::new();
        while ahead.len() <= self.limits.queue
            && let Some(event) = self.console.ready()
        {
            ahead.push(event);
        }
        let ended = self.until.is_some() || matches!(ahead.last(), Some(Event::End));
        if *over == Over::Left && !self.console.is_terminal() && !ended {
            return;
        }
        for event in ahead {
            match event {
                Event::Line(line) => self.outbox.push(line),
                event => drop(self.take(event, "")),
            }
        }
        let unsent = self.outbox.unsent();
        self.lost += unsent.len() as u64;
        self.name("not sent", unsent);
    }

    /// Shows what is left to show, gives the terminal back, and says why the chat is over.
    ///
    /// # Errors
    ///
    /// It was not a normal end: the program fails.
    pub async fn close(mut self, over: Over) -> Result<(), ()> {
        self.name_unsent(&over);
        let mut asked = over == Over::Left;
        // In a pipe the reason need not wait for the reader of what was received.
        let at_once = matches!(over, Over::Failed(_)) && !self.console.is_terminal();
        if at_once && let Err(why) = self.outcome(&over) {
            self.console.note(&why);
        }
        let shown = tokio::select! {
            shown = self.console.finish() => shown,
            () = patience(&mut self.stop, &mut asked, &self.limits) => Ok(()),
        };
        if let Err(error) = shown {
            let _ = self.take(Event::OutputEnded(error), "");
        }
        let outcome = self.outcome(&over);
        let mut notes = self.console.close();
        let (Ok(last) | Err(last)) = &outcome;
        if !at_once {
            notes.push(&format!("client: {last}"));
        }
        tokio::select! {
            _ = notes.finish() => {}
            () = patience(&mut self.stop, &mut asked, &self.limits) => {}
        }
        outcome.map(drop).map_err(drop)
    }

    /// The last line about the chat: it went well, or what did not.
    fn outcome(&self, over: &Over) -> Result<String, String> {
        match (over, &self.unwritten) {
            (Over::Failed(why), _) => Err(why.clone()),
            (_, Some(error)) => Err(format!("cannot write standard output: {}", describe(error))),
            _ if self.lost == 1 => Err("1 line was not sent".to_owned()),
            _ if self.lost > 1 => Err(format!("{} lines were not sent", self.lost)),
            _ if self.doubtful > 0 => Err(UNCONFIRMED.to_owned()),
            (Over::Left, _) => Ok("left the chat".to_owned()),
            (Over::InputEnded, _) => {
                Ok("left the chat: the server has taken all of the input".to_owned())
            }
        }
    }
}

/// What is said when lines are in doubt.
pub const UNCONFIRMED: &str = "the server did not confirm that it took everything";

/// Whoever wants to leave does not wait for a reader that stopped.
async fn patience(stop: &mut Stop, asked: &mut bool, limits: &Limits) {
    if !*asked {
        stop.asked().await;
        *asked = true;
    }
    sleep(limits.last_words).await;
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
