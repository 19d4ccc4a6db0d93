//! What happens where lines are typed and where they are shown.

use std::io;

/// Something that happened at the input or at the output. A terminal and a pipe report the same
/// events, so that the rest of the client need not know which of them it has.
#[derive(Debug)]
pub enum Event {
    /// A line to be sent.
    Line(String),
    /// A part of the input cannot be sent; the text says why.
    Unfit(String),
    /// The input has ended, or cannot be read any further, for this reason. This comes once.
    End(Option<io::Error>),
    /// A person or a signal asks to leave.
    Leave,
    /// The output has taken lines that waited to be shown, so that more can be shown.
    Shown,
    /// Nothing can be shown any more; the error says why. This comes once.
    OutputEnded(io::Error),
}
