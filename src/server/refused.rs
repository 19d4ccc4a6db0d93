//! Strangers for whom there is no place, while they are told so. There are few places for that as well, so
//! that whoever asks for nothing must not keep one for long.

use std::collections::VecDeque;
use std::future::pending;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::server::limits::Limits;

/// Those strangers; who came first is first.
#[derive(Debug, Default)]
pub struct Refused(VecDeque<Task>);

/// The task of one of them.
#[derive(Debug)]
struct Task {
    handle: AbortHandle,
    came: Instant,
    /// It was told to end, and has not yet.
    is_ending: bool,
}

impl Refused {
    /// Another one has come, whose task this is.
    pub fn push(&mut self, task: AbortHandle) {
        self.forget_those_who_left();
        self.0.push_back(Task {
            handle: task,
            came: Instant::now(),
            is_ending: false,
        });
    }

    /// Turns the first one away, as soon as it has had its time, and nobody else before its task has ended.
    /// May be cancelled.
    pub async fn turn_one_away(&mut self, limits: &Limits) {
        self.forget_those_who_left();
        match self.0.front_mut() {
            Some(first) if !first.is_ending => {
                sleep_until(first.came + limits.refusal).await;
                first.handle.abort();
                first.is_ending = true;
            }
            _ => pending().await,
        }
    }

    fn forget_those_who_left(&mut self) {
        self.0.retain(|task| !task.handle.is_finished());
    }
}
