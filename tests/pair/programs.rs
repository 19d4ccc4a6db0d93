//! What a user gives the two programs, and what they answer: flags, pipes, mistakes, ends.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::Output;
use std::thread;

use crate::support::raw::RawServer;
use crate::support::{Port, Program, Server};

/// Runs a program to its end with nothing to read.
fn run(name: &str, args: &[&str]) -> (i32, String, String) {
    let output = Program::command(name)
        .args(args)
        // Where no packet comes back, the system shall say so before the client gives up.
        .env("RES_OPTIONS", "timeout:1 attempts:1")
        .stdin(std::process::Stdio::null())
        .output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A mistake: this exit code, nothing on standard output, and exactly this line.
fn fails(name: &str, args: &[&str], code: i32, line: &str) {
    assert_eq!(
        run(name, args),
        (code, String::new(), format!("{name}: {line}\n"))
    );
}

/// A listener that reads the request of the first connection and answers with some bytes.
fn answering(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    port
}

#[test]
fn help_and_version_are_normal_ends() {
    for name in ["server", "client"] {
        let (code, out, err) = run(name, &["--help"]);
        assert_eq!((code, err.as_str()), (0, ""));
        let (address, variable) = match name {
            "server" => ("127.0.0.1:8080", "CHAT_LISTEN"),
            _ => ("ws://127.0.0.1:8080", "CHAT_URL"),
        };
        assert!(out.contains(address) && out.contains(variable), "{out}");
        let version = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(run(name, &["--version"]), (0, version, String::new()));
    }
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for name in ["server", "client"] {
        for flag in ["--help", "--version"] {
            let mut command = Program::command(name);
            let output = command.arg(flag).stdout(full()).output().unwrap();
            let why = format!("{name}: cannot write standard output: no space left on device\n");
            assert_eq!(String::from_utf8(output.stderr).unwrap(), why);
            assert_eq!(output.status.code(), Some(1));
        }
    }
}

#[test]
fn a_wrong_flag_is_one_line_and_exit_2() {
    fails(
        "server",
        &["--nonsense"],
        2,
        "unexpected argument '--nonsense' found (see server --help)",
    );
    fails(
        "client",
        &["8080"],
        2,
        "invalid value '8080' for '[URL]': a chat is at ws://HOST:PORT or wss://HOST, for instance ws://127.0.0.1:8080 (see client --help)",
    );
}

#[test]
fn a_url_that_makes_no_sense_is_one_line_and_exit_2() {
    const FORM: &str =
        "a chat is at ws://HOST:PORT or wss://HOST, for instance ws://127.0.0.1:8080";
    for (url, why) in [
        (":8080", FORM),
        ("http://127.0.0.1:8080", FORM),
        ("ws://", FORM),
        ("ws://user@127.0.0.1:8080", FORM),
        (
            "ws://127.0.0.1:99999",
            "the port is a number from 1 to 65535",
        ),
        ("ws://[::1]:0", "the port is a number from 1 to 65535"),
    ] {
        let line = format!("invalid value '{url}' for '[URL]': {why} (see client --help)");
        fails("client", &[url], 2, &line);
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let port = Port::hold();
    let url = port.url();
    let why = "connection refused (is the server running?)";
    fails(
        "client",
        &[&url],
        1,
        &format!("cannot connect to {url}: {why}"),
    );

    let url = "ws://no-such-name.invalid:8080";
    let why = "the name is not known (is it spelled right?)";
    fails(
        "client",
        &[url],
        1,
        &format!("cannot connect to {url}: {why}"),
    );
}

#[test]
fn what_is_not_a_chat_is_named() {
    const PAGE: &str = "what listens there answered HTTP 404, not a WebSocket";
    const WRONG: &str = "its WebSocket handshake is wrong";
    for (answer, why) in [
        (&b"HTTP/1.1 404 Not Found\r\n\r\n<html>\n"[..], PAGE),
        (
            b"HTTP/1.1 503 X\r\n\r\nthe chat is full\n",
            "refused: the chat is full (HTTP 503)",
        ),
        (
            b"HTTP/1.1 503 X\r\n\r\n\x1b[2J",
            "refused: \u{FFFD}[2J (HTTP 503)",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            "what listens there is not a WebSocket server",
        ),
        (
            b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
            WRONG,
        ),
        (b"HTTP/1.1 101 X\r\n\r\n", WRONG),
        (b"", "it hung up during the handshake"),
    ] {
        let url = format!("ws://127.0.0.1:{}", answering(answer));
        fails(
            "client",
            &[&url],
            1,
            &format!("cannot connect to {url}: {why}"),
        );
    }
}

/// A web server keeps its connection open behind an answer, and a page need not be read.
#[test]
fn an_answer_on_a_connection_that_stays_open_is_told_at_once() {
    const BAD_GATEWAY: &[u8] = b"HTTP/1.1 502 X\r\nContent-Length: 12\r\n\r\nbad gateway\n";
    const PAGE: &[u8] = b"HTTP/1.1 404 X\r\nContent-Length: 9999\r\n\r\n<html>";
    const ENDLESS: &[u8] = b"HTTP/1.1 403 X\r\n\r\nno entry\n";
    for (answer, why) in [
        (BAD_GATEWAY, "refused: bad gateway (HTTP 502)"),
        (
            PAGE,
            "what listens there answered HTTP 404, not a WebSocket",
        ),
        (ENDLESS, "refused: no entry (HTTP 403)"),
    ] {
        let listener = RawServer::listen();
        let url = listener.url();
        let mut client = Program::start("client", &[&url]);
        let mut server = listener.tcp();
        server.head();
        server.send(answer);
        let line = format!("client: cannot connect to {url}: {why}");
        assert_eq!(client.err_line(), line);
        assert_eq!(client.exit(), 1);
    }
}

/// Each of the client's switches is what its variable says, and an empty one is none.
#[test]
fn a_variable_says_yes_or_no() {
    for (value, yes) in [
        ("1", true),
        ("true", true),
        ("Yes", true),
        ("ON", true),
        ("0", false),
        ("False", false),
        ("no", false),
        ("off", false),
        ("", false),
    ] {
        let mut server = Server::start();
        let mut command = Program::command("client");
        let client = Program::spawn(command.arg(server.url()).env("CHAT_JSON", value));
        let (mut client, mut bob) = (client, Program::client(server.port));
        server.joined();
        server.joined();
        bob.type_line("hello");
        assert_eq!(client.line().starts_with('{'), yes, "CHAT_JSON={value}");
    }
    let mut command = Program::command("client");
    let mut client = Program::spawn(command.env("CHAT_RECONNECT", "perhaps"));
    let why = "it is 1, true, yes or on; or 0, false, no or off (see client --help)";
    let line = format!("client: invalid value 'perhaps' for '--reconnect': {why}");
    assert_eq!((client.exit(), client.err_rest()), (2, vec![line]));
}

/// As `CHAT_URL= client` in a shell, or a line that was left empty in a file of variables; and so is a switch
/// that is off.
#[test]
fn an_empty_variable_is_unset() {
    let mut command = Program::command("server");
    for name in ["MAX_MESSAGE", "MAX_CONNECTIONS", "THREADS", "ALLOW_ORIGIN"] {
        command.env(format!("CHAT_{name}"), "");
    }
    // This would need another flag, if it was on.
    command.env("CHAT_STORE_SYNC", "no");
    let server = Server::spawn(&mut command);
    let mut command = Program::command("client");
    for name in ["URL", "MAX_MESSAGE", "WAIT", "RECONNECT", "TIMESTAMPS"] {
        command.env(format!("CHAT_{name}"), "");
    }
    let mut client = Program::spawn(command.arg(server.url()));
    client.is_connected();
    client.end_input();
    assert_eq!(client.exit(), 0);
}

#[test]
fn a_url_without_its_scheme_is_a_chat() {
    let mut server = Server::start();
    let host = format!("127.0.0.1:{}", server.port);
    let mut client = Program::start("client", &[&host]);
    let connected = format!("client: connected to ws://{host} (Ctrl+C or Ctrl+D leaves)");
    assert_eq!(client.err_line(), connected);
    server.joined();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let mut server = Server::start();
    let listen = format!("127.0.0.1:{}", server.port);
    let why = "the port is taken (is another server running? else choose another --listen)";
    fails(
        "server",
        &["--listen", &listen],
        1,
        &format!("cannot listen on {listen}: {why}"),
    );
    server.stop();
}

#[test]
fn an_address_that_is_not_here_is_named() {
    let why = "this machine does not have that address";
    let listen = "192.0.2.1:0"; // TEST-NET-1, nobody's
    fails(
        "server",
        &["--listen", listen],
        1,
        &format!("cannot listen on {listen}: {why}"),
    );
}

#[test]
fn the_same_port_can_be_taken_again_at_once() {
    let port = Port::hold();
    let mut server = port.serve();
    let (mut client, _) = server.join();
    server.program.signal("INT");
    assert_eq!((server.program.exit(), client.exit()), (0, 1));
    let mut again = port.serve();
    assert_eq!(again.port, server.port);
    again.join();
}

#[test]
fn the_environment_stands_for_the_flags_and_names_resolve() {
    let mut server = Server::spawn(Program::command("server").env("CHAT_LISTEN", "localhost:0"));
    let url = format!("ws://localhost:{}", server.port);
    let mut client = Program::spawn(Program::command("client").env("CHAT_URL", &url));
    assert_eq!(
        client.err_line(),
        format!("client: connected to {url} (Ctrl+C or Ctrl+D leaves)")
    );
    assert!(server.line().starts_with("New connection from "));
}

#[test]
fn ipv6_works_where_the_machine_has_it() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // no IPv6 here
    }
    let mut server = Server::spawn(Program::command("server").args(["--listen", "[::1]:0"]));
    let url = format!("ws://[::1]:{}", server.port);
    let mut ann = Program::start("client", &[&url]);
    let name = server.line();
    let name = name.strip_prefix("New connection from ").unwrap();
    assert!(name.starts_with("[::1]:"), "{name}");
    let mut bob = Program::start("client", &[&url]);
    server.line();
    ann.type_line("hi");
    assert_eq!(bob.line(), format!("{name}: hi"));
}

#[test]
fn piped_lines_arrive_in_order_before_the_client_ends() {
    let mut server = Server::start();
    let (mut bob, _) = server.join();
    let (mut ann, name) = server.join();
    ann.input
        .as_mut()
        .unwrap()
        .write_all(b"a\r\n\n\r\nb\nlast")
        .unwrap();
    ann.end_input();
    assert_eq!((ann.exit(), ann.rest()), (0, vec![]));
    // The client has ended, so the server has taken everything: it comes before the goodbye.
    for line in ["a", "", "", "b", "last"] {
        assert_eq!(server.line(), format!("Received from {name}: {line}"));
        assert_eq!(bob.line(), format!("{name}: {line}"));
    }
    assert_eq!(server.line(), format!("Client {name} disconnected"));
}

#[test]
fn a_line_that_cannot_be_sent_is_named_and_the_rest_is_sent() {
    let mut server = Server::start();
    let (mut bob, _) = server.join();
    let mut ann = Program::client(server.port);
    let long = vec![b'x'; 16 * 1024 + 1];
    let input = [b"a\n\xff\nb\n", &long[..], b"\nc\n"].concat();
    ann.input.as_mut().unwrap().write_all(&input).unwrap();
    ann.end_input();
    for line in ["a", "b", "c"] {
        assert!(bob.line().ends_with(&format!(": {line}")));
    }
    assert_eq!(ann.err_line(), "client: line 2 is not UTF-8: not sent");
    assert_eq!(
        ann.err_line(),
        "client: line 4 is too long: 16385 bytes of at most 16384 (--max-message): not sent"
    );
    assert_eq!(ann.err_line(), "client: 2 lines were not sent");
    assert_eq!(ann.exit(), 1);
}

#[test]
fn a_client_notices_at_once_that_the_server_was_killed() {
    let mut server = Server::start();
    let (mut client, _) = server.join();
    server.program.signal("KILL");
    let why = "client: connection lost: the server went away without a goodbye";
    assert_eq!(client.err_line(), why);
    assert_eq!(client.exit(), 1);
}

#[test]
fn more_threads_keep_the_order_too() {
    let mut server = Server::with(&["--threads", "3"]);
    let (mut ann, a) = server.join();
    let (mut bob, b) = server.join();
    for n in 0..100 {
        ann.type_line(&n.to_string());
        bob.type_line(&n.to_string());
    }
    for n in 0..100 {
        assert_eq!(bob.line(), format!("{a}: {n}"));
        assert_eq!(ann.line(), format!("{b}: {n}"));
    }
}

#[test]
fn a_number_out_of_bounds_is_named() {
    let why = "it is a number from 1 to 256 (see server --help)";
    let line = format!("invalid value '0' for '--threads <N>': {why}");
    fails("server", &["--threads", "0"], 2, &line);
    let why = "it is a number of seconds (see client --help)";
    let line = format!("invalid value 'soon' for '--wait <SECONDS>': {why}");
    fails("client", &["--wait", "soon"], 2, &line);
}
