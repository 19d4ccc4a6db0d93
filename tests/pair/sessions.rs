//! Nothing missed: real clients and a real server, and links that are cut at random moments.
//! `SEED=…` repeats a failure.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex};
use std::thread;

use crate::support::proxy::{Cut, Proxy, Random};
use crate::support::raw::{Ear, Raw};
use crate::support::{PATIENCE, Program, Server};

const TAKEN: &str = "client: left the chat: the server has taken all of the input";

/// What it said on standard error but for how its connections came and went.
fn notes(client: &mut Program) -> Vec<String> {
    let mut said = client.err_rest();
    let usual = |line: &String| line.contains("trying again in") || line.contains("connected to ");
    said.retain(|line| !usual(line));
    said
}

/// What is said in a room through a link that holds, on a thread: as many lines as are given.
fn listen(raw: Raw, lines: usize) -> thread::JoinHandle<Vec<String>> {
    let mut ear = Ear::of(raw);
    thread::spawn(move || {
        let next = || ear.text().map(ToOwned::to_owned);
        std::iter::from_fn(next).take(lines).collect()
    })
}

/// How many lines each client has heard of the one that it has heard least of. Whoever types waits
/// for its own, so that all of them speak to the end and none is heard only from the past.
struct Heard {
    least: Mutex<Vec<usize>>,
    changed: Condvar,
}

impl Heard {
    /// Waits until a client has heard so many.
    fn wait(&self, client: usize, lines: usize) {
        let least = self.least.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(least, PATIENCE, |least| least[client] < lines)
            .unwrap();
        assert!(
            !waited.1.timed_out(),
            "{client} does not hear {lines} lines"
        );
    }

    fn set(&self, client: usize, lines: usize) {
        self.least.lock().unwrap()[client] = lines;
        self.changed.notify_all();
    }
}

/// So many clients with sessions say so many lines each, while each of their links is cut as often.
fn all_is_heard_once_and_in_one_order(
    random: &mut Random,
    clients: usize,
    lines: usize,
    cuts: usize,
) {
    /// How far a client may be ahead of what it has heard of the others.
    const AHEAD: usize = 500;
    let mut server = Server::start();
    let mut listener = Raw::enter(server.port, "/?name=listener");
    // Each line is 10 bytes or more with its frame, and each passes each link; so all of the cuts
    // come before the end.
    let most = (9 * clients * lines / cuts) as u64;
    let mut cut_links = || {
        let mut cuts = Cut::several(random, cuts, most);
        // Whoever was never there has missed nothing, so each first gets in and hears a line.
        cuts[0] = cuts[0].behind(2000);
        Proxy::before(server.port, cuts)
    };
    let proxies: Vec<_> = (0..clients).map(|_| cut_links()).collect();
    let heard = Heard {
        least: Mutex::new(vec![0; clients]),
        changed: Condvar::new(),
    };
    let mut programs: Vec<_> = (0..clients)
        .map(|n| {
            let name = format!("c{n}");
            let url = proxies[n].url();
            Program::start("client", &[&url, "--name", &name, "--reconnect"])
        })
        .collect();
    programs.iter_mut().for_each(Program::is_connected);
    listener.say("begin");
    for program in &mut programs {
        assert_eq!(program.line(), "listener: begin");
    }
    let order = listen(listener, clients * lines);
    let shown: Vec<_> = thread::scope(|scope| {
        let hearing: Vec<_> = programs
            .iter_mut()
            .enumerate()
            .map(|(n, program)| {
                let heard = &heard;
                let mut input = program.input.take().unwrap();
                let typing = scope.spawn(move || {
                    for number in 0..lines {
                        if number % 100 == 0 {
                            heard.wait(n, number.saturating_sub(AHEAD));
                        }
                        writeln!(input, "{number}").unwrap();
                    }
                    input
                });
                scope.spawn(move || {
                    let mut of: HashMap<String, usize> = HashMap::new();
                    let mut shown = Vec::new();
                    while shown.len() < (clients - 1) * lines {
                        let line = program.line();
                        let name = line.split_once(": ").expect(&line).0.to_owned();
                        *of.entry(name).or_default() += 1;
                        if of.len() == clients - 1 {
                            heard.set(n, *of.values().min().unwrap());
                        }
                        shown.push(line);
                    }
                    // Now it has heard everything, and its input ends.
                    drop(typing.join().unwrap());
                    shown
                })
            })
            .collect();
        hearing.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let order = order.join().unwrap();
    for (n, (mut program, shown)) in programs.into_iter().zip(shown).enumerate() {
        let own = format!("c{n}: ");
        let (own, others): (Vec<_>, Vec<_>) = order.iter().partition(|line| line.starts_with(&own));
        let said: Vec<_> = (0..lines).map(|number| format!("c{n}: {number}")).collect();
        assert!(
            own.into_iter().eq(&said),
            "c{n} was not heard once and in order"
        );
        assert!(
            others.into_iter().eq(&shown),
            "c{n} has heard another order"
        );
        assert_eq!(program.exit(), 0);
        assert_eq!(program.rest(), [""; 0]);
        assert_eq!(notes(&mut program), [TAKEN]);
    }
    let cut: usize = proxies.iter().map(Proxy::cuts).sum();
    assert_eq!(cut, clients * cuts);
    server.stop();
}

#[test]
fn whatever_breaks_everything_is_heard_once_and_in_one_order() {
    all_is_heard_once_and_in_one_order(&mut Random::seeded(), 5, 2000, 10);
}

/// `cargo test --release --test pair -- --ignored --nocapture`, or for longer with
/// `SOAK_SECONDS=3600`: each client is cut off again and again as soon as it is back, which takes
/// some 1.7 s each time.
#[test]
#[ignore = "takes ten minutes: SOAK_SECONDS"]
fn ten_minutes_of_broken_links() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(600, |text| text.parse().unwrap());
    let cuts = seconds * 10 / 17;
    all_is_heard_once_and_in_one_order(&mut Random::seeded(), 5, 200 * cuts, cuts);
}

/// `seq 100000 | client --reconnect`, whose link is cut ten times on the way.
#[test]
fn a_pipe_whose_link_breaks_arrives_whole() {
    const LINES: usize = 100_000;
    let mut random = Random::seeded();
    let mut server = Server::start();
    let listening = listen(Raw::join(server.port), LINES);
    let mut bob = Program::start("client", &[&server.url(), "--reconnect"]);
    bob.is_connected();
    let proxy = Proxy::before(server.port, Cut::several(&mut random, 10, 100_000));
    let args = [&*proxy.url(), "--reconnect", "--name", "seq"];
    let mut seq = Program::start("client", &args);
    let mut input = BufWriter::new(seq.input.take().unwrap());
    let (tell, heard) = channel();
    let typing = thread::spawn(move || {
        for number in 1..=LINES {
            writeln!(input, "{number}").unwrap();
            // So few are under way that a room has space for them, and nobody is too slow for it.
            if number % 1000 == 0 {
                input.flush().unwrap();
                heard.recv_timeout(PATIENCE).unwrap();
            }
        }
    });
    for number in 1..=LINES {
        assert_eq!(bob.line(), format!("seq: {number}"));
        if number % 1000 == 0 {
            tell.send(()).unwrap();
        }
    }
    typing.join().unwrap();
    assert_eq!(seq.exit(), 0);
    assert_eq!(notes(&mut seq), [TAKEN]);
    assert_eq!(proxy.cuts(), 10);
    for (number, line) in (1..).zip(listening.join().unwrap()) {
        assert_eq!(line, format!("seq: {number}"));
    }
    server.stop();
    // Nothing came behind it.
    bob.signal("INT");
    bob.exit();
    assert_eq!(bob.rest(), [""; 0]);
}
