//! Parts of a batch: what several servers share goes through a log in messages that have a longest length,
//! and some of it may have been there before.

use std::sync::Arc;

use super::{Audience, BatchMut};
use crate::server::frame;
use crate::server::sessions::Author;

impl BatchMut {
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
