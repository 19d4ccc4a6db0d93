//! The faults of tokio-websockets that the server is built around, each by its number in the order
//! of the notes on the library, and what a client hears that breaks the protocol. That a goodbye to a
//! silent peer never ends, a part of the fifth, is in `shutdown`.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use chat_pair::server::limits::Limits;

use crate::support::raw::{
    BINARY, CLOSE, CONTINUATION, FIN, Others, PING, PONG, REQUEST, Raw, TEXT, announce, bare_frame,
    close_frame, cut_inside, flood, frame, oversize,
};
use crate::support::{FLOOD, Server, uninterrupted};

#[test]
fn fault_1_a_bad_request_line_panics_the_accept() {
    let mut server = Server::start();
    let long = format!("/{}", "a".repeat(65_534));
    for target in ["/a<b", "/`", "?a", "foo:bar:baz", "[::1", &long] {
        let mut raw = Raw::tcp(server.port);
        raw.send(
            REQUEST
                .replace("GET /", &format!("GET {target}"))
                .as_bytes(),
        );
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 4"), "{head}");
    }
    Others::join(server.port).talk();
    server.stop();
    for line in server.program.err_rest() {
        assert!(line.contains(" was refused: "), "{line}");
    }
}

#[test]
fn fault_2_a_ping_flood_fills_the_memory_of_the_server() {
    let server = Server::start();
    let mut others = Others::join(server.port);
    let mut raw = Raw::join(server.port);
    // It never reads, so the pongs get stuck, and it is not read any more: this comes to a stop.
    let patience = Some(Duration::from_secs(1));
    raw.stream.set_write_timeout(patience).unwrap();
    let flooding = thread::spawn(move || {
        flood(&mut raw.stream, &frame(FIN | PING, &[b'x'; 125]), FLOOD);
    });
    for _ in 0..10 {
        others.talk();
    }
    flooding.join().unwrap();
    server.program.is_small();
}

#[test]
fn fault_3_a_request_has_no_size_in_the_accept() {
    let server = Server::start();
    let mut others = Others::join(server.port);
    let mut raw = Raw::tcp(server.port);
    raw.send(b"GET / HTTP/1.1\r\nA: ");
    let mut reader = raw.stream.try_clone().unwrap();
    let flooding = thread::spawn(move || flood(&mut raw.stream, b"a", FLOOD));
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    others.talk();
    flooding.join().unwrap();
    server.program.is_small();
}

#[test]
fn fault_4_an_oversize_message_comes_out_with_a_hole() {
    let mut server = Server::start();
    let mut others = Others::join(server.port);
    let mut raw = Raw::join(server.port);
    let name = raw.name();
    raw.send(&oversize(10_000, frame));
    assert_eq!(raw.close(), (1009, too_long(20_000, 16_384)));
    raw.send(&close_frame(1009, ""));
    assert_eq!(raw.frame(), None);
    assert_eq!(others.bob.text(), format!("{name}: before"));
    others.talk();
    let line = format!(
        "server: {name} was closed: a message of 20000 bytes, and at most 16384 are allowed (1009)"
    );
    assert_eq!(server.program.err_line(), line);
}

#[test]
fn fault_5_the_answer_to_a_close_waits_for_the_next_poll() {
    let mut server = Server::start();
    let mut others = Others::join(server.port);
    for code in [1000, 1001, 1014, 3000, 4999] {
        let mut raw = Raw::join(server.port);
        let name = raw.name();
        // The text is said, what comes behind the Close is not.
        raw.send(
            &[
                frame(FIN | TEXT, b"bye"),
                close_frame(code, "why"),
                frame(FIN | TEXT, b"after"),
            ]
            .concat(),
        );
        assert_eq!(
            raw.frame(),
            Some((FIN | CLOSE, code.to_be_bytes().to_vec()))
        );
        assert_eq!(raw.frame(), None);
        assert_eq!(others.bob.text(), format!("{name}: bye"));
        others.talk();
    }
    let mut raw = Raw::join(server.port);
    raw.send(&frame(FIN | CLOSE, b""));
    assert_eq!(raw.frame(), Some((FIN | CLOSE, vec![])));
    assert_eq!(raw.frame(), None);
    drop(raw);
    drop(others);
    server.stop_in_silence();
}

#[test]
fn fault_7_text_that_is_not_utf_8_comes_out_as_text() {
    let mut server = Server::start();
    let mut others = Others::join(server.port);
    let mut raw = Raw::join(server.port);
    let name = raw.name();
    raw.send(&cut_inside(frame));
    assert_eq!(raw.close(), (1007, "text is not UTF-8".to_owned()));
    raw.send(&close_frame(1007, ""));
    assert_eq!(raw.frame(), None);
    assert_eq!(others.bob.text(), format!("{name}: before"));
    others.talk();
    let line = format!("server: {name} was closed: text is not UTF-8 (1007)");
    assert_eq!(server.program.err_line(), line);
}

/// Each of these frames is answered with this code and its reason, and the operator is told.
/// Nothing of them reaches anybody, nor what comes behind them.
fn broken(code: u16, cases: &[(&[u8], &str)]) {
    // The operator is told of five strangers a second, so each five get a server of their own.
    for cases in cases.chunks(Limits::DEFAULT.warnings as usize) {
        let mut server = Server::start();
        let mut others = Others::join(server.port);
        for (frames, reason) in cases {
            let mut raw = Raw::join(server.port);
            let name = raw.name();
            let (before, after) = (frame(FIN | TEXT, b"before"), frame(FIN | TEXT, b"after"));
            raw.send(&[&before, *frames, &after].concat());
            assert_eq!(raw.close(), (code, (*reason).to_owned()), "{frames:x?}");
            raw.send(&close_frame(code, ""));
            assert_eq!(raw.frame(), None, "{frames:x?}");
            assert_eq!(others.bob.text(), format!("{name}: before"), "{frames:x?}");
            others.talk();
            let line = format!("server: {name} was closed: {reason} ({code})");
            assert_eq!(server.program.err_line(), line, "{frames:x?}");
        }
        server.program.is_small();
    }
}

fn too_long(len: u64, most: u64) -> String {
    format!("a message of {len} bytes, and at most {most} are allowed")
}

#[test]
fn a_message_that_is_too_long_is_1009() {
    let told = |len: u64| too_long(len, 16_384);
    let long = frame(FIN | TEXT, &vec![b'x'; 16_385]);
    let rest = frame(FIN | CONTINUATION, &vec![b'x'; 16_384]);
    broken(
        1009,
        &[
            (&long, &told(16_385)),
            (&announce(FIN | TEXT, 64 << 20), &told(64 << 20)),
            (&announce(FIN | BINARY, 1 << 62), &told(1 << 62)),
            (&announce(FIN | TEXT, 1 << 63), &told(1 << 63)),
            (&announce(FIN | TEXT, u64::MAX), &told(u64::MAX)),
            (&[frame(TEXT, b"a"), rest].concat(), &told(16_385)),
        ],
    );
}

#[test]
fn what_is_not_websocket_is_1002() {
    const EXTENSION: &str = "invalid extension";
    const OPCODE: &str = "invalid opcode";
    const CONTROL: &str = "fragmented control frame";
    const LENGTH: &str = "invalid payload length";
    const CODE: &str = "invalid close code";
    broken(
        1002,
        &[
            (&frame(FIN | 0x40 | TEXT, b"a"), EXTENSION),
            (&frame(FIN | 0x20 | TEXT, b"a"), EXTENSION),
            (&frame(FIN | 0x10 | PING, b"a"), EXTENSION),
            (
                &bare_frame(FIN | TEXT, b"naked"),
                "unexpected unmasked frame",
            ),
            (&frame(FIN | 0x3, b"a"), OPCODE),
            (&frame(FIN | 0xb, b"a"), OPCODE),
            (&frame(FIN | CONTINUATION, b"a"), OPCODE),
            (
                &[frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(),
                OPCODE,
            ),
            (&frame(PING, b"a"), CONTROL),
            (&frame(CLOSE, b""), CONTROL),
            (&frame(FIN | PING, &[b'x'; 126]), LENGTH),
            (&frame(FIN | CLOSE, b"\x03"), LENGTH),
            // Not the shortest form of a length.
            (&announce(FIN | TEXT, 5), LENGTH),
            (&[FIN | TEXT, 0xfe, 0, 5, 0, 0, 0, 0], LENGTH),
            (&close_frame(999, ""), CODE),
            (&close_frame(1005, ""), CODE),
            (&close_frame(1006, ""), CODE),
            (&close_frame(5000, ""), CODE),
        ],
    );
}

#[test]
fn what_is_not_utf_8_is_1007() {
    const REASON: &str = "text is not UTF-8";
    broken(
        1007,
        &[
            (&frame(FIN | TEXT, b"a\xff"), REASON),
            (&frame(FIN | TEXT, b"half an \xc3"), REASON),
            (&frame(FIN | TEXT, b"\xed\xa0\x80"), REASON), // a surrogate
            (&frame(FIN | TEXT, b"\xc0\xaf"), REASON),     // not the shortest form
            (
                &[frame(TEXT, b"a"), frame(CONTINUATION, b"\xff")].concat(),
                REASON,
            ),
            (&frame(FIN | CLOSE, b"\x03\xe8\xff"), REASON),
        ],
    );
}

#[test]
fn what_is_not_text_is_1003() {
    const REASON: &str = "only text messages, please";
    broken(
        1003,
        &[
            (&frame(FIN | BINARY, b"a"), REASON),
            (&frame(FIN | BINARY, b""), REASON),
            (
                &[frame(BINARY, b"a"), frame(FIN | CONTINUATION, b"b")].concat(),
                REASON,
            ),
        ],
    );
}

#[test]
fn what_is_announced_takes_no_memory() {
    let server = Server::with(&["--max-message", "262144"]);
    let mut others = Others::join(server.port);
    // 200 times the largest message would be 50 MiB.
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let mut raw = Raw::join(server.port);
            raw.send(&announce(FIN | TEXT, 262_144));
            raw.send(b"x");
            raw
        })
        .collect();
    others.talk();
    drop(waiting);
    for len in [1 << 20, 64 << 20, 1 << 40, 1 << 63] {
        let mut raw = Raw::join(server.port);
        raw.send(&announce(FIN | TEXT, len));
        assert_eq!(raw.close(), (1009, too_long(len, 262_144)));
    }
    server.program.is_small();
}

#[test]
fn pings_are_answered_in_order_even_inside_a_message() {
    let server = Server::start();
    let mut bob = Raw::join(server.port);
    let mut ann = Raw::join(server.port);
    let longest = [b'x'; 125];
    ann.send(
        &[
            frame(FIN | PING, b""),
            frame(TEXT, b"a \xf0\x9f"),
            frame(FIN | PING, &longest),
            frame(FIN | PONG, b"nobody asked"),
            frame(CONTINUATION, b""),
            frame(CONTINUATION, b"\x91"),
            frame(FIN | PING, b"3"),
            frame(FIN | CONTINUATION, b"\x8b"),
        ]
        .concat(),
    );
    for payload in [&b""[..], &longest, b"3"] {
        assert_eq!(ann.frame(), Some((FIN | PONG, payload.to_vec())));
    }
    assert_eq!(bob.text(), format!("{}: a 👋", ann.name()));
}

#[test]
fn endless_empty_fragments_hold_up_nobody() {
    let server = Server::start();
    let mut others = Others::join(server.port);
    let mut raw = Raw::join(server.port);
    raw.send(&frame(TEXT, b""));
    let name = raw.name();
    let enough = Arc::new(AtomicBool::new(false));
    let (stop, mut stream) = (enough.clone(), raw.stream.try_clone().unwrap());
    let flooding = thread::spawn(move || {
        let fragments = frame(CONTINUATION, b"").repeat(10_000);
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(&fragments).unwrap();
        }
    });
    for _ in 0..20 {
        others.talk();
        // It hears, too.
        assert_eq!(raw.text(), format!("{}: hello", others.ann.name()));
    }
    enough.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    raw.send(&frame(FIN | CONTINUATION, b"end"));
    assert_eq!(others.bob.text(), format!("{name}: end"));
    server.program.is_small();
}

#[test]
fn a_peer_that_resets_inside_a_frame_leaves_nothing_behind() {
    let mut server = Server::start();
    let mut others = Others::join(server.port);
    let (ann, bob) = (server.line(), server.line());
    assert!(ann.contains("New connection") && bob.contains("New connection"));
    let mut raw = Raw::join(server.port);
    let name = raw.name();
    assert_eq!(server.line(), format!("New connection from {name}"));
    raw.send(
        &[
            &frame(FIN | TEXT, b"whole")[..],
            &frame(FIN | TEXT, b"half a message")[..10],
        ]
        .concat(),
    );
    assert_eq!(server.line(), format!("Received from {name}: whole"));
    assert_eq!(others.bob.text(), format!("{name}: whole"));
    // A socket that is dropped with something unread in it resets the connection.
    others.talk();
    let unread = uninterrupted(|| raw.stream.peek(&mut [0]));
    assert_eq!(unread.unwrap(), 1);
    drop(raw);
    assert!(server.line().ends_with(": hello"));
    assert_eq!(server.line(), format!("Client {name} disconnected"));
    others.talk();
    drop(others);
    server.stop_in_silence();
}
