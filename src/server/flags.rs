//! The server's flags: one definition for `--help`, environment and manual.

use clap::Parser;

use crate::flags::{message, number};
use crate::server::limits::Limits;

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

const LIMITS: Limits = Limits::DEFAULT;

fn connections(text: &str) -> Result<usize, String> {
    number(text, 1, 1_000_000)
}

fn threads(text: &str) -> Result<usize, String> {
    number(text, 1, 256)
}
