//! Several servers that share a stream of NATS, with real processes. Where there is no `nats-server` in
//! the path, each test says so in a line, and is left out.
//!
//! - [`chat`]: several servers are one chat
//! - [`log`]: what can happen to the log that they share
//! - [`connection`]: what NATS may be like when the server starts, and what the operator hears
//! - [`answers`]: what NATS was asked on a connection that broke
//! - [`faults`]: whatever breaks, all have heard the same; [`cluster`]: three servers of NATS as one
//! - [`names`]: no two people have the same, wherever they are
//! - [`presence`]: who is here, wherever they are

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod chat;
mod cluster;
mod connection;
mod faults;
mod log;
mod names;
mod presence;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use async_nats::jetstream;
use support::raw::health;
use support::session::{Client, is_taken};
use support::{PATIENCE, Port, Program, Server, empty_folder, signal, wait_until};
use tokio::runtime::Builder;

/// The session of Ana, and that of Bob.
const ANA: &str = "the-session-of-ana-000";
const BOB: &str = "the-session-of-bob-000";

/// A NATS server with a folder of its own, until it is dropped.
struct Nats {
    folder: PathBuf,
    running: Option<Child>,
    /// Nobody else is given it while NATS is down.
    port: Port,
}

impl Nats {
    /// Starts one that has JetStream. `None` if there is no `nats-server`.
    fn start() -> Option<Self> {
        Self::with("jetstream { store_dir: \"FOLDER/jetstream\" }")
    }

    /// The same with this configuration, in which `FOLDER` stands for its folder.
    fn with(configuration: &str) -> Option<Self> {
        if Command::new("nats-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            let name = thread::current().name().unwrap_or_default().to_owned();
            // Not captured, so that it is seen.
            let _ = writeln!(
                io::stderr(),
                "there is no nats-server in the path: {name} is left out"
            );
            return None;
        }
        let mut nats = Self {
            folder: empty_folder("nats"),
            running: None,
            port: Port::hold(),
        };
        nats.configure(configuration);
        nats.run();
        Some(nats)
    }

    fn configure(&self, configuration: &str) {
        let configuration = configuration.replace("FOLDER", self.folder.to_str().unwrap());
        fs::write(self.folder.join("nats.conf"), configuration).unwrap();
    }

    /// Gives it another configuration while it runs.
    fn reload(&self, configuration: &str) {
        self.configure(configuration);
        let reloaded = || {
            let log = fs::read_to_string(self.folder.join("log")).unwrap();
            log.matches("Reloaded server configuration").count()
        };
        let before = reloaded();
        let id = self.running.as_ref().expect("it runs").id();
        signal(id, "HUP");
        let until = Instant::now() + PATIENCE;
        while reloaded() == before {
            assert!(Instant::now() < until, "it does not take it");
            thread::yield_now();
        }
    }

    /// Starts it, and waits until it listens.
    fn run(&mut self) {
        let port = self.port.number.to_string();
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port, "-c"]);
        command.arg(self.folder.join("nats.conf"));
        command.arg("--ports_file_dir").arg(&self.folder);
        command.arg("-l").arg(self.folder.join("log"));
        let child = command.spawn().unwrap();
        let ports = self
            .folder
            .join(format!("nats-server_{}.ports", child.id()));
        self.running = Some(child);
        let until = Instant::now() + PATIENCE;
        while !ports.exists() {
            assert!(Instant::now() < until, "nats-server does not start");
            thread::yield_now();
        }
    }

    /// Ends it as a crash does.
    fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().unwrap();
            running.wait().unwrap();
        }
    }

    /// Ends it, makes a copy of what it has in files, and starts it again.
    fn copy(&mut self) {
        self.kill();
        copy(
            &self.folder.join("jetstream"),
            &self.folder.join("jetstream.old"),
        );
        self.run();
    }

    /// Ends it, puts that copy back, and starts it again.
    fn put_back(&mut self) {
        self.kill();
        copy(
            &self.folder.join("jetstream.old"),
            &self.folder.join("jetstream"),
        );
        self.run();
    }

    /// Does something while it stands still.
    fn while_stopped(&self, act: impl FnOnce()) {
        let id = self.running.as_ref().expect("it runs").id();
        signal(id, "STOP");
        act();
        signal(id, "CONT");
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.number)
    }

    /// A server that uses it, not started yet.
    fn command(&self) -> Command {
        let mut command = Program::command("server");
        command.args(["--nats", &self.url()]);
        command
    }

    fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    /// Starts a server, and waits until it can use NATS: whoever enters before that waits only so long for it.
    /// What it has said by then, since NATS was slow, is passed over.
    fn serve_with(&self, args: &[&str]) -> Server {
        let mut server = Server::spawn(self.command().args(args));
        is_well(&server);
        while let Some(said) = server.program.err.try_next() {
            // It says then that NATS can be used again, perhaps in a moment.
            assert!(said.contains("cannot use NATS"), "{said}");
            while !server.program.err_line().ends_with("can be used again") {}
        }
        server
    }

    /// Does something with JetStream there.
    fn js(&self, act: impl AsyncFnOnce(jetstream::Context)) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.unwrap();
            act(jetstream::new(client)).await;
        });
    }

    /// Sends a message to a stream there. Returns its sequence.
    fn publish(&self, subject: &'static str, message: Vec<u8>) -> u64 {
        let mut sequence = 0;
        self.js(async |js| {
            let sent = js.publish(subject, message.into()).await.unwrap();
            sequence = sent.await.unwrap().sequence;
        });
        sequence
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits until a server can use NATS.
#[track_caller]
fn is_well(server: &Server) {
    wait_until("it can use NATS", || health(server.port).0 == 200);
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}
