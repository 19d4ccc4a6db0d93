//! A deadline that counts only if the system was asked first what has happened before it.

use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

/// Who learns so late that a time has passed has not run for a while.
const LATE: Duration = Duration::from_millis(100);
/// How much longer to wait then: the whole machine may have stood still, and with it whoever the time is
/// for.
const MOMENT: Duration = Duration::from_millis(250);

/// Waits until a time has passed, and the system was asked since what it takes. When this program was
/// stopped and goes on (SIGSTOP, SIGCONT), it learns of the time first.
pub async fn passed(deadline: Instant) {
    sleep_until(deadline).await;
    if deadline.elapsed() > LATE {
        sleep(MOMENT).await;
    }
    yield_now().await;
}
