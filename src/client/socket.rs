//! A stream that is read to its end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose writing never fails: after the first error, what is written is thrown away.
///
/// The WebSocket library gives a connection up at a failed write, also when the other end's Close,
/// which says why, is waiting to be read. That a connection is over can always be read as well, so
/// nothing is missed.
#[derive(Debug)]
pub struct ReadToEnd<S> {
    stream: S,
    broken: bool,
}

impl<S> ReadToEnd<S> {
    /// A stream that nothing has gone wrong with yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            broken: false,
        }
    }

    /// Whether what is written is thrown away.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Pretends that `len` bytes were written when they cannot be.
    fn forgive(&mut self, len: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        written.map(|written| {
            Ok(written.unwrap_or_else(|_| {
                self.broken = true;
                len
            }))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadToEnd<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadToEnd<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.forgive(buf.len(), written)
    }

    // Without these two each frame would be two writes.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.broken {
            return Poll::Ready(Ok(len));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.forgive(len, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        flushed.map(|flushed| {
            self.broken |= flushed.is_err();
            Ok(())
        })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
