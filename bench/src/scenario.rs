//! What is asked of the load generator, and what it answers: both cross a process boundary as JSON.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Clone, Serialize, Deserialize)]
pub enum Load {
    /// `clients` dealt out over `rooms`; the first `senders` of them take turns to send lines of `line`
    /// bytes. With more than one room, each has one sender. With `slow`, those of [`crate::slow`] are there
    /// as well, and are not counted.
    Room {
        rooms: usize,
        clients: usize,
        senders: usize,
        line: usize,
        pace: Pace,
        slow: bool,
    },
    /// Connections that say nothing.
    Idle { clients: usize },
    /// Connect, upgrade, close, repeat.
    Handshakes,
    /// Processes started one after another. The only one that needs no load generator.
    Start,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Pace {
    /// So many lines in flight in all, the next one sent when one has reached everybody.
    Window(usize),
    PerSecond(u32),
    /// The next line is sent so many milliseconds after everybody has the one before.
    Pause(u64),
}

/// One run of the load generator.
#[derive(Serialize, Deserialize)]
pub struct Order {
    pub load: Load,
    /// Where to connect: clients take turns.
    pub ports: Vec<u16>,
    /// The servers, whose CPU time and memory are read from /proc.
    pub pids: Vec<u32>,
    /// The NATS server that they share, for its CPU time.
    pub nats: Option<u32>,
    /// What the server must show, in PEM. `None` is a server without TLS.
    pub certificate: Option<PathBuf>,
    pub warm_up_ms: u64,
    pub counted_ms: u64,
}

/// What one run measured: figures by name, and why it failed if it did.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub values: BTreeMap<String, f64>,
}

impl Outcome {
    pub fn of<const N: usize>(values: [(&str, f64); N]) -> Outcome {
        let values = values.map(|(name, value)| (name.to_owned(), value)).into();
        Outcome {
            failure: None,
            values,
        }
    }
}

impl From<Result<Outcome, String>> for Outcome {
    fn from(result: Result<Outcome, String>) -> Outcome {
        result.unwrap_or_else(|failure| Outcome {
            failure: Some(failure),
            ..Outcome::default()
        })
    }
}

impl Load {
    pub fn clients(&self) -> usize {
        match self {
            Load::Room { clients, .. } | Load::Idle { clients } => *clients,
            Load::Handshakes | Load::Start => 1,
        }
    }
}

/// The middle of the values, sorted on the way. Zero of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, 0.5)
}

/// Of sorted values. Zero of none.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted
        .get((last * share).round() as usize)
        .copied()
        .unwrap_or(0.0)
}
