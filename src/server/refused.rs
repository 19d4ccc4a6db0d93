//! Strangers for whom there is no place, while they are told so. There are few places for that as well, so
//! that whoever asks for nothing must not keep one for long.

use std::collections::VecDeque;
use std::future::pending;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::server::limits::Limits;
use crate::server::metrics;

/// The tasks of those strangers, and when each came; who came first is first.
#[derive(Debug, Default)]
pub struct Refused(VecDeque<(Instant, AbortHandle)>);

impl Refused {
    /// Another one has come.
    pub fn push(&mut self, task: AbortHandle) {
        self.forget_those_who_left();
        self.0.push_back((Instant::now(), task));
    }

    /// Turns the first one away, as soon as it has had its time. May be cancelled.
    pub async fn turn_one_away(&mut self, limits: &Limits) {
        self.forget_those_who_left();
        match self.0.front() {
            Some((came, _)) => sleep_until(*came + limits.refusal).await,
            None => pending().await,
        }
        if let Some((_, task)) = self.0.pop_front() {
            task.abort();
            metrics::turned_away();
        }
    }

    fn forget_those_who_left(&mut self) {
        self.0.retain(|(_, task)| !task.is_finished());
    }
}
