//! The load generator: all clients of a room in one thread and one epoll.
//!
//! It must cost less than the fastest server, so frames are written and read by hand, and a line that
//! arrives costs a walk over its frame's head, one number read and three counters. Still every delivery is
//! counted, and every line's number is compared with the one that this receiver must get next from
//! that sender: a line lost, doubled, out of order or echoed ends the run. Names and texts are compared
//! by sample.

use crate::proc::{Cpu, resident_kib};
use crate::scenario::{Load, Order, Outcome, Pace, percentile};
use crate::slow::Slow;
use crate::tls::{self, Link, READ};
use crate::wire::{ACCEPT, CLOSE, MASK, REQUEST, head, masked_frame, number};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::net::{self, AddressFamily, SocketType};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::ClientConfig;

/// A line that nobody got for so long will not come.
const STALLED: Duration = Duration::from_secs(5);
/// No run takes longer, connecting included.
const DEADLINE: Duration = Duration::from_secs(90);
/// Ports are counted per address; so many clients share one before the next 127.0.0.x is used.
const CLIENTS_PER_ADDRESS: usize = 1000;
/// Handshakes in flight while a room fills: below every server's backlog.
const AT_ONCE: usize = 64;
/// A server may answer the last handshake a moment before that client is in its room, and would be right
/// not to give it the lines of that moment.
const SETTLE: Duration = Duration::from_millis(300);
/// Lines whose receivers are still counted; a power of two, far above every window.
const SLOTS: usize = 1 << 16;

/// Instead of a number that no line of this sender may have here. No run sends so many lines.
const FOREIGN: u32 = u32::MAX - 1;

/// A prime, so that it is never the same line of a batch, or the same receiver, that is timed.
const SAMPLE: u64 = 61;

/// Lines in flight in each of several rooms.
pub const BURST: usize = 32;

type Check<T> = Result<T, String>;

/// Carries out one order.
pub fn run(order: &Order) -> Outcome {
    match order.load {
        Load::Room {
            rooms,
            clients,
            senders,
            line,
            pace,
            slow,
        } => slow
            .then(|| Slow::enter(order.ports[0]))
            .transpose()
            .and_then(|slow| {
                let room = Room::enter(order, rooms, clients, senders, line)?;
                room.measure(order, pace, slow)
            }),
        Load::Idle { clients } => idle(order, clients),
        Load::Handshakes => handshakes(order),
        Load::Start => Err("needs no load generator".to_owned()),
    }
    .into()
}

fn idle(order: &Order, clients: usize) -> Check<Outcome> {
    let before = resident_kib(order)?;
    let mut room = Room::enter(order, 1, clients, 1, 64)?;
    room.settle(Duration::from_millis(order.warm_up_ms * 2))?;
    let each = (resident_kib(order)? - before) / clients as f64;
    Ok(Outcome::of([("kib_per_connection", each)]))
}

fn handshakes(order: &Order) -> Check<Outcome> {
    let tls = session_config(order)?;
    let (mut plain, mut wire) = (vec![0; READ], vec![0; READ]);
    let (mut counted, mut done) = (None, 0u32);
    let warm = Instant::now() + Duration::from_millis(order.warm_up_ms);
    for index in 0.. {
        let now = Instant::now();
        if counted.is_none() && now >= warm {
            counted = Some((Cpu::now(order)?, now));
            done = 0;
        }
        if let Some((cpu, since)) = &counted {
            let seconds = since.elapsed().as_secs_f64();
            if seconds * 1000.0 >= order.counted_ms as f64 {
                let cores = cpu.cores(order, seconds)?;
                let rate = f64::from(done) / seconds;
                return Ok(Outcome::of([
                    ("per_second", rate),
                    ("server_cpu", cores.server),
                    ("load_cpu", cores.load),
                ]));
            }
        }
        // One connection per address in turn, or the ports of closed ones would run out.
        let mut client =
            Client::connect(&order.ports, tls.as_ref(), "/", index * CLIENTS_PER_ADDRESS)?;
        client.finish_upgrade(&mut plain, &mut wire)?;
        client
            .link
            .write(&CLOSE)
            .map_err(|error| format!("close: {error}"))?;
        if !matches!(client.link.read(&mut plain, &mut wire), Ok(1..)) || plain[0] != 0x88 {
            return Err("no close frame answered a close frame".to_owned());
        }
        done += 1;
    }
    unreachable!("the loop ends by the clock")
}

fn session_config(order: &Order) -> Check<Option<Arc<ClientConfig>>> {
    order.certificate.as_deref().map(tls::config).transpose()
}

struct Client {
    link: Link,
    /// `IP:PORT: `, what the server puts before its lines.
    name: String,
    /// The start of a frame whose end has not come yet.
    rest: Vec<u8>,
    /// What still has to be written.
    out: Vec<u8>,
}

impl Client {
    /// Connects and asks for the upgrade, or for the session first; `finish_upgrade` does the rest.
    fn connect(
        ports: &[u16],
        tls: Option<&Arc<ClientConfig>>,
        path: &str,
        index: usize,
    ) -> Check<Client> {
        let start = || -> std::io::Result<Client> {
            let port = ports[index % ports.len()];
            let host = 1 + (index / CLIENTS_PER_ADDRESS % 250) as u8;
            let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            net::bind(
                &socket,
                &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0),
            )?;
            net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(STALLED))?;
            let name = format!("{}: ", stream.local_addr()?);
            let mut client = Client {
                link: Link::begin(stream, tls)?,
                name,
                rest: vec![],
                out: format!("GET {path}{REQUEST}").into_bytes(),
            };
            if tls.is_none() {
                client.request()?;
            }
            Ok(client)
        };
        start().map_err(|error| format!("client {index} cannot connect: {error}"))
    }

    /// Writes what is in `out`, to a socket that takes all of it.
    fn request(&mut self) -> std::io::Result<()> {
        let out = std::mem::take(&mut self.out);
        match self.link.write(&out)? == out.len() {
            true => Ok(()),
            false => Err(ErrorKind::WriteZero.into()),
        }
    }

    fn finish_upgrade(&mut self, plain: &mut [u8], wire: &mut [u8]) -> Check<()> {
        if !self.out.is_empty() {
            self.link
                .finish_handshake()
                .and_then(|()| self.request())
                .map_err(|error| format!("TLS handshake: {error}"))?;
        }
        loop {
            if let Some(end) = memchr::memmem::find(&self.rest, b"\r\n\r\n") {
                let answer = String::from_utf8_lossy(&self.rest[..end]);
                if !answer.starts_with("HTTP/1.1 101 ") || !answer.contains(ACCEPT) {
                    return Err(format!(
                        "refused: {}",
                        answer.lines().next().unwrap_or_default()
                    ));
                }
                self.rest.drain(..end + 4);
                return Ok(());
            }
            match self.link.read(plain, wire) {
                Ok(0) => return Err("lost clients: closed during the handshake".to_owned()),
                Ok(read) => self.rest.extend_from_slice(&plain[..read]),
                Err(error) => return Err(format!("handshake: {error}")),
            }
        }
    }
}

struct Room {
    epoll: OwnedFd,
    clients: Vec<Client>,
    events: Vec<Event>,
    buffer: Vec<u8>,
    /// What was read from a socket and is not decrypted yet.
    wire: Vec<u8>,
    /// Clients with something to write.
    unwritten: Vec<usize>,

    /// Client `n` is in room `n % rooms`.
    rooms: usize,
    senders: usize,
    /// How many lines a sender sends before it is the next one's turn. With several rooms these are
    /// all that are in flight in its room, so that the server finds in each what it finds in one.
    burst: usize,
    /// The frame of every line, masked; only its number changes.
    frame: Vec<u8>,
    /// The text of every line, not masked.
    text: Vec<u8>,
    /// The number of the next line. Line `n` is sent by client `n / burst % senders`, so one number inside the
    /// line says who sent it and the how manieth of that sender it is.
    next: u32,
    /// By receiver and sender: the number of the line that must come next. `u32::MAX` for oneself,
    /// `FOREIGN` for a sender in another room.
    expected: Vec<u32>,
    /// By line, modulo `SLOTS`: receivers that do not have it yet, and when it was sent.
    missing: Vec<u32>,
    sent: Vec<Instant>,
    in_flight: usize,
    deliveries: u64,

    started: Instant,
    /// When bytes were last read.
    read_at: Instant,
    timed: Timed,
    /// In milliseconds, one for each delivery that is timed.
    latencies: Vec<f64>,
}

/// Which deliveries are timed.
enum Timed {
    None,
    /// One in `SAMPLE`.
    Some,
    All,
}

impl Room {
    fn enter(
        order: &Order,
        rooms: usize,
        count: usize,
        senders: usize,
        line: usize,
    ) -> Check<Room> {
        let tls = session_config(order)?;
        let (mut buffer, mut wire) = (vec![0; READ], vec![0; READ]);
        let started = Instant::now();
        let burst = if rooms == 1 { 1 } else { BURST };
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let first = clients.len();
            for index in first..count.min(first + AT_ONCE) {
                let path = match rooms {
                    1 => "/".to_owned(),
                    _ => format!("/r{}", index % rooms),
                };
                clients.push(Client::connect(&order.ports, tls.as_ref(), &path, index)?);
            }
            clients[first..]
                .iter_mut()
                .try_for_each(|client| client.finish_upgrade(&mut buffer, &mut wire))?;
            if started.elapsed() > DEADLINE {
                return Err(format!("only {} clients after {DEADLINE:?}", clients.len()));
            }
        }
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
        for (who, client) in clients.iter().enumerate() {
            client
                .link
                .stream
                .set_nonblocking(true)
                .map_err(|error| error.to_string())?;
            epoll::add(
                &epoll,
                &client.link.stream,
                EventData::new_u64(who as u64),
                EventFlags::IN,
            )
            .map_err(|error| error.to_string())?;
        }
        let text: Vec<u8> = b"00000000 "
            .iter()
            .copied()
            .chain((b'a'..=b'z').cycle())
            .take(line)
            .collect();
        let expected = (0..count)
            .flat_map(|who| {
                (0..senders).map(move |sender| {
                    if who == sender {
                        u32::MAX
                    } else if who % rooms != sender % rooms {
                        FOREIGN
                    } else {
                        (sender * burst) as u32
                    }
                })
            })
            .collect();
        let mut room = Room {
            epoll,
            clients,
            events: Vec::with_capacity(1024),
            buffer,
            wire,
            unwritten: vec![],
            rooms,
            senders,
            burst,
            frame: masked_frame(&text),
            text,
            next: 0,
            expected,
            missing: vec![0; SLOTS],
            sent: vec![started; SLOTS],
            in_flight: 0,
            deliveries: 0,
            started,
            read_at: started,
            timed: Timed::None,
            latencies: vec![],
        };
        room.settle(SETTLE)?;
        Ok(room)
    }

    /// Only answers pings for so long.
    fn settle(&mut self, time: Duration) -> Check<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Warms up, counts, then waits for every line still in flight.
    fn measure(mut self, order: &Order, pace: Pace, slow: Option<Slow>) -> Check<Outcome> {
        let start = Instant::now();
        let count_from = start + Duration::from_millis(order.warm_up_ms);
        let mut counted = None;
        let mut send_at = start;
        let (seconds, cores, deliveries) = loop {
            let now = Instant::now();
            if counted.is_none() && now >= count_from {
                counted = Some((now, Cpu::now(order)?, self.deliveries));
                self.timed = match pace {
                    Pace::Window(_) if slow.is_none() => Timed::None,
                    Pace::Window(_) => Timed::Some,
                    _ => Timed::All,
                };
            }
            if let Some((since, cpu, before)) = &counted {
                let seconds = (now - *since).as_secs_f64();
                if seconds * 1000.0 >= order.counted_ms as f64 {
                    let cores = cpu.cores(order, seconds)?;
                    break (seconds, cores, self.deliveries - before);
                }
            }
            let wait = self.send_what_is_due(pace, now, &mut send_at);
            self.turn(wait)?;
        };
        while self.in_flight > 0 {
            self.turn(Duration::from_millis(100))?;
        }
        // Whatever comes now has been delivered before, and fails the run.
        self.turn(Duration::from_millis(20))?;

        let rate = deliveries as f64 / seconds;
        let mut outcome = Outcome::of([
            ("deliveries_per_second", rate),
            ("ns_per_delivery", 1e9 / rate),
            ("server_cpu", cores.server),
            ("server_ns_per_delivery", 1e9 * cores.server / rate),
            ("load_cpu", cores.load),
        ]);
        if let Some(nats) = cores.nats {
            outcome.values.insert("nats_cpu".to_owned(), nats);
        }
        self.latencies.sort_by(f64::total_cmp);
        if !self.latencies.is_empty() {
            for (key, share) in [
                ("p50_ms", 0.5),
                ("p99_ms", 0.99),
                ("p99.9_ms", 0.999),
                ("longest_ms", 1.0),
            ] {
                let value = percentile(&self.latencies, share);
                outcome.values.insert(key.to_owned(), value);
            }
        }
        if let Some(slow) = slow {
            let lost = slow.lost() as f64;
            outcome.values.insert("slow_lost".to_owned(), lost);
        }
        Ok(outcome)
    }

    /// Sends, and returns how long the next turn may wait for something to read.
    fn send_what_is_due(&mut self, pace: Pace, now: Instant, send_at: &mut Instant) -> Duration {
        match pace {
            Pace::Window(window) => {
                // A slot is still taken when one sender is far behind the others.
                while self.in_flight < window && self.missing[self.next as usize % SLOTS] == 0 {
                    self.send();
                }
                return Duration::from_millis(100);
            }
            Pace::PerSecond(lines) => {
                while *send_at <= now {
                    self.send();
                    *send_at += Duration::from_secs(1) / lines;
                }
            }
            Pace::Pause(pause) => {
                if self.in_flight > 0 {
                    *send_at = self.read_at + Duration::from_millis(pause);
                    return Duration::from_millis(100);
                } else if *send_at <= now {
                    self.send();
                    return Duration::from_millis(100);
                }
            }
        }
        *send_at - now
    }

    /// Queues the next line with its sender; `turn` writes it.
    fn send(&mut self) {
        let sender = self.next as usize / self.burst % self.senders;
        let head = self.frame.len() - self.text.len();
        let mut rest = self.next;
        for at in (0..8).rev() {
            self.frame[head + at] = (b'0' + (rest % 10) as u8) ^ MASK[at % 4];
            rest /= 10;
        }
        let out = &mut self.clients[sender].out;
        if out.is_empty() {
            self.unwritten.push(sender);
        }
        out.extend_from_slice(&self.frame);
        let slot = self.next as usize % SLOTS;
        self.missing[slot] = (self.clients.len() / self.rooms) as u32 - 1;
        self.sent[slot] = Instant::now();
        self.in_flight += 1;
        self.next += 1;
    }

    /// Writes what is queued, waits, reads once from every client that has something.
    fn turn(&mut self, wait: Duration) -> Check<()> {
        self.write()?;
        // With bytes that the kernel would not take yet, look again soon.
        let wait = if self.unwritten.is_empty() {
            wait
        } else {
            Duration::from_millis(1)
        };
        let milliseconds = Duration::from_millis(wait.as_micros().div_ceil(1000) as u64);
        let timeout = milliseconds.try_into().map_err(|_| "a wait too long")?;
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        )
        .map_err(|error| error.to_string())?;
        for event in &events {
            self.read(event.data.u64() as usize)?;
        }
        self.events = events;
        if self.in_flight > 0 && self.read_at.elapsed() > STALLED {
            return Err(format!(
                "lost lines: {} of them undelivered for {STALLED:?}",
                self.in_flight
            ));
        }
        if self.started.elapsed() > DEADLINE {
            return Err(format!("not done after {DEADLINE:?}"));
        }
        Ok(())
    }

    fn write(&mut self) -> Check<()> {
        let mut unwritten = std::mem::take(&mut self.unwritten);
        let mut lost = None;
        unwritten.retain(|&who| {
            let Client { link, out, .. } = &mut self.clients[who];
            match link.write(out) {
                Ok(written) => _ = out.drain(..written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => lost = Some(format!("lost clients: {error}")),
            }
            !out.is_empty() || link.has_unwritten()
        });
        self.unwritten = unwritten;
        lost.map_or(Ok(()), Err)
    }

    fn read(&mut self, who: usize) -> Check<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let client = &mut self.clients[who];
        let kept = client.rest.len();
        if buffer.len() < kept + READ {
            buffer.resize(kept + READ, 0);
        }
        buffer[..kept].copy_from_slice(&client.rest);
        let plain = &mut buffer[kept..kept + READ];
        let filled = match client.link.read(plain, &mut self.wire) {
            Ok(0) => return Err(format!("lost clients: number {who} was disconnected")),
            Ok(read) => kept + read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => kept,
            Err(error) => return Err(format!("lost clients: {error}")),
        };
        self.read_at = Instant::now();
        let taken = self.frames(who, &buffer[..filled])?;
        let rest = &mut self.clients[who].rest;
        rest.clear();
        rest.extend_from_slice(&buffer[taken..filled]);
        self.buffer = buffer;
        Ok(())
    }

    /// Counts every line of every whole frame; returns how many bytes those were.
    fn frames(&mut self, who: usize, bytes: &[u8]) -> Check<usize> {
        let mut at = 0;
        while let Some((head, length)) = head(&bytes[at..]) {
            let Some(payload) = bytes.get(at + head..at + head + length) else {
                break;
            };
            match bytes[at] {
                0x81 => self.lines(who, payload)?,
                0x88 => {
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                    return Err(format!("lost clients: number {who} was closed, {reason:?}"));
                }
                0x89 => self.pong(who, payload),
                0x8a => {}
                other => {
                    return Err(format!(
                        "a frame that no server here should send: {other:#x}"
                    ));
                }
            }
            at += head + length;
        }
        Ok(at)
    }

    /// A text message is one line, or several joined by line feeds.
    fn lines(&mut self, receiver: usize, mut message: &[u8]) -> Check<()> {
        // No name is longer than this, so a message that fits is one line and need not be searched.
        let longest = "255.255.255.255:65535: ".len() + self.text.len();
        while message.len() > longest {
            let Some(end) = memchr::memchr(b'\n', &message[self.text.len()..]) else {
                break;
            };
            let (line, rest) = message.split_at(self.text.len() + end);
            self.line(receiver, line)?;
            message = &rest[1..];
        }
        self.line(receiver, message)
    }

    fn line(&mut self, receiver: usize, line: &[u8]) -> Check<()> {
        let unlike = || {
            format!(
                "not a line that was sent: {:?}",
                String::from_utf8_lossy(&line[..line.len().min(90)])
            )
        };
        let name = line.len().checked_sub(self.text.len()).ok_or_else(unlike)?;
        let number = number(line[name..].first_chunk().ok_or_else(unlike)?);
        let sender = if self.senders == 1 {
            0
        } else {
            number as usize / self.burst % self.senders
        };
        let expected = &mut self.expected[receiver * self.senders + sender];
        if *expected != number {
            let what = match *expected {
                u32::MAX => "echo: a sender got its own line",
                FOREIGN => "foreign: a line of another room",
                wanted if wanted < number => "lost lines, or out of order",
                _ => "doubled lines",
            };
            return Err(format!(
                "{what}: client {receiver} got line {number}, expected {expected}"
            ));
        }
        *expected += 1;
        if (*expected as usize).is_multiple_of(self.burst) {
            *expected += ((self.senders - 1) * self.burst) as u32;
        }
        if self.deliveries.is_multiple_of(256) {
            let same = line[..name] == *self.clients[sender].name.as_bytes()
                && line[name + 8..] == self.text[8..];
            same.then_some(()).ok_or_else(unlike)?;
        }
        let slot = number as usize % SLOTS;
        self.missing[slot] -= 1;
        self.in_flight -= usize::from(self.missing[slot] == 0);
        self.deliveries += 1;
        let is_timed = match self.timed {
            Timed::None => false,
            Timed::Some => self.deliveries.is_multiple_of(SAMPLE),
            Timed::All => true,
        };
        if is_timed {
            let latency = self.read_at - self.sent[slot];
            self.latencies.push(latency.as_secs_f64() * 1000.0);
        }
        Ok(())
    }

    fn pong(&mut self, who: usize, payload: &[u8]) {
        let out = &mut self.clients[who].out;
        if out.is_empty() {
            self.unwritten.push(who);
        }
        // Masked with zero; a ping has at most 125 bytes.
        out.extend_from_slice(&[0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
        out.extend_from_slice(payload);
    }
}
