//! The client's two ends: a person's terminal, or a pipe at either end.

use std::io::{self, IsTerminal};

use tokio::sync::mpsc::Receiver;

use crate::client::format::Format;
use crate::client::limits::Limits;
use crate::client::pipe::{self, Output};
use crate::client::terminal::{Terminal, Typed};
use crate::protocol::line;

const PROMPT: &str = "> ";

/// Where lines come from and go to.
pub struct Console {
    ends: Ends,
    /// Standard error: what is about the chat.
    notes: Output,
    format: Format,
    /// Bytes that may wait for a slow reader.
    most: usize,
}

enum Ends {
    /// A keyboard and a screen.
    Terminal(Box<Terminal>),
    /// Standard input and standard output.
    Pipe {
        input: Receiver<Event>,
        /// Nothing more will come.
        ended: bool,
        output: Output,
    },
}

/// What happened at one of the ends.
#[derive(Debug)]
pub enum Event {
    /// A line to be sent.
    Line(String),
    /// Something that cannot be sent, and why.
    Unfit(String),
    /// The input has ended. Said once.
    End,
    /// A person wants to leave.
    Leave,
    /// What was shown is on its way: there is room again.
    Shown,
    /// Nothing can be shown any more, and why. Said once.
    OutputEnded(io::Error),
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
        format.colours = screen && !set("NO_COLOR");
        if !(screen && person) {
            let (input, output) = (pipe::input(limits, person), Output::to(io::stdout()));
            let notes = Output::to(io::stderr());
            return Ok(Self::pipe(input, output, notes, format, limits));
        }
        Ok(Self {
            ends: Ends::Terminal(Box::new(Terminal::open(PROMPT, limits.message)?)),
            notes: Output::to(io::stderr()),
            format,
            most: limits.gather,
        })
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
        let ended = false;
        Self {
            ends: Ends::Pipe {
                input,
                ended,
                output,
            },
            notes,
            format,
            most: limits.gather,
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
            Ends::Pipe { output, .. } => output.waiting(),
        }
    }

    /// Whether more may be shown, or what was shown waits for its reader.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting() < self.most
    }

    /// Shows a line of the chat, which has been made safe. [`Console::flush`] after the last.
    pub fn show(&mut self, line: &str) {
        let line = self.format.line(line);
        match &mut self.ends {
            Ends::Terminal(terminal) => terminal.print(&line),
            Ends::Pipe { output, .. } => output.push(&line),
        }
    }

    /// Keeps a typed line visible; a pipe has no use for that.
    pub fn show_own(&mut self, line: &str) {
        if let Ends::Terminal(terminal) = &mut self.ends {
            terminal.print(&self.format.own(PROMPT, &line::clean(line)));
        }
    }

    /// Lets what was shown be seen. A pipe's part is done by [`Console::next`].
    pub fn flush(&mut self) {
        if let Ends::Terminal(terminal) = &mut self.ends {
            // A terminal that is gone says so at the next key.
            let _ = terminal.flush();
        }
    }

    /// One line about the chat, beside the chat. When standard error is not read, there is an end
    /// to what is kept for it.
    pub fn note(&mut self, line: &str) {
        let line = format!("client: {line}");
        match &mut self.ends {
            Ends::Terminal(terminal) if io::stderr().is_terminal() => {
                terminal.print(&line);
                let _ = terminal.flush();
            }
            _ if self.notes.waiting() < self.most => self.notes.push(&line),
            _ => {}
        }
    }

    /// What happens next; a pipe is read only while `reading`. May be cancelled.
    pub async fn next(&mut self, reading: bool) -> Event {
        // Each line that is read may be worth a note.
        let reading = reading && self.notes.waiting() < self.most;
        tokio::select! {
            event = self.ends.next(reading) => event,
            // That standard error is gone is no reason to leave, and nobody could be told.
            _ = self.notes.write() => Event::Shown,
        }
    }

    /// A line of a pipe that is there already, or its end.
    pub fn ready(&mut self) -> Option<Event> {
        match &mut self.ends {
            Ends::Pipe { input, ended, .. } if !*ended && self.notes.waiting() < self.most => {
                let event = input.try_recv().ok()?;
                *ended = matches!(event, Event::End);
                Some(event)
            }
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
            Ends::Pipe { output, .. } => output.finish().await,
        }
    }

    /// Gives the terminal back; what is still to be said goes to standard error.
    #[must_use]
    pub fn close(self) -> Output {
        self.notes
    }
}

impl Ends {
    async fn next(&mut self, reading: bool) -> Event {
        match self {
            Self::Terminal(terminal) => loop {
                match terminal.next().await {
                    // A bare Enter says nothing.
                    Ok(Typed::Line(line)) if line.is_empty() => {}
                    Ok(Typed::Line(line)) => return Event::Line(line),
                    Ok(Typed::Shown) => return Event::Shown,
                    // An error is a terminal that is gone.
                    Ok(Typed::Leave) | Err(_) => return Event::Leave,
                }
            },
            Self::Pipe {
                input,
                ended,
                output,
            } => tokio::select! {
                event = input.recv(), if reading && !*ended => {
                    let event = event.unwrap_or(Event::End);
                    *ended = matches!(event, Event::End);
                    event
                }
                written = output.write() => written.map_or_else(Event::OutputEnded, |()| Event::Shown),
            },
        }
    }
}
