//! More strangers than there is room for, and strangers that break off all at once.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::raw::{Ear, REQUEST, Raw, missed};
use crate::support::{Server, descriptors, wait_until};

/// Every name that came has left, once.
fn come_and_gone(lines: &[String]) -> BTreeMap<&str, [usize; 2]> {
    let mut names = BTreeMap::<&str, [usize; 2]>::new();
    for line in lines {
        if let Some(name) = line.strip_prefix("New connection from ") {
            names.entry(name).or_default()[0] += 1;
        } else if let Some(name) = line
            .strip_prefix("Client ")
            .and_then(|line| line.strip_suffix(" disconnected"))
        {
            let counts = names.entry(name).or_default();
            assert_eq!(counts[0], counts[1] + 1, "{line}");
            counts[1] += 1;
        }
    }
    names
}

#[test]
fn five_hundred_resets_at_once_leave_nothing_behind() {
    let mut server = Server::start();
    let (mut ann, mut bob) = (Raw::join(server.port), Ear::join(server.port));
    let before = descriptors(server.program.id());
    let mut breaking = Vec::new();
    for n in 0..500 {
        let mut raw = Raw::tcp(server.port);
        match n % 4 {
            0 => {}
            1 => raw.send(&REQUEST.as_bytes()[..20]),
            2 => raw.send(REQUEST.as_bytes()),
            _ => {
                raw.send(REQUEST.as_bytes());
                raw.head();
                raw.say("hi");
                raw.send(&[0x81, 0xfe]); // half a frame's head
            }
        }
        breaking.push(raw);
    }
    breaking.into_iter().for_each(Raw::reset);
    let name = ann.name();
    for n in 0..100 {
        ann.say(&n.to_string());
    }
    for n in 0..100 {
        let expected = format!("{name}: {n}");
        while bob.text().expect("a line") != expected {}
    }
    // Behind the resets in the listener's queue: when it is in, they have been looked at.
    drop((Raw::join(server.port), ann, bob));
    let id = server.program.id();
    wait_until("no descriptors are left", || descriptors(id) <= before - 2);
    server.stop();
    let lines = server.program.rest();
    let names = come_and_gone(&lines);
    assert!(names.len() >= 125 + 3);
    assert!(names.values().all(|counts| *counts == [1, 1]), "{names:?}");
    let mut said = server.program.err_rest();
    // On a slow machine some are too late before they are reset.
    said.retain(|line| !line.contains(" (408)"));
    assert_eq!(said, [""; 0]);
}

#[test]
fn no_more_than_max_connections_are_in() {
    let server = Server::with(&["--max-connections", "3"]);
    let mut inside = Raw::crowd(server.port, 3);
    for _ in 0..3 {
        let response = Raw::asking(server.port).response();
        assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        assert!(response.ends_with("\r\n\r\nthe chat is full: try again later\n"));
    }
    inside.pop();
    let mut newcomer = Raw::join_when_there_is_room(server.port);
    inside[0].say("hi");
    assert_eq!(newcomer.text(), format!("{}: hi", inside[0].name()));
    let response = Raw::asking(server.port).response();
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
}

#[test]
fn a_server_with_few_descriptors_serves_those_that_fit() {
    let mut command = Command::new("sh");
    let script = "ulimit -n 64; exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_server")]);
    let mut server = Server::spawn(command.args(["--listen", "127.0.0.1:0"]));
    assert_eq!(
        server.program.err_line(),
        "server: at most 24 connections at once, not 4096: the system gives this process \
         no more descriptors (see ulimit -n)"
    );
    let mut asking: Vec<_> = (0..200).map(|_| Raw::asking(server.port)).collect();
    let refused = asking.split_off(24);
    for raw in &mut asking {
        raw.is_let_in("there is room");
    }
    // Some are told at once, the others when those have gone.
    for mut raw in refused {
        assert!(raw.response().starts_with("HTTP/1.1 503 "));
    }
    let (ann, others) = asking.split_first_mut().unwrap();
    ann.say("hi");
    for raw in others {
        assert_eq!(raw.text(), format!("{}: hi", ann.name()));
    }
    drop(asking);
    let (mut ann, mut bob) = (
        Raw::join_when_there_is_room(server.port),
        Raw::join_when_there_is_room(server.port),
    );
    ann.say("hi");
    assert_eq!(bob.text(), format!("{}: hi", ann.name()));
    server.program.signal("TERM");
    drop((ann, bob));
    assert_eq!(server.program.exit(), 0);
    let lines = server.program.rest();
    assert!(
        come_and_gone(&lines)
            .values()
            .all(|counts| *counts == [1, 1])
    );
}

#[test]
fn out_of_descriptors_is_said_once_and_over_when_there_are_some() {
    let mut server = Server::start();
    let id = server.program.id().to_string();
    let limit = |soft: &str| {
        let set = Command::new("prlimit")
            .args(["--pid", &id, &format!("--nofile={soft}")])
            .status();
        assert!(set.unwrap().success());
    };
    let (mut ann, mut bob) = (Raw::join(server.port), Raw::join(server.port));
    limit("5:");
    let mut waiting: Vec<_> = (0..10).map(|_| Raw::asking(server.port)).collect();
    assert_eq!(
        server.program.err_line(),
        "server: cannot accept for now: too many open files (newcomers wait)"
    );
    for n in 0..100 {
        ann.say(&n.to_string());
        assert_eq!(bob.text(), format!("{}: {n}", ann.name()));
    }
    limit("1000:");
    for raw in &mut waiting {
        raw.is_let_in("there is room");
    }
    ann.say("welcome");
    for raw in &mut waiting {
        assert_eq!(raw.text(), format!("{}: welcome", ann.name()));
    }
    server.program.signal("TERM");
    drop((ann, bob, waiting));
    assert_eq!(server.program.exit(), 0);
    assert_eq!(server.program.err_rest(), [""; 0]);
}

/// One line from each of very many in the same moment: the server was stopped while they spoke,
/// so it finds them all at once. Nobody who reads misses one.
#[test]
fn a_crowd_that_speaks_at_once_is_heard_by_all() {
    const CROWD: usize = 1500;
    let server = Server::start();
    let mut ear = Ear::join(server.port);
    let mut crowd = Raw::crowd(server.port, CROWD);
    server.while_stopped(|| {
        for (n, raw) in crowd.iter_mut().enumerate() {
            raw.say(&n.to_string());
        }
    });
    let mut heard = vec![false; CROWD];
    for n in 0..CROWD {
        let text = ear.text().expect("a line");
        assert_eq!(missed(text), None, "after {n} lines");
        let number: usize = text.split_once(": ").unwrap().1.parse().unwrap();
        assert!(!std::mem::replace(&mut heard[number], true), "{text}");
    }
}
