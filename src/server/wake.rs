//! What a task is woken for: the part of it that can go on, and a deadline when that really has passed.
//!
//! A task has one waker. If several futures wait in it, all of them are polled whenever one of them can
//! go on, and most of these polls find nothing. So a part may have a waker of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// Waits for a future, and polls it only when it was woken itself.
pub async fn when_woken<T>(mut future: Pin<Box<impl Future<Output = T>>>) -> T {
    let mut own: Option<Arc<Own>> = None;
    poll_fn(|cx| {
        let own = match &own {
            Some(own) if own.task.will_wake(cx.waker()) => own,
            _ => own.insert(Arc::new(Own {
                is_woken: AtomicBool::new(true),
                task: cx.waker().clone(),
            })),
        };
        if !own.is_woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(own.clone());
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

/// Waits until a time has passed, and the system was asked since what it takes. When this program was
/// stopped and goes on (SIGSTOP, SIGCONT), it learns of the time first.
pub async fn passed(deadline: Instant) {
    sleep_until(deadline).await;
    yield_now().await;
}

/// What wakes one of the futures of a task.
struct Own {
    is_woken: AtomicBool,
    task: Waker,
}

impl Wake for Own {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    /// The waker of a task, which counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_future_is_polled_when_it_was_woken_and_only_then() {
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let notify = Notify::new();
        let mut polls = 0;
        let mut notified = pin!(notify.notified());
        let inner = Box::pin(poll_fn(|cx| {
            polls += 1;
            notified.as_mut().poll(cx)
        }));
        let mut outer = Box::pin(when_woken(inner));
        let mut poll = |task: &Arc<Task>| {
            let waker = Waker::from(task.clone());
            outer.as_mut().poll(&mut Context::from_waker(&waker))
        };
        // At first, and by another task; not when that was woken for something else.
        for task in [&first, &first, &second, &second] {
            assert!(poll(task).is_pending());
        }
        notify.notify_one();
        let woken = |task: &Arc<Task>| task.0.load(Ordering::Relaxed);
        assert_eq!((woken(&first), woken(&second)), (0, 1));
        assert!(poll(&second).is_ready());
        drop(outer);
        assert_eq!(polls, 3);
    }
}
