//! Who is here, on several servers: it makes no difference where somebody is.
//!
//! That nothing is told is found by what is told next.

use crate::Nats;
use crate::support::Server;
use crate::support::raw::Raw;

fn serve(nats: &Nats) -> Server {
    nats.serve_with(&["--presence"])
}

/// Enters, and is told this; but servers have no order.
#[track_caller]
fn enter(server: &Server, target: &str, told: &str) -> Raw {
    let mut raw = Raw::enter(server.port, target);
    assert_eq!(sorted(&raw.text()), sorted(told));
    raw
}

fn sorted(told: &str) -> Vec<&str> {
    let mut words: Vec<_> = told.split([',', ' ']).collect();
    words.sort_unstable();
    words
}

#[test]
fn who_is_on_another_server_is_here() {
    let Some(nats) = Nats::start() else { return };
    let (here, there, third) = (serve(&nats), serve(&nats), serve(&nats));
    let mut ana = enter(&here, "/rust?name=ana", "* nobody else is here");
    // Whoever opens a room on its server is told who is on the others.
    let mut budi = enter(&there, "/rust?name=budi", "* here: ana");
    assert_eq!(ana.text(), "* budi joined");
    let mut eve = enter(&there, "/rust?name=eve", "* here: budi, ana");
    assert_eq!(ana.text(), "* eve joined");
    assert_eq!(budi.text(), "* eve joined");
    let mut adi = enter(&third, "/rust?name=adi", "* here: ana, budi, eve");
    for other in [&mut ana, &mut budi, &mut eve] {
        assert_eq!(other.text(), "* adi joined");
    }
    let _other_room = enter(&there, "/?name=adi", "* nobody else is here");
    drop(eve);
    for other in [&mut ana, &mut budi, &mut adi] {
        assert_eq!(other.text(), "* eve left");
    }
    let _late = enter(&here, "/rust?name=late", "* here: ana, adi, budi");
    for other in [&mut ana, &mut budi, &mut adi] {
        assert_eq!(other.text(), "* late joined");
    }
}

#[test]
fn who_goes_to_another_server_has_neither_left_nor_come() {
    const SESSION: &str = "session=a-secret-of-22-letters";
    let Some(nats) = Nats::start() else { return };
    let (mut here, there) = (serve(&nats), serve(&nats));
    let mut ana = enter(&here, "/?name=ana", "* nobody else is here");
    let mut budi = enter(&there, "/?name=budi", "* here: ana");
    assert_eq!(ana.text(), "* budi joined");
    let mut eve = Raw::enter(here.port, &format!("/?name=eve&{SESSION}"));
    assert!(eve.text().starts_with('@'));
    assert_eq!(eve.text(), "* here: ana, budi");
    assert_eq!(ana.text(), "* eve joined");
    assert_eq!(budi.text(), "* eve joined");
    // While the first connection is there, and when it is not.
    let mut moved = Raw::enter(there.port, &format!("/?name=eve&{SESSION}"));
    assert!(moved.text().starts_with('@'));
    assert_eq!(moved.text(), "* here: budi, ana");
    drop(eve);
    drop(moved);
    let mut back = Raw::enter(here.port, &format!("/?name=eve&{SESSION}"));
    assert!(back.text().starts_with('@'));
    assert_eq!(back.text(), "* here: ana, budi");
    drop(back);
    // That eve has left is the next that both are told.
    assert_eq!(ana.text(), "* eve left");
    assert_eq!(budi.text(), "* eve left");
    // Whoever stops with its server has left.
    here.stop();
    assert_eq!(budi.text(), "* ana left");
}

/// Waits for as long as the people of a server are believed to be there that says nothing.
#[test]
fn those_of_a_server_that_died_have_left() {
    let Some(nats) = Nats::start() else { return };
    let (here, there) = (serve(&nats), serve(&nats));
    let mut ana = enter(&here, "/?name=ana", "* nobody else is here");
    let mut budi = enter(&there, "/?name=budi", "* here: ana");
    assert_eq!(ana.text(), "* budi joined");
    there.program.signal("KILL");
    drop(budi.frame());
    assert_eq!(ana.text(), "* budi left");
    enter(&here, "/", "* here: ana");
}
