//! How both programs read their flags; what flags there are, each half says itself.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, Parser};

use crate::os::describe;
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
pub fn number<T>(text: &str, least: T, most: T) -> Result<T, String>
where
    T: Copy + FromStr + PartialOrd + Display,
{
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

/// A program under the name that it is installed as, also in its examples: there is more than one server
/// in the world, so packages call this one `chat-server`.
#[must_use]
pub fn named(program: Command, name: &str) -> Command {
    let usual = program.get_name().to_owned();
    let help = program.get_after_long_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let program = program.name(name.to_owned());
    let Some((before, examples)) = help.split_once("Examples:") else {
        return program;
    };
    // The examples are two columns, the second of which must stay one.
    let longer = " ".repeat(name.len().saturating_sub(usual.len()));
    let (examples, after) = examples.split_once("\n\n").unwrap_or((examples, ""));
    let examples = examples.lines().map(|line| match line.trim_start() {
        second if line.len() - second.len() > 2 => format!("{longer}{line}"),
        _ => line.replacen(&usual, name, 1),
    });
    let examples = examples.collect::<Vec<_>>().join("\n");
    let help = format!("{before}Examples:{examples}\n\n{after}");
    program.after_long_help(help.trim_end().to_owned())
}

/// The name that a program was started by, if it is its own with something before it.
fn called(program: &str) -> Option<String> {
    let path = env::args_os().next()?;
    let name = Path::new(&path).file_name()?.to_str()?;
    name.ends_with(program).then(|| name.to_owned())
}

/// Whether a variable leaves its flag as if it was not given: it is empty, or the flag is a switch and off.
fn is_unset(flag: &Arg, value: &OsStr) -> bool {
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let is_off = |text| is_switch && switch(text) == Ok(false);
    value.is_empty() || value.to_str().is_some_and(is_off)
}

/// The flags as given. A variable that is empty counts as unset, and so does a switch that is off: else a flag
/// that it needs would have to be given.
///
/// # Errors
///
/// The program is over: help was asked for (0), or could not be written (1), or the flags make no sense
/// (2); then one line on standard error says why.
pub fn parse<T: Parser>(program: &str) -> Result<T, ExitCode> {
    let called = called(program).unwrap_or_else(|| program.to_owned());
    let command =
        named(T::command(), &called).mut_args(|arg| match arg.get_env().map(std::env::var_os) {
            Some(Some(value)) if is_unset(&arg, &value) => arg.env(Resettable::Reset),
            _ => arg,
        });
    let matches = command.try_get_matches();
    let flags = matches.and_then(|matches| T::from_arg_matches(&matches));
    flags.map_err(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return match error.print().and_then(|()| io::stdout().flush()) {
                // A reader that is gone does not want the help any more.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    let why = describe(&error);
                    let _ = writeln!(
                        io::stderr(),
                        "{program}: cannot write standard output: {why}"
                    );
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            };
        }
        let text = error.to_string();
        // The first paragraph says what is wrong; the rest is advice at length.
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let what = line.strip_prefix("error: ").unwrap_or(&line);
        let _ = writeln!(io::stderr(), "{program}: {what} (see {called} --help)");
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_can_have_a_longer_name() {
        const HELP: &str = "\
A server.

Examples:
  server         a server
  date | server  with a
                 second line

The server.";
        let server = Command::new("server").after_long_help(HELP);
        let help = |program: &Command| program.get_after_long_help().unwrap().to_string();
        assert_eq!(help(&named(server.clone(), "server")), HELP);
        let longer = named(server, "chat-server");
        assert_eq!(longer.get_name(), "chat-server");
        assert_eq!(
            help(&longer),
            "\
A server.

Examples:
  chat-server         a server
  date | chat-server  with a
                      second line

The server."
        );
    }
}
