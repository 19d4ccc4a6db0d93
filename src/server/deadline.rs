//! A deadline that counts only if the system was asked first what has happened before it.

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// Waits until a time has passed, and the system was asked since what it takes. When this program was
/// stopped and goes on (SIGSTOP, SIGCONT), it learns of the time first.
pub async fn passed(deadline: Instant) {
    sleep_until(deadline).await;
    yield_now().await;
}
