//! What a client sends, as messages. The WebSocket library touches no socket:
//!
//! ```text
//! the socket --> memory --> library --> memory, from where its answers to pings are taken
//! ```
//!
//! It has a buffer of 8 KiB, which is more than all else that a connection costs. So the library is
//! made when bytes arrive, and given back when nothing is left of them. Those who speak in turns then
//! use the same memory, which is also in the processor's caches already.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, Join, ReadBuf, join};
use tokio_websockets::{Error, Message, ServerBuilder, WebSocketStream};

use crate::server::limits::Limits;

/// Bytes that are read from the socket in one call, as much as the library's buffer has place for.
const PIECE: usize = 8 * 1024;

/// The reading side of a connection.
#[derive(Debug)]
pub struct Codec<R> {
    socket: R,
    /// Bytes of the longest message.
    longest: usize,
    /// Bytes after which the others have their turn, though no message has come of them.
    turn: usize,
    library: Option<Box<Library>>,
    /// What the pongs are taken from while there is no library.
    no_pongs: Vec<u8>,
}

#[derive(Debug)]
struct Library {
    stream: WebSocketStream<Join<Unread, Vec<u8>>>,
    /// Bytes that the library was given, minus the smallest frame that each message which came out can have been
    /// in. Zero means that it holds nothing.
    unconsumed: usize,
}

impl<R> Codec<R>
where
    R: AsyncRead + Unpin,
{
    /// Reads messages from `early` and then from `socket`.
    #[must_use]
    pub fn new(socket: R, early: &[u8], limits: &Limits) -> Self {
        let mut codec = Self {
            socket,
            longest: limits.message,
            turn: limits.turn,
            library: None,
            no_pongs: Vec::new(),
        };
        if !early.is_empty() {
            codec.feed(early);
        }
        codec
    }

    /// The next message; `None` at the end of the stream. If it is cancelled, nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        let mut bytes = 0;
        loop {
            if let Some(library) = &mut self.library {
                if let Poll::Ready(next) = library.poll_next(cx) {
                    return Poll::Ready(next);
                }
                if library.is_done() {
                    self.library = None;
                }
            }
            if bytes >= self.turn {
                // Those of an endless message of empty frames would otherwise be taken all at once.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut self.socket).poll_read(cx, &mut piece)) {
                Ok(()) if piece.filled().is_empty() => return Poll::Ready(None),
                Ok(()) => {
                    bytes += piece.filled().len();
                    self.feed(piece.filled());
                }
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Gives the library what was read.
    fn feed(&mut self, bytes: &[u8]) {
        let longest = self.longest;
        let library = self.library.get_or_insert_with(|| Library::new(longest));
        library.unconsumed += bytes.len();
        library.stream.get_mut().reader_mut().0.extend(bytes);
    }

    /// Answers the pings that have come.
    ///
    /// # Errors
    ///
    /// The library cannot encode the answers.
    pub async fn flush(&mut self) -> Result<(), Error> {
        match &mut self.library {
            Some(library) => library.stream.flush().await,
            None => Ok(()),
        }
    }

    /// The answers to pings, to be taken from here and sent.
    pub fn pongs(&mut self) -> &mut Vec<u8> {
        match &mut self.library {
            Some(library) => library.stream.get_mut().writer_mut(),
            None => &mut self.no_pongs,
        }
    }

    /// Where the client's bytes come from.
    pub fn socket(&mut self) -> &mut R {
        &mut self.socket
    }
}

impl Library {
    fn new(longest: usize) -> Box<Self> {
        let limits = tokio_websockets::Limits::default().max_payload_len(Some(longest));
        let memory = join(Unread(Vec::new()), Vec::new());
        Box::new(Self {
            stream: ServerBuilder::new().limits(limits).serve(memory),
            unconsumed: 0,
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        let next = ready!(self.stream.poll_next_unpin(cx));
        if let Some(Ok(message)) = &next {
            self.unconsumed -= least_frame(message.as_payload().len());
        }
        Poll::Ready(next)
    }

    /// Whether nothing is in it that is needed, when no message is. After a message in several frames,
    /// whose heads are not counted, it is never known.
    fn is_done(&self) -> bool {
        self.unconsumed == 0 && self.stream.get_ref().writer().is_empty()
    }
}

/// Bytes of a client's message in one frame (RFC 6455 5.2): two, the length if that does not fit into
/// them, and the mask. In more frames it has more.
fn least_frame(payload: usize) -> usize {
    let length = match payload {
        ..126 => 0,
        126..65_536 => 2,
        _ => 8,
    };
    2 + length + 4 + payload
}

/// What was read, and the library has not seen yet.
#[derive(Debug)]
struct Unread(Vec<u8>);

impl AsyncRead for Unread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending; // Whoever polls looks at the socket next.
        }
        let n = buf.remaining().min(self.0.len());
        buf.put_slice(&self.0[..n]);
        self.0.drain(..n);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncWriteExt, duplex, empty};
    use tokio_websockets::{ClientBuilder, Config};

    use super::*;

    /// What the library of a client sends, in frames with so much payload.
    async fn encoded(message: Message, frame: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let client = ClientBuilder::new().config(Config::default().frame_size(frame));
        let mut client = client.take_over(join(empty(), &mut bytes));
        client.send(message).await.unwrap();
        drop(client);
        bytes
    }

    #[tokio::test]
    async fn the_library_is_there_only_while_it_is_needed() {
        let (mut client, socket) = duplex(100_000);
        let early = encoded(Message::text("early"), 1000).await;
        let limits = Limits {
            message: 100_000,
            ..Limits::default()
        };
        let mut codec = Codec::new(socket, &early, &limits);
        let first = codec.next().await.unwrap().unwrap();
        assert_eq!(**first.as_payload(), *b"early");
        for (message, frame, stays) in [
            (Message::pong(""), 1000, false),
            (Message::text(""), 1000, false),
            (Message::text("a".repeat(70_000)), 100_000, false),
            (Message::text("b".repeat(126)), 1000, false),
            (Message::pong("c".repeat(125)), 1000, false),
            // It has a pong to send.
            (Message::ping("d"), 1000, true),
            // From here on it is not known any more.
            (Message::text("e".repeat(2000)), 1000, true),
            (Message::pong(""), 1000, true),
        ] {
            let bytes = encoded(message.clone(), frame).await;
            let (most, last) = bytes.split_at(bytes.len() - 1);
            client.write_all(most).await.unwrap();
            assert!(codec.next().now_or_never().is_none());
            assert!(codec.library.is_some(), "half a message is in it");
            client.write_all(last).await.unwrap();
            let next = codec.next().await.unwrap().unwrap();
            assert_eq!(**next.as_payload(), **message.as_payload());
            codec.flush().await.unwrap();
            assert!(codec.next().now_or_never().is_none());
            assert_eq!(codec.library.is_some(), stays, "after {message:?}");
            if message.is_ping() {
                assert_eq!(*codec.pongs(), [0x8a, 1, b'd']);
                codec.pongs().clear();
                assert!(codec.next().now_or_never().is_none());
                assert!(codec.library.is_none(), "its pong was taken");
            }
        }
        drop(client);
        assert!(codec.next().await.is_none());
    }

    #[tokio::test]
    async fn a_message_that_never_ends_leaves_the_others_their_turn() {
        const EMPTY: [u8; 6] = [0, 0x80, 0, 0, 0, 0];
        let (mut client, socket) = duplex(1_000_000);
        let limits = Limits::default();
        let frames = 10 * limits.turn / EMPTY.len();
        let begin = [1, 0x80, 0, 0, 0, 0];
        client.write_all(&begin).await.unwrap();
        client.write_all(&EMPTY.repeat(frames)).await.unwrap();
        drop(client);
        let mut codec = Codec::new(socket, &[], &limits);
        let (mut turns, mut next) = (0, None);
        while next.is_none() {
            next = codec.next().now_or_never();
            turns += 1;
        }
        assert!(next.flatten().is_none());
        assert!((10..20).contains(&turns), "{turns}");
    }
}
