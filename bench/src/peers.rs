//! The servers: where they come from, how one is started, and that it is always ended.

use crate::tls::Certificate;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that does not say `listening` for so long will not.
pub const START: Duration = Duration::from_secs(10);
/// From here on chat-pair is told to take more clients than it does unasked.
const MANY: usize = 4000;

pub struct Peer {
    /// What `--peers` calls it.
    pub id: &'static str,
    /// What the table calls it.
    pub name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    /// chat-pair's own client, next to its server.
    pub client: Option<PathBuf>,
}

pub const ALL: [(&str, &str); 11] = [
    ("chat-pair", "chat-pair"),
    ("bare", "bare epoll loop"),
    ("uwebsockets", "uWebSockets"),
    ("tokio-tungstenite", "tokio-tungstenite"),
    ("axum", "axum"),
    ("ws", "Node ws"),
    ("websockets", "Python websockets"),
    ("memory", "in memory"),
    ("store", "`--store`"),
    ("nats-1", "`--nats`, one server"),
    ("nats-3", "`--nats`, three servers"),
];

/// chat-pair with each place for its lines.
pub const LOGS: [&str; 4] = ["memory", "store", "nats-1", "nats-3"];

/// Those that Cargo cannot build, or that need a program which may not be there.
pub const OPTIONAL: [&str; 5] = ["uwebsockets", "ws", "websockets", "nats-1", "nats-3"];

/// How uWebSockets is built.
pub const MAKEFILE: &str = include_str!("../peers/Makefile");

/// What Node and Python are asked, to see that the library is there.
pub const NODE_VERSIONS: &str = "process.version + ', ws ' + require('ws/package.json').version";
pub const PYTHON_VERSIONS: &str = "import platform, websockets; print(platform.python_version() + ', websockets ' + websockets.__version__)";

/// Builds or finds the server called `id`; an error says why it is left out.
pub fn find(id: &str, ready_server: Option<&Path>) -> Result<Peer, String> {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let &(id, name) = ALL
        .iter()
        .find(|(known, _)| *known == id)
        .ok_or(format!("{id}: no such server"))?;
    let peer = |program: PathBuf, arguments: &[&str], client| {
        let arguments = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        Peer {
            id,
            name,
            program,
            arguments,
            client,
        }
    };
    match id {
        _ if id == "chat-pair" || LOGS.contains(&id) => {
            if id.starts_with("nats") {
                version("nats-server", &["--version"])
                    .ok_or_else(|| format!("{name}: left out, no nats-server in the PATH"))?;
            }
            // Not where the server without these features is built, or each would replace the other.
            let target = bench.join("target/logs").to_string_lossy().into_owned();
            let features: &[&str] = match id {
                "chat-pair" => &[],
                _ => &["--features", "nats,sqlite", "--target-dir", &target],
            };
            let server = match ready_server {
                Some(server) => server
                    .canonicalize()
                    .map_err(|error| format!("{}: {error}", server.display()))?,
                None => build(
                    bench.parent().unwrap_or(bench),
                    &["server", "client"],
                    "server",
                    features,
                )?,
            };
            let client = Some(server.with_file_name("client")).filter(|client| client.exists());
            Ok(peer(server, &["--listen", "127.0.0.1:0"], client))
        }
        "uwebsockets" => {
            let server = bench.join("target/uwebsockets/server");
            if !server.exists() {
                return Err("uWebSockets: left out, not built (`make -C bench/peers`)".to_owned());
            }
            Ok(peer(server, &[], None))
        }
        "ws" => {
            version("node", &["-p", NODE_VERSIONS]).ok_or(
                "Node ws: left out, no node or no ws (`npm install --prefix bench/peers`)",
            )?;
            Ok(peer(
                "node".into(),
                &[&bench.join("peers/ws.mjs").to_string_lossy()],
                None,
            ))
        }
        "websockets" => {
            version("python3", &["-c", PYTHON_VERSIONS])
                .ok_or("Python websockets: left out, no python3 or no websockets (`pip install websockets`)")?;
            Ok(peer(
                "python3".into(),
                &[&bench.join("peers/python_websockets.py").to_string_lossy()],
                None,
            ))
        }
        _ => {
            let binary = format!("peer-{id}");
            Ok(peer(build(bench, &[&binary], &binary, &[])?, &[], None))
        }
    }
}

/// Builds binaries of a crate, as this program was built; returns the path of the one called `wanted`.
fn build(root: &Path, binaries: &[&str], wanted: &str, flags: &[&str]) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--message-format=json-render-diagnostics"]);
    if cfg!(debug_assertions) {
        // Where this program is, most of it is built already.
        let here = std::env::current_exe().unwrap_or_default();
        if let Some(target) = here.parent().and_then(Path::parent) {
            cargo.arg("--target-dir").arg(target);
        }
    } else {
        cargo.arg("--release");
    }
    cargo
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .args(flags)
        .args(binaries.iter().flat_map(|binary| ["--bin", binary]));
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|message| message["target"]["name"] == wanted && message["executable"].is_string())
        .and_then(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("{wanted}: cargo could not build it"))
}

/// What a program prints about itself, run where Node finds its packages. `None` when it fails.
pub fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let output = Command::new(program)
        .args(arguments)
        .current_dir(peers)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A child process that does not outlive its owner.
pub struct Kept(pub Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running server, or several with one log. Their output and the log are files of one folder, which
/// goes when they go.
pub struct Server {
    pub ports: Vec<u16>,
    pub processes: Vec<Kept>,
    pub nats: Option<Kept>,
    folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // First those that write there.
        self.processes.clear();
        self.nats = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Peer {
    pub fn command(&self, clients: usize, certificate: Option<&Certificate>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        if self.id == "chat-pair" && clients > MANY {
            command.args(["--max-connections", "12000"]);
        }
        if let Some(certificate) = certificate {
            command.arg("--tls-cert").arg(certificate.chain());
            command.arg("--tls-key").arg(certificate.key());
        }
        command
    }

    /// Starts it for a room of so many clients, with TLS if there is a certificate, behind its log, and
    /// waits for its port.
    pub fn start(
        &self,
        clients: usize,
        certificate: Option<&Certificate>,
    ) -> Result<Server, String> {
        let folder = std::env::temp_dir().join(format!("chat-pair-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut server = Server {
            ports: vec![],
            processes: vec![],
            nats: None,
            folder,
        };
        let log: Vec<OsString> = match self.id {
            "store" => vec!["--store".into(), server.folder.join("chat.db").into()],
            "nats-1" | "nats-3" => vec!["--nats".into(), server.start_nats()?.into()],
            _ => vec![],
        };
        let count = if self.id == "nats-3" { 3 } else { 1 };
        for _ in 0..count {
            let mut command = self.command(clients, certificate);
            command.args(&log);
            server.start_one(command)?;
        }
        Ok(server)
    }

    /// The size of its program in megabytes, when that is a program of its own.
    pub fn megabytes(&self) -> Option<f64> {
        // A bare name is an interpreter of PATH.
        self.program
            .has_root()
            .then(|| megabytes(&self.program))
            .flatten()
    }
}

impl Server {
    /// Starts one more server.
    fn start_one(&mut self, command: Command) -> Result<(), String> {
        let number = self.ports.len();
        let (stdout, stderr) = (format!("stdout-{number}"), format!("stderr-{number}"));
        self.processes.push(self.spawn(command, &stdout, &stderr)?);
        let listening = || {
            let printed = fs::read_to_string(self.folder.join(&stdout)).ok()?;
            port(printed.split_once('\n')?.0)
        };
        let port = soon(listening).ok_or_else(|| {
            let errors = fs::read_to_string(self.folder.join(&stderr)).unwrap_or_default();
            let first = errors.lines().next().unwrap_or_default();
            format!("did not say `listening`: {first}")
        })?;
        self.ports.push(port);
        Ok(())
    }

    /// Starts NATS with its files here, on a port that it chooses and writes into a file; returns its URL.
    fn start_nats(&mut self) -> Result<String, String> {
        let mut command = Command::new("nats-server");
        command.args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"]);
        command.arg(self.folder.join("jetstream"));
        command.arg("--ports_file_dir").arg(&self.folder);
        let child = self.spawn(command, "stdout-nats", "stderr-nats")?;
        let ports = format!("nats-server_{}.ports", child.0.id());
        self.nats = Some(child);
        let url = || {
            let ports = fs::read_to_string(self.folder.join(&ports)).ok()?;
            let ports: serde_json::Value = serde_json::from_str(&ports).ok()?;
            ports["nats"][0].as_str().map(str::to_owned)
        };
        soon(url).ok_or_else(|| "nats-server does not say where it listens".to_owned())
    }

    fn spawn(&self, mut command: Command, stdout: &str, stderr: &str) -> Result<Kept, String> {
        let file = |name| File::create(self.folder.join(name));
        file(stdout)
            .and_then(|stdout| {
                command
                    .stdout(stdout)
                    .stderr(file(stderr)?)
                    .spawn()
                    .map(Kept)
            })
            .map_err(|error| format!("cannot start: {error}"))
    }
}

/// What this gives as soon as it gives something. `None` when that takes too long.
fn soon<T>(what: impl Fn() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + START;
    while Instant::now() < deadline {
        if let Some(value) = what() {
            return Some(value);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

pub fn megabytes(program: &Path) -> Option<f64> {
    Some(fs::metadata(program).ok()?.len() as f64 / 1e6)
}

pub fn port(line: &str) -> Option<u16> {
    line.strip_prefix("listening on port ")?.trim().parse().ok()
}
