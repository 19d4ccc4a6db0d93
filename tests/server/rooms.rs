//! Rooms and names over real sockets: every refusal, who hears whom, and what is left behind.

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;

use chat_pair::server::limits::Limits;

use crate::support::raw::{Ear, FIN, Raw, TEXT, frame, missed};
use crate::support::session::Client;
use crate::support::{Server, resident};

const NO_ROOM: &str =
    "there is no such room: a room is / or a slash and 1 to 64 of a to z, 0 to 9, - and _";
const NO_NAME: &str =
    "a name is 1 to 32 letters and digits of any script, - _ and ., and no address";

fn refused(port: u16, target: &str, status: u16, why: &str) {
    let refusal = Raw::asking_for(port, target).refusal();
    assert_eq!(refusal, (status, why.to_owned()), "{target}");
}

fn taken(name: &str) -> String {
    format!("the name {name} is taken here, or looks like one that is")
}

#[test]
fn what_is_no_room_is_refused_with_the_rule() {
    let server = Server::start();
    let long = format!("/{}", "a".repeat(65));
    for target in [
        "/Rust", "/a.b", "/a%62", "/%72ust", "/rust/", "/rust/x", "//", "/a,b", "/a:b", "/a+b",
        "/~a", &long,
    ] {
        refused(server.port, target, 400, NO_ROOM);
    }
    for target in ["/", "/rust", "/a-b_9", "/-", &long[..65]] {
        Raw::enter(server.port, target);
    }
}

#[test]
fn what_is_no_name_is_refused_with_the_rule() {
    let server = Server::start();
    let long = "a".repeat(33);
    for name in [
        "",
        "a+b",
        "a%20b",
        "a%3A%20b",
        "*",
        "@ana",
        "%2A",
        "%40",
        "127.0.0.1",
        "%3A%3A1",
        "127.0.0.1:50112",
        "a%0Ab",
        "a%1Bb",
        "a%E2%80%AEb",
        "%FF",
        "a%2Fb",
        &long,
    ] {
        refused(server.port, &format!("/?name={name}"), 400, NO_NAME);
        refused(server.port, &format!("/rust?x=y&name={name}"), 400, NO_NAME);
    }
    refused(
        server.port,
        "/?name=ana&name=ana",
        400,
        "there is one name at most",
    );
}

#[test]
fn a_name_that_is_taken_is_refused_and_so_is_one_that_looks_like_it() {
    let server = Server::start();
    let ana = Raw::enter(server.port, "/rust?name=ana");
    for (query, name) in [
        ("ana", "ana"),
        ("ANA", "ANA"),
        ("%D0%B0na", "аna"),     // Cyrillic
        ("%EF%BD%81na", "ａna"), // full width
    ] {
        refused(
            server.port,
            &format!("/rust?name={query}"),
            409,
            &taken(name),
        );
    }
    // Elsewhere it is free, and so is it when she has left.
    Raw::enter(server.port, "/?name=ana");
    Raw::enter(server.port, "/rust?name=anna");
    drop(ana);
    Raw::enter_when_it_can(server.port, "/rust?name=%D0%B0na");
}

#[test]
fn of_those_who_race_for_a_name_one_gets_it() {
    const RUNNERS: usize = 8;
    let server = Server::with(&["--threads", "2"]);
    for round in 0..20 {
        let start = Arc::new(Barrier::new(RUNNERS));
        let port = server.port;
        let runners: Vec<_> = (0..RUNNERS)
            .map(|_| {
                let start = start.clone();
                thread::spawn(move || {
                    start.wait();
                    let mut raw = Raw::asking_for(port, &format!("/race?name=n{round}"));
                    let head = raw.head();
                    (head[9..12].to_owned(), raw)
                })
            })
            .collect();
        let ends: Vec<_> = runners
            .into_iter()
            .map(|runner| runner.join().unwrap())
            .collect();
        let got = ends.iter().filter(|(status, _)| status == "101").count();
        let lost = ends.iter().filter(|(status, _)| status == "409").count();
        assert_eq!((got, lost), (1, RUNNERS - 1));
    }
}

#[test]
fn others_see_the_name_and_the_log_the_address_too() {
    let mut server = Server::start();
    let mut ana = Raw::enter(server.port, "/rust?name=ana");
    let mut budi = Raw::enter(server.port, "/rust?name=Budi.2");
    let mut eve = Raw::enter(server.port, "/rust");
    let (at_ana, at_budi, at_eve) = (ana.name(), budi.name(), eve.name());
    ana.say("hello\nana: not Ana's");
    assert_eq!(
        [budi.text(), budi.text()],
        ["ana: hello", "ana: ana: not Ana's"]
    );
    assert_eq!(
        [eve.text(), eve.text()],
        ["ana: hello", "ana: ana: not Ana's"]
    );
    budi.say("hi");
    assert_eq!(ana.text(), "Budi.2: hi");
    eve.say("no name");
    assert_eq!(ana.text(), format!("{at_eve}: no name"));
    let mut seed = Raw::enter(server.port, "/?name=ana");
    let at_seed = seed.name();
    seed.say("alone");
    drop(seed);
    let lines = server.lines_to(&format!("Client {at_seed} (ana) disconnected"));
    let told = [
        format!("New connection from {at_ana} (ana) in rust"),
        format!("New connection from {at_budi} (Budi.2) in rust"),
        format!("New connection from {at_eve} in rust"),
        format!("Received from {at_ana} (ana) in rust: hello"),
        format!("Received from {at_ana} (ana) in rust: ana: not Ana's"),
        format!("Received from {at_budi} (Budi.2) in rust: hi"),
        format!("Received from {at_eve} in rust: no name"),
        format!("New connection from {at_seed} (ana)"),
        format!("Received from {at_seed} (ana): alone"),
    ];
    assert_eq!(lines, told);
    drop(ana);
    assert_eq!(
        server.line(),
        format!("Client {at_ana} (ana) disconnected in rust")
    );
    drop(eve);
    assert_eq!(
        server.line(),
        format!("Client {at_eve} disconnected in rust")
    );
    drop(budi);
}

/// One room is full of lines that a reader does not take, another is flooded: in a third nobody
/// notices, and nobody hears what was not said there.
#[test]
fn nothing_of_a_room_is_felt_in_another() {
    const LINES: usize = 2000;
    let server = Server::start();
    let port = server.port;
    // The first one's reader is stuck, so whoever speaks there waits.
    let _stuck = Raw::enter(port, "/full");
    let mut waiting = Raw::enter(port, "/full");
    waiting.stream.set_nonblocking(true).unwrap();
    let long = format!("/full {}", "x".repeat(16_000));
    let (is_in, ear_is_in) = channel();
    let flooding = thread::spawn(move || {
        let mut speaker = Raw::enter(port, "/flood");
        for n in 0..LINES {
            if n == LINES / 2 {
                ear_is_in.recv().unwrap();
            }
            speaker.say(&format!("/flood {n}"));
        }
        speaker
    });
    let frame = frame(FIN | TEXT, long.as_bytes());
    let mut unsent = &frame[..];
    let mut flood = Ear::of(Raw::enter(port, "/flood"));
    is_in.send(()).unwrap();
    let mut ear = Ear::of(Raw::enter(port, "/quiet"));
    let mut speaker = Raw::enter(port, "/quiet");
    for n in 0..LINES {
        // As much as goes, without ever waiting; the rest of a frame before the next one.
        if let Ok(sent) = waiting.stream.write(unsent) {
            unsent = &unsent[sent..];
        }
        if unsent.is_empty() {
            unsent = &frame;
        }
        speaker.say(&format!("/quiet {n}"));
        let text = ear.text().expect("a line");
        assert!(text.ends_with(&format!(": /quiet {n}")), "{text}");
    }
    drop(flooding.join().unwrap());
    // Who came in the middle of the flood heard the rest of it in order, and nothing else.
    let mut last = None;
    while last != Some(LINES - 1) {
        let text = flood.text().expect("a line");
        assert_eq!(missed(text), None);
        let (_, number) = text.split_once(": /flood ").expect(text);
        let number = number.parse().unwrap();
        assert!(
            last.is_none_or(|last| number == last + 1),
            "{text} after {last:?}"
        );
        last = Some(number);
    }
}

#[test]
fn there_are_so_many_rooms_and_one_is_gone_with_the_last_who_leaves() {
    const MOST: &str = "there are too many rooms: enter one that is there, or try again later";
    let mut server = Server::with(&["--max-rooms", "2"]);
    let (one, other) = (
        Raw::enter(server.port, "/one"),
        Raw::enter(server.port, "/"),
    );
    refused(server.port, "/three", 503, MOST);
    let second = Raw::enter(server.port, "/one");
    let name = second.name();
    drop((one, second));
    server.lines_to(&format!("Client {name} disconnected in one"));
    // Its place is free as soon as that was printed, or a moment later.
    let _three = Raw::enter_when_it_can(server.port, "/three");
    refused(server.port, "/one", 503, MOST);
    drop(other);
    server.stop();
}

/// Nobody was let in, so the room is as empty as before, and another one may have its place.
#[test]
fn who_is_refused_keeps_no_room() {
    let mut server = Server::with(&["--max-rooms", "1"]);
    let target = "/a?session=the-session-of-ana-000&name=ana";
    let ana = Client::enter(server.port, target);
    let name = ana.raw.name();
    let ahead = format!("{target}&after={}.99", ana.epoch);
    drop(ana);
    server.lines_to(&format!("Client {name} (ana) disconnected in a"));
    let why = "after is a position that this room has not reached";
    refused(server.port, &ahead, 400, why);
    Raw::enter(server.port, "/b");
}

/// Five hundred rooms come and go several times, and the server does not grow.
#[test]
fn empty_rooms_leave_nothing_behind() {
    const ROOMS: usize = 500;
    let mut server = Server::start();
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let members: Vec<_> = (0..ROOMS)
            .flat_map(|n| ["ana", "budi"].map(|name| format!("/room-{n}?name={name}")))
            .map(|target| Raw::enter(server.port, &target))
            .collect();
        drop(members);
        let mut left = 0;
        while left < 2 * ROOMS {
            left += usize::from(server.line().contains(" disconnected in room-"));
        }
        // Everything that was in the way of it is done when one more has come and been heard.
        Raw::join(server.port);
        sizes.push(resident(server.program.id(), "VmRSS"));
    }
    let most = sizes[1] + sizes[1] / 8;
    assert!(sizes[3] <= most, "{sizes:?}");
    assert!(sizes[3] < Limits::DEFAULT.memory());
}

#[test]
fn a_server_that_stops_says_so_in_every_room() {
    let mut server = Server::start();
    let mut members: Vec<_> = ["/", "/a", "/b"]
        .map(|room| Raw::enter(server.port, room))
        .into();
    server.program.signal("TERM");
    for member in &mut members {
        assert_eq!(member.close(), (1001, "server shutting down".to_owned()));
    }
    drop(members);
    assert_eq!(server.program.exit(), 0);
}
