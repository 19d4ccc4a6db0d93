//! From a URL to a WebSocket, or one line that says why not.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use tokio_websockets::ClientBuilder;

use crate::client::limits::Limits;
use crate::client::tls::Trust;
use crate::os;
use crate::protocol::head::{self, Fields, Head, HeadError};
use crate::protocol::line;
use crate::protocol::token::Token;

/// A `ws://` or `wss://` URL, checked: where the server is, which room to enter, under which name and
/// with which token. The token is never shown.
#[derive(Clone, Debug)]
pub struct Address {
    /// As it is shown, without the name if nothing else stands behind the `?`.
    text: String,
    uri: Uri,
    name: Option<String>,
    token: Option<Token>,
}

impl Address {
    /// Whether it is a `wss://` URL: nothing goes there but through TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.uri.scheme_str() == Some("wss")
    }

    /// The host as a name or an IP address.
    fn host(&self) -> &str {
        // A URL writes an IPv6 address in brackets; a resolver wants it without.
        self.uri.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    fn port(&self) -> u16 {
        let usual = if self.is_secure() { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(usual)
    }

    /// Whether what stands behind the `?` gives this key a value.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        let query = self.uri.query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes()).any(|(has, _)| has == key)
    }

    /// The address as a URI, with this behind what stands behind its `?`.
    fn uri_with(&self, query: &str) -> Option<Uri> {
        let separator = if self.uri.query().is_some() { '&' } else { '?' };
        // `Uri` writes the path `/` also where the URL has none.
        format!("{}{separator}{query}", self.uri).parse().ok()
    }

    /// The same address under this name, unless it names somebody already.
    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        if self.name.is_some() {
            return self;
        }
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("name", name)
            .finish();
        Self {
            uri: self.uri_with(&query).unwrap_or_else(|| self.uri.clone()),
            name: Some(name.to_owned()),
            ..self
        }
    }

    /// The same address with this token, or without one.
    #[must_use]
    pub fn with_token(self, token: Option<Token>) -> Self {
        Self { token, ..self }
    }

    /// Whether it shows the same token, or none as well.
    #[must_use]
    pub fn has_token_of(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|address| address.token.as_ref().map(Token::secret));
        ours == theirs
    }

    /// Whether a token goes to another machine in clear text.
    #[must_use]
    pub fn exposes_token(&self) -> bool {
        let host = self.host();
        let address = host.parse::<IpAddr>();
        let is_here = address.map_or(host == "localhost", |ip| ip.to_canonical().is_loopback());
        self.token.is_some() && !self.is_secure() && !is_here
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "a chat is at ws://HOST:PORT or wss://HOST, for instance ws://127.0.0.1:8080";
        // A bare number would be an address: 8080 is 0.0.31.144.
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FORM);
        }
        let text = in_full(text);
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        match uri.scheme_str() {
            Some("ws" | "wss") => {}
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
        let query = uri.query().unwrap_or_default();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let name = pairs.find(|(key, _)| key == "name");
        let name = name.map(|(_, name)| name.into_owned());
        let alone = name.is_some() && !query.contains('&');
        let shown = text.split_once('?').filter(|_| alone);
        Ok(Self {
            text: shown.map_or(&*text, |(shown, _)| shown).to_owned(),
            uri,
            name,
            token: None,
        })
    }
}

/// `HOST`, `HOST:PORT` and `HOST/PATH` are short for a `ws://` URL, on the chat's own port.
fn in_full(text: &str) -> Cow<'_, str> {
    if let Some((scheme, rest)) = text.split_once("://") {
        // RFC 3986 3.1: capitals make no difference.
        return format!("{}://{rest}", scheme.to_ascii_lowercase()).into();
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
        f.write_str(&self.text)?;
        match &self.name {
            Some(name) => write!(f, " as {}", line::clean(name)),
            None => Ok(()),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub struct ConnectError {
    why: Why,
    /// Whether the same request would be refused again, so that there is no use in another one.
    pub is_final: bool,
    /// The status with which the request was refused in HTTP, if it came so far.
    pub status: Option<u16>,
}

/// A sentence; shown behind "cannot connect to ws://…: ".
pub type Why = Cow<'static, str>;

impl ConnectError {
    /// There would be no connection the next time either.
    pub fn last(why: impl Into<Why>) -> Self {
        Self {
            why: why.into(),
            is_final: true,
            status: None,
        }
    }
}

impl<W: Into<Why>> From<W> for ConnectError {
    fn from(why: W) -> Self {
        Self {
            why: why.into(),
            is_final: false,
            status: None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// The other end was there, and then it was not.
pub const HUNG_UP: Why = Cow::Borrowed("it hung up during the handshake");
const NOT_WEBSOCKET: Why = Cow::Borrowed("what listens there is not a WebSocket server");
/// It agreed, but not as RFC 6455 4.1 asks.
const WRONG: Why = Cow::Borrowed("its WebSocket handshake is wrong");

impl From<HeadError> for Why {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Left | HeadError::Broken => HUNG_UP,
            HeadError::TooLong | HeadError::NotHttp(_) => NOT_WEBSOCKET,
        }
    }
}

/// A stream whose opening handshake is done.
#[derive(Debug)]
pub struct Opened<S> {
    /// The stream.
    pub stream: S,
    /// What was read of it too far: the server's first frames.
    pub early: Bytes,
}

/// A stream to a server, with TLS or without.
pub type Socket = Box<dyn Duplex>;

/// What a chat needs of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Connects: name, TCP, TLS for a `wss://` address, handshake, all within one
/// deadline. `session` is what is asked for behind the `?` of the address; it may be a secret, so no
/// error has it in it.
///
/// # Errors
///
/// There is no connection, and why.
pub async fn connect(
    address: &Address,
    session: Option<&str>,
    trust: Option<&Trust>,
    limits: &Limits,
) -> Result<Opened<Socket>, ConnectError> {
    let late = |_| format!("no answer within {:?}", limits.connect);
    timeout(limits.connect, open(address, session, trust, limits))
        .await
        .map_err(late)?
}

async fn open(
    address: &Address,
    session: Option<&str>,
    trust: Option<&Trust>,
    limits: &Limits,
) -> Result<Opened<Socket>, ConnectError> {
    let found = lookup_host((address.host(), address.port()));
    let unknown = |_| "the name is not known (is it spelled right?)";
    let found: Vec<_> = found.await.map_err(unknown)?.collect();
    let stream = tcp(&found, limits)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                "connection refused (is the server running?)".into()
            }
            _ => os::describe(&error),
        })?;
    // A typed line is small and should leave at once. Failing is no reason to stay away.
    let _ = stream.set_nodelay(true);
    let stream: Socket = match trust {
        _ if !address.is_secure() => Box::new(stream),
        Some(trust) => Box::new(trust.connect(stream, address.host()).await?),
        // The WebSocket library would go on in clear text, silently.
        None => return Err(ConnectError::last("there is no TLS for it")),
    };
    let uri = session.and_then(|session| address.uri_with(session));
    let uri = uri.unwrap_or_else(|| address.uri.clone());
    handshake(stream, uri, address.token.as_ref(), limits).await
}

/// Connects to the first of the addresses that accepts a connection. The next one is tried, too, when those
/// before it have failed, or have not answered yet (RFC 8305 5).
async fn tcp(addresses: &[SocketAddr], limits: &Limits) -> io::Result<TcpStream> {
    let mut untried = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    loop {
        attempts.extend(untried.next().map(|address| attempt(*address, limits)));
        tokio::select! {
            attempted = attempts.next() => match attempted {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            () = sleep(limits.next_address), if untried.len() > 0 => {}
        }
    }
}

async fn attempt(address: SocketAddr, limits: &Limits) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Before connecting, since the handshake of TCP tells the other end. Failing does no harm.
    let _ = socket.set_recv_buffer_size(limits.receive);
    socket.connect(address).await
}

/// The opening handshake, over any stream.
///
/// The library reads a head of any length and panics on some answers, so it gets the answer
/// through memory, after a look at it.
async fn handshake<S>(
    mut stream: S,
    uri: Uri,
    token: Option<&Token>,
    limits: &Limits,
) -> Result<Opened<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (library, mut ours) = tokio::io::duplex(2 * limits.head);
    let mut builder = ClientBuilder::from_uri(uri);
    if let Some(token) = token {
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.secret()));
        let mut bearer = bearer.map_err(|_| WRONG)?;
        bearer.set_sensitive(true);
        builder = builder
            .add_header(AUTHORIZATION, bearer)
            .map_err(|_| WRONG)?;
    }
    let agreed = async { builder.connect_on(library).await.map_err(|_| WRONG.into()) };
    let carried = async {
        let request = head::read(&mut ours, limits.head, |_| true).await?;
        stream
            .write_all(&request.bytes)
            .await
            .map_err(|_| HUNG_UP)?;
        let answer = head::read(&mut stream, limits.head, plausible).await?;
        look(&answer, &mut stream, limits).await?;
        ours.write_all(&answer.bytes).await.map_err(|_| WRONG)?;
        Ok::<_, ConnectError>(answer.rest)
    };
    let (_, early) = tokio::try_join!(agreed, carried)?;
    Ok(Opened { stream, early })
}

fn plausible(start: &[u8]) -> bool {
    let mut pairs = start.iter().zip(b"HTTP/");
    pairs.all(|(got, wanted)| got == wanted)
}

/// Looks at an answer before the library does: its status, and the fields that say that it agrees.
async fn look(
    answer: &Head,
    stream: &mut (impl AsyncRead + Unpin),
    limits: &Limits,
) -> Result<(), ConnectError> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(&answer.bytes).map_err(|_| NOT_WEBSOCKET)?;
    let status = response.code.ok_or(NOT_WEBSOCKET)?;
    let fields = Fields(response.headers);
    if status != 101 {
        let length = fields.only("Content-Length").and_then(|n| n.parse().ok());
        let said = sentence(&answer.rest, length, stream, limits.sentence).await;
        let why = if said.is_empty() || status < 400 {
            format!("what listens there answered HTTP {status}, not a WebSocket")
        } else {
            format!("refused: {said} (HTTP {status})")
        };
        let advice = if status == 401 {
            ", see --token-file"
        } else {
            ""
        };
        let why = why + advice;
        return Err(ConnectError {
            why: why.into(),
            is_final: is_final(status),
            status: Some(status),
        });
    }
    // RFC 6455 4.1: each of these is a reason to fail, and the library looks at the key alone. It
    // decodes that into a space of 20 bytes, which are 27 digits of base64 and one `=`.
    let agreed = fields.lists("Upgrade", "websocket")
        && fields.lists("Connection", "upgrade")
        && fields.only("Sec-WebSocket-Accept").is_some_and(|a| a.len() == 28 && a.ends_with('='))
        // Nothing was asked for, so nothing may be granted.
        && !fields.has("Sec-WebSocket-Extensions")
        && !fields.has("Sec-WebSocket-Protocol");
    Ok(agreed.then_some(()).ok_or(WRONG)?)
}

/// Whether a status says that the request itself is at fault (RFC 9110 15.5). A request that came too
/// late or too often may pass later, and a name that is taken may be free then.
fn is_final(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 409 | 425 | 429)
}

/// The body of a refusal when it is one short line of plain text, else nothing. `length` is what
/// the answer says of it (RFC 9112 6.3); without that the server closes behind it, or takes longer
/// than `patience`.
async fn sentence(
    start: &Bytes,
    length: Option<usize>,
    stream: &mut (impl AsyncRead + Unpin),
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
    let _ = timeout(patience, rest.read_to_end(&mut body)).await;
    let text = String::from_utf8_lossy(&body);
    let said = text.trim();
    if said.len() <= SHORT && !said.contains(['<', '\n']) {
        line::clean(said).into_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A listener whose queue is full answers nothing, as a firewall does that drops what comes.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_holds_up_no_other() {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let _queued = std::net::TcpStream::connect(silent).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let limits = Limits::DEFAULT;
        let addresses = [silent, good];
        let connecting = timeout(limits.connect, tcp(&addresses, &limits));
        let stream = connecting.await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
    }

    #[test]
    fn a_url_may_be_short() {
        for (short, whole) in [
            ("127.0.0.1:9000", "ws://127.0.0.1:9000"),
            ("localhost", "ws://localhost:8080"),
            ("[::1]", "ws://[::1]:8080"),
            (
                "chat.example:80/rust?name=ana",
                "ws://chat.example:80/rust as ana",
            ),
            ("chat.example/rust", "ws://chat.example:8080/rust"),
            ("ws://chat.example", "ws://chat.example"),
            ("wss://chat.example/rust", "wss://chat.example/rust"),
            ("WSS://Chat.example", "wss://Chat.example"),
        ] {
            let address: Address = short.parse().unwrap();
            assert_eq!(address.to_string(), whole);
        }
    }

    #[test]
    fn each_scheme_has_its_port() {
        for (url, port, secure) in [
            ("ws://chat.example", 80, false),
            ("wss://chat.example", 443, true),
            ("wss://[::1]:8443", 8443, true),
        ] {
            let address: Address = url.parse().unwrap();
            assert_eq!((address.port(), address.is_secure()), (port, secure));
        }
    }

    #[test]
    fn a_name_is_part_of_the_url_and_shown_behind_it() {
        for (url, uri, shown) in [
            ("ws://h", "ws://h/?name=an%C3%A1", "ws://h as aná"),
            (
                "h/rust",
                "ws://h:8080/rust?name=an%C3%A1",
                "ws://h:8080/rust as aná",
            ),
            (
                "ws://h/?a=b",
                "ws://h/?a=b&name=an%C3%A1",
                "ws://h/?a=b as aná",
            ),
            (
                "ws://h/rust?name=budi",
                "ws://h/rust?name=budi",
                "ws://h/rust as budi",
            ),
        ] {
            let address = url.parse::<Address>().unwrap().with_name("aná");
            assert_eq!(
                (&*address.uri.to_string(), &*address.to_string()),
                (uri, shown)
            );
        }
    }
}
