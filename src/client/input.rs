//! What goes into the chat: standard input, read on a thread of its own.
//!
//! `tokio::io::stdin` reads on a thread that the runtime waits for, so a program can hang at its
//! end until somebody presses Enter. This thread is left behind instead.

use std::io::{self, BufRead, Read};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::client::limits::Limits;

/// One line of input.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// To be sent.
    Line(String),
    /// Not sendable: its number, counted from 1, and why.
    Bad(u64, &'static str),
    /// Standard input cannot be read any more, and why.
    Broken(String),
}

/// Lines from standard input, as they come. The queue is bounded: a pipe that is faster than
/// the chat is slowed down. The end of the input is the end of the queue.
#[must_use]
pub fn lines(limits: &Limits) -> Receiver<Typed> {
    let (sender, receiver) = channel(limits.queue);
    let most = limits.message;
    std::thread::spawn(move || read(io::stdin().lock(), most, &sender));
    receiver
}

/// Reads until the end of the input or of the program.
fn read(mut input: impl BufRead, most: usize, lines: &Sender<Typed>) {
    let mut line = Vec::new();
    for number in 1.. {
        let typed = match next(&mut input, &mut line, most) {
            Ok(true) => typed(number, &line, most),
            Ok(false) => return,
            Err(error) => Some(Typed::Broken(crate::os::plain(&error))),
        };
        let last = matches!(typed, Some(Typed::Broken(_)));
        if typed.is_some_and(|typed| lines.blocking_send(typed).is_err()) || last {
            return;
        }
    }
}

/// Reads one line into `line`, without its `\n`, but no more than `most` bytes and a few of it.
/// `false` at the end of the input.
fn next(input: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    const ENDING: usize = 2;
    line.clear();
    input
        .by_ref()
        .take((most + ENDING) as u64)
        .read_until(b'\n', line)?;
    if line.is_empty() {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() == most + ENDING {
        input.skip_until(b'\n')?;
    }
    Ok(true)
}

/// What a line means; nothing when it is empty.
fn typed(number: u64, line: &[u8], most: usize) -> Option<Typed> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > most {
        return Some(Typed::Bad(number, "too long"));
    }
    match std::str::from_utf8(line) {
        Ok("") => None,
        Ok(text) => Some(Typed::Line(text.to_owned())),
        Err(_) => Some(Typed::Bad(number, "not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], most: usize) -> Vec<Typed> {
        let (sender, mut receiver) = channel(16);
        read(input, most, &sender);
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    fn line(text: &str) -> Typed {
        Typed::Line(text.to_owned())
    }

    #[test]
    fn line_ends_and_empty_lines_are_not_sent() {
        assert_eq!(
            all(b"a\r\n\n\r\nb\nlast", 9),
            [line("a"), line("b"), line("last")]
        );
        assert_eq!(all(b"", 9), []);
    }

    #[test]
    fn a_bad_line_is_named_and_the_rest_is_kept() {
        assert_eq!(
            all(b"a\n\xff\nb", 9),
            [line("a"), Typed::Bad(2, "not UTF-8"), line("b")]
        );
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let long = Typed::Bad(1, "too long");
        assert_eq!(all(b"123\r\nb", 3), [line("123"), line("b")]);
        assert_eq!(all(b"1234\nb", 3), [long, line("b")]);
        assert_eq!(
            all(b"1234567890\nb", 3),
            [Typed::Bad(1, "too long"), line("b")]
        );
        assert_eq!(all(b"1234567890", 3), [Typed::Bad(1, "too long")]);
    }
}
