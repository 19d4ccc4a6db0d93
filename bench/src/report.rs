//! The results: what is kept of each run, and the tables made of them.

use crate::scenario::{Outcome, median};
use crate::{Scenario, peers};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// A figure to show: its key in `Outcome::values`, and its unit.
pub type Metric = (&'static str, &'static str);

#[derive(Serialize, Deserialize)]
pub struct Results {
    pub machine: BTreeMap<String, String>,
    /// What was not run, and why.
    pub left_out: Vec<String>,
    pub runs: Vec<Run>,
}

#[derive(Serialize, Deserialize)]
pub struct Run {
    pub scenario: String,
    pub server: String,
    pub run: u32,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Median, least and most of a server's runs, or why there is none.
pub enum Figure {
    Missing,
    Failed(String),
    Runs { median: f64, least: f64, most: f64 },
}

impl Figure {
    /// Zero when there is none.
    pub fn median(&self) -> f64 {
        if let Figure::Runs { median, .. } = self {
            *median
        } else {
            0.0
        }
    }
}

impl Results {
    pub fn figure(&self, scenario: &str, server: &str, key: &str) -> Figure {
        let runs = || {
            self.runs
                .iter()
                .filter(|run| run.scenario == scenario && run.server == server)
        };
        let failures: Vec<&String> = runs()
            .filter_map(|run| run.outcome.failure.as_ref())
            .collect();
        if let Some(first) = failures.first() {
            let kind = first.split(':').next().unwrap_or_default();
            return Figure::Failed(format!(
                "FAILED {} of {}: {kind}",
                failures.len(),
                runs().count()
            ));
        }
        let mut values: Vec<f64> = runs()
            .filter_map(|run| run.outcome.values.get(key).copied())
            .collect();
        let median = median(&mut values);
        match values[..] {
            [] => Figure::Missing,
            [least] => Figure::Runs {
                median,
                least,
                most: least,
            },
            [least, .., most] => Figure::Runs {
                median,
                least,
                most,
            },
        }
    }

    /// The servers that ran, in the order of the table, with the names that it gives them.
    pub fn servers(&self) -> Vec<(&'static str, &'static str)> {
        let ran = |id: &str| self.runs.iter().any(|run| run.server == id);
        peers::ALL.into_iter().filter(|(id, _)| ran(id)).collect()
    }

    fn head(&self, first: &str) -> String {
        let servers = self.servers();
        let names: String = servers
            .iter()
            .map(|(_, name)| format!(" {name} |"))
            .collect();
        format!(
            "| {first} |{names}\n|---|{}\n",
            "---|".repeat(servers.len())
        )
    }

    /// Each scenario's figures: median (least to most) and the ratio to the median of its scenario's limit.
    pub fn table(&self, scenarios: &[Scenario]) -> String {
        let mut table = self.head("scenario");
        for scenario in scenarios {
            for (key, unit) in scenario.metrics {
                let cell = |server| self.cell(scenario, server, key);
                let cells: Vec<String> =
                    self.servers().into_iter().map(|(id, _)| cell(id)).collect();
                let _ = writeln!(
                    table,
                    "| **{}** {}: {unit} | {} |",
                    scenario.id,
                    scenario.what,
                    cells.join(" | ")
                );
            }
        }
        table
    }

    fn cell(&self, scenario: &Scenario, server: &str, key: &str) -> String {
        match self.figure(scenario.id, server, key) {
            Figure::Missing => "–".to_owned(),
            Figure::Failed(why) => why,
            Figure::Runs {
                median,
                least,
                most,
            } => {
                let mut cell = format!("**{}**", short(median));
                if least < most {
                    let _ = write!(cell, " ({}–{})", short(least), short(most));
                }
                let limit = self.figure(scenario.id, scenario.limit(), key).median();
                if limit > 0.0 && server != scenario.limit() {
                    let _ = write!(cell, ", ×{}", short(median / limit));
                }
                cell
            }
        }
    }

    /// Cores kept busy by the server and by the load generator: whoever is at 1.00 was the bottleneck.
    pub fn cores(&self, scenarios: &[Scenario]) -> String {
        let mut table = self.head("cores busy: server / load generator");
        for scenario in scenarios.iter().filter(|scenario| {
            scenario
                .metrics
                .iter()
                .any(|(key, _)| key.ends_with("second"))
        }) {
            let cores = |server, key| match self.figure(scenario.id, server, key) {
                Figure::Runs { median, .. } => format!("{median:.2}"),
                _ => "–".to_owned(),
            };
            let cell = |id| format!(" {} / {} |", cores(id, "server_cpu"), cores(id, "load_cpu"));
            let cells: String = self.servers().into_iter().map(|(id, _)| cell(id)).collect();
            let _ = writeln!(table, "| {} |{cells}", scenario.id);
        }
        table
    }

    /// Every failure of the servers that must not fail.
    pub fn failures(&self) -> Vec<String> {
        let promised = self.runs.iter().filter(|run| {
            ["chat-pair", "bare"].contains(&&*run.server) || peers::LOGS.contains(&&*run.server)
        });
        let failed = promised.filter_map(|run| Some((run, run.outcome.failure.as_ref()?)));
        failed
            .map(|(run, why)| format!("{}, {}, run {}: {why}", run.scenario, run.server, run.run))
            .collect()
    }
}

/// Three figures that matter: 3.49 M, 110 k, 7.25.
pub fn short(value: f64) -> String {
    let (value, unit) = match value {
        1e6.. => (value / 1e6, " M"),
        1e4.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let decimals = match value {
        99.95.. => 0,
        9.995.. => 1,
        0.0995.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}{unit}")
}

/// What ran where.
pub fn machine() -> BTreeMap<String, String> {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default();
        line.trim_start_matches(key)
            .trim_matches([' ', '\t', ':'])
            .to_owned()
    };
    let crates = include_str!("../Cargo.lock");
    let locked = |name: &str| {
        let entry = crates
            .split_once(&format!("name = \"{name}\"\nversion = \""))
            .map(|(_, rest)| rest);
        entry
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_default()
            .to_owned()
    };
    let uwebsockets = peers::MAKEFILE
        .lines()
        .find_map(|line| line.strip_prefix("crate := "));
    let printed =
        |program, arguments: &[&str]| peers::version(program, arguments).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    [
        ("date", printed("date", &["-u", "+%F"])),
        ("cpu", first("/proc/cpuinfo", "model name")),
        ("cores", cores.to_string()),
        ("kernel", first("/proc/sys/kernel/osrelease", "")),
        ("load average", first("/proc/loadavg", "")),
        ("rustc", printed("rustc", &["--version"])),
        ("tokio-tungstenite", locked("tokio-tungstenite")),
        ("axum", locked("axum")),
        ("uWebSockets", uwebsockets.unwrap_or_default().to_owned()),
        ("nats-server", printed("nats-server", &["--version"])),
        ("Node ws", printed("node", &["-p", peers::NODE_VERSIONS])),
        (
            "Python websockets",
            printed("python3", &["-c", peers::PYTHON_VERSIONS]),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
