//! Lines encoded once as WebSocket frames, shared by every receiver.
//!
//! A server's frames are not masked (RFC 6455 5.1), so a frame is the same for all: it is
//! encoded when the line arrives and never again. What travels through the room is a reference
//! to these bytes.

use std::ops::Range;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::protocol::line;
use crate::server::frame::text_frame;
use crate::server::identity::Identity;

/// Lines said at about the same time, ready to be written to anybody's socket.
#[derive(Debug)]
pub struct Batch {
    /// One unmasked text frame for each line.
    frames: Bytes,
    /// Who gets which part of the frames.
    parts: Vec<Part>,
    /// How many lines were said in the room before these.
    pub position: u64,
    /// How many lines.
    pub lines: u64,
    /// What the batch takes of the room's space. It is given back when the batch is dropped: the
    /// channel keeps it until the last subscriber has received it, and each of those keeps it until
    /// it has put the frames behind what it writes.
    _space: Option<OwnedSemaphorePermit>,
}

/// Which connections get some frames, by their numbers in the order in which they entered.
#[derive(Clone, Copy, Debug)]
pub enum Audience {
    /// All but the one that said them.
    AllBut(u64),
    /// Those that entered before this one.
    Before(u64),
    /// This one.
    Only(u64),
}

impl Audience {
    fn has(self, connection: u64) -> bool {
        match self {
            Self::AllBut(speaker) => connection != speaker,
            Self::Before(newcomer) => connection < newcomer,
            Self::Only(listener) => connection == listener,
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

    /// Adds the frames that are for this connection to `frames`, uncopied and in as few pieces as
    /// can be. Returns how many lines the others are: its own.
    pub fn frames_for(&self, connection: u64, frames: &mut Vec<Bytes>) -> u64 {
        let (mut start, mut own_lines) = (0, 0);
        for own in self
            .parts
            .iter()
            .filter(|part| !part.audience.has(connection))
        {
            if start < own.bytes.start {
                frames.push(self.frames.slice(start..own.bytes.start));
            }
            start = own.bytes.end;
            own_lines += own.lines;
        }
        if start < self.bytes() {
            frames.push(self.frames.slice(start..));
        }
        own_lines
    }
}

/// A batch that lines are still added to.
#[derive(Debug, Default)]
pub struct BatchMut {
    frames: Vec<u8>,
    parts: Vec<Part>,
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

    /// Adds lines for these connections, and the space that they take.
    pub fn add(&mut self, audience: Audience, lines: &Lines<'_>, space: OwnedSemaphorePermit) {
        let start = self.len();
        self.frames.extend_from_slice(&lines.frames);
        self.parts.push(Part {
            audience,
            bytes: start..self.len(),
            lines: lines.count,
        });
        self.lines += lines.count;
        match &mut self.space {
            Some(sum) => sum.merge(space),
            None => self.space = Some(space),
        }
    }

    /// The batch as it is now, behind the `position` lines that were said before it.
    #[must_use]
    pub fn freeze(self, position: u64) -> Batch {
        Batch {
            frames: self.frames.into(),
            parts: self.parts,
            position,
            lines: self.lines,
            _space: self.space,
        }
    }
}

/// Lines on their way into a [`Batch`], and into the log as the same text.
#[derive(Debug)]
pub struct Lines<'a> {
    from: &'a Identity,
    /// One unmasked text frame for each line.
    pub frames: Vec<u8>,
    /// `Received from A: text` for each line.
    pub log: Vec<u8>,
    /// How many lines. A notice of the server's own counts as none.
    pub count: u64,
    /// Who gets them, if it is not everybody but the one that speaks.
    pub audience: Option<Audience>,
}

impl<'a> Lines<'a> {
    /// No lines yet, of this sender.
    #[must_use]
    pub fn of(from: &'a Identity) -> Self {
        Self {
            from,
            frames: Vec::new(),
            log: Vec::new(),
            count: 0,
            audience: None,
        }
    }

    /// Adds one line, made safe to show.
    pub fn push(&mut self, line: &str) {
        let text = line::clean(line);
        let Identity { name, label, place } = self.from;
        text_frame(&mut self.frames, &[name, ": ", &text]);
        for part in ["Received from ", label, place, ": ", &text, "\n"] {
            self.log.extend_from_slice(part.as_bytes());
        }
        self.count += 1;
    }

    /// A line of the server's own.
    #[must_use]
    pub fn notice(text: &str, audience: Option<Audience>) -> Lines<'static> {
        static SERVER: Identity = Identity::nobody();
        let mut lines = Lines::of(&SERVER);
        lines.audience = audience;
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
            let mut lines = Lines::of(&name);
            lines.push(text);
            batch.add(
                Audience::AllBut(speaker),
                &lines,
                space.clone().try_acquire_owned().unwrap(),
            );
            expected.push((speaker, lines.frames));
        }
        let batch = batch.freeze(4);
        assert_eq!((batch.lines, batch.position), (5, 4));
        for (speaker, own, pieces) in [(1, 2, 2), (2, 2, 2), (3, 1, 1), (4, 0, 1)] {
            let mut frames = Vec::new();
            assert_eq!(batch.frames_for(speaker, &mut frames), own);
            let others = expected.iter().filter(|(from, _)| *from != speaker);
            let others: Vec<_> = others.flat_map(|(_, frame)| frame.clone()).collect();
            assert_eq!((frames.concat(), frames.len()), (others, pieces));
        }
        assert_eq!(space.available_permits(), 0);
        drop(batch);
        assert_eq!(space.available_permits(), 5);
    }

    #[test]
    fn a_line_carries_its_senders_name() {
        let mut identity = Identity::of("127.0.0.1:1");
        let mut lines = Lines::of(&identity);
        lines.push("hi");
        lines.push("\x1b");
        assert_eq!(&lines.frames[2..17], b"127.0.0.1:1: hi");
        let log = "Received from 127.0.0.1:1: hi\nReceived from 127.0.0.1:1: \u{FFFD}\n";
        assert_eq!(lines.log, log.as_bytes());
        assert_eq!(lines.count, 2);
        identity.name = "ana".to_owned();
        identity.label = "127.0.0.1:1 (ana)".to_owned();
        identity.place = " in rust".to_owned();
        let mut lines = Lines::of(&identity);
        lines.push("hi");
        assert_eq!(&lines.frames[2..], b"ana: hi");
        let log = "Received from 127.0.0.1:1 (ana) in rust: hi\n";
        assert_eq!(lines.log, log.as_bytes());
    }
}
