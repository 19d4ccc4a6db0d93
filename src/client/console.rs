//! Where the client's lines come from and go to: a person's terminal, or a pipe at either end.

use std::io::{self, IsTerminal, Write};

use tokio::sync::mpsc::Receiver;

use crate::client::format::Look;
use crate::client::input::{self, Typed};
use crate::client::limits::Limits;
use crate::client::output::{Output, ReaderGone};
use crate::client::terminal::screen::{self, Terminal};
use crate::protocol::line;

const PROMPT: &str = "> ";

/// The client's two ends.
pub struct Console {
    ends: Ends,
    look: Look,
    /// Bytes that may wait for a slow reader.
    most: usize,
}

enum Ends {
    /// A keyboard and a screen.
    Terminal(Box<Terminal>),
    /// Standard input and standard output.
    Pipe {
        input: Receiver<Typed>,
        output: Output,
        waiting: String,
        /// The reader is gone, and that was said.
        gone: bool,
    },
}

/// What happened at one of the ends.
#[derive(Debug)]
pub enum Event {
    /// A line, or what is wrong with one.
    Typed(Typed),
    /// There is nothing more to read.
    InputEnded,
    /// A person wants to leave.
    Leave,
    /// What was shown is on its way: there is room again.
    Shown,
    /// Nobody reads what is shown any more. Said once.
    ReaderGone,
}

impl Console {
    /// A terminal when a person sits at both ends of one that can move its cursor, else a pipe.
    ///
    /// # Errors
    ///
    /// The terminal does not let itself be used as one.
    pub fn open(mut look: Look, limits: &Limits) -> io::Result<Self> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let screen = io::stdout().is_terminal() && !dumb && !look.json;
        look.colours = screen && !set("NO_COLOR");
        let ends = if screen && io::stdin().is_terminal() {
            Ends::Terminal(Box::new(Terminal::open(PROMPT, limits.message)?))
        } else {
            let (input, output) = (input::lines(limits), Output::open());
            Ends::Pipe {
                input,
                output,
                waiting: String::new(),
                gone: false,
            }
        };
        Ok(Self {
            ends,
            look,
            most: limits.gather,
        })
    }

    /// Whether a person types here, who cannot be made to wait.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.ends, Ends::Terminal(_))
    }

    /// Whether more may be shown, or what was shown waits for its reader.
    #[must_use]
    pub fn has_room(&self) -> bool {
        match &self.ends {
            Ends::Terminal(_) => true,
            Ends::Pipe { waiting, gone, .. } => *gone || waiting.len() < self.most,
        }
    }

    /// Shows a line of the chat, which has been made safe. [`Console::flush`] after the last.
    pub fn show(&mut self, line: &str) {
        let line = self.look.line(line);
        match &mut self.ends {
            Ends::Terminal(terminal) => terminal.print(&line),
            Ends::Pipe { gone: true, .. } => {}
            Ends::Pipe { waiting, .. } => {
                waiting.push_str(&line);
                waiting.push('\n');
            }
        }
    }

    /// Keeps a typed line visible; a pipe has no use for that.
    pub fn show_own(&mut self, line: &str) {
        if let Ends::Terminal(terminal) = &mut self.ends {
            terminal.print(&self.look.own(PROMPT, &line::clean(line)));
        }
    }

    /// Lets what was shown be seen. A pipe's part is done by [`Console::next`].
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.ends {
            Ends::Terminal(terminal) => terminal.flush(),
            Ends::Pipe { .. } => Ok(()),
        }
    }

    /// One line about the chat, beside the chat.
    pub fn note(&mut self, line: &str) {
        let line = format!("client: {line}");
        match &mut self.ends {
            Ends::Terminal(terminal) if io::stderr().is_terminal() => {
                terminal.print(&line);
                // A terminal that is gone says so at the next key.
                let _ = terminal.flush();
            }
            _ => {
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    }

    /// What happens next; lines are read only while `reading`. May be cancelled.
    pub async fn next(&mut self, reading: bool) -> Event {
        match &mut self.ends {
            Ends::Terminal(terminal) if reading => loop {
                match terminal.next().await {
                    Ok(screen::Typed::Line(line)) if line.is_empty() => {}
                    Ok(screen::Typed::Line(line)) => break Event::Typed(Typed::Line(line)),
                    // An error is a terminal that is gone.
                    Ok(screen::Typed::Leave) | Err(_) => break Event::Leave,
                }
            },
            Ends::Terminal(_) => std::future::pending().await,
            Ends::Pipe {
                input,
                output,
                waiting,
                gone,
            } => {
                let shown = tokio::select! {
                    typed = input.recv(), if reading => {
                        return typed.map_or(Event::InputEnded, Event::Typed);
                    }
                    shown = output.write(waiting), if !*gone && !waiting.is_empty() => shown,
                    () = output.reader_gone(), if !*gone => Err(ReaderGone),
                    else => std::future::pending().await,
                };
                if shown.is_ok() {
                    return Event::Shown;
                }
                *gone = true;
                Event::ReaderGone
            }
        }
    }

    /// A line that is there already.
    pub fn ready(&mut self) -> Option<Typed> {
        match &mut self.ends {
            Ends::Terminal(_) => None,
            Ends::Pipe { input, .. } => input.try_recv().ok(),
        }
    }

    /// Shows everything that was received, however slow its reader is, and gives the terminal
    /// back.
    pub async fn close(self) {
        match self.ends {
            Ends::Terminal(terminal) => drop(terminal),
            Ends::Pipe {
                output, waiting, ..
            } => output.finish(waiting).await,
        }
    }
}
