//! The servers: where they come from, how one is started, and that it is always ended.

use crate::tls::Certificate;
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

pub const ALL: [(&str, &str); 6] = [
    ("chat-pair", "chat-pair"),
    ("bare", "bare epoll loop"),
    ("tokio-tungstenite", "tokio-tungstenite"),
    ("axum", "axum"),
    ("ws", "Node ws"),
    ("websockets", "Python websockets"),
];

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
        "chat-pair" => {
            let server = match ready_server {
                Some(server) => server
                    .canonicalize()
                    .map_err(|error| format!("{}: {error}", server.display()))?,
                None => build(
                    bench.parent().unwrap_or(bench),
                    &["server", "client"],
                    "server",
                )?,
            };
            let client = Some(server.with_file_name("client")).filter(|client| client.exists());
            Ok(peer(server, &["--listen", "127.0.0.1:0"], client))
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
            Ok(peer(build(bench, &[&binary], &binary)?, &[], None))
        }
    }
}

/// Builds binaries of a crate in release mode; returns the path of the one called `wanted`.
fn build(root: &Path, binaries: &[&str], wanted: &str) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args([
        "build",
        "--release",
        "--message-format=json-render-diagnostics",
        "--manifest-path",
    ]);
    cargo
        .arg(root.join("Cargo.toml"))
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

/// A running server. Its output goes to files, as a service's would; they go when it goes.
pub struct Server {
    pub port: u16,
    pub process: Kept,
    output: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.output);
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

    /// Starts it for a room of so many clients, with TLS if there is a certificate, and waits for its
    /// port.
    pub fn start(
        &self,
        clients: usize,
        certificate: Option<&Certificate>,
    ) -> Result<Server, String> {
        let start = || -> std::io::Result<Server> {
            let output =
                std::env::temp_dir().join(format!("chat-pair-bench-{}", std::process::id()));
            fs::create_dir_all(&output)?;
            let (stdout, stderr) = (
                File::create(output.join("stdout"))?,
                File::create(output.join("stderr"))?,
            );
            let child = self
                .command(clients, certificate)
                .stdout(stdout)
                .stderr(stderr)
                .spawn()?;
            Ok(Server {
                port: 0,
                process: Kept(child),
                output,
            })
        };
        let mut server = start().map_err(|error| format!("cannot start: {error}"))?;
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            let printed = fs::read_to_string(server.output.join("stdout")).unwrap_or_default();
            if let Some(port) = printed.split_once('\n').and_then(|(line, _)| port(line)) {
                server.port = port;
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let errors = fs::read_to_string(server.output.join("stderr")).unwrap_or_default();
        Err(format!(
            "did not say `listening`: {}",
            errors.lines().next().unwrap_or_default()
        ))
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

pub fn megabytes(program: &Path) -> Option<f64> {
    Some(fs::metadata(program).ok()?.len() as f64 / 1e6)
}

pub fn port(line: &str) -> Option<u16> {
    line.strip_prefix("listening on port ")?.trim().parse().ok()
}
