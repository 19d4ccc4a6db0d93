//! How many lines a second a client may say.

use std::time::Duration;

use tokio::time::Instant;

use crate::server::limits::Limits;

/// An account of lines (a token bucket, kept as a time). It is full at first, each line takes one
/// out, and it fills again at the rate.
#[derive(Debug)]
pub struct Rate {
    /// The time in which one line comes in.
    line: Duration,
    /// The time in which the empty account becomes full.
    burst: Duration,
    /// When it is full again, or was.
    full_at: Instant,
    /// Somebody found it empty.
    used_up: bool,
}

impl Rate {
    /// A full account; `None` when there is no rate.
    #[must_use]
    pub fn new(limits: &Limits) -> Option<Self> {
        Some(Self {
            line: Duration::from_secs(1) / limits.lines?,
            burst: limits.burst,
            full_at: Instant::now(),
            used_up: false,
        })
    }

    /// Takes one line out. When there is none, takes nothing and returns when there will be one.
    pub fn spend(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let full_at = self.full_at.max(now) + self.line;
        if full_at > now + self.burst {
            self.used_up = true;
            return Some(full_at - self.burst);
        }
        self.full_at = full_at;
        None
    }

    /// Whether it was found empty since this was last asked.
    pub fn was_used_up(&mut self) -> bool {
        std::mem::take(&mut self.used_up)
    }
}
