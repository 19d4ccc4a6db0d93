//! The flags of both programs, one definition for `--help`, environment and manual.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::connect::Address;
use crate::limits::Limits;

/// Relays each line that a client sends to all the others over WebSocket.
#[derive(Clone, Debug, Parser)]
#[command(name = "server", version, max_term_width = 100)]
pub struct Server {
    /// Where to listen; port 0 takes a free port
    #[arg(
        long,
        env = "CHAT_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: String,

    /// Bytes of one message that a client may send
    #[arg(long, env = "CHAT_MAX_MESSAGE", value_name = "BYTES", default_value_t = LIMITS.message, value_parser = message)]
    pub max_message: usize,

    /// Connections at once; those beyond are refused
    #[arg(long, env = "CHAT_MAX_CONNECTIONS", value_name = "N", default_value_t = LIMITS.connections, value_parser = connections)]
    pub max_connections: usize,

    /// Threads that relay; measured, one is fastest for all but very long lines
    #[arg(long, env = "CHAT_THREADS", value_name = "N", default_value_t = 1, value_parser = threads)]
    pub threads: usize,

    /// Web pages that may join, by origin, as in `https://chat.example`; may be repeated
    /// (in the environment: separated by commas)
    #[arg(
        long,
        env = "CHAT_ALLOW_ORIGIN",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub allow_origin: Vec<String>,
}

/// Sends what you type to everyone else in the chat, and shows what they type.
#[derive(Clone, Debug, Parser)]
#[command(name = "client", version, max_term_width = 100)]
pub struct Client {
    /// The server to join
    #[arg(
        env = "CHAT_URL",
        value_name = "URL",
        default_value = "ws://127.0.0.1:8080"
    )]
    pub url: Address,

    /// Bytes of the longest line to send; the server has a flag of the same name
    #[arg(long, env = "CHAT_MAX_MESSAGE", value_name = "BYTES", default_value_t = LIMITS.message, value_parser = message)]
    pub max_message: usize,
}

const LIMITS: Limits = Limits::DEFAULT;

fn message(text: &str) -> Result<usize, String> {
    number(text, 1, Limits::MESSAGE_MOST)
}

fn connections(text: &str) -> Result<usize, String> {
    number(text, 1, 1_000_000)
}

fn threads(text: &str) -> Result<usize, String> {
    number(text, 1, 256)
}

fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
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
