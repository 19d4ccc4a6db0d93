//! Standard output and standard error that are closed, or that nobody reads: the chat goes on,
//! and what the log lost is counted.

use std::io::{ErrorKind, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;

use crate::support::raw::{Ear, Others, Raw};
use crate::support::{Lines, Program, Server, close};

/// Something for standard error: a refusal.
fn is_refused(port: u16) {
    let mut raw = Raw::tcp(port);
    raw.send(b"POST / HTTP/1.1\r\n\r\n");
    assert!(raw.response().starts_with("HTTP/1.1 405 "));
}

#[test]
fn a_closed_standard_output_is_said_and_the_chat_goes_on() {
    let (mut server, pipe) = Server::unread(Stdio::piped());
    close(pipe); // `server | head -1`
    Others::join(server.port).talk_on();
    assert_eq!(
        server.program.err_line(),
        "server: standard output is closed: the log ends here"
    );
    Others::join(server.port).talk_on();
    server.stop_in_silence();
}

#[test]
fn a_log_that_nobody_reads_costs_the_chat_nothing_and_counts_what_it_lost() {
    const LINES: usize = 100_000;
    let (mut server, log) = Server::unread(Stdio::piped());
    let mut ear = Ear::join(server.port);
    let mut ann = Program::client(server.port);
    let mut input = ann.input.take().unwrap();
    let flood = thread::spawn(move || {
        let lines: Vec<_> = (0..LINES).map(|n| format!("{n:064}\n")).collect();
        input.write_all(lines.concat().as_bytes()).unwrap();
    });
    for n in 0..LINES {
        let text = ear.text().unwrap();
        assert!(text.ends_with(&format!(": {n:064}")), "line {n}: {text}");
    }
    flood.join().unwrap();
    assert_eq!(ann.exit(), 0);

    // It is said at once, and how many they were when somebody reads it after all.
    let slow = "server: standard output is read too slowly: log lines are dropped from now on";
    assert_eq!(server.program.err_line(), slow);
    server.program.out = Lines::of(log);
    let dropped = server.program.err_line();
    let dropped = dropped
        .strip_prefix("server: ")
        .and_then(|line| line.strip_suffix(" log lines dropped"))
        .expect(&dropped);
    let dropped: usize = dropped.parse().unwrap();
    let name = ear.raw.name();
    ear.raw.say("the end");
    let read = server.lines_to(&format!("Received from {name}: the end"));
    let received = read.iter().filter(|line| line.starts_with("Received "));
    let numbers = received.map(|line| line[line.len() - 64..].parse::<usize>().unwrap());
    assert!(numbers.is_sorted_by(|a, b| a < b));
    // Two came, one left.
    assert!(dropped > 0);
    assert_eq!(read.len() + dropped, 2 + LINES + 1);

    server.program.signal("TERM");
    assert_eq!(ear.text(), None);
    drop(ear);
    assert_eq!(server.program.exit(), 0);
    let gone = format!("Client {name} disconnected");
    assert_eq!(server.program.rest(), [gone]);
    assert_eq!(server.program.err_rest(), [""; 0]);
}

#[test]
fn a_server_whose_log_nobody_reads_still_ends() {
    let (mut server, _log) = Server::unread(Stdio::piped());
    let (mut ann, mut bob) = (Raw::join(server.port), Ear::join(server.port));
    let text = "x".repeat(16 * 1024);
    for _ in 0..100 {
        ann.say(&text);
        bob.text().unwrap();
    }
    Others::join(server.port).talk_on();
    // Both have heard more than they have read, and would not answer the goodbye.
    drop((ann, bob));
    server.stop();
    let said = server.program.err_rest();
    let [said] = &said[..] else {
        panic!("{said:?}")
    };
    let lines = said
        .strip_prefix("server: ")
        .and_then(|said| said.strip_suffix(" log lines dropped at the end"));
    // Of the lines before it some fitted into the pipe.
    assert!(lines.unwrap().parse::<u32>().unwrap() > 90, "{said}");
}

#[test]
fn a_closed_standard_error_stops_nothing() {
    let (end, err) = pipe().unwrap();
    let (mut server, log) = Server::unread(err.into());
    close(end);
    for _ in 0..3 {
        is_refused(server.port);
    }
    Others::join(server.port).talk_on();
    close(log); // which would be worth a line
    Others::join(server.port).talk_on();
    server.stop();
}

#[test]
fn a_standard_error_that_nobody_reads_stops_nothing() {
    let (mut err, _unread) = UnixStream::pair().unwrap();
    err.set_nonblocking(true).unwrap();
    let full = loop {
        if let Err(error) = err.write(&[b'x'; 100]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    err.set_nonblocking(false).unwrap();
    let (mut server, _log) = Server::unread(OwnedFd::from(err).into());
    for _ in 0..3 {
        is_refused(server.port);
    }
    Others::join(server.port).talk_on();
    server.stop();
}

#[test]
fn outputs_that_are_closed_from_the_start_stop_nothing() {
    // Standard output must tell the port, so it is closed behind the first line.
    let mut command = std::process::Command::new("sh");
    let script = "exec \"$0\" \"$@\" 2>&-";
    command.args(["-c", script, env!("CARGO_BIN_EXE_server")]);
    let mut server = Server::spawn(command.args(["--listen", "127.0.0.1:0"]));
    is_refused(server.port);
    Others::join(server.port).talk_on();
    server.stop();
}
