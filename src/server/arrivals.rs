//! All who have come. Among them are strangers who have no seat, since there was none or they were refused, while
//! they are told so. There are few places for that as well, so that whoever asks for nothing, or does not leave,
//! must not keep one for long.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Weak;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep_until};

use crate::server::limits::Limits;

/// A place among those who may be connected at once, until it is dropped.
pub type Seat = OwnedSemaphorePermit;

/// All who have come; who came first is first.
#[derive(Debug, Default)]
pub struct Arrivals {
    tasks: VecDeque<Task>,
}

/// With fewer tasks than this, ended ones are not looked for.
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

impl Arrivals {
    /// Another one has come, whose task this is, and whose seat as long as it has one.
    pub fn push(&mut self, handle: AbortHandle, seat: Weak<Seat>) {
        self.tasks.push_back(Task {
            handle,
            seat,
            came: Instant::now(),
            is_ending: false,
        });
    }

    /// Drops the handles of tasks that have ended, which keep their memory, when those may be half of all: so each
    /// is looked at twice on average. `open` is how many tasks have not ended.
    pub fn forget_ended(&mut self, open: usize) {
        if self.tasks.len() >= FEW.max(2 * open) {
            self.tasks.retain(|task| !task.handle.is_finished());
            self.tasks.shrink_to(FEW);
        }
    }

    /// Turns the first one away that has no seat, as soon as it has had its time, and nobody else before its task
    /// has ended. May be cancelled.
    pub async fn turn_one_away(&mut self, limits: &Limits) {
        let is_refused =
            |task: &&mut Task| task.seat.strong_count() == 0 && !task.handle.is_finished();
        match self.tasks.iter_mut().find(is_refused) {
            Some(first) if !first.is_ending => {
                sleep_until(first.came + limits.refusal).await;
                // Those of whom the runtime has just heard are answered first, as in `deadline`; but nobody is given
                // more time for being late, since the next ones wait for the place.
                yield_now().await;
                first.handle.abort();
                first.is_ending = true;
            }
            _ => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::advance;

    use super::*;

    #[tokio::test]
    async fn those_who_have_left_are_forgotten() {
        let (mut arrivals, mut open) = (Arrivals::default(), JoinSet::new());
        for n in 0..10 * FEW {
            arrivals.push(open.spawn(async {}), Weak::new());
            if n % 2 == 0 {
                arrivals.push(open.spawn(pending()), Weak::new());
            }
        }
        while open.len() > 5 * FEW {
            open.join_next().await;
            arrivals.forget_ended(open.len());
            assert!(arrivals.tasks.len() <= FEW.max(2 * open.len()));
        }
        open.shutdown().await;
        arrivals.forget_ended(open.len());
        assert!(arrivals.tasks.is_empty());
    }

    /// Nobody is waited for longer because all have waited long already.
    #[tokio::test(start_paused = true)]
    async fn those_who_had_their_time_lose_their_places_at_once() {
        let limits = Limits::DEFAULT;
        let (mut arrivals, mut open) = (Arrivals::default(), JoinSet::new());
        for _ in 0..limits.refusals {
            arrivals.push(open.spawn(pending::<()>()), Weak::new());
        }
        advance(Duration::from_secs(1)).await;
        let begun = Instant::now();
        for _ in 0..limits.refusals {
            arrivals.turn_one_away(&limits).await;
            open.join_next().await;
        }
        assert!(open.is_empty());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
