//! The client's two ends: a person's terminal, or a pipe at either end.

use std::io::{self, IsTerminal};

use jiff::Timestamp;
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

/// Where lines are typed and shown, and where notes go: lines about the chat itself, such as
/// "connected" or why a line was not sent.
pub struct Console {
    ends: Ends,
    /// Standard error, for the notes.
    notes: Output,
    format: Format,
    stop: Stop,
    /// Somebody wants to leave, or the output cannot be written any more.
    leaving: bool,
    /// The chat is over.
    ending: bool,
    limits: Limits,
}

enum Ends {
    /// A keyboard and a screen.
    Terminal(Box<Terminal>),
    /// Standard input and standard output.
    Pipe(Receiver<Event>, Output),
}

impl Console {
    /// A terminal, when standard input and standard output are one and it can move its cursor;
    /// otherwise a pipe. A signal that `stop` listens to is a wish to leave.
    ///
    /// # Errors
    ///
    /// The terminal cannot be prepared for editing.
    pub fn open(mut format: Format, stop: Stop, limits: &Limits) -> io::Result<Self> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let screen = io::stdout().is_terminal() && !dumb && !format.json;
        let person = io::stdin().is_terminal();
        format.colours = (screen && !set("NO_COLOR")).then(Colours::default);
        let ends = if screen && person {
            Ends::Terminal(Box::new(Terminal::open(PROMPT, limits.message)?))
        } else {
            Ends::Pipe(pipe::input(limits, person)?, Output::to(io::stdout())?)
        };
        let notes = Output::to(io::stderr())?;
        Ok(Self::new(ends, notes, format, stop, limits))
    }

    /// A console over three pipes: the input, the output, and the notes.
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
            ending: false,
            limits: limits.clone(),
        }
    }

    /// Whether a person types here, who goes on typing even when nothing can be sent.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.ends, Ends::Terminal(_))
    }

    /// Bytes that were passed to [`Console::show`] and still wait for their reader.
    #[must_use]
    pub fn waiting(&self) -> usize {
        match &self.ends {
            Ends::Terminal(terminal) => terminal.waiting(),
            Ends::Pipe(_, output) => output.waiting(),
        }
    }

    /// Shows a line of the chat, which must be clean, with the time when it was said, if that is known.
    /// It only waits here: [`Console::next`] writes it.
    pub fn show(&mut self, line: &str, said: Option<Timestamp>) {
        let line = self.format.line(line, said);
        match &mut self.ends {
            Ends::Terminal(terminal) => terminal.print(&line),
            Ends::Pipe(_, output) => output.push(&line),
        }
    }

    /// Prints a note. When nobody reads standard error, about `gather` bytes are kept for it, and
    /// later notes are thrown away.
    pub fn note(&mut self, line: &str) {
        let line = format!("client: {line}");
        let takes_notes = self.takes_notes();
        match &mut self.ends {
            // What a job in the background has to say at its end is said as by others.
            Ends::Terminal(terminal)
                if io::stderr().is_terminal() && !(self.ending && terminal.is_in_background()) =>
            {
                terminal.print(&line);
            }
            _ if takes_notes => self.notes.push(&line),
            _ => {}
        }
    }

    /// Whether another note is not too much for standard error. At the end they are few.
    fn takes_notes(&self) -> bool {
        self.ending || self.notes.waiting() < self.limits.gather
    }

    /// Waits for the next event, and writes what was shown. Lines are taken from a pipe only if
    /// `may_take_input`. May be cancelled.
    pub async fn next(&mut self, may_take_input: bool) -> Event {
        // A line that cannot be sent causes a note, so no line is taken while too many notes wait.
        let may_take_input = may_take_input && self.takes_notes();
        let event = tokio::select! {
            // When a window is closed, its signal comes together with its end, and is to come first:
            // a signal after that would be a second wish to leave.
            biased;
            () = self.stop.asked() => Event::Leave,
            // An error is ignored: the chat works without notes, and there is no other place where
            // the error could be printed.
            _ = self.notes.write() => Event::Shown,
            event = self.ends.next(may_take_input) => event,
        };
        match (&event, &mut self.ends) {
            // The editor has erased the finished line, so it is printed among the other lines. After
            // a wish to leave it is not sent, and so it is not printed either.
            (Event::Line(line), Ends::Terminal(terminal)) if !self.leaving => {
                terminal.print(&self.format.own(PROMPT, &line::clean(line)));
            }
            (Event::Leave | Event::OutputEnded(_), _) => self.leaving = true,
            _ => {}
        }
        event
    }

    /// The next event of a pipe's input, if it can be taken without waiting and `may_take_input`.
    pub fn try_next(&mut self, may_take_input: bool) -> Option<Event> {
        let may_take_input = may_take_input && self.takes_notes();
        match &mut self.ends {
            Ends::Pipe(input, _) if may_take_input => input.try_recv().ok(),
            _ => None,
        }
    }

    /// The chat is over. What is noted and taken now are the last lines, and few, so none of them is
    /// thrown away.
    pub fn begin_to_end(&mut self) {
        self.ending = true;
    }

    /// Waits until everything that was shown is written. The reader may have stopped; then a wish to
    /// leave ends the waiting.
    ///
    /// # Errors
    ///
    /// Why it could not be written.
    pub async fn finish(&mut self) -> io::Result<()> {
        tokio::select! {
            finished = self.ends.finish() => finished,
            () = until_given_up(&mut self.stop, &mut self.leaving, &self.limits) => Ok(()),
        }
    }

    /// Waits like [`Console::finish`], but also until the notes are written, and gives the terminal
    /// back.
    pub async fn close(mut self) {
        tokio::select! {
            _ = async { tokio::join!(self.ends.finish(), self.notes.finish()) } => {}
            () = until_given_up(&mut self.stop, &mut self.leaving, &self.limits) => {}
        }
    }
}

impl Ends {
    async fn next(&mut self, may_take_input: bool) -> Event {
        match self {
            Self::Terminal(terminal) => terminal.next().await,
            Self::Pipe(input, output) => tokio::select! {
                Some(event) = input.recv(), if may_take_input => event,
                written = output.write() => written.map_or_else(Event::OutputEnded, |()| Event::Shown),
            },
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        match self {
            // Whoever closes a window has read enough, as behind a pipe.
            Self::Terminal(terminal) => {
                let finished = terminal.finish().await;
                finished.map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
            Self::Pipe(_, output) => output.finish().await,
        }
    }
}

/// Waits until somebody wants to leave, if nobody does yet, and then a moment longer. After that, a
/// reader that has not taken everything is given up.
async fn until_given_up(stop: &mut Stop, leaving: &mut bool, limits: &Limits) {
    if !*leaving {
        stop.asked().await;
        *leaving = true;
    }
    sleep(limits.last_words).await;
}
