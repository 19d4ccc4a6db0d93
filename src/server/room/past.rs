//! How a subscriber reads what was said before: what is kept in memory, and what only the store has.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::stored::Stored;
use super::{Batches, State, Subscription};
use crate::server::history::Bookmark;
use crate::server::store::Piece;

/// What was asked of the store for a reader.
#[derive(Debug)]
pub(super) struct Older {
    piece: oneshot::Receiver<Piece>,
    /// Where the lines end that were asked for.
    end: u64,
}

impl Subscription {
    /// Reads on in the past: first what only the store has, a piece at a time. A reader that has not
    /// subscribed is not waited for meanwhile. If it is cancelled, the next call takes the same piece.
    /// Returns no frames when there is nothing to write, and more to come.
    pub(super) async fn read_on(&mut self) -> Option<Vec<Bytes>> {
        let mut frames = self.read_past().await?;
        self.pass_over(&mut frames);
        Some(frames)
    }

    async fn read_past(&mut self) -> Option<Vec<Bytes>> {
        loop {
            if let Some(older) = &mut self.older {
                let piece = (&mut older.piece).await;
                let frames = self.bookmark.take(piece.ok(), older.end);
                self.older = None;
                return Some(frames);
            }
            let is_subscribed = self.batches.is_some();
            let mut state = self.room.state();
            let range = state.history.older(&self.bookmark, is_subscribed);
            let file = self.room.stored.as_ref().and_then(Stored::file);
            let (Some(range), Some(file)) = (range, file) else {
                return state.read_kept(&mut self.batches, &mut self.bookmark);
            };
            drop(state);
            self.older = Some(Box::new(Older {
                end: range.end,
                piece: file.read(self.bookmark.who, range, self.bookmark.uncounted()),
            }));
        }
    }

    /// What is said while this reader is in the past is kept as well, so it can read that there. Here
    /// it takes such lines out of the channel, where they would hold the room's space until it has come
    /// so far: half as much as it has read. So it is waited for, as is everybody who keeps up, but the
    /// others can go on at half of its speed, and it comes nearer to them. Notices are not kept, so it
    /// gets them now.
    fn pass_over(&mut self, frames: &mut Vec<Bytes>) {
        let Some(batches) = &mut self.batches else {
            return;
        };
        while self.bookmark.may_pass_over()
            && let Ok(batch) = batches.try_recv()
        {
            self.bookmark.pass_over(&batch, frames);
        }
    }
}

impl State {
    /// What a newcomer hears. `None` if it has so far to go in the past that nobody waits for it.
    pub(super) fn hear(&mut self, bookmark: &mut Bookmark) -> Option<Batches> {
        match self.history.older(bookmark, false) {
            Some(_) => None,
            None => self.subscribe(bookmark),
        }
    }

    /// What a reader hears behind the past, which is what was said until now. `None` when the room
    /// is closed.
    fn subscribe(&mut self, bookmark: &mut Bookmark) -> Option<Batches> {
        self.append();
        self.history.subscribe(bookmark);
        self.readers.subscribe()
    }

    /// Reads on in what is kept. After a pause the reader subscribes again first, under the same lock,
    /// so that nothing is between the past and what is new, and nothing comes twice.
    fn read_kept(
        &mut self,
        batches: &mut Option<Batches>,
        bookmark: &mut Bookmark,
    ) -> Option<Vec<Bytes>> {
        if batches.is_none() {
            *batches = self.subscribe(bookmark);
        }
        let frames = self.history.read(bookmark);
        let more = !frames.is_empty() || batches.is_some();
        more.then_some(frames)
    }
}
