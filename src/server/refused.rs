//! Strangers who have no seat, since there was none or they were refused, while they are told so. There are few
//! places for that as well, so that whoever asks for nothing, or does not leave, must not keep one for long.

use std::collections::VecDeque;
use std::future::pending;

use std::sync::Weak;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::server::limits::Limits;

/// A place among those who may be connected at once, until it is dropped.
pub type Seat = OwnedSemaphorePermit;

/// All who have come, and may lose their seats; who came first is first.
#[derive(Debug, Default)]
pub struct Refused {
    tasks: VecDeque<Task>,
    /// With so many it is looked who has left, …
    full: usize,
}

/// … and with no fewer than so many.
const FEW: usize = 64;

/// The task of one of them.
#[derive(Debug)]
struct Task {
    handle: AbortHandle,
    seat: Weak<Seat>,
    came: Instant,
    /// It was told to end, and has not yet.
    is_ending: bool,
}

impl Refused {
    /// Another one has come, whose task this is, and whose seat as long as it has one.
    pub fn push(&mut self, handle: AbortHandle, seat: Weak<Seat>) {
        if self.tasks.len() >= self.full {
            self.tasks.retain(|task| !task.handle.is_finished());
            // So that each is looked at once on average, however many there are.
            self.full = FEW.max(2 * self.tasks.len());
        }
        self.tasks.push_back(Task {
            handle,
            seat,
            came: Instant::now(),
            is_ending: false,
        });
    }

    /// Turns the first one away that has no seat, as soon as it has had its time, and nobody else before its task
    /// has ended. May be cancelled.
    pub async fn turn_one_away(&mut self, limits: &Limits) {
        let is_refused =
            |task: &&mut Task| task.seat.strong_count() == 0 && !task.handle.is_finished();
        match self.tasks.iter_mut().find(is_refused) {
            Some(first) if !first.is_ending => {
                sleep_until(first.came + limits.refusal).await;
                first.handle.abort();
                first.is_ending = true;
            }
            _ => pending().await,
        }
    }
}
