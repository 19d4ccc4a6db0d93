//! How either end leaves without losing what is on its way.

use std::borrow::Cow;
use std::io::ErrorKind;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_websockets::proto::ProtocolError;
use tokio_websockets::{CloseCode, Error};

/// Ends the sending side and reads until the peer ends its own. A socket closed with unread
/// input makes the kernel send RST, and the peer loses what it had not read yet: the answer
/// that says why.
pub async fn linger<S>(stream: &mut S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if stream.shutdown().await.is_ok() {
        discard(stream).await;
    }
}

/// Reads to the end, and throws away what comes, for the reason that [`linger`] has.
pub async fn discard(reader: &mut (impl AsyncRead + Unpin)) {
    // On the heap, since every idle connection keeps room for what is not.
    let mut unread = vec![0; 1024];
    while matches!(reader.read(&mut unread).await, Ok(1..)) {}
}

/// What to close with, and the reason in words.
pub type Fault = (CloseCode, Cow<'static, str>);

/// What to close with after an error of the connection; `None` when the connection itself is
/// gone. Any error ends a connection: after one, the library may hand out a message with a hole.
#[must_use]
pub fn fault(error: &Error) -> Option<Fault> {
    match error {
        Error::PayloadTooLong { len, max_len } => Some((
            CloseCode::MESSAGE_TOO_BIG,
            format!("a message of {len} bytes, and at most {max_len} are allowed").into(),
        )),
        Error::Protocol(ProtocolError::InvalidUtf8) => Some(NOT_UTF8),
        Error::Protocol(error) => Some((CloseCode::PROTOCOL_ERROR, error.to_string().into())),
        // TLS that cannot be decrypted, or that breaks its own rules.
        Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            Some((CloseCode::PROTOCOL_ERROR, error.to_string().into()))
        }
        _ => None,
    }
}

/// What to close with when text turns out not to be (RFC 6455 8.1).
pub const NOT_UTF8: Fault = (
    CloseCode::INVALID_FRAME_PAYLOAD_DATA,
    Cow::Borrowed("text is not UTF-8"),
);

/// What to close with when a message is binary: a chat is text (RFC 6455 7.4.1).
pub const NOT_TEXT: Fault = (
    CloseCode::UNSUPPORTED_DATA,
    Cow::Borrowed("only text messages, please"),
);

/// A close code in words (RFC 6455 7.4.1 and the registry it began), with its number.
#[must_use]
pub fn words(code: CloseCode) -> String {
    let code = u16::from(code);
    let words = match code {
        1000 => "normal closure",
        1001 => "going away",
        1002 => "protocol error",
        1003 => "unsupported data",
        1005 => "no reason given",
        1007 => "invalid data",
        1008 => "policy violation",
        1009 => "message too big",
        1011 => "internal error",
        1012 => "restarting",
        1013 => "try again later",
        _ => "unknown code",
    };
    format!("{code}, {words}")
}
