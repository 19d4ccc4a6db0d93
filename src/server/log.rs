//! The server's two outputs, written by threads of their own, so that a reader of them that is
//! slow, stopped or gone never holds up the chat.
//!
//! Looked at before writing this: `tracing-appender` and `slog-async`. Both bound their queue in
//! entries, not in bytes, so a stranger's long lines would decide how much memory it takes, and
//! neither says on its own that it dropped something.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::limits::Limits;

/// Standard output and standard error, neither of which blocks.
#[derive(Clone, Debug)]
pub struct Journal {
    out: Arc<Queue>,
    err: Arc<Queue>,
    strangers: Arc<Mutex<Strangers>>,
    complaints: u32,
}

/// Text on its way to a thread that writes it.
#[derive(Debug)]
struct Queue {
    /// Bytes that may wait.
    most: usize,
    /// How long a line may wait for others to be written with it.
    pause: Duration,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    /// Lines that did not fit since the last time this was said.
    dropped: u64,
    /// The thread is writing what it took.
    writing: bool,
    /// The other end is closed; everything is thrown away.
    closed: bool,
    /// The program is about to end: no more pauses.
    closing: bool,
}

/// How many lines about strangers were said in the current second.
#[derive(Debug)]
struct Strangers {
    since: Instant,
    told: u32,
    untold: u64,
}

impl Journal {
    /// Starts the two threads.
    #[must_use]
    pub fn open(limits: &Limits) -> Self {
        let err = Queue::start(io::stderr(), limits, None);
        let out = Queue::start(io::stdout(), limits, Some(err.clone()));
        let strangers = Strangers {
            since: Instant::now(),
            told: 0,
            untold: 0,
        };
        Self {
            out,
            err,
            strangers: Arc::new(Mutex::new(strangers)),
            complaints: limits.complaints,
        }
    }

    /// One line on standard output.
    pub fn say(&self, line: Arguments<'_>) {
        self.out.push(format!("{line}\n").as_bytes(), 1);
    }

    /// Whole lines on standard output, `count` of them.
    pub fn say_all(&self, lines: &[u8], count: u64) {
        self.out.push(lines, count);
    }

    /// One line on standard error, for the operator.
    pub fn complain(&self, line: Arguments<'_>) {
        self.err.push(format!("server: {line}\n").as_bytes(), 1);
    }

    /// One line on standard error about a stranger, unless there were many this second: those are
    /// counted, and said with the next.
    pub fn complain_of(&self, line: Arguments<'_>) {
        let mut strangers = lock(&self.strangers);
        if strangers.since.elapsed() >= Duration::from_secs(1) {
            (strangers.since, strangers.told) = (Instant::now(), 0);
        }
        if strangers.told >= self.complaints {
            strangers.untold += 1;
            return;
        }
        strangers.told += 1;
        match std::mem::take(&mut strangers.untold) {
            0 => self.complain(line),
            more => self.complain(format_args!("{line} ({more} more before)")),
        }
    }

    /// Waits until both outputs have taken what was said, or the deadline has passed.
    pub fn close(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.out.drain(until);
        self.err.drain(until);
    }
}

impl Queue {
    /// A queue and the thread that writes it to `sink`; trouble with it goes to `trouble`.
    fn start(
        sink: impl Write + Send + 'static,
        limits: &Limits,
        trouble: Option<Arc<Queue>>,
    ) -> Arc<Self> {
        let queue = Arc::new(Self {
            most: limits.journal,
            pause: limits.journal_pause,
            waiting: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = queue.clone();
        thread::spawn(move || writer.write_to(sink, trouble.as_deref()));
        queue
    }

    fn push(&self, lines: &[u8], count: u64) {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return;
        }
        if waiting.text.len() + lines.len() > self.most {
            waiting.dropped += count;
            return;
        }
        if waiting.text.is_empty() && !waiting.writing {
            self.changed.notify_all();
        }
        waiting.text.extend_from_slice(lines);
    }

    /// The thread: one write for all that has gathered since the last.
    fn write_to(&self, mut sink: impl Write, trouble: Option<&Queue>) {
        let mut text = Vec::new();
        let mut waiting = lock(&self.waiting);
        loop {
            while waiting.text.is_empty() {
                waiting = self
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if !waiting.closing {
                // A thread that woke for each line would cost the relay a core.
                drop(waiting);
                thread::sleep(self.pause);
                waiting = lock(&self.waiting);
            }
            std::mem::swap(&mut waiting.text, &mut text);
            waiting.writing = true;
            drop(waiting);
            let written = sink.write_all(&text).and_then(|()| sink.flush());
            text.clear();
            waiting = lock(&self.waiting);
            waiting.writing = false;
            waiting.closed |= written.is_err();
            let dropped = std::mem::take(&mut waiting.dropped);
            if let Some(trouble) = trouble {
                if waiting.closed {
                    trouble.push(b"server: standard output is closed: the log ends here\n", 1);
                } else if dropped > 0 {
                    trouble.push(
                        format!("server: {dropped} log lines dropped\n").as_bytes(),
                        1,
                    );
                }
            }
            self.changed.notify_all();
            if waiting.closed {
                waiting.text = Vec::new();
                return;
            }
        }
    }

    fn drain(&self, until: Instant) {
        let mut waiting = lock(&self.waiting);
        waiting.closing = true;
        while !waiting.closed && (waiting.writing || !waiting.text.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A panic while holding one of these locks leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
