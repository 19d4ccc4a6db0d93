//! The client as a part of a pipeline: what it reads, what it writes, and when it ends.

use std::fs::File;
use std::io::{self, BufWriter, PipeWriter, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::support::raw::{CLOSE, FIN, PING, PONG, Raw, RawServer, TEXT};
use crate::support::{Lines, Program, Server, is_unread, resident, signal};
use serde_json::Value;

const LOST: &str = "client: connection lost: the server went away without a goodbye";
const LEFT: &str = "client: left the chat";
const TAKEN: &str = "client: left the chat: the server has taken all of the input";

#[test]
fn standard_output_is_the_chat_alone_and_each_line_comes_at_once() {
    let mut server = Server::start();
    let (mut ann, _) = server.join();
    let (mut bob, b) = server.join();
    // A line is there before the next is said.
    for text in ["one", "two", "汉字 👍", "\ttabs\tstay", "last"] {
        bob.type_line(text);
        assert_eq!(ann.line(), format!("{b}: {text}"));
    }
    ann.signal("INT");
    assert_eq!((ann.exit(), ann.rest()), (0, vec![]));
    assert_eq!(ann.err_rest(), [LEFT]);
}

/// A reader that takes three lines and goes, as in `client | head -3`.
struct Head {
    lines: Lines,
    /// The pipe's other end, like the client's.
    probe: PipeWriter,
}

impl Head {
    fn open(url: &str) -> (Program, Self) {
        let (reader, writer) = io::pipe().unwrap();
        let probe = writer.try_clone().unwrap();
        let mut command = Program::command("client");
        let client = Program::spawn_into(command.arg(url), writer);
        let lines = Lines::first(3, reader);
        (client, Self { lines, probe })
    }

    /// A client of a server made by hand, behind which such a reader has come and gone.
    fn has_gone(listener: &RawServer) -> (Program, Raw) {
        let (mut client, mut head) = Self::open(&listener.url());
        let mut server = listener.accept();
        client.is_connected();
        for text in ["one", "two", "three"] {
            server.say(text);
            assert_eq!(head.lines.next().as_deref(), Some(text));
        }
        head.goes();
        (client, server)
    }

    /// Waits until it is gone and nobody has its end of the pipe.
    fn goes(mut self) {
        assert_eq!(self.lines.next(), None);
        is_unread(self.probe);
    }
}

#[test]
fn a_reader_that_goes_ends_the_client_with_the_next_line() {
    let mut server = Server::start();
    let (mut ann, mut head) = Head::open(&server.url());
    ann.is_connected();
    let a = server.joined();
    let (mut bob, b) = server.join();
    for text in ["one", "two", "three"] {
        bob.type_line(text);
        assert_eq!(head.lines.next(), Some(format!("{b}: {text}")));
        assert_eq!(server.line(), format!("Received from {b}: {text}"));
    }
    head.goes();
    bob.type_line("four");
    assert_eq!(ann.exit(), 0);
    assert_eq!(ann.err_rest(), [LEFT]);
    assert_eq!(server.line(), format!("Received from {b}: four"));
    assert_eq!(server.line(), format!("Client {a} disconnected"));
}

#[test]
fn a_reader_that_goes_is_no_reason_to_leave_without_a_goodbye() {
    let listener = RawServer::listen();
    let (mut ann, mut server) = Head::has_gone(&listener);
    server.say("four");
    assert_eq!(server.close(), (1000, String::new()));
    server.send_frame(FIN | CLOSE, &1000u16.to_be_bytes());
    server.shut();
    assert_eq!(ann.exit(), 0);
    assert_eq!(ann.err_rest(), [LEFT]);
}

/// The same through a shell and the real `head`.
#[test]
fn client_into_head_is_a_normal_end() {
    let mut server = Server::start();
    let after = "{ head -3; exec <&-; echo gone >&2; }; echo \"code ${PIPESTATUS[0]}\"";
    let mut shell = in_a_shell(&format!("\"$CLIENT\" {} | {after}", server.url()));
    shell.is_connected();
    let a = server.joined();
    let (mut bob, b) = server.join();
    for text in ["one", "two", "three"] {
        bob.type_line(text);
        assert_eq!(server.line(), format!("Received from {b}: {text}"));
    }
    assert_eq!(shell.err_line(), "gone");
    // `head` writes what it has at its end.
    for text in ["one", "two", "three"] {
        assert_eq!(shell.line(), format!("{b}: {text}"));
    }
    bob.type_line("four");
    assert_eq!(shell.line(), "code 0");
    assert_eq!(shell.err_line(), LEFT);
    assert_eq!(server.line(), format!("Received from {b}: four"));
    assert_eq!(server.line(), format!("Client {a} disconnected"));
}

/// Writes a line on and on, until nobody reads the pipe any more. Each has to be received when it was heard: the
/// writer is never far ahead of that, so that the server soon confirms what is under way to it, whoever is slow.
/// When there is no receiver any more, it waits for nobody.
fn goes_on_and_on(mut input: ChildStdin, line: String) -> (Receiver<()>, JoinHandle<()>) {
    let (ahead, heard) = sync_channel(100);
    let writing = thread::spawn(move || {
        while writeln!(input, "{line}").is_ok() {
            let _ = ahead.send(());
        }
    });
    (heard, writing)
}

/// What a pipe brings on and on was only read ahead; who leaves it loses nothing.
#[test]
fn who_leaves_a_pipe_that_still_brings_lines_has_lost_nothing() {
    let mut server = Server::start();
    let (mut bob, _) = server.join();
    let (mut ann, a) = server.join();
    let line = "on and on ".repeat(100);
    let (heard, writing) = goes_on_and_on(ann.input.take().unwrap(), line.clone());
    for _ in 0..1000 {
        assert_eq!(bob.line(), format!("{a}: {line}"));
        heard.recv().unwrap();
    }
    ann.signal("INT");
    drop(heard);
    assert_eq!((ann.exit(), ann.err_rest()), (0, vec![LEFT.into()]));
    writing.join().unwrap();
}

/// The same when it is the reader that goes.
#[test]
fn a_reader_that_goes_leaves_a_pipe_that_still_brings_lines() {
    let server = Server::start();
    let script = format!(
        "\"$CLIENT\" {} | head -3; echo \"code ${{PIPESTATUS[0]}}\"",
        server.url()
    );
    let mut shell = in_a_shell(&script);
    shell.is_connected();
    let mut bob = Program::client(server.port);
    let (heard, writing) = goes_on_and_on(shell.input.take().unwrap(), "y".repeat(1000));
    bob.type_line("one\ntwo\nthree");
    for text in ["one", "two", "three"] {
        assert!(shell.line().ends_with(&format!(": {text}")));
    }
    // Until it is noticed that the reader has gone.
    let mut code = shell.out.try_next();
    while code.is_none() {
        let _ = bob.input.as_mut().unwrap().write_all(b"more\n");
        while bob.out.try_next().is_some() {
            heard.recv().unwrap();
        }
        thread::yield_now();
        code = shell.out.try_next();
    }
    drop(heard);
    assert_eq!(code.as_deref(), Some("code 0"));
    assert_eq!(shell.err_rest(), [LEFT]);
    writing.join().unwrap();
}

/// A full disk, which the system has as a device.
#[test]
fn what_cannot_be_written_is_a_failure_and_said() {
    let server = Server::start();
    let url = server.url();
    let script = format!("exec \"$CLIENT\" {url} --wait 60 < /dev/null > /dev/full");
    let mut client = in_a_shell(&script);
    client.is_connected();
    let mut bob = Program::client(server.port);
    bob.type_line("hello");
    assert_eq!(client.exit(), 1);
    let why = "client: cannot write standard output: no space left on device";
    assert_eq!(client.err_rest(), [why]);
}

/// As `client < folder`, which the shell allows.
#[test]
fn what_cannot_be_read_is_a_failure_and_said() {
    let server = Server::start();
    let mut command = Program::command("client");
    let folder = Stdio::from(File::open("/").unwrap());
    let command = command.args([&server.url(), "--wait", "60"]);
    let mut client = Program::spawn_from(command, folder, Stdio::piped(), Stdio::piped());
    client.is_connected();
    assert_eq!(client.exit(), 1);
    let why = "client: cannot read standard input: is a directory";
    assert_eq!(client.err_rest(), [why]);
}

/// Whose reader has gone has nothing left to wait for, and for who asks to leave one signal is
/// enough, whatever does not read: also when the server does not answer the goodbye. Both wait for
/// that at the same time.
#[test]
fn who_leaves_is_not_kept_by_a_server_that_does_not_answer() {
    let (gone, unread) = (RawServer::listen(), RawServer::listen());
    let (mut ann, mut server) = Head::has_gone(&gone);
    // Each is one more than the client can write.
    server.say("four");
    server.say("five");
    server.say("six");
    let (_unread, full) = io::pipe().unwrap();
    let mut bob = Program::spawn_into(Program::command("client").arg(unread.url()), full);
    let mut flooding = unread.accept();
    bob.is_connected();
    let line = "x".repeat(1000);
    // The pipe takes 64 KiB, and what the client keeps is full behind it.
    for _ in 0..200 {
        flooding.say(&line);
    }
    bob.signal("TERM");
    assert_eq!(server.close(), (1000, String::new()));
    // Nothing more comes from either server, and both connections stay open.
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.exit(), 0);
        assert_eq!(client.err_rest(), [LEFT]);
    }
}

/// A standard error that nobody reads is full of what was said about lines.
#[test]
fn a_signal_ends_a_client_whose_standard_error_nobody_reads() {
    let mut server = Server::start();
    let (_unread, full) = io::pipe().unwrap();
    let mut command = Program::command("client");
    command.arg(server.url());
    let mut client = Program::spawn_on(&mut command, Stdio::piped(), full.into());
    let _a = server.joined();
    let mut input = client.input.take().unwrap();
    // More of them than the pipe and the client keep: it stops to read.
    let bad = thread::spawn(move || while input.write_all(b"\xff\n").is_ok() {});
    let (mut bob, b) = server.join();
    bob.type_line("hello");
    assert_eq!(client.line(), format!("{b}: hello"));
    let memory = resident(client.id(), "VmRSS");
    assert!(memory < 40 * 1024 * 1024, "{memory}");
    client.signal("HUP");
    client.exit();
    bad.join().unwrap();
}

/// What a user would type, with the client's path in a variable.
fn in_a_shell(script: &str) -> Program {
    let client = Program::command("client");
    let mut shell = Command::new("bash");
    shell
        .args(["-c", script])
        .env("CLIENT", client.get_program());
    Program::spawn(&mut shell)
}

#[test]
fn without_wait_the_end_of_the_input_is_the_end() {
    let server = Server::start();
    let mut client = in_a_shell(&format!("exec \"$CLIENT\" {} < /dev/null", server.url()));
    client.is_connected();
    assert_eq!(client.exit(), 0);
    assert_eq!(
        (client.rest(), client.err_rest()),
        (vec![], vec![TAKEN.into()])
    );
}

#[test]
fn with_wait_the_client_listens_on_after_its_input() {
    for end in ["server", "signal"] {
        let mut server = Server::start();
        let (mut bob, b) = server.join();
        let (mut ann, a) = server.join_with(&["--wait", "60"]);
        ann.type_line("hello");
        ann.end_input();
        assert_eq!(bob.line(), format!("{a}: hello"));
        for text in ["one", "two", "three"] {
            bob.type_line(text);
            assert_eq!(ann.line(), format!("{b}: {text}"));
        }
        if end == "server" {
            server.program.signal("INT");
            let why = "client: the server closed the chat: server shutting down (1001, going away)";
            assert_eq!(ann.exit(), 1);
            assert_eq!(ann.err_rest(), [why]);
        } else {
            ann.signal("INT");
            assert_eq!(ann.exit(), 0);
            assert!(ann.err_line().starts_with(LEFT));
        }
        assert_eq!(ann.rest(), [""; 0]);
    }
}

#[test]
fn with_wait_and_no_input_the_client_only_listens() {
    let mut server = Server::start();
    let (mut bob, b) = server.join();
    let script = format!("exec \"$CLIENT\" {} --wait 60 < /dev/null", server.url());
    let mut client = in_a_shell(&script);
    client.is_connected();
    server.joined();
    for text in ["one", "two", "three"] {
        bob.type_line(text);
        assert_eq!(client.line(), format!("{b}: {text}"));
    }
    client.signal("INT");
    assert_eq!(client.exit(), 0);
    assert_eq!(client.rest(), [""; 0]);
}

#[test]
fn a_short_wait_ends_by_itself() {
    let mut server = Server::start();
    let (mut bob, _) = server.join();
    let (mut ann, a) = server.join_with(&["--wait", "0.1"]);
    ann.type_line("hello");
    ann.end_input();
    assert_eq!(ann.exit(), 0);
    assert_eq!(ann.err_rest(), [TAKEN]);
    assert_eq!(bob.line(), format!("{a}: hello"));
}

/// One line of `--json`.
fn object(line: &str) -> Value {
    let object: Value = serde_json::from_str(line).expect(line);
    let at = object["at"].as_str().expect(line);
    assert!(at.parse::<jiff::Timestamp>().is_ok(), "{at}");
    object
}

fn is_message(line: &str, from: &str, text: &str) {
    let object = object(line);
    assert_eq!(
        (&object["from"], &object["text"]),
        (&from.into(), &text.into())
    );
    assert_eq!(object.as_object().unwrap().len(), 3, "{line}");
}

#[test]
fn json_is_one_object_for_each_line_of_the_chat() {
    let mut server = Server::start();
    let (mut bob, b) = server.join();
    let (mut ann, _) = server.join_with(&["--json"]);
    for text in [
        "hello",
        "say \"hi\"",
        "C:\\temp\\new",
        "a\ttab",
        "a: b: c",
        "汉字 👍 é",
        "* no notice",
        "{\"at\":1}",
    ] {
        bob.type_line(text);
        is_message(&ann.line(), &b, text);
    }
    // What steers a terminal is made visible, by the server and by the client.
    bob.type_line("bell\x07 \x1b[31mred \u{7f}");
    is_message(&ann.line(), &b, "bell\u{fffd} \u{fffd}[31mred \u{fffd}");
    ann.signal("INT");
    assert_eq!((ann.exit(), ann.rest()), (0, vec![]));
    assert_eq!(ann.err_rest(), [LEFT]);
}

#[test]
fn json_tells_notices_from_messages() {
    let listener = RawServer::listen();
    let (mut ann, mut server) = listener.join(&["--json"]);
    for (said, notice) in [
        ("* 3 messages missed", "3 messages missed"),
        ("* \"quoted\" \\ \tand\x07", "\"quoted\" \\ \tand\u{fffd}"),
        ("neither", "neither"),
        ("* a: b", "a: b"),
    ] {
        server.say(said);
        let line = ann.line();
        let object = object(&line);
        assert_eq!(object["notice"], notice);
        assert_eq!(object.as_object().unwrap().len(), 2, "{line}");
    }
    // From a server that makes nothing safe.
    server.say("[::1]:5: \0\x01\x1b[2J\u{9b}\u{2028}\u{202e}\"\\\t\nanother: line");
    let text = "\u{fffd}\u{fffd}\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\"\\\t";
    is_message(&ann.line(), "[::1]:5", text);
    is_message(&ann.line(), "another", "line");
}

#[test]
fn timestamps_stand_before_each_line() {
    let mut server = Server::start();
    let (mut bob, b) = server.join();
    let (mut ann, _) = server.join_with(&["--timestamps"]);
    bob.type_line("hello");
    let line = ann.line();
    let (time, rest) = line.split_at("00:00:00 ".len());
    assert_eq!(rest, format!("{b}: hello"));
    let form = time.replace(|char: char| char.is_ascii_digit(), "0");
    assert_eq!(form, "00:00:00 ");
}

/// The line of this number in a large input.
fn numbered(number: usize) -> String {
    format!("{number} and a few words, as people write them")
}

/// Writes so many lines on a thread of its own, and gives the open pipe back.
fn write_lines(input: ChildStdin, count: usize) -> JoinHandle<ChildStdin> {
    thread::spawn(move || {
        let mut lines = BufWriter::new(input);
        for number in 0..count {
            writeln!(lines, "{}", numbered(number)).unwrap();
        }
        lines.into_inner().unwrap()
    })
}

fn large_pipe(count: usize) {
    const MOST: usize = 40 * 1024 * 1024;
    let mut server = Server::start();
    let (mut bob, _) = server.join();
    let (mut ann, a) = server.join();
    let writing = write_lines(ann.input.take().unwrap(), count);
    for number in 0..count {
        assert_eq!(bob.line(), format!("{a}: {}", numbered(number)));
    }
    // The pipe is still open, so the client is still there to be measured.
    let input = writing.join().unwrap();
    let peak = resident(ann.id(), "VmHWM");
    assert!(peak < MOST, "{peak} bytes");
    drop(input);
    assert_eq!(ann.exit(), 0);
    assert_eq!(ann.err_rest(), [TAKEN]);
}

#[test]
fn two_hundred_thousand_lines_arrive_in_order_and_little_memory() {
    large_pipe(200_000);
}

#[test]
#[ignore = "many seconds where there is no release build"]
fn a_million_lines_arrive_in_order_and_little_memory() {
    large_pipe(1_000_000);
}

/// What the client says comes as a line and a ping; returns the ping's payload.
fn takes(server: &mut Raw, text: &str) -> Vec<u8> {
    assert_eq!(server.frame().unwrap(), (FIN | TEXT, text.into()));
    let (first, ping) = server.frame().unwrap();
    assert_eq!(first, FIN | PING);
    ping
}

#[test]
fn lines_that_the_server_may_not_have_taken_are_named() {
    let listener = RawServer::listen();
    let (mut ann, mut server) = listener.join(&[]);
    for text in ["one", "two"] {
        ann.type_line(text);
        let ping = takes(&mut server, text);
        server.send_frame(FIN | PONG, &ping);
    }
    for text in ["three", "four: \"x\"\u{202e}"] {
        ann.type_line(text);
        takes(&mut server, text);
    }
    drop(server);
    assert_eq!(ann.exit(), 1);
    let expected = [
        "client: the server may not have taken: three",
        "client: the server may not have taken: four: \"x\"\u{fffd}",
        LOST,
    ];
    assert_eq!(
        (ann.rest(), ann.err_rest()),
        (vec![], expected.map(String::from).to_vec())
    );
}

/// A ping's answer confirms what came before it, also when an earlier one was not answered.
#[test]
fn a_pong_confirms_everything_before_its_ping() {
    let listener = RawServer::listen();
    let (mut ann, mut server) = listener.join(&[]);
    let mut pings = Vec::new();
    for text in ["one", "two", "three", "four"] {
        ann.type_line(text);
        pings.push(takes(&mut server, text));
    }
    // RFC 6455 5.5.3: only the latest ping needs an answer; here the last but one.
    server.send_frame(FIN | PONG, &pings[2]);
    server.send_frame(FIN | PONG, b"unasked");
    server.say("bye");
    drop(server);
    assert_eq!(ann.exit(), 1);
    assert_eq!(ann.rest(), ["bye"]);
    let expected = ["client: the server may not have taken: four", LOST];
    assert_eq!(ann.err_rest(), expected);
}

#[test]
fn many_lines_in_doubt_are_counted() {
    let listener = RawServer::listen();
    let (mut ann, mut server) = listener.join(&[]);
    for number in 1..=9 {
        ann.type_line(&number.to_string());
        takes(&mut server, &number.to_string());
    }
    drop(server);
    assert_eq!(ann.exit(), 1);
    let doubt = |what: &str| format!("client: the server may not have taken: {what}");
    let mut expected: Vec<_> = (1..=5).map(|number| doubt(&number.to_string())).collect();
    expected.push(doubt("4 more lines after that"));
    expected.push(LOST.to_owned());
    assert_eq!(ann.err_rest(), expected);
}

/// The end of the input is said goodbye to; only the server's goodbye says that it has everything.
#[test]
fn the_end_of_the_input_waits_for_the_servers_word() {
    let listener = RawServer::listen();
    for answers in [true, false] {
        let (mut ann, mut server) = listener.join(&[]);
        ann.type_line("hello");
        ann.end_input();
        takes(&mut server, "hello");
        assert_eq!(server.close(), (1000, String::new()));
        if answers {
            server.send_frame(FIN | CLOSE, &1000u16.to_be_bytes());
        }
        drop(server);
        assert_eq!(ann.exit(), i32::from(!answers));
        let expected: &[_] = if answers {
            &[TAKEN]
        } else {
            &[
                "client: the server may not have taken: hello",
                "client: the server did not confirm that it took everything",
            ]
        };
        assert_eq!(ann.err_rest(), expected);
    }
}

/// A server that does not answer the goodbye has perhaps not taken what came before it.
#[test]
fn lines_in_doubt_are_named_also_at_ctrl_c() {
    let listener = RawServer::listen();
    let (mut ann, mut server) = listener.join(&[]);
    ann.type_line("hello");
    takes(&mut server, "hello");
    ann.signal("INT");
    assert_eq!(server.close(), (1000, String::new()));
    drop(server);
    ann.exit();
    let named = "client: the server may not have taken: hello";
    assert_eq!(ann.err_line(), named);
}

/// Who asks twice does not wait for a server that does not answer.
#[test]
fn a_second_signal_ends_the_client_at_once() {
    let listener = RawServer::listen();
    let (mut ann, mut server) = listener.join(&[]);
    signal(ann.id(), "INT");
    assert_eq!(server.close(), (1000, String::new()));
    signal(ann.id(), "TERM");
    assert_eq!(ann.exit(), 0);
    assert_eq!(ann.err_rest(), [LEFT]);
}
