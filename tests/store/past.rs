//! What is known after a restart, and what is read from the store since it is not in memory.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use chat_pair::server::access::Pass;
use chat_pair::server::batch::Lines;
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::rooms::{Member, Rooms};
use chat_pair::server::store::{Store, Terms, file};
use futures_util::FutureExt;
use rusqlite::Connection;
use tokio::task::yield_now;

use crate::support::raw::{Ear, Raw};
use crate::support::{PATIENCE, Server, wait_until};
use crate::{ANA, BOB, Client, Folder, is_taken, kill};

fn in_session(session: &str, rest: &str) -> String {
    format!("/?session={session}{rest}")
}

/// Somebody who has no session says so many numbered lines, and waits until they are taken.
#[track_caller]
fn say_many(raw: &mut Raw, range: std::ops::Range<usize>) {
    for start in range.clone().step_by(500) {
        let lines = (start..range.end).take(500).map(|n| n.to_string());
        raw.say(&lines.collect::<Vec<_>>().join("\n"));
    }
    is_taken(raw);
}

#[test]
fn a_restart_keeps_the_epoch_the_positions_and_what_was_taken() {
    let folder = Folder::new();
    let server = folder.serve();
    let mut ana = Client::enter(server.port, &in_session(ANA, "&name=ana&sent=7"));
    let mut bob = Client::enter(server.port, &in_session(BOB, "&name=bob"));
    // Of a room in which nothing was said, too.
    let nothing = Client::enter(server.port, "/nothing?session=the-session-of-number-0");
    ana.say("one\ntwo");
    assert_eq!([bob.hear(), bob.hear()], ["ana: one", "ana: two"]);
    bob.say("three");
    kill(server);
    let server = folder.serve();
    let after = format!("/nothing?session={BOB}{}", nothing.after());
    assert_eq!(Client::enter(server.port, &after).next, 0);
    let epoch = ana.epoch.clone();
    let after = ana.after();
    let mut ana = Client::enter(server.port, &in_session(ANA, &format!("&sent=0{after}")));
    assert_eq!((&ana.epoch, ana.next, ana.taken), (&epoch, 0, 9));
    // Its own are left out, and nobody else's.
    assert_eq!(ana.hear(), "bob: three");
    let mut bob = Client::enter(
        server.port,
        &in_session(BOB, &format!("&name=bob{}", bob.after())),
    );
    assert_eq!((&bob.epoch, bob.next, bob.taken), (&epoch, 2, 1));
    bob.say("four");
    assert_eq!(ana.hear(), "bob: four");
    assert_eq!(ana.next, 4);
    // Another room has another past.
    let other = Client::enter(server.port, &format!("/rust?session={ANA}&after={epoch}.3"));
    assert_eq!((other.next, other.taken), (0, 0));
    assert_ne!(other.epoch, epoch);
}

/// Its client may have sent lines by then, and must learn that none of them was taken.
#[test]
fn a_session_that_has_said_nothing_is_known_after_a_crash() {
    let folder = Folder::new();
    let server = folder.serve();
    let ana = Client::enter(server.port, &in_session(ANA, "&sent=3"));
    let back = in_session(ANA, &format!("&sent=9{}", ana.after()));
    kill(server);
    let server = folder.serve();
    assert_eq!(Client::enter(server.port, &back).taken, 3);
}

#[test]
fn a_session_that_was_gone_for_longer_than_the_window_misses_nothing() {
    const LINES: usize = 30_000;
    let folder = Folder::new();
    let server = folder.serve();
    let ana = Client::enter(server.port, &in_session(ANA, "&name=ana"));
    let back = in_session(ANA, &format!("&name=ana{}", ana.after()));
    drop(ana);
    let mut bob = Raw::enter(server.port, "/?name=bob");
    say_many(&mut bob, 0..LINES);
    let hears_all = |port: u16, bob: &mut Raw, lines: std::ops::Range<usize>| {
        let mut ana = Client::enter(port, &back);
        // What is said meanwhile comes behind it.
        bob.say("end");
        for n in lines {
            assert_eq!(ana.hear(), format!("bob: {n}"));
        }
        assert_eq!(ana.hear(), "bob: end");
    };
    hears_all(server.port, &mut bob, 0..LINES);
    kill(server);
    let server = folder.serve();
    let mut bob = Raw::enter(server.port, "/?name=bob");
    let mut ana = Client::enter(server.port, &back);
    for n in 0..LINES {
        assert_eq!(ana.hear(), format!("bob: {n}"));
    }
    assert_eq!(ana.hear(), "bob: end");
    bob.say("new");
    assert_eq!(ana.hear(), "bob: new");
}

#[test]
fn who_is_too_slow_to_be_waited_for_reads_from_the_store_what_it_would_miss() {
    const LINES: usize = 1000;
    let folder = Folder::new();
    let server = folder.serve();
    let slow = Raw::narrow_for(server.port, "/?name=slow");
    let mut slow = Ear::of(slow);
    // Its own line is not for it, also when that is read from the store.
    slow.raw.say("own");
    is_taken(&mut slow.raw);
    let mut bob = Raw::enter(server.port, "/?name=bob");
    let text = "x".repeat(8000);
    let slow_hears = |slow: &mut Ear, n| {
        assert_eq!(slow.text(), Some(&*format!("bob: {n} {text}")));
    };
    // Far more than is kept in memory. Who takes nothing at all for long is cut off, so it takes a line now and then.
    for n in 0..LINES {
        bob.say(&format!("{n} {text}"));
        if n % 100 == 99 {
            is_taken(&mut bob);
            slow_hears(&mut slow, n / 100);
        }
    }
    slow.raw.widen();
    for n in LINES / 100..LINES {
        slow_hears(&mut slow, n);
    }
}

#[test]
fn history_reaches_back_to_what_was_said_before_the_restart() {
    let folder = Folder::new();
    let server = folder.serve();
    let mut bob = Raw::enter(server.port, "/rust?name=bob");
    say_many(&mut bob, 0..100);
    let mut ana = Raw::enter(server.port, "/?name=ana");
    say_many(&mut ana, 0..3);
    kill(server);
    let server = folder.serve_with(&["--history", "10"]);
    let mut late = Raw::enter(server.port, "/rust");
    assert_eq!(late.text(), "* 10 earlier messages");
    for n in 90..100 {
        assert_eq!(late.text(), format!("bob: {n}"));
    }
    assert_eq!(late.text(), "* now");
    // Less than that, in the other room.
    let mut late = Raw::enter(server.port, "/");
    assert_eq!(late.text(), "* 3 earlier messages");
    for n in 0..3 {
        assert_eq!(late.text(), format!("ana: {n}"));
    }
    assert_eq!(late.text(), "* now");
}

/// Its own lines are neither shown nor counted, whether they are in memory or in the store alone.
#[test]
fn who_has_a_session_is_told_how_many_earlier_lines_it_gets() {
    let folder = Folder::new();
    let server = folder.serve();
    let (mut ana, mut bob) = (
        Client::enter(server.port, &in_session(ANA, "&name=ana")),
        Raw::enter(server.port, "/?name=bob"),
    );
    for n in 0..4 {
        ana.say("own");
        bob.say(&n.to_string());
        is_taken(&mut bob);
    }
    Client::enter(server.port, &format!("/own?session={ANA}")).say("own");
    kill(server);
    let server = folder.serve_with(&["--history", "6"]);
    let expected = |told: &str, lines: std::ops::Range<usize>| {
        let lines = lines.map(|n| format!("bob: {n}"));
        let first = format!("* {told} earlier messages");
        [first]
            .into_iter()
            .chain(lines)
            .chain(["* now".to_owned()])
            .collect::<Vec<_>>()
    };
    let hears = |ana: &mut Client, expected: &[String]| {
        for expected in expected {
            assert_eq!(ana.hear(), *expected);
        }
    };
    let mut ana = Client::enter(server.port, &in_session(ANA, ""));
    assert_eq!((ana.next, ana.taken), (2, 4));
    hears(&mut ana, &expected("3", 1..4));
    let mut bob = Raw::enter(server.port, "/?name=bob");
    bob.say("4");
    assert_eq!(ana.hear(), "bob: 4");
    // The first of the last six are in the store alone.
    ana.say("own");
    let mut ana = Client::enter(server.port, &in_session(ANA, ""));
    hears(&mut ana, &expected("3", 2..5));
    // Where nothing is for it, it is told nothing.
    let mut ana = Client::enter(server.port, &format!("/own?session={ANA}"));
    let mut bob = Raw::enter(server.port, "/own?name=bob");
    bob.say("new");
    assert_eq!(ana.hear(), "bob: new");
}

#[test]
fn old_lines_are_deleted_and_whoever_asks_for_them_is_told() {
    const OLD: usize = 10_000;
    let folder = Folder::new();
    let server = folder.serve();
    let mut bob = Raw::enter(server.port, "/?name=bob");
    let mut eve = Client::enter(server.port, "/a?session=the-session-of-eve-000");
    eve.say("old");
    say_many(&mut bob, 0..OLD + 10);
    let ana = Client::enter(server.port, &in_session(ANA, ""));
    let epoch = ana.epoch.clone();
    kill(server);
    let db = Connection::open(folder.file()).unwrap();
    let age = "update lines set at = at - 2 * 86400000 where room = 'a' or position < 10000";
    db.execute(age, []).unwrap();
    db.execute("update sessions set at = at - 2 * 86400000", [])
        .unwrap();
    drop(db);
    let server = folder.serve_with(&["--store-days", "1", "--history", "10000"]);
    let until = Instant::now() + PATIENCE;
    while folder.lines("").len() + folder.lines("a").len() > 10 {
        assert!(Instant::now() < until, "old lines are still there");
        thread::yield_now();
    }
    let mut ana = Client::enter(server.port, &in_session(ANA, &format!("&after={epoch}.5")));
    assert_eq!(ana.hear(), "* some messages missed");
    for n in OLD..OLD + 10 {
        assert_eq!(ana.hear(), format!("bob: {n}"));
    }
    let mut late = Raw::enter(server.port, "/");
    assert_eq!(late.text(), "* 10 earlier messages");
    assert_eq!(late.text(), format!("bob: {OLD}"));
    // A room that has no lines any more goes on where it was.
    let eve = Client::enter(server.port, "/a?session=the-session-of-eve-000&sent=1");
    assert_eq!((eve.next, eve.taken), (1, 1));
}

#[test]
fn the_file_tells_nobody_the_key_of_a_session() {
    let folder = Folder::new();
    let mut server = folder.serve();
    Client::enter(server.port, &in_session(ANA, "")).say("findable");
    server.stop();
    // A server whose disk is busy ends before all of it is in the first of these.
    let mut bytes = fs::read(folder.file()).unwrap();
    bytes.extend(fs::read(folder.path.join("chat.db-wal")).unwrap_or_default());
    let found = |what: &str| {
        bytes
            .windows(what.len())
            .any(|bytes| bytes == what.as_bytes())
    };
    assert!(found("findable"));
    assert!(!found(ANA));
}

#[test]
fn a_line_that_any_tool_finds() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let mut bob = Raw::enter(server.port, "/rust?name=bob");
    let name = {
        let mut plain = Raw::enter(server.port, "/rust");
        plain.say("\n: a: b\u{1b}");
        is_taken(&mut plain);
        plain.name()
    };
    bob.say("hi");
    is_taken(&mut bob);
    let expected = [(&*name, ""), (&*name, ": a: b\u{fffd}"), ("bob", "hi")];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    // While the server runs, and afterwards.
    assert_eq!(folder.lines("rust"), expected);
    server.stop();
    assert_eq!(folder.lines("rust"), expected);
    let db = folder.open();
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("pragma user_version"), 1);
    assert_eq!(number("pragma application_id"), 0x6368_6174);
    let plan = "explain query plan select at, name, text from lines where room = 'rust'";
    let plan: String = db.query_row(plan, [], |row| row.get(3)).unwrap();
    assert!(plan.starts_with("SEARCH lines USING PRIMARY KEY"), "{plan}");
}

#[test]
fn a_server_that_is_asked_to_stop_stores_what_it_confirmed() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let (mut ana, mut bob) = (
        Client::enter(server.port, &in_session(ANA, "&name=ana")),
        Raw::enter(server.port, "/"),
    );
    for n in 0..50 {
        ana.raw.say(&n.to_string());
    }
    assert_eq!(bob.text(), "ana: 0");
    server.program.signal("TERM");
    let mut heard = 1;
    let code = loop {
        let (kind, payload) = bob.frame().expect("a Close");
        if kind & 0xf == 8 {
            break u16::from_be_bytes([payload[0], payload[1]]);
        }
        assert_eq!(payload, format!("ana: {heard}").into_bytes());
        heard += 1;
    };
    assert_eq!((code, server.program.exit()), (1001, 0));
    assert!(folder.lines("").len() >= heard);
    let server = folder.serve();
    let ana = Client::enter(server.port, &in_session(ANA, ""));
    assert_eq!(usize::try_from(ana.taken).unwrap(), folder.lines("").len());
}

/// What the system writes only when it likes is gone after a power cut. So whoever comes back must not
/// believe to have heard what has the same positions now.
#[test]
fn a_power_cut_that_may_have_taken_lines_begins_another_past() {
    let folder = Folder::new();
    let enter = |server: &Server| Client::enter(server.port, &in_session(ANA, "&sent=5"));
    let reboot = || {
        let db = Connection::open(folder.file()).unwrap();
        db.execute(
            "update store set boot = 'another' where boot is not null",
            [],
        )
        .unwrap();
    };
    let server = folder.serve();
    let first = enter(&server).epoch;
    kill(server);
    reboot();
    let mut server = folder.serve();
    let second = enter(&server).epoch;
    assert_ne!(second, first);
    // A normal end leaves everything on the disk, …
    let begun = Instant::now();
    server.stop();
    let took = begun.elapsed();
    let is_on_disk = || {
        let (db, boot) = (folder.open(), "select boot is null from store");
        db.query_row(boot, [], |row| row.get::<_, bool>(0)).unwrap()
    };
    // … unless the disk is too busy for the time that the end may take.
    if !is_on_disk() {
        assert!(took >= Limits::DEFAULT.store_end, "{took:?}");
        wait_until("a later end leaves it there", || {
            folder.serve().stop();
            is_on_disk()
        });
    }
    reboot();
    let server = folder.serve_with(&["--store-sync"]);
    assert_eq!(enter(&server).epoch, second);
    // … and so does each commit here.
    kill(server);
    reboot();
    assert_eq!(enter(&folder.serve()).epoch, second);
}

/// A store as the server opens it; waits until the one before has given it back.
fn open(folder: &Folder) -> Store {
    open_with(folder, Terms::default(), &Limits::DEFAULT)
}

pub fn open_with(folder: &Folder, terms: Terms, limits: &Limits) -> Store {
    let until = Instant::now() + PATIENCE;
    loop {
        match file::Store::open(&folder.file(), terms, limits, |line| panic!("{line}")) {
            Ok(store) => return Store::File(store),
            Err(why) => assert!(Instant::now() < until, "{why}"),
        }
    }
}

pub async fn enter(rooms: &Arc<Rooms>, query: &str) -> Member {
    let target = format!("/rust?{query}").parse().unwrap();
    let mut pass = Pass::default();
    let entering = rooms.enter_when_known(&target, "127.0.0.1:1", &mut pass);
    entering.await.unwrap()
}

fn text(frames: &[bytes::Bytes]) -> String {
    String::from_utf8_lossy(&frames.concat()).into_owned()
}

/// It is stored, and nobody has heard it or was told so. Afterwards it counts as taken, and is heard.
#[test]
fn what_was_stored_and_not_heard_before_a_crash_is_heard_after_it() {
    let folder = Folder::new();
    let (ana, bob) = (format!("session={ANA}"), format!("session={BOB}&name=bob"));
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let before = runtime();
    let epoch = before.block_on(async {
        let rooms = Rooms::stored(&Limits::DEFAULT, false, Some(open(&folder)));
        let (mut ana, bob) = (enter(&rooms, &ana).await, enter(&rooms, &bob).await);
        let name = Identity::of("bob");
        let mut lines = Lines::default();
        lines.push(&name, "hello");
        let mut saying = Box::pin(bob.speaker.say(&lines));
        // Another program keeps the store waiting until the runtime has nothing more to do.
        let db = Connection::open(folder.file()).unwrap();
        db.execute_batch("begin immediate").unwrap();
        assert!(saying.as_mut().now_or_never().is_none());
        yield_now().await;
        db.execute_batch("commit").unwrap();
        // From here on the runtime does nothing, so it cannot apply what the other thread stores.
        let until = Instant::now() + PATIENCE;
        while folder.lines("rust").is_empty() {
            assert!(Instant::now() < until, "it is not stored");
        }
        assert!(ana.subscription.next_frames().now_or_never().is_none());
        let first = text(&ana.greeting);
        first.split(['@', ' ']).nth(1).unwrap().to_owned()
    });
    drop(before);
    runtime().block_on(async {
        let rooms = Rooms::stored(&Limits::DEFAULT, false, Some(open(&folder)));
        let bob = enter(&rooms, &bob).await;
        let first = text(&bob.greeting);
        assert!(first.ends_with(&format!("@{epoch} 1 1")), "{first}");
        let mut ana = enter(&rooms, &format!("{ana}&after={epoch}.0")).await;
        let heard = ana.subscription.next_frames().await.unwrap();
        assert!(text(&heard).ends_with("bob: hello"), "{}", text(&heard));
    });
}

/// A session says nothing for longer than lines are kept, and is here all the time: what is known of it
/// is not too old.
#[tokio::test]
async fn what_is_known_of_a_session_that_is_here_is_kept() {
    let folder = Folder::new();
    let limits = Limits {
        sweep: Duration::from_millis(10),
        store_touch: Duration::from_millis(10),
        ..Limits::DEFAULT
    };
    let terms = Terms {
        days: Some(1),
        ..Terms::default()
    };
    let store = open_with(&folder, terms, &limits);
    let rooms = Rooms::stored(&limits, false, Some(store));
    let ana = enter(&rooms, &format!("session={ANA}&sent=7")).await;
    let db = Connection::open(folder.file()).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    db.execute("insert into sessions values ('rust', 'gone', 5, 0)", [])
        .unwrap();
    db.execute("update sessions set at = 0", []).unwrap();
    let until = Instant::now() + PATIENCE;
    let is_here = "select count(*) from sessions where taken = 7 and at > 0";
    let is_gone = "select count(*) = 0 from sessions where taken = 5";
    let holds = |sql| db.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap();
    while !holds(is_here) || !holds(is_gone) {
        assert!(Instant::now() < until, "it is not as it should be");
        yield_now().await;
    }
    drop(ana);
}

/// It comes back while a line of the old connection is not stored yet, and leaves before that is known.
#[tokio::test]
async fn who_does_not_wait_to_be_let_in_leaves_the_old_connection_its_voice() {
    let folder = Folder::new();
    let rooms = Rooms::stored(&Limits::DEFAULT, false, Some(open(&folder)));
    let query = format!("session={ANA}");
    let old = enter(&rooms, &query).await;
    let name = Identity::of("ana");
    let mut lines = Lines::default();
    lines.push(&name, "hello");
    for _ in 0..20 {
        let mut first = Box::pin(old.speaker.say(&lines));
        assert!(first.as_mut().now_or_never().is_none());
        let mut entering = Box::pin(enter(&rooms, &query));
        assert!(entering.as_mut().now_or_never().is_none());
        let mut second = Box::pin(old.speaker.say(&lines));
        assert!(second.as_mut().now_or_never().is_none());
        drop(entering);
        first.await.unwrap();
        second.await.unwrap();
    }
    assert_eq!(folder.lines("rust").len(), 40);
}

/// The old connection has said a line that is not stored yet when the session comes back. It is told
/// how many were taken when that is known, and not before.
#[tokio::test]
async fn who_comes_back_while_its_lines_are_being_stored_is_told_of_all_of_them() {
    let folder = Folder::new();
    let rooms = Rooms::stored(&Limits::DEFAULT, false, Some(open(&folder)));
    let old = enter(&rooms, &format!("session={ANA}")).await;
    let name = Identity::of("ana");
    let mut lines = Lines::default();
    lines.push(&name, "hello");
    for taken in 1..200 {
        let old = enter(&rooms, &format!("session={ANA}")).await;
        assert!(old.speaker.say(&lines).now_or_never().is_none());
        let new = enter(&rooms, &format!("session={ANA}")).await;
        let first = text(&new.greeting);
        assert!(first.ends_with(&format!(" {taken} {taken}")), "{first}");
        assert!(old.speaker.say(&lines).await.is_err());
    }
    assert!(old.speaker.say(&lines).await.is_err());
}
