//! The flags of both programs, one definition for `--help`, environment and manual.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use crate::connect::Address;
use crate::limits::Limits;

const SERVER: &str = "\
Exit codes:
  0  stopped by SIGINT or SIGTERM (a second one ends at once, with 1)
  1  it failed, and one line on standard error says why
  2  the flags make no sense

Examples:
  server                                     for this machine alone, on port 8080
  server --listen 0.0.0.0:8080               for everyone who can reach this machine
  server --listen 127.0.0.1:0                on a free port, which the first line names
  server --allow-origin https://chat.example lets that page in";

const CLIENT: &str = "\
In a terminal: Enter sends; the keys edit as in a shell; Up and Down bring back earlier lines;
Ctrl+C and Ctrl+D leave; Ctrl+L clears; Ctrl+Z stops, and fg goes on. Colours are off with NO_COLOR.

In a pipe: standard output holds the chat alone, a line a message; standard error the rest.

Exit codes:
  0  a normal end: the input ended and the server has taken it, Ctrl+C, Ctrl+D, or nobody reads
     the output any more
  1  it failed, and standard error says why: could not connect, connection lost, the server went
     away, lines were not sent
  2  the flags make no sense

Examples:
  client ws://192.168.1.5:8080               joins a chat on another machine
  echo hello | client --wait 2               says one line, and listens 2 seconds for answers
  client --wait 60 < /dev/null               only listens, for a minute
  client --json < /dev/null --wait 60 | jq -r .text
  tail -f log | client --reconnect           goes on when the server was restarted
  client | head -3                           ends after three lines";

/// Relays each line that a client sends to all the others over WebSocket.
#[derive(Clone, Debug, Parser)]
#[command(name = "server", version, max_term_width = 100, after_long_help = SERVER)]
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
#[command(name = "client", version, max_term_width = 100, after_long_help = CLIENT)]
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

    /// Keep listening this long after the end of the input
    #[arg(long, env = "CHAT_WAIT", value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub wait: Duration,

    /// When the link breaks, connect again after 1, 2, 4, 8, 16 seconds, until it works
    #[arg(long, env = "CHAT_RECONNECT")]
    pub reconnect: bool,

    /// Show the local time before each line
    #[arg(long, env = "CHAT_TIMESTAMPS")]
    pub timestamps: bool,

    /// Print each line as a JSON object: at, from, text; or at, notice
    #[arg(long, env = "CHAT_JSON")]
    pub json: bool,
}

const LIMITS: Limits = Limits::DEFAULT;

fn message(text: &str) -> Result<usize, String> {
    number(text, 1, Limits::MESSAGE_MOST)
}

fn connections(text: &str) -> Result<usize, String> {
    number(text, 1, 1_000_000)
}

fn seconds(text: &str) -> Result<Duration, String> {
    // A hundred years are for ever, and still fit into every clock.
    let seconds = text.parse().ok().filter(|s| (0.0..=3.2e9).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it is a number of seconds".to_owned())
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
