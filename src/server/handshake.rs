//! From a stranger's stream to a connection in the room, or a refusal with its HTTP status.
//!
//! The library's `accept` reads a head of any length for any time and panics on some of them.
//! So the head is read and judged here, and `accept` gets one of our own writing in which
//! nothing is the stranger's but the key.

use std::borrow::Cow;
use std::fmt;
use std::future::pending;

use bytes::{BufMut, BytesMut};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Join, join};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_websockets::ServerBuilder;

use crate::protocol::close;
use crate::protocol::head::{self, Fields, Head, HeadError};
use crate::protocol::line;
use crate::protocol::token::{self, Token};
use crate::server::codec::Codec;
use crate::server::connection::Connection;
use crate::server::limits::Limits;
use crate::server::metrics::Stranger;
use crate::server::writer::Writer;

/// Why a stranger did not get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was answered with this status and this sentence.
    Answered(StatusCode, Cow<'static, str>),
    /// It could not be answered, for this reason.
    Unanswered(Cow<'static, str>),
    /// It left, or its connection broke, before it had asked.
    Left,
    /// It did not want to get in: it asked how the server is, and was told.
    HealthCheck(Method),
}

impl Refusal {
    /// Whether the operator should hear of it.
    #[must_use]
    pub fn concerns_operator(&self) -> bool {
        !matches!(self, Self::Left | Self::HealthCheck(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status, why) => write!(f, "was refused: {why} ({})", status.as_u16()),
            Self::Unanswered(why) => write!(f, "left: {why}"),
            Self::Left => write!(f, "left"),
            Self::HealthCheck(_) => write!(f, "asked how the server is"),
        }
    }
}

/// A refusal with this status and this sentence.
#[must_use]
pub const fn refuse(status: StatusCode, why: &'static str) -> Refusal {
    Refusal::Answered(status, Cow::Borrowed(why))
}

/// How somebody asks who wants an answer, and no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// For all of it.
    Get,
    /// For the head of it alone (RFC 9110 9.3.2).
    Head,
}

impl Method {
    /// The method of a request, if it is one of these.
    #[must_use]
    pub fn of(request: &httparse::Request<'_, '_>) -> Option<Self> {
        match request.method? {
            "GET" => Some(Self::Get),
            "HEAD" => Some(Self::Head),
            _ => None,
        }
    }
}

/// Where whoever watches the server asks how it is.
const HEALTH: &str = "/healthz";

/// Fields that a request may have.
pub const FIELDS: usize = 64;

/// The subprotocol of this chat, for those who offer any.
const CHAT: &str = "chat";
const PROTOCOL: &str = "Sec-WebSocket-Protocol";

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const NOT_HTTP: Refusal = refuse(BAD, "this is not an HTTP/1.1 request");
const TLS: Refusal = refuse(
    BAD,
    "this port does not speak TLS: connect with ws:// or http://",
);
const NOT_A_RESOURCE: Refusal = refuse(BAD, "the request target is not usable");
const NO_HOST: Refusal = refuse(BAD, "the request needs one Host");
const NO_KEY: Refusal = refuse(BAD, "Sec-WebSocket-Key is not 16 bytes in base64");
const NOT_GET: Refusal = refuse(
    StatusCode::METHOD_NOT_ALLOWED,
    "a WebSocket begins with GET",
);
const NO_UPGRADE: Refusal = refuse(
    StatusCode::UPGRADE_REQUIRED,
    "this is a WebSocket chat: connect to ws://HOST:PORT with a WebSocket client",
);
const NOT_VERSION_13: Refusal = refuse(
    StatusCode::UPGRADE_REQUIRED,
    "this server speaks WebSocket version 13",
);
/// There was no whole request in time.
pub const LATE: Refusal = refuse(StatusCode::REQUEST_TIMEOUT, "the request took too long");
const TOO_LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
const TOO_LONG: Refusal = refuse(TOO_LARGE, "the request is longer than 8 KiB");
const TOO_MANY_FIELDS: Refusal = refuse(TOO_LARGE, "the request has more than 64 header fields");
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
/// Every place is taken.
pub const FULL: Refusal = refuse(UNAVAILABLE, "the chat is full: try again later");
/// Its address has as many places as it may have.
pub const CROWDED: Refusal = refuse(
    StatusCode::TOO_MANY_REQUESTS,
    "there are too many connections from your address: close one, or try again later",
);
/// The store does not answer.
pub const NOT_KNOWN: Refusal = refuse(
    UNAVAILABLE,
    "what was said in this room cannot be read or stored now: try again later",
);
/// Nobody is let in any more.
pub const SHUTTING_DOWN: Refusal = refuse(UNAVAILABLE, "the server is shutting down");

/// The first byte of a TLS session: the type of the record that a hello is in (RFC 8446 5.1).
pub const TLS_HELLO: u8 = 22;

/// Whom to let in.
#[derive(Debug)]
pub struct Rules<'a, S> {
    /// The values of `Origin` that may come in; a request without one always may.
    pub origins: &'a [String],
    /// When the request is too late.
    pub until: Instant,
    /// What it holds while it is here, so that there are not too many; or why it gets none.
    pub seat: Result<S, Refusal>,
    /// Who it is that asks: counted before it is answered.
    pub stranger: &'a Stranger,
}

/// Reads the request, answers it, and lets `enter` enter the room that it names, just before the
/// client can believe that it is connected, so that it misses nothing from then on. Returns the
/// connection, what `enter` returned, and its seat. Who asks how the server is, is told what `health` says.
///
/// # Errors
///
/// The stranger was refused, and has been told so. It has given its seat back before that, since it may be
/// a while in leaving.
pub async fn accept<R, W, P, S>(
    reader: R,
    writer: W,
    rules: Rules<'_, S>,
    health: impl FnOnce() -> Result<(), &'static str>,
    enter: impl AsyncFnOnce(&Request) -> Result<P, Refusal>,
    limits: &Limits,
) -> Result<(Connection<R, W>, P, S), Refusal>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut stream = join(reader, writer);
    let (until, stranger) = (rules.until, rules.stranger);
    let entered = async {
        let asked = timeout_at(until, request(&mut stream, rules, limits.head));
        let (request, mut rest, seat) = asked.await.unwrap_or(Err(LATE))?;
        let place = tokio::select! {
            biased;
            place = enter(&request) => place?,
            () = has_left(&mut stream, &mut rest, limits.head) => return Err(Refusal::Left),
            // It has asked in time, but a store has not answered.
            () = sleep_until(until) => return Err(NOT_KNOWN),
        };
        Ok((place, request, rest, seat))
    };
    match entered.await {
        Ok((place, request, rest, seat)) => {
            let connection = upgrade(stream, &request, &rest, limits).await;
            Ok((connection.ok_or(Refusal::Left)?, place, seat))
        }
        Err(refusal) => {
            stranger.count_refused(&refusal);
            let answer = async {
                match refusal {
                    Refusal::HealthCheck(method) => {
                        tell_health(&mut stream, health(), method).await;
                    }
                    _ => answer(&mut stream, &refusal).await,
                }
            };
            let _ = timeout(limits.close, answer).await;
            Err(refusal)
        }
    }
}

/// A request that may come in.
#[derive(Debug)]
pub struct Request {
    /// What it wants to reach: the room and the name are in it.
    pub target: Uri,
    /// Its `Sec-WebSocket-Key`.
    pub key: String,
    /// Whether it offers the subprotocol `chat`, which is chosen then (RFC 6455 4.2.2): browsers
    /// leave when they have offered some and none is chosen.
    pub chat: bool,
    /// The token that it shows, if it shows one.
    pub token: Option<Token>,
}

/// Reads a request, and returns it, what came behind it, and the seat.
async fn request<R, S>(
    stream: &mut R,
    rules: Rules<'_, S>,
    limit: usize,
) -> Result<(Request, BytesMut, S), Refusal>
where
    R: AsyncRead + Unpin,
{
    let head = read_head(stream, limit).await?;
    match (judge(&head.bytes, rules.origins), rules.seat) {
        // This needs none.
        (Err(Refusal::HealthCheck(method)), _) => Err(Refusal::HealthCheck(method)),
        (_, Err(refusal)) => Err(refusal),
        (judged, Ok(seat)) => Ok((judged?, head.rest.into(), seat)),
    }
}

/// Waits until a stranger leaves that waits to be let in, since whoever has gone must not take a session
/// or a name from those who are there. What it says before it is let in is kept behind `rest`, `most` bytes
/// at most; what is more is left to the system.
async fn has_left<S>(stream: &mut S, rest: &mut BytesMut, most: usize)
where
    S: AsyncRead + Unpin,
{
    while rest.len() < most {
        let space = most - rest.len();
        if !matches!(stream.read_buf(&mut rest.limit(space)).await, Ok(1..)) {
            return;
        }
    }
    pending::<()>().await;
}

/// Reads the head of a request. The caller sets the deadline.
///
/// # Errors
///
/// There is none, and what to answer to that.
pub async fn read_head<S>(stream: &mut S, limit: usize) -> Result<Head, Refusal>
where
    S: AsyncRead + Unpin,
{
    let head = head::read(stream, limit, plausible).await;
    head.map_err(|error| match error {
        HeadError::TooLong => TOO_LONG,
        HeadError::NotHttp(TLS_HELLO) => TLS,
        HeadError::NotHttp(_) => NOT_HTTP,
        HeadError::Left | HeadError::Broken => Refusal::Left,
    })
}

/// A method begins with a letter (RFC 9110 9.1 names no other).
fn plausible(start: &[u8]) -> bool {
    start.first().is_none_or(u8::is_ascii_uppercase)
}

/// Reads what is in the head of a request, whatever it asks for.
///
/// # Errors
///
/// It is not one of HTTP/1, or has too many fields.
pub fn parse<'h, 'b>(
    head: &'b [u8],
    fields: &'h mut [httparse::Header<'b>; FIELDS],
) -> Result<httparse::Request<'h, 'b>, Refusal> {
    let mut request = httparse::Request::new(fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => Ok(request),
        Err(httparse::Error::TooManyHeaders) => Err(TOO_MANY_FIELDS),
        _ => Err(NOT_HTTP),
    }
}

/// The target of a request, in origin form or absolute form (RFC 9112 3.2); neither `*` nor
/// `host:port` names a resource.
///
/// # Errors
///
/// It names none.
pub fn target(request: &httparse::Request<'_, '_>) -> Result<Uri, Refusal> {
    let target = request.path.and_then(|path| path.parse::<Uri>().ok());
    target
        .filter(|uri| uri.path().starts_with('/'))
        .ok_or(NOT_A_RESOURCE)
}

/// Judges a request by RFC 6455 4.2.1.
///
/// # Errors
///
/// The status to refuse it with, and one sentence that says why; or it asks how the server is.
pub fn judge(head: &[u8], origins: &[String]) -> Result<Request, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let request = parse(head, &mut fields)?;
    if let Some(method) = health_asked(&request) {
        return Err(Refusal::HealthCheck(method));
    }
    if request.version != Some(1) {
        return Err(NOT_HTTP);
    }
    if request.method != Some("GET") {
        return Err(NOT_GET);
    }
    let target = target(&request)?;
    let fields = Fields(request.headers);
    fields.only("Host").ok_or(NO_HOST)?;
    if !wants_upgrade(fields) {
        return Err(NO_UPGRADE);
    }
    if fields.only("Sec-WebSocket-Version") != Some("13") {
        return Err(NOT_VERSION_13);
    }
    if fields.has("Origin") {
        let origin = fields.only("Origin").unwrap_or("several origins");
        if origin.is_empty() || !origins.iter().any(|allowed| allowed == origin) {
            return Err(forbid(origin));
        }
    }
    let key = fields.only("Sec-WebSocket-Key").filter(|key| is_key(key));
    Ok(Request {
        target,
        key: key.ok_or(NO_KEY)?.to_owned(),
        chat: fields.words(PROTOCOL).any(|word| word == CHAT),
        token: token(fields),
    })
}

fn wants_upgrade(fields: Fields<'_, '_>) -> bool {
    fields.lists("Upgrade", "websocket") && fields.lists("Connection", "upgrade")
}

/// How a request asks how the server is, if it does: a WebSocket to the same target is the room of that
/// name. HTTP/1.0 will do, without a Host, since some load balancers ask like that.
fn health_asked(request: &httparse::Request<'_, '_>) -> Option<Method> {
    let fields = Fields(request.headers);
    let is_whole = request.version == Some(0) || fields.only("Host").is_some();
    let method = Method::of(request).filter(|_| is_whole && !wants_upgrade(fields))?;
    let target = target(request).ok()?;
    (target.path() == HEALTH).then_some(method)
}

/// The token of a request that shows exactly one: as `Authorization: Bearer` (RFC 6750 2.1), or as a
/// subprotocol, since a web page cannot send that field.
fn token(fields: Fields<'_, '_>) -> Option<Token> {
    let bearer = fields.all("Authorization").filter_map(token::bearer);
    let words = fields.words(PROTOCOL);
    let page = words.filter_map(|word| word.strip_prefix(token::SUBPROTOCOL));
    let mut shown = bearer.chain(page);
    let only = shown.next().filter(|_| shown.next().is_none())?;
    Token::new(only)
}

/// 16 bytes in base64 (RFC 6455 4.1): 22 digits, of which the last ends in four zero bits.
fn is_key(key: &str) -> bool {
    let digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    matches!(key.as_bytes(), [digits @ .., b'A' | b'Q' | b'g' | b'w', b'=', b'=']
        if digits.len() == 21 && digits.iter().all(|b| digit(*b)))
}

/// Refuses pages of an origin, which is the stranger's text: it is cleaned, and shortened.
fn forbid(origin: &str) -> Refusal {
    const SHOWN: usize = 100;
    let shown: String = origin.chars().take(SHOWN).collect();
    let shown = match &*line::clean(&shown) {
        "" => "an empty origin".to_owned(),
        shown => shown.to_owned(),
    };
    let why = format!("pages of {shown} may not join: see the server's --allow-origin");
    Refusal::Answered(StatusCode::FORBIDDEN, why.into())
}

/// Opens the WebSocket. The library reads a request of our own writing, and writes its answer into
/// memory, from where the connection's writer sends it first of all. `None` when the library does not
/// agree, which our own request gives it no reason for.
async fn upgrade<R, W>(
    stream: Join<R, W>,
    request: &Request,
    rest: &[u8],
    limits: &Limits,
) -> Option<Connection<R, W>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Request { key, chat, .. } = request;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    let mut server = ServerBuilder::new();
    if *chat {
        let chosen = HeaderValue::from_static(CHAT);
        server = server.add_header(SEC_WEBSOCKET_PROTOCOL, chosen).ok()?;
    }
    let mut answer = Vec::new();
    let memory = join(request.as_bytes(), &mut answer);
    server.accept(memory).await.ok()?;
    let (reader, socket) = stream.into_inner();
    let codec = Codec::new(reader, rest, limits);
    let mut writer = Writer::new(socket, limits);
    writer.push([answer.into()]);
    Some(Connection { codec, writer })
}

/// Says no in HTTP, if it can be said, and ends the stream. The caller sets the deadline.
pub async fn answer<S>(stream: &mut S, refusal: &Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Refusal::Answered(status, why) = refusal else {
        return close::linger(stream).await;
    };
    let field = match *status {
        StatusCode::METHOD_NOT_ALLOWED => "Allow: GET\r\n",
        StatusCode::UNAUTHORIZED => "WWW-Authenticate: Bearer\r\n",
        // An Upgrade field must be named in Connection (RFC 9110 7.8).
        StatusCode::UPGRADE_REQUIRED => {
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => "Retry-After: 10\r\n",
        _ => "",
    };
    respond(
        stream,
        *status,
        field,
        TEXT,
        &format!("{why}\n"),
        Method::Get,
    )
    .await;
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Says how the server is, and ends the stream. The caller sets the deadline.
async fn tell_health<S>(stream: &mut S, health: Result<(), &'static str>, method: Method)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (status, words) = match health {
        Ok(()) => (StatusCode::OK, "ok"),
        Err(why) => (UNAVAILABLE, why),
    };
    let field = "Cache-Control: no-store\r\n";
    respond(stream, status, field, TEXT, &format!("{words}\n"), method).await;
}

/// Answers with a text of this kind and a header field or none, and ends the stream. The caller sets the
/// deadline.
pub async fn respond<S>(
    stream: &mut S,
    status: StatusCode,
    field: &str,
    kind: &str,
    text: &str,
    method: Method,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let reason = status.canonical_reason().unwrap_or_default();
    let length = text.len();
    let body = match method {
        Method::Get => text,
        Method::Head => "",
    };
    let response = format!(
        "HTTP/1.1 {} {reason}\r\nConnection: close\r\n{field}\
         Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}",
        status.as_str(),
    );
    if stream.write_all(response.as_bytes()).await.is_ok() {
        close::linger(stream).await;
    }
}
