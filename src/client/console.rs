//! The client's two ends: a person's terminal, or a pipe at either end.

use std::io::{self, IsTerminal};

use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;

use crate::client::event::Event;
use crate::client::format::Format;
use crate::client::limits::Limits;
use crate::client::pipe::{self, Output};
use crate::client::terminal::{Colours, Terminal};
use crate::os::Stop;
use crate::protocol::line;

const PROMPT: &str = "> ";

/// Where lines come from and go to.
pub struct Console {
    ends: Ends,
    /// Standard error: what is about the chat.
    notes: Output,
    format: Format,
    stop: Stop,
    /// Somebody wants to leave, or nobody reads.
    leaving: bool,
    limits: Limits,
}

enum Ends {
    /// A keyboard and a screen.
    Terminal(Box<Terminal>),
    /// Standard input and standard output.
    Pipe(Receiver<Event>, Output),
}

impl Console {
    /// A terminal when a person sits at both ends of one that can move its cursor, else a pipe.
    /// Signals that `stop` takes over are wishes to leave.
    ///
    /// # Errors
    ///
    /// The terminal does not let itself be used as one.
    pub fn open(mut format: Format, stop: Stop, limits: &Limits) -> io::Result<Self> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let screen = io::stdout().is_terminal() && !dumb && !format.json;
        let person = io::stdin().is_terminal();
        format.colours = (screen && !set("NO_COLOR")).then(Colours::default);
        let ends = if screen && person {
            Ends::Terminal(Box::new(Terminal::open(PROMPT, limits.message)?))
        } else {
            Ends::Pipe(pipe::input(limits, person), Output::to(io::stdout()))
        };
        let notes = Output::to(io::stderr());
        Ok(Self::new(ends, notes, format, stop, limits))
    }

    /// Pipes: what is typed, the chat, and what is about the chat.
    #[must_use]
    pub fn pipes(input: Receiver<Event>, output: Output, notes: Output, limits: &Limits) -> Self {
        let ends = Ends::Pipe(input, output);
        Self::new(ends, notes, Format::default(), Stop::default(), limits)
    }

    fn new(ends: Ends, notes: Output, format: Format, stop: Stop, limits: &Limits) -> Self {
        Self {
            ends,
            notes,
            format,
            stop,
            leaving: false,
            limits: limits.clone(),
        }
    }

    /// Whether a person types here, who cannot be made to wait.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.ends, Ends::Terminal(_))
    }

    /// Bytes that were shown and wait for their reader.
    #[must_use]
    pub fn waiting(&self) -> usize {
        match &self.ends {
            Ends::Terminal(terminal) => terminal.waiting(),
            Ends::Pipe(_, output) => output.waiting(),
        }
    }

    /// Shows a line of the chat, which has been made safe. [`Console::next`] brings it on its way.
    pub fn show(&mut self, line: &str) {
        let line = self.format.line(line);
        match &mut self.ends {
            Ends::Terminal(terminal) => terminal.print(&line),
            Ends::Pipe(_, output) => output.push(&line),
        }
    }

    /// One line about the chat, beside the chat. When standard error is not read, there is an end
    /// to what is kept for it.
    pub fn note(&mut self, line: &str) {
        let line = format!("client: {line}");
        match &mut self.ends {
            Ends::Terminal(terminal) if io::stderr().is_terminal() => terminal.print(&line),
            _ if self.notes.waiting() < self.limits.gather => self.notes.push(&line),
            _ => {}
        }
    }

    /// What happens next; a pipe is read only while `reading`. May be cancelled.
    pub async fn next(&mut self, reading: bool) -> Event {
        // Each line that is read may be worth a note.
        let reading = reading && self.notes.waiting() < self.limits.gather;
        let event = tokio::select! {
            event = self.ends.next(reading) => event,
            // That standard error is gone is no reason to leave, and nobody could be told.
            _ = self.notes.write() => Event::Shown,
            () = self.stop.asked() => Event::Leave,
        };
        match (&event, &mut self.ends) {
            // It is no longer shown as what is being typed. After a wish to leave it is not sent.
            (Event::Line(line), Ends::Terminal(terminal)) if !self.leaving => {
                terminal.print(&self.format.own(PROMPT, &line::clean(line)));
            }
            (Event::Leave | Event::OutputEnded(_), _) => self.leaving = true,
            _ => {}
        }
        event
    }

    /// What a pipe has brought already.
    pub fn ready(&mut self) -> Option<Event> {
        match &mut self.ends {
            Ends::Pipe(input, _) if self.notes.waiting() < self.limits.gather => {
                input.try_recv().ok()
            }
            _ => None,
        }
    }

    /// Waits until all that was shown has been taken by its reader; when somebody wants to leave
    /// and the reader has stopped, only a moment.
    ///
    /// # Errors
    ///
    /// It could not be written, and why.
    pub async fn finish(&mut self) -> io::Result<()> {
        tokio::select! {
            finished = self.ends.finish() => finished,
            () = enough(&mut self.stop, &mut self.leaving, &self.limits) => Ok(()),
        }
    }

    /// Waits like [`Console::finish`], also for the reader of the notes, and gives the terminal
    /// back.
    pub async fn close(mut self) {
        tokio::select! {
            _ = async { tokio::join!(self.ends.finish(), self.notes.finish()) } => {}
            () = enough(&mut self.stop, &mut self.leaving, &self.limits) => {}
        }
    }
}

impl Ends {
    async fn next(&mut self, reading: bool) -> Event {
        match self {
            Self::Terminal(terminal) => terminal.next().await,
            Self::Pipe(input, output) => tokio::select! {
                Some(event) = input.recv(), if reading => event,
                written = output.write() => written.map_or_else(Event::OutputEnded, |()| Event::Shown),
            },
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.finish().await,
            Self::Pipe(_, output) => output.finish().await,
        }
    }
}

/// Waits as long as a reader that stopped is waited for.
async fn enough(stop: &mut Stop, leaving: &mut bool, limits: &Limits) {
    if !*leaving {
        stop.asked().await;
        *leaving = true;
    }
    sleep(limits.last_words).await;
}
