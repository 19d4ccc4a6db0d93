//! What `server --metrics` tells Prometheus.

// Counts, which a float of 64 bits has exactly.
#![allow(clippy::float_cmp)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{PipeReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use chat_pair::server::limits::Limits;
use support::raw::{BINARY, CLOSE, FIN, Others, Raw, TEXT, close_frame, missed};
use support::session::is_taken;
use support::tls::{Authority, Kind};
use support::{Lines, PATIENCE, Port, Program, Server, close};
use tokio_rustls::rustls::version::TLS13;

const ASK: &str = "GET /metrics HTTP/1.1\r\nHost: chat\r\n\r\n";

/// A server, and the port of its metrics.
struct Watched {
    server: Server,
    port: Port,
}

impl Watched {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        let port = Port::hold();
        let address = port.number.to_string();
        let server = Server::with(&[&["--metrics", &address], args].concat());
        Self { server, port }
    }

    /// The same with a standard output that nobody reads, the other end of which it returns.
    fn unread() -> (Self, PipeReader) {
        let port = Port::hold();
        let mut command = Program::command("server");
        let address = port.number.to_string();
        command.args(["--metrics", &address]);
        let (server, log) = Server::unread_as(command, Stdio::piped());
        (Self { server, port }, log)
    }

    /// What a request is answered with, to the end of the connection.
    fn answer(&self, request: &str) -> String {
        let mut raw = Raw::tcp(self.port.number);
        raw.send(request.as_bytes());
        raw.response()
    }

    /// The metrics as text.
    #[track_caller]
    fn text(&self) -> String {
        let answer = self.answer(ASK);
        let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
        let expected = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; version=0.0.4; \
             charset=utf-8\r\nContent-Length: {}",
            text.len()
        );
        assert_eq!(head, expected);
        text.to_owned()
    }

    /// Each series with its number.
    #[track_caller]
    fn series(&self) -> BTreeMap<String, f64> {
        let text = self.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| line.rsplit_once(' ').expect(line));
        let pairs = pairs.map(|(name, number)| (name.to_owned(), number.parse().expect(number)));
        pairs.collect()
    }

    #[track_caller]
    fn number(&self, name: &str) -> f64 {
        self.series()[name]
    }

    /// Waits until a series has a number.
    #[track_caller]
    fn wait_for(&self, name: &str, is: impl Fn(f64) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self.number(name)) {
            assert!(Instant::now() < until, "{name} is {}", self.number(name));
        }
    }

    /// These series have these numbers.
    #[track_caller]
    fn has(&self, expected: &[(&str, u32)]) {
        let series = self.series();
        for (name, number) in expected {
            assert_eq!(series[*name], f64::from(*number), "{name}");
        }
    }
}

#[test]
fn what_happens_is_counted() {
    let watched = Watched::start();
    let port = watched.server.port;
    let build = format!(
        "chat_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    watched.has(&[
        (&build, 1),
        ("chat_healthy", 1),
        ("chat_open_connections", 0),
        ("chat_connections_total", 0),
        ("chat_rooms", 0),
        ("chat_sent_bytes_total", 0),
    ]);
    let mut others = Others::join(port);
    let eve = Raw::enter(port, "/?session=the-session-of-eve-000");
    let _ear = eve.read_in_background();
    others.talk_on();
    let before = watched.series();
    others.ann.say("one\ntwo");
    for text in ["one", "two"] {
        assert_eq!(others.bob.text(), format!("{}: {text}", others.ann.name()));
    }
    others.bob.say("");
    is_taken(&mut others.bob);
    // The room behind these is empty by the time that its only member is let go.
    drop(Raw::enter(port, "/rust"));
    watched.wait_for("chat_closes_total{code=\"1006\"}", |count| count == 1.0);
    watched.has(&[
        ("chat_open_connections", 3),
        ("chat_connections_total", 4),
        ("chat_handshake_seconds_count", 4),
        ("chat_handshake_seconds_bucket{le=\"+Inf\"}", 4),
        ("chat_rooms", 1),
        ("chat_sessions", 1),
        ("chat_lines_total", 103),
        ("chat_missed_lines_total", 0),
        ("chat_held_speakers", 0),
        ("chat_held_seconds_count", 0),
        ("chat_dropped_log_lines_total", 0),
    ]);
    // All three lines to two receivers each. The last may still be on its way.
    watched.wait_for("chat_deliveries_total", |count| count == 206.0);
    let (after, frames) = (watched.series(), |texts: &[&str]| {
        let bytes = texts.iter().map(|text| 2 + 4 + text.len());
        f64::from(u32::try_from(bytes.sum::<usize>()).unwrap())
    });
    let received = after["chat_received_bytes_total"] - before["chat_received_bytes_total"];
    let asked =
        "GET /rust HTTP/1.1\r\n".len() + support::raw::REQUEST.len() - "GET / HTTP/1.1\r\n".len();
    let asked = f64::from(u32::try_from(asked).unwrap());
    assert_eq!(received, asked + frames(&["one\ntwo", "", "taken?"]));
}

#[test]
fn who_is_refused_and_how_connections_end_is_counted() {
    let watched = Watched::with(&["--max-connections", "2"]);
    let port = watched.server.port;
    assert_eq!(Raw::asking_for(port, "/Rust").refusal().0, 400);
    for method in ["GET", "HEAD"] {
        // This is no refusal, and no handshake.
        let mut raw = Raw::tcp(port);
        raw.send(format!("{method} /healthz HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        raw.response();
    }
    let close = |frames: &[u8]| {
        let mut raw = Raw::join_when_there_is_room(port);
        raw.send(frames);
        let code = (frames.len() > 6).then(|| raw.close().0);
        raw.read_in_background().join().unwrap();
        code
    };
    let clean = |code| close_frame(code, "");
    assert_eq!(close(&clean(1000)), Some(1000));
    assert_eq!(close(&clean(4321)), Some(4321));
    assert_eq!(close(&clean(3000)), Some(3000));
    close(&support::raw::frame(FIN | CLOSE, &[]));
    assert_eq!(
        close(&support::raw::frame(FIN | BINARY, b"abc")),
        Some(1003)
    );
    assert_eq!(close(&support::raw::frame(FIN | TEXT, b"\xff")), Some(1007));
    watched.wait_for("chat_open_connections", |open| open == 0.0);
    watched.has(&[
        ("chat_closes_total{code=\"1000\"}", 1),
        ("chat_closes_total{code=\"1003\"}", 1),
        ("chat_closes_total{code=\"1005\"}", 1),
        ("chat_closes_total{code=\"1007\"}", 1),
        ("chat_closes_total{code=\"other\"}", 2),
        ("chat_refusals_total{status=\"400\"}", 1),
        ("chat_refusals_total{status=\"other\"}", 0),
        ("chat_connections_total", 6),
        ("chat_handshake_seconds_count", 6),
    ]);
}

/// When all places for those who are refused are taken, the first has to go, answered or not.
#[test]
fn who_is_turned_away_is_counted_once() {
    let watched = Watched::with(&["--max-connections", "1"]);
    let _ann = Raw::join(watched.server.port);
    are_counted_once(&watched, 503);
}

/// The same for those who do not speak TLS where it is on.
#[test]
fn who_is_turned_away_before_tls_is_counted_once() {
    let authority = Authority::new();
    authority.issue(Kind::Good);
    let flags = authority.flags();
    let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
    flags.extend(["--max-connections", "1"]);
    let watched = Watched::with(&flags);
    let _ann = Raw::join(authority.tunnel(watched.server.port, &TLS13));
    are_counted_once(&watched, 400);
}

/// Those who get this answer and do not leave, and those who ask for nothing.
fn are_counted_once(watched: &Watched, status: u16) {
    let port = watched.server.port;
    let series = format!("chat_refusals_total{{status=\"{status}\"}}");
    let told: Vec<_> = (0..50)
        .map(|_| {
            let mut raw = Raw::asking(port);
            assert_eq!(raw.refusal().0, status);
            raw // It does not leave.
        })
        .collect();
    watched.has(&[(&series, 50), ("chat_refusals_total{status=\"none\"}", 0)]);
    let silent: Vec<_> = (0..50).map(|_| Raw::tcp(port)).collect();
    // One place is free then.
    let stay = u32::try_from(Limits::DEFAULT.refusals - 1).unwrap();
    watched.wait_for("chat_refusals_total{status=\"none\"}", |none| {
        none == f64::from(50 - stay)
    });
    watched.has(&[(&series, 50)]);
    drop((told, silent));
}

/// Nobody reads what is lost then, so nobody would know of it.
#[test]
fn lines_behind_the_end_of_the_log_are_counted() {
    const LINES: u32 = 1000;
    let (mut watched, log) = Watched::unread();
    close(log);
    let mut others = Others::join(watched.server.port);
    let ends = "server: standard output is closed: the log ends here";
    assert_eq!(watched.server.program.err_line(), ends);
    let dropped = "chat_dropped_log_lines_total";
    // Those of the two who came are counted behind that.
    watched.wait_for(dropped, |lines| lines == 2.0);
    // More than what may wait.
    let text = "x".repeat(8 * 1024);
    for _ in 0..LINES {
        others.ann.say(&text);
        others.bob.text();
    }
    // What counts them is a thread of its own.
    watched.wait_for(dropped, |lines| lines == 2.0 + f64::from(LINES));
    watched.server.stop_in_silence();
}

/// Whatever strangers do, there are as many series as at the start.
#[test]
fn nobody_can_add_a_series() {
    let watched = Watched::start();
    let names = |watched: &Watched| watched.series().into_keys().collect::<Vec<_>>();
    let before = names(&watched);
    for n in 0..50 {
        let mut raw = Raw::enter(watched.server.port, &format!("/room-{n}?name=name-{n}"));
        raw.say("hello");
        raw.send(&close_frame(3000 + n, ""));
        raw.close();
        let mut raw = Raw::tcp(watched.server.port);
        raw.send(
            format!("METHOD-{n} /{n} HTTP/1.1\r\nHost: {n}\r\nOrigin: {n}\r\n\r\n").as_bytes(),
        );
        raw.response();
        watched.answer(&format!("GET /{n} HTTP/1.1\r\nHost: {n}\r\n\r\n"));
    }
    assert_eq!(names(&watched), before);
}

#[test]
fn who_waits_for_a_slow_reader_and_what_that_one_misses_is_counted() {
    const LINES: u32 = 200;
    let watched = Watched::start();
    let mut ann = Raw::join(watched.server.port);
    let mut slow = Raw::narrow(watched.server.port);
    let mut input = ann.again();
    let flood = thread::spawn(move || {
        for n in 0..LINES {
            input.say(&format!("{n} {}", "x".repeat(8 * 1024)));
        }
    });
    watched.wait_for("chat_held_speakers", |held| held == 1.0);
    // Until it is not waited for any more.
    flood.join().unwrap();
    is_taken(&mut ann);
    watched.has(&[("chat_held_speakers", 0), ("chat_lines_total", LINES)]);
    assert!(watched.number("chat_held_seconds_count") >= 1.0);
    assert!(watched.number("chat_held_seconds_sum") > 0.0);
    slow.widen();
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < u64::from(LINES) {
        match missed(&slow.text()) {
            Some(lines) => lost += lines,
            None => heard += 1,
        }
    }
    let lost = u32::try_from(lost).unwrap();
    assert!(lost > 0);
    watched.has(&[
        ("chat_missed_lines_total", lost),
        ("chat_deliveries_total", LINES - lost),
    ]);
}

#[test]
fn lines_that_the_log_drops_are_counted() {
    let (watched, _unread) = Watched::unread();
    let mut others = Others::join(watched.server.port);
    let text = "x".repeat(16 * 1024);
    let mut said = 0;
    while watched.number("chat_dropped_log_lines_total") == 0.0 {
        assert!(said < 10_000, "nothing is dropped");
        for _ in 0..50 {
            others.ann.say(&text);
            others.bob.text();
            said += 1;
        }
    }
}

#[test]
fn what_asks_for_something_else_is_refused_in_silence() {
    let mut watched = Watched::start();
    let long = format!("GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(9000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /metrics\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}", 400),
        (&long, 431),
    ] {
        let answer = watched.answer(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    // A WebSocket, too.
    assert_eq!(Raw::asking(watched.port.number).refusal().0, 404);
    // The head alone says how long it would be.
    let head = watched.answer(&ASK.replace("GET", "HEAD"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    watched.has(&[("chat_refusals_total{status=\"400\"}", 0)]);
    watched.server.stop_in_silence();
    assert_eq!(watched.server.program.rest(), [""; 0]);
}

/// Those who say nothing have their time, and then it is the next one's turn. The chat goes on meanwhile.
#[test]
fn strangers_who_ask_for_nothing_are_waited_for_only_so_long() {
    let watched = Watched::start();
    let silent: Vec<_> = (0..8).map(|_| Raw::tcp(watched.port.number)).collect();
    Others::join(watched.server.port).talk();
    watched.has(&[("chat_healthy", 1)]);
    for mut raw in silent {
        assert!(raw.response().starts_with("HTTP/1.1 408 "));
    }
}

#[test]
fn a_server_that_stops_has_its_metrics_to_the_end() {
    // Who does not answer the goodbye has two seconds. When the machine is too busy for what is asked within them,
    // that says nothing of the server, and another one is asked.
    for _ in 0..10 {
        let mut watched = Watched::start();
        let mut mute = Raw::join(watched.server.port);
        let asked = Instant::now();
        watched.server.program.signal("TERM");
        assert_eq!(mute.close().0, 1001);
        let told = catch_unwind(AssertUnwindSafe(|| {
            watched.has(&[("chat_healthy", 0), ("chat_closes_total{code=\"1001\"}", 1)]);
            watched.server.program.signal("USR1");
            let said = watched.server.program.err_line();
            assert!(
                said.ends_with("; trouble: the server is shutting down"),
                "{said}"
            );
        }));
        let is_late = asked.elapsed() >= Limits::DEFAULT.close;
        match told {
            Err(_) if is_late => {}
            Err(panic) => resume_unwind(panic),
            Ok(()) => {
                drop(mute);
                assert_eq!(watched.server.program.exit(), 0);
                return;
            }
        }
    }
    panic!("there is never enough time");
}

#[cfg(feature = "sqlite")]
#[test]
fn commits_are_timed() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("metrics-{}.db", std::process::id()));
    let watched = Watched::with(&["--store", file.to_str().unwrap()]);
    let mut ann = Raw::join(watched.server.port);
    ann.say("hello");
    is_taken(&mut ann);
    watched.has(&[("chat_commit_seconds_count", 1), ("chat_lines_total", 1)]);
    assert!(watched.number("chat_commit_seconds_sum") > 0.0);
    drop(watched);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}

/// Where `promtool` is in the path, it has nothing to find fault with.
#[test]
fn promtool_finds_nothing() {
    let watched = Watched::start();
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else {
        let _ = writeln!(
            std::io::stderr(),
            "there is no promtool in the path: its check is left out"
        );
        return;
    };
    let text = watched.text();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let mut said = Lines::of(promtool.stdout.take().unwrap()).rest();
    said.extend(Lines::of(promtool.stderr.take().unwrap()).rest());
    assert_eq!(said, [""; 0]);
    assert!(promtool.wait().unwrap().success());
}
