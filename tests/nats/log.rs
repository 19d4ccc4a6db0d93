//! What can happen to the log: it is cut back, forgets, or is not what it should be; readers who are
//! slow, and servers that end.

use std::sync::mpsc::{Receiver, TryRecvError, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use chat_pair::server::frame;
use chat_pair::server::limits::Limits;
use chat_pair::server::store::nats::message::{self, Body, Head, INDEX, Part};
use futures_util::StreamExt;
use tokio::runtime::Builder;

use crate::support::raw::{CLOSE, Ear, FIN, PING, PONG, Raw};
use crate::support::{PATIENCE, Program, Server, in_time};
use crate::{ANA, BOB, Client, Nats, is_taken};

/// As a server makes the stream.
fn stream() -> Config {
    Config {
        name: "chat".to_owned(),
        subjects: vec!["chat.room.*".to_owned()],
        max_bytes: 1 << 20,
        ..Config::default()
    }
}

fn make(nats: &Nats, config: Config) {
    nats.js(async |js| js.create_stream(config).await.map(drop).unwrap());
}

/// Starts NATS with a stream that keeps so many messages of each room.
fn keeping(messages: i64) -> Option<Nats> {
    let nats = Nats::start()?;
    let config = Config {
        max_messages_per_subject: messages,
        ..stream()
    };
    make(&nats, config);
    Some(nats)
}

/// Waits for the Close, whatever comes before it.
#[track_caller]
fn is_told_to_come_back(raw: &mut Raw) {
    let payload = loop {
        let (kind, payload) = raw.frame().unwrap();
        if kind & 0xf == 8 {
            break payload;
        }
    };
    let expected = [
        &1012_u16.to_be_bytes(),
        &b"what was said before is gone: come back"[..],
    ]
    .concat();
    assert_eq!(payload, expected);
}

/// Waits for this text, whatever comes before it. Returns that.
#[track_caller]
fn hears(raw: &mut Raw, text: &str) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        let next = raw.text_with_pongs();
        if next == text {
            return before;
        }
        before.push(next);
    }
}

/// What stands before a message of another server: from which message on it keeps lines, and which it knew
/// last.
fn head(floor: u64, prior: u64) -> Head {
    Head {
        server: 7,
        number: 1,
        salt: 0,
        floor: floor << INDEX,
        prior: prior << INDEX,
    }
}

/// A line comes from that server.
fn say(nats: &Nats, head: &Head, line: &str) {
    let frames = frame::text_of(&[line]);
    let part = Part {
        author: 7,
        before: 0,
        lines: 1,
        frames: &frames,
    };
    let message = message::encode(head, &Body::Lines(vec![part]));
    nats.publish("chat.room.SEED", message);
}

fn leave(raw: &mut Raw) {
    raw.send_frame(FIN | CLOSE, &[]);
    while raw.frame().is_some() {}
}

#[test]
fn a_log_that_was_cut_back_has_another_past_on_all_servers() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(second.port, "/?name=bob");
    ana.say("kept");
    assert_eq!(bob.text(), "ana: kept");
    nats.copy();
    ana.say("lost");
    hears(&mut bob, "ana: lost");
    nats.put_back();
    is_told_to_come_back(&mut ana.raw);
    bob.say("new");
    is_taken(&mut bob);
    let third = nats.serve();
    let mut epochs = Vec::new();
    for server in [&first, &second, &third] {
        let target = format!(
            "/?session={ANA}&name=a{}{}&sent=2",
            server.port,
            ana.after()
        );
        let mut back = Client::enter(server.port, &target);
        assert_eq!(back.hear(), "* what was said before is not known here");
        assert_eq!(back.taken, 2);
        epochs.push(back.epoch);
    }
    assert_ne!(epochs[0], ana.epoch);
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
}

/// A log that was cut back says of a session what was so before. Nobody is told that it is so now.
#[test]
fn who_has_a_session_when_an_old_log_is_put_back_comes_back() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let [first, second] = [nats.serve(), nats.serve()];
    let target = format!("/?session={ANA}&name=ana");
    let mut ana = Client::enter(first.port, &target);
    ana = Client::enter(second.port, &(target.clone() + &ana.after()));
    nats.copy();
    ana = Client::enter_when_it_can(first.port, &(target + &ana.after()));
    nats.put_back();
    is_told_to_come_back(&mut ana.raw);
}

/// All that the server knows is that another room has lost something.
#[test]
fn a_room_in_which_nobody_was_when_the_log_was_cut_back_has_another_past_too() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let [server, killed] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(server.port, &format!("/?session={ANA}&name=ana"));
    nats.copy();
    let other = format!("/other?session={BOB}");
    let mut bob = Client::enter_when_it_can(killed.port, &other);
    bob.say("lost");
    ana.say("lost as well");
    killed.program.signal("KILL");
    nats.put_back();
    is_told_to_come_back(&mut ana.raw);
    let mut epochs = vec![bob.epoch.clone()];
    let known = ["* what was said before is not known here", "eve: new"];
    for (known, name) in known.into_iter().zip(["eve", "zoe"]) {
        let target = format!("{other}{}&sent=1", bob.after());
        bob = Client::enter_when_it_can(server.port, &target);
        assert_eq!((bob.hear(), bob.taken), (known.to_owned(), 1));
        epochs.push(bob.epoch.clone());
        leave(&mut bob.raw);
        // The room has the past that it has got then, also when it is opened anew.
        let mut other = Raw::enter(server.port, &format!("/other?name={name}"));
        other.say("new");
        is_taken(&mut other);
        leave(&mut other);
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_eq!(epochs[1], epochs[2]);
}

/// The room was not in the log that is put back, so that nothing there says which pasts it had.
#[test]
fn a_log_that_is_put_back_twice_has_a_third_past() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let server = nats.serve();
    drop(Client::enter(server.port, &format!("/other?session={ANA}")));
    nats.copy();
    let mut epochs = Vec::new();
    for _ in 0..3 {
        let target = format!("/?session={ANA}&name=ana");
        let mut ana = Client::enter_when_it_can(server.port, &target);
        ana.say("lost");
        assert!(!epochs.contains(&ana.epoch), "{} in {epochs:?}", ana.epoch);
        epochs.push(ana.epoch.clone());
        nats.put_back();
        is_told_to_come_back(&mut ana.raw);
    }
}

/// It does not see that the stream is another one, but only that what it has read last is not there.
#[test]
fn a_server_that_stood_still_when_the_stream_was_made_anew_has_its_past_all_the_same() {
    for lines in [0, 1, 30] {
        let Some(nats) = Nats::start() else { return };
        let [first, second] = [nats.serve(), nats.serve()];
        let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
        let mut bob = Raw::enter(second.port, "/?name=bob");
        for n in 0..5 {
            ana.say(&n.to_string());
            assert_eq!(bob.text(), format!("ana: {n}"));
        }
        let mut epoch = String::new();
        second.while_stopped(|| {
            nats.js(async |js| js.delete_stream("chat").await.map(drop).unwrap());
            is_told_to_come_back(&mut ana.raw);
            let target = format!("/?session={ANA}&name=ana{}&sent=5", ana.after());
            let mut back = Client::enter_when_it_can(first.port, &target);
            assert_eq!(back.hear(), "* what was said before is not known here");
            for n in 0..lines {
                back.say(&format!("new {n}"));
            }
            epoch = back.epoch;
        });
        // What it hears before that may be that the chat was interrupted, or that it has missed some.
        bob.say("is it?");
        is_taken(&mut bob);
        for server in [&first, &second] {
            let target = format!("/?session={BOB}&name=b{}&after={epoch}.0", server.port);
            let mut eve = Client::enter_when_it_can(server.port, &target);
            assert_eq!(eve.epoch, epoch);
            for n in 0..lines {
                assert_eq!(eve.hear(), format!("ana: new {n}"));
            }
            assert_eq!(eve.hear(), "bob: is it?");
        }
    }
}

/// The stream that has the line is another one than the one that is read: there the line is dropped, since
/// whoever said it had heard more than is in it.
#[test]
fn what_came_to_another_stream_is_sent_again_before_it_counts() {
    let Some(nats) = Nats::start() else { return };
    let mut server = nats.serve();
    let mut ana = Raw::enter(server.port, "/?name=ana");
    let mut bob = Raw::enter(server.port, "/?name=bob");
    for n in 0..5 {
        bob.say(&n.to_string());
        assert_eq!(ana.text(), format!("bob: {n}"));
    }
    nats.js(async |js| {
        js.delete_stream("chat").await.unwrap();
        js.create_stream(stream()).await.unwrap();
    });
    bob.say("is it?");
    is_taken(&mut bob);
    hears(&mut ana, "bob: is it?");
    server.stop();
}

#[test]
fn what_the_stream_has_forgotten_is_missed_and_that_is_said() {
    let Some(mut nats) = keeping(100) else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut ana = Raw::enter(first.port, "/?name=ana");
    let mut bob = Client::enter(second.port, &format!("/?session={ANA}&name=bob"));
    let mut eve = Raw::enter(second.port, "/?name=eve");
    ana.say("heard");
    assert_eq!(bob.hear(), "ana: heard");
    assert_eq!(eve.text(), "ana: heard");
    nats.kill();
    second.while_stopped(|| {
        nats.run();
        for n in 0..150 {
            ana.say(&n.to_string());
            is_taken(&mut ana);
        }
    });
    is_told_to_come_back(&mut bob.raw);
    hears(&mut eve, "* some messages missed");
    for n in 50..150 {
        let before = hears(&mut eve, &format!("ana: {n}"));
        let missed = before.iter().any(|text| text.contains("missed"));
        assert!(!missed, "that is said once: {before:?}");
    }
    let target = format!("/?session={ANA}&name=bob2{}", bob.after());
    let mut back = Client::enter(second.port, &target);
    assert_eq!(back.epoch, bob.epoch);
    assert_eq!(back.hear(), "* some messages missed");
    for n in 50..150 {
        assert_eq!(back.hear(), format!("ana: {n}"));
    }
    // A server that starts now knows it, too.
    let third = nats.serve();
    let target = format!("/?session={ANA}&name=bob3{}", bob.after());
    let mut back = Client::enter(third.port, &target);
    assert_eq!(back.epoch, bob.epoch);
    assert_eq!(back.hear(), "* some messages missed");
}

/// Also when the stream has forgotten those lines, and whoever asks has come to a server that never saw them.
#[test]
fn how_many_lines_were_taken_is_known_while_one_of_the_servers_knows_it() {
    let Some(nats) = keeping(70) else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    for n in 0..3 {
        ana.say(&n.to_string());
    }
    let mut bob = Raw::enter(second.port, "/?name=bob");
    let mut push_out = || {
        for n in 0..80 {
            bob.say(&n.to_string());
            is_taken(&mut bob);
        }
    };
    push_out();
    first.program.signal("KILL");
    // More than it ever sent, as a client asks whether it is known.
    let target = format!("/?session={ANA}&name=ana{}&sent=4", ana.after());
    let third = nats.serve();
    assert_eq!(Client::enter(third.port, &target).taken, 3);
    push_out();
    // Who is believed since nobody answers is so by the server alone that lets it in.
    let fourth = nats.serve();
    let mut eve = Raw::enter(fourth.port, "/?name=eve");
    second.while_stopped(|| {
        third.while_stopped(|| assert_eq!(Client::enter(fourth.port, &target).taken, 4));
    });
    let mut back = Client::enter_when_it_can(second.port, &target);
    assert_eq!(back.taken, 3);
    back.say("here");
    assert_eq!(hears(&mut eve, "ana: here"), [""; 0]);
}

/// It may have been here before, and the servers that know it are asked.
#[test]
fn a_session_that_does_not_say_what_was_taken_is_not_new() {
    let Some(nats) = keeping(70) else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let target = format!("/?session={ANA}&name=ana");
    let mut ana = Client::enter(first.port, &target);
    for n in 0..3 {
        ana.say(&n.to_string());
    }
    let mut bob = Raw::enter(second.port, "/?name=bob");
    for n in 0..80 {
        bob.say(&n.to_string());
        is_taken(&mut bob);
    }
    leave(&mut ana.raw);
    let third = nats.serve();
    let mut back = Client::of(Raw::enter(third.port, &target));
    assert_eq!(back.taken, 3);
    back.say("here");
    assert_eq!(hears(&mut bob, "ana: here"), [""; 0]);
}

/// Sessions may have spoken in what was missed, so how much was taken of them is asked for.
#[test]
fn a_server_that_has_missed_something_does_not_know_what_was_taken() {
    let Some(mut nats) = keeping(100) else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(first.port, "/?name=bob");
    let mut eve = Raw::enter(second.port, "/?name=eve");
    ana.say("heard");
    hears(&mut eve, "ana: heard");
    nats.kill();
    second.while_stopped(|| {
        nats.run();
        for n in 0..2 {
            ana.say(&n.to_string());
        }
        for n in 0..150 {
            bob.say(&n.to_string());
            is_taken(&mut bob);
        }
    });
    hears(&mut eve, "bob: 149");
    leave(&mut ana.raw);
    // More than it ever sent, as a client asks whether it is known.
    let target = format!("/?session={ANA}&name=ana&sent=4{}", ana.after());
    let mut back = Client::enter(second.port, &target);
    assert_eq!(back.taken, 3);
    back.say("here");
    hears(&mut bob, "ana: here");
}

/// A server that reads it again knows those lines: they are before where its clients are.
#[test]
fn a_client_of_a_log_that_was_cut_back_hears_nothing_twice_on_another_server() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let first = nats.serve();
    let mut bob = Raw::enter(first.port, "/?name=bob");
    let target = format!("/?session={ANA}&name=ana");
    let mut ana = Client::enter(first.port, &target);
    bob.say("kept");
    assert_eq!(ana.hear(), "bob: kept");
    nats.copy();
    bob.say("lost");
    is_taken(&mut bob);
    nats.put_back();
    is_told_to_come_back(&mut ana.raw);
    let again = format!("{target}&sent=0{}", ana.after());
    let mut ana = Client::enter_when_it_can(first.port, &again);
    assert_eq!(ana.hear(), "* what was said before is not known here");
    leave(&mut ana.raw);
    let second = nats.serve();
    let again = format!("{target}&sent=0{}", ana.after());
    let epoch = ana.epoch;
    let mut ana = Client::enter_when_it_can(second.port, &again);
    assert_eq!(ana.epoch, epoch);
    bob.say("new");
    assert_eq!(ana.hear(), "bob: new");
}

/// A server that was away then finds more in it again than it had read.
#[test]
fn a_log_that_was_cut_back_and_has_grown_since_has_another_past() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let first = nats.serve();
    let target = format!("/?session={ANA}&name=ana");
    let mut ana = Client::enter(first.port, &target);
    let mut bob = Raw::enter(first.port, "/?name=bob");
    nats.copy();
    for text in ["lost 1", "lost 2"] {
        bob.say(text);
        hears(&mut ana.raw, &format!("bob: {text}"));
    }
    let mut second = None;
    first.while_stopped(|| {
        nats.put_back();
        let server = nats.serve();
        let mut eve = Raw::enter(server.port, "/?name=eve");
        let mut other = Raw::enter(server.port, "/other?name=eve");
        eve.say("early");
        is_taken(&mut eve);
        // What was read last is another room's now.
        for n in 0..2 {
            other.say(&n.to_string());
            is_taken(&mut other);
        }
        eve.say("new");
        is_taken(&mut eve);
        second = Some((server, eve));
    });
    let (second, mut eve) = second.unwrap();
    is_told_to_come_back(&mut ana.raw);
    let again = format!("{target}&sent=0{}", ana.after());
    let back = Client::enter_when_it_can(second.port, &again);
    assert_ne!(back.epoch, ana.epoch);
    // All have the same past then.
    let target = format!("/?session={BOB}&name=zoe");
    let zoe = Client::enter_when_it_can(first.port, &target);
    assert_eq!(zoe.epoch, back.epoch);
    bob.say("on");
    hears(&mut eve, "bob: on");
}

#[test]
fn a_room_of_which_everything_was_forgotten_was_not_cut_back() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    make(
        &nats,
        Config {
            max_messages: 70,
            ..stream()
        },
    );
    let server = nats.serve();
    let mut ana = Client::enter(server.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(server.port, "/?name=bob");
    bob.say("first");
    assert_eq!(ana.hear(), "bob: first");
    let mut other = Raw::enter(server.port, "/other?name=bob");
    for n in 0..80 {
        other.say(&n.to_string());
        is_taken(&mut other);
    }
    nats.kill();
    nats.run();
    bob.say("second");
    // Perhaps that the chat was interrupted, but no Close, and nothing was missed.
    let before = hears(&mut ana.raw, "bob: second");
    assert!(
        !before.iter().any(|text| text.contains("missed")),
        "{before:?}"
    );
}

/// The server that it comes back to has not read yet that it was at another one.
#[test]
fn who_was_elsewhere_is_told_what_was_taken_there() {
    let Some(nats) = Nats::start() else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let target = format!("/?session={ANA}");
    let mut ana = Client::enter(first.port, &target);
    ana.say("one");
    let mut back = None;
    first.while_stopped(|| {
        let target = target + &ana.after();
        let mut there = Client::enter(second.port, &target);
        for text in ["two", "three"] {
            there.say(text);
        }
        back = Some(Raw::asking_for(first.port, &target));
    });
    let mut back = back.unwrap();
    back.is_let_in("who was elsewhere");
    assert_eq!(Client::of(back).taken, 3);
}

/// The stream answers that it has the line already, which it has not: another message has its number.
#[test]
fn a_line_that_is_not_delivered_is_sent_again() {
    let Some(nats) = Nats::start() else { return };
    make(
        &nats,
        Config {
            duplicate_window: Duration::from_secs(1),
            ..stream()
        },
    );
    let server = nats.serve();
    let mut ana = Raw::enter(server.port, "/?name=ana");
    let mut bob = Raw::enter(server.port, "/?name=bob");
    ana.say("one");
    assert_eq!(bob.text(), "ana: one");
    nats.js(async |js| {
        let stream = js.get_stream("chat").await.unwrap();
        let last = stream.get_last_raw_message_by_subject("chat.room.SEED");
        let (head, _) = message::decode(&last.await.unwrap().payload).unwrap();
        let next = format!("{:016x}-{}", head.server, head.number + 1);
        let other = PublishMessage::build()
            .message_id(next)
            .payload("garbage".into());
        let sent = js.send_publish("chat.room.other", other).await.unwrap();
        sent.await.unwrap();
    });
    ana.say("two");
    is_taken(&mut ana);
    hears(&mut bob, "ana: two");
}

#[test]
fn who_is_ahead_of_a_server_waits_for_it() {
    let Some(nats) = Nats::start() else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Client::enter(first.port, &format!("/?session={BOB}&name=bob"));
    drop(Raw::enter(second.port, "/?name=eve")); // It reads the room.
    let mut ahead = None;
    second.while_stopped(|| {
        for n in 0..50 {
            ana.say(&n.to_string());
            assert_eq!(bob.hear(), format!("ana: {n}"));
        }
        let target = format!("/?session={BOB}&name=bob{}", bob.after());
        ahead = Some(Raw::asking_for(second.port, &target));
    });
    let mut ahead = ahead.unwrap();
    ahead.is_let_in("the one that is ahead");
    let first_text = ahead.text();
    assert_eq!(first_text, format!("@{} {} 0", bob.epoch, bob.next));
    ana.say("and one more");
    assert!(ahead.text().starts_with('@'));
    assert_eq!(ahead.text(), "ana: and one more");
}

/// As after a power failure of NATS and of all servers: nobody knows that the log was longer.
#[test]
fn who_knows_lines_that_the_log_has_lost_is_let_in_and_told() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let server = nats.serve();
    let mut ana = Client::enter(server.port, &format!("/?session={ANA}&name=ana"));
    ana.say("kept");
    nats.copy();
    let target = format!("/?session={BOB}&name=bob");
    Client::enter_when_it_can(server.port, &target).say("lost");
    hears(&mut ana.raw, "bob: lost");
    server.program.signal("KILL");
    nats.put_back();
    let server = nats.serve();
    let target = format!("/?session={ANA}&name=ana&sent=1&after={}", ana.epoch);
    let beyond = format!("{target}.{}", 900 << INDEX);
    let mut back = Client::enter_when_it_can(server.port, &beyond);
    assert_eq!(back.hear(), "* what was said before is not known here");
    assert_eq!((&back.epoch, back.taken), (&ana.epoch, 1));
    // Whoever knows only what is there goes on.
    let mut known = Client::enter_when_it_can(server.port, &format!("{target}.0"));
    known.say("new");
    assert_eq!(known.taken, 1);
}

/// Messages that are on their way to a stream while it is deleted come to the one that is made then.
#[test]
fn what_was_meant_for_another_stream_is_dropped_on_all_servers() {
    let Some(nats) = Nats::start() else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Client::enter(second.port, &format!("/?session={BOB}&name=bob"));
    let late = head(400, 900);
    ana.say("one");
    say(&nats, &late, "eve: late");
    nats.publish("chat.room.SEED", message::encode(&late, &Body::Salt(5)));
    // A server that begins to read behind them has the same past.
    let third = nats.serve();
    let target = format!("/?session=the-session-of-eve-000&after={}.0", ana.epoch);
    let mut eve = Client::enter(third.port, &target);
    assert_eq!(eve.epoch, ana.epoch);
    ana.say("two");
    for client in [&mut bob, &mut eve] {
        assert_eq!(client.hear(), "ana: one");
        assert_eq!(client.hear(), "ana: two");
    }
    assert_eq!(bob.next, eve.next);
}

#[test]
fn a_reader_that_takes_nothing_holds_up_nobody_at_another_server() {
    const LINES: u64 = 100_000;
    let Some(nats) = Nats::start() else { return };
    let [mut first, mut second] = [nats.serve(), nats.serve()];
    let mut ear = Ear::of(Raw::enter(second.port, "/?name=ear"));
    let _stuck = Raw::narrow(second.port);
    let mut speaker = Raw::enter(first.port, "/?name=speaker");
    let spoken = std::thread::spawn(move || {
        let text = "x".repeat(250);
        for n in 0..LINES {
            speaker.say(&format!("{n} {text}"));
        }
        is_taken(&mut speaker);
    });
    for n in 0..LINES {
        let text = ear.text().unwrap();
        assert!(text.starts_with(&format!("speaker: {n} ")), "{text}");
    }
    in_time("the speaker", move || spoken.join().unwrap());
    first.program.is_small();
    second.program.is_small();
    first.stop();
    second.stop();
}

#[test]
fn a_server_says_when_its_readers_are_not_behind_any_more() {
    const LINES: u64 = 10_000;
    let Some(nats) = Nats::start() else { return };
    let [mut first, mut second] = [nats.serve(), nats.serve()];
    let behind = hear_behind(&nats);
    let slow = Raw::narrow(second.port);
    let mut speaker = Raw::enter(first.port, "/?name=speaker");
    let spoken = thread::spawn(move || {
        let text = "x".repeat(250);
        for n in 0..LINES {
            speaker.say(&format!("{n} {text}"));
        }
        is_taken(&mut speaker);
    });
    assert!(behind.recv_timeout(PATIENCE).unwrap().is_some());
    slow.widen();
    let mut reader = Ear::of(slow);
    for n in 0..LINES {
        let text = reader.text().unwrap();
        assert!(text.starts_with(&format!("speaker: {n} ")), "{text}");
    }
    in_time("the speaker", move || spoken.join().unwrap());
    in_time("that it is not behind any more", move || {
        assert_eq!(behind.iter().last(), Some(None));
    });
    first.stop();
    second.stop();
}

/// What servers say of how far they have come, until one is not behind any more.
fn hear_behind(nats: &Nats) -> Receiver<Option<u64>> {
    let (has_said, said) = channel();
    let (listens, ready) = channel();
    beside(nats, async move |client| {
        let mut behind = client.subscribe("chat.behind.SEED").await.unwrap();
        client.flush().await.unwrap();
        listens.send(()).unwrap();
        while let Some(message) = behind.next().await {
            let text = String::from_utf8(message.payload.to_vec()).unwrap();
            let sequence = text.split_once(' ');
            let sequence = sequence.map(|(_, sequence)| sequence.parse().unwrap());
            if has_said.send(sequence).is_err() || sequence.is_none() {
                return;
            }
        }
    });
    ready.recv_timeout(PATIENCE).unwrap();
    said
}

/// Does something with a client of its own, in a thread beside the test.
fn beside(
    nats: &Nats,
    act: impl AsyncFnOnce(async_nats::Client) + Send + 'static,
) -> JoinHandle<()> {
    let url = nats.url();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { act(async_nats::connect(url).await.unwrap()).await });
    })
}

#[test]
fn a_server_without_nats_stops_all_the_same() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let mut server = nats.serve();
    let mut ana = Client::enter(server.port, &format!("/?session={ANA}&name=ana"));
    ana.say("before");
    nats.kill();
    ana.raw.say("during");
    ana.raw.send_frame(FIN | PING, b"taken?");
    assert_eq!(
        ana.hear(),
        "* the chat is interrupted: lines are kept and sent later"
    );
    server.program.signal("TERM");
    // It was not confirmed.
    assert_eq!(ana.raw.close().0, 1001);
    assert_eq!(server.program.exit(), 0);
}

#[test]
fn a_stream_that_is_not_a_chats_is_refused() {
    let Some(nats) = Nats::start() else { return };
    let url = nats.url();
    make(
        &nats,
        Config {
            discard: DiscardPolicy::New,
            storage: StorageType::Memory,
            max_messages_per_subject: 64,
            ..stream()
        },
    );
    let mut server = Server::spawn(&mut nats.command());
    let said = server.program.err_line();
    let expected = format!(
        "server: cannot use NATS at {url}: its stream chat has other settings than this server gives one \
         (discard, storage, max_msgs_per_subject): delete it, or name another with --nats-stream (trying \
         again; who speaks waits)"
    );
    assert_eq!(said, expected);
    nats.js(async |js| js.delete_stream("chat").await.map(drop).unwrap());
    let said = server.program.err_line();
    assert_eq!(said, format!("server: NATS at {url} can be used again"));
    // Who comes now gets in.
    Raw::enter(server.port, "/?name=ana");
    server.stop_in_silence();
    let config = Config {
        name: "other".to_owned(),
        subjects: vec!["mine.>".to_owned()],
        ..stream()
    };
    make(&nats, config);
    let mut server = Server::spawn(nats.command().args(["--nats-stream", "mine"]));
    let said = server.program.err_line();
    assert!(
        said.contains("another stream there has the subjects mine.room.*: change that one"),
        "{said}"
    );
    server.stop_in_silence();
}

#[test]
fn what_other_programs_write_is_passed_over_and_named() {
    let Some(nats) = Nats::start() else { return };
    make(&nats, stream());
    let garbage = || nats.publish("chat.room.SEED", b"garbage".to_vec());
    garbage();
    let [mut first, mut second] = [nats.serve(), nats.serve()];
    let mut ana = Raw::enter(first.port, "/?name=ana");
    let mut bob = Raw::enter(second.port, "/?name=bob");
    ana.say("one");
    assert_eq!(bob.text(), "ana: one");
    garbage();
    ana.say("two");
    assert_eq!(bob.text(), "ana: two");
    for server in [&mut first, &mut second] {
        let said = server.program.err_line();
        assert!(
            said.contains("messages in chat.room.SEED of NATS at"),
            "{said}"
        );
        server.stop_in_silence();
    }
}

#[test]
fn a_client_that_comes_back_goes_on_in_the_new_past() {
    let Some(nats) = Nats::start() else { return };
    let server = nats.serve();
    let url = format!("ws://127.0.0.1:{}", server.port);
    let mut client = Program::start("client", &[&url, "--reconnect", "--name", "ana"]);
    client.is_connected();
    let mut bob = Raw::enter(server.port, "/?name=bob");
    client.type_line("before");
    assert_eq!(bob.text(), "ana: before");
    nats.js(async |js| js.delete_stream("chat").await.map(drop).unwrap());
    let said = client.err_line();
    assert!(
        said.contains("what was said before is gone: come back"),
        "{said}"
    );
    while !client.err_line().starts_with("client: connected to ") {}
    client.type_line("after");
    hears(&mut bob, "ana: after");
    client.end_input();
    assert_eq!(client.exit(), 0);
}

/// As a server sends it that had seen a message which the stream has forgotten since.
#[test]
fn what_was_forgotten_before_it_was_delivered_is_missed_and_that_is_said() {
    let Some(nats) = Nats::start() else { return };
    let mut server = nats.serve();
    let mut ana = Client::enter(server.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(server.port, "/?name=bob");
    ana.say("one");
    assert_eq!(bob.text(), "ana: one");
    // It stands for one of this room.
    let forgotten = nats.publish("chat.room.other", b"garbage".to_vec());
    say(&nats, &head(0, forgotten), "eve: two");
    assert_eq!(bob.text(), "* some messages missed");
    assert_eq!(bob.text(), "eve: two");
    is_told_to_come_back(&mut ana.raw);
    server.stop();
}

#[test]
fn who_speaks_waits_for_the_readers_of_other_servers() {
    let Some(nats) = Nats::start() else { return };
    let mut server = nats.serve();
    let mut ana = Raw::enter(server.port, "/?name=ana");
    let mut bob = Raw::enter(server.port, "/?name=bob");
    for text in ["zero", "one"] {
        ana.say(text);
        assert_eq!(bob.text(), format!("ana: {text}"));
    }
    // Another server has not come as far, and says so again and again.
    let (is_over, over) = channel::<()>();
    let (has_said, said) = sync_channel(0);
    let other = beside(&nats, async move |client| {
        while over.try_recv() == Err(TryRecvError::Empty) {
            let said = "0000000000000007 0".into();
            client.publish("chat.behind.SEED", said).await.unwrap();
            client.flush().await.unwrap();
            let _ = has_said.send(());
        }
    });
    let mut is_held = |line: &str| {
        let mut last = Instant::now();
        // Each is on its way when NATS has answered a ping behind it, and long before the last one the server
        // has some of them.
        for _ in 0..500 {
            last = Instant::now();
            said.recv_timeout(PATIENCE).unwrap();
            is_taken(&mut ana);
        }
        ana.say(line);
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            said.recv_timeout(PATIENCE).unwrap();
            bob.send_frame(FIN | PING, b"anything?");
            let (kind, payload) = bob.frame().unwrap();
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if kind & 0xf != PONG {
                // One of the programs has stood still, so that the other server was silent.
                assert_eq!(payload, format!("ana: {line}").as_bytes());
                assert!(longest >= Limits::DEFAULT.nats_behind, "{longest:?}");
                assert_eq!(bob.frame().unwrap().0 & 0xf, PONG);
                return false;
            }
        }
        true
    };
    let mut lines = (0..100).map(|n| format!("two {n}"));
    let held = lines.find(|line| is_held(line)).expect("held");
    drop((is_over, said));
    assert_eq!(bob.text(), format!("ana: {held}"));
    other.join().unwrap();
    server.stop();
}
