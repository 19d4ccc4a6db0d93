//! A minute of everything at once: `cargo test --test soak -- --ignored`, or for longer with
//! `SOAK_SECONDS=3600`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use support::raw::{Ear, FIN, PING, REQUEST, Raw, TEXT, frame, missed};
use support::{PATIENCE, Server, descriptors, resident};

const MORE: usize = 8 * 1024 * 1024;

/// What one bad peer does, over and over, until all is over.
type Bad = fn(u16, u32);

fn churn(port: u16, _: u32) {
    let mut raw = Raw::join(port);
    raw.say("hello and goodbye");
    raw.send(&frame(0x88, &1000_u16.to_be_bytes()));
    raw.close();
}

fn flood(port: u16, _: u32) {
    let mut raw = Raw::join(port);
    let reading = raw.read_in_background();
    for n in 0..2000 {
        raw.say(&format!("flood {n}"));
    }
    raw.shut();
    reading.join().unwrap();
}

fn many_lines(port: u16, _: u32) {
    let mut raw = Raw::join(port);
    raw.say(&"a\n".repeat(1000));
    raw.shut();
}

fn reset(port: u16, n: u32) {
    let mut raw = Raw::tcp(port);
    if n.is_multiple_of(2) {
        raw.send(REQUEST.as_bytes());
        raw.head();
        raw.say("gone");
    }
    raw.reset();
}

fn garbage(port: u16, n: u32) {
    let mut raw = Raw::tcp(port);
    let bytes: Vec<u8> = (0..300_u32)
        .map(|i| (i + n).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    if n.is_multiple_of(2) {
        raw.send(REQUEST.as_bytes());
        raw.head();
    }
    let _ = raw.stream.write_all(&bytes);
    raw.shut();
    let _ = io::copy(&mut raw.stream, &mut io::sink());
}

fn half_a_handshake(port: u16, _: u32) {
    let mut raw = Raw::tcp(port);
    raw.send(&REQUEST.as_bytes()[..40]);
    // Until the server has had enough.
    let _ = io::copy(&mut raw.stream, &mut io::sink());
}

/// Pings that nobody takes the answers of, or nothing at all.
fn never_reads(port: u16, n: u32) {
    let mut raw = Raw::narrow(port);
    let ping = frame(
        FIN | if n.is_multiple_of(2) { PING } else { TEXT },
        &[b'x'; 100],
    );
    // Until it is cut off.
    while raw.stream.write_all(&ping).is_ok() {}
}

/// Well-behaved: reads all the time, and hands on what the other of the two says.
struct Good {
    raw: Raw,
    lines: Receiver<String>,
}

impl Good {
    fn pair(port: u16) -> [Self; 2] {
        let [ann, bob] = [Raw::join(port), Raw::join(port)];
        let names = [ann.name(), bob.name()];
        [
            Self::hearing(ann, names[1].clone()),
            Self::hearing(bob, names[0].clone()),
        ]
    }

    fn hearing(raw: Raw, other: String) -> Self {
        let (sender, lines) = channel();
        let mut ear = Ear::of(raw.again());
        thread::spawn(move || {
            while let Some(text) = ear.text() {
                let own = text.strip_prefix(&*other);
                if let Some(said) = own.and_then(|rest| rest.strip_prefix(": ")) {
                    sender.send(said.to_owned()).unwrap();
                } else if missed(text).is_some() {
                    sender.send(text.to_owned()).unwrap();
                }
            }
        });
        Self { raw, lines }
    }

    fn pass(&mut self, other: &Self, n: u64) {
        let line = format!("line {n}");
        self.raw.say(&line);
        assert_eq!(other.lines.recv_timeout(PATIENCE), Ok(line));
    }
}

/// Also when the test fails, the others stop.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
#[ignore = "takes a minute: SOAK_SECONDS"]
fn a_minute_of_everything_at_once() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(60, |text| text.parse().unwrap());
    let start = Instant::now();
    let mut server = Server::start();
    let (port, id) = (server.port, server.program.id());
    let before = descriptors(id);
    let over = AtomicBool::new(false);
    let bad: [Bad; 8] = [
        churn,
        flood,
        many_lines,
        reset,
        garbage,
        half_a_handshake,
        never_reads,
        never_reads,
    ];
    let early = thread::scope(|scope| {
        let stop = Over(&over);
        for (first, bad) in (0..).zip(bad) {
            let over = &over;
            scope.spawn(move || {
                for n in (first..).take_while(|_| !over.load(Relaxed)) {
                    bad(port, n);
                }
            });
        }
        let [mut ann, mut bob] = Good::pair(port);
        let mut early = None;
        for n in 0.. {
            ann.pass(&bob, n);
            bob.pass(&ann, n);
            while server.program.out.try_next().is_some() {}
            let ran = start.elapsed().as_secs();
            if ran >= seconds / 3 && early.is_none() {
                early = Some(resident(id, "VmRSS"));
            }
            if ran >= seconds {
                break;
            }
        }
        drop(stop);
        for good in [ann, bob] {
            good.raw.stream.shutdown(Shutdown::Both).unwrap();
        }
        early.unwrap()
    });

    let until = Instant::now() + PATIENCE;
    while descriptors(id) > before {
        assert!(Instant::now() < until, "descriptors are left");
        thread::yield_now();
    }
    let late = resident(id, "VmRSS");
    assert!(late < early + MORE, "{early} bytes grew to {late}");
    server.stop();
    for line in server.program.err_rest() {
        assert!(!line.contains("a fault of this server"), "{line}");
    }
}
