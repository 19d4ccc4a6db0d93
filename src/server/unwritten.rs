//! What is to be written to a socket, in pieces that are shared with others and not copied.

use std::io::IoSlice;

use bytes::Bytes;

/// Pieces that are written in one call; more gain nothing.
const SLICES: usize = 64;

/// Pieces that are to be written; the first may be half written.
#[derive(Debug, Default)]
pub struct Unwritten(pub Vec<Bytes>);

impl Unwritten {
    /// Puts frames behind what is not written yet.
    pub fn push(&mut self, frames: impl IntoIterator<Item = Bytes>) {
        let frames = frames.into_iter().filter(|frame| !frame.is_empty());
        self.0.extend(frames);
    }

    /// Whether everything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Passes all that waits to `write`, or as much as is written in one call, and returns what that does.
    pub fn offer<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        match &self.0[..] {
            // One batch, and one with the reader's own lines in it: to fill the array below would cost more
            // than all else here.
            [one] => write(&[IoSlice::new(one)]),
            [one, two] => write(&[IoSlice::new(one), IoSlice::new(two)]),
            pieces => {
                // On the stack, so that nothing is kept for each connection.
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = pieces.len().min(SLICES);
                for (slice, bytes) in slices.iter_mut().zip(pieces) {
                    *slice = IoSlice::new(bytes);
                }
                write(&slices[..count])
            }
        }
    }

    /// Takes so many bytes off, since they were written.
    pub fn advance(&mut self, mut bytes: usize) {
        let mut whole = 0;
        for piece in &mut self.0 {
            if bytes < piece.len() {
                let _ = piece.split_to(bytes);
                break;
            }
            bytes -= piece.len();
            whole += 1;
        }
        self.0.drain(..whole);
    }
}
