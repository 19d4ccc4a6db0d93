//! What takes any bytes and judges what the code makes of them; it panics when that is wrong. `tests/fuzz`
//! runs these on changed examples, `libfuzzer` on what a fuzzer finds.
//!
//! - [`head`]: a request, up to the answer
//! - [`frames`]: what a client sends on an open connection, up to the goodbye
//! - [`query`]: what stands in the target of a request: the room, the name, the session
//! - [`session`]: what a client asks for with its session, and what a server says of it
//! - [`message`]: a message of the stream that several servers share
//! - [`tokens`]: a file with tokens

pub mod frames;
pub mod head;
pub mod message;
pub mod query;
pub mod session;
pub mod tokens;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Builder;

/// The name of a corpus, and what judges it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 6] = [
    ("head", head::judge),
    ("frames", frames::judge),
    ("query", query::judge),
    ("session", session::judge),
    ("message", message::judge),
    ("tokens", tokens::judge),
];

/// Whether a character may not reach a terminal or a log.
fn steers(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line that may be shown to anybody.
#[track_caller]
fn is_shown(line: &str) {
    assert!(!line.contains(steers), "{line:?}");
}

/// Runs what waits for nothing but itself. Whenever everything waits, the clock jumps on.
fn run<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

/// A stream that hands out at most so many bytes at a time, and has to be waited for in between.
struct Pieces<'b> {
    bytes: &'b [u8],
    most: usize,
    ready: bool,
}

impl<'b> Pieces<'b> {
    fn of(bytes: &'b [u8], most: usize) -> Self {
        Self {
            bytes,
            most,
            ready: true,
        }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ready = !self.ready;
        if self.ready && self.most < self.bytes.len() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (now, later) = self
            .bytes
            .split_at(buf.remaining().min(self.most).min(self.bytes.len()));
        buf.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}
