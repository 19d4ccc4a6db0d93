//! How both programs read their flags; what flags there are, each half says itself.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::protocol::limits::MESSAGE_MOST;

/// Bytes of a message, as a flag gives them.
///
/// # Errors
///
/// What the number has to be.
pub fn message(text: &str) -> Result<usize, String> {
    number(text, 1, MESSAGE_MOST)
}

/// A number between two others, as a flag gives it.
///
/// # Errors
///
/// What the number has to be.
pub fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or(format!("it is a number from {least} to {most}"))
}

/// The flags as given.
///
/// # Errors
///
/// The program is over: help was asked for (0), or the flags make no sense (2) and one line on
/// standard error says why.
pub fn parse<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            // A reader that is gone does not want the help any more.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let text = error.to_string();
        // The first paragraph says what is wrong; the rest is advice at length.
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let what = line.strip_prefix("error: ").unwrap_or(&line);
        let _ = writeln!(io::stderr(), "{program}: {what} (see {program} --help)");
        ExitCode::from(2)
    })
}
