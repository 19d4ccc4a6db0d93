//! How both ends notice a dead link: silence, a ping, more silence (RFC 6455 5.5.2).

use std::time::Duration;

use tokio::time::Instant;

/// When the peer was last heard, and whether it was asked since.
#[derive(Debug)]
pub struct Keepalive {
    since: Instant,
    asked: bool,
    quiet: Duration,
}

/// What to do when [`Keepalive::due`] has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Nothing: the peer was heard after the alarm was set. Set it again.
    Early,
    /// Send a ping.
    Ask,
    /// The link is dead: the ping was not answered.
    Dead,
}

impl Keepalive {
    /// Asks after `quiet`, gives up after `quiet` more.
    #[must_use]
    pub fn new(quiet: Duration) -> Self {
        Self {
            since: Instant::now(),
            asked: false,
            quiet,
        }
    }

    /// The peer was heard: any frame counts.
    pub fn heard(&mut self) {
        (self.since, self.asked) = (Instant::now(), false);
    }

    /// It is not the peer's fault that it is not heard: nobody reads what it sends. It is still asked
    /// whenever the alarm comes, so that it hears that this end lives, but its silence is no answer.
    pub fn excuse(&mut self) {
        self.asked = false;
    }

    /// When to look at the alarm. Setting a timer for each message would cost more than the
    /// message; so the timer is set once, and set again when it turns out early.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.since + self.quiet
    }

    /// How long the peer may be silent in all: until the ping, and as long again.
    #[must_use]
    pub fn patience(&self) -> Duration {
        2 * self.quiet
    }

    /// Whether the peer was asked and has not been heard since.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asked
    }

    /// The timer has come.
    pub fn alarm(&mut self) -> Alarm {
        if Instant::now() < self.due() {
            return Alarm::Early;
        }
        if self.asked {
            return Alarm::Dead;
        }
        (self.since, self.asked) = (Instant::now(), true);
        Alarm::Ask
    }
}
