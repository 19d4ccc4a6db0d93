//! Five clients speak and listen, each with a session, while the server is killed and started again
//! and links are cut. Nothing is lost, and nothing comes twice.

use crate::support::talk::{Front, Talk};
use crate::{Folder, kill};

#[test]
fn whoever_comes_back_has_every_line_once_though_the_server_was_killed() {
    talk(2000, 20, 50);
}

#[test]
#[ignore = "takes some ten minutes"]
fn the_same_for_ten_minutes() {
    talk(300_000, 3000, 7500);
}

/// Each says so many lines, while the server is killed so often, and so many links are cut.
fn talk(lines: usize, kills: usize, cuts: usize) {
    let folder = Folder::new();
    let mut server = folder.serve();
    let front = Front::of(server.port);
    let mut talk = Talk::begin(std::slice::from_ref(&front), lines);
    let mut breaks: Vec<_> = (0..kills + cuts).map(|n| n < kills).collect();
    while !breaks.is_empty() {
        talk.go_on(breaks.len());
        let next = talk.random.below(breaks.len() as u64);
        if breaks.swap_remove(usize::try_from(next).unwrap()) {
            front.serves(None);
            kill(server);
            server = folder.serve();
            front.serves(Some(server.port));
        } else {
            front.cut(&mut talk.random);
        }
    }
    let heard = talk.end();
    let order = folder.lines("talk");
    assert_eq!(order.len(), heard.len() * lines);
    for (number, heard) in heard.into_iter().enumerate() {
        let name = format!("c{number}");
        let own = order.iter().filter(|(from, _)| *from == name);
        let own: Vec<_> = own
            .map(|(_, text)| text.parse::<usize>().unwrap())
            .collect();
        assert_eq!(own, (0..lines).collect::<Vec<_>>());
        let others = order.iter().filter(|(from, _)| *from != name);
        let others: Vec<_> = others
            .map(|(from, text)| format!("{from}: {text}"))
            .collect();
        assert!(heard == others, "{name} has another order");
    }
    server.stop();
}
