//! How long to wait before the next attempt to connect.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// 1, 2, 4, 8, 16 seconds and then 16 again and again, each shortened by up to a half at random,
/// so that all the clients of a server that comes back do not come back at the same moment.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        const LONGEST: u32 = 4;
        let full = 1000 << self.attempts.min(LONGEST);
        self.attempts += 1;
        // The standard library's hasher is seeded at random; that is random enough here.
        let random = RandomState::new().hash_one(self.attempts);
        Duration::from_millis(full / 2 + random % (full / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_16_seconds_with_jitter() {
        let mut backoff = Backoff::default();
        for full in [1, 2, 4, 8, 16, 16, 16] {
            let wait = backoff.wait();
            let full = Duration::from_secs(full);
            assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
        }
    }
}
