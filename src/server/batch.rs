//! Lines encoded once as WebSocket frames, shared by every receiver.
//!
//! A server's frames are not masked (RFC 6455 5.1), so a frame is the same for all: it is
//! encoded when the line arrives and never again. What travels through the room is a reference
//! to these bytes.

use std::ops::Range;

use bytes::Bytes;

use crate::protocol::line;
use crate::server::frame::text_frame;

/// Lines said at about the same time, ready to be written to anybody's socket.
#[derive(Debug)]
pub struct Batch {
    /// One unmasked text frame for each line.
    frames: Bytes,
    /// Who said which part of the frames.
    parts: Vec<Part>,
    /// How many lines.
    pub lines: u64,
    /// How many lines the room had had before.
    pub before: u64,
    /// How many batches the room had had before.
    pub number: u64,
}

/// Frames of one speaker in a row.
#[derive(Debug)]
struct Part {
    speaker: u64,
    bytes: Range<usize>,
}

impl Batch {
    /// Bytes of all its frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// Adds the frames of everyone but `speaker` to `frames`, uncopied and in as few pieces as can
    /// be.
    pub fn frames_but_of(&self, speaker: u64, frames: &mut Vec<Bytes>) {
        let mut start = 0;
        let own = self
            .parts
            .iter()
            .filter(|part| part.speaker == speaker)
            .map(|part| &part.bytes);
        for end_of_others in own.chain([&(self.bytes()..0)]) {
            if start < end_of_others.start {
                frames.push(self.frames.slice(start..end_of_others.start));
            }
            start = end_of_others.end;
        }
    }
}

/// A batch that lines are still added to.
#[derive(Debug, Default)]
pub struct BatchMut {
    frames: Vec<u8>,
    parts: Vec<Part>,
    lines: u64,
}

impl BatchMut {
    /// Bytes of all its frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds what `speaker` said.
    pub fn add(&mut self, speaker: u64, lines: &Lines<'_>) {
        let start = self.len();
        self.frames.extend_from_slice(&lines.frames);
        self.parts.push(Part {
            speaker,
            bytes: start..self.len(),
        });
        self.lines += lines.count;
    }

    /// The batch as it is now, its number, and how many lines the room had had before it.
    #[must_use]
    pub fn freeze(self, number: u64, before: u64) -> Batch {
        let Self {
            frames,
            parts,
            lines,
        } = self;
        Batch {
            frames: frames.into(),
            parts,
            lines,
            before,
            number,
        }
    }
}

/// Lines on their way into a [`Batch`], and into the log as the same text.
#[derive(Debug)]
pub struct Lines<'a> {
    name: &'a str,
    /// One unmasked text frame for each line.
    pub frames: Vec<u8>,
    /// `Received from NAME: text` for each line.
    pub log: Vec<u8>,
    /// How many lines.
    pub count: u64,
}

impl<'a> Lines<'a> {
    /// No lines yet, of the sender called `name`.
    #[must_use]
    pub fn of(name: &'a str) -> Self {
        Self {
            name,
            frames: Vec::new(),
            log: Vec::new(),
            count: 0,
        }
    }

    /// Adds one line, made safe to show.
    pub fn push(&mut self, line: &str) {
        let text = line::clean(line);
        let parts = [self.name, ": ", &text];
        text_frame(&mut self.frames, &parts);
        for part in ["Received from "].iter().chain(&parts).chain(&["\n"]) {
            self.log.extend_from_slice(part.as_bytes());
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_a_frame_of_its_own() {
        let mut batch = BatchMut::default();
        let mut expected = Vec::new();
        for (speaker, text) in [(1, "a"), (2, "b"), (2, "c"), (1, "d"), (3, "e")] {
            let mut lines = Lines::of("n");
            lines.push(text);
            batch.add(speaker, &lines);
            expected.push((speaker, lines.frames));
        }
        let batch = batch.freeze(2, 4);
        assert_eq!((batch.lines, batch.before), (5, 4));
        for (speaker, pieces) in [(1, 2), (2, 2), (3, 1), (4, 1)] {
            let mut frames = Vec::new();
            batch.frames_but_of(speaker, &mut frames);
            let others = expected.iter().filter(|(from, _)| *from != speaker);
            let others: Vec<_> = others.flat_map(|(_, frame)| frame.clone()).collect();
            assert_eq!((frames.concat(), frames.len()), (others, pieces));
        }
    }

    #[test]
    fn a_line_carries_its_senders_name() {
        let mut lines = Lines::of("127.0.0.1:1");
        lines.push("hi");
        lines.push("\x1b");
        assert_eq!(&lines.frames[2..17], b"127.0.0.1:1: hi");
        let log = "Received from 127.0.0.1:1: hi\nReceived from 127.0.0.1:1: \u{FFFD}\n";
        assert_eq!(lines.log, log.as_bytes());
        assert_eq!(lines.count, 2);
    }
}
