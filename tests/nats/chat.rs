//! Several servers are one chat: what is said at one is heard at all, in one order, and nothing of it
//! twice.

use std::collections::HashSet;
use std::time::Instant;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::DiscardPolicy;

use crate::support::PATIENCE;
use crate::support::raw::{FIN, PING, Raw, health};
use crate::{ANA, BOB, Client, Nats, is_taken};

#[test]
fn what_is_said_at_one_server_is_heard_at_all() {
    let Some(nats) = Nats::start() else { return };
    let servers = [(); 3].map(|()| nats.serve());
    for room in ["/", "/rust"] {
        let mut members = servers
            .each_ref()
            .map(|server| Raw::enter(server.port, &format!("{room}?name=n{}", server.port)));
        for speaker in 0..3 {
            let text = format!("hello from {speaker}");
            members[speaker].say(&text);
            let expected = format!("n{}: {text}", servers[speaker].port);
            for (n, member) in members.iter_mut().enumerate() {
                if n != speaker {
                    assert_eq!(member.text(), expected);
                }
            }
        }
    }
    for mut server in servers {
        server.stop_in_silence();
    }
}

#[test]
fn all_hear_all_lines_in_one_order() {
    const LINES: usize = 3000;
    let Some(nats) = Nats::start() else { return };
    let servers = [nats.serve(), nats.serve()];
    let mut listeners = servers
        .each_ref()
        .map(|server| Raw::enter(server.port, "/"));
    let speakers = [(0, "a"), (0, "b"), (1, "c"), (1, "d")].map(|(server, name)| {
        let mut raw = Raw::enter(servers[server].port, &format!("/?name={name}"));
        raw.read_in_background();
        std::thread::spawn(move || {
            for n in 0..LINES {
                raw.say(&n.to_string());
            }
            raw
        })
    });
    let mut heard = listeners
        .each_mut()
        .map(|listener| (0..4 * LINES).map(|_| listener.text()).collect::<Vec<_>>());
    assert!(heard[0] == heard[1], "the order differs");
    for name in ["a", "b", "c", "d"] {
        let start = format!("{name}: ");
        let of_one = heard[0].iter().filter_map(|line| line.strip_prefix(&start));
        assert!(of_one.eq((0..LINES).map(|n| n.to_string())), "{name}");
    }
    heard[0].sort();
    drop(speakers.map(|speaker| speaker.join().unwrap()));
    for mut server in servers {
        server.stop_in_silence();
    }
}

#[test]
fn who_comes_to_another_server_hears_what_it_missed_and_its_lines_are_taken_once() {
    let Some(nats) = Nats::start() else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut bob = Raw::enter(second.port, "/?name=bob");
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    assert_eq!((ana.taken, ana.next), (0, 0));
    ana.say("one");
    ana.say("two");
    bob.say("hi");
    assert_eq!(ana.hear(), "bob: hi");
    assert_eq!([bob.text(), bob.text()], ["ana: one", "ana: two"]);
    let place = ana.after();
    bob.say("are you there?");
    is_taken(&mut bob);
    // The old connection is still open, and is closed for the new one.
    let mut back = Client::enter(
        second.port,
        &format!("/?session={ANA}&name=ana2{place}&sent=1"),
    );
    assert_eq!((back.taken, &back.epoch), (2, &ana.epoch));
    assert_eq!(back.hear(), "bob: are you there?");
    assert_eq!(ana.hear(), "bob: are you there?");
    assert_eq!(
        ana.raw.close(),
        (1008, "replaced by a newer connection".to_owned())
    );
    back.say("three");
    assert_eq!(bob.text(), "ana2: three");
    // And to the first again, where something is remembered of it.
    let mut again = Client::enter(
        first.port,
        &format!("/?session={ANA}&name=ana{}&sent=0", back.after()),
    );
    assert_eq!(again.taken, 3);
    again.say("four");
    assert_eq!(bob.text(), "ana: four");
    assert_eq!(back.raw.close().0, 1008);
}

#[test]
fn a_server_that_starts_late_has_the_past_and_the_sessions() {
    let Some(nats) = Nats::start() else { return };
    let mut first = nats.serve();
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Client::enter(first.port, &format!("/?session={BOB}&name=bob"));
    let (epoch, start) = (ana.epoch.clone(), bob.after());
    for n in 0..10 {
        ana.say(&n.to_string());
        bob.say(&n.to_string());
    }
    first.program.signal("KILL");
    first.program.exit();
    let second = nats.serve_with(&["--history", "5"]);
    let mut late = Raw::enter(second.port, "/?name=late");
    let past: Vec<_> = (0..7).map(|_| late.text()).collect();
    assert_eq!(
        past,
        [
            "* 5 earlier messages",
            "bob: 7",
            "ana: 8",
            "bob: 8",
            "ana: 9",
            "bob: 9",
            "* now"
        ]
    );
    let mut back = Client::enter(
        second.port,
        &format!("/?session={ANA}&name=ana{}&sent=0", ana.after()),
    );
    assert_eq!((&back.epoch, back.taken), (&epoch, 10));
    for n in 0..10 {
        assert_eq!(back.hear(), format!("bob: {n}"));
    }
    let mut back = Client::enter(
        second.port,
        &format!("/?session={BOB}&name=bob{start}&sent=0"),
    );
    assert_eq!(back.taken, 10);
    for n in 0..10 {
        assert_eq!(back.hear(), format!("ana: {n}"));
    }
}

#[test]
fn lines_that_were_said_again_elsewhere_are_there_once() {
    let Some(nats) = Nats::start() else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut bob = Raw::enter(second.port, "/?name=bob");
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    // The first server goes on later, with what it had read.
    ana.say("0");
    assert_eq!(bob.text(), "ana: 0");
    let mut texts = HashSet::new();
    let mut back = None;
    first.while_stopped(|| {
        for n in 1..10 {
            ana.raw.say(&n.to_string());
        }
        let target = format!("/?session={ANA}&name=ana{}&sent=1", ana.after());
        let mut client = Client::enter(second.port, &target);
        assert_eq!(client.taken, 1);
        for n in 1..10 {
            client.say(&n.to_string());
        }
        back = Some(client);
    });
    for n in 1..10 {
        assert_eq!(bob.text(), format!("ana: {n}"));
        texts.insert(n);
    }
    // The old connection is told, and whatever it still said is not there a second time.
    assert_eq!(ana.raw.close().0, 1008);
    back.unwrap().say("end");
    assert_eq!(bob.text(), "ana: end");
}

#[test]
fn a_nats_that_is_away_is_waited_for_and_nothing_is_confirmed_before() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let [mut first, second] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(second.port, "/?name=bob");
    ana.say("before");
    assert_eq!(bob.text(), "ana: before");
    nats.kill();
    ana.raw.say("during");
    ana.raw.send_frame(FIN | PING, b"taken?");
    // There is no pong before the notice.
    assert_eq!(ana.hear(), WAITING);
    assert_eq!(bob.text(), WAITING);
    let said = first.program.err_line();
    assert!(said.contains("it cannot be reached"), "{said}");
    let (status, _) = Raw::asking_for(first.port, "/").refusal();
    assert_eq!(status, 503);
    nats.run();
    let mut heard = [bob.text(), bob.text()];
    heard.sort();
    assert_eq!(heard, ["* the chat goes on", "ana: during"]);
    assert_eq!(ana.hear(), "* the chat goes on");
    ana.say("after");
    assert_eq!(bob.text(), "ana: after");
}

#[test]
fn who_leaves_before_it_is_let_in_takes_no_session() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let [first, second] = [nats.serve(), nats.serve()];
    let target = format!("/?session={ANA}&name=ana");
    let mut ana = Client::enter(first.port, &target);
    let mut bob = Raw::enter(second.port, "/?name=bob");
    ana.say("before");
    assert_eq!(bob.text(), "ana: before");
    let until = Instant::now() + PATIENCE;
    let _eve = loop {
        nats.kill();
        assert_eq!(ana.hear(), WAITING);
        assert_eq!(bob.text(), WAITING);
        drop(Raw::asking_for(second.port, &target));
        // The one that comes behind it, and has to wait for the same.
        let mut eve = Raw::asking_for(second.port, &format!("/?session={BOB}&name=eve"));
        eve.say("said before the answer");
        health(second.port); // By then it knows that the first has left.
        nats.run();
        let answer = eve.head();
        if answer.starts_with("HTTP/1.1 101 ") {
            break eve;
        }
        // It waits only so long, which is too short where NATS is slow to start.
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(Instant::now() < until, "it is never let in");
        for heard in [ana.hear(), bob.text()] {
            assert_eq!(heard, "* the chat goes on");
        }
    };
    for mut heard in [[bob.text(), bob.text()], [ana.hear(), ana.hear()]] {
        heard.sort();
        assert_eq!(heard, ["* the chat goes on", "eve: said before the answer"]);
    }
    ana.say("still here");
    assert_eq!(bob.text(), "ana: still here");
}

#[test]
fn a_stream_that_is_full_is_waited_for_and_nothing_is_confirmed_before() {
    let Some(nats) = Nats::start() else { return };
    let mut server = nats.serve();
    let mut ana = Client::enter(server.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(server.port, "/");
    ana.say("before");
    assert!(bob.text().ends_with("ana: before"));
    // Nothing is forgotten for what is new any more, and there is enough of it.
    let set = async |js: Context, discard, max_messages| {
        let mut stream = js.get_stream("chat").await.unwrap();
        let mut config = stream.info().await.unwrap().config.clone();
        (config.discard, config.max_messages) = (discard, max_messages);
        js.update_stream(config).await.unwrap();
    };
    nats.js(async |js| set(js, DiscardPolicy::New, 1).await);
    ana.raw.say("during");
    ana.raw.send_frame(FIN | PING, b"taken?");
    assert_eq!(ana.hear(), WAITING);
    assert_eq!(bob.text(), WAITING);
    let said = server.program.err_line();
    let why = ": its stream chat takes nothing: maximum messages exceeded ";
    assert!(said.contains(why), "{said}");
    // Who comes now is told, too.
    assert_eq!(Raw::enter(server.port, "/").text(), WAITING);
    nats.js(async |js| set(js, DiscardPolicy::Old, -1).await);
    assert_eq!(bob.text(), "ana: during");
    assert_eq!(bob.text(), "* the chat goes on");
    assert_eq!(ana.hear(), "* the chat goes on");
    let said = server.program.err_line();
    let again = format!("server: NATS at {} can be used again", nats.url());
    assert_eq!(said, again);
    ana.say("after");
    assert_eq!(bob.text(), "ana: after");
    server.stop_in_silence();
}

const WAITING: &str = "* the chat is interrupted: lines are kept and sent later";

#[test]
fn a_stream_that_is_deleted_is_made_again_and_those_who_have_a_session_learn_it() {
    let Some(nats) = Nats::start() else { return };
    let [first, second] = [nats.serve(), nats.serve()];
    let mut ana = Client::enter(first.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(second.port, "/?name=bob");
    ana.say("before");
    assert_eq!(bob.text(), "ana: before");
    nats.js(async |js| js.delete_stream("chat").await.map(drop).unwrap());
    bob.say("still there?");
    let (code, why) = loop {
        // What it hears before the end may be that the chat is interrupted.
        let (kind, payload) = ana.raw.frame().unwrap();
        if kind & 0xf == 8 {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            break (code, String::from_utf8(payload[2..].to_vec()).unwrap());
        }
    };
    assert_eq!(
        (code, &*why),
        (1012, "what was said before is gone: come back")
    );
    is_taken(&mut bob);
    for server in [&first, &second] {
        let target = format!(
            "/?session={ANA}&name=ana{}{}&sent=1",
            server.port,
            ana.after()
        );
        let mut back = Client::enter(server.port, &target);
        assert_ne!(back.epoch, ana.epoch);
        assert_eq!(back.taken, 1);
        assert_eq!(back.hear(), "* what was said before is not known here");
    }
}
