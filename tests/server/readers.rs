//! Who keeps reading gets every line, once, in order, whatever others do; who does not is told
//! how much it missed, or cut off, and costs a bounded amount of memory and time.

use std::fmt::Write as _;
use std::io::Write;
use std::thread;

use crate::support::raw::{Ear, Raw, missed};
use crate::support::{Program, Server, resident};
use chat_pair::server::limits::Limits;

/// Line `n` of a flood, of some length.
fn line(n: usize) -> String {
    format!("{n:06} the quick brown fox jumps over the lazy dog")
}

/// Reads the flood of `name`, every line of it once and in order, then the end.
fn hear_flood(mut ear: Ear, name: &str, lines: usize) {
    for n in 0..lines {
        let heard = ear.text().expect("a line");
        assert!(
            heard.strip_prefix(name) == Some(&format!(": {}", line(n))),
            "line {n}: {heard}"
        );
    }
    let text = ear.text().expect("the end");
    assert!(text.ends_with(": the end"), "{text}");
}

#[test]
fn a_flood_reaches_all_who_read_and_one_who_does_not_is_cut_off() {
    const LINES: usize = 100_000;
    const READERS: usize = 20;
    let mut server = Server::start();
    let never = Raw::narrow(server.port);
    assert_eq!(
        server.line(),
        format!("New connection from {}", never.name())
    );
    let (mut ann, name) = server.join();
    let ears: Vec<_> = (0..READERS).map(|_| Ear::join(server.port)).collect();

    let mut input = ann.input.take().unwrap();
    let flood = thread::spawn(move || {
        let mut text = String::new();
        (0..LINES).for_each(|n| writeln!(text, "{}", line(n)).unwrap());
        input.write_all(text.as_bytes()).unwrap();
    });
    let readers: Vec<_> = ears
        .into_iter()
        .map(|ear| {
            let name = name.clone();
            thread::spawn(move || hear_flood(ear, &name, LINES))
        })
        .collect();
    flood.join().unwrap();
    // Its input has ended: when it has, the server has taken all of it.
    assert_eq!(ann.exit(), 0, "{:?}", ann.err_rest().last());
    let mut bob = Raw::join(server.port);
    bob.say("the end");
    for reader in readers {
        reader.join().unwrap();
    }

    let bound = Limits {
        connections: READERS + 5,
        ..Limits::DEFAULT
    };
    let most = resident(server.program.id(), "VmHWM");
    assert!(most < bound.memory(), "{most} of {} bytes", bound.memory());
}

/// The flood is one message after the other, each from another speaker and each only after the
/// last was heard, so it is the room's backlog that overflows, not luck.
#[test]
fn a_reader_that_stalls_is_told_exactly_what_it_missed_and_stays() {
    const SPEAKERS: usize = 16;
    const LINES: u64 = Limits::DEFAULT.ring as u64 * 8;
    let mut server = Server::start();
    let mut slow = Ear::of(Raw::narrow(server.port));
    let mut quick = Ear::join(server.port);
    let mut speakers = Raw::crowd(server.port, SPEAKERS);
    for speaker in &speakers {
        speaker.read_in_background();
    }

    let text = "x".repeat(400);
    for n in 0..LINES {
        let speaker = &mut speakers[usize::try_from(n).unwrap() % SPEAKERS];
        speaker.say(&format!("{n} {text}"));
        while !quick
            .text()
            .unwrap()
            .starts_with(&format!("{}: {n} ", speaker.name()))
        {}
        if n % 256 == 255 {
            slow.read(); // a little, so that it is slow and not stuck
        }
        if n == LINES / 2 {
            slow.raw.say("my own line is no loss to me");
        }
    }

    slow.raw.widen();
    assert!(slow.numbered(LINES) > 0, "it kept up");

    let name = speakers[0].name();
    speakers[0].say("after all this");
    assert_eq!(slow.text(), Some(&*format!("{name}: after all this")));
    let name = slow.raw.name();
    slow.raw.say("I am still here");
    while quick.text().unwrap() != format!("{name}: I am still here") {}
    server.program.signal("TERM");
    assert_eq!(slow.text(), None);
    drop((slow, quick, speakers));
    assert_eq!(server.program.exit(), 0);
    assert_eq!(server.program.err_rest(), [""; 0]);
}

#[test]
fn many_who_speak_and_read_at_once_all_get_everything() {
    const CLIENTS: usize = 10;
    const LINES: usize = 5000;
    let mut server = Server::start();
    let (clients, names): (Vec<_>, Vec<_>) = (0..CLIENTS).map(|_| server.join()).unzip();
    let talks: Vec<_> = clients
        .into_iter()
        .zip(names.clone())
        .map(|(client, name)| {
            let names = names.clone();
            thread::spawn(move || talk(client, &name, &names, LINES))
        })
        .collect();
    // Nobody leaves before all have everything: what it has said may still be on its way.
    let clients = talks.into_iter().map(|talk| talk.join().unwrap());
    drop(clients.collect::<Vec<_>>());
}

/// Says `lines` lines as fast as the chat takes them, while it reads those of all others.
fn talk(mut client: Program, own: &str, names: &[String], lines: usize) -> Program {
    let mut input = client.input.take().unwrap();
    let speaker = thread::spawn(move || {
        for n in 0..lines {
            // Long enough that also on a slow machine each client takes as much as it has to.
            writeln!(input, "{n:0100}").unwrap();
        }
        input
    });
    let mut next = vec![0; names.len()];
    for _ in 0..(names.len() - 1) * lines {
        let text = client.line();
        let (name, number) = text.split_once(": ").unwrap();
        let who = names.iter().position(|known| known == name).expect(&text);
        assert_ne!(name, own);
        assert_eq!(number.parse(), Ok(next[who]), "{text}");
        next[who] += 1;
    }
    client.input = Some(speaker.join().unwrap());
    client
}

/// What one sends in a moment must not exceed what the room keeps: else those who read as fast
/// as they can would miss something.
#[test]
fn messages_of_many_short_lines_do_not_outrun_a_reader() {
    const SPEAKERS: usize = 3;
    const MESSAGES: usize = 60;
    const EACH: usize = 5000; // 15 KB as said, 100 KB as relayed
    let server = Server::start();
    let mut ear = Ear::join(server.port);
    let speakers: Vec<_> = (0..SPEAKERS)
        .map(|_| {
            let mut raw = Raw::join(server.port);
            let reading = raw.read_in_background();
            let saying = thread::spawn(move || {
                let text = "ab\n".repeat(EACH);
                (0..MESSAGES).for_each(|_| raw.say(&text));
                raw
            });
            (reading, saying)
        })
        .collect();
    for n in 0..SPEAKERS * MESSAGES * EACH {
        let text = ear.text().unwrap();
        assert_eq!(missed(text), None, "after {n} lines");
    }
    for (reading, saying) in speakers {
        saying.join().unwrap().shut();
        reading.join().unwrap();
    }
}
