//! The server's promises where they are hardest to keep: many speak at once, a reader is slow but
//! lives, another hardly reads at all, and the server is asked to stop in the middle of it.
//!
//! A slow reader here is paced by what it sees, never by a clock: it reads a piece whenever
//! something else has happened. So the tests ask for the same on a slow machine.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::thread;

use crate::support::raw::{CLOSE, Ear, FIN, PING, PONG, REQUEST, Raw, close_frame, missed};
use crate::support::{Port, Program, Server, resident, served_or_refused};
use chat_pair::server::limits::Limits;

/// The longest line that a client may say.
fn long_line() -> String {
    "x".repeat(Limits::DEFAULT.message)
}

/// Everything that a reader hears to its end.
fn all(mut ear: Ear) -> HashSet<String> {
    let mut heard = HashSet::new();
    while let Some(text) = ear.text() {
        assert_eq!(missed(text), None);
        heard.insert(text.to_owned());
    }
    heard
}

/// Each line that was confirmed is among those that were heard.
fn were_heard(confirmed: &[String], heard: &HashSet<String>) {
    let lost = confirmed.iter().filter(|line| !heard.contains(*line));
    let (count, some) = (lost.clone().count(), lost.take(3).collect::<Vec<_>>());
    assert!(count == 0, "{count} confirmed and not heard: {some:?} ...");
}

/// Waits for the end of the server, and returns the lines that its log says it has received.
fn received(mut server: Server) -> Vec<String> {
    assert_eq!(server.program.exit(), 0);
    let log = server.program.rest();
    log.iter()
        .filter_map(|line| line.strip_prefix("Received from "))
        .map(str::to_owned)
        .collect()
}

/// More batches than the room keeps, from speakers whom the server finds all at once. They must
/// wait for those who read, a slow one too: it sees a newcomer in before each piece that it reads.
#[test]
fn a_crowd_with_long_lines_waits_for_those_who_read() {
    const EACH: usize = 4;
    const CROWD: usize = 320;
    const PIECE: usize = 64 * 1024;
    let server = Server::start();
    let port = server.port;
    let (mut quick, mut slow) = (Ear::join(port), Ear::join(port));
    let mut crowd = Raw::crowd(port, CROWD);
    let line = long_line();
    server.while_stopped(|| {
        for raw in &mut crowd {
            (0..EACH).for_each(|_| raw.say(&line));
            raw.send(&close_frame(1000, ""));
        }
    });
    // The speakers read too, so that nobody has a reason to go on without them.
    let reading: Vec<_> = crowd.iter().map(Raw::read_in_background).collect();
    let slow = thread::spawn(move || {
        for n in 0..CROWD * EACH {
            let text = slow.text_in_pieces(PIECE, || drop(Raw::join(port)));
            assert_eq!(missed(text.expect("a line")), None, "after {n} lines");
        }
    });
    for n in 0..CROWD * EACH {
        let text = quick.text().expect("a line");
        assert_eq!(missed(text), None, "after {n} lines");
    }
    slow.join().unwrap();
    for reader in reading {
        reader.join().unwrap();
    }
}

/// It reads a little only when one of its own lines was heard: the server must read from it while
/// it has more to write than the reader takes.
#[test]
fn a_slow_reader_is_heard_while_it_is_behind_and_misses_nothing() {
    const LINES: usize = 30;
    const OWN: usize = 20;
    let server = Server::start();
    let mut slow = Ear::of(Raw::narrow(server.port));
    let (mut ann, mut bob) = (Raw::join(server.port), Ear::join(server.port));
    let text = "x".repeat(4000);
    for n in 0..LINES {
        ann.say(&format!("{n} {text}"));
        bob.text().expect("a line");
    }
    let name = slow.raw.name();
    for n in 0..OWN {
        slow.raw.say(&n.to_string());
        assert_eq!(bob.text(), Some(&*format!("{name}: {n}")));
        slow.read_piece(1024);
    }
    slow.raw.widen();
    let name = ann.name();
    for n in 0..LINES {
        assert_eq!(slow.text(), Some(&*format!("{name}: {n} {text}")));
    }
}

/// Somebody always has more to say than it takes, so it is behind all the time: the server listens to it, and
/// tells it so.
#[test]
fn a_reader_that_is_always_behind_gets_its_pongs() {
    const PIECE: usize = 4096;
    const PONGS: usize = 5;
    const BEHIND: usize = 512 * 1024;
    const FLOOD: usize = 8 * 1024 * 1024;
    let server = Server::start();
    let mut slow = Ear::of(Raw::narrow(server.port));
    let mut flood = Program::client(server.port);
    let mut input = flood.input.take().unwrap();
    let typing = thread::spawn(move || {
        let line = "x".repeat(4000);
        // To the end of the client.
        while writeln!(input, "{line}").is_ok() {}
    });
    let next = |slow: &mut Ear| {
        let before = || drop(Raw::join(server.port));
        let (first, payload) = slow.frame_in_pieces(PIECE, before).expect("a frame");
        (first, payload.len())
    };
    for pongs in 0..PONGS {
        let mut heard = 0;
        while heard < BEHIND {
            heard += next(&mut slow).1;
        }
        slow.raw.say("hello");
        slow.raw.send_frame(FIN | PING, b"taken?");
        loop {
            let (first, len) = next(&mut slow);
            if first == FIN | PONG {
                break;
            }
            heard += len;
            assert!(heard < FLOOD, "{pongs} pongs");
        }
    }
    drop(flood);
    typing.join().unwrap();
}

/// What the formula allows for, all at once: readers that take nothing, ten that take a little,
/// and speakers who have more to say than the room keeps.
#[test]
fn memory_stays_within_its_bound_with_all_of_it_at_once() {
    const STUCK: usize = 300;
    const SPEAKERS: usize = 64;
    const EACH: usize = Limits::DEFAULT.ring * 5 / 4 / SPEAKERS;
    let limits = Limits {
        connections: STUCK + SPEAKERS + 20,
        ..Limits::DEFAULT
    };
    let most = limits.connections.to_string();
    let server = Server::with(&["--max-connections", &most]);
    let narrow = || Raw::narrow(server.port);
    let stuck: Vec<_> = (0..STUCK).map(|_| narrow()).collect();
    let mut tricklers: Vec<_> = (0..10).map(|_| Ear::of(narrow())).collect();
    let mut ear = Ear::join(server.port);
    let speakers = Raw::crowd(server.port, SPEAKERS);
    let speaking: Vec<_> = speakers
        .into_iter()
        .map(|mut raw| {
            let (reading, line) = (raw.read_in_background(), long_line());
            let saying = thread::spawn(move || {
                (0..EACH).for_each(|_| raw.say(&line));
                raw
            });
            (reading, saying)
        })
        .collect();
    for n in 0..SPEAKERS * EACH {
        let text = ear.text().expect("a line");
        assert_eq!(missed(text), None, "after {n} lines");
        tricklers[n % 10].read_piece(100);
    }
    let resident = resident(server.program.id(), "VmHWM");
    let bound = limits.memory();
    assert!(resident < bound, "{resident} of {bound} bytes");
    drop(stuck);
    for (reading, saying) in speaking {
        saying.join().unwrap().shut();
        reading.join().unwrap();
    }
}

/// The server finds the request to stop together with lines, the pings behind them, and Closes
/// behind others. A pong, an answer of 1000 and the log each say that a line was taken.
#[test]
fn what_is_confirmed_at_a_stop_was_heard() {
    const LINES: usize = 20;
    let server = Server::start();
    let ear = Ear::join(server.port);
    let mut asking = Raw::crowd(server.port, 6);
    let mut leaving = Raw::crowd(server.port, 25);
    server.while_stopped(|| {
        for raw in &mut asking {
            for n in 0..LINES {
                raw.say(&n.to_string());
                raw.send_frame(FIN | PING, n.to_string().as_bytes());
            }
        }
        for raw in &mut leaving {
            raw.say("goodbye");
            raw.send(&close_frame(1000, ""));
        }
        server.program.signal("TERM");
    });
    let hearing = thread::spawn(move || all(ear));
    let mut confirmed = Vec::new();
    for raw in &mut asking {
        while let Some((first, payload)) = raw.frame().filter(|frame| frame.0 != FIN | CLOSE) {
            if first == FIN | PONG {
                let number = String::from_utf8(payload).unwrap();
                confirmed.push(format!("{}: {number}", raw.name()));
            }
        }
    }
    for raw in &mut leaving {
        if raw.close().0 == 1000 {
            confirmed.push(format!("{}: goodbye", raw.name()));
        }
    }
    drop((asking, leaving));
    let heard = hearing.join().unwrap();
    // Of the 31 each has an even chance that its lines are found before the request to stop.
    assert!(!confirmed.is_empty());
    confirmed.extend(received(server));
    were_heard(&confirmed, &heard);
}

#[test]
fn what_six_busy_pipes_have_in_the_log_at_a_stop_was_heard() {
    const PIPES: usize = 6;
    let server = Server::start();
    let mut ear = Ear::join(server.port);
    let mut pipes: Vec<_> = (0..PIPES).map(|_| Program::client(server.port)).collect();
    let typing: Vec<_> = pipes
        .iter_mut()
        .map(|client| {
            let mut input = client.input.take().unwrap();
            // To the end of the client.
            thread::spawn(move || {
                let mut n: u64 = 0;
                while writeln!(input, "{n}").is_ok() {
                    n += 1;
                }
            })
        })
        .collect();
    let mut heard = HashSet::new();
    for _ in 0..2000 {
        heard.insert(ear.text().expect("a line").to_owned());
    }
    server.program.signal("TERM");
    heard.extend(all(ear));
    let received = received(server);
    assert!(received.len() >= 2000);
    were_heard(&received, &heard);
    drop(pipes);
    for thread in typing {
        thread.join().unwrap();
    }
}

#[test]
fn a_terminal_that_hangs_up_is_a_request_to_stop() {
    for signal in ["HUP", "TERM", "INT"] {
        let mut server = Server::start();
        let mut ann = Raw::join(server.port);
        server.program.signal(signal);
        assert_eq!(ann.close(), (1001, "server shutting down".to_owned()));
        drop(ann);
        assert_eq!(server.program.exit(), 0, "SIG{signal}");
        assert_eq!(server.program.err_rest(), [""; 0]);
    }
}

#[test]
fn an_empty_line_is_a_line() {
    let mut server = Server::start();
    let mut ann = Raw::join(server.port);
    let name = server.joined();
    let mut bob = Raw::join(server.port);
    server.joined();
    for (said, lines) in [
        ("", &[""][..]),
        ("\n", &[""]),
        ("\r\n", &[""]),
        ("\n\n", &["", ""]),
        ("one\n\ntwo", &["one", "", "two"]),
        ("\r\none\r\n", &["", "one"]),
        ("one\n", &["one"]),
    ] {
        ann.say(said);
        for line in lines {
            assert_eq!(bob.text(), format!("{name}: {line}"), "{said:?}");
            assert_eq!(server.line(), format!("Received from {name}: {line}"));
        }
    }
    ann.say("the end");
    assert_eq!(bob.text(), format!("{name}: the end"));
}

#[test]
fn a_full_disk_under_the_log_is_named_and_the_chat_goes_on() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let port = Port::hold();
    let mut command = Program::command("server");
    command.args(["--listen", &format!("127.0.0.1:{}", port.number)]);
    let mut server = Program::spawn_on(&mut command, full.into(), Stdio::piped());
    let said = server.err_line();
    assert!(said.starts_with("server: "), "{said}");
    assert!(said.contains("no space left on device"), "{said}");
    let (mut ann, mut bob) = (Raw::join(port.number), Raw::join(port.number));
    for n in 0..100 {
        ann.say(&n.to_string());
        assert_eq!(bob.text(), format!("{}: {n}", ann.name()));
    }
    drop((ann, bob));
    server.signal("TERM");
    assert_eq!(server.exit(), 0);
}

/// Asks to join as a page of this origin does; returns the first line of the answer.
fn asked_by_page(port: u16, origin: &str) -> String {
    let mut raw = Raw::tcp(port);
    let request = REQUEST.trim_end();
    raw.send(format!("{request}\r\nOrigin: {origin}\r\n\r\n").as_bytes());
    raw.head().lines().next().unwrap().to_owned()
}

/// A browser sends an origin in one way only (RFC 6454 6.2), a person writes it in several.
#[test]
fn an_origin_is_understood_as_people_write_it_or_refused() {
    for (written, sent) in [
        ("https://a.example/", "https://a.example"),
        ("HTTPS://A.Example", "https://a.example"),
        ("http://a.example:8000/", "http://a.example:8000"),
        ("a.example", "https://a.example"),
    ] {
        let mut command = Program::command("server");
        command.args(["--allow-origin", written]);
        if let Some(server) = served_or_refused(&mut command, written) {
            let answer = asked_by_page(server.port, sent);
            assert!(answer.starts_with("HTTP/1.1 101 "), "{written}: {answer}");
        }
    }
}

#[test]
fn the_log_names_the_origin_that_was_refused() {
    let mut server = Server::with(&["--allow-origin", "https://a.example"]);
    let answer = asked_by_page(server.port, "https://b.example");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let said = server.program.err_line();
    assert!(said.contains("https://b.example"), "{said}");
}

/// A port alone is this machine's, as the default is.
#[test]
fn a_port_alone_is_understood_or_refused_with_the_form() {
    for colon in ["", ":"] {
        let port = Port::hold();
        let mut command = Program::command("server");
        command.args(["--listen", &format!("{colon}{}", port.number)]);
        if let Some(server) = served_or_refused(&mut command, "ADDRESS:PORT") {
            assert_eq!(server.port, port.number);
            drop(Raw::join(port.number));
            let elsewhere = TcpStream::connect(("127.0.0.2", port.number));
            assert!(elsewhere.is_err(), "it listens on all addresses");
        }
    }
}
