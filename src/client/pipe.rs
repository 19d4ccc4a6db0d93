//! Standard input, standard output and standard error, each on a thread of its own.
//!
//! Reading or writing them can block for ever, and nothing can interrupt it. A thread of our own
//! that is blocked does not keep the program from ending. Tokio's `stdin` also uses a thread, but
//! tokio waits for it at the end, so that the program would hang until somebody presses Enter.

use std::io::{self, BufRead, Read, Write};

use tokio::sync::mpsc::{Receiver, Sender, channel, error::SendError};
use tokio::sync::oneshot;

use crate::client::event::Event;
use crate::client::limits::Limits;
use crate::os::start_thread;

/// Reads standard input on a thread: an [`Event::Line`] or [`Event::Unfit`] for each line, and at
/// last [`Event::End`]. The queue is bounded, so that a pipe that is faster than the chat is slowed
/// down. An empty line is sent from a pipe, but a person has only pressed Enter, so it is left out.
///
/// # Errors
///
/// The system allows no more threads.
pub fn input(limits: &Limits, person: bool) -> io::Result<Receiver<Event>> {
    let (events, receiver) = channel(limits.queue);
    let most = limits.message;
    start_thread(move || {
        let _ = read(io::stdin().lock(), most, person, &events);
    })?;
    Ok(receiver)
}

/// Sends an event for each line of `input`. Stops with an error when the receiver is gone.
fn read(
    mut input: impl BufRead,
    most: usize,
    person: bool,
    events: &Sender<Event>,
) -> Result<(), SendError<Event>> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        match read_line(&mut input, &mut line, most) {
            Ok(0) => break,
            Ok(length) => match judge(&line, length, most) {
                Ok("") if person => {}
                Ok(text) => events.blocking_send(Event::Line(text.to_owned()))?,
                Err(why) => {
                    let why = format!("line {number} is {why}: not sent");
                    events.blocking_send(Event::Unfit(why))?;
                }
            },
            Err(error) => return events.blocking_send(Event::End(Some(error))),
        }
    }
    events.blocking_send(Event::End(None))
}

/// Reads one line into `line`, at most `most` bytes and the line's end. The rest of a longer line is
/// skipped. Returns how many bytes were read and skipped, which is 0 at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    const END: usize = 2; // \r\n
    line.clear();
    let mut start = input.by_ref().take((most + END) as u64);
    let read = start.read_until(b'\n', line)?;
    if read == most + END && line.last() != Some(&b'\n') {
        return Ok(read + input.skip_until(b'\n')?);
    }
    Ok(read)
}

/// The text of a line without its end, or why it cannot be sent. `length` is what [`read_line`]
/// returned.
fn judge(line: &[u8], length: usize, most: usize) -> Result<&str, String> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.len() > most {
        // The line's end is not part of its length. If the end was skipped, we do not know whether
        // it was \n or \r\n, and assume one byte. The last line of the input may have no end.
        let length = length.max(text.len() + 1) - 1;
        return Err(format!(
            "too long: {length} bytes of at most {most} (--max-message)"
        ));
    }
    std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned())
}

/// Writes to standard output or standard error, on a thread. The thread takes one piece of text at a
/// time. While it writes that, new lines wait here, and together they are the next piece.
#[derive(Debug)]
pub struct Output {
    waiting: String,
    /// Sends pieces to the thread. `None` when nothing can be written any more.
    pieces: Option<Sender<String>>,
    /// The thread sends its error here, and ends.
    error: oneshot::Receiver<io::Error>,
}

impl Output {
    /// Starts a thread that writes to `end`.
    ///
    /// # Errors
    ///
    /// The system allows no more threads.
    pub fn to(mut end: impl Write + Send + 'static) -> io::Result<Self> {
        let (pieces, mut receiver) = channel::<String>(1);
        let (tell, error) = oneshot::channel();
        start_thread(move || {
            while let Some(piece) = receiver.blocking_recv() {
                let written = end.write_all(piece.as_bytes()).and_then(|()| end.flush());
                if let Err(error) = written {
                    let _ = tell.send(error);
                    return;
                }
            }
        })?;
        Ok(Self::over(pieces, error))
    }

    /// Sends the pieces into a channel, from which a thread or a test takes them. `error` brings the
    /// error that ends the output.
    #[must_use]
    pub fn over(pieces: Sender<String>, error: oneshot::Receiver<io::Error>) -> Self {
        Self {
            waiting: String::new(),
            pieces: Some(pieces),
            error,
        }
    }

    /// Adds a line to what waits. It is sent to the thread by [`Output::write`].
    pub fn push(&mut self, line: &str) {
        if self.pieces.is_some() {
            self.waiting.push_str(line);
            self.waiting.push('\n');
        }
    }

    /// Bytes that wait for the thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Waits until the thread can take what waits here, and sends it. When nothing waits, this waits
    /// for an error. May be cancelled.
    ///
    /// # Errors
    ///
    /// Why nothing can be written any more. This is returned once; later calls wait for ever.
    pub async fn write(&mut self) -> io::Result<()> {
        let Some(pieces) = &self.pieces else {
            return std::future::pending().await;
        };
        let error = tokio::select! {
            Ok(place) = pieces.reserve(), if !self.waiting.is_empty() => {
                place.send(std::mem::take(&mut self.waiting));
                return Ok(());
            }
            error = &mut self.error => error,
        };
        self.pieces = None;
        self.waiting.clear();
        Err(error.unwrap_or_else(|_| io::ErrorKind::BrokenPipe.into()))
    }

    /// Waits until everything has been written. May be cancelled.
    ///
    /// # Errors
    ///
    /// Why nothing can be written any more.
    pub async fn finish(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.write().await?;
        }
        if self.pieces.is_none() {
            return Ok(());
        }
        // Without a sender the thread writes its last piece and ends, and `error` ends with it.
        self.pieces = None;
        (&mut self.error).await.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "End(None)";

    /// The events in words, since an error of the system equals no other.
    fn all(input: &[u8], most: usize, person: bool) -> Vec<String> {
        let (events, mut receiver) = channel(16);
        assert!(read(input, most, person, &events).is_ok());
        drop(events);
        let events = std::iter::from_fn(|| receiver.try_recv().ok());
        events.map(|event| format!("{event:?}")).collect()
    }

    fn line(text: &str) -> String {
        format!("Line({text:?})")
    }

    fn unfit(why: &str) -> String {
        format!("Unfit({why:?})")
    }

    #[test]
    fn line_ends_are_not_sent() {
        let lines = [line("a"), line("b"), line("last"), END.to_owned()];
        assert_eq!(all(b"a\r\nb\nlast", 9, false), lines);
        assert_eq!(all(b"", 9, false), [END]);
    }

    #[test]
    fn an_empty_line_is_a_line_but_for_a_person() {
        let lines = [line(""), line("a"), line(""), END.to_owned()];
        assert_eq!(all(b"\na\n\r\n", 9, false), lines);
        assert_eq!(all(b"\na\n\r\n", 9, true), [line("a"), END.to_owned()]);
    }

    #[test]
    fn a_bad_line_is_named_and_the_rest_is_kept() {
        let bad = unfit("line 2 is not UTF-8: not sent");
        let lines = [line("a"), bad, line("b"), END.to_owned()];
        assert_eq!(all(b"a\n\xff\nb", 9, false), lines);
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let long = |bytes: usize| {
            unfit(&format!(
                "line 1 is too long: {bytes} bytes of at most 3 (--max-message): not sent"
            ))
        };
        assert_eq!(
            all(b"123\r\nb", 3, false),
            [line("123"), line("b"), END.to_owned()]
        );
        for (input, bytes) in [
            (&b"1234\nb"[..], 4),
            (b"12345\nb", 5),
            (b"1234567890\nb", 10),
        ] {
            assert_eq!(
                all(input, 3, false),
                [long(bytes), line("b"), END.to_owned()]
            );
        }
    }
}
