//! `--history`: who enters is shown the last lines first, as ordinary lines.

use std::process::Command;

use chat_pair::server::limits::Limits;

use crate::support::raw::{Ear, FIN, PING, PONG, Raw};
use crate::support::{Program, Server, served_or_refused};

/// Says these lines, and waits until they are taken.
fn say(raw: &mut Raw, texts: &[&str]) {
    for text in texts {
        raw.say(text);
    }
    raw.send_frame(FIN | PING, b"");
    while raw.frame().expect("a pong").0 != FIN | PONG {}
}

fn hear(raw: &mut Raw, expected: &[&str]) {
    for expected in expected {
        assert_eq!(raw.text(), *expected);
    }
}

#[test]
fn without_the_flag_nobody_is_shown_anything() {
    let server = Server::start();
    let mut ana = Raw::enter(server.port, "/?name=ana");
    say(&mut ana, &["one"]);
    let mut bob = Raw::enter(server.port, "/?name=bob");
    say(&mut ana, &["two"]);
    hear(&mut bob, &["ana: two"]);
}

#[test]
fn who_enters_is_shown_the_last_lines_first() {
    let server = Server::with(&["--history", "3"]);
    let mut ana = Raw::enter(server.port, "/?name=ana");
    say(&mut ana, &["one"]);
    // What there is, if it is less.
    let mut bob = Raw::enter(server.port, "/?name=bob");
    hear(&mut bob, &["* 1 earlier messages", "ana: one", "* now"]);
    say(&mut ana, &["two", "three\nfour"]);
    hear(&mut bob, &["ana: two", "ana: three", "ana: four"]);
    let mut eve = Raw::enter(server.port, "/?name=eve");
    let last = [
        "* 3 earlier messages",
        "ana: two",
        "ana: three",
        "ana: four",
        "* now",
    ];
    hear(&mut eve, &last);
    say(&mut ana, &["five"]);
    hear(&mut eve, &["ana: five"]);
    // Where nothing was said there is nothing to show.
    let mut other = Raw::enter(server.port, "/rust?name=ana");
    let mut eve = Raw::enter(server.port, "/rust?name=eve");
    say(&mut other, &["hi"]);
    hear(&mut eve, &["ana: hi"]);
}

#[test]
fn a_room_is_remembered_when_all_have_left() {
    let mut server = Server::with(&["--history", "10", "--max-rooms", "2"]);
    let said = |server: &mut Server, room: &str, text: &str| {
        let mut ana = Raw::enter(server.port, &format!("/{room}?name=ana"));
        ana.say(text);
        let name = ana.name();
        ana.send(&crate::support::raw::close_frame(1000, ""));
        ana.close();
        server.lines_to(&format!("Client {name} (ana) disconnected in {room}"));
    };
    said(&mut server, "one", "first");
    said(&mut server, "two", "second");
    let mut bob = Raw::enter(server.port, "/one?name=bob");
    hear(&mut bob, &["* 1 earlier messages", "ana: first", "* now"]);
    // The one that nobody is in gives way to another.
    said(&mut server, "three", "third");
    let mut eve = Raw::enter(server.port, "/three?name=eve");
    hear(&mut eve, &["* 1 earlier messages", "ana: third", "* now"]);
    let name = eve.name();
    drop(eve);
    server.lines_to(&format!("Client {name} (eve) disconnected in three"));
    said(&mut server, "two", "again");
    let mut eve = Raw::enter(server.port, "/two?name=eve");
    hear(&mut eve, &["* 1 earlier messages", "ana: again", "* now"]);
}

#[test]
fn who_has_a_session_is_shown_neither_its_own_nor_what_it_has() {
    const KEY: &str = "a-secret-of-22-letters";
    let server = Server::with(&["--history", "4", "--presence"]);
    let mut bob = Raw::enter(server.port, "/?name=bob");
    hear(&mut bob, &["* nobody else is here"]);
    let mut ana = Raw::enter(server.port, &format!("/?name=ana&session={KEY}"));
    let first = ana.text();
    let epoch = first[1..].split(' ').next().unwrap().to_owned();
    assert_eq!(first, format!("@{epoch} 0 0"));
    hear(&mut ana, &["* here: bob"]);
    hear(&mut bob, &["* ana joined"]);
    say(&mut bob, &["zero", "one"]);
    say(&mut ana, &["two"]);
    say(&mut bob, &["three"]);
    // Notices of who came are not lines of the room, and are not shown again. Who is here comes
    // first.
    let mut again = Raw::enter(server.port, &format!("/?name=ana&session={KEY}"));
    hear(
        &mut again,
        &[
            &format!("@{epoch} 0 1"),
            "* here: bob",
            "* 3 earlier messages",
        ],
    );
    for (position, text) in [
        ("@0 ", "bob: zero"),
        ("@1 ", "bob: one"),
        ("@3 ", "bob: three"),
    ] {
        let next = again.text();
        // Two that were said at the same time may stand behind one mark.
        if next.starts_with('@') {
            assert!(next.starts_with(position), "{next}");
            hear(&mut again, &[text]);
        } else {
            assert_eq!((next.as_str(), position), (text, "@1 "));
        }
    }
    hear(&mut again, &["* now"]);
    // Who says where it was gets what comes after, and no more.
    let target = format!("/?name=ana&session={KEY}&after={epoch}.3");
    let mut again = Raw::enter(server.port, &target);
    hear(&mut again, &[&format!("@{epoch} 3 1"), "* here: bob"]);
    assert!(again.text().starts_with("@3 "));
    hear(&mut again, &["bob: three"]);
    say(&mut bob, &["four"]);
    assert!(again.text().starts_with("@4 "));
    hear(&mut again, &["bob: four"]);
    // Only its own lines are nothing to show.
    let target = "/alone?session=another-session-of-eve";
    let mut alone = Raw::enter(server.port, target);
    alone.text();
    hear(&mut alone, &["* nobody else is here"]);
    say(&mut alone, &["hello?"]);
    let mut alone = Raw::enter(server.port, target);
    assert!(alone.text().ends_with(" 1 1"));
    hear(&mut alone, &["* nobody else is here"]);
    let mut guest = Raw::enter(server.port, "/alone?name=guest");
    assert!(guest.text().starts_with("* here: "));
    hear(&mut guest, &["* 1 earlier messages"]);
    guest.say("hello!");
    loop {
        let text = alone.text();
        if text == "guest: hello!" {
            break;
        }
        assert!(text.starts_with('@') || text == "* guest joined", "{text}");
    }
}

/// As many as can be asked for, while somebody floods the room: those who enter get all of it, in
/// order, and what is new behind it.
#[test]
fn a_long_history_and_what_comes_behind_it_have_no_gap() {
    const LINES: usize = 12_000;
    let kept = usize::try_from(Limits::DEFAULT.window_lines).unwrap();
    let server = Server::with(&["--history", &kept.to_string()]);
    let mut ana = Raw::enter(server.port, "/?name=ana");
    let mut first = Ear::of(Raw::enter(server.port, "/?name=bob"));
    let mut late = Vec::new();
    for n in 0..LINES {
        ana.say(&n.to_string());
        if n >= 8000 && n % 1000 == 0 {
            assert!(first.text().is_some());
            late.push(Ear::of(Raw::enter(server.port, "/")));
        }
    }
    for mut ear in late {
        let earlier = ear.text().unwrap();
        let count = earlier
            .strip_prefix("* ")
            .and_then(|text| text.strip_suffix(" earlier messages"));
        let count: usize = count.expect(earlier).parse().unwrap();
        assert!(count <= kept);
        let first = ear
            .text()
            .unwrap()
            .strip_prefix("ana: ")
            .unwrap()
            .parse::<usize>()
            .unwrap();
        let mut now = false;
        let mut next = first + 1;
        while next < LINES {
            let text = ear.text().unwrap();
            if text == "* now" {
                assert_eq!((next - first, now), (count, false));
                now = true;
            } else {
                assert_eq!(text, format!("ana: {next}"));
                next += 1;
            }
        }
        assert!(now || ear.text() == Some("* now"));
    }
}

#[test]
fn more_than_is_kept_cannot_be_asked_for() {
    for wrong in ["10001", "-1", "ten", ""] {
        let mut command: Command = Program::command("server");
        command.arg(format!("--history={wrong}"));
        assert!(served_or_refused(&mut command, "it is a number from 0 to 10000").is_none());
    }
    let mut command: Command = Program::command("server");
    let server = Server::spawn(command.env("CHAT_HISTORY", "2"));
    let mut ana = Raw::enter(server.port, "/?name=ana");
    say(&mut ana, &["one", "two", "three"]);
    let mut bob = Raw::enter(server.port, "/");
    hear(
        &mut bob,
        &["* 2 earlier messages", "ana: two", "ana: three", "* now"],
    );
}
