//! What the system says to a program: signals that ask it to end, errors, and files that a flag names.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::path::Path;
use std::task::Poll;

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

/// The bytes of a file that a flag names: a certificate, a key, tokens.
///
/// # Errors
///
/// One line that names the file and says why it cannot be read. That also is so when it is no file
/// in the narrow sense, since reading a pipe could take for ever, or one of more than 1 MiB.
pub fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    const MOST: u64 = 1024 * 1024;
    let cannot = |why: &str| format!("cannot read {}: {why}", path.display());
    // A pipe is not even opened, since that waits for its other end.
    let kind = path.metadata().map_err(|error| cannot(&describe(&error)))?;
    if !kind.is_file() {
        return Err(cannot("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes))
        .map_err(|error| cannot(&describe(&error)))?;
    if bytes.len() as u64 > MOST {
        return Err(cannot("it has more than 1 MiB"));
    }
    Ok(bytes)
}
