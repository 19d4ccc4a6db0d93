//! The server's two outputs, written by threads of their own, so that a reader of them that is
//! slow, stopped or gone never holds up the chat.
//!
//! Looked at before writing this: `tracing-appender` and `slog-async`. Both bound their queue in
//! entries, not in bytes, so a stranger's long lines would decide how much memory it takes, and
//! neither says on its own that it dropped something.

use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::os::{describe, start_thread};
use crate::server::ended::Ended;
use crate::server::identity::Identity;
use crate::server::limits::Limits;
use crate::server::metrics;

/// Standard output and standard error, neither of which blocks.
#[derive(Clone, Debug)]
pub struct Log {
    out: Queue,
    err: Queue,
    warned: Arc<Mutex<Warned>>,
    warnings: u32,
}

/// How many lines about strangers were written in the current second, and how many were not.
#[derive(Debug)]
struct Warned {
    since: Instant,
    written: u32,
    suppressed: u64,
}

impl Log {
    /// Starts the two threads.
    ///
    /// # Errors
    ///
    /// The system does not let the two outputs be used, or allows no more threads.
    pub fn open(limits: &Limits) -> io::Result<Self> {
        // Without the standard library's buffers, so that after an error it is known what is
        // written and what is not.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let err = Queue::start(stderr, limits, None)?;
        let out = Queue::start(stdout, limits, Some(err.clone()))?;
        let warned = Warned {
            since: Instant::now(),
            written: 0,
            suppressed: 0,
        };
        Ok(Self {
            out,
            err,
            warned: Arc::new(Mutex::new(warned)),
            warnings: limits.warnings,
        })
    }

    /// Says that a client is there, and that it is not any more when what this returns is dropped:
    /// in every case, a panic included, each `New connection` line has its `disconnected` line.
    #[must_use]
    pub fn announce<'a>(&'a self, identity: &'a Identity) -> Announced<'a> {
        let Identity { label, place, .. } = identity;
        self.print(format_args!("New connection from {label}{place}"));
        Announced {
            identity,
            log: self,
            open: metrics::Open::begin(),
        }
    }

    /// Tells the operator of each panic in one line. The runtime catches it, and it ends the
    /// connection it happened in and no other.
    pub fn report_panics(&self) {
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let what = panic.payload_as_str().unwrap_or("no message");
            let place = panic.location().map(ToString::to_string);
            log.warn(format_args!(
                "a fault of this server, please report it: {what} ({})",
                place.unwrap_or_default()
            ));
        }));
    }

    /// One line on standard output.
    pub fn print(&self, line: Arguments<'_>) {
        self.print_lines(format!("{line}\n").into_bytes(), 1);
    }

    /// What a client said, `count` lines of it: as many on standard output.
    pub fn said(&self, lines: Vec<u8>, count: u64) {
        metrics::LINES.add(count);
        self.print_lines(lines, count);
    }

    /// Whole lines on standard output, `count` of them.
    fn print_lines(&self, lines: Vec<u8>, count: u64) {
        if self.out.push(lines, count).is_err_and(|first| first) {
            self.warn(format_args!(
                "standard output is read too slowly: log lines are dropped from now on"
            ));
        }
    }

    /// One line on standard error, for the operator.
    pub fn warn(&self, line: Arguments<'_>) {
        self.err.warn(line);
    }

    /// One line on standard error about a stranger, unless there were many this second: those are
    /// counted, and said with the next.
    pub fn warn_of_stranger(&self, line: Arguments<'_>) {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.since.elapsed() >= Duration::from_secs(1) {
            (warned.since, warned.written) = (Instant::now(), 0);
        }
        if warned.written >= self.warnings {
            warned.suppressed += 1;
            return;
        }
        warned.written += 1;
        match std::mem::take(&mut warned.suppressed) {
            0 => self.warn(line),
            more => self.warn(format_args!("{line} ({more} more before)")),
        }
    }

    /// Waits until standard output has taken what was said, or the deadline has passed: then standard
    /// error is told how many lines those were, for which it gets half of that time.
    pub fn close(&self, deadline: Duration) {
        let waiting = &self.out.waiting;
        let mut lines = 0;
        if !self.out.flush(deadline) {
            lines = waiting.lines.load(Relaxed);
        }
        lines += waiting.dropped.swap(0, Relaxed);
        if lines > 0 {
            self.warn(format_args!("{lines} log lines dropped at the end"));
        }
        self.err.flush(deadline / 2);
    }
}

/// A client in the room.
#[derive(Debug)]
pub struct Announced<'a> {
    identity: &'a Identity,
    log: &'a Log,
    open: metrics::Open,
}

impl Announced<'_> {
    /// It ends, for this reason.
    pub fn ends(&mut self, ended: &Ended) {
        self.open.ends(ended);
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let Identity { label, place, .. } = self.identity;
        self.log
            .print(format_args!("Client {label} disconnected{place}"));
    }
}

/// The way to a thread that writes one of the outputs. It is a channel that is bounded by what its
/// entries take in bytes; what does not fit is dropped and counted.
#[derive(Clone, Debug)]
struct Queue {
    entries: Sender<Entry>,
    waiting: Arc<Waiting>,
    /// Bytes that may wait.
    most: usize,
}

#[derive(Debug)]
enum Entry {
    /// So many lines.
    Lines(Vec<u8>, u64),
    /// Everything before it is to be written, and then this is to be dropped.
    Flush(#[allow(dead_code)] Sender<()>),
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// Lines that are not written yet.
    lines: AtomicU64,
    /// Lines that did not fit since the last time this was said.
    dropped: AtomicU64,
}

impl Waiting {
    /// Lines that waited are not written.
    fn throw_away(&self, bytes: usize, lines: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.lines.fetch_sub(lines, Relaxed);
        metrics::DROPPED.add(lines);
    }
}

/// Bytes that lines take in a queue; short ones take more than their text.
fn size(lines: &[u8]) -> usize {
    size_of::<Entry>() + lines.len()
}

impl Queue {
    /// A queue and the thread that writes it to `sink`; trouble with it goes to `trouble`.
    fn start(sink: File, limits: &Limits, trouble: Option<Queue>) -> io::Result<Self> {
        let (entries, receiver) = mpsc::channel();
        let queue = Self {
            entries,
            waiting: Arc::default(),
            most: limits.log,
        };
        let output = Output {
            sink,
            entries: receiver,
            waiting: queue.waiting.clone(),
            most: limits.log,
            trouble,
            pause: limits.log_pause,
            retry: limits.log_retry,
            told: None,
            seldom: limits.log_seldom,
        };
        start_thread(move || output.run())?;
        Ok(queue)
    }

    /// Adds lines, `count` of them.
    ///
    /// # Errors
    ///
    /// They did not fit, and were dropped; true if those before them did fit.
    fn push(&self, lines: Vec<u8>, count: u64) -> Result<(), bool> {
        let size = size(&lines);
        if self.waiting.bytes.fetch_add(size, Relaxed) + size > self.most {
            self.waiting.bytes.fetch_sub(size, Relaxed);
            metrics::DROPPED.add(count);
            return Err(self.waiting.dropped.fetch_add(count, Relaxed) == 0);
        }
        self.waiting.lines.fetch_add(count, Relaxed);
        // The thread ends when the last of these queues has.
        let _ = self.entries.send(Entry::Lines(lines, count));
        Ok(())
    }

    fn warn(&self, line: Arguments<'_>) {
        // When nobody reads this output either, there is nowhere else to say it.
        let _ = self.push(format!("server: {line}\n").into_bytes(), 1);
    }

    /// Waits until everything is written, or cannot be written any more, which was said then.
    /// Returns false if the deadline has passed before that, and an eighth of it more: if this program was
    /// stopped for so long, the other thread has not had its time yet.
    fn flush(&self, deadline: Duration) -> bool {
        let (done, written) = mpsc::channel();
        let _ = self.entries.send(Entry::Flush(done));
        let mut waits = [deadline, deadline / 8].into_iter();
        waits.any(|wait| written.recv_timeout(wait) != Err(RecvTimeoutError::Timeout))
    }
}

/// What the thread of one output has.
struct Output {
    sink: File,
    entries: Receiver<Entry>,
    waiting: Arc<Waiting>,
    /// Bytes that are written at once.
    most: usize,
    trouble: Option<Queue>,
    /// How long a line may wait for others to be written with it.
    pause: Duration,
    /// How long to wait after an error before the next attempt.
    retry: Duration,
    /// When it was last said how many lines were dropped, and how long not to say it again.
    told: Option<Instant>,
    seldom: Duration,
}

impl Output {
    /// The thread: one write for all that has gathered since the last.
    fn run(mut self) {
        while let Ok(first) = self.entries.recv() {
            if matches!(first, Entry::Lines(..)) {
                // A thread that woke for each line would cost the relay a core.
                thread::sleep(self.pause);
            }
            let (mut text, mut count, mut flushed) = (Vec::new(), 0, Vec::new());
            let mut next = Some(first);
            while let Some(entry) = next {
                match entry {
                    Entry::Lines(lines, more) => {
                        self.waiting.bytes.fetch_sub(size(&lines), Relaxed);
                        count += more;
                        text.extend(lines);
                    }
                    Entry::Flush(done) => flushed.push(done),
                }
                let room = text.len() < self.most;
                next = room.then(|| self.entries.try_recv().ok()).flatten();
            }
            self.tell_dropped();
            if let Err(error) = self.write(&text) {
                drop(flushed);
                self.end(&error, count);
                return;
            }
            self.waiting.lines.fetch_sub(count, Relaxed);
        }
    }

    /// Nothing can be written any more, also not the last lines, `count` of them. From now on all is thrown away.
    fn end(&self, error: &io::Error, count: u64) {
        match error.kind() {
            ErrorKind::BrokenPipe => {
                self.warn(format_args!("standard output is closed: the log ends here"));
            }
            _ => self.warn(format_args!("the log ends here: {}", describe(error))),
        }
        self.waiting.throw_away(0, count);
        for entry in &self.entries {
            if let Entry::Lines(lines, count) = entry {
                self.waiting.throw_away(size(&lines), count);
            }
        }
    }

    /// Says how many lines were dropped, now and then: a reader that is a little too slow would else
    /// make it a flood of its own.
    fn tell_dropped(&mut self) {
        let recently = self.told.is_some_and(|told| told.elapsed() < self.seldom);
        if recently || self.waiting.dropped.load(Relaxed) == 0 {
            return;
        }
        self.told = Some(Instant::now());
        let dropped = self.waiting.dropped.swap(0, Relaxed);
        self.warn(format_args!("{dropped} log lines dropped"));
    }

    /// Writes all of the text. After an error it tries again and again, since a full disk often is
    /// full for a moment only; unless the reader is gone.
    fn write(&mut self, mut text: &[u8]) -> io::Result<()> {
        let mut failing = false;
        while !text.is_empty() {
            match self.sink.write(text) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    text = &text[n..];
                    if std::mem::take(&mut failing) {
                        self.warn(format_args!("the log goes on"));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(error),
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let why = describe(&error);
                        self.warn(format_args!(
                            "cannot write the log to standard output: {why} (trying again)"
                        ));
                    }
                    thread::sleep(self.retry);
                }
            }
        }
        Ok(())
    }

    fn warn(&self, line: Arguments<'_>) {
        if let Some(trouble) = &self.trouble {
            trouble.warn(line);
        }
    }
}

/// What a client said and the room has taken. It goes to standard output once it is in the log of the room; or
/// when the connection ends before that, since the room goes on with it all the same.
#[derive(Debug)]
pub struct Unlogged<'a> {
    log: &'a Log,
    /// The lines, and how many they are each time.
    lines: Vec<(Vec<u8>, u64)>,
    /// Bytes of all of them.
    pub bytes: usize,
}

impl<'a> Unlogged<'a> {
    /// Nothing yet.
    #[must_use]
    pub fn new(log: &'a Log) -> Self {
        Self {
            log,
            lines: Vec::new(),
            bytes: 0,
        }
    }

    /// Keeps these lines, `count` of them.
    pub fn push(&mut self, lines: Vec<u8>, count: u64) {
        self.bytes += lines.len();
        self.lines.push((lines, count));
    }

    /// Gives all of it to standard output.
    pub fn write(&mut self) {
        for (lines, count) in self.lines.drain(..) {
            self.log.said(lines, count);
        }
        self.bytes = 0;
    }
}

impl Drop for Unlogged<'_> {
    fn drop(&mut self) {
        self.write();
    }
}
