//! The chat through TLS, and each reason why there is none.

use std::fs;
use std::io::Read;

use crate::support::raw::RawServer;
use crate::support::tls::{Authority, Kind};
use crate::support::{Port, Program, Server};

/// A server with a certificate of this kind.
fn served(authority: &Authority, kind: Kind) -> Server {
    authority.issue(kind);
    let flags = authority.flags();
    Server::with(&flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_line_goes_through_tls() {
    let authority = Authority::new();
    let mut server = served(&authority, Kind::Good);
    let ca = authority.ca();
    // A name and an address, and both are in the certificate.
    let [by_name, by_address] = [("localhost", "ann"), ("127.0.0.1", "bob")].map(|(host, name)| {
        let url = format!("wss://{host}:{}/rust?name={name}", server.port);
        Program::start("client", &[&url, "--ca", &ca])
    });
    let [mut ann, mut bob] = [by_name, by_address];
    ann.is_connected();
    bob.is_connected();
    ann.type_line("hello");
    assert_eq!(bob.line(), "ann: hello");
    let lines = 10_000;
    for n in 0..lines {
        bob.type_line(&n.to_string());
    }
    bob.end_input();
    for n in 0..lines {
        assert_eq!(ann.line(), format!("bob: {n}"));
    }
    assert_eq!(bob.exit(), 0);
    server.program.signal("TERM");
    assert_eq!(ann.exit(), 1);
    let said = ann.err_rest();
    let why = "the server closed the chat: server shutting down (1001, going away)";
    assert!(said.last().unwrap().contains(why), "{said:?}");
    assert_eq!(server.program.exit(), 0);
    assert_eq!(server.program.err_rest(), [""; 0]);
}

/// It may be renewed, or it is that of a network in between, which wants to be paid first.
#[test]
fn a_certificate_that_is_wrong_where_there_was_a_chat_is_waited_for() {
    let authority = Authority::new();
    let port = Port::hold();
    let serve = |kind| {
        authority.issue(kind);
        let listen = format!("127.0.0.1:{}", port.number);
        let mut command = Program::command("server");
        command.args(["--listen", &listen]).args(authority.flags());
        Server::spawn(&mut command)
    };
    let url = format!("wss://localhost:{}", port.number);
    let mut server = serve(Kind::Good);
    let args = [&url, "--ca", &authority.ca(), "--reconnect"];
    let mut ann = Program::start("client", &args);
    ann.is_connected();
    server.stop();
    server = serve(Kind::Expired);
    let why = "its certificate has expired (is the clock of this machine right?); trying again in ";
    while !ann.err_line().contains(why) {}
    server.stop();
    server = serve(Kind::Good);
    while !ann.err_line().contains("connected to ") {}
    server.joined();
    server.stop();
}

/// Starts a client, and waits until it has failed: the last line that it says.
#[track_caller]
fn failure(args: &[&str]) -> String {
    // It would go on if there were a use in it.
    let mut client = Program::start("client", &[args, &["--reconnect"]].concat());
    assert_eq!(client.exit(), 1);
    assert_eq!(client.rest(), [""; 0]);
    client.err_rest().pop().unwrap()
}

#[test]
fn each_fault_of_a_certificate_is_said_in_words() {
    let authority = Authority::new();
    let stranger = Authority::new();
    for (kind, ca, why) in [
        (
            Kind::Expired,
            authority.ca(),
            "its certificate has expired (is the clock of this machine right?)",
        ),
        (
            Kind::NotValidYet,
            authority.ca(),
            "its certificate is not valid yet (is the clock of this machine right?)",
        ),
        (
            Kind::OtherName,
            authority.ca(),
            "its certificate is for the name chat.example, not for localhost",
        ),
        (
            Kind::Good,
            stranger.ca(),
            "nobody whom this machine trusts has signed its certificate (see --ca)",
        ),
        (
            Kind::Issuer,
            authority.file("chain.pem"),
            "its certificate is one to sign others with, not one for a server (made with openssl? \
             then with basicConstraints=CA:FALSE)",
        ),
    ] {
        let mut server = served(&authority, kind);
        let url = format!("wss://localhost:{}", server.port);
        let said = failure(&[&url, "--ca", &ca]);
        assert_eq!(said, format!("client: cannot connect to {url}: {why}"));
        // Before the server is asked to stop, since handshakes end then without a word.
        let said = server.program.err_line();
        assert!(said.contains(" left: its TLS handshake failed: "), "{said}");
        server.stop_in_silence();
        // Nobody came in.
        assert_eq!(server.program.rest(), [""; 0]);
    }
}

#[test]
fn nothing_goes_in_clear_text_under_a_wss_name() {
    let authority = Authority::new();
    let ca = authority.ca();
    let plain = Server::start();
    let url = format!("wss://localhost:{}", plain.port);
    let why = "what listens there does not speak TLS (is it a ws:// server?)";
    let said = failure(&[&url, "--ca", &ca]);
    assert_eq!(said, format!("client: cannot connect to {url}: {why}"));

    // Whatever answers, nothing of the request is in what the client sends.
    let server = RawServer::listen();
    let url = server
        .url()
        .replacen("ws://127.0.0.1", "wss://localhost", 1);
    let mut client = Program::start("client", &[&url, "--ca", &ca]);
    let mut raw = server.tcp();
    raw.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
    assert_eq!(client.exit(), 1);
    let mut sent = Vec::new();
    let _ = raw.stream.read_to_end(&mut sent);
    assert_eq!(sent.first(), Some(&22), "a TLS hello");
    assert!(!sent.windows(4).any(|word| word == b"HTTP"), "{sent:?}");
}

#[test]
fn a_file_that_nobody_can_be_trusted_by_is_named() {
    let authority = Authority::new();
    let empty = authority.file("empty.pem");
    fs::write(&empty, "").unwrap();
    let none = format!("there is no certificate in {empty}: ");
    for (file, why) in [
        (&empty, &*none),
        (
            &authority.file("missing.pem"),
            "missing.pem: no such file or directory",
        ),
    ] {
        // With `ws://`, too: a mistake is found before it matters.
        for url in ["wss://localhost:9", "ws://localhost:9"] {
            let said = failure(&[url, "--ca", file]);
            assert!(said.contains(why), "{said}");
        }
    }
}
