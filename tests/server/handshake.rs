//! Who gets in, and what those hear who do not: each refusal as bytes on a real socket, its line
//! for the operator, and a server that serves on behind it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chat_pair::server::handshake::{self, Refusal, Rules};
use chat_pair::server::limits::Limits;
use chat_pair::server::metrics::Stranger;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::time::Instant;

use crate::support::raw::{FIN, Others, REQUEST, Raw, TEXT, frame};
use crate::support::{Program, Server};

const NOT_HTTP: &str = "this is not an HTTP/1.1 request";
const NO_TARGET: &str = "the request target is not usable";
const NO_HOST: &str = "the request needs one Host";
const NO_KEY: &str = "Sec-WebSocket-Key is not 16 bytes in base64";
const NO_UPGRADE: &str = "this is a WebSocket chat: connect to ws://HOST:PORT with a WebSocket \
    client";
const NO_VERSION: &str = "this server speaks WebSocket version 13";
/// What pages of an origin are told that may not join.
fn no_origin(origin: &str) -> String {
    let origin = if origin.is_empty() {
        "an empty origin"
    } else {
        origin
    };
    format!("pages of {origin} may not join: see the server's --allow-origin")
}

const TOO_LONG: &str = "the request is longer than 8 KiB";
const TOO_MANY: &str = "the request has more than 64 header fields";

const BAD: &str = "400 Bad Request";
const UPGRADE: &str = "426 Upgrade Required";
const TOO_LARGE: &str = "431 Request Header Fields Too Large";

/// A refusal as it came over the wire.
struct Answer {
    status: String,
    fields: Vec<String>,
    body: String,
}

impl Answer {
    fn read(raw: &mut Raw) -> Self {
        let head = raw.head();
        assert!(!head.starts_with("HTTP/1.1 101 "), "it was let in");
        let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
        Self {
            status: lines.next().unwrap(),
            fields: lines.collect(),
            body: raw.response(),
        }
    }

    /// What every refusal has, and what this one has besides.
    fn is(&self, status: &str, why: &str, fields: &[&str]) {
        assert_eq!(self.status, format!("HTTP/1.1 {status}"));
        assert_eq!(self.body, format!("{why}\n"));
        let length = format!("Content-Length: {}", self.body.len());
        let always = [
            "Connection: close",
            "Content-Type: text/plain; charset=utf-8",
            &length,
        ];
        for field in always.iter().chain(fields) {
            let there = self.fields.iter().filter(|there| there == field).count();
            assert_eq!(there, 1, "{field} in {:?}", self.fields);
        }
        assert_eq!(
            self.fields.len(),
            always.len() + fields.len(),
            "{:?}",
            self.fields
        );
    }
}

/// Sends a request to a server of its own, so that the limit on lines a second plays no part.
fn refused(request: &[u8], status: &str, why: &str, fields: &[&str]) {
    refused_by(Server::start(), request, status, why, fields);
}

fn refused_by(mut server: Server, request: &[u8], status: &str, why: &str, fields: &[&str]) {
    let mut raw = Raw::tcp(server.port);
    let name = raw.name();
    raw.send(request);
    Answer::read(&mut raw).is(status, why, fields);
    drop(raw);
    let code = &status[..3];
    let line = format!("server: {name} was refused: {why} ({code})");
    assert_eq!(server.program.err_line(), line);
    Others::join(server.port).talk();
    server.stop();
    // That was the one line, and standard output has none about strangers.
    assert_eq!(server.program.err_rest(), [""; 0]);
    let about = server
        .program
        .rest()
        .into_iter()
        .filter(|line| line.contains(&name));
    assert_eq!(about.count(), 0);
}

/// [`REQUEST`] with something in it replaced.
fn but(from: &str, to: &str) -> Vec<u8> {
    assert!(REQUEST.contains(from), "{from}");
    REQUEST.replace(from, to).into_bytes()
}

/// [`REQUEST`] with fields added.
fn with(fields: &str) -> Vec<u8> {
    but("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))
}

/// [`REQUEST`] made as long as wanted by a field of its own.
fn long(len: usize) -> Vec<u8> {
    let request = with(&format!("A: {}", "a".repeat(len - REQUEST.len() - 5)));
    assert_eq!(request.len(), len);
    request
}

#[test]
fn what_is_not_http_1_1_is_a_bad_request() {
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0xff]; // how TLS begins
    // Nobody knows in which pieces it comes, so it makes no difference that all of it is there at once.
    for hello in [&hello[..], &[&hello[..], b"\r\n\r\n"].concat()] {
        refused(
            hello,
            BAD,
            "this port does not speak TLS: connect with ws:// or http://",
            &[],
        );
    }
    refused(&but("GET /", "\r\nGET /"), BAD, NOT_HTTP, &[]);
    refused(&[0], BAD, NOT_HTTP, &[]);
    refused(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", BAD, NOT_HTTP, &[]);
    refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD, NOT_HTTP, &[]);
    refused(b"G\r\n\r\n", BAD, NOT_HTTP, &[]);
    refused(b"GET /\r\n\r\n", BAD, NOT_HTTP, &[]);
    refused(&but("HTTP/1.1", "HTTP/1.0"), BAD, NOT_HTTP, &[]);
    refused(&but("Host: chat", "Host : chat"), BAD, NOT_HTTP, &[]);
    refused(&with(" folded"), BAD, NOT_HTTP, &[]);
}

#[test]
fn a_target_that_names_no_resource_is_a_bad_request() {
    for target in ["?a", "foo:bar:baz", "[::1", "*", "host:80", "a", "#"] {
        refused(&but("GET /", &format!("GET {target}")), BAD, NO_TARGET, &[]);
    }
    for target in ["/a<b", "/`"] {
        refused(&but("GET /", &format!("GET {target}")), BAD, NO_TARGET, &[]);
    }
    // Longer than any head may be.
    let target = format!("GET /{}", "a".repeat(65_534));
    refused(&but("GET /", &target), TOO_LARGE, TOO_LONG, &[]);
}

#[test]
fn a_target_may_be_whole_and_its_query_may_be_anything() {
    let server = Server::start();
    for target in [
        "/?",
        "/?room=1&&=",
        "http://chat/",
        "http://chat",
        "http://chat/rust",
    ] {
        let mut raw = Raw::tcp(server.port);
        raw.send(&but("GET /", &format!("GET {target}")));
        raw.is_let_in(target);
    }
}

#[test]
fn one_host_is_needed() {
    refused(&but("Host: chat\r\n", ""), BAD, NO_HOST, &[]);
    refused(&with("host: chat"), BAD, NO_HOST, &[]);
}

#[test]
fn one_key_of_16_bytes_is_needed() {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    refused(
        &but(&format!("Sec-WebSocket-Key: {KEY}\r\n"), ""),
        BAD,
        NO_KEY,
        &[],
    );
    refused(
        &with(&format!("sec-websocket-key: {KEY}")),
        BAD,
        NO_KEY,
        &[],
    );
    for key in [
        "",
        "AAAA",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZSEh",
    ] {
        refused(&but(KEY, key), BAD, NO_KEY, &[]);
    }
}

#[test]
fn a_page_of_an_unknown_origin_is_forbidden() {
    let forbidden = "403 Forbidden";
    refused(
        &with("Origin: http://evil.example"),
        forbidden,
        &no_origin("http://evil.example"),
        &[],
    );
    refused(&with("Origin: null"), forbidden, &no_origin("null"), &[]);
    let listed = || Server::with(&["--allow-origin", "https://a.example"]);
    for origin in ["https://a.example.evil", "http://a.example", "null", ""] {
        let request = with(&format!("Origin: {origin}"));
        refused_by(listed(), &request, forbidden, &no_origin(origin), &[]);
    }
    let twice = with("Origin: https://a.example\r\nOrigin: https://a.example");
    refused_by(
        listed(),
        &twice,
        forbidden,
        &no_origin("several origins"),
        &[],
    );
}

#[test]
fn a_page_of_a_listed_origin_gets_in() {
    const BOTH: [&str; 2] = ["https://a.example", "http://b.example:8080"];
    let flags = Server::with(&["--allow-origin", BOTH[0], "--allow-origin", BOTH[1]]);
    let mut command = Program::command("server");
    command.env("CHAT_ALLOW_ORIGIN", BOTH.join(","));
    for server in [flags, Server::spawn(&mut command)] {
        for origin in BOTH {
            let mut raw = Raw::tcp(server.port);
            raw.send(&with(&format!("Origin: {origin}")));
            raw.is_let_in(origin);
        }
    }
}

#[test]
fn only_get_begins_a_websocket() {
    for method in ["POST", "HEAD", "OPTIONS", "CONNECT"] {
        let request = but("GET", method);
        let why = "a WebSocket begins with GET";
        refused(&request, "405 Method Not Allowed", why, &["Allow: GET"]);
    }
}

#[test]
fn what_does_not_ask_for_websocket_13_is_told_to() {
    const FIELDS: [&str; 3] = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
    ];
    let plain = b"GET / HTTP/1.1\r\nHost: chat\r\n\r\n"; // a browser's address line
    refused(plain, UPGRADE, NO_UPGRADE, &FIELDS);
    refused(
        &but("Upgrade: websocket", "Upgrade: h2c"),
        UPGRADE,
        NO_UPGRADE,
        &FIELDS,
    );
    let kept = but("Connection: Upgrade", "Connection: keep-alive");
    refused(&kept, UPGRADE, NO_UPGRADE, &FIELDS);
    refused(
        &but("Version: 13", "Version: 8"),
        UPGRADE,
        NO_VERSION,
        &FIELDS,
    );
    refused(
        &with("Sec-WebSocket-Version: 8"),
        UPGRADE,
        NO_VERSION,
        &FIELDS,
    );
}

#[test]
fn words_are_found_in_lists_and_in_any_case() {
    let server = Server::start();
    let mut raw = Raw::tcp(server.port);
    let request = REQUEST
        .replace("Connection: Upgrade", "connection: keep-alive , UPGRADE")
        .replace("Upgrade: websocket", "upgrade: h2c\r\nUPGRADE: WebSocket");
    raw.send(request.as_bytes());
    raw.is_let_in("it asks as it may");
}

#[test]
fn a_request_may_have_8_kib_and_64_fields() {
    let server = Server::start();
    let fields = ["A: a"; 64 - 5].join("\r\n");
    for request in [long(8192), with(&fields)] {
        let mut raw = Raw::tcp(server.port);
        raw.send(&request);
        raw.is_let_in("it asks as it may");
    }
    refused(&long(8193), TOO_LARGE, TOO_LONG, &[]);
    refused(&long(100_000), TOO_LARGE, TOO_LONG, &[]);
    refused(
        &with(&["A: a"; 64 - 4].join("\r\n")),
        TOO_LARGE,
        TOO_MANY,
        &[],
    );
}

#[test]
fn a_long_request_may_not_come_in_small_pieces_either() {
    let server = Server::start();
    let mut raw = Raw::tcp(server.port);
    for byte in &long(9000)[..8192] {
        raw.send(&[*byte]);
    }
    Answer::read(&mut raw).is(TOO_LARGE, TOO_LONG, &[]);
    Others::join(server.port).talk();
}

#[test]
fn a_request_that_does_not_end_is_answered_after_a_while() {
    let mut server = Server::start();
    let (mut half, mut silent) = (Raw::tcp(server.port), Raw::tcp(server.port));
    half.send(&REQUEST.as_bytes()[..40]);
    Others::join(server.port).talk(); // meanwhile
    for raw in [&mut half, &mut silent] {
        let why = "the request took too long";
        Answer::read(raw).is("408 Request Timeout", why, &[]);
    }
    let mut expected = [half, silent].map(|raw| {
        format!(
            "server: {} was refused: the request took too long (408)",
            raw.name()
        )
    });
    let mut told = [server.program.err_line(), server.program.err_line()];
    expected.sort();
    told.sort();
    assert_eq!(told, expected);
    Others::join(server.port).talk();
}

#[test]
fn a_full_chat_says_so() {
    let mut server = Server::with(&["--max-connections", "1"]);
    let ann = Raw::join(server.port);
    let mut bob = Raw::asking(server.port);
    let why = "the chat is full: try again later";
    Answer::read(&mut bob).is("503 Service Unavailable", why, &["Retry-After: 10"]);
    let line = format!("server: {} was refused: {why} (503)", bob.name());
    drop(bob);
    assert_eq!(server.program.err_line(), line);
    // The place is free again once the server has noticed.
    drop(ann);
    Raw::join_when_there_is_room(server.port);
}

/// Whoever has asked in time is not to blame when a store does not answer.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_store_is_told_so() {
    let enter = async |_: &handshake::Request| pending().await;
    let (answer, refusal) = turned_away(REQUEST, Ok(()), enter).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{answer}"
    );
    assert_eq!(refusal, Some(handshake::NOT_KNOWN));
}

/// What a stranger is answered who leaves then, and what comes of it if it does not come in.
pub async fn turned_away(
    request: &str,
    seat: Result<(), Refusal>,
    enter: impl AsyncFnOnce(&handshake::Request) -> Result<(), Refusal>,
) -> (String, Option<Refusal>) {
    let (near, mut far) = duplex(64 * 1024);
    let (reader, writer) = split(near);
    far.write_all(request.as_bytes()).await.unwrap();
    let (limits, stranger) = (Limits::DEFAULT, Stranger::arrives());
    let rules = Rules {
        origins: &[],
        seat,
        until: Instant::now() + limits.handshake,
        stranger: &stranger,
    };
    let accepting = handshake::accept(reader, writer, rules, || Ok(()), enter, &limits);
    let reading = async move {
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (accepted, answer) = tokio::join!(accepting, reading);
    (answer, accepted.err())
}

#[test]
fn a_stranger_that_leaves_before_it_has_asked_is_no_news() {
    let mut server = Server::start();
    drop(Raw::tcp(server.port));
    Raw::tcp(server.port).send(&REQUEST.as_bytes()[..40]);
    Others::join(server.port).talk();
    server.stop_in_silence();
}

#[test]
fn a_request_may_be_cut_anywhere_and_what_follows_it_is_kept() {
    let server = Server::start();
    let mut bob = Raw::join(server.port);
    let bytes = [REQUEST.as_bytes(), &frame(FIN | TEXT, b"hi")].concat();
    // The last one is not cut: request and frame are in one packet.
    for at in 1..=bytes.len() {
        let mut ann = Raw::tcp(server.port);
        ann.send(&bytes[..at]);
        ann.send(&bytes[at..]);
        ann.is_let_in(&at.to_string());
        assert_eq!(bob.text(), format!("{}: hi", ann.name()), "{at}");
    }
}

#[test]
fn many_frames_behind_the_request_are_kept() {
    let server = Server::start();
    let mut bob = Raw::join(server.port);
    let frames: Vec<u8> = (0..1000)
        .flat_map(|n| frame(FIN | TEXT, n.to_string().as_bytes()))
        .collect();
    let mut ann = Raw::tcp(server.port);
    ann.send(&[REQUEST.as_bytes(), &frames].concat());
    for n in 0..1000 {
        assert_eq!(bob.text(), format!("{}: {n}", ann.name()));
    }
}

#[test]
fn a_request_in_single_bytes_gets_in() {
    let server = Server::start();
    let mut raw = Raw::tcp(server.port);
    for byte in REQUEST.as_bytes() {
        raw.send(&[*byte]);
    }
    raw.is_let_in("it asks as it may");
}

#[test]
fn half_open_handshakes_hold_up_nobody() {
    let server = Server::start();
    let strangers: Vec<_> = (0..200)
        .map(|n| {
            let mut raw = Raw::tcp(server.port);
            raw.send(&REQUEST.as_bytes()[..n % REQUEST.len()]);
            raw
        })
        .collect();
    Others::join(server.port).talk();
    drop(strangers);
}

#[test]
fn many_refusals_are_few_lines_and_all_are_counted() {
    let mut server = Server::start();
    let port = server.port;
    let refuse = move || {
        let mut raw = Raw::tcp(port);
        raw.send(&[0]);
        Answer::read(&mut raw).is(BAD, NOT_HTTP, &[]);
        // The server tells of it when it sees this end. A program that another test is just starting may have a
        // copy of the socket, so that dropping it would not be the end, and the next one might be told of first.
        raw.shut();
        raw.name()
    };
    let mut refused: Vec<_> = (0..100).map(|_| refuse()).collect();
    // More of them until the server says how many it did not tell of: with the next second.
    let counted = Arc::new(AtomicBool::new(false));
    let seen = counted.clone();
    let more = thread::spawn(move || {
        let mut refused = Vec::new();
        while !seen.load(Ordering::Relaxed) {
            refused.push(refuse());
        }
        refused
    });
    let (mut lines, mut untold, mut last) = (0, 0, String::new());
    while untold == 0 {
        let line = server.program.err_line();
        lines += 1;
        if let Some((start, end)) = line.split_once(" (400) (") {
            last = start.split(' ').nth(1).unwrap().to_owned();
            untold = end
                .strip_suffix(" more before)")
                .expect(&line)
                .parse()
                .unwrap();
        } else {
            assert!(line.ends_with(" (400)"), "{line}");
        }
    }
    counted.store(true, Ordering::Relaxed);
    refused.extend(more.join().unwrap());
    assert!(lines < 100, "{lines}");
    // Exactly those up to the one that it was told with.
    let counted: usize = untold + lines;
    assert_eq!(refused[counted - 1], last, "{lines} lines, {untold} untold");
    Others::join(port).talk();
}

/// An empty name in the list, as an empty variable gives, is nobody's origin.
#[test]
fn an_empty_list_of_origins_lets_no_page_in() {
    for list in ["", "https://a.example,"] {
        for origin in [&b""[..], b"\xff"] {
            let mut command = Program::command("server");
            let server = Server::spawn(command.env("CHAT_ALLOW_ORIGIN", list));
            let mut request = with("Origin: ");
            request.truncate(request.len() - 4);
            let request = [&request, origin, b"\r\n\r\n"].concat();
            let origin = String::from_utf8_lossy(origin);
            refused_by(server, &request, "403 Forbidden", &no_origin(&origin), &[]);
        }
    }
}
