//! What the system says to a program: signals that ask it to end, errors, and files that a flag
//! names.

use std::fs::{Metadata, OpenOptions};
use std::future::poll_fn;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::task::Poll;
use std::thread;

use rustix::fs::OFlags;
use rustix::process::{Signal as Number, geteuid};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::protocol::limits::FILE;

/// The signals that ask a program to end: Ctrl+C, `kill`, and a terminal that is gone.
///
/// They no longer end the program by themselves, but for a terminal that is gone when whoever
/// started the program wants that to be ignored, as `nohup` does. The default listens to none.
#[derive(Debug, Default)]
pub struct Stop {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    /// `None` when it was asked for before.
    hangup: Option<Signal>,
    /// It was this that asked, so that one SIGTERM more asks for nothing else.
    is_hung_up: bool,
}

impl Stop {
    /// Takes the signals over, and the one that comes when a file becomes longer than the system lets it
    /// (`ulimit -f`): then writing fails, as on a full disk, and does not end the program.
    ///
    /// # Errors
    ///
    /// The system does not allow it.
    pub fn listen() -> io::Result<Self> {
        // It stays caught when nobody listens to it.
        drop(signal(SignalKind::from_raw(Number::XFSZ.as_raw()))?);
        let hangup = SignalKind::hangup();
        let hangup = (!is_ignored(hangup)).then(|| signal(hangup));
        Ok(Self {
            interrupt: Some(signal(SignalKind::interrupt())?),
            terminate: Some(signal(SignalKind::terminate())?),
            hangup: hangup.transpose()?,
            is_hung_up: false,
        })
    }

    /// Waits for the next of them. May be cancelled.
    ///
    /// A terminal that is gone is only ever the first. systemd tells of it behind each SIGTERM to what a
    /// login has left, or the system does before that, and a shell and the system both tell what it has
    /// started, which is one request.
    pub async fn asked(&mut self) {
        poll_fn(|cx| {
            let mut came = |signal: &mut Option<Signal>| {
                let signal = signal.as_mut();
                signal.is_some_and(|signal| signal.poll_recv(cx).is_ready())
            };
            if came(&mut self.interrupt) {
                return Poll::Ready(());
            }
            while came(&mut self.terminate) {
                if !std::mem::take(&mut self.is_hung_up) {
                    return Poll::Ready(());
                }
            }
            if came(&mut self.hangup) {
                self.is_hung_up = true;
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        self.hangup = None;
    }
}

/// Whether a signal is ignored, as far as the system tells: Linux does, in the mask `SigIgn` of
/// `/proc/self/status` (proc(5)).
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

/// The bytes of a file that a flag names, such as a certificate.
///
/// # Errors
///
/// One line that names the file and says why it cannot be read. A pipe is no file in this sense,
/// since reading it could take for ever, nor is one of more than [`FILE`] bytes.
pub fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    read(path, |_| true)
}

/// The same of a file whose content is a secret, such as a token. As `ssh` does it, a file of ours
/// that anybody else may read is refused. One that belongs to somebody else may be shared with a
/// group.
///
/// # Errors
///
/// As with [`read_file`], and when others can read it.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, String> {
    read(path, |found| {
        let is_ours = found.uid() == geteuid().as_raw();
        let others = if is_ours { 0o077 } else { 0o007 };
        found.mode() & others == 0
    })
}

/// Whether everybody on this machine can read a file.
#[must_use]
pub fn is_public(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.mode() & 0o004 != 0)
}

fn read(path: &Path, is_safe: impl FnOnce(&Metadata) -> bool) -> Result<Vec<u8>, String> {
    let file = path.display();
    let cannot = |why: &str| format!("cannot read {file}: {why}");
    // Opening a named pipe would wait for somebody who writes to it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let opened = opened.map_err(|error| cannot(&describe(&error)))?;
    // Of what was opened, and not of what has the name by now.
    let found = opened.metadata();
    let found = found.map_err(|error| cannot(&describe(&error)))?;
    if !found.is_file() {
        return Err(cannot("it is not a regular file"));
    }
    if !is_safe(&found) {
        return Err(format!(
            "{file} holds a secret and others can read it: chmod 600 {file}"
        ));
    }
    let mut bytes = Vec::new();
    let read = opened.take(FILE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| cannot(&describe(&error)))?;
    if bytes.len() > FILE {
        return Err(cannot(&format!("it is longer than {FILE} bytes")));
    }
    Ok(bytes)
}

/// Starts a thread that nobody waits for.
///
/// # Errors
///
/// The system does not allow another one.
pub fn start_thread(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().spawn(run).map(drop)
}

/// That a program cannot start, since the system does not give it what it needs.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn cannot_start(error: io::Error) -> String {
    format!("cannot start: {}", describe(&error))
}

/// An error of the system without its number: "connection refused".
#[must_use]
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut letters = words.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}
