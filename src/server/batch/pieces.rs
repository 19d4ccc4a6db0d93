//! The parts of a batch, one by one: history and stores look at them, and what several servers share goes
//! through a log in messages that have a longest length, and some of it may have been there before.

use std::sync::Arc;

use bytes::Bytes;

use super::{Audience, Batch, BatchMut};
use crate::server::frame;
use crate::server::sessions::{Author, Subscriber};

impl Batch {
    /// Adds the notices that are for this subscriber to `frames`, without the lines. Returns how many
    /// of those are its own.
    pub fn notices_for(&self, who: Subscriber, frames: &mut Vec<Bytes>) -> u64 {
        let mut own_lines = 0;
        for part in &self.parts {
            if !part.audience.has(who) {
                own_lines += part.lines;
            } else if part.lines == 0 {
                frames.push(self.frames.slice(part.bytes.clone()));
            }
        }
        own_lines
    }

    /// The frames of each of its authors in turn, and how many lines they are.
    pub fn parts(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let parts = self.parts.iter();
        parts.map(|part| (&self.frames[part.bytes.clone()], part.lines))
    }
}

impl BatchMut {
    /// How many lines.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Who said each part, its frames, and how many lines they are.
    pub fn said(&self) -> impl Iterator<Item = (&Arc<Author>, &[u8], u64)> {
        let parts = self.authors.iter().zip(&self.parts);
        parts.map(|(author, part)| (author, &self.frames[part.bytes.clone()], part.lines))
    }

    /// Adds lines that another server has said, or some that were taken from a batch.
    pub fn push(&mut self, author: &Arc<Author>, frames: &[u8], lines: u64) {
        self.append(author, Audience::AllBut(author.id), frames, lines);
    }

    /// Takes parts from its beginning, with the space that each of them has taken: as many as fit into
    /// so many lines and bytes, of which each part needs some more, but at least one.
    #[must_use]
    pub fn take(
        &mut self,
        lines: u64,
        bytes: usize,
        more: usize,
        space_for: impl Fn(usize) -> usize,
    ) -> Self {
        let (mut fits, mut all) = (0, 0);
        for (n, part) in self.parts.iter().enumerate() {
            all += part.lines;
            if n > 0 && (all > lines || part.bytes.end + (n + 1) * more > bytes) {
                break;
            }
            fits = n + 1;
        }
        if fits == self.parts.len() {
            return std::mem::take(self);
        }
        let mut first = Self::default();
        let mut space = 0;
        for (author, part) in self.authors.iter().zip(&self.parts).take(fits) {
            let frames = &self.frames[part.bytes.clone()];
            first.append(author, part.audience, frames, part.lines);
            space += space_for(frames.len());
        }
        first.space = self.space.as_mut().and_then(|all| all.split(space));
        let mut n = 0;
        self.keep(|_, _| {
            n += 1;
            (n > fits).then_some(0)
        });
        first
    }

    /// Keeps of each part, which has so many lines, what is behind so many of them, or nothing of it. It
    /// gives back no space.
    pub fn keep(&mut self, mut skip: impl FnMut(&Author, u64) -> Option<u64>) {
        let all = std::mem::take(self);
        for (author, part) in all.authors.iter().zip(&all.parts) {
            if let Some(skip) = skip(author, part.lines) {
                let frames = &all.frames[part.bytes.clone()];
                let frames = &frames[frame::end_of(frames, skip)..];
                if !frames.is_empty() {
                    self.append(author, part.audience, frames, part.lines - skip);
                }
            }
        }
        self.space = all.space;
    }
}
