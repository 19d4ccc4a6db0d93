//! A TLS session over a socket (RFC 8446), after its handshake.
//!
//! tokio-rustls has a stream like this one. It takes up to 64 KiB of what is written to it into its
//! own memory and calls that written, which is not what a server can use that measures how fast its
//! reader takes what is sent. Here bytes count as written when the socket has taken them.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::Connection;

/// Plain text on this side, TLS records on the side of the socket.
#[derive(Debug)]
pub struct Stream<S> {
    socket: S,
    session: Connection,
    /// How many bytes are encrypted, but not yet reported as written.
    unreported: usize,
    /// Our end of the session is closed.
    closed: bool,
}

impl<S> Stream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Goes on with a session whose handshake is done.
    #[must_use]
    pub fn new(socket: S, session: impl Into<Connection>) -> Self {
        Self {
            socket,
            session: session.into(),
            unreported: 0,
            closed: false,
        }
    }

    /// Writes some of what is encrypted to the socket, in one call.
    fn poll_write_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut blocking = Blocking {
            socket: &mut self.socket,
            cx,
        };
        pending_if_blocked(self.session.write_tls(&mut blocking))
    }

    /// Writes everything that is encrypted to the socket.
    fn poll_write_all_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            if ready!(self.poll_write_records(cx))? == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads records from the socket, and decrypts those that are complete. Returns how many bytes
    /// were read; 0 is the end of the socket.
    fn poll_read_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut blocking = Blocking {
            socket: &mut self.socket,
            cx,
        };
        let read = ready!(pending_if_blocked(self.session.read_tls(&mut blocking)))?;
        if let Err(error) = self.session.process_new_packets() {
            // The session has an alert ready that tells the other end what was wrong. It is sent if
            // the socket takes it now.
            let _ = self.poll_write_all_records(cx);
            return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(read))
    }
}

impl<S> AsyncRead for Stream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.session.reader().read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The socket ended, but the session did not (RFC 8446 6.1). To the chat that is a
                // connection without a goodbye.
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(self.poll_read_records(cx))?;
        }
    }
}

impl<S> AsyncWrite for Stream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// As with any writer, what is not reported as written has to be offered again. Here that must
    /// be the same bytes, since they may be encrypted already.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.unreported == 0 {
                // rustls takes 64 KiB at most, and so that is what a connection holds.
                self.unreported = self.session.writer().write_vectored(slices)?;
                if self.unreported == 0 {
                    return Poll::Ready(Ok(0));
                }
            }
            let written = ready!(self.poll_write_records(cx))?;
            // Records are a little longer than what is in them. So it is not known exactly how much
            // of that was written before all of it was, and one byte is held back until then.
            let reported = if self.session.wants_write() {
                written.min(self.unreported - 1)
            } else {
                self.unreported
            };
            self.unreported -= reported;
            if reported > 0 || written == 0 {
                return Poll::Ready(Ok(reported));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_all_records(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            self.session.send_close_notify();
        }
        ready!(self.poll_write_all_records(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A socket as rustls wants it: reads and writes that fail with [`ErrorKind::WouldBlock`] instead of
/// waiting.
struct Blocking<'a, 'cx, S> {
    socket: &'a mut S,
    cx: &'a mut Context<'cx>,
}

fn blocked<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

fn pending_if_blocked<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl<S: AsyncRead + Unpin> Read for Blocking<'_, '_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(bytes);
        blocked(Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> Write for Blocking<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocked(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        blocked(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        blocked(Pin::new(&mut *self.socket).poll_flush(self.cx))
    }
}
