//! What happens at the client's two ends: where lines are typed, and where they are shown.

use std::io;

/// Something that happened at one of the ends. The terminal and the pipe both tell it like this.
#[derive(Debug)]
pub enum Event {
    /// A line to be sent.
    Line(String),
    /// Input that cannot be sent, and why.
    Unfit(String),
    /// The input has ended. Told once.
    End,
    /// A person or a signal asks to leave, or the terminal is gone.
    Leave,
    /// What was shown is on its way to its reader: there is room again.
    Shown,
    /// Nothing can be shown any more, and why. Told once.
    OutputEnded(io::Error),
}
