//! How fast chat-pair is, beside other servers of the same job and the bare loop that is the limit.
//!
//! This file: the scenarios, the flags and the order of the runs. `load` (with `wire` and `proc`) makes
//! the clients and counts, in a process of its own; `tls` has what both ends need for TLS; `peers` and `start` start and end the servers;
//! `report` and `chart` tell the results; `slow` makes those who do not read as they should.

mod chart;
mod load;
mod peers;
mod proc;
mod report;
mod scenario;
mod slow;
mod start;
mod tls;
mod wire;

use peers::{Kept, Peer};
use report::{Metric, Results, Run};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scenario::Pace::{Pause, PerSecond, Window};
use scenario::{Load, Order, Outcome};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tls::Certificate;

/// The load generator ends itself earlier; this is for one that hangs in a system call.
const DEADLINE: Duration = Duration::from_secs(150);

pub struct Scenario {
    pub id: &'static str,
    pub what: &'static str,
    pub load: Load,
    pub metrics: &'static [Metric],
    /// Everything is encrypted.
    pub tls: bool,
    /// It compares the places where chat-pair can have its lines, and only runs when it is asked for.
    pub logs: bool,
}

impl Scenario {
    /// Whether this server can do it: only chat-pair has rooms and logs, and not every peer speaks TLS.
    fn suits(&self, server: &str) -> bool {
        if self.logs || peers::LOGS.contains(&server) {
            return self.logs && peers::LOGS.contains(&server);
        }
        match self.load {
            Load::Room { rooms: 2.., .. } => server == "chat-pair",
            _ if self.tls => ["chat-pair", "tokio-tungstenite", "axum"].contains(&server),
            _ => true,
        }
    }

    /// The server that the others are compared with.
    pub fn limit(&self) -> &'static str {
        if self.logs { "memory" } else { "bare" }
    }
}

const RATE: &[Metric] = &[("deliveries_per_second", "deliveries/s")];
const COST: &[Metric] = &[
    RATE[0],
    ("server_ns_per_delivery", "server's CPU ns per delivery"),
];
const LOG: &[Metric] = &[RATE[0], ("nats_cpu", "cores that NATS keeps busy")];
const EACH: &[Metric] = &[("ns_per_delivery", "ns per delivery")];
const MEMORY: &[Metric] = &[("kib_per_connection", "KiB per connection")];
const BESIDE: &[Metric] = &[
    RATE[0],
    LATENCY[0],
    LATENCY[1],
    ("p99.9_ms", "p99.9, ms"),
    ("longest_ms", "longest, ms"),
    ("slow_lost", "of the 12, disconnected"),
];
const LATENCY: &[Metric] = &[("p50_ms", "p50, ms"), ("p99_ms", "p99, ms")];
const PACED: &[Metric] = &[
    LATENCY[0],
    LATENCY[1],
    ("server_cpu", "server's CPU seconds per second"),
];
const HANDSHAKES: &[Metric] = &[("per_second", "handshakes/s")];
const START: &[Metric] = &[
    ("server_ms", "server, ms until it listens"),
    ("client_ms", "client, ms until it is in"),
    ("server_mb", "server's program, MB"),
    ("client_mb", "client's program, MB"),
];

#[rustfmt::skip] // a table
fn scenarios(quick: bool) -> Vec<Scenario> {
    let new = |id, what, metrics, load| Scenario { id, what, load, metrics, tls: false, logs: false };
    let tls = |id, what, metrics, load| Scenario { id, what, load, metrics, tls: true, logs: false };
    let logs = |id, what, metrics, load| Scenario { id, what, load, metrics, tls: false, logs: true };
    let room = |clients, senders, line, pace| Load::Room { rooms: 1, clients, senders, line, pace, slow: false };
    let beside_slow = Load::Room { rooms: 1, clients: 100, senders: 1, line: 64, pace: Window(32), slow: true };
    let rooms = |rooms, each| Load::Room { rooms, clients: rooms * each, senders: rooms, line: 64, pace: Window(load::BURST * rooms), slow: false };
    let idle = |clients| Load::Idle { clients };
    let all = [
        new("A", "100 clients, 1 sender, window 32", RATE, room(100, 1, 64, Window(32))),
        new("B", "100 clients, 1 sender, window 256", RATE, room(100, 1, 64, Window(256))),
        new("C", "1,000 clients, 100 senders, window 100", RATE, room(1000, 100, 64, Window(100))),
        new("D", "100 clients, 100 senders, window 100", RATE, room(100, 100, 64, Window(100))),
        new("E", "A with 16,000-byte lines", RATE, room(100, 1, 16_000, Window(32))),
        new("F", "1,000 clients, 100 lines a second", PACED, room(1000, 100, 64, PerSecond(100))),
        new("S", "A beside a stuck reader, a trickler and ten slow readers", BESIDE, beside_slow),
        new("idle-200", "200 connections", MEMORY, idle(200)),
        new("idle-1000", "1,000 connections", MEMORY, idle(1000)),
        new("idle-10000", "10,000 connections", MEMORY, idle(10_000)),
        new("handshakes", "one after another", HANDSHAKES, Load::Handshakes),
        new("scale-10", "A with 10 clients", EACH, room(10, 1, 64, Window(32))),
        new("scale-100", "A with 100 clients", EACH, room(100, 1, 64, Window(32))),
        new("scale-1000", "A with 1,000 clients", EACH, room(1000, 1, 64, Window(32))),
        new("scale-10000", "A with 10,000 clients", EACH, room(10_000, 1, 64, Window(32))),
        new("rooms-20", "20 rooms of 5, window 32 for each", EACH, rooms(20, 5)),
        new("rooms", "1,000 rooms of 10, window 32 for each", EACH, rooms(1000, 10)),
        new("lone", "10 clients, one line at a time", LATENCY, room(10, 1, 64, Pause(5))),
        tls("tls-A", "A with TLS", COST, room(100, 1, 64, Window(32))),
        tls("tls-B", "B with TLS", COST, room(100, 1, 64, Window(256))),
        tls("tls-C", "C with TLS", COST, room(1000, 100, 64, Window(100))),
        tls("tls-idle-200", "200 connections with TLS", MEMORY, idle(200)),
        tls("tls-idle-1000", "1,000 connections with TLS", MEMORY, idle(1000)),
        new("start", "median of 20", START, Load::Start),
        logs("nats-A", "A", LOG, room(100, 1, 64, Window(32))),
        logs("nats-A-4096", "A with window 4,096", LOG, room(100, 1, 64, Window(4096))),
        logs("nats-D", "D", LOG, room(100, 100, 64, Window(100))),
        logs("nats-D-4096", "D with window 4,096", LOG, room(100, 100, 64, Window(4096))),
        logs("nats-paced", "100 clients, 100 lines a second", LATENCY, room(100, 100, 64, PerSecond(100))),
    ];
    let wanted = |id: &str| match quick {
        true => ["A", "C", "F", "idle-200", "handshakes", "rooms-20", "tls-A", "tls-C", "tls-idle-200"].contains(&id),
        false => !["idle-200", "rooms-20", "tls-idle-200"].contains(&id),
    };
    all.into_iter().filter(|scenario| wanted(scenario.id)).collect()
}

const USAGE: &str = "\
usage: cargo run --release --manifest-path bench/Cargo.toml [-- FLAGS]

  --quick          less than a minute: three servers, nine short scenarios, one run
  --only A,idle    these scenarios (A to F, S, idle, handshakes, scale, rooms, lone, tls, start; nats)
  --peers A,B      these servers (chat-pair, bare, uwebsockets, tokio-tungstenite, axum, ws,
                   websockets; for nats: memory, store, nats-1, nats-3)
  --runs N         runs of each (5)
  --server PATH    this server, its client beside it, instead of building them
  --report FILE    no runs, only the tables (and with --out the chart) of these results
  --out FOLDER     where results.json and chart.svg go: bench/ after a complete run, else nowhere";

struct Flags {
    quick: bool,
    only: Vec<String>,
    peers: Vec<String>,
    runs: u32,
    server: Option<PathBuf>,
    report: Option<PathBuf>,
    out: Option<PathBuf>,
}

impl Flags {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Flags, String> {
        let mut flags = Flags {
            quick: false,
            only: vec![],
            peers: vec![],
            runs: 0,
            server: None,
            report: None,
            out: None,
        };
        while let Some(flag) = arguments.next() {
            if flag == "--quick" {
                flags.quick = true;
                continue;
            }
            let value = arguments.next().ok_or(USAGE)?;
            let list = || value.split(',').map(str::to_owned).collect();
            match &*flag {
                "--only" => flags.only = list(),
                "--peers" => flags.peers = list(),
                "--runs" => {
                    flags.runs = value.parse().ok().filter(|&runs| runs > 0).ok_or(USAGE)?
                }
                "--server" => flags.server = Some(value.into()),
                "--report" => flags.report = Some(value.into()),
                "--out" => flags.out = Some(value.into()),
                _ => return Err(USAGE.to_owned()),
            }
        }
        let complete = !flags.quick
            && flags.only.is_empty()
            && flags.peers.is_empty()
            && flags.runs == 0
            && flags.server.is_none()
            && flags.report.is_none();
        if complete && flags.out.is_none() {
            flags.out = Some(env!("CARGO_MANIFEST_DIR").into());
        }
        if flags.peers.is_empty() {
            let standard = peers::ALL
                .iter()
                .take(if flags.quick { 3 } else { peers::ALL.len() });
            flags.peers = standard.map(|&(id, _)| id.to_owned()).collect();
        }
        if flags.runs == 0 {
            flags.runs = if flags.quick { 1 } else { 5 };
        }
        Ok(flags)
    }

    /// `--only scale` is all of `scale-10`, `scale-100` and so on.
    fn wants(&self, scenario: &Scenario) -> bool {
        let named =
            |only: &String| scenario.id == only || scenario.id.split('-').next() == Some(only);
        (self.only.is_empty() && !scenario.logs) || self.only.iter().any(named)
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "--load").is_some() {
        let order =
            serde_json::from_str(&arguments.next().unwrap_or_default()).expect("an order as JSON");
        println!(
            "{}",
            serde_json::to_string(&load::run(&order)).expect("figures are always JSON")
        );
        return ExitCode::SUCCESS;
    }
    match Flags::parse(arguments).and_then(bench) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the flags ask for; whether all of it ran and nothing was lost where nothing may be.
fn bench(flags: Flags) -> Result<bool, String> {
    if cfg!(debug_assertions) && !flags.quick {
        return Err("a debug build measures nothing: cargo run --release".to_owned());
    }
    let scenarios: Vec<Scenario> = scenarios(flags.quick)
        .into_iter()
        .filter(|scenario| flags.wants(scenario))
        .collect();
    let results = match &flags.report {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => run(&flags, &scenarios)?,
    };
    println!(
        "{}\n{}",
        results.table(&scenarios),
        results.cores(&scenarios)
    );
    results.left_out.iter().for_each(|why| println!("{why}"));
    results
        .failures()
        .iter()
        .for_each(|failure| println!("FAILED: {failure}"));
    if let Some(folder) = &flags.out {
        let json = serde_json::to_string_pretty(&results).expect("figures are always JSON");
        write(&folder.join("results.json"), &json)?;
        write(&folder.join("chart.svg"), &chart::svg(&results, &scenarios))?;
    }
    Ok(results.failures().is_empty())
}

/// Runs every scenario against every server.
fn run(flags: &Flags, scenarios: &[Scenario]) -> Result<Results, String> {
    let files = raise_open_files();
    let mut left_out = vec![];
    let mut servers = vec![];
    let suited = |id: &&String| scenarios.iter().any(|scenario| scenario.suits(id));
    for id in flags.peers.iter().filter(suited) {
        match peers::find(id, flags.server.as_deref()) {
            Ok(server) => servers.push(server),
            Err(why) if peers::OPTIONAL.contains(&&**id) => left_out.push(why),
            Err(why) => return Err(why),
        }
    }
    // Before the runs: its load average says whether the machine had anything else to do.
    let machine = report::machine();
    let certificate = match scenarios.iter().any(|scenario| scenario.tls) {
        true => Some(Certificate::make()?),
        false => None,
    };
    let mut runs = vec![];
    for scenario in scenarios {
        if scenario.load.clients() as u64 + 100 > files {
            left_out.push(format!(
                "{}: left out, only {files} open files allowed (ulimit -n)",
                scenario.id
            ));
            continue;
        }
        // Servers in turn, so that a slow minute of the machine is everybody's.
        for run in 1..=flags.runs {
            for server in servers.iter().filter(|server| scenario.suits(server.id)) {
                progress(&format!(
                    "{}, run {run} of {}: {}",
                    scenario.id, flags.runs, server.name
                ));
                let certificate = certificate.as_ref().filter(|_| scenario.tls);
                let outcome = measure(server, &scenario.load, certificate, flags.quick).into();
                let (scenario, server) = (scenario.id.to_owned(), server.id.to_owned());
                runs.push(Run {
                    scenario,
                    server,
                    run,
                    outcome,
                });
            }
        }
    }
    progress("");
    Ok(Results {
        machine,
        left_out,
        runs,
    })
}

/// One run of one scenario against a server of its own.
fn measure(
    peer: &Peer,
    load: &Load,
    certificate: Option<&Certificate>,
    quick: bool,
) -> Result<Outcome, String> {
    if let Load::Start = load {
        return start::measure(peer);
    }
    let server = peer.start(load.clients(), certificate)?;
    let (warm_up_ms, counted_ms) = match load {
        _ if quick => (150, 700),
        // Long enough for a server to find out who is slow.
        Load::Room { slow: true, .. } => (500, 10_000),
        _ => (500, 3000),
    };
    let order = Order {
        load: load.clone(),
        ports: server.ports.clone(),
        pids: server.processes.iter().map(|one| one.0.id()).collect(),
        nats: server.nats.as_ref().map(|nats| nats.0.id()),
        certificate: certificate.map(Certificate::chain),
        warm_up_ms,
        counted_ms,
    };
    let order = serde_json::to_string(&order).expect("an order is always JSON");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(program)
        .args(["--load", &order])
        .stdout(Stdio::piped())
        .spawn();
    let mut child =
        Kept(child.map_err(|error| format!("cannot start the load generator: {error}"))?);
    let deadline = Instant::now() + DEADLINE;
    while child
        .0
        .try_wait()
        .map_err(|error| error.to_string())?
        .is_none()
    {
        if Instant::now() > deadline {
            return Err(format!("not done after {DEADLINE:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut answer = String::new();
    let read = child
        .0
        .stdout
        .take()
        .map(|mut stdout| stdout.read_to_string(&mut answer));
    match (read, serde_json::from_str(&answer)) {
        (Some(Ok(_)), Ok(outcome)) => Ok(outcome),
        _ => Err("the load generator ended without a result".to_owned()),
    }
}

/// Raises the limit of open files as far as it goes, for this process and its children; returns it.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// One line, overwritten on a terminal. Nothing ends it.
fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{what}");
    } else if !what.is_empty() {
        eprintln!("{what}");
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
