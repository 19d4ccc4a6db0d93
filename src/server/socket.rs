//! A client's socket as two halves, with TLS or without: to all that comes after, it is the same.

use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{self as tokio_io, AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::server::handshake::{Refusal, Rules};
use crate::server::limits::Limits;
use crate::server::metrics;
use crate::server::room::TryWrite;
use crate::server::tls::{Certificate, Session};

/// Where the client's bytes come from.
#[derive(Debug)]
pub enum ReadHalf {
    /// As they were sent.
    Plain(OwnedReadHalf),
    /// Decrypted.
    Tls(tokio_io::ReadHalf<Session>),
}

/// Where the client's bytes go to.
#[derive(Debug)]
pub enum WriteHalf {
    /// As they are. It is shared with the room, which writes to it as well.
    Plain(Arc<OwnedWriteHalf>),
    /// To be encrypted.
    Tls(tokio_io::WriteHalf<Session>),
}

/// The two halves of a client's socket: with a certificate, those of a TLS session, for whose
/// handshake there is as much time as for the request. Returns the rules as well.
///
/// # Errors
///
/// There is no TLS session.
pub async fn open<'r, S>(
    stream: TcpStream,
    certificate: Option<&Certificate>,
    rules: Rules<'r, S>,
    limits: &Limits,
) -> Result<(ReadHalf, WriteHalf, Rules<'r, S>), Refusal> {
    // A line is small and should leave at once. Failing is no reason to turn anyone away.
    let _ = stream.set_nodelay(true);
    if let Some(certificate) = certificate {
        let (session, rules) = certificate.accept(stream, rules, limits).await?;
        let (reader, writer) = tokio_io::split(session);
        Ok((ReadHalf::Tls(reader), WriteHalf::Tls(writer), rules))
    } else {
        let (reader, writer) = stream.into_split();
        Ok((
            ReadHalf::Plain(reader),
            WriteHalf::Plain(Arc::new(writer)),
            rules,
        ))
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_read(cx, buf),
            Self::Tls(half) => Pin::new(half).poll_read(cx, buf),
        };
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            metrics::RECEIVED.add(bytes as u64);
        }
        read
    }
}

impl WriteHalf {
    /// The socket itself. With TLS there is none: what is encrypted may have to be kept until it is
    /// written.
    #[must_use]
    pub fn plain(&self) -> Option<Arc<dyn TryWrite>> {
        match self {
            Self::Plain(half) => Some(half.clone()),
            Self::Tls(_) => None,
        }
    }
}

impl TryWrite for OwnedWriteHalf {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Not by tokio, which would first look whether the socket takes anything. Here it nearly always does,
        // and where tokio keeps that is seldom in the processor's caches.
        let stream: &TcpStream = self.as_ref();
        let socket = SockRef::from(stream);
        count(match slices {
            [only] => socket.send(only), // which costs the system less
            slices => socket.send_vectored(slices),
        })
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => loop {
                let stream: &TcpStream = half.as_ref().as_ref();
                ready!(stream.poll_write_ready(cx))?;
                let write = || TryWrite::try_write(&**half, slices);
                match stream.try_io(Interest::WRITABLE, write) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
            },
            Self::Tls(half) => Pin::new(half).poll_write_vectored(cx, slices).map(count),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())), // The system has it already.
            Self::Tls(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => {
                let stream: &TcpStream = half.as_ref().as_ref();
                Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write))
            }
            Self::Tls(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}

/// Counts what was written.
fn count(written: io::Result<usize>) -> io::Result<usize> {
    if let Ok(bytes) = written {
        metrics::SENT.add(bytes as u64);
    }
    written
}
