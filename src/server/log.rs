//! The server's two outputs, written by threads of their own, so that a reader of them that is
//! slow, stopped or gone never holds up the chat.
//!
//! Looked at before writing this: `tracing-appender` and `slog-async`. Both bound their queue in
//! entries, not in bytes, so a stranger's long lines would decide how much memory it takes, and
//! neither says on its own that it dropped something.

use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::os::plain;
use crate::server::limits::Limits;

/// Standard output and standard error, neither of which blocks.
#[derive(Clone, Debug)]
pub struct Log {
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
    /// How long to wait after an error before the next attempt.
    retry: Duration,
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
    /// Nothing can be written any more; everything is thrown away.
    closed: bool,
    /// The program is about to end: no more pauses, and no second attempts.
    closing: bool,
}

/// How many lines about strangers were said in the current second.
#[derive(Debug)]
struct Strangers {
    since: Instant,
    told: u32,
    untold: u64,
}

impl Log {
    /// Starts the two threads.
    ///
    /// # Errors
    ///
    /// The system does not let the two outputs be used.
    pub fn open(limits: &Limits) -> io::Result<Self> {
        // Without the standard library's buffers, so that after an error it is known what is
        // written and what is not.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let err = Queue::start(stderr, limits, None);
        let out = Queue::start(stdout, limits, Some(err.clone()));
        let strangers = Strangers {
            since: Instant::now(),
            told: 0,
            untold: 0,
        };
        Ok(Self {
            out,
            err,
            strangers: Arc::new(Mutex::new(strangers)),
            complaints: limits.complaints,
        })
    }

    /// Says that a client is there, and that it is not any more when what this returns is dropped:
    /// in every case, a panic included, each `New connection` line has its `disconnected` line.
    #[must_use]
    pub fn announce<'a>(&'a self, name: &'a str) -> Presence<'a> {
        self.say(format_args!("New connection from {name}"));
        Presence { name, log: self }
    }

    /// Tells the operator of each panic in one line. The runtime catches it, and it ends the
    /// connection it happened in and no other.
    pub fn report_panics(&self) {
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let what = panic.payload_as_str().unwrap_or("no message");
            let place = panic
                .location()
                .map(ToString::to_string)
                .unwrap_or_default();
            log.complain(format_args!(
                "a fault of this server, please report it: {what} ({place})"
            ));
        }));
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

/// A client in the room.
#[derive(Debug)]
pub struct Presence<'a> {
    name: &'a str,
    log: &'a Log,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.log
            .say(format_args!("Client {} disconnected", self.name));
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
            most: limits.log,
            pause: limits.log_pause,
            retry: limits.log_retry,
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
        let complain = |what: &str| {
            if let Some(trouble) = trouble {
                trouble.push(format!("server: {what}\n").as_bytes(), 1);
            }
        };
        loop {
            let (text, dropped) = self.take();
            if dropped > 0 {
                complain(&format!("{dropped} log lines dropped"));
            }
            let written = self.write(&mut sink, &text, complain);
            let mut waiting = lock(&self.waiting);
            waiting.writing = false;
            if let Err(error) = written {
                complain(&match error.kind() {
                    io::ErrorKind::BrokenPipe => {
                        "standard output is closed: the log ends here".to_owned()
                    }
                    _ => format!("the log ends here: {}", plain(&error)),
                });
                (waiting.closed, waiting.text) = (true, Vec::new());
            }
            self.changed.notify_all();
            if waiting.closed {
                return;
            }
        }
    }

    /// Waits for text to write. Returns it, and how many lines were dropped before it.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut waiting = lock(&self.waiting);
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
        waiting.writing = true;
        let dropped = std::mem::take(&mut waiting.dropped);
        (std::mem::take(&mut waiting.text), dropped)
    }

    /// Writes all of the text. After an error it tries again and again, since a full disk often is
    /// full for a moment only; unless the reader is gone, or the program ends.
    fn write(
        &self,
        sink: &mut impl Write,
        mut text: &[u8],
        complain: impl Fn(&str),
    ) -> io::Result<()> {
        let mut failing = false;
        while !text.is_empty() {
            let error = match sink.write(text) {
                Ok(n @ 1..) => {
                    text = &text[n..];
                    if std::mem::take(&mut failing) {
                        complain("the log goes on");
                    }
                    continue;
                }
                Ok(_) => io::ErrorKind::WriteZero.into(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let mut waiting = lock(&self.waiting);
            if error.kind() == io::ErrorKind::BrokenPipe || waiting.closing {
                return Err(error);
            }
            if !std::mem::replace(&mut failing, true) {
                let why = plain(&error);
                complain(&format!(
                    "cannot write the log to standard output: {why} (trying again)"
                ));
            }
            let until = Instant::now() + self.retry;
            while !waiting.closing && Instant::now() < until {
                let left = until.saturating_duration_since(Instant::now());
                let woken = self.changed.wait_timeout(waiting, left);
                waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        Ok(())
    }

    fn drain(&self, until: Instant) {
        let mut waiting = lock(&self.waiting);
        waiting.closing = true;
        self.changed.notify_all();
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
