//! Lines encoded once as WebSocket frames, shared by every receiver.
//!
//! A server's frames are not masked (RFC 6455 5.1), so a frame is the same for all: it is
//! encoded when the line arrives and never again. What travels through the room is a reference
//! to these bytes.

mod pieces;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::protocol::line;
use crate::server::frame::{self, text_frame};
use crate::server::identity::Identity;
use crate::server::sessions::{Author, Subscriber};

/// Lines said at about the same time, ready to be written to anybody's socket.
#[derive(Debug)]
pub struct Batch {
    /// One unmasked text frame for each line.
    frames: Bytes,
    /// Who gets which part of the frames.
    parts: Vec<Part>,
    /// How many lines were said in the room before these.
    pub position: u64,
    /// The position of the first of them, as clients are told it; the next ones count up.
    label: u64,
    /// How many lines.
    pub lines: u64,
    /// When they were said, in milliseconds of Unix time.
    time: u64,
    /// The encoded frame `@POSITION MILLISECONDS` of the first line.
    mark: Bytes,
    /// What the batch takes of the room's space. It is given back when the batch is dropped: the
    /// channel keeps it until the last subscriber has received it, and each of those keeps it until
    /// it has put the frames behind what it writes.
    _space: Option<OwnedSemaphorePermit>,
}

/// Which connections get some frames.
#[derive(Clone, Copy, Debug)]
pub enum Audience {
    /// All but those of the one that said them.
    AllBut(u64),
    /// Those that entered before this one.
    Before(u64),
    /// This one.
    Only(u64),
}

impl Audience {
    fn has(self, who: Subscriber) -> bool {
        match self {
            Self::AllBut(author) => who.author != author,
            Self::Before(newcomer) => who.connection < newcomer,
            Self::Only(listener) => who.connection == listener,
        }
    }
}

/// Frames in a row that are for the same connections.
#[derive(Debug)]
struct Part {
    audience: Audience,
    bytes: Range<usize>,
    lines: u64,
}

impl Batch {
    /// Bytes of all its frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// Adds the frames that are for this subscriber to `frames`, uncopied and in as few pieces as
    /// can be. Returns how many lines were left out, because they are the subscriber's own.
    pub fn frames_for(&self, who: Subscriber, frames: &mut Vec<Bytes>) -> u64 {
        let (mut start, mut first, mut line, mut own_lines) = (0, 0, 0, 0);
        let mut push = |bytes: Range<usize>, lines: Range<u64>| {
            if who.marked && !lines.is_empty() {
                frames.push(match lines.start {
                    0 => self.mark.clone(),
                    line => frame::mark(self.label + line, self.time),
                });
            }
            if !bytes.is_empty() {
                frames.push(self.frames.slice(bytes));
            }
        };
        for part in &self.parts {
            let before = line;
            line += part.lines;
            if !part.audience.has(who) {
                push(start..part.bytes.start, first..before);
                (start, first) = (part.bytes.end, line);
                own_lines += part.lines;
            }
        }
        push(start..self.bytes(), first..line);
        own_lines
    }
}

/// A batch that lines are still added to.
#[derive(Debug, Default)]
pub struct BatchMut {
    frames: Vec<u8>,
    parts: Vec<Part>,
    /// Who said each part.
    authors: Vec<Arc<Author>>,
    lines: u64,
    space: Option<OwnedSemaphorePermit>,
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

    /// Adds lines of this author, and the space that they take.
    pub fn add(&mut self, author: &Arc<Author>, lines: &Lines, space: OwnedSemaphorePermit) {
        let audience = lines.audience.unwrap_or(Audience::AllBut(author.id));
        self.append(author, audience, &lines.frames, lines.count);
        self.put(Some(space));
    }

    /// Gives it the space that it takes.
    pub fn put(&mut self, space: Option<OwnedSemaphorePermit>) {
        match (&mut self.space, space) {
            (Some(sum), Some(space)) => sum.merge(space),
            (None, space) => self.space = space,
            (Some(_), None) => {}
        }
    }

    fn append(&mut self, author: &Arc<Author>, audience: Audience, frames: &[u8], lines: u64) {
        let start = self.len();
        self.frames.extend_from_slice(frames);
        self.parts.push(Part {
            audience,
            bytes: start..self.len(),
            lines,
        });
        self.authors.push(author.clone());
        self.lines += lines;
    }

    /// The batch as it is now, said at `time` behind the `position` lines before it, of which clients
    /// are told as `label`; and who said each part.
    #[must_use]
    pub fn freeze(self, position: u64, label: u64, time: u64) -> (Batch, Vec<Arc<Author>>) {
        let batch = Batch {
            frames: self.frames.into(),
            parts: self.parts,
            position,
            label,
            lines: self.lines,
            time,
            mark: frame::mark(label, time),
            _space: self.space,
        };
        (batch, self.authors)
    }
}

/// Lines on their way into a [`Batch`], and into the log as the same text.
#[derive(Debug, Default)]
pub struct Lines {
    /// One unmasked text frame for each line.
    pub frames: Vec<u8>,
    /// `Received from A: text` for each line.
    pub log: Vec<u8>,
    /// How many lines. A notice of the server's own counts as none.
    pub count: u64,
    /// Who gets them, if it is not everybody but the one that speaks.
    pub audience: Option<Audience>,
}

impl Lines {
    /// Adds one line of this sender, made safe to show.
    pub fn push(&mut self, from: &Identity, line: &str) {
        let text = line::clean(line);
        let Identity { name, label, place } = from;
        text_frame(&mut self.frames, &[name, ": ", &text]);
        let parts = ["Received from ", label, place, ": ", &text, "\n"];
        self.log.reserve(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.log.extend_from_slice(part.as_bytes());
        }
        self.count += 1;
    }

    /// A line of the server's own.
    #[must_use]
    pub fn notice(text: &str, audience: Option<Audience>) -> Self {
        let mut lines = Self {
            audience,
            ..Self::default()
        };
        text_frame(&mut lines.frames, &["* ", text]);
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn nobody_gets_a_frame_of_its_own() {
        let space = Arc::new(Semaphore::new(5));
        let mut batch = BatchMut::default();
        let mut expected = Vec::new();
        let name = Identity::of("n");
        for (speaker, text) in [(1, "a"), (2, "b"), (2, "c"), (1, "d"), (3, "e")] {
            let mut lines = Lines::default();
            lines.push(&name, text);
            let space = space.clone().try_acquire_owned().unwrap();
            batch.add(&Author::connection(speaker), &lines, space);
            expected.push((speaker, lines.frames));
        }
        let (batch, _) = batch.freeze(4, 4, 7);
        assert_eq!((batch.lines, batch.position), (5, 4));
        for (speaker, own, marks) in [
            (1, 2, &[5, 8][..]),
            (2, 2, &[4, 7]),
            (3, 1, &[4]),
            (4, 0, &[4]),
        ] {
            let others = expected.iter().filter(|(from, _)| *from != speaker);
            let others: Vec<_> = others.flat_map(|(_, frame)| frame.clone()).collect();
            let mut who = Subscriber {
                connection: 9,
                author: speaker,
                marked: false,
            };
            let mut frames = Vec::new();
            assert_eq!(batch.frames_for(who, &mut frames), own);
            assert_eq!((frames.concat(), frames.len()), (others, marks.len()));
            // Whoever asks is told where each piece begins.
            who.marked = true;
            let mut marked = Vec::new();
            assert_eq!(batch.frames_for(who, &mut marked), own);
            let expected = marks.iter().zip(frames).flat_map(|(position, piece)| {
                let mark = frame::text_of(&[&format!("@{position} 7")]);
                [mark, piece]
            });
            assert_eq!(marked, expected.collect::<Vec<_>>());
        }
        assert_eq!(space.available_permits(), 0);
        drop(batch);
        assert_eq!(space.available_permits(), 5);
    }

    #[test]
    fn a_line_carries_its_senders_name() {
        let mut identity = Identity::of("127.0.0.1:1");
        let mut lines = Lines::default();
        lines.push(&identity, "hi");
        lines.push(&identity, "\x1b");
        assert_eq!(&lines.frames[2..17], b"127.0.0.1:1: hi");
        let log = "Received from 127.0.0.1:1: hi\nReceived from 127.0.0.1:1: \u{FFFD}\n";
        assert_eq!(lines.log, log.as_bytes());
        assert_eq!(lines.count, 2);
        identity.name = "ana".to_owned();
        identity.label = "127.0.0.1:1 (ana)".to_owned();
        identity.place = " in rust".to_owned();
        let mut lines = Lines::default();
        lines.push(&identity, "hi");
        assert_eq!(&lines.frames[2..], b"ana: hi");
        let log = "Received from 127.0.0.1:1 (ana) in rust: hi\n";
        assert_eq!(lines.log, log.as_bytes());
    }
}
