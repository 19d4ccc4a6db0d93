//! The server's flags: one definition for `--help`, environment and manual.

use std::path::{Path, PathBuf};

use clap::Parser;

use crate::flags::{message, number, switch};
use crate::protocol::session::is_url_safe;
use crate::server::limits::Limits;
use crate::server::store::Terms;
use crate::server::store::nats::Place;

/// Where the server listens unless it is told otherwise.
pub const LISTEN: &str = "127.0.0.1:8080";

const SERVER: &str = "\
Whoever asks for /healthz over HTTP is told `ok`, or with 503 why not. At SIGUSR1 a line about the
state of the server goes to standard error.

Each variable that is empty counts as unset; a switch is 1, true, yes, on or 0, false, no, off.

Exit codes:
  0  stopped by SIGINT, SIGTERM or SIGHUP (a second SIGINT or SIGTERM ends it at once, with 1)
  1  it failed, and one line on standard error says why
  2  the flags make no sense

Examples:
  server                                     for this machine alone, on port 8080
  server --listen 0.0.0.0:8080               for everyone who can reach this machine
  server --listen 127.0.0.1:0                on a free port, which the first line names
  server --allow-origin https://chat.example lets that page in
  server --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem
                                             for wss://, in secret on the way
  server --store chat.db                     keeps what is said, for ever
  server --nats nats://10.0.0.1:4222         is one chat with every server that is given the same
  server --metrics 127.0.0.1:9464            tells Prometheus how it is, at that port's /metrics
  server --token-file tokens                 lets in who has a token of that file

The file of --token-file has a line for each token: TOKEN, or TOKEN NAME; # begins a comment.
A token that has a name is that name: whoever shows it has the name, and nobody else gets it.
Only you may be able to read the file. This adds a good token, for ana:
  umask 077; echo $(openssl rand -hex 32) ana >> tokens
When the file changes it is read again, and whose token is gone is closed. A token is shown as
`Authorization: Bearer TOKEN`, or by a web page as new WebSocket(url, ['chat', 'token.TOKEN']);
that one may have no / and no = in it (see also --allow-origin).";

/// Relays each line that a client sends to all the others over WebSocket.
#[derive(Clone, Debug, Parser)]
#[command(name = "server", version, max_term_width = 100, after_long_help = SERVER)]
pub struct Server {
    /// Where to listen; port 0 takes a free port, and a port alone is one of 127.0.0.1
    #[arg(
        long,
        env = "CHAT_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = LISTEN,
        value_parser = address
    )]
    pub listen: String,

    /// Bytes of one message that a client may send
    #[arg(long, env = "CHAT_MAX_MESSAGE", value_name = "BYTES", default_value_t = LIMITS.message, value_parser = message)]
    pub max_message: usize,

    /// Connections at once; those beyond are refused
    #[arg(long, env = "CHAT_MAX_CONNECTIONS", value_name = "N", default_value_t = LIMITS.connections, value_parser = many)]
    pub max_connections: usize,

    /// Rooms at once; one is there as long as somebody is in it, or its past is kept
    #[arg(long, env = "CHAT_MAX_ROOMS", value_name = "N", default_value_t = LIMITS.rooms, value_parser = many)]
    pub max_rooms: usize,

    /// Let in only who shows a token of this file; see below
    #[arg(long, env = "CHAT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Lines a second that each client may say, and ten times as many at once; who says more is read
    /// more slowly, and nothing is lost
    #[arg(long, env = "CHAT_RATE", value_name = "LINES", value_parser = rate)]
    pub rate: Option<u32>,

    /// Connections at once from one address, or from one /64 of IPv6; this machine may have any number
    #[arg(long, env = "CHAT_MAX_PER_ADDRESS", value_name = "N", value_parser = many)]
    pub max_per_address: Option<usize>,

    /// Lines of the past that whoever enters a room gets first
    #[arg(long, env = "CHAT_HISTORY", value_name = "LINES", default_value_t = 0, value_parser = history)]
    pub history: u64,

    /// Store the lines of all rooms in this file, an SQLite database: then whoever comes back, or late,
    /// is not limited to what is in memory, and nothing is lost however the server ends (in a power cut,
    /// with --store-sync)
    #[arg(long, env = "CHAT_STORE", value_name = "FILE")]
    pub store: Option<PathBuf>,

    /// With --store, confirm a line only when a power cut cannot take it any more
    #[arg(long, env = "CHAT_STORE_SYNC", value_parser = switch, requires = "store")]
    pub store_sync: bool,

    /// With --store, delete lines that are older than so many days, and what is known of sessions that
    /// have not been here for as long
    #[arg(long, env = "CHAT_STORE_DAYS", value_name = "N", value_parser = days, requires = "store")]
    pub store_days: Option<u32>,

    /// Share the lines of all rooms with every server that names the same stream of these NATS servers:
    /// together they are one chat; may be repeated (in the environment: separated by commas)
    #[arg(
        long,
        env = "CHAT_NATS",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = nats,
        conflicts_with = "store"
    )]
    pub nats: Vec<String>,

    /// With --nats, the stream, which is made if there is none
    #[arg(long, env = "CHAT_NATS_STREAM", value_name = "NAME", default_value = "chat", value_parser = stream, requires = "nats")]
    pub nats_stream: String,

    /// With --nats, a file with the credentials to show there
    #[arg(long, env = "CHAT_NATS_CREDS", value_name = "FILE", requires = "nats")]
    pub nats_creds: Option<PathBuf>,

    /// Tell those in a room who is here, who joins and who leaves
    #[arg(long, env = "CHAT_PRESENCE", value_parser = switch)]
    pub presence: bool,

    /// Where Prometheus can read how the server is, at /metrics, on a port of its own; by default nowhere
    #[arg(long, env = "CHAT_METRICS", value_name = "ADDRESS:PORT", value_parser = address)]
    pub metrics: Option<String>,

    /// Threads that relay; measured, one is fastest for all but very long lines
    #[arg(long, env = "CHAT_THREADS", value_name = "N", default_value_t = 1, value_parser = threads)]
    pub threads: usize,

    /// Web pages that may join, by origin, as in `https://chat.example`; may be repeated
    /// (in the environment: separated by commas)
    #[arg(
        long,
        env = "CHAT_ALLOW_ORIGIN",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = origin
    )]
    pub allow_origin: Vec<String>,

    /// Speak TLS, with the certificates of this file: the server's own, then who signed it (PEM)
    #[arg(long, env = "CHAT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the first certificate of --tls-cert (PEM)
    #[arg(long, env = "CHAT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

const LIMITS: Limits = Limits::DEFAULT;

impl Server {
    /// The limits with what the flags say of them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let mut limits = Limits {
            message: self.max_message,
            connections: self.max_connections,
            rooms: self.max_rooms,
            history: self.history,
            sessions: self.max_connections,
            tls: self.tls_cert.as_ref().map_or(0, |_| Limits::TLS),
            lines: self.rate,
            per_address: self.max_per_address,
            store: self.store.as_ref().map_or(0, |_| Limits::STORE),
            ..LIMITS
        };
        if self.store.is_some() || !self.nats.is_empty() {
            limits.descriptors += LIMITS.store_files;
            // What a store takes of the time in which the server ends.
            limits.drain = LIMITS.drain.saturating_sub(LIMITS.store_end);
        }
        if !self.nats.is_empty() {
            limits.store = limits.nats();
        }
        if self.metrics.is_some() {
            limits.descriptors += 1 + LIMITS.scrapes; // the listener, and who is answered
        }
        limits
    }

    /// How lines are to be stored.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            sync: self.store_sync,
            days: self.store_days,
        }
    }

    /// Where the stream is, if the chat is to be shared.
    #[must_use]
    pub fn stream(&self) -> Option<Place<'_>> {
        let place = Place {
            urls: &self.nats,
            stream: &self.nats_stream,
            credentials: self.nats_creds.as_deref(),
        };
        (!self.nats.is_empty()).then_some(place)
    }

    /// The files of the certificate and of its key, if there is to be TLS.
    #[must_use]
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_cert.as_deref().zip(self.tls_key.as_deref())
    }
}

fn days(text: &str) -> Result<u32, String> {
    number(text, 1, 36_500)
}

/// How many rooms or connections there may be.
fn many(text: &str) -> Result<usize, String> {
    number(text, 1, 1_000_000)
}

fn rate(text: &str) -> Result<u32, String> {
    number(text, 1, 1_000_000)
}

fn history(text: &str) -> Result<u64, String> {
    number(text, 0, LIMITS.window_lines)
}

fn threads(text: &str) -> Result<usize, String> {
    number(text, 1, 256)
}

/// A server of NATS.
fn nats(text: &str) -> Result<String, String> {
    const FORM: &str =
        "it is nats://HOST:PORT or tls://HOST:PORT, for instance nats://127.0.0.1:4222";
    match text.split_once("://") {
        Some(("nats" | "tls", rest)) if !rest.is_empty() => Ok(text.to_owned()),
        _ => Err(FORM.to_owned()),
    }
}

fn stream(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) && text.bytes().all(is_url_safe) {
        return Ok(text.to_owned());
    }
    Err("it is 1 to 64 of A to Z, a to z, 0 to 9, - and _".to_owned())
}

/// Where to listen, as `ADDRESS:PORT` or `NAME:PORT`. A port alone is meant for this machine.
fn address(text: &str) -> Result<String, String> {
    const FORM: &str = "it is ADDRESS:PORT, for instance 127.0.0.1:8080 for this machine alone, \
         or 0.0.0.0:8080 for everyone who can reach it";
    if text.parse::<u16>().is_ok() {
        return Ok(format!("127.0.0.1:{text}"));
    }
    match text.rsplit_once(':') {
        Some((address, port)) if !address.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err(FORM.to_owned()),
    }
}

/// An origin as browsers send it (RFC 6454 6.2): lower case, without a path, and without the
/// port that goes without saying. An empty one, as a comma too many makes it, stays empty.
fn origin(text: &str) -> Result<String, String> {
    const FORM: &str =
        "it is SCHEME://HOST or SCHEME://HOST:PORT, for instance https://chat.example";
    let text = text.trim().to_ascii_lowercase();
    let origin = text.strip_suffix('/').unwrap_or(&text);
    if origin.is_empty() || origin == "null" {
        return Ok(origin.to_owned());
    }
    let (scheme, host) = origin.split_once("://").ok_or(FORM)?;
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let host = host.strip_suffix(usual).unwrap_or(host);
    if scheme.is_empty() || host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
        return Err(FORM.to_owned());
    }
    Ok(format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(address("8080").unwrap(), "127.0.0.1:8080");
        for whole in ["127.0.0.1:0", "[::1]:8080", "localhost:65535"] {
            assert_eq!(address(whole).unwrap(), whole);
        }
        for wrong in [
            "",
            ":8080",
            "localhost",
            "[::1]",
            "127.0.0.1:",
            "a:65536",
            "a:b",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_what_browsers_send() {
        for (given, sent) in [
            ("https://chat.example", "https://chat.example"),
            (" HTTPS://Chat.Example/ ", "https://chat.example"),
            ("https://chat.example:443", "https://chat.example"),
            ("http://[::1]:80/", "http://[::1]"),
            ("http://chat.example:8080", "http://chat.example:8080"),
            ("null", "null"),
            ("", ""),
        ] {
            assert_eq!(origin(given).unwrap(), sent);
        }
        for wrong in [
            "chat.example",
            "https://",
            "://a",
            "https://a/b",
            "https://a b",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
