//! `--reconnect` and a server that keeps sessions, which is made by hand: each sentence of the
//! protocol, and each way in which it can go wrong.

use std::thread;

use crate::support::raw::{CLOSE, FIN, PING, PONG, Raw, RawServer, TEXT, agreement};
use crate::support::window::{self, Window};
use crate::support::{Port, Program, Server};

const LOST: &str =
    "client: connection lost: the server went away without a goodbye; trying again in ";
const DOUBT: &str = "client: the server may not have taken: ";
const TAKEN: &str = "client: left the chat: the server has taken all of the input";

fn start(listener: &RawServer) -> Program {
    Program::start("client", &[&listener.url(), "--reconnect"])
}

/// Waits for the next request, and returns its target.
fn request(raw: &mut Raw) -> (String, String) {
    let head = raw.head();
    let target = head.strip_prefix("GET ").unwrap();
    let target = target.split(' ').next().unwrap().to_owned();
    (head, target)
}

/// The key of a session, and what stands behind it.
#[track_caller]
fn key(target: &str) -> (String, String) {
    let query = target.strip_prefix("/?session=").expect(target);
    let (key, rest) = query.split_once('&').expect(target);
    (key.to_owned(), rest.to_owned())
}

/// Waits for the next connection and agrees to it. Returns it behind the ping that each begins with,
/// and the target that it asked for.
#[track_caller]
fn accept_any(listener: &RawServer) -> (Raw, String) {
    let mut raw = listener.tcp();
    let (head, target) = request(&mut raw);
    raw.send(&agreement(&head));
    assert_eq!(raw.frame().unwrap(), (FIN | PING, vec![]));
    (raw, target)
}

/// The same of one that asks for this behind the key of its session.
#[track_caller]
fn accept(listener: &RawServer, rest: &str) -> Raw {
    let (raw, target) = accept_any(listener);
    assert_eq!(key(&target).1, rest);
    raw
}

/// The same, and tells it where the room is.
#[track_caller]
fn begin(listener: &RawServer, rest: &str, first: &str) -> Raw {
    let mut raw = accept(listener, rest);
    raw.say(first);
    raw
}

/// The next frame is this line.
#[track_caller]
fn line(raw: &mut Raw, text: &str) {
    let (first, payload) = raw.frame().unwrap();
    assert_eq!((first, &*payload), (FIN | TEXT, text.as_bytes()));
}

/// The next frame is the ping behind the line with this number. Returns its payload.
#[track_caller]
fn ping(raw: &mut Raw, number: u64) -> Vec<u8> {
    let (first, payload) = raw.frame().unwrap();
    assert_eq!((first, &*payload), (FIN | PING, &number.to_be_bytes()[..]));
    payload
}

/// Types a line, and waits until the server has it and the ping behind it.
#[track_caller]
fn say(client: &mut Program, raw: &mut Raw, text: &str, number: u64) {
    client.type_line(text);
    line(raw, text);
    ping(raw, number);
}

/// The server answers the client's Close.
#[track_caller]
fn goodbye(mut raw: Raw) {
    assert_eq!(raw.close().0, 1000);
    raw.send_frame(FIN | CLOSE, &1000_u16.to_be_bytes());
    raw.shut();
    while raw.frame().is_some() {}
}

/// Tries each case on a thread of its own, since a client waits before it comes back.
fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || test(case));
        }
    });
}

/// What it said on standard error but for how its connections came and went.
fn notes(client: &mut Program) -> Vec<String> {
    let mut said = client.err_rest();
    let usual = |line: &String| line.contains("trying again in") || line.contains("connected to ");
    said.retain(|line| !usual(line));
    said
}

#[test]
fn a_session_is_asked_for_with_reconnect_alone() {
    let listener = RawServer::listen();
    let url = listener.url();
    let asks = |args: &[&str]| {
        let _client = Program::start("client", args);
        request(&mut listener.tcp()).1
    };
    assert_eq!(asks(&[&url]), "/");
    let (one, rest) = key(&asks(&[&url, "--reconnect"]));
    let (two, _) = key(&asks(&[&url, "--reconnect"]));
    assert_eq!(rest, "sent=0");
    assert!(one != two && one.len() >= 22, "{one} {two}");
    let room = format!("{url}/rust");
    let named = asks(&[&room, "--reconnect", "--name", "aná"]);
    assert!(named.starts_with("/rust?name=an%C3%A1&session="), "{named}");
    // Whoever asks for one in the URL is taken at their word, and so is a server that means
    // something else by it.
    let own = format!("{url}/?session=mine");
    assert_eq!(asks(&[&own, "--reconnect"]), "/?session=mine");
}

#[test]
fn no_line_is_sent_before_the_server_says_what_it_has() {
    let port = Port::hold();
    let mut ann = Program::start("client", &[&port.url(), "--reconnect"]);
    assert!(ann.err_line().contains("trying again in"));
    ann.type_line("one");
    let listener = RawServer::on(port.number);
    // Had it been sent, it would be in doubt, and the count another one.
    for _ in 0..2 {
        drop(accept(&listener, "sent=0"));
    }
    let mut server = begin(&listener, "sent=0", "@e 0 0");
    line(&mut server, "one");
    ping(&mut server, 1);
}

#[test]
fn what_was_not_taken_is_sent_again_and_what_was_taken_is_not() {
    at_once(0..=3_u64, |taken| {
        let listener = RawServer::listen();
        let mut ann = start(&listener);
        let mut server = begin(&listener, "sent=0", "@e 7 0");
        for (text, number) in [("one", 1), ("", 2), ("three", 3)] {
            say(&mut ann, &mut server, text, number);
        }
        server.reset();
        // More than it can have counted, for a server that does not know it.
        let mut server = begin(&listener, "after=e.7&sent=4", &format!("@e 7 {taken}"));
        ann.type_line("four");
        for text in ["one", "", "three", "four"]
            .iter()
            .skip(usize::try_from(taken).unwrap())
        {
            assert_eq!(server.text(), *text);
        }
        let (_, last) = server.frame().unwrap();
        server.send_frame(FIN | PONG, &last);
        assert_eq!(last, 4_u64.to_be_bytes());
        ann.end_input();
        goodbye(server);
        assert_eq!(ann.exit(), 0);
        assert_eq!(notes(&mut ann), [TAKEN]);
    });
}

#[test]
fn what_is_heard_moves_the_place_and_the_marks_are_not_shown() {
    let listener = RawServer::listen();
    let mut ann = start(&listener);
    let mut server = begin(&listener, "sent=0", "@e 3 0");
    for text in [
        "* 2 earlier messages",
        "@3 1000",
        "bob: three",
        "bob: @four",
        "* now",
        "@9 2000",
        // A message may hold several lines.
        "eve: * nine\neve: ten\n@12 2000\neve: twelve",
        "@what newer servers say",
    ] {
        server.say(text);
    }
    server.reset();
    let shown = [
        "* 2 earlier messages",
        "bob: three",
        "bob: @four",
        "* now",
        "eve: * nine",
        "eve: ten",
        "eve: twelve",
    ];
    for text in shown {
        assert_eq!(ann.line(), text);
    }
    let mut server = begin(&listener, "after=e.13&sent=0", "@e 13 0");
    server.say("* 4 messages missed\n@17 3000\neve: seventeen");
    for text in ["* 4 messages missed", "eve: seventeen"] {
        assert_eq!(ann.line(), text);
    }
    server.reset();
    accept(&listener, "after=e.18&sent=0");
}

#[test]
fn it_is_shown_when_a_line_was_said() {
    const SAID: &str = "@e 0 0\n@0 1700000000123\nana: one\n* ana left\n@1 1700003600000\nana: two";
    let listener = RawServer::listen();
    let url = listener.url();
    let shown = |flag: &str| {
        let mut command = Program::command("client");
        let command = command.args([&url, "--reconnect", flag]).env("TZ", "UTC");
        let mut client = Program::spawn(command);
        accept(&listener, "sent=0").say(SAID);
        [client.line(), client.line(), client.line()]
    };
    let [one, left, two] = shown("--timestamps");
    assert_eq!([&*one, &*two], ["22:13:20 ana: one", "23:13:20 ana: two"]);
    assert!(left.ends_with(" * ana left"), "{left}");
    let [one, left, two] = shown("--json");
    assert!(one.contains(r#""at":"2023-11-14T22:13:20.123Z""#), "{one}");
    assert!(two.contains(r#""at":"2023-11-14T23:13:20.000Z""#), "{two}");
    // A notice is said when it comes.
    assert!(
        left.contains(r#""left":["ana"]"#) && !left.contains("2023-"),
        "{left}"
    );
}

/// The lines that an older server took are not known to the new one.
#[test]
fn another_past_leaves_what_was_sent_in_doubt() {
    let listener = RawServer::listen();
    let mut ann = start(&listener);
    let mut server = begin(&listener, "sent=0", "@e 0 0");
    say(&mut ann, &mut server, "one", 1);
    server.send_frame(FIN | PONG, &1_u64.to_be_bytes());
    say(&mut ann, &mut server, "two", 2);
    say(&mut ann, &mut server, "three", 3);
    server.say("bob: hi");
    assert_eq!(ann.line(), "bob: hi");
    server.reset();
    // Though the count would be possible.
    let mut server = begin(&listener, "after=e.1&sent=4", "@f 5 2");
    server.say("* what was said before is not known here");
    assert_eq!(ann.line(), "* what was said before is not known here");
    // It goes on as the server counts.
    say(&mut ann, &mut server, "four", 3);
    server.reset();
    let server = begin(&listener, "after=f.5&sent=4", "@f 5 3");
    ann.end_input();
    goodbye(server);
    assert_eq!(ann.exit(), 1);
    let unsure = "client: the server did not confirm that it took everything";
    let doubt = ["two", "three"].map(|line| format!("{DOUBT}{line}"));
    assert_eq!(notes(&mut ann), [&doubt[0], &doubt[1], unsure]);
}

/// A server that has forgotten the session, or counts the lines of somebody else.
#[test]
fn a_count_that_cannot_be_ours_leaves_what_was_sent_in_doubt() {
    at_once([0, 4, 1_000_000], |strange| {
        let listener = RawServer::listen();
        let mut ann = start(&listener);
        let mut server = begin(&listener, "sent=0", "@e 0 0");
        say(&mut ann, &mut server, "one", 1);
        server.send_frame(FIN | PONG, &1_u64.to_be_bytes());
        say(&mut ann, &mut server, "two", 2);
        say(&mut ann, &mut server, "three", 3);
        server.reset();
        let mut server = begin(&listener, "after=e.0&sent=4", &format!("@e 0 {strange}"));
        assert_eq!(
            ann.err_line().split(" to ").next(),
            Some("client: connected")
        );
        let lost = ann.err_line();
        assert!(lost.starts_with(LOST), "{lost}");
        assert_eq!(
            ann.err_line().split(" to ").next(),
            Some("client: connected")
        );
        for text in ["two", "three"] {
            assert_eq!(ann.err_line(), format!("{DOUBT}{text}"));
        }
        say(&mut ann, &mut server, "four", strange + 1);
    });
}

/// Whatever such a server says first, it was not the answer.
#[test]
fn a_server_without_sessions_leaves_what_was_sent_in_doubt() {
    let firsts = [
        (FIN | PONG, &b""[..]),
        (FIN | PING, b"you there?"),
        (FIN | TEXT, b"bob: hi"),
    ];
    at_once(firsts, |(first, payload)| {
        let listener = RawServer::listen();
        let mut ann = start(&listener);
        let mut server = begin(&listener, "sent=0", "@e 0 0");
        say(&mut ann, &mut server, "one", 1);
        server.reset();
        // This one says nothing at all, and changes nothing.
        drop(accept(&listener, "after=e.0&sent=2"));
        let mut server = accept(&listener, "after=e.0&sent=2");
        server.send_frame(first, payload);
        ann.type_line("two");
        assert_eq!(server.text(), "two");
        // Here an `@` means nothing.
        server.say("@f 1 2");
        let shown = if first == FIN | TEXT {
            ann.line()
        } else {
            "bob: hi".to_owned()
        };
        assert_eq!([&*shown, &*ann.line()], ["bob: hi", "@f 1 2"]);
        server.reset();
        // Back at the first one, what it has still to say is not forgotten.
        drop(accept(&listener, "after=e.0&sent=2"));
        ann.signal("INT");
        assert_eq!(ann.exit(), 1);
        let said = notes(&mut ann);
        let doubt = ["one", "two"].map(|line| format!("{DOUBT}{line}"));
        let unsure = "client: the server did not confirm that it took everything";
        assert_eq!(said, [&doubt[0], &doubt[1], unsure]);
    });
}

/// It is not known yet who has it now: most likely a connection of our own that came late.
#[test]
fn a_session_that_somebody_took_over_is_taken_back() {
    let listener = RawServer::listen();
    let mut ann = start(&listener);
    let (mut server, target) = accept_any(&listener);
    server.say("@e 0 0");
    say(&mut ann, &mut server, "one", 1);
    let why = "replaced by a newer connection";
    let close = [&1008_u16.to_be_bytes(), why.as_bytes()].concat();
    server.send_frame(FIN | CLOSE, &close);
    drop(server);
    let (mut server, again) = accept_any(&listener);
    assert_eq!(key(&again), (key(&target).0, "after=e.0&sent=2".to_owned()));
    server.say("@e 0 1");
    ann.end_input();
    goodbye(server);
    assert_eq!(ann.exit(), 0);
    let said = ann.err_rest();
    let closed =
        format!("client: the server closed the chat: {why} (1008, policy violation); trying");
    assert!(said[1].starts_with(&closed), "{said:?}");
    // The key is a secret.
    let key = key(&target).0;
    assert!(!said.iter().any(|line| line.contains(&key)), "{said:?}");
}

/// The link breaks when everything is sent and nothing is confirmed: the server is asked again.
#[test]
fn at_the_end_of_the_input_the_server_is_asked_what_it_has_taken() {
    let listener = RawServer::listen();
    let mut ann = start(&listener);
    let mut server = begin(&listener, "sent=0", "@e 0 0");
    say(&mut ann, &mut server, "one", 1);
    say(&mut ann, &mut server, "two", 2);
    ann.end_input();
    assert_eq!(server.close().0, 1000);
    server.reset();
    // As long as that is not known, it goes on.
    drop(accept(&listener, "after=e.0&sent=3"));
    let mut server = begin(&listener, "after=e.0&sent=3", "@e 0 1");
    line(&mut server, "two");
    ping(&mut server, 2);
    server.reset();
    let server = begin(&listener, "after=e.0&sent=3", "@e 0 2");
    goodbye(server);
    assert_eq!(ann.exit(), 0);
    assert_eq!(notes(&mut ann), [TAKEN]);
}

/// A wish to leave is granted also while the server cannot be asked, but not in silence.
#[test]
fn who_leaves_while_lines_are_in_doubt_is_told_of_them() {
    let listener = RawServer::listen();
    let mut ann = start(&listener);
    let mut server = begin(&listener, "sent=0", "@e 0 0");
    say(&mut ann, &mut server, "one", 1);
    server.reset();
    ann.err_line();
    assert!(ann.err_line().starts_with(LOST));
    ann.signal("INT");
    assert_eq!(ann.exit(), 1);
    let unsure = "client: the server did not confirm that it took everything";
    assert_eq!(notes(&mut ann), [&format!("{DOUBT}one"), unsure]);
}

/// Waits for the next request, refuses it, and returns its target.
fn refuse(listener: &RawServer, why: &str) -> String {
    let mut raw = listener.tcp();
    let (_, target) = request(&mut raw);
    let length = why.len();
    let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {length}\r\n\r\n");
    raw.send(format!("{head}{why}").as_bytes());
    target
}

/// The server was restored from an older copy of its store.
#[test]
fn a_place_that_the_room_has_not_reached_is_given_up() {
    const WHY: &str = "after is a position that this room has not reached";
    let listener = RawServer::listen();
    let mut ann = start(&listener);
    begin(&listener, "sent=0", "@e 5 0").reset();
    assert_eq!(key(&refuse(&listener, WHY)).1, "after=e.5&sent=0");
    begin(&listener, "sent=0", "@e 3 0").reset();
    // If that was not what was wrong, there is no use in another try.
    assert_eq!(key(&refuse(&listener, WHY)).1, "after=e.3&sent=0");
    assert_eq!(key(&refuse(&listener, WHY)).1, "sent=0");
    assert_eq!(ann.exit(), 1);
    let said = ann.err_rest();
    let why = format!("refused: {WHY} (HTTP 400)");
    let warned = format!("{why}; what was said meanwhile may be missed; trying again in ");
    let warned = said.iter().filter(|line| line.contains(&warned)).count();
    assert!(
        warned == 2 && said.last().unwrap().ends_with(&why),
        "{said:?}"
    );
}

/// It would be sent, and close the connection, again and again.
#[test]
fn a_line_that_is_too_long_for_the_server_is_not_sent_again() {
    let mut server = Server::with(&["--max-message", "100"]);
    let mut bob = Raw::enter(server.port, "/?name=bob");
    let mut ann = Program::start("client", &[&server.url(), "--reconnect", "--name", "ann"]);
    let long = "x".repeat(101);
    for text in ["one", &long, "two", &long, "three"] {
        ann.type_line(text);
    }
    ann.end_input();
    for text in ["one", "two", "three"] {
        assert_eq!(bob.text(), format!("ann: {text}"));
    }
    assert_eq!(ann.exit(), 1);
    let name = "client: not taken, since it is too long for the server: ";
    let named: Vec<_> = notes(&mut ann);
    assert_eq!(named.len(), 3, "{named:?}");
    assert!(
        named[..2].iter().all(|line| line.starts_with(name)),
        "{named:?}"
    );
    assert_eq!(named[2], "client: 2 lines were not sent");
    server.program.signal("TERM");
    assert_eq!(server.program.exit(), 0);
}

/// A person sees what was missed in order, and types on meanwhile.
#[test]
fn a_person_misses_nothing_and_types_on() {
    let listener = RawServer::listen();
    let url = listener.url();
    let mut window = Window::run(window::client(&[&url, "--reconnect"]), 100, 20);
    let mut server = begin(&listener, "sent=0", "@e 0 0");
    window.until("connected to");
    window.press("\x0cone\r");
    line(&mut server, "one");
    ping(&mut server, 1);
    server.say("@1 0\nbob: hi");
    window.until("bob: hi");
    server.reset();
    window.until("trying again in ");
    window.press("two\rthr");
    window.until("kept to be sent later");
    window.press("\x0c");
    let mut server = begin(&listener, "after=e.2&sent=2", "@e 2 1");
    server.say("@2 0\nbob: what was\nbob: missed");
    line(&mut server, "two");
    ping(&mut server, 2);
    window.until("bob: missed");
    window.press("ee\r");
    line(&mut server, "three");
    ping(&mut server, 3);
    for row in ["bob: what was", "bob: missed", "> three"] {
        window.shows_row(row);
    }
    window.press("\x04");
    goodbye(server);
    assert_eq!(window.exit(), 0);
    window.until("left the chat");
    window.modes_are_restored();
}
