//! A server that is asked to stop: everyone is told, nothing that was accepted is lost, and
//! nobody keeps it from ending.

use std::io::{self, Write};
use std::process::Stdio;
use std::thread;

use crate::support::raw::{BINARY, CLOSE, Ear, FIN, PING, REQUEST, Raw, close_frame, frame};
use crate::support::{Program, Server};

const GOODBYE: &str = "server shutting down";

#[test]
fn fifty_clients_hear_everything_and_then_the_goodbye() {
    const LINES: usize = 2000;
    let mut server = Server::start();
    let mut readers = Raw::crowd(server.port, 50);
    let mut ann = Raw::join(server.port);
    let name = ann.name();
    for n in 0..LINES {
        ann.say(&n.to_string());
    }
    // Accepted, which is not yet delivered.
    server.lines_to(&format!("Received from {name}: {}", LINES - 1));
    server.program.signal("TERM");
    for raw in &mut readers {
        for n in 0..LINES {
            assert_eq!(raw.text(), format!("{name}: {n}"));
        }
        assert_eq!(raw.frame().unwrap().0, FIN | CLOSE);
        raw.send(&frame(FIN | CLOSE, &1001_u16.to_be_bytes()));
    }
    assert_eq!(ann.close(), (1001, GOODBYE.to_owned()));
    drop((readers, ann));
    assert_eq!(server.program.exit(), 0);
    let gone = server.program.rest();
    assert_eq!(gone.len(), 51);
    assert!(gone.iter().all(|line| line.ends_with(" disconnected")));
    assert_eq!(server.program.err_rest(), [""; 0]);
}

#[test]
fn real_clients_show_everything_and_say_why_it_ended() {
    const LINES: usize = 2000;
    let mut server = Server::start();
    let mut readers: Vec<_> = (0..5).map(|_| Program::client(server.port)).collect();
    for _ in 0..5 {
        server.line();
    }
    let (mut ann, name) = server.join();
    let lines: Vec<_> = (0..LINES).map(|n| format!("{n}\n")).collect();
    let text = lines.concat();
    ann.input
        .as_mut()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    server.lines_to(&format!("Received from {name}: {}", LINES - 1));
    server.program.signal("TERM");
    for client in &mut readers {
        assert_eq!(client.exit(), 1);
        let heard = client.rest();
        assert_eq!(heard.len(), LINES);
        for (n, line) in heard.iter().enumerate() {
            assert_eq!(*line, format!("{name}: {n}"));
        }
        let why = format!("client: the server closed the chat: {GOODBYE} (1001, going away)");
        assert_eq!(client.err_rest(), [why]);
    }
    assert_eq!(server.program.exit(), 0);
}

/// Lines of [`stuff`]: more than fits on the way to a peer that does not read, less than makes
/// those who speak wait for it.
const STUFF: usize = 12;

/// Says so much that a peer that does not read is stuck, and hears it all with another.
fn stuff(port: u16) -> Raw {
    let (mut ann, mut bob) = (Raw::join(port), Raw::join(port));
    let text = "x".repeat(10_000);
    for _ in 0..STUFF {
        ann.say(&text);
        bob.text();
    }
    bob
}

/// Now that the server has ended: it had not sent all of that, so this peer was stuck.
fn was_stuck(raw: Raw) {
    let mut ear = Ear::of(raw);
    let heard = std::iter::from_fn(|| ear.text().map(str::len)).count();
    assert!(heard < STUFF, "it was sent everything");
}

/// Also when it only leaves a Close without an answer: the library would wait for that for ever (the
/// fifth of its faults).
#[test]
fn a_client_that_does_not_move_keeps_no_server_from_ending() {
    let mut server = Server::start();
    let never_reads = Raw::narrow(server.port);
    let mut halfway_in_a_frame = Raw::join(server.port);
    halfway_in_a_frame.send(&[0x81, 0xfe, 0x10]);
    let mut bob = stuff(server.port);
    // These two may take 5 s for their requests, so they come late; and before others, so that they are there.
    let mut half = Raw::tcp(server.port);
    half.send(&REQUEST.as_bytes()[..30]);
    let _silent = Raw::tcp(server.port);
    let (_mute, mut broken) = (Raw::join(server.port), Raw::join(server.port));
    let name = broken.name();
    broken.send(&frame(FIN | BINARY, b""));
    assert_eq!(broken.close().0, 1003);
    server.program.signal("TERM");
    assert_eq!(bob.close(), (1001, GOODBYE.to_owned()));
    // None of them moves, Bob does not answer either.
    assert_eq!(server.program.exit(), 0);
    let why = format!("server: {name} was closed: only text messages, please (1003)");
    assert_eq!(server.program.err_rest(), [why]);
    was_stuck(never_reads);
}

#[test]
fn pongs_that_cannot_be_written_keep_nobody_from_the_goodbye() {
    let mut server = Server::start();
    let mut never_reads = Raw::narrow(server.port);
    let mut bob = stuff(server.port);
    let name = never_reads.name();
    for text in ["one", "two"] {
        let (ping, line) = (frame(FIN | PING, b""), frame(0x81, text.as_bytes()));
        never_reads.send(&[ping, line].concat());
        assert_eq!(bob.text(), format!("{name}: {text}"));
    }
    // Now the second pong waits until the first one was taken.
    server.program.signal("TERM");
    assert_eq!(bob.close(), (1001, GOODBYE.to_owned()));
    drop(bob);
    assert_eq!(server.program.exit(), 0);
    was_stuck(never_reads);
}

#[test]
fn a_flood_does_not_keep_a_server_from_ending() {
    let mut server = Server::start();
    let mut raw = Raw::join(server.port);
    let mut first = Raw::join(server.port);
    let flood =
        thread::spawn(move || while raw.stream.write_all(&frame(0x81, b"on and on")).is_ok() {});
    first.text();
    server.program.signal("TERM");
    assert_eq!(first.close(), (1001, GOODBYE.to_owned()));
    drop(first);
    assert_eq!(server.program.exit(), 0);
    flood.join().unwrap();
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start();
    ends_at_a_second_signal(&mut server);
    let why = "server: ended at once, at a second signal";
    assert_eq!(server.program.err_rest(), [why]);
}

/// A pipe that is full, and whose reader stands still.
#[test]
fn nobody_has_to_read_why_it_ends() {
    let (_unread, mut full) = io::pipe().unwrap();
    full.write_all(&vec![b'\n'; 64 * 1024]).unwrap();
    let mut command = Program::command("server");
    let server = Program::spawn_on(&mut command, Stdio::piped(), full.into());
    ends_at_a_second_signal(&mut Server::of(server));
}

fn ends_at_a_second_signal(server: &mut Server) {
    let never_reads = Raw::narrow(server.port);
    let mut bob = stuff(server.port);
    server.program.signal("TERM");
    // The first has been seen; those who are stuck hold it up for seconds yet.
    assert_eq!(bob.close(), (1001, GOODBYE.to_owned()));
    server.program.signal("INT");
    assert_eq!(server.program.exit(), 1);
    was_stuck(never_reads);
}

/// systemd sends both to what a login has left; a shell sends SIGHUP, and so does the system behind it.
#[test]
fn a_terminal_that_is_gone_is_no_second_signal() {
    for [first, then] in [["TERM", "HUP"], ["HUP", "HUP"], ["HUP", "TERM"]] {
        let mut server = Server::start();
        let mut ann = Raw::join(server.port);
        server.while_stopped(|| {
            server.program.signal(first);
            server.program.signal("HUP");
        });
        assert_eq!(ann.close(), (1001, GOODBYE.to_owned()));
        // The server waits for its answer now.
        server.program.signal(then);
        ann.send(&close_frame(1001, ""));
        drop(ann);
        assert_eq!(server.program.exit(), 0);
        assert_eq!(server.program.err_rest(), [""; 0]);
    }
}

#[test]
fn a_terminal_that_is_gone_ends_the_server_unless_that_is_to_be_ignored() {
    let mut server = Server::start();
    server.program.signal("HUP");
    assert_eq!(server.program.exit(), 0);

    // As `nohup` starts it.
    let mut command = std::process::Command::new("sh");
    let script = "trap '' HUP; exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_server")]);
    let mut server = Server::spawn(command.args(["--listen", "127.0.0.1:0"]));
    server.program.signal("HUP");
    let mut ann = Raw::join(server.port);
    let mut bob = Raw::join(server.port);
    bob.say("still here");
    assert_eq!(ann.text(), format!("{}: still here", bob.name()));
    server.stop_in_silence();
}
