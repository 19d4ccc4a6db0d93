//! A client's socket as two halves, with TLS or without: to all that comes after it is the same.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{self as tokio_io, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use crate::server::handshake::Refusal;
use crate::server::limits::Limits;
use crate::server::metrics;
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
    /// As they are.
    Plain(OwnedWriteHalf),
    /// To be encrypted.
    Tls(tokio_io::WriteHalf<Session>),
}

/// The two halves of a client's socket: with a certificate, those of a TLS session, for whose
/// handshake there is time `until` then.
///
/// # Errors
///
/// There is no TLS session.
pub async fn open(
    stream: TcpStream,
    certificate: Option<&Certificate>,
    until: Instant,
    limits: &Limits,
) -> Result<(ReadHalf, WriteHalf), Refusal> {
    // A line is small and should leave at once. Failing is no reason to turn anyone away.
    let _ = stream.set_nodelay(true);
    if let Some(certificate) = certificate {
        let session = certificate.accept(stream, until, limits).await?;
        let (reader, writer) = tokio_io::split(session);
        Ok((ReadHalf::Tls(reader), WriteHalf::Tls(writer)))
    } else {
        let (reader, writer) = stream.into_split();
        Ok((ReadHalf::Plain(reader), WriteHalf::Plain(writer)))
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

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Tls(half) => Pin::new(half).poll_write(cx, bytes),
        }
        .map(count)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Self::Tls(half) => Pin::new(half).poll_write_vectored(cx, slices),
        }
        .map(count)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(cx),
            Self::Tls(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(cx),
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
