//! From a stranger's TCP stream to a WebSocket and a seat in the room, or a refusal with its
//! HTTP status.
//!
//! The library's `accept` reads a head of any length for any time and panics on some of them.
//! So the head is read and judged here, and `accept` gets one of our own writing in which
//! nothing is the stranger's but the key.

use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, Uri};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{Limits as WsLimits, ServerBuilder, WebSocketStream};

use crate::protocol::close;
use crate::protocol::head::{self, Fields, NoHead, Socket};
use crate::server::limits::Limits;
use crate::server::room::{Room, Seat};

/// Why a stranger did not get in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was answered with this status and this sentence.
    Answered(StatusCode, &'static str),
    /// It left, or its connection broke, before it had asked.
    Left,
}

const fn refuse(status: StatusCode, why: &'static str) -> Refusal {
    Refusal::Answered(status, why)
}

/// Whom to let in.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The values of `Origin` that may come in; a request without one always may.
    pub origins: &'a [String],
    /// Every place is taken.
    pub full: bool,
}

/// Reads the request, answers it, and takes the seat just before the client can believe that it
/// is connected, so that it misses nothing from then on.
///
/// # Errors
///
/// The stranger was refused, and has been told so.
pub async fn accept(
    mut stream: TcpStream,
    rules: Rules<'_>,
    room: &Arc<Room>,
    limits: &Limits,
) -> Result<(WebSocketStream<Socket>, Seat), Refusal> {
    let upgraded = async {
        let (key, rest) = request(&mut stream, rules, limits.head).await?;
        let seat = room.enter().ok_or(refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is shutting down",
        ))?;
        Ok((key, rest, seat))
    };
    match timeout(limits.handshake, upgraded)
        .await
        .unwrap_or(Err(LATE))
    {
        Ok((key, rest, seat)) => {
            let opening = upgrade(stream, &key, rest, limits);
            let ws = timeout(limits.handshake, opening).await.ok().flatten();
            Ok((ws.ok_or(Refusal::Left)?, seat))
        }
        Err(refusal) => {
            let _ = timeout(limits.close, answer(&mut stream, &refusal)).await;
            Err(refusal)
        }
    }
}

/// Reads a request and returns its key and what came behind it.
async fn request(
    stream: &mut TcpStream,
    rules: Rules<'_>,
    limit: usize,
) -> Result<(String, Bytes), Refusal> {
    let head = head::read(stream, limit, plausible)
        .await
        .map_err(|none| match none {
            NoHead::TooLong => refuse(TOO_LARGE, "the request is longer than 8 KiB"),
            NoHead::NotHttp => refuse(StatusCode::BAD_REQUEST, "this is not an HTTP/1.1 request"),
            NoHead::Left | NoHead::Io(_) => Refusal::Left,
        })?;
    if rules.full {
        return Err(refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the chat is full: try again later",
        ));
    }
    let key = judge(&head.bytes, rules.origins)?.to_owned();
    Ok((key, head.rest))
}

const LATE: Refusal = refuse(StatusCode::REQUEST_TIMEOUT, "the request took too long");
const TOO_LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;

/// A method begins with a letter (RFC 9110 9.1 names no other); a TLS hello does not.
fn plausible(start: &[u8]) -> bool {
    start.first().is_none_or(u8::is_ascii_uppercase)
}

/// Judges a request by RFC 6455 4.2.1 and returns its `Sec-WebSocket-Key`.
///
/// # Errors
///
/// The status to refuse it with, and one sentence that says why.
pub fn judge<'a>(head: &'a [u8], origins: &[String]) -> Result<&'a str, Refusal> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refuse(
                TOO_LARGE,
                "the request has more than 64 header fields",
            ));
        }
        _ => return Err(refuse(BAD, "this is not an HTTP/1.1 request")),
    }
    if request.version != Some(1) {
        return Err(refuse(BAD, "this is not an HTTP/1.1 request"));
    }
    if request.method != Some("GET") {
        return Err(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "a WebSocket begins with GET",
        ));
    }
    let target = request.path.and_then(|path| path.parse::<Uri>().ok());
    // Origin form or absolute form (RFC 9112 3.2); neither `*` nor `host:port` names a resource.
    if !target.is_some_and(|uri| uri.path().starts_with('/')) {
        return Err(refuse(BAD, "the request target is not usable"));
    }
    let fields = Fields(request.headers);
    fields
        .only("Host")
        .ok_or(refuse(BAD, "the request needs one Host"))?;
    if !fields.lists("Upgrade", "websocket") || !fields.lists("Connection", "upgrade") {
        return Err(refuse(
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket chat: connect with a WebSocket client, for instance: client ws://HOST:PORT",
        ));
    }
    if fields.only("Sec-WebSocket-Version") != Some("13") {
        return Err(refuse(
            StatusCode::UPGRADE_REQUIRED,
            "this server speaks WebSocket version 13",
        ));
    }
    if fields.has("Origin")
        && !fields
            .only("Origin")
            .is_some_and(|origin| origins.iter().any(|o| o == origin))
    {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "pages of this origin may not join: see server --allow-origin",
        ));
    }
    let key = fields.only("Sec-WebSocket-Key").filter(|key| is_key(key));
    key.ok_or(refuse(BAD, "Sec-WebSocket-Key is not 16 bytes in base64"))
}

/// 16 bytes in base64 (RFC 6455 4.1): 22 digits, of which the last ends in four zero bits.
fn is_key(key: &str) -> bool {
    let digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    matches!(key.as_bytes(), [digits @ .., b'A' | b'Q' | b'g' | b'w', b'=', b'=']
        if digits.len() == 21 && digits.iter().all(|b| digit(*b)))
}

/// Opens the WebSocket. `None` when the client left meanwhile.
async fn upgrade(
    stream: TcpStream,
    key: &str,
    rest: Bytes,
    limits: &Limits,
) -> Option<WebSocketStream<Socket>> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    let bytes = [request.as_bytes(), &rest].concat();
    let ws_limits = WsLimits::default().max_payload_len(Some(limits.message));
    let server = ServerBuilder::new().limits(ws_limits);
    let (_, ws) = server
        .accept(head::unread(stream, bytes.into()))
        .await
        .ok()?;
    Some(ws)
}

/// Says no in HTTP.
async fn answer(stream: &mut TcpStream, refusal: &Refusal) {
    let Refusal::Answered(status, why) = refusal else {
        return;
    };
    let field = match *status {
        StatusCode::METHOD_NOT_ALLOWED => "Allow: GET\r\n",
        // An Upgrade field must be named in Connection (RFC 9110 7.8).
        StatusCode::UPGRADE_REQUIRED => {
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        }
        StatusCode::SERVICE_UNAVAILABLE => "Retry-After: 10\r\n",
        _ => "",
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let length = why.len() + 1;
    let response = format!(
        "HTTP/1.1 {} {reason}\r\nConnection: close\r\n{field}\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{why}\n",
        status.as_str(),
    );
    if stream.write_all(response.as_bytes()).await.is_ok() {
        close::linger(stream).await;
    }
}
