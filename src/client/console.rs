//! The client's two ends: a person's terminal, or a pipe at either end.

use std::io::{self, IsTerminal};

use tokio::sync::mpsc::Receiver;

use crate::client::event::Event;
use crate::client::format::Format;
use crate::client::limits::Limits;
use crate::client::pipe::{self, Output, Pipe};
use crate::client::terminal::{Colours, Terminal};
use crate::protocol::line;

const PROMPT: &str = "> ";

/// Where lines come from and go to.
pub struct Console {
    ends: Ends,
    /// Standard error: what is about the chat.
    notes: Output,
    format: Format,
    /// Bytes of notes that may wait for a slow reader.
    most: usize,
}

enum Ends {
    /// A keyboard and a screen.
    Terminal(Box<Terminal>),
    /// Standard input and standard output.
    Pipe(Pipe),
}

impl Console {
    /// A terminal when a person sits at both ends of one that can move its cursor, else a pipe.
    ///
    /// # Errors
    ///
    /// The terminal does not let itself be used as one.
    pub fn open(mut format: Format, limits: &Limits) -> io::Result<Self> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let screen = io::stdout().is_terminal() && !dumb && !format.json;
        let person = io::stdin().is_terminal();
        format.colours = (screen && !set("NO_COLOR")).then(Colours::default);
        let ends = if screen && person {
            Ends::Terminal(Box::new(Terminal::open(PROMPT, limits.message)?))
        } else {
            let (input, output) = (pipe::input(limits, person), Output::to(io::stdout()));
            Ends::Pipe(Pipe::new(input, output))
        };
        Ok(Self::new(ends, Output::to(io::stderr()), format, limits))
    }

    /// A pipe with these three ends.
    #[must_use]
    pub fn pipe(
        input: Receiver<Event>,
        output: Output,
        notes: Output,
        format: Format,
        limits: &Limits,
    ) -> Self {
        let ends = Ends::Pipe(Pipe::new(input, output));
        Self::new(ends, notes, format, limits)
    }

    fn new(ends: Ends, notes: Output, format: Format, limits: &Limits) -> Self {
        let most = limits.gather;
        Self {
            ends,
            notes,
            format,
            most,
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
            Ends::Pipe(pipe) => pipe.output.waiting(),
        }
    }

    /// Shows a line of the chat, which has been made safe. [`Console::next`] brings it on its way.
    pub fn show(&mut self, line: &str) {
        let line = self.format.line(line);
        match &mut self.ends {
            Ends::Terminal(terminal) => terminal.print(&line),
            Ends::Pipe(pipe) => pipe.output.push(&line),
        }
    }

    /// One line about the chat, beside the chat. When standard error is not read, there is an end
    /// to what is kept for it.
    pub fn note(&mut self, line: &str) {
        let line = format!("client: {line}");
        match &mut self.ends {
            Ends::Terminal(terminal) if io::stderr().is_terminal() => terminal.print(&line),
            _ if self.notes.waiting() < self.most => self.notes.push(&line),
            _ => {}
        }
    }

    /// What happens next; a pipe is read only while `reading`. May be cancelled.
    pub async fn next(&mut self, reading: bool) -> Event {
        // Each line that is read may be worth a note.
        let reading = reading && self.notes.waiting() < self.most;
        let ends = async {
            match &mut self.ends {
                Ends::Terminal(terminal) => {
                    let event = terminal.next().await;
                    // The typed line is erased; it stays visible as one of the chat.
                    if let Event::Line(line) = &event {
                        terminal.print(&self.format.own(PROMPT, &line::clean(line)));
                    }
                    event
                }
                Ends::Pipe(pipe) => pipe.next(reading).await,
            }
        };
        tokio::select! {
            event = ends => event,
            // That standard error is gone is no reason to leave, and nobody could be told.
            _ = self.notes.write() => Event::Shown,
        }
    }

    /// A line of a pipe that is there already, or its end.
    pub fn ready(&mut self) -> Option<Event> {
        match &mut self.ends {
            Ends::Pipe(pipe) if self.notes.waiting() < self.most => pipe.ready(),
            _ => None,
        }
    }

    /// Waits until all that was shown has been taken by its reader. May be cancelled.
    ///
    /// # Errors
    ///
    /// It could not be written, and why.
    pub async fn finish(&mut self) -> io::Result<()> {
        match &mut self.ends {
            Ends::Terminal(terminal) => terminal.finish().await,
            Ends::Pipe(pipe) => pipe.output.finish().await,
        }
    }

    /// Gives the terminal back; what is still to be said goes to standard error.
    #[must_use]
    pub fn close(self) -> Output {
        self.notes
    }
}
