//! A deadline that counts only when the runtime has looked at what happened before it.

use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

/// A timer that fires this late shows that this process did not run for a while.
const LATE: Duration = Duration::from_millis(100);
/// How much longer to wait then: the whole machine may have stood still, and with it whoever has to meet the
/// deadline.
const MOMENT: Duration = Duration::from_millis(250);

/// Waits until `deadline`, and then gives the runtime one more turn to look at the sockets. After SIGSTOP and
/// SIGCONT the timer fires before the runtime has noticed what arrived meanwhile; without this turn a healthy
/// client would be cut off.
pub async fn passed(deadline: Instant) {
    sleep_until(deadline).await;
    if deadline.elapsed() > LATE {
        sleep(MOMENT).await;
    }
    yield_now().await;
}

/// Waits for `work`, but not longer than this.
pub async fn within(most: Duration, work: impl Future) {
    tokio::select! {
        biased;
        _ = work => {}
        () = passed(Instant::now() + most) => {}
    }
}
