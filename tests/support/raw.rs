//! A WebSocket client made by hand, and a server, so that they can do what no library would:
//! every byte of them is the test's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;

use futures_util::FutureExt;
use tokio_websockets::ServerBuilder;

use super::PATIENCE;

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

/// A server made by hand.
pub struct RawServer {
    listener: TcpListener,
}

impl RawServer {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection, nothing read and nothing sent.
    pub fn tcp(&self) -> Raw {
        let (sender, coming) = channel();
        let listener = self.listener.try_clone().unwrap();
        thread::spawn(move || sender.send(listener.accept().unwrap().0));
        Raw::of(coming.recv_timeout(PATIENCE).expect("a connection"))
    }

    /// The next connection, its request read and agreed to.
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
}

impl Raw {
    /// A TCP connection, nothing sent.
    pub fn tcp(port: u16) -> Self {
        Self::of(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    fn of(stream: TcpStream) -> Self {
        // What is sent in pieces shall arrive in pieces.
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// An open WebSocket.
    pub fn join(port: u16) -> Self {
        let mut raw = Self::tcp(port);
        raw.send(REQUEST.as_bytes());
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    /// This end's name in the chat.
    pub fn name(&self) -> String {
        self.stream.local_addr().unwrap().to_string()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn say(&mut self, text: &str) {
        self.send(&frame(FIN | TEXT, text.as_bytes()));
    }

    /// A response up to and with its blank line.
    pub fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    /// A whole response, to the end of the connection.
    pub fn response(&mut self) -> String {
        let mut response = Vec::new();
        self.stream.read_to_end(&mut response).unwrap();
        String::from_utf8(response).unwrap()
    }

    /// The next frame: its first byte and its payload. `None` when the connection has ended.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut start = [0; 2];
        match self.stream.read_exact(&mut start) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return None,
            Err(error) => panic!("{error}"),
        }
        let len = match start[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.bytes())),
            127 => u64::from_be_bytes(self.bytes()),
            len => u64::from(len),
        };
        let masked = start[1] & 0x80 != 0;
        let mask: [u8; 4] = if masked { self.bytes() } else { [0; 4] };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Some((start[0], payload))
    }

    /// The next text message; pings and pongs are passed over.
    pub fn text(&mut self) -> String {
        loop {
            match self.frame().expect("a text message") {
                (first, payload) if first == FIN | TEXT => {
                    return String::from_utf8(payload).unwrap();
                }
                (first, _) if first & 0xf == PING || first & 0xf == PONG => {}
                other => panic!("not a text message: {other:?}"),
            }
        }
    }

    /// The code and the reason of the Close that comes next but for texts, pings and pongs.
    pub fn close(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.frame().expect("a Close");
            if first == FIN | CLOSE {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
            }
        }
    }

    /// Sends no more.
    pub fn shut(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}
