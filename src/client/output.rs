//! What comes out of the chat: standard output, written on a thread of its own, so that a reader
//! that stops does not keep the client from noticing anything else.

use std::io::{self, Write};

use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// The way to standard output. It takes one piece of text at a time, so whoever writes gathers
/// while the last piece is on its way.
#[derive(Debug)]
pub struct Output {
    pieces: mpsc::Sender<String>,
    ended: oneshot::Receiver<()>,
}

/// The reader of standard output is gone.
#[derive(Debug)]
pub struct ReaderGone;

impl Output {
    /// Starts the thread.
    #[must_use]
    pub fn open() -> Self {
        let (pieces, mut receiver) = mpsc::channel::<String>(1);
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let mut out = io::stdout().lock();
            while let Some(text) = receiver.blocking_recv() {
                if out
                    .write_all(text.as_bytes())
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    break;
                }
            }
            drop(end);
        });
        Self { pieces, ended }
    }

    /// Hands over all of `text` once the last piece is written. May be cancelled: `text` is
    /// taken only at the end.
    ///
    /// # Errors
    ///
    /// The reader is gone.
    pub async fn write(&self, text: &mut String) -> Result<(), ReaderGone> {
        let place = self.pieces.reserve().await.map_err(|_| ReaderGone)?;
        place.send(std::mem::take(text));
        Ok(())
    }

    /// Waits until the reader is gone, which is noticed at a write.
    pub async fn reader_gone(&self) {
        self.pieces.closed().await;
    }

    /// Writes the rest and waits until all of it has been taken.
    pub async fn finish(self, mut text: String) {
        if self.write(&mut text).await.is_ok() {
            drop(self.pieces);
            let _ = self.ended.await;
        }
    }
}
