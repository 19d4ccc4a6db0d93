//! From a URL to a WebSocket, or one line that says why not.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio_websockets::{ClientBuilder, Limits as WsLimits, WebSocketStream};

use crate::client::limits::Limits;
use crate::client::socket::ReadToEnd;
use crate::os;
use crate::protocol::head::{self, Fields, Head, NoHead, Socket};

/// A `ws://` URL, checked.
#[derive(Clone, Debug)]
pub struct Address {
    text: String,
    uri: Uri,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a chat is at ws://HOST:PORT, for instance ws://127.0.0.1:8080";
        // A bare number would be an address: 8080 is 0.0.31.144.
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FORM);
        }
        let text = in_full(text);
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        match uri.scheme_str() {
            Some("ws") => {}
            // The library would silently talk in clear text.
            Some("wss") => return Err("TLS is not supported: use ws://, or a tunnel for privacy"),
            _ => return Err(FORM),
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if uri.host().is_none_or(str::is_empty) || text.contains('#') || authority.contains('@') {
            return Err(FORM);
        }
        // `Uri` takes any digits for a port and then has none.
        let port = authority
            .rsplit(']')
            .next()
            .and_then(|end| end.split_once(':'));
        if port.is_some() && uri.port_u16().is_none_or(|port| port == 0) {
            return Err("the port is a number from 1 to 65535");
        }
        Ok(Self {
            text: text.into_owned(),
            uri,
        })
    }
}

/// `HOST`, `HOST:PORT` and `HOST/PATH` are short for a `ws://` URL, on the chat's own port.
fn in_full(text: &str) -> Cow<'_, str> {
    if text.contains("://") {
        return text.into();
    }
    let end = text.find(['/', '?']).unwrap_or(text.len());
    let (host, path) = text.split_at(end);
    let behind_brackets = host.rsplit(']').next().unwrap_or(host);
    if behind_brackets.contains(':') {
        format!("ws://{text}").into()
    } else {
        format!("ws://{host}:8080{path}").into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why there is no connection; shown behind "cannot connect to ws://…: ".
#[derive(Debug)]
pub enum ConnectError {
    /// The name has no address.
    Name(io::Error),
    /// No address took the connection.
    Tcp(io::Error),
    /// What listens there did not answer within the limit.
    Late(Duration),
    /// What listens there does not speak HTTP.
    NotHttp,
    /// It answered with another HTTP status than 101, and perhaps a sentence.
    Status(u16, String),
    /// It agreed, but not as RFC 6455 4.1 asks.
    Handshake,
    /// It hung up.
    HungUp,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(_) => write!(f, "the name is not known (is it spelled right?)"),
            Self::Tcp(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                write!(f, "connection refused (is the server running?)")
            }
            Self::Tcp(error) => f.write_str(&os::describe(error)),
            Self::Late(limit) => write!(f, "no answer within {limit:?}"),
            Self::NotHttp => write!(f, "what listens there is not a WebSocket server"),
            Self::Status(status, said) if said.is_empty() || *status < 400 => {
                write!(
                    f,
                    "what listens there answered HTTP {status}, not a WebSocket"
                )
            }
            Self::Status(status, said) => write!(f, "refused: {said} (HTTP {status})"),
            Self::Handshake => write!(f, "its WebSocket handshake is wrong"),
            Self::HungUp => write!(f, "it hung up during the handshake"),
        }
    }
}

/// Connects: name, TCP (each address in turn), handshake, all within one deadline.
///
/// # Errors
///
/// There is no connection, and why.
pub async fn connect(
    address: &Address,
    limits: &Limits,
) -> Result<WebSocketStream<ReadToEnd<Socket>>, ConnectError> {
    let late = |_| ConnectError::Late(limits.connect);
    tokio::time::timeout(limits.connect, open(address, limits))
        .await
        .map_err(late)?
}

async fn open(
    address: &Address,
    limits: &Limits,
) -> Result<WebSocketStream<ReadToEnd<Socket>>, ConnectError> {
    let uri = &address.uri;
    // A URL writes an IPv6 address in brackets; the resolver wants it without.
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    let found: Vec<_> = lookup_host((host, port))
        .await
        .map_err(ConnectError::Name)?
        .collect();
    let mut stream = TcpStream::connect(&*found)
        .await
        .map_err(ConnectError::Tcp)?;
    // A typed line is small and should leave at once. Failing is no reason to stay away.
    let _ = stream.set_nodelay(true);
    let rest = handshake(&mut stream, uri, limits).await?;
    Ok(websocket(head::unread(stream, rest), limits))
}

/// The WebSocket on a stream whose handshake is done.
pub fn websocket<S>(stream: S, limits: &Limits) -> WebSocketStream<ReadToEnd<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = WsLimits::default().max_payload_len(Some(limits.from_server));
    ClientBuilder::new()
        .limits(limits)
        .take_over(ReadToEnd::new(stream))
}

/// The opening handshake; returns what the server sent behind it.
///
/// The library reads a head of any length and panics on some answers, so it gets the answer
/// through memory, after a look at it.
async fn handshake(
    stream: &mut TcpStream,
    uri: &Uri,
    limits: &Limits,
) -> Result<Bytes, ConnectError> {
    let (library, mut ours) = tokio::io::duplex(2 * limits.head);
    let builder = ClientBuilder::from_uri(uri.clone());
    let agreed = async {
        builder
            .connect_on(library)
            .await
            .map_err(|_| ConnectError::Handshake)
    };
    let carried = async {
        let request = head::read(&mut ours, limits.head, |_| true).await?;
        stream
            .write_all(&request.bytes)
            .await
            .map_err(|_| ConnectError::HungUp)?;
        let answer = head::read(stream, limits.head, plausible).await?;
        look(&answer, stream, limits).await?;
        ours.write_all(&answer.bytes)
            .await
            .map_err(|_| ConnectError::Handshake)?;
        Ok(answer.rest)
    };
    let (_, rest) = tokio::try_join!(agreed, carried)?;
    Ok(rest)
}

fn plausible(start: &[u8]) -> bool {
    start
        .iter()
        .zip(b"HTTP/")
        .all(|(got, wanted)| got == wanted)
}

impl From<NoHead> for ConnectError {
    fn from(none: NoHead) -> Self {
        match none {
            NoHead::Left | NoHead::Io(_) => Self::HungUp,
            NoHead::TooLong | NoHead::NotHttp => Self::NotHttp,
        }
    }
}

/// Looks at an answer before the library does: its status, and the length of the one field that
/// the library decodes into a fixed space.
async fn look(answer: &Head, stream: &mut TcpStream, limits: &Limits) -> Result<(), ConnectError> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    response
        .parse(&answer.bytes)
        .map_err(|_| ConnectError::NotHttp)?;
    let status = response.code.ok_or(ConnectError::NotHttp)?;
    let fields = Fields(response.headers);
    if status != 101 {
        let length = fields.only("Content-Length").and_then(|n| n.parse().ok());
        let said = sentence(&answer.rest, length, stream, limits.sentence).await;
        return Err(ConnectError::Status(status, said));
    }
    // RFC 6455 4.1: each of these is a reason to fail, and the library looks at the key alone. It
    // decodes that into a space of 20 bytes, which are 27 digits of base64 and one `=`.
    let agreed = fields.lists("Upgrade", "websocket")
        && fields.lists("Connection", "upgrade")
        && fields.only("Sec-WebSocket-Accept").is_some_and(|a| a.len() == 28 && a.ends_with('='))
        // Nothing was asked for, so nothing may be granted.
        && !fields.has("Sec-WebSocket-Extensions")
        && !fields.has("Sec-WebSocket-Protocol");
    if agreed {
        Ok(())
    } else {
        Err(ConnectError::Handshake)
    }
}

/// The body of a refusal when it is one short line of plain text, else nothing. `length` is what
/// the answer says of it (RFC 9112 6.3); without that the server closes behind it, or takes longer
/// than `patience`.
async fn sentence(
    start: &Bytes,
    length: Option<usize>,
    stream: &mut TcpStream,
    patience: Duration,
) -> String {
    const SHORT: usize = 200;
    let length = length.unwrap_or(SHORT);
    if length > SHORT {
        return String::new();
    }
    let mut body = start.to_vec();
    let missing = length.saturating_sub(body.len()) as u64;
    let mut rest = stream.take(missing);
    let _ = tokio::time::timeout(patience, rest.read_to_end(&mut body)).await;
    let text = String::from_utf8_lossy(&body);
    let line = text.trim();
    if line.len() <= SHORT && !line.contains(['<', '\n']) {
        crate::protocol::line::clean(line).into_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_be_short() {
        for (short, whole) in [
            ("127.0.0.1:9000", "ws://127.0.0.1:9000"),
            ("localhost", "ws://localhost:8080"),
            ("[::1]", "ws://[::1]:8080"),
            (
                "chat.example:80/rust?name=ana",
                "ws://chat.example:80/rust?name=ana",
            ),
            ("chat.example/rust", "ws://chat.example:8080/rust"),
            ("ws://chat.example", "ws://chat.example"),
        ] {
            let address: Address = short.parse().unwrap();
            assert_eq!(address.to_string(), whole);
        }
    }
}
