//! How long a server takes to listen, and chat-pair's client to join, each from its own start.

use crate::peers::{self, Kept, Peer};
use crate::scenario::{Outcome, median};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const TIMES: usize = 20;

pub fn measure(peer: &Peer) -> Result<Outcome, String> {
    let mut servers = vec![];
    for _ in 0..TIMES {
        servers.push(Watched::start(peer)?.listening.as_secs_f64() * 1000.0);
    }
    let mut values = vec![
        ("server_ms", Some(median(&mut servers))),
        ("server_mb", peer.megabytes()),
    ];
    if let Some(client) = &peer.client {
        let server = Watched::start(peer)?;
        let mut clients = vec![];
        for _ in 0..TIMES {
            clients.push(server.join(client)?.as_secs_f64() * 1000.0);
        }
        values.extend([
            ("client_ms", Some(median(&mut clients))),
            ("client_mb", peers::megabytes(client)),
        ]);
    }
    let known = values
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Ok(Outcome {
        failure: None,
        values: known.collect(),
    })
}

/// A server with its output in a pipe, so that each line is seen when it is printed.
struct Watched {
    port: u16,
    /// From its start to its `listening` line.
    listening: Duration,
    lines: mpsc::Receiver<(Instant, String)>,
    _process: Kept,
}

impl Watched {
    fn start(peer: &Peer) -> Result<Watched, String> {
        let started = Instant::now();
        let child = peer
            .command(1, None)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = Kept(child.map_err(|error| format!("cannot start: {error}"))?);
        let stdout = process.0.stdout.take().ok_or("no standard output")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The only error is that nobody listens any more.
                let _ = send.send((Instant::now(), line));
            }
        });
        let mut watched = Watched {
            port: 0,
            listening: Duration::ZERO,
            lines,
            _process: process,
        };
        let (at, line) = watched.wait_for("listening on port ")?;
        watched.port = peers::port(&line).ok_or("no port")?;
        watched.listening = at - started;
        Ok(watched)
    }

    /// The next line that begins so, and when it came.
    fn wait_for(&self, beginning: &str) -> Result<(Instant, String), String> {
        loop {
            let line = self
                .lines
                .recv_timeout(peers::START)
                .map_err(|_| format!("did not say `{beginning}`"))?;
            if line.1.starts_with(beginning) {
                return Ok(line);
            }
        }
    }

    /// Starts a client; how long until the server says that it is in.
    fn join(&self, client: &Path) -> Result<Duration, String> {
        let started = Instant::now();
        let mut command = Command::new(client);
        // An open pipe: at the end of its input a client leaves.
        command
            .arg(format!("ws://127.0.0.1:{}", self.port))
            .stdin(Stdio::piped());
        let client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _client = Kept(client.map_err(|error| format!("cannot start the client: {error}"))?);
        Ok(self.wait_for("New connection from ")?.0 - started)
    }
}
