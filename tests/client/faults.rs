//! The faults of tokio-websockets that the client is built around, each by its number in the order
//! of the notes on the library, and what a server is told that breaks the protocol.

use std::iter;
use std::thread;
use std::time::Duration;

use crate::support::raw::{
    CLOSE, CONTINUATION, FIN, PING, PONG, Raw, RawServer, TEXT, agreement, bare_frame, cut_inside,
    flood, frame, oversize,
};
use crate::support::{FLOOD, Program};

/// Whatever a client says of a server that broke the rules, it is one line.
const SOMETHING: &str = "client: ";
const WRONG: &str = "its WebSocket handshake is wrong";

/// A client that has asked for a WebSocket, where it asked, what it said, and the connection that
/// it waits on.
fn asking() -> (Program, String, String, Raw) {
    let server = RawServer::listen();
    let url = server.url();
    let client = Program::start("client", &[&url]);
    let mut raw = server.tcp();
    let request = raw.head();
    (client, url, request, raw)
}

/// Waits for the end of a client and returns what it has shown. Its last words are one line.
fn ends(mut client: Program, last: &str) -> Vec<String> {
    assert_eq!(client.exit(), 1);
    let said = client.err_rest();
    assert!(said.len() == 1 && said[0].starts_with(last), "{said:?}");
    client.rest()
}

#[test]
fn fault_3_an_answer_has_no_size_in_the_connect() {
    for endless in [&b"a"[..], b"A: a\r\n", b"\r\n"] {
        let (client, url, _, mut raw) = asking();
        raw.send(b"HTTP/1.1 101 X\r\nA: a");
        flood(&mut raw.stream, endless, FLOOD);
        // It has hung up.
        let why = "what listens there is not a WebSocket server";
        let why = if endless == b"\r\n" { WRONG } else { why };
        let shown = ends(client, &format!("client: cannot connect to {url}: {why}"));
        assert_eq!(shown, [""; 0]);
    }
}

#[test]
fn fault_4_an_oversize_message_shows_nothing() {
    let server = RawServer::listen();
    let (client, mut raw) = server.join(&[]);
    raw.send(&oversize(500_000, bare_frame));
    drop(raw);
    assert_eq!(ends(client, SOMETHING), ["before"]);
}

#[test]
fn fault_5_the_client_answers_a_close_too() {
    let server = RawServer::listen();
    let (client, mut raw) = server.join(&[]);
    raw.send(&bare_frame(FIN | CLOSE, b"\x10\x68why\x1b[2J\nnot")); // 4200
    assert_eq!(raw.frame(), Some((FIN | CLOSE, vec![0x10, 0x68])));
    let why = "why\u{FFFD}[2J\u{FFFD}not (4200, unknown code)";
    let shown = ends(
        client,
        &format!("client: the server closed the chat: {why}"),
    );
    assert_eq!(shown, [""; 0]);
}

#[test]
fn fault_6_an_over_long_accept_field_panics_the_connect() {
    let accepts = [
        String::new(),
        "A".repeat(27) + "=",
        "A".repeat(29),
        "A".repeat(32),
        "A".repeat(4000),
    ];
    for accept in accepts {
        answered_with_accept(&accept);
    }
}

fn answered_with_accept(accept: &str) {
    let (client, url, _, mut raw) = asking();
    let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept";
    raw.send(format!("HTTP/1.1 101 X\r\n{fields}: {accept}\r\n\r\n").as_bytes());
    let shown = ends(client, &format!("client: cannot connect to {url}: {WRONG}"));
    assert_eq!(shown, [""; 0]);
}

#[test]
fn fault_7_text_that_is_not_utf_8_is_not_shown() {
    let server = RawServer::listen();
    let (client, mut raw) = server.join(&[]);
    raw.send(&cut_inside(bare_frame));
    drop(raw);
    let last = "client: connection closed: the server broke the rules: text is not UTF-8 (1007, invalid data)";
    assert_eq!(ends(client, last), ["before"]);
}

#[test]
fn text_from_a_hostile_server_cannot_steer_the_terminal() {
    let server = RawServer::listen();
    let (mut client, mut raw) = server.join(&[]);
    raw.send(&bare_frame(
        FIN | TEXT,
        "a\x1b[2Jb\n\x1b]0;title\x07\r\n\r\n\u{9b}31m\u{202e}c\u{2066}\rd\x7f".as_bytes(),
    ));
    assert_eq!(client.line(), "a\u{FFFD}[2Jb");
    assert_eq!(client.line(), "\u{FFFD}]0;title\u{FFFD}");
    assert_eq!(client.line(), "");
    assert_eq!(
        client.line(),
        "\u{FFFD}31m\u{FFFD}c\u{FFFD}\u{FFFD}d\u{FFFD}"
    );
}

#[test]
fn garbage_from_a_hostile_server_ends_the_client_in_one_line() {
    let huge = [&[FIN | TEXT, 127][..], &(1_u64 << 63).to_be_bytes()].concat();
    let pieces = [
        &b"HTTP/1.1 200 OK\r\n\r\n"[..],
        &[0xff],
        &[0],
        &huge,
        &frame(FIN | TEXT, b"masked"),
        &bare_frame(FIN | TEXT, b"a\xff"),
        &bare_frame(FIN | CLOSE, b"\x03"),
        &bare_frame(FIN | PING, &[0; 126]),
    ];
    for piece in pieces {
        let server = RawServer::listen();
        let (client, mut raw) = server.join(&[]);
        raw.send(&bare_frame(FIN | TEXT, b"before"));
        flood(&mut raw.stream, piece, FLOOD);
        drop(raw);
        assert_eq!(ends(client, SOMETHING), ["before"], "{piece:?}");
    }
}

/// It says goodbye, and no answer to that comes: from a server that says nothing, and from two that
/// send without end what is no message.
#[test]
fn fault_5_a_goodbye_to_a_server_that_is_silent_or_never_stops_never_ends() {
    let silent = RawServer::listen();
    let (silent, _mute) = silent.join(&[]);
    let floods = [
        (TEXT, bare_frame(CONTINUATION, b"")),
        (FIN | PONG, bare_frame(FIN | PONG, &[0; 125])),
    ];
    let (flooded, flooding): (Vec<_>, Vec<_>) = floods
        .map(|(first, endless)| {
            let server = RawServer::listen();
            let (client, mut raw) = server.join(&[]);
            raw.send(&bare_frame(first, b""));
            let flooding = thread::spawn(move || flood(&mut raw.stream, &endless, u64::MAX));
            (client, flooding)
        })
        .into_iter()
        .unzip();
    // All are asked before the first is waited for.
    let mut clients: Vec<_> = iter::once(silent).chain(flooded).collect();
    for client in &clients {
        client.signal("INT");
    }
    for client in &mut clients {
        assert_eq!(
            (client.exit(), client.err_rest()),
            (0, vec!["client: left the chat".to_owned()])
        );
    }
    for thread in flooding {
        thread.join().unwrap();
    }
}

#[test]
fn an_agreement_in_single_bytes_and_frames_behind_it_are_read() {
    let (mut client, _, request, mut raw) = asking();
    let agreement = agreement(&request);
    for byte in &agreement[..agreement.len() - 1] {
        raw.send(&[*byte]);
    }
    raw.send(&[b"\n", &bare_frame(FIN | TEXT, b"at once")[..]].concat());
    assert_eq!(client.line(), "at once");
}

#[test]
fn fault_2_a_ping_flood_fills_the_memory_of_the_client() {
    let server = RawServer::listen();
    let (client, mut raw) = server.join(&[]);
    // A client that reads no more pings than it has answered lets this come to a stop.
    raw.stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let ping = bare_frame(FIN | PING, &[b'x'; 125]);
    flood(&mut raw.stream, &ping, FLOOD);
    client.is_small();
}

/// 28 digits of base64 without the padding are 21 bytes: one more than there is space for.
#[test]
fn fault_6_an_accept_field_of_one_byte_too_many_panics_the_connect() {
    answered_with_accept(&"A".repeat(28));
}

/// RFC 6455 7.1.7 and 8.1: who fails a connection says why.
#[test]
fn fault_7_the_client_says_why_it_hangs_up() {
    for (bytes, code) in [
        (cut_inside(bare_frame), 1007_u16),
        (bare_frame(FIN | TEXT, b"\xff"), 1007),
        (frame(FIN | TEXT, b"masked"), 1002),
        (oversize(500_000, bare_frame), 1009),
    ] {
        let server = RawServer::listen();
        let (client, mut raw) = server.join(&[]);
        raw.send(&bytes);
        assert_eq!(raw.close().0, code);
        drop(raw);
        ends(client, SOMETHING);
    }
}

/// RFC 6455 4.1, the client's items 2 and 3: without these two fields it MUST fail.
#[test]
fn an_agreement_without_its_upgrade_is_wrong() {
    for field in ["Upgrade: websocket\r\n", "Connection: Upgrade\r\n"] {
        let (client, url, request, mut raw) = asking();
        let agreement = String::from_utf8(agreement(&request)).unwrap();
        assert!(agreement.contains(field), "{agreement}");
        raw.send(agreement.replace(field, "").as_bytes());
        drop(raw);
        ends(client, &format!("client: cannot connect to {url}: {WRONG}"));
    }
}
