//! How whoever watches the server learns how it is: by `/healthz`, and by SIGUSR1.

use std::net::TcpListener as StdListener;

use chat_pair::server::entrance::Entrance;
use chat_pair::server::flags::Server as Flags;
use chat_pair::server::handshake::{FULL, Method, Refusal};
use chat_pair::server::limits::Limits;
use chat_pair::server::log::Log;
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::raw::{FIN, Others, PING, PONG, Raw};
use crate::support::session::Client;
use crate::support::{Program, Secret, Server};

const ASK: &str = "GET /healthz HTTP/1.1\r\nHost: chat\r\n\r\n";

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\n";

/// What a request is answered with, to the end of the connection.
fn answer(port: u16, request: &str) -> String {
    let mut raw = Raw::tcp(port);
    raw.send(request.as_bytes());
    raw.response()
}

/// The server has said nothing to anybody about those who asked.
#[track_caller]
fn has_said_nothing(server: &mut Server) {
    server.stop_in_silence();
    assert_eq!(server.program.rest(), [""; 0]);
}

#[test]
fn who_asks_is_told_and_nobody_else_hears_of_it() {
    let mut server = Server::start();
    for request in [
        ASK,
        "GET /healthz?full HTTP/1.1\r\nHost: chat\r\n\r\n",
        "GET http://chat/healthz HTTP/1.1\r\nHost: chat\r\nUpgrade: h2c\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
    ] {
        assert_eq!(
            answer(server.port, request),
            format!("{OK}ok\n"),
            "{request}"
        );
    }
    // The head of the same answer.
    assert_eq!(answer(server.port, &ASK.replace("GET", "HEAD")), OK);
    // In pieces, too.
    let mut raw = Raw::tcp(server.port);
    for byte in ASK.as_bytes() {
        raw.send(&[*byte]);
    }
    assert_eq!(raw.response(), format!("{OK}ok\n"));
    has_said_nothing(&mut server);
}

#[test]
fn what_asks_for_something_else_is_refused_as_before() {
    let server = Server::start();
    for (request, status) in [
        (ASK.replace("GET", "POST"), 405),
        (ASK.replace("/healthz", "/health"), 426),
        (ASK.replace("/healthz", "/healthz/"), 426),
        (ASK.replace("/healthz", "//healthz"), 426),
        (ASK.replace("/healthz", "healthz"), 400),
        (ASK.replace("Host: chat\r\n", ""), 400),
        (ASK.replace("1.1", "2.0"), 400),
        (ASK.replace("chat", &"a".repeat(9000)), 431),
    ] {
        let answer = answer(server.port, &request);
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{request}: {answer}");
    }
}

#[test]
fn a_websocket_there_is_the_room_of_that_name() {
    let mut server = Server::start();
    let mut ann = Raw::enter(server.port, "/healthz?name=ann");
    let mut bob = Raw::enter(server.port, "/healthz?name=bob");
    ann.say("hello");
    assert_eq!(bob.text(), "ann: hello");
    let joined = server.joined();
    assert!(joined.ends_with(" (ann) in healthz"), "{joined}");
}

#[test]
fn a_full_server_answers_too() {
    let mut server = Server::with(&["--max-connections", "1"]);
    let ann = Raw::join(server.port);
    for _ in 0..3 {
        assert_eq!(answer(server.port, ASK), format!("{OK}ok\n"));
    }
    // It really is full.
    assert_eq!(Raw::asking(server.port).refusal().0, 503);
    server.program.err_line();
    drop(ann);
    server.stop_in_silence();
}

/// Who has its answer may be a while in leaving, and is not in anybody's way.
#[test]
fn whoever_asks_or_is_refused_takes_no_seat() {
    let mut server = Server::with(&["--max-connections", "1"]);
    let mut asking = Raw::tcp(server.port);
    asking.send(ASK.as_bytes());
    assert_eq!(asking.response(), format!("{OK}ok\n"));
    let mut refused = Raw::asking_for(server.port, "/no/such/room");
    assert_eq!(refused.refusal().0, 400);
    let ann = Raw::join(server.port);
    drop((asking, refused, ann));
    server.program.err_line();
    server.stop_in_silence();
}

/// Each could be waited for until the deadline for its request, so that all of them took two minutes.
#[test]
fn strangers_who_ask_for_nothing_do_not_keep_a_full_server_from_answering() {
    let server = Server::with(&["--max-connections", "1"]);
    let mut ann = Raw::join(server.port);
    let silent: Vec<_> = (0..300).map(|_| Raw::tcp(server.port)).collect();
    assert_eq!(answer(server.port, ASK), format!("{OK}ok\n"));
    drop(silent);
    // Those who are in were not asked to leave for them.
    ann.send_frame(FIN | PING, b"");
    assert_eq!(ann.frame().unwrap().0, FIN | PONG);
}

#[test]
fn no_token_is_needed() {
    let tokens = Secret::with("a-token-of-the-tests\n");
    let mut server = Server::with(&["--token-file", tokens.name()]);
    assert_eq!(answer(server.port, ASK), format!("{OK}ok\n"));
    has_said_nothing(&mut server);
}

#[cfg(feature = "tls")]
#[test]
fn it_is_told_through_tls() {
    use crate::support::tls::{Authority, Kind};
    use tokio_rustls::rustls::version::TLS13;

    let authority = Authority::new();
    authority.issue(Kind::Good);
    let flags = authority.flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut server = Server::with(&flags);
    let port = authority.tunnel(server.port, &TLS13);
    assert_eq!(answer(port, ASK), format!("{OK}ok\n"));
    // Not to those who do not encrypt.
    assert!(answer(server.port, ASK).starts_with("HTTP/1.1 400 "));
    server.program.err_line();
    has_said_nothing(&mut server);
}

/// Who had connected before the server was asked to stop, and asks then.
#[tokio::test]
async fn a_server_that_shuts_down_says_so() {
    let limits = Limits::DEFAULT;
    let log = Log::open(&limits).unwrap();
    let flags = Flags::parse_from(["server"]);
    let entrance = Entrance::open(&flags, &limits, &log).await.unwrap();
    entrance.rooms.begin_to_end();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    near.write_all(ASK.as_bytes()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let mut answer = String::new();
    let (admitted, read) = tokio::join!(entrance.admit(far, "somewhere", Err(FULL)), async {
        let read = near.read_to_string(&mut answer).await;
        near.shutdown().await.unwrap();
        read
    });
    read.unwrap();
    assert_eq!(admitted.err().unwrap(), Refusal::HealthCheck(Method::Get));
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\n\r\nthe server is shutting down\n"),
        "{answer}"
    );
}

#[test]
fn at_a_signal_the_operator_is_told_how_the_server_is() {
    let mut server = Server::start();
    server.program.signal("USR1");
    assert_eq!(
        server.program.err_line(),
        "server: connections: 0 (0 so far); rooms: 0; sessions: 0; lines taken: 0, delivered: 0, \
         missed: 0; waiting to speak: 0; strangers refused: 0; log lines dropped: 0; no trouble"
    );
    let port = server.port;
    let mut others = Others::join(port);
    others.talk_on();
    let mut eve = Client::enter(port, "/rust?session=the-session-of-eve-000");
    eve.say("to nobody");
    // Whether somebody is gone is known when the server says so.
    drop(Raw::enter(port, "/rust?name=gone"));
    while !server.line().contains("(gone) disconnected") {}
    assert_eq!(Raw::asking_for(port, "/Rust").refusal().0, 400);
    server.program.err_line();
    server.program.signal("USR1");
    assert_eq!(
        server.program.err_line(),
        "server: connections: 3 (4 so far); rooms: 2; sessions: 1; lines taken: 101, delivered: 100, \
         missed: 0; waiting to speak: 0; strangers refused: 1; log lines dropped: 0; no trouble"
    );
    server.stop_in_silence();
}

/// Whatever the build says of the flag, it is an error before anybody could come in.
#[test]
fn a_port_for_metrics_that_cannot_be_had_is_an_error() {
    let other = StdListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let mut command = Program::command("server");
    command.args(["--metrics", &address]);
    let mut server = Program::spawn(&mut command);
    assert_eq!(server.exit(), 1);
    let expected = if cfg!(feature = "metrics") {
        format!(
            "server: cannot listen on {address} for --metrics: address already in use (choose another)"
        )
    } else {
        "server: --metrics needs what speaks to Prometheus, and this server was built without it (the \
         cargo feature metrics)"
            .to_owned()
    };
    assert_eq!((server.rest(), server.err_rest()), (vec![], vec![expected]));
}
