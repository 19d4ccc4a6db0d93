//! Sessions, over real sockets as any WebSocket client has them: who comes back gets what it missed,
//! once, and what it says is taken once.

use std::io::{ErrorKind, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_pair::server::access::Pass;
use chat_pair::server::batch::Lines;
use chat_pair::server::ended::Ended;
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::room::{Closed, Speaker};
use chat_pair::server::rooms::{Member, Rooms};
use chat_pair::server::sessions::Asked;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::memory::{connect, connect_after, connect_as, open};
use crate::support::raw::{Ear, FIN, PING, PONG, Raw, frame, missed};
use crate::support::{Server, descriptors, resident, wait_until};

const KEY: &str = "a-secret-of-22-letters";
const BOB: &str = "the-session-of-bob-000";

/// A client that follows the protocol.
struct Client {
    ear: Ear,
    /// `EPOCH.POSITION` of what comes next.
    epoch: String,
    next: u64,
    /// How many of its lines were taken when it came in.
    taken: u64,
    /// When the next line was said.
    time: u64,
}

impl Client {
    /// Comes in, and reads the first message.
    #[track_caller]
    fn enter(port: u16, target: &str) -> Self {
        Self::of(Raw::enter(port, target))
    }

    /// On a connection of which nothing was read but the answer.
    #[track_caller]
    fn of(raw: Raw) -> Self {
        let mut ear = Ear::of(raw);
        let first = ear.text().expect("the first message");
        let words: Vec<_> = first.strip_prefix('@').expect(first).split(' ').collect();
        let [epoch, next, taken] = words[..] else {
            panic!("{first}");
        };
        assert_eq!(epoch.len(), 16, "{first}");
        Self {
            epoch: epoch.to_owned(),
            next: next.parse().unwrap(),
            taken: taken.parse().unwrap(),
            time: 0,
            ear,
        }
    }

    /// What it asks for to hear everything that it has not heard.
    fn after(&self) -> String {
        format!("&after={}.{}", self.epoch, self.next)
    }

    /// Waits for the next line or notice; `None` at the end. Every line stands behind an `@` that
    /// says its position, or follows one that does.
    #[track_caller]
    fn try_hear(&mut self) -> Option<String> {
        loop {
            let text = self.ear.text()?;
            if let Some(mark) = text.strip_prefix('@') {
                let (position, time) = mark.split_once(' ').unwrap();
                let position = position.parse().unwrap();
                assert!(position >= self.next, "{text}, not {}", self.next);
                (self.next, self.time) = (position, time.parse().unwrap());
                continue;
            }
            let text = text.to_owned();
            if !text.starts_with("* ") {
                assert!(self.time > 0, "{text}");
                self.next += 1;
            }
            return Some(text);
        }
    }

    #[track_caller]
    fn hear(&mut self) -> String {
        self.try_hear().expect("a line")
    }

    fn say(&mut self, text: &str) {
        self.ear.raw.say(text);
    }

    /// Waits until the server has taken everything that was said.
    fn is_taken(&mut self) {
        self.ear.raw.send_frame(FIN | PING, b"taken?");
        while self.ear.raw.frame().expect("a pong").0 != FIN | PONG {}
    }
}

fn refused(port: u16, target: &str, why: &str) {
    let refusal = Raw::asking_for(port, target).refusal();
    assert_eq!(refusal, (400, why.to_owned()), "{target}");
}

fn in_session(rest: &str) -> String {
    format!("/?session={KEY}{rest}")
}

fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

#[test]
fn who_asks_is_told_where_each_line_is_and_when_it_was_said() {
    let server = Server::start();
    let mut ana = Client::enter(server.port, &in_session("&name=ana"));
    assert_eq!((ana.next, ana.taken), (0, 0));
    let mut bob = Raw::enter(server.port, "/?name=bob");
    let before = unix_millis();
    bob.say("one\ntwo");
    assert_eq!(ana.ear.text().unwrap().split(' ').next(), Some("@0"));
    assert_eq!(ana.ear.text(), Some("bob: one"));
    // It counts on by itself.
    assert_eq!(ana.ear.text(), Some("bob: two"));
    // Nobody who did not ask sees an `@`, and one's own lines have positions, too.
    ana.say("three\nfour");
    assert_eq!([bob.text(), bob.text()], ["ana: three", "ana: four"]);
    bob.say("five");
    let mark = ana.ear.text().unwrap().to_owned();
    let (position, time) = mark.split_once(' ').unwrap();
    assert_eq!(position, "@4");
    let time = time.parse::<u64>().unwrap();
    assert!((before..=unix_millis()).contains(&time), "{time}");
    assert_eq!(ana.ear.text(), Some("bob: five"));
}

#[test]
fn what_is_no_session_is_refused_with_the_rule() {
    const SESSION: &str = "a session is 22 to 64 of A to Z, a to z, 0 to 9, - and _, chosen at random, \
        and there is one at most";
    const AFTER: &str = "after is EPOCH.POSITION, as the lines that begin with @ say them, once, and \
        with a session";
    const SENT: &str = "sent is a number of lines, once, and with a session";
    let mut server = Server::start();
    let port = server.port;
    let (long, short) = ("a".repeat(65), "a".repeat(21));
    for wrong in [
        "",
        &long,
        &short,
        "a+secret-of-22-letters",
        "a-secret-of-22-letter%C3%A9",
    ] {
        refused(port, &format!("/?session={wrong}"), SESSION);
    }
    refused(port, &format!("/?session={KEY}&session={KEY}"), SESSION);
    for wrong in [
        "",
        ".",
        "a",
        "a.",
        ".1",
        "a.b",
        "a.-1",
        "a.+1",
        "a.1.2",
        "a%20b.1",
        "a.99999999999999999",
    ] {
        refused(port, &in_session(&format!("&after={wrong}")), AFTER);
    }
    refused(port, &in_session("&after=a.1&after=a.1"), AFTER);
    refused(port, "/?after=a.1", AFTER);
    for wrong in ["", "a", "-1", "+1", "1.0", "99999999999999999"] {
        refused(port, &in_session(&format!("&sent={wrong}")), SENT);
    }
    refused(port, &in_session("&sent=1&sent=1"), SENT);
    refused(port, "/rust?sent=1", SENT);
    let (long, short) = (&long[..64], &long[..22]);
    for right in [long, short, "-_-_-_-_-_-_-_-_-_-_-_"] {
        Raw::enter(
            port,
            &format!("/?session={right}&sent=0&after=a-b_c.9007199254740992"),
        );
    }
    // The key is a secret, also when it was wrong.
    server.stop();
    let said = [server.program.rest(), server.program.err_rest()].concat();
    assert!(said.len() > 10);
    assert!(
        !said
            .iter()
            .any(|line| line.contains("aaaaaa") || line.contains("secret")),
        "{said:?}"
    );
}

#[test]
fn who_comes_back_gets_what_it_missed_without_its_own() {
    let server = Server::start();
    let mut bob = Client::enter(server.port, &format!("/?session={BOB}&name=bob"));
    let mut ana = Client::enter(server.port, &in_session("&name=ana"));
    bob.say("one");
    assert_eq!(ana.hear(), "bob: one");
    let mut times = vec![ana.time];
    ana.say("two");
    assert_eq!(bob.hear(), "ana: two");
    bob.say("three");
    assert_eq!(ana.hear(), "bob: three");
    times.push(ana.time);
    // Her own line is taken, and she hears nothing behind it any more.
    let after = ana.after();
    ana.say("four");
    assert_eq!(bob.hear(), "ana: four");
    ana.ear.raw.reset();
    bob.say("five\nsix");
    bob.is_taken();
    let mut ana = Client::enter(server.port, &in_session(&format!("&name=ana{after}")));
    assert_eq!((ana.next, ana.taken), (3, 2));
    assert_eq!([ana.hear(), ana.hear()], ["bob: five", "bob: six"]);
    times.extend([ana.time; 2]);
    assert_eq!(ana.next, 6);
    bob.say("seven");
    assert_eq!(ana.hear(), "bob: seven");
    times.push(ana.time);
    // Also from further back: what she said over her first connection is not told to her now.
    let mut ana = Client::enter(
        server.port,
        &in_session(&format!("&name=ana&after={}.0", ana.epoch)),
    );
    for (text, time) in ["one", "three", "five", "six", "seven"].iter().zip(times) {
        assert_eq!((ana.hear(), ana.time), (format!("bob: {text}"), time));
    }
    // Without `after` she begins with now.
    let mut ana = Client::enter(server.port, &in_session("&name=ana"));
    assert_eq!(ana.next, 7);
    bob.say("eight");
    assert_eq!(ana.hear(), "bob: eight");
    server.program.signal("TERM");
    assert_eq!(ana.try_hear(), None);
}

#[test]
fn another_epoch_begins_with_now_and_a_position_to_come_is_refused() {
    let server = Server::start();
    let mut bob = Raw::enter(server.port, "/?name=bob");
    let mut ana = Client::enter(server.port, &in_session("&name=ana"));
    bob.say("one");
    assert_eq!(ana.hear(), "bob: one");
    let future = format!("&name=ana&after={}.2", ana.epoch);
    refused(
        server.port,
        &in_session(&future),
        "after is a position that this room has not reached",
    );
    // Who is refused replaces nobody.
    bob.say("two");
    assert_eq!(ana.hear(), "bob: two");
    let mut ana = Client::enter(
        server.port,
        &in_session("&name=ana&after=0123456789abcdef.1"),
    );
    assert_eq!(ana.next, 2);
    assert_eq!(ana.hear(), "* what was said before is not known here");
    bob.say("three");
    assert_eq!(ana.hear(), "bob: three");
    // Each room has its own.
    let elsewhere = Client::enter(
        server.port,
        &format!("/rust?session={KEY}&after={}.1", ana.epoch),
    );
    assert_ne!(elsewhere.epoch, ana.epoch);
    bob.say("four");
    assert_eq!(ana.hear(), "bob: four");
}

#[test]
fn lines_are_counted_from_what_the_client_knows_unless_the_server_knows() {
    let server = Server::start();
    let mut ana = Client::enter(server.port, &in_session("&sent=40"));
    assert_eq!(ana.taken, 40);
    ana.say("one\n\ntwo");
    ana.say("");
    ana.is_taken();
    let ana = Client::enter(server.port, &in_session("&sent=7"));
    assert_eq!(ana.taken, 44);
    assert_eq!(
        Client::enter(server.port, &format!("/rust?session={KEY}")).taken,
        0
    );
}

#[test]
fn a_newer_connection_replaces_the_first_and_nobody_has_left() {
    let mut server = Server::with(&["--presence"]);
    let mut bob = Raw::enter(server.port, "/?name=bob");
    assert_eq!(bob.text(), "* nobody else is here");
    let mut first = Client::enter(server.port, &in_session("&name=ana"));
    assert_eq!(first.hear(), "* here: bob");
    assert_eq!(bob.text(), "* ana joined");
    for spelling in ["ana", "Ana", "ana"] {
        let mut second = Client::enter(server.port, &in_session(&format!("&name={spelling}")));
        assert_eq!(second.hear(), "* here: bob");
        let closed = first.ear.raw.close();
        assert_eq!(closed, (1008, "replaced by a newer connection".to_owned()));
        first = second;
        if spelling == "ana" {
            first.say("hi");
            while bob.text() != "ana: hi" {}
        }
    }
    // The name is still hers, and nobody else's.
    let why = "the name ANA is taken here, or looks like one that is".to_owned();
    assert_eq!(
        Raw::asking_for(server.port, "/?name=ANA").refusal(),
        (409, why)
    );
    let other = "/?name=ana&session=another-session-of-eve";
    assert_eq!(Raw::asking_for(server.port, other).refusal().0, 409);
    drop(first);
    server.program.signal("TERM");
    drop(bob);
    assert_eq!(server.program.exit(), 0);
    let log = server.program.rest();
    let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!(
        (count("New connection"), count("disconnected")),
        (5, 5),
        "{log:?}"
    );
    // Of all this the operator need not know more.
    let warned = server.program.err_rest();
    let refused = |line: &String| line.contains("was refused");
    assert!(warned.iter().all(refused), "{warned:?}");
}

#[test]
fn the_name_of_a_connection_without_a_session_is_not_taken_over() {
    let server = Server::start();
    let _bob = Raw::enter(server.port, "/?name=bob");
    let refusal = Raw::asking_for(server.port, &in_session("&name=bob")).refusal();
    assert_eq!(refusal.0, 409);
    let mut ana = Client::enter(server.port, &in_session("&name=ana"));
    let refusal = Raw::asking_for(server.port, &in_session("&name=bob")).refusal();
    assert_eq!(refusal.0, 409);
    // Who was refused has replaced nobody.
    ana.is_taken();
}

/// The server finds lines of the first connection and the second connection at once: whichever it
/// looks at first, each line is said once.
#[test]
fn what_the_first_connection_had_not_read_yet_is_not_taken() {
    const LINES: u64 = 40;
    let server = Server::with(&["--threads", "2"]);
    let mut ear = Ear::of(Raw::enter(server.port, "/?name=bob"));
    for round in 0..30 {
        let target = format!("/?session=the-session-of-round-{round:02}&name=n{round}");
        let mut first = Client::enter(server.port, &target);
        let mut second = None;
        server.while_stopped(|| {
            for n in 0..LINES {
                first.say(&format!("{round} {n}"));
                if n == LINES / 2 {
                    second = Some(Raw::asking_for(server.port, &target));
                }
            }
        });
        let mut second = second.unwrap();
        second.is_let_in(&target);
        let mut second = Client::of(second);
        for n in second.taken..LINES {
            second.say(&format!("{round} {n}"));
        }
        for n in 0..LINES {
            assert_eq!(ear.text(), Some(&*format!("n{round}: {round} {n}")));
        }
        // It may have been told what it said, or not: it is closed behind it.
        assert_eq!(first.ear.raw.close().0, 1008);
    }
}

/// A speaker and a listener whose links break again and again, in the middle of everything.
#[test]
fn whatever_breaks_each_line_is_said_once_and_heard_once() {
    const LINES: u64 = 3000;
    let server = Server::with(&["--threads", "2"]);
    let port = server.port;
    let mut ear = Ear::of(Raw::enter(port, "/?name=eve"));
    let target = "/?session=the-session-of-listener";
    let mut client = Client::enter(port, target);
    let listener = thread::spawn(move || {
        for n in 0..LINES {
            assert_eq!(client.hear(), format!("ana: {n}"));
            if n % 61 == 0 {
                let after = client.after();
                if n % 2 == 0 {
                    client.ear.raw.reset();
                }
                client = Client::enter(port, &format!("{target}{after}"));
            }
        }
    });
    let speaker = thread::spawn(move || {
        let target = "/?session=the-session-of-speaker&name=ana";
        let mut client = Client::enter(port, target);
        let mut next = 0;
        while next < LINES {
            let until = LINES.min(next + 1 + next * 7 % 97);
            (next..until).for_each(|n| client.say(&n.to_string()));
            next = until;
            if until.is_multiple_of(3) {
                // The one is left as it is, of another the link breaks.
                let old = client;
                if until.is_multiple_of(2) {
                    old.ear.raw.reset();
                }
                client = Client::enter(port, target);
                next = client.taken;
            }
        }
        client.is_taken();
        assert_eq!(Client::enter(port, target).taken, LINES);
    });
    for n in 0..LINES {
        assert_eq!(ear.text(), Some(&*format!("ana: {n}")));
    }
    speaker.join().unwrap();
    listener.join().unwrap();
}

/// Says lines that wait for a reader, who takes nothing.
fn wait_for_space(raw: &mut Raw, text: &str) {
    raw.stream.set_nonblocking(true).unwrap();
    let line = frame(FIN | 1, text.as_bytes());
    loop {
        match raw.stream.write(&line) {
            // Another frame behind a part of one would be taken for the rest of it.
            Ok(written) if written < line.len() => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The first connection never reads, and has sent more than the room takes: it goes at once, with
/// its name, and so does its descriptor.
#[test]
fn a_dead_link_is_replaced_at_once() {
    let server = Server::start();
    let port = server.port;
    let mut bob = Client::enter(port, &format!("/?session={BOB}&name=bob"));
    let mut dead = Raw::narrow_for(port, &in_session("&name=ana"));
    let text = "x".repeat(10_000);
    for _ in 0..40 {
        bob.say(&text); // more than the link and the room take
    }
    wait_for_space(&mut dead, &text);
    let before = descriptors(server.program.id());
    let mut ana = Client::enter(port, &in_session("&name=ana"));
    ana.say("I am back");
    // Of the lines before it some were taken, and each is whole.
    let mut taken = 0;
    while bob.hear() != "ana: I am back" {
        taken += 1;
    }
    assert_eq!(ana.taken, taken);
    // The old connection is given two seconds for a goodbye that nobody takes.
    let id = server.program.id();
    wait_until("its descriptor is gone", || descriptors(id) <= before);
    drop(dead);
}

#[test]
fn who_waits_for_space_says_nothing_when_it_is_replaced() {
    let room = chat_pair::server::room::Room::open(&Limits::DEFAULT);
    let asked = Asked::new(Some(KEY), None, None).unwrap();
    let (_, subscription) = room.enter().unwrap();
    let (speaker, mine, _) = room.enter_as(asked.as_ref()).unwrap();
    drop(mine);
    let name = Identity::of("a");
    let mut lines = Lines::default();
    lines.push(&name, &"x".repeat(Limits::DEFAULT.batch));
    let mut said = 0;
    let waiting = loop {
        let mut saying = Box::pin(speaker.say(&lines));
        match (&mut saying).now_or_never() {
            Some(taken) => taken.unwrap(),
            None => break saying,
        }
        said += 1;
    };
    let (second, _, first) = room.enter_as(asked.as_ref()).unwrap();
    assert!(first.unwrap().ends_with(format!(" {said}").as_bytes()));
    drop(subscription);
    assert!(matches!(waiting.now_or_never(), Some(Err(Closed))));
    assert!(matches!(second.say(&lines).now_or_never(), Some(Ok(()))));
}

/// Says a line of so many bytes.
async fn say(speaker: &Speaker, bytes: usize) {
    let name = Identity::of("other");
    let mut lines = Lines::default();
    lines.push(&name, &"x".repeat(bytes));
    speaker.say(&lines).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_stuck_in_a_write_ends_at_once() {
    let limits = Limits::DEFAULT;
    let room = open(&limits);
    let (other, subscription) = room.enter().unwrap();
    drop(subscription);
    let (mut far, connection) = connect_as(&room, &limits, 256, Some(KEY)).await;
    say(&other, 1000).await;
    // It has begun to write, and has to wait.
    far.read_exact(&mut [0; 50]).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    let begun = Instant::now();
    let (_far, newer) = connect_as(&room, &limits, 256, Some(KEY)).await;
    assert_eq!(connection.await.unwrap(), Ended::Replaced);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!newer.is_finished());
    let (_far, other) = connect_as(&room, &limits, 256, Some("another-session-of-eve")).await;
    sleep(Duration::from_secs(1)).await;
    assert!(!newer.is_finished() && !other.is_finished());
}

/// As today: the pong comes behind everything that was said before the ping.
#[test]
fn a_pong_says_that_all_lines_before_the_ping_were_taken() {
    let server = Server::start();
    let mut lines = 0;
    for round in 1..20 {
        let mut ana = Client::enter(server.port, &in_session(""));
        assert_eq!(ana.taken, lines);
        for n in 0..round {
            ana.say(&n.to_string());
        }
        ana.is_taken();
        lines += round;
    }
}

#[test]
fn what_is_older_than_the_window_is_missed_and_counted() {
    const MORE: u64 = 250;
    let lines = Limits::DEFAULT.window_lines + MORE;
    let server = Server::start();
    let mut bob = Client::enter(server.port, &format!("/?session={BOB}&name=bob"));
    let mut ana = Client::enter(server.port, &in_session("&name=ana"));
    bob.say("zero");
    assert_eq!(ana.hear(), "bob: zero");
    let after = ana.after();
    ana.say("mine");
    assert_eq!(bob.hear(), "ana: mine");
    ana.ear.raw.reset();
    for n in 0..lines {
        bob.say(&n.to_string());
    }
    bob.is_taken();
    let mut ana = Client::enter(server.port, &in_session(&format!("&name=ana{after}")));
    assert_eq!(ana.hear(), format!("* {MORE} messages missed"));
    for n in MORE..lines {
        assert_eq!(ana.hear(), format!("bob: {n}"));
    }
    assert_eq!(ana.next, lines + 2);
    // The window is bounded in bytes as well: what is left of long lines is less.
    let long = "x".repeat(10_000);
    let after = ana.after();
    ana.ear.raw.reset();
    for n in 0..200 {
        bob.say(&format!("{n} {long}"));
    }
    bob.is_taken();
    let mut ana = Client::enter(server.port, &in_session(&format!("&name=ana{after}")));
    let count = missed(&ana.hear()).expect("the oldest are gone");
    assert!((95..105).contains(&count), "{count}");
    for n in count..200 {
        assert_eq!(ana.hear(), format!("bob: {n} {long}"));
    }
    server.program.signal("TERM");
    assert_eq!(ana.try_hear(), None);
}

/// Three hundred come back at once to a megabyte each, and some of them read nothing of it: the
/// others get all of it, nobody waits, and it costs no more than the formula allows.
#[test]
fn three_hundred_come_back_at_once() {
    const CROWD: usize = 300;
    const LINES: usize = 100;
    let (server, _pipe) = Server::unread(Stdio::null());
    let port = server.port;
    let mut bob = Client::enter(port, &format!("/?session={BOB}&name=bob"));
    let epoch = bob.epoch.clone();
    let text = "x".repeat(9_000);
    for n in 0..LINES {
        bob.say(&format!("{n} {text}"));
    }
    bob.is_taken();
    let target = |n: usize| format!("/?session=the-session-of-no-{n:04}&after={epoch}.0");
    let (mut reading, mut not_reading) = (Vec::new(), Vec::new());
    // In turns, since whoever takes nothing for too long is cut off.
    let read = |reading: &mut Vec<(Client, usize)>| {
        for (client, n) in reading.iter_mut().filter(|(_, n)| *n < 2 * LINES) {
            let line = match *n {
                old @ ..LINES => format!("bob: {old} {text}"),
                new => format!("bob: more {}", new - LINES),
            };
            assert_eq!(client.hear(), line);
            *n += 1;
        }
    };
    for n in 0..CROWD {
        if n % 10 == 0 {
            read(&mut reading);
        }
        if n % 3 == 0 {
            not_reading.push(Raw::narrow_for(port, &target(n)));
        } else {
            let mut raw = Raw::asking_for(port, &target(n));
            raw.is_let_in("it comes back");
            reading.push((Client::of(raw), 0));
        }
    }
    // Nobody who reads nothing is waited for.
    let mut eve = Ear::of(Raw::enter(port, "/?name=eve"));
    for n in 0..LINES {
        bob.say(&format!("more {n}"));
        assert_eq!(eve.text(), Some(&*format!("bob: more {n}")));
        if n % 10 == 0 {
            read(&mut reading);
        }
    }
    while reading.iter().any(|(_, n)| *n < 2 * LINES) {
        read(&mut reading);
    }
    let bound = Limits {
        connections: CROWD + 10,
        rooms: 1,
        windows: Limits::DEFAULT.window,
        ..Limits::DEFAULT
    };
    let most = resident(server.program.id(), "VmHWM");
    assert!(most < bound.memory(), "{most} of {} bytes", bound.memory());
    drop(not_reading);
    server.program.signal("TERM");
}

/// Twenty rooms, of which a few may keep what is said.
struct Twenty {
    rooms: Arc<Rooms>,
    limits: Limits,
}

impl Twenty {
    const ROOMS: usize = 20;
    /// Bytes that are said in each.
    const SAID: usize = 64 * 1024;

    fn open() -> Self {
        let limits = Limits {
            window: 80 * 1024,
            windows: 320 * 1024,
            ..Limits::DEFAULT
        };
        let rooms = Rooms::new(&limits, false);
        Self { rooms, limits }
    }

    fn enter(&self, room: usize, query: &str) -> Member {
        let target = format!("/room-{room}?{query}").parse().unwrap();
        self.rooms
            .enter(&target, "127.0.0.1:1", &mut Pass::default())
            .unwrap()
    }

    /// Somebody speaks, and somebody with a session is there. Returns both, and the epoch.
    async fn talk(&self, room: usize) -> ([Member; 2], String) {
        let (bob, ana) = (
            self.enter(room, ""),
            self.enter(room, &format!("session={KEY}")),
        );
        for _ in 0..Self::SAID / 1024 {
            say(&bob.speaker, 1024).await;
            sleep(Duration::from_millis(1)).await;
        }
        let epoch = String::from_utf8(ana.greeting.concat()[3..19].to_vec()).unwrap();
        ([bob, ana], epoch)
    }

    /// Bytes of the past that whoever has the session comes back to.
    fn kept(&self, room: usize, epoch: &str) -> usize {
        let mut back = self.enter(room, &format!("session={KEY}&after={epoch}.0"));
        let mut bytes = 0;
        while let Some(frames) = back.subscription.next_frames().now_or_never() {
            bytes += frames.unwrap().concat().len();
        }
        bytes
    }
}

#[tokio::test(start_paused = true)]
async fn rooms_in_which_nobody_is_give_way_and_the_others_lose_nothing() {
    let twenty = Twenty::open();
    let mut epochs = Vec::new();
    for room in 0..Twenty::ROOMS {
        let (members, epoch) = twenty.talk(room).await;
        assert!(twenty.kept(room, &epoch) >= Twenty::SAID);
        drop(members);
        epochs.push(epoch);
    }
    let kept = epochs
        .iter()
        .enumerate()
        .map(|(room, epoch)| twenty.kept(room, epoch));
    let kept: usize = kept.sum();
    assert!(
        (twenty.limits.window..twenty.limits.windows).contains(&kept),
        "{kept}"
    );
}

#[tokio::test(start_paused = true)]
async fn rooms_in_which_somebody_is_share_what_may_be_kept() {
    let twenty = Twenty::open();
    let mut rooms = Vec::new();
    for room in 0..Twenty::ROOMS {
        rooms.push(twenty.talk(room).await);
    }
    let kept = rooms
        .iter()
        .enumerate()
        .map(|(room, (_, epoch))| twenty.kept(room, epoch));
    let kept: usize = kept.sum();
    assert!(
        (twenty.limits.window..twenty.limits.windows).contains(&kept),
        "{kept}"
    );
}

#[test]
fn an_empty_room_is_kept_for_its_sessions_until_its_place_is_needed() {
    let mut server = Server::with(&["--max-rooms", "2"]);
    let port = server.port;
    let session = |room: &str| format!("/{room}?session={KEY}&after=0123456789abcdef.0");
    let leave = |server: &mut Server, client: Client, room: &str| {
        let name = client.ear.raw.name();
        drop(client);
        server.lines_to(&format!("Client {name} disconnected in {room}"));
    };
    let one = Client::enter(port, &session("one"));
    let epoch = one.epoch.clone();
    leave(&mut server, one, "one");
    let two = Client::enter(port, &session("two"));
    // It comes back to where it was.
    let one = Client::enter(port, &session("one"));
    assert_eq!(one.epoch, epoch);
    leave(&mut server, one, "one");
    // Only the room that is empty gives way.
    let three = Raw::enter_when_it_can(port, &session("three"));
    assert_eq!(Raw::asking_for(port, &session("one")).refusal().0, 503);
    drop(three);
    let one = Raw::enter_when_it_can(port, &session("one"));
    assert_ne!(Client::of(one).epoch, epoch);
    drop(two);
}

/// Else whoever comes and goes could make everybody forget all others.
#[test]
fn a_room_in_which_nothing_was_said_gives_way_first() {
    let mut server = Server::with(&["--max-rooms", "2"]);
    let port = server.port;
    let enter = |room: &str| {
        let mut raw = Raw::enter(port, &format!("/{room}?session={KEY}"));
        let first = raw.text();
        let epoch = first.split(' ').next().unwrap().to_owned();
        (raw, epoch)
    };
    let leave = |server: &mut Server, raw: Raw, room: &str| {
        let name = raw.name();
        drop(raw);
        server.lines_to(&format!("Client {name} disconnected in {room}"));
    };
    let (mut used, epoch) = enter("used");
    used.say("hello");
    let name = used.name();
    server.lines_to(&format!("Received from {name} in used: hello"));
    leave(&mut server, used, "used");
    for room in ["a", "b", "c"] {
        let (silent, _) = enter(room);
        leave(&mut server, silent, room);
    }
    assert_eq!(enter("used").1, epoch);
}

fn enter(rooms: &Arc<Rooms>, query: &str) -> (Member, String) {
    let target = format!("/rust?{query}").parse().unwrap();
    let member = rooms
        .enter(&target, "127.0.0.1:1", &mut Pass::default())
        .unwrap();
    let first = member.greeting.concat();
    let first = String::from_utf8(first[2..].to_vec()).unwrap();
    (member, first)
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_says_nothing_pushes_nobody_out_that_has_spoken() {
    let limits = Limits {
        sessions: 10,
        ..Limits::DEFAULT
    };
    let rooms = Rooms::new(&limits, false);
    let (ana, _) = enter(&rooms, &format!("session={KEY}"));
    say(&ana.speaker, 100).await;
    drop(ana);
    for n in 0..100 {
        enter(&rooms, &format!("session=the-session-of-a-crowd-{n}"));
    }
    let (_, first) = enter(&rooms, &format!("session={KEY}"));
    assert!(first.ends_with(" 1 1"), "{first}");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_forgotten_ten_minutes_after_its_last_connection() {
    let limits = Limits::DEFAULT;
    let rooms = Rooms::new(&limits, false);
    let target = format!("session={KEY}&sent=5");
    let (member, first) = enter(&rooms, &target);
    say(&member.speaker, 1).await;
    assert!(first.ends_with(" 0 5"), "{first}");
    let (epoch, _) = first.split_once(' ').unwrap();
    let epoch = epoch.to_owned();
    let almost = limits.session.saturating_sub(Duration::from_secs(1));
    // As long as it is connected nothing is forgotten.
    sleep(2 * limits.session).await;
    drop(member);
    sleep(almost).await;
    let (member, first) = enter(&rooms, &target);
    assert_eq!(first, format!("{epoch} 1 6"));
    // The time begins again with each connection that ends.
    drop(member);
    sleep(almost).await;
    let (member, first) = enter(&rooms, &target);
    assert_eq!(first, format!("{epoch} 1 6"));
    drop(member);
    sleep(limits.session + limits.sweep + limits.sweep_rest).await;
    // Nobody was there, so the room is gone, and it is another now.
    let (_member, first) = enter(&rooms, &target);
    assert!(
        !first.starts_with(&epoch) && first.ends_with(" 0 5"),
        "{first}"
    );
}

/// A room in which somebody stays without a session keeps its epoch, but not those who are away.
#[tokio::test(start_paused = true)]
async fn who_was_forgotten_learns_that_something_was_missed() {
    let limits = Limits::DEFAULT;
    let rooms = Rooms::new(&limits, false);
    let bob = enter_plain(&rooms);
    let (member, first) = enter(&rooms, &format!("session={KEY}"));
    let epoch = first[1..17].to_owned();
    drop(member);
    say(&bob.speaker, 1).await;
    sleep(limits.session + limits.sweep + limits.sweep_rest).await;
    say(&bob.speaker, 1).await;
    let (mut member, first) = enter(&rooms, &format!("session={KEY}&after={epoch}.0"));
    assert_eq!(first, format!("@{epoch} 0 0"));
    let told = member.subscription.next_frames().await.unwrap().concat();
    assert_eq!(&told[2..], b"* some messages missed");
}

fn enter_plain(rooms: &Arc<Rooms>) -> Member {
    rooms
        .enter(
            &"/rust".parse().unwrap(),
            "127.0.0.1:2",
            &mut Pass::default(),
        )
        .unwrap()
}

/// A reader that comes to a megabyte and takes nothing of it costs the others no more than any other
/// that is slow, and is cut off in the same way.
#[tokio::test(start_paused = true)]
async fn who_comes_back_and_never_reads_is_stuck() {
    let limits = Limits {
        history: 100,
        ..Limits::DEFAULT
    };
    let room = open(&limits);
    let (other, subscription) = room.enter().unwrap();
    drop(subscription);
    for _ in 0..60 {
        say(&other, 16 * 1024).await;
    }
    let (_far, connection) = connect(&room, &limits, 1000).await;
    let begun = Instant::now();
    for _ in 0..100 {
        say(&other, 16 * 1024).await;
    }
    assert!(begun.elapsed() <= limits.patience, "{:?}", begun.elapsed());
    assert_eq!(connection.await.unwrap(), Ended::Stuck(limits.stuck));
    assert_eq!(begun.elapsed().as_secs(), limits.stuck.as_secs());
}

/// One that takes 64 KiB a second is waited for, though it has a megabyte to read first: it misses
/// nothing, however fast others speak.
/// A room in which nearly a whole window was said before somebody comes back to it that takes 64 KiB
/// a second.
struct Return {
    speaker: Speaker,
    /// Everything that it read up to the line that begins with the mark.
    reading: JoinHandle<(Vec<u8>, DuplexStream)>,
    connection: JoinHandle<Ended>,
}

/// Lines that fill the window, but for what the channel can take besides.
const BEFORE: usize = 54;

impl Return {
    async fn until(mark: &'static str) -> Self {
        const STEP: usize = 64 * 1024;
        let limits = Limits::DEFAULT;
        let room = open(&limits);
        let (speaker, subscription) = room.enter().unwrap();
        drop(subscription);
        let asked = Asked::new(Some(KEY), None, None).unwrap();
        let (_, _, first) = room.enter_as(asked.as_ref()).unwrap();
        let first = String::from_utf8(first.unwrap()[2..].to_vec()).unwrap();
        let after = first[1..].replacen(' ', ".", 1);
        let after = after.split(' ').next().unwrap().to_owned();
        for n in 0..BEFORE {
            speaker.say(&long(n)).await.unwrap();
        }
        let (mut far, connection) = connect_after(&room, &limits, STEP, KEY, &after).await;
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            while !all.windows(mark.len()).any(|part| part == mark.as_bytes()) {
                let mut step = vec![0; STEP];
                let read = far.read(&mut step).await.unwrap();
                assert_ne!(read, 0, "the connection has ended");
                all.extend_from_slice(&step[..read]);
                sleep(Duration::from_secs(1)).await;
            }
            (all, far)
        });
        Self {
            speaker,
            reading,
            connection,
        }
    }
}

/// A line of 16 KiB that begins with its number.
fn long(n: usize) -> Lines {
    let mut lines = Lines::default();
    lines.push(
        &Identity::of("other"),
        &format!("{n:03} {}", "x".repeat(16 * 1024)),
    );
    lines
}

/// Without the `@` lines that stand before others.
fn unmarked(mut frames: &[u8]) -> &[u8] {
    while frames[1] < 126 && frames[2] == b'@' {
        frames = &frames[2 + usize::from(frames[1])..];
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_and_keeps_up_misses_nothing() {
    const LINES: usize = 200;
    let ana = Return::until("199 ").await;
    for n in BEFORE..LINES {
        ana.speaker.say(&long(n)).await.unwrap();
    }
    let (all, _far) = ana.reading.await.unwrap();
    assert!(!ana.connection.is_finished());
    let mut rest = &all[..];
    for n in 0..LINES - 1 {
        rest = unmarked(rest);
        let frame = long(n).frames;
        assert!(rest.starts_with(&frame), "line {n}");
        rest = &rest[frame.len()..];
    }
}

#[tokio::test(start_paused = true)]
async fn while_who_comes_back_reads_what_it_missed_the_others_go_on() {
    let ana = Return::until("399 ").await;
    let name = Identity::of("other");
    let mut notice = None;
    for n in 100..400 {
        let mut lines = Lines::default();
        lines.push(&name, &format!("{n} {}", "x".repeat(1024)));
        let before = Instant::now();
        ana.speaker.say(&lines).await.unwrap();
        // The clock only moves when everybody waits, so this is no measured time: the reader is waited
        // for, but not until it has read everything.
        assert!(before.elapsed() < Duration::from_secs(3), "line {n}");
        if n == 250 {
            let lines = Lines::notice("news", None);
            ana.speaker.say(&lines).await.unwrap();
            notice = Some(lines.frames);
        }
        sleep(Duration::from_millis(40)).await;
    }
    let (all, _far) = ana.reading.await.unwrap();
    let notice = notice.unwrap();
    assert!(!ana.connection.is_finished());
    let notices = all.windows(notice.len()).filter(|part| *part == notice);
    assert_eq!(notices.count(), 1);
    let (mut numbers, mut rest) = (Vec::new(), &all[..]);
    while rest.len() > 16 * 1024 {
        rest = unmarked(rest);
        if let Some(behind) = rest.strip_prefix(&notice[..]) {
            rest = behind;
            continue;
        }
        // The number stands behind a header of four bytes and `other: `.
        let number = str::from_utf8(&rest[11..14]).unwrap().parse::<usize>();
        let number = number.unwrap_or_else(|_| {
            panic!(
                "{:?} behind {numbers:?}",
                String::from_utf8_lossy(&rest[..60])
            )
        });
        numbers.push(number);
        let bytes = u16::from_be_bytes([rest[2], rest[3]]);
        rest = &rest[4 + usize::from(bytes)..];
    }
    let expected: Vec<_> = (0..BEFORE).chain(100..400).collect();
    assert_eq!(numbers, expected[..numbers.len()]);
    assert!(numbers.len() > BEFORE);
}
