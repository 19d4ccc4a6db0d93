//! The limit: one thread, one epoll, nothing but the relay.
//!
//! One turn of the loop reads all that is ready, encodes each line once into one buffer, and writes that buffer once
//! to every client. There are no deadlines, no checks of text, no bound on memory and no line printed per message:
//! this is no server to run, it is the mark that the real ones are measured against.

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use std::io::{ErrorKind, IoSlice, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const LISTENER: u64 = u64::MAX;
/// Fits a core's second-level cache together with what is written from it.
const READ_AT_ONCE: usize = 128 * 1024;

struct Client {
    stream: TcpStream,
    /// `IP:PORT: `, what stands before each of its lines.
    name: Vec<u8>,
    upgraded: bool,
    /// The start of a frame (or of the request) whose end has not come yet.
    rest: Vec<u8>,
    /// What the kernel would not take.
    backlog: Vec<u8>,
    /// Where its own lines stand in this turn's bytes: one piece, since each client is read once a turn.
    own: Range<usize>,
}

struct Relay {
    epoll: OwnedFd,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    input: Vec<u8>,
    turn: Vec<u8>,
}

fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    println!("listening on port {}", listener.local_addr()?.port());

    let mut relay = Relay {
        epoll,
        clients: vec![],
        free: vec![],
        input: vec![0; READ_AT_ONCE],
        turn: vec![],
    };
    let mut events: Vec<Event> = Vec::with_capacity(1024);
    loop {
        events.clear();
        epoll::wait(
            &relay.epoll,
            rustix::buffer::spare_capacity(&mut events),
            None,
        )?;
        for event in &events {
            let (who, flags) = (event.data.u64(), event.flags);
            if who == LISTENER {
                while let Ok((stream, address)) = listener.accept() {
                    relay.enter(stream, address)?;
                }
                continue;
            }
            if flags.contains(EventFlags::OUT) {
                relay.flush(who as usize);
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                relay.read(who as usize);
            }
        }
        relay.publish();
    }
}

impl Relay {
    fn enter(&mut self, stream: TcpStream, address: SocketAddr) -> Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let who = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        epoll::add(
            &self.epoll,
            &stream,
            EventData::new_u64(who as u64),
            EventFlags::IN,
        )?;
        let name = format!("{address}: ").into_bytes();
        let empty = Vec::new;
        self.clients[who] = Some(Client {
            stream,
            name,
            upgraded: false,
            rest: empty(),
            backlog: empty(),
            own: 0..0,
        });
        Ok(())
    }

    fn leave(&mut self, who: usize) {
        // Closing the socket also takes it out of the epoll.
        self.clients[who] = None;
        self.free.push(who);
    }

    fn read(&mut self, who: usize) {
        let Some(client) = &mut self.clients[who] else {
            return;
        };
        let kept = client.rest.len();
        if self.input.len() < kept + READ_AT_ONCE {
            self.input.resize(kept + READ_AT_ONCE, 0);
        }
        self.input[..kept].copy_from_slice(&client.rest);
        let filled = match client
            .stream
            .read(&mut self.input[kept..kept + READ_AT_ONCE])
        {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Ok(0) | Err(_) => return self.leave(who),
            Ok(read) => kept + read,
        };
        let input = &self.input[..filled];
        let taken = if client.upgraded {
            client.frames(input, &mut self.turn)
        } else {
            client.upgrade(input)
        };
        match taken {
            Some(taken) => {
                client.rest.clear();
                client.rest.extend_from_slice(&input[taken..]);
            }
            None => self.leave(who),
        }
    }

    /// Writes this turn's lines to everyone, without a receiver's own.
    fn publish(&mut self) {
        if self.turn.is_empty() {
            return;
        }
        let turn = std::mem::take(&mut self.turn);
        for who in 0..self.clients.len() {
            if let Some(Client {
                upgraded: true,
                own,
                ..
            }) = &mut self.clients[who]
            {
                let own = std::mem::take(own);
                if own.is_empty() {
                    self.write(who, &[IoSlice::new(&turn)]);
                } else {
                    self.write(
                        who,
                        &[
                            IoSlice::new(&turn[..own.start]),
                            IoSlice::new(&turn[own.end..]),
                        ],
                    );
                }
            }
        }
        self.turn = turn;
        self.turn.clear();
    }

    /// Writes the pieces; what the kernel does not take becomes the backlog.
    fn write(&mut self, who: usize, pieces: &[IoSlice]) {
        let Some(client) = &mut self.clients[who] else {
            return;
        };
        let mut skip = 0;
        if client.backlog.is_empty() {
            match client.stream.write_vectored(pieces) {
                Ok(written) => skip = written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The next read says that the client is gone.
                Err(_) => return,
            }
            if skip == pieces.iter().map(|piece| piece.len()).sum() {
                return;
            }
            client.wake(&self.epoll, who, EventFlags::IN | EventFlags::OUT);
        }
        for piece in pieces {
            let gone = skip.min(piece.len());
            client.backlog.extend_from_slice(&piece[gone..]);
            skip -= gone;
        }
    }

    /// Writes of the backlog what the kernel takes now.
    fn flush(&mut self, who: usize) {
        let Some(client) = &mut self.clients[who] else {
            return;
        };
        let written = client.stream.write(&client.backlog).unwrap_or(0);
        client.backlog.drain(..written);
        if client.backlog.is_empty() {
            client.wake(&self.epoll, who, EventFlags::IN);
        }
    }
}

impl Client {
    fn wake(&self, epoll: &OwnedFd, who: usize, when: EventFlags) {
        // It can only fail for a socket that is not there.
        let _ = epoll::modify(epoll, &self.stream, EventData::new_u64(who as u64), when);
    }

    /// Answers the request for an upgrade; how many bytes were taken, `None` to close.
    fn upgrade(&mut self, input: &[u8]) -> Option<usize> {
        let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
            return Some(0);
        };
        let request = str::from_utf8(&input[..end]).ok()?;
        let headers = request.lines().filter_map(|line| line.split_once(':'));
        let key = headers
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?
            .1
            .trim();
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.stream.write_all(answer.as_bytes()).ok()?;
        self.upgraded = true;
        Some(end + 4)
    }

    /// Encodes every whole frame of `input` at the end of `turn`; how many bytes were taken, `None` to close.
    fn frames(&mut self, input: &[u8], turn: &mut Vec<u8>) -> Option<usize> {
        let started = turn.len();
        let mut at = 0;
        while let Some((head, length)) = head(&input[at..]) {
            let start = at + head;
            let Some(payload) = input.get(start..start + length) else {
                break;
            };
            let key = u32::from_ne_bytes(input[start - 4..start].try_into().unwrap());
            match input[at] & 0x0f {
                1 => relayed(turn, &self.name, payload, key),
                8 => {
                    // An empty close answers any close.
                    let _ = self.stream.write(&[0x88, 0]);
                    return None;
                }
                _ => {}
            }
            at = start + length;
        }
        self.own = started..turn.len();
        Some(at)
    }
}

/// The length of a masked frame's head (key included) and of its payload, once the head is all there.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let (head, length) = match bytes.get(1)? & 0x7f {
        126 => (
            8,
            u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize,
        ),
        127 => (
            14,
            u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize,
        ),
        short => (6, short as usize),
    };
    (bytes.len() >= head).then_some((head, length))
}

/// One line as every receiver gets it: a frame that is not masked, with the sender's name in front.
fn relayed(turn: &mut Vec<u8>, name: &[u8], masked: &[u8], key: u32) {
    match name.len() + masked.len() {
        length @ 0..126 => turn.extend_from_slice(&[0x81, length as u8]),
        length @ 126..65536 => {
            turn.extend_from_slice(&[0x81, 126]);
            turn.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            turn.extend_from_slice(&[0x81, 127]);
            turn.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    turn.extend_from_slice(name);
    let text = turn.len();
    turn.extend_from_slice(masked);
    let (words, tail) = turn[text..].as_chunks_mut::<4>();
    words
        .iter_mut()
        .for_each(|word| *word = (u32::from_ne_bytes(*word) ^ key).to_ne_bytes());
    tail.iter_mut()
        .zip(key.to_ne_bytes())
        .for_each(|(byte, key)| *byte ^= key);
}
