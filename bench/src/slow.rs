//! Those who do not read as they should, beside the clients that are counted: one that never reads, one
//! that takes a hundred bytes at a time, and ten that take half of what chat-pair asks of a reader that is
//! to be waited for. What they get is thrown away, and they say nothing.

use crate::wire::REQUEST;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How often they read.
const EVERY: Duration = Duration::from_millis(50);
/// How much each time: 2 KB a second, and …
const TRICKLE: usize = 100;
/// … 32 KiB a second.
const SLOW: usize = 32 * 1024 / 20;
/// The trickler's receive buffer. In one of the usual size what it takes would show only once a minute.
const NARROW: usize = 4096;

/// All of them, in a thread of their own, until the load generator ends.
pub struct Slow {
    lost: Arc<AtomicUsize>,
}

impl Slow {
    /// Lets them enter.
    pub fn enter(port: u16) -> std::result::Result<Slow, String> {
        let takes = [0, TRICKLE].into_iter().chain([SLOW; 10]);
        let readers: Result<Vec<_>> = takes.map(|take| Ok((take, connect(port, take)?))).collect();
        let readers = readers.map_err(|error| format!("a slow reader cannot enter: {error}"))?;
        let lost = Arc::new(AtomicUsize::new(0));
        let slow = Slow { lost: lost.clone() };
        thread::spawn(move || read(readers, &lost));
        Ok(slow)
    }

    /// How many of them the server has disconnected.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

fn connect(port: u16, take: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    if take == TRICKLE {
        set_socket_recv_buffer_size(&stream, NARROW)?;
    }
    write!(stream, "GET /{REQUEST}")?;
    let mut answer = vec![];
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn read(mut readers: Vec<(usize, TcpStream)>, lost: &AtomicUsize) {
    let mut buffer = [0; SLOW];
    loop {
        readers.retain_mut(|(take, stream)| {
            // Whoever takes nothing only looks whether it is still connected, as far as that can be seen.
            let read = match take {
                0 => stream
                    .take_error()
                    .map(|error| usize::from(error.is_none())),
                _ => stream.read(&mut buffer[..*take]),
            };
            let stays = match read {
                Ok(read) => read > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            lost.fetch_add(usize::from(!stays), Ordering::Relaxed);
            stays
        });
        thread::sleep(EVERY);
    }
}
