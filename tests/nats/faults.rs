//! Five clients with sessions speak and listen on three servers, while everything breaks: servers and NATS
//! are killed and stopped, links are cut, the leader of a cluster is lost. Nothing is missing afterwards,
//! nothing came twice, and all have heard one order.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::support::Server;
use crate::support::proxy::Random;
use crate::support::talk::{Front, Talk};
use crate::{Nats, is_well};

const SERVERS: usize = 3;

/// Three servers, and the fronts by which clients find them.
struct Servers {
    running: Vec<Server>,
    fronts: Vec<Arc<Front>>,
}

impl Servers {
    fn start(serve: impl Fn() -> Server) -> Self {
        let running: Vec<_> = (0..SERVERS).map(|_| serve()).collect();
        let fronts = running.iter().map(|server| Front::of(server.port));
        Self {
            fronts: fronts.collect(),
            running,
        }
    }

    /// Kills one, and starts another in its place.
    fn replace(&mut self, random: &mut Random, serve: impl Fn() -> Server) {
        let n = one_of(random, SERVERS);
        self.fronts[n].serves(None);
        self.running[n].program.signal("KILL");
        self.running[n].program.exit();
        self.running[n] = serve();
        self.fronts[n].serves(Some(self.running[n].port));
    }

    /// Lets NATS stand still until one of them has told the operator that it cannot use it.
    fn lose(&mut self, nats: &Nats) {
        // What it has said of an earlier trouble does not count.
        let one = &mut self.running[0];
        is_well(one);
        while one.program.err.try_next().is_some() {}
        nats.while_stopped(|| while !one.program.err_line().contains("cannot use") {});
    }

    fn stop(self) {
        for server in self.running {
            server.program.signal("TERM");
            let mut server = server;
            assert_eq!(server.program.exit(), 0);
        }
    }
}

fn one_of(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).unwrap()
}

/// What breaks.
#[derive(Clone, Copy)]
enum Break {
    Link,
    KillServer,
    StopServer,
    KillNats,
    StopNats,
}

#[test]
fn whatever_breaks_all_have_heard_the_same() {
    talk(
        2000,
        &[
            (Break::Link, 20),
            (Break::KillServer, 8),
            (Break::StopServer, 4),
            (Break::KillNats, 8),
            (Break::StopNats, 2),
        ],
    );
}

#[test]
#[ignore = "takes some ten minutes"]
fn the_same_for_ten_minutes() {
    talk(
        100_000,
        &[
            (Break::Link, 1000),
            (Break::KillServer, 300),
            (Break::StopServer, 100),
            (Break::KillNats, 300),
            (Break::StopNats, 30),
        ],
    );
}

fn talk(lines: usize, breaks: &[(Break, usize)]) {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let mut servers = Servers::start(|| nats.serve());
    let mut talk = Talk::begin(&servers.fronts, lines);
    let breaks = breaks.iter();
    let mut breaks: Vec<_> = breaks
        .flat_map(|(what, times)| std::iter::repeat_n(*what, *times))
        .collect();
    while !breaks.is_empty() {
        talk.go_on(breaks.len());
        let next = one_of(&mut talk.random, breaks.len());
        match breaks.swap_remove(next) {
            Break::Link => {
                let front = one_of(&mut talk.random, SERVERS);
                servers.fronts[front].cut(&mut talk.random);
            }
            Break::KillServer => servers.replace(&mut talk.random, || nats.serve()),
            Break::StopServer => {
                // As long as it is stopped, those on the other two go on.
                let n = one_of(&mut talk.random, SERVERS);
                servers.running[n].program.signal("STOP");
                talk.go_on_for(200);
                servers.running[n].program.signal("CONT");
            }
            Break::KillNats => {
                nats.kill();
                nats.run();
            }
            Break::StopNats => servers.lose(&nats),
        }
    }
    talk.end();
    servers.stop();
}

#[test]
fn a_cluster_loses_its_leader_and_the_chat_nothing() {
    lose_leaders(2);
}

#[test]
#[ignore = "takes some two minutes"]
fn a_cluster_loses_its_leader_ten_times() {
    lose_leaders(10);
}

fn lose_leaders(times: usize) {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    // Without a leader they wait for some seconds, and afterwards they should not be done too soon.
    let serve = |cluster: &Cluster| cluster.serve(&["--rate", "20"]);
    let mut servers = Servers::start(|| serve(&cluster));
    let mut talk = Talk::begin(&servers.fronts, 300 * times);
    for n in 0..times {
        talk.go_on(times - n);
        cluster.lose_leader();
        if n % 2 == 1 {
            servers.replace(&mut talk.random, || serve(&cluster));
        }
    }
    talk.end();
    servers.stop();
}
