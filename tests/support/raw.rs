//! A WebSocket client made by hand, and a server, so that they can do what no library would:
//! every byte of them is the test's.
//!
//! Each read and each write of a connection has [`PATIENCE`] as its deadline, so what needs several
//! reads can take several times as long; where a peer could go on for ever, for instance with
//! pings, all of the wait has one more. That something does not come is never waited for:
//! something that must come behind it is. Connecting has the system's own deadline; nobody here
//! connects to a port where it would have to be waited for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Once;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use socket2::{Domain, SockRef, Socket, Type};
use tokio_websockets::ServerBuilder;

use super::{PATIENCE, Program, in_time, uninterrupted};

/// A request as RFC 6455 1.2 shows it.
pub const REQUEST: &str = "GET / HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// Set in the first byte of a message's last frame.
pub const FIN: u8 = 0x80;

/// A masked frame; `first` is the opcode, with `FIN` or without. The mask is zero, so the payload
/// stays readable.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xffff => {
            frame.push(0xfe); // masked, 126: two bytes of length
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            frame.push(0xff); // masked, 127: eight bytes of length
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The same without a mask, as a server sends it (RFC 6455 5.1).
pub fn bare_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(first, payload);
    frame[1] &= 0x7f;
    let head = frame.len() - payload.len();
    frame.drain(head - 4..head);
    frame
}

/// The start of a masked frame that announces `len` bytes in the eight-byte form.
pub fn announce(first: u8, len: u64) -> Vec<u8> {
    [&[first, 0xff], &len.to_be_bytes()[..], &[0; 4]].concat()
}

/// A Close with its code (RFC 6455 5.5.1).
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    frame(FIN | CLOSE, &payload)
}

/// What is said of a message that is too long: fragments that the library would go on with.
pub fn oversize(len: usize, frame: fn(u8, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let part = vec![b'x'; len];
    [
        frame(FIN | TEXT, b"before"),
        frame(TEXT, &part),
        frame(CONTINUATION, &part),
        frame(FIN | CONTINUATION, b"end"),
        frame(FIN | TEXT, b"after"),
    ]
    .concat()
}

/// A message that ends inside a code point, its last fragment empty.
pub fn cut_inside(frame: fn(u8, &[u8]) -> Vec<u8>) -> Vec<u8> {
    [
        frame(FIN | TEXT, b"before"),
        frame(TEXT, b"half an \xc3"),
        frame(FIN | CONTINUATION, b""),
        frame(FIN | TEXT, b"after"),
    ]
    .concat()
}

/// A server made by hand.
pub struct RawServer {
    listener: TcpListener,
}

impl RawServer {
    /// On a free port.
    pub fn listen() -> Self {
        Self::on(0)
    }

    /// On this port, which may be held by a [`super::Port`].
    pub fn on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        Self { listener }
    }

    /// On a free port; through its connections little fits, as in [`Raw::narrow`].
    pub fn narrow() -> Self {
        let server = Self::listen();
        let listener = SockRef::from(&server.listener);
        listener.set_recv_buffer_size(4096).unwrap();
        listener.set_tcp_mss(536).unwrap();
        server
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.listener.local_addr().unwrap())
    }

    /// Waits for the next connection; nothing read and nothing sent.
    pub fn tcp(&self) -> Raw {
        let listener = self.listener.try_clone().unwrap();
        let accepted = in_time("a connection", move || listener.accept().unwrap().0);
        let mut raw = Raw::of(accepted);
        raw.masks = false;
        raw
    }

    /// Starts a client with these flags, and waits until it says that it is connected. Returns it
    /// with its connection.
    pub fn join(&self, args: &[&str]) -> (Program, Raw) {
        let mut client = Program::start("client", &[&[&*self.url()], args].concat());
        let raw = self.accept();
        client.is_connected();
        (client, raw)
    }

    /// Waits for the next connection and its request, and agrees to it.
    pub fn accept(&self) -> Raw {
        let mut raw = self.tcp();
        let agreement = agreement(&raw.head());
        raw.send(&agreement);
        raw
    }
}

/// The 101 that the library answers a request with.
pub fn agreement(request: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    let stream = tokio::io::join(request.as_bytes(), &mut answer);
    let accepted = ServerBuilder::new().accept(stream).now_or_never();
    accepted.unwrap().unwrap();
    answer
}

/// A connection.
pub struct Raw {
    pub stream: TcpStream,
    /// What a client sends is masked.
    masks: bool,
}

impl Raw {
    /// A TCP connection, nothing sent.
    pub fn tcp(port: u16) -> Self {
        Self::of(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// An open WebSocket through which little fits: small packets make the kernel give the
    /// server's end a small buffer too, so some 100 KiB fill it.
    pub fn narrow(port: u16) -> Self {
        Self::narrow_with(port, "/", "")
    }

    /// The same for this target.
    pub fn narrow_for(port: u16, target: &str) -> Self {
        Self::narrow_with(port, target, "")
    }

    /// The same of somebody who asks with these header fields.
    pub fn narrow_with(port: u16, target: &str, fields: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_tcp_mss(536).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        socket.connect(&address.into()).unwrap();
        let mut raw = Self::of(socket.into());
        raw.ask(target, fields);
        raw.is_let_in(target);
        raw
    }

    /// Lets much fit from now on: who was slow on purpose catches up at once, and not at the pace
    /// of small windows.
    pub fn widen(&self) {
        let socket = SockRef::from(&self.stream);
        socket.set_recv_buffer_size(1024 * 1024).unwrap();
    }

    /// Over a stream of the test's own, nothing sent.
    pub fn over(stream: TcpStream) -> Self {
        Self::of(stream)
    }

    fn of(stream: TcpStream) -> Self {
        static RAISED: Once = Once::new();
        // A crowd needs more descriptors than a shell often allows, and tests share them.
        RAISED.call_once(|| drop(rlimit::increase_nofile_limit(u64::MAX)));
        // What is sent in pieces shall arrive in pieces.
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            masks: true,
        }
    }

    /// A connection that has asked for a WebSocket; the answer is not read.
    pub fn asking(port: u16) -> Self {
        let mut raw = Self::tcp(port);
        raw.send(REQUEST.as_bytes());
        raw
    }

    /// An open WebSocket. Waits for the server's answer.
    pub fn join(port: u16) -> Self {
        Self::tcp(port).upgrade()
    }

    /// The same in the room, and under the name, that `target` has in it: `/rust?name=ana`.
    #[track_caller]
    pub fn enter(port: u16, target: &str) -> Self {
        let mut raw = Self::asking_for(port, target);
        raw.is_let_in(target);
        raw
    }

    /// A connection that has asked for this target; the answer is not read.
    pub fn asking_for(port: u16, target: &str) -> Self {
        Self::asking_with(port, target, "")
    }

    /// A connection that has asked for this target with these header fields, of which each ends with
    /// `\r\n`; the answer is not read.
    pub fn asking_with(port: u16, target: &str, fields: &str) -> Self {
        let mut raw = Self::tcp(port);
        raw.ask(target, fields);
        raw
    }

    fn ask(&mut self, target: &str, fields: &str) {
        let request = REQUEST.replacen("GET / ", &format!("GET {target} "), 1);
        let request = request.replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1);
        self.send(request.as_bytes());
    }

    /// An open WebSocket of somebody who shows this token.
    #[track_caller]
    pub fn enter_with(port: u16, target: &str, token: &str) -> Self {
        let fields = format!("Authorization: Bearer {token}\r\n");
        let mut raw = Self::asking_with(port, target, &fields);
        raw.is_let_in(target);
        raw
    }

    /// Waits for a refusal: its status and its sentence.
    #[track_caller]
    pub fn refusal(&mut self) -> (u16, String) {
        let head = self.head();
        let status = head.split(' ').nth(1).expect(&head).parse().expect(&head);
        assert_ne!(status, 101, "it was let in");
        (status, self.response().trim_end().to_owned())
    }

    /// An open WebSocket as soon as there is a place.
    #[track_caller]
    pub fn join_when_there_is_room(port: u16) -> Self {
        Self::enter_when_it_can(port, "/")
    }

    /// The same of somebody who asks for this target: again and again, for as long as the patience lasts.
    #[track_caller]
    pub fn enter_when_it_can(port: u16, target: &str) -> Self {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let mut raw = Self::asking_for(port, target);
            if raw.head().starts_with("HTTP/1.1 101 ") {
                return raw;
            }
        }
        panic!("refused for {PATIENCE:?}");
    }

    /// So many of them, each open.
    pub fn crowd(port: u16, count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::join(port)).collect()
    }

    fn upgrade(mut self) -> Self {
        self.send(REQUEST.as_bytes());
        self.is_let_in("it asked as RFC 6455 1.2 shows it");
        self
    }

    /// Waits for the answer to a request, which is a WebSocket.
    #[track_caller]
    pub fn is_let_in(&mut self, what: &str) {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{what}: {head}");
    }

    /// This end's name in the chat.
    pub fn name(&self) -> String {
        self.stream.local_addr().unwrap().to_string()
    }

    /// Writes these bytes. Waits, when nobody reads them, until there is room for the last one.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Says this in one frame.
    pub fn say(&mut self, text: &str) {
        self.send_frame(FIN | TEXT, text.as_bytes());
    }

    /// A frame as this end sends it.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        let encode = if self.masks { frame } else { bare_frame };
        self.send(&encode(first, payload));
    }

    /// Waits for a request or a response up to and with its blank line. The deadline is each byte's.
    pub fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    /// Waits for the end of the connection; the response to there. The deadline is each read's.
    pub fn response(&mut self) -> String {
        let mut response = Vec::new();
        self.stream.read_to_end(&mut response).unwrap();
        String::from_utf8(response).unwrap()
    }

    /// Waits for the next frame: its first byte and its payload. `None` when the connection has ended.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut start = [0; 2];
        match self.stream.read_exact(&mut start) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return None,
            Err(error) => panic!("{error}"),
        }
        Some(self.rest_of_frame(start).unwrap())
    }

    /// The same where the connection may end in the middle of a frame, as when the server is killed.
    pub fn frame_if_whole(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = self.bytes().and_then(|start| self.rest_of_frame(start));
        match read {
            Ok(frame) => Some(frame),
            Err(error) if is_end(&error) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn rest_of_frame(&mut self, start: [u8; 2]) -> io::Result<(u8, Vec<u8>)> {
        let len = match start[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.bytes()?)),
            127 => u64::from_be_bytes(self.bytes()?),
            len => u64::from(len),
        };
        let masked = start[1] & 0x80 != 0;
        let mask: [u8; 4] = if masked { self.bytes()? } else { [0; 4] };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut payload)?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Ok((start[0], payload))
    }

    /// Waits for the next text message; pings and pongs are passed over. All of the wait has one
    /// deadline, beside each read's.
    pub fn text(&mut self) -> String {
        self.text_or(|_, first, _| first & 0xf == PING || first & 0xf == PONG)
    }

    /// The same; pings before it are answered, and nothing else may come.
    pub fn text_with_pongs(&mut self) -> String {
        self.text_or(|raw, first, payload| {
            let is_ping = first == FIN | PING;
            if is_ping {
                raw.send_frame(FIN | PONG, payload);
            }
            is_ping
        })
    }

    /// Waits for the next text message. Each frame before it has to be one that `is_passed` passes
    /// over.
    fn text_or(&mut self, is_passed: impl Fn(&mut Self, u8, &[u8]) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no text within {PATIENCE:?}");
            let (first, payload) = self.frame().expect("a text message");
            if first == FIN | TEXT {
                return String::from_utf8(payload).unwrap();
            }
            let passed = is_passed(self, first, &payload);
            assert!(passed, "not a text message: {first} {payload:?}");
        }
    }

    /// Waits for the Close that comes next but for texts, pings and pongs: its code and its reason.
    /// All of the wait has one deadline, beside each read's.
    pub fn close(&mut self) -> (u16, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Pings would keep us here for ever.
            assert!(Instant::now() < deadline, "no Close within {PATIENCE:?}");
            let (first, payload) = self.frame().expect("a Close");
            if first == FIN | CLOSE {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
            }
        }
    }

    /// Reads on a thread and throws it away, so that the server is never stuck here: to the end, or
    /// until nothing has come for [`PATIENCE`].
    pub fn read_in_background(&self) -> JoinHandle<()> {
        let mut stream = self.stream.try_clone().unwrap();
        thread::spawn(move || drop(io::copy(&mut stream, &mut io::sink())))
    }

    /// Sends no more.
    pub fn shut(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The same connection once more.
    pub fn again(&self) -> Self {
        Self {
            stream: self.stream.try_clone().unwrap(),
            masks: self.masks,
        }
    }

    /// Ends the connection with RST, as a machine does that crashed.
    pub fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// What a server says of how it is: the status, and the words.
#[track_caller]
pub fn health(port: u16) -> (u16, String) {
    let mut raw = Raw::tcp(port);
    raw.send(b"GET /healthz HTTP/1.1\r\nHost: chat\r\n\r\n");
    raw.refusal()
}

/// Sends until the other end has gone or takes nothing for a while, but no more than so many
/// bytes. That it takes nothing is found by the write timeout of the stream.
pub fn flood(stream: &mut TcpStream, piece: &[u8], most: u64) {
    let pieces = piece.repeat(64 * 1024 / piece.len());
    let mut sent = 0;
    while sent < most && stream.write_all(&pieces).is_ok() {
        sent += pieces.len() as u64;
    }
}

/// Two who talk while somebody else misbehaves.
pub struct Others {
    pub ann: Raw,
    pub bob: Raw,
}

impl Others {
    pub fn join(port: u16) -> Self {
        let (ann, bob) = (Raw::join(port), Raw::join(port));
        Self { ann, bob }
    }

    /// What one says next is the next thing that the other hears. Waits until it does.
    #[track_caller]
    pub fn talk(&mut self) {
        self.says("hello");
    }

    #[track_caller]
    fn says(&mut self, text: &str) {
        self.ann.say(text);
        assert_eq!(self.bob.text(), format!("{}: {text}", self.ann.name()));
    }

    /// The same a hundred times, in order.
    #[track_caller]
    pub fn talk_on(&mut self) {
        (0..100).for_each(|n| self.says(&n.to_string()));
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

/// Bytes that an [`Ear`] reads at once.
const AT_ONCE: usize = 64 * 1024;

/// A connection that reads much: buffered, nothing copied, pings answered. The deadline of what
/// waits is each read's.
pub struct Ear {
    pub raw: Raw,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were handed out.
    used: usize,
}

impl Ear {
    /// An open WebSocket. Waits for the server's answer.
    pub fn join(port: u16) -> Self {
        Self::of(Raw::join(port))
    }

    /// Of which nothing was read so far but the answer.
    pub fn of(raw: Raw) -> Self {
        Self {
            raw,
            buffer: Vec::new(),
            used: 0,
        }
    }

    /// Waits for the next text; `None` at a Close or the end of the connection. Panics at the third
    /// ping before it.
    pub fn text(&mut self) -> Option<&str> {
        self.text_in_pieces(AT_ONCE, || ())
    }

    /// The same, read in pieces of at most so many bytes, with something else done before each.
    pub fn text_in_pieces(&mut self, piece: usize, mut before: impl FnMut()) -> Option<&str> {
        let mut pings = 0;
        let text = loop {
            assert!(pings < 3, "nothing but pings");
            let (first, payload) = self.frame_in_pieces(piece, &mut before)?;
            match first & 0xf {
                TEXT => break payload,
                PING => {
                    self.raw.send(&frame(FIN | PONG, &[]));
                    pings += 1;
                }
                CLOSE => return None,
                _ => {}
            }
        };
        Some(std::str::from_utf8(&self.buffer[text]).unwrap())
    }

    /// Waits for the next frame, read in the same way; its first byte, and where its payload is in the
    /// buffer. `None` at the end of the connection.
    pub fn frame_in_pieces(
        &mut self,
        piece: usize,
        mut before: impl FnMut(),
    ) -> Option<(u8, Range<usize>)> {
        while self.buffered().is_none() {
            before();
            if self.read_piece(piece) == 0 {
                return None;
            }
        }
        let (start, end) = self.buffered()?;
        let first = self.buffer[self.used];
        self.used = end;
        Some((first, start..end))
    }

    /// Reads once, as soon as there is something, and returns how many bytes: 0 at the end.
    pub fn read(&mut self) -> usize {
        self.read_piece(AT_ONCE)
    }

    /// The same, at most so many bytes.
    pub fn read_piece(&mut self, piece: usize) -> usize {
        self.buffer.drain(..self.used);
        self.used = 0;
        let len = self.buffer.len();
        self.buffer.resize(len + piece, 0);
        let read = match uninterrupted(|| self.raw.stream.read(&mut self.buffer[len..])) {
            Ok(read) => read,
            Err(error) if is_end(&error) => 0,
            Err(error) => panic!("{error}"),
        };
        self.buffer.truncate(len + read);
        read
    }

    /// Waits for lines whose texts begin with their numbers, 0 and so on, until so many were heard or
    /// told to be missed: each once, and in order. Returns how many were missed.
    #[track_caller]
    pub fn numbered(&mut self, lines: u64) -> u64 {
        let (mut heard, mut lost) = (0, 0);
        while heard + lost < lines {
            let text = self.text().expect("the slow one stays");
            if let Some(count) = missed(text) {
                lost += count;
            } else {
                let number = text.split(' ').nth(1).unwrap();
                assert_eq!(number.parse(), Ok(heard + lost), "{text}");
                heard += 1;
            }
        }
        assert_eq!(heard + lost, lines);
        lost
    }

    /// Where the payload of the next frame starts and ends, when all of it is there.
    fn buffered(&self) -> Option<(usize, usize)> {
        let bytes = &self.buffer[self.used..];
        let (head, len) = match *bytes {
            [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([a, b]))),
            [_, 126 | 127, ..] => match bytes.get(2..10) {
                Some(len) if bytes[1] == 127 => {
                    let len = u64::from_be_bytes(len.try_into().unwrap());
                    (10, usize::try_from(len).unwrap())
                }
                _ => return None,
            },
            [_, len, ..] => (2, usize::from(len)),
            _ => return None,
        };
        let start = self.used + head;
        (bytes.len() >= head + len).then_some((start, start + len))
    }
}

/// The texts of short, unmasked frames, of which there may be nothing else.
pub fn short_texts(frames: &[u8]) -> Vec<String> {
    let (mut rest, mut texts) = (frames, Vec::new());
    while let [0x81, len @ 0..=125, ..] = *rest {
        let (text, behind) = rest[2..].split_at(usize::from(len));
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        rest = behind;
    }
    assert!(rest.is_empty(), "not a short text frame: {rest:?}");
    texts
}

/// The number in `* N messages missed`.
pub fn missed(text: &str) -> Option<u64> {
    let number = text.strip_prefix("* ")?.strip_suffix(" messages missed")?;
    Some(number.parse().unwrap())
}
