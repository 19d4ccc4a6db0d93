//! What the system says to a program: signals that ask it to end, errors, and who else may read a
//! file.

use std::fs::OpenOptions;
use std::future::poll_fn;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::task::Poll;

use rustix::fs::OFlags;
use rustix::process::geteuid;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a program to end: Ctrl+C, `kill`, and a terminal that is gone.
///
/// They no longer end the program by themselves. The default listens to none.
#[derive(Debug, Default)]
pub struct Stop(Vec<Signal>);

impl Stop {
    /// Takes the signals over.
    ///
    /// # Errors
    ///
    /// The system does not allow it.
    pub fn listen() -> io::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        kinds
            .into_iter()
            .map(signal)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits for the next of them. May be cancelled.
    pub async fn asked(&mut self) {
        poll_fn(|cx| {
            let mut signals = self.0.iter_mut();
            let came = signals.any(|signal| signal.poll_recv(cx).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Reads a file whose content is a secret, such as a token or a key, and which has at most
/// `most` bytes. As `ssh` does it, a file of ours that anybody else may read is refused. One that
/// belongs to somebody else may be shared with a group.
///
/// # Errors
///
/// One line that names the file and says why not and what to do.
pub fn read_secret(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    let file = path.display();
    let cannot = |why: &io::Error| format!("cannot read {file}: {}", describe(why));
    // Opening a named pipe would wait for somebody who writes to it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let opened = opened.map_err(|error| cannot(&error))?;
    // Of what was opened, and not of what has the name by now.
    let found = opened.metadata().map_err(|error| cannot(&error))?;
    if !found.is_file() {
        return Err(format!("cannot read {file}: it is not a regular file"));
    }
    let others = if found.uid() == geteuid().as_raw() {
        0o077
    } else {
        0o007
    };
    if found.mode() & others != 0 {
        return Err(format!(
            "{file} holds a secret and others can read it: chmod 600 {file}"
        ));
    }
    let mut bytes = Vec::new();
    let read = opened.take(most as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| cannot(&error))?;
    if bytes.len() > most {
        return Err(format!(
            "cannot read {file}: it is longer than {most} bytes"
        ));
    }
    Ok(bytes)
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
