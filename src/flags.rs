//! How both programs read their flags; what flags there are, each half says itself.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{OsStr, Resettable};
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

/// Whether something is on, as a variable gives it.
///
/// # Errors
///
/// What the word has to be.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("it is 1, true, yes or on; or 0, false, no or off".to_owned()),
    }
}

/// The flags as given. A variable that is empty counts as unset.
///
/// # Errors
///
/// The program is over: help was asked for (0), or the flags make no sense (2) and one line on
/// standard error says why.
pub fn parse<T: Parser>(program: &str) -> Result<T, ExitCode> {
    let command = T::command().mut_args(|arg| match arg.get_env().map(std::env::var_os) {
        Some(Some(value)) if value.is_empty() => arg.env(Resettable::<OsStr>::Reset),
        _ => arg,
    });
    let matches = command.try_get_matches();
    let flags = matches.and_then(|matches| T::from_arg_matches(&matches));
    flags.map_err(|error| {
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
