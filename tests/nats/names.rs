//! Names on several servers: no two people have the same, wherever they are, and each name is free again
//! when nobody has it.

use std::time::Instant;

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::Operation;
use chat_pair::server::limits::Limits;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::Nats;
use crate::support::raw::{FIN, PING, PONG, Raw, TEXT};
use crate::support::{PATIENCE, Server};

const SESSION: &str = "session=abcdefghijklmnopqrstuv";

/// A NATS and two servers that share it.
fn two() -> Option<(Nats, Server, Server)> {
    let nats = Nats::start()?;
    let (here, there) = (nats.serve(), nats.serve());
    Some((nats, here, there))
}

/// Nobody gets in there under this name, since it is taken.
#[track_caller]
fn is_taken(server: &Server, target: &str) {
    let (status, why) = Raw::asking_for(server.port, target).refusal();
    assert_eq!(status, 409, "{why}");
    assert!(why.contains("is taken here"), "{why}");
}

/// Asks until the name is free, and enters.
#[track_caller]
fn enter_when_free(server: &Server, target: &str) -> Raw {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut raw = Raw::asking_for(server.port, target);
        let answer = raw.head();
        if answer.starts_with("HTTP/1.1 101 ") {
            return raw;
        }
        assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
        assert!(Instant::now() < until, "it stays taken");
    }
}

/// The connection is open: it answers a ping.
#[track_caller]
fn is_here(raw: &mut Raw) {
    raw.send_frame(FIN | PING, b"?");
    loop {
        let (first, payload) = raw.frame().expect("a pong");
        // The server may ask whether we are there, too, and say that NATS was away.
        if first != FIN | PING && first != FIN | TEXT {
            assert_eq!((first, &*payload), (FIN | PONG, &b"?"[..]));
            return;
        }
    }
}

#[test]
fn a_name_is_taken_on_all_servers() {
    let Some((_nats, here, there)) = two() else {
        return;
    };
    let mut ana = Raw::enter(here.port, "/?name=ana");
    is_taken(&there, "/?name=ana");
    is_taken(&here, "/?name=ana");
    // In another room it is another's.
    let mut other = Raw::enter(there.port, "/rust?name=ana");
    is_taken(&here, "/rust?name=ana");
    is_here(&mut ana);
    is_here(&mut other);
}

#[test]
fn look_alikes_are_taken_too() {
    let Some((_nats, here, there)) = two() else {
        return;
    };
    let _ana = Raw::enter(here.port, "/?name=ana");
    // In capitals, with a Cyrillic letter, and in full width.
    for like in ["ANA", "%D0%B0na", "%EF%BD%81na"] {
        is_taken(&there, &format!("/?name={like}"));
    }
    let _anna = Raw::enter(there.port, "/?name=anna");
    is_taken(&here, "/?name=anna");
}

#[test]
fn of_those_who_want_a_name_at_once_one_gets_it() {
    let Some((_nats, here, there)) = two() else {
        return;
    };
    for n in 0..20 {
        let asking = [&here, &there].map(|server| {
            let target = format!("/?name=ana{n}");
            Raw::asking_for(server.port, &target)
        });
        let answers = asking.map(|mut raw| (raw.head(), raw));
        let statuses = answers.each_ref().map(|(answer, _)| &answer[9..12]);
        assert!(
            matches!(statuses, ["101", "409"] | ["409", "101"]),
            "{statuses:?}"
        );
    }
}

#[test]
fn a_name_is_free_everywhere_when_it_is_left() {
    let Some((_nats, here, mut there)) = two() else {
        return;
    };
    for _ in 0..3 {
        let ana = enter_when_free(&here, "/?name=ana");
        is_taken(&there, "/?name=ana");
        drop(ana);
        let again = enter_when_free(&there, "/?name=ANA");
        is_taken(&here, "/?name=ana");
        drop(again);
        drop(enter_when_free(&here, "/?name=ana"));
        drop(enter_when_free(&here, "/?name=ana"));
    }
    // Of a server that stops all names are free when it has ended.
    let _crowd: Vec<_> = (0..100)
        .map(|n| Raw::enter(there.port, &format!("/?name=n{n}")))
        .collect();
    there.stop();
    for n in 0..100 {
        Raw::enter(here.port, &format!("/?name=n{n}"));
    }
}

#[test]
fn a_session_takes_its_name_along() {
    let Some((_nats, here, there)) = two() else {
        return;
    };
    let target = format!("/?name=ana&{SESSION}");
    let mut first = Raw::enter(here.port, &target);
    let mut second = Raw::enter(there.port, &target);
    // Another one does not get it.
    is_taken(&here, "/?name=ana&session=ABCDEFGHIJKLMNOPQRSTUV");
    is_taken(&here, "/?name=ana");
    let replaced = (1008, "replaced by a newer connection".to_owned());
    assert_eq!(first.close(), replaced);
    drop(first);
    // What the first had does not take it from the second.
    is_taken(&here, "/?name=ana");
    let _third = Raw::enter(here.port, &target);
    assert_eq!(second.close(), replaced);
}

/// Waits until NATS forgets names by itself, which takes half a minute.
#[test]
fn the_names_of_a_server_that_died_are_free_again() {
    let Some((nats, here, there)) = two() else {
        return;
    };
    // No busy machine makes this longer, as it may make what is waited for below.
    nats.js(async |js| {
        let names = js.get_stream("KV_chat-names").await.unwrap();
        let longest = names.cached_info().config.max_age;
        assert_eq!(longest, Limits::DEFAULT.nats_name);
    });
    let stopped = nats.serve();
    let mut budi = Raw::enter(there.port, "/?name=budi");
    let ana = Raw::enter(here.port, "/?name=ana");
    let mut eve = Raw::enter(stopped.port, "/?name=eve");
    is_taken(&there, "/?name=ana");
    let mut newer = None;
    stopped.while_stopped(|| {
        here.program.signal("KILL");
        drop(ana);
        let died = Instant::now();
        // Who is never heard in all that time would be cut off.
        is_here(&mut budi);
        let _ana = enter_when_free(&there, "/?name=ana");
        is_here(&mut budi);
        newer = Some(enter_when_free(&there, "/?name=eve"));
        assert!(died.elapsed() < PATIENCE);
    });
    // Whoever was silent for that long has lost its name.
    let lost = (1008, "somebody else has your name now".to_owned());
    assert_eq!(eve.close(), lost);
    // Who was there all the time has the name still.
    is_here(&mut budi);
    is_taken(&there, "/?name=budi");
    is_here(&mut newer.unwrap());
}

#[test]
fn names_outlive_a_nats_that_is_started_again() {
    let Some((mut nats, here, there)) = two() else {
        return;
    };
    let mut ana = Raw::enter(here.port, "/?name=ana");
    nats.kill();
    // As long as nobody knows which names are taken, nobody gets one.
    let (status, why) = Raw::asking_for(there.port, "/?name=budi").refusal();
    assert_eq!(status, 503, "{why}");
    nats.run();
    let until = Instant::now() + PATIENCE;
    let status = loop {
        let (status, _) = Raw::asking_for(there.port, "/?name=ana").refusal();
        if status != 503 {
            break status;
        }
        assert!(Instant::now() < until, "it stays away");
    };
    assert_eq!(status, 409);
    is_here(&mut ana);
}

/// The bucket says then who had a name when the copy was made.
#[test]
fn who_has_a_name_keeps_it_when_an_old_bucket_is_put_back() {
    let Some((mut nats, here, there)) = two() else {
        return;
    };
    let mut eve = Raw::enter(there.port, "/?name=ana");
    nats.copy();
    eve.say("NATS is there again, since this is taken");
    is_here(&mut eve);
    drop(eve);
    let mut ana = enter_when_free(&here, "/?name=ana");
    nats.put_back();
    // She has it again when its time comes to be written once more.
    let is_written = async |js: Context| {
        let bucket = js.get_key_value("chat-names").await.unwrap();
        let mut written = bucket.watch_all().await.unwrap();
        while written.next().await.unwrap().unwrap().operation != Operation::Put {}
    };
    nats.js(async |js| timeout(PATIENCE, is_written(js)).await.expect("written"));
    is_here(&mut ana);
    is_taken(&there, "/?name=ana");
}
