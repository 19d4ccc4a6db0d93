//! The client's flags: one definition for `--help`, environment and manual.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::client::connect::Address;
use crate::client::limits::Limits;
use crate::client::tls::Trust;
use crate::flags::{message, switch};
use crate::protocol::token::{self, Token};

const CLIENT: &str = "\
In a terminal: Enter sends; the keys edit as in a shell; Up and Down bring back earlier lines;
Ctrl+C and Ctrl+D leave; Ctrl+L clears; Ctrl+Z stops, and fg goes on. Colours are off with NO_COLOR.

In a pipe: standard output holds the chat alone, a line a message; standard error the rest.

With --reconnect each wait is shorter than the number says by up to a half, at random, so that not
all clients of a server that comes back come back at once. Then it shows what was said meanwhile,
and sends what the server has not taken: nothing is missed, and nothing is said twice. When the
server was started anew without --store or --nats, or is another program, it is told what is new
from then on, and lines that may have been taken are named, and not sent again. --timestamps and
--json tell when a line was said, not when it came.

Each variable that is empty counts as unset; a switch is 1, true, yes, on or 0, false, no, off.

Exit codes:
  0  a normal end: the input ended and the server has taken it, Ctrl+C, Ctrl+D, or nobody reads
     the output any more
  1  it failed, and standard error says why: could not connect, was refused, connection lost, the
     server went away, lines were not sent or may not have arrived, standard output cannot be written
  2  the flags make no sense

Examples:
  client 192.168.1.5                         joins a chat on another machine, on port 8080
  client ws://192.168.1.5:9000               on another port
  client 192.168.1.5/rust --name ana         in the room rust, under a name
  client wss://chat.example                  through TLS, on port 443
  client 192.168.1.5 --token-file token      where a token is needed (see the server's --token-file)
  echo hello | client --wait 2               says one line, and listens 2 seconds for answers
  client --wait 60 < /dev/null               only listens, for a minute
  client --json < /dev/null --wait 60 | jq -r '.text // empty'
  tail -f log | client --reconnect           goes on when the server was restarted
  client | head -3                           ends when a fourth line comes";

/// Sends what you type to everyone else in the chat, and shows what they type.
#[derive(Clone, Debug, Parser)]
#[command(name = "client", version, max_term_width = 100, after_long_help = CLIENT)]
pub struct Client {
    /// The server to join; HOST and HOST:PORT are short for ws://HOST:PORT, port 8080 unless
    /// given; in a URL the default is 80, or 443 with wss://
    #[arg(
        env = "CHAT_URL",
        value_name = "URL",
        default_value = "ws://127.0.0.1:8080"
    )]
    pub url: Address,

    /// The name that others see instead of the address; one in the URL, as in ?name=ana, comes first
    #[arg(long, env = "CHAT_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Trust also whoever is in this file (PEM) to sign the certificate of a wss:// server
    #[arg(long, env = "CHAT_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Show the server the first token of this file, which nobody but you may be able to read; without
    /// it, that of the variable `CHAT_TOKEN`, if there is one
    #[arg(long, env = "CHAT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Bytes of the longest line to send; the server has a flag of the same name
    #[arg(long, env = "CHAT_MAX_MESSAGE", value_name = "BYTES", default_value_t = LIMITS.message, value_parser = message)]
    pub max_message: usize,

    /// Keep listening this long after the end of the input
    #[arg(long, env = "CHAT_WAIT", value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub wait: Duration,

    /// When the link breaks, connect again after up to 1, 2, 4, 8, 16 seconds, until it works
    #[arg(long, env = "CHAT_RECONNECT", value_parser = switch)]
    pub reconnect: bool,

    /// Show the local time before each line
    #[arg(long, env = "CHAT_TIMESTAMPS", value_parser = switch)]
    pub timestamps: bool,

    /// Print each line as a JSON object: at, from, text; or at and notice; or at and the names of those
    /// here, joined or left, with more when there are more
    #[arg(long, env = "CHAT_JSON", value_parser = switch)]
    pub json: bool,
}

const LIMITS: Limits = Limits::DEFAULT;

impl Client {
    /// Where to connect, under which name and with which token.
    ///
    /// # Errors
    ///
    /// One line that says why there is no token where there should be one.
    pub fn address(&self) -> Result<Address, String> {
        let url = self.url.clone().with_token(self.token()?);
        Ok(match &self.name {
            Some(name) => url.with_name(name),
            None => url,
        })
    }

    /// The token, which no flag can give: all who are on this machine can see the arguments.
    fn token(&self) -> Result<Option<Token>, String> {
        const VARIABLE: &str = "CHAT_TOKEN";
        if let Some(file) = &self.token_file {
            return token::first(file).map(Some);
        }
        let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let token = value.to_str().and_then(Token::new);
        let token = token
            .ok_or_else(|| format!("what {VARIABLE} holds is not a token: {}", token::rule()))?;
        Ok(Some(token))
    }

    /// Whom to trust, if the address is a `wss://` one or it is said who that is.
    ///
    /// # Errors
    ///
    /// There is nobody to trust, and why.
    pub fn trust(&self) -> Result<Option<Trust>, String> {
        let wanted = self.url.is_secure() || self.ca.is_some();
        wanted.then(|| Trust::load(self.ca.as_deref())).transpose()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    // A hundred years are for ever, and still fit into every clock.
    let seconds = text.parse().ok().filter(|s| (0.0..=3.2e9).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it is a number of seconds".to_owned())
}
