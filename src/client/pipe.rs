//! Standard input, standard output and standard error, each on a thread of its own.
//!
//! Reading and writing them can take for ever, and nothing can interrupt it. A thread that is
//! stuck is left behind at the end of the program; tokio's own are waited for, so that a program
//! can hang at its end until somebody presses Enter.

use std::io::{self, BufRead, Read, Write};

use tokio::sync::mpsc::{Receiver, Sender, channel, error::SendError};
use tokio::sync::oneshot;

use crate::client::event::Event;
use crate::client::limits::Limits;
use crate::os;

/// Lines from standard input as they come: [`Event::Line`], [`Event::Unfit`], at last
/// [`Event::End`]. The queue is bounded: a pipe that is faster than the chat is slowed down. A
/// person's empty line is left out; a pipe's is a line like any other.
#[must_use]
pub fn input(limits: &Limits, person: bool) -> Receiver<Event> {
    let (events, receiver) = channel(limits.queue);
    let most = limits.message;
    std::thread::spawn(move || {
        let _ = read(io::stdin().lock(), most, person, &events);
    });
    receiver
}

/// Ends early when nobody wants to know any more.
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
            Err(error) => {
                let why = format!("cannot read standard input: {}", os::describe(&error));
                events.blocking_send(Event::Unfit(why))?;
                break;
            }
        }
    }
    events.blocking_send(Event::End)
}

/// Reads one line into `line`, but no more than `most` bytes and its end; the rest of a longer
/// one is passed over. Returns how many bytes there were, 0 at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    const END: usize = 2; // \r\n
    line.clear();
    let start = input.by_ref().take((most + END) as u64);
    let read = { start }.read_until(b'\n', line)?;
    if read == most + END && line.last() != Some(&b'\n') {
        return Ok(read + input.skip_until(b'\n')?);
    }
    Ok(read)
}

/// The text of a line without its end, or why it cannot be sent.
fn judge(line: &[u8], length: usize, most: usize) -> Result<&str, String> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.len() > most {
        // The end of a line that was passed over is not looked at: it counts as one byte.
        let length = length.max(text.len() + 1) - 1;
        return Err(format!(
            "too long: {length} bytes of at most {most} (--max-message)"
        ));
    }
    std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned())
}

/// The way to standard output or standard error. The thread takes one piece of text at a time;
/// what comes meanwhile waits here and is the next piece.
#[derive(Debug)]
pub struct Output {
    waiting: String,
    /// To the thread; `None` when nothing can be written any more.
    pieces: Option<Sender<String>>,
    /// Why the thread could not go on.
    error: oneshot::Receiver<io::Error>,
}

impl Output {
    /// Starts a thread that writes to `end`.
    #[must_use]
    pub fn to(mut end: impl Write + Send + 'static) -> Self {
        let (pieces, mut receiver) = channel::<String>(1);
        let (tell, error) = oneshot::channel();
        std::thread::spawn(move || {
            while let Some(piece) = receiver.blocking_recv() {
                let written = end.write_all(piece.as_bytes()).and_then(|()| end.flush());
                if let Err(error) = written {
                    let _ = tell.send(error);
                    return;
                }
            }
        });
        Self::over(pieces, error)
    }

    /// Gives the pieces to whoever has the other ends of these channels.
    #[must_use]
    pub fn over(pieces: Sender<String>, error: oneshot::Receiver<io::Error>) -> Self {
        Self {
            waiting: String::new(),
            pieces: Some(pieces),
            error,
        }
    }

    /// Puts a line behind what waits; [`Output::write`] brings it on its way.
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

    /// Waits until all that waits is on its way; when nothing waits, for an error. May be
    /// cancelled.
    ///
    /// # Errors
    ///
    /// Nothing can be written any more, and why. Said once.
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
    /// Nothing can be written any more, and why.
    pub async fn finish(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.write().await?;
        }
        if self.pieces.is_none() {
            return Ok(());
        }
        // The thread ends when nothing more can come.
        self.pieces = None;
        (&mut self.error).await.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "End";

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
