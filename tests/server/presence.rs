//! Who is told that somebody came or left, by a clock that is moved and not waited for; and one
//! crowd over real sockets.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chat_pair::server::access::Pass;
use chat_pair::server::limits::Limits;
use chat_pair::server::presence::{People, Presence};
use chat_pair::server::room::Room;
use chat_pair::server::rooms::{Member, Rooms};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use crate::support::Server;
use crate::support::raw::{Ear, Raw, short_texts};

const LIMITS: Limits = Limits::DEFAULT;

fn open() -> Arc<Rooms> {
    Rooms::new(&LIMITS, true)
}

fn enter(rooms: &Arc<Rooms>, name: &str) -> Member {
    let target = format!("/rust?name={name}").parse().unwrap();
    rooms
        .enter(&target, "127.0.0.1:1", &mut Pass::default())
        .unwrap()
}

fn greeting(member: &Member) -> String {
    short_texts(&member.greeting.concat()).concat()
}

/// What a member has been told so far, and does not know yet.
async fn told(member: &mut Member) -> Vec<String> {
    // Long enough for a notice that is due, and for no other.
    sleep(LIMITS.moment + Duration::from_millis(1)).await;
    let mut all = Vec::new();
    while let Some(Some(frames)) = member.subscription.next_frames().now_or_never() {
        all.extend(short_texts(&frames.concat()));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn who_enters_learns_who_is_here_and_the_others_that_somebody_came() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    assert_eq!(greeting(&ana), "* nobody else is here");
    // Of oneself one is not told.
    assert_eq!(told(&mut ana).await, [""; 0]);
    let mut budi = enter(&rooms, "budi");
    assert_eq!(greeting(&budi), "* here: ana");
    assert_eq!(told(&mut ana).await, ["* budi joined"]);
    assert_eq!(told(&mut budi).await, [""; 0]);
    let target = "/rust".parse().unwrap();
    let nameless = rooms
        .enter(&target, "[::1]:50112", &mut Pass::default())
        .unwrap();
    assert_eq!(greeting(&nameless), "* here: ana, budi");
    assert_eq!(told(&mut ana).await, ["* [::1]:50112 joined"]);
    assert_eq!(
        greeting(&enter(&rooms, "eve")),
        "* here: ana, budi, [::1]:50112"
    );
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_missed_after_a_while_and_not_if_they_come_back() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    told(&mut ana).await;
    let budi = enter(&rooms, "budi");
    assert_eq!(told(&mut ana).await, ["* budi joined"]);
    drop(budi);
    let begun = Instant::now();
    sleep(LIMITS.absence / 2).await;
    assert_eq!(told(&mut ana).await, [""; 0]);
    let budi = enter(&rooms, "budi");
    assert_eq!(greeting(&budi), "* here: ana");
    sleep(2 * LIMITS.absence).await;
    assert_eq!(told(&mut ana).await, [""; 0], "a reconnect is no news");
    drop(budi);
    sleep(LIMITS.absence).await;
    assert_eq!(told(&mut ana).await, ["* budi left"]);
    assert!(begun.elapsed() < Duration::from_mins(1));
    assert_eq!(greeting(&enter(&rooms, "eve")), "* here: ana");
}

/// The others still believe that it is here, so whoever comes is told the same.
#[tokio::test(start_paused = true)]
async fn who_enters_during_an_absence_learns_of_it() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    let budi = enter(&rooms, "budi");
    told(&mut ana).await;
    drop(budi);
    let mut eve = enter(&rooms, "eve");
    assert_eq!(greeting(&eve), "* here: ana, budi");
    let budi = enter(&rooms, "budi");
    assert_eq!(greeting(&budi), "* here: ana, eve");
    sleep(2 * LIMITS.absence).await;
    assert_eq!(told(&mut eve).await, [""; 0], "it was never away for her");
    drop(budi);
    sleep(LIMITS.absence).await;
    assert_eq!(told(&mut eve).await, ["* budi left"]);
}

#[tokio::test(start_paused = true)]
async fn whom_somebody_was_told_of_has_left_for_all() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    told(&mut ana).await;
    let moth = enter(&rooms, "moth");
    let mut budi = enter(&rooms, "budi");
    assert_eq!(greeting(&budi), "* here: ana, moth");
    drop(moth);
    assert_eq!(told(&mut ana).await, ["* moth, budi joined"]);
    sleep(LIMITS.absence).await;
    assert_eq!(told(&mut ana).await, ["* moth left"]);
    assert_eq!(told(&mut budi).await, ["* moth left"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_the_name_of_somebody_who_left_is_news() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    told(&mut ana).await;
    let [one, other] = ["one", "other"].map(|who| format!("budi&session={who:-<22}"));
    drop(enter(&rooms, &one));
    assert_eq!(
        told(&mut ana).await,
        [""; 0],
        "it was here for a moment only"
    );
    let budi = enter(&rooms, &one);
    assert_eq!(told(&mut ana).await, ["* budi joined"]);
    drop(budi);
    let budi = enter(&rooms, &one);
    assert_eq!(told(&mut ana).await, [""; 0], "the same session is back");
    drop(budi);
    let stranger = enter(&rooms, &other);
    assert_eq!(told(&mut ana).await, ["* budi left", "* budi joined"]);
    drop(stranger);
    let _nameless = enter(&rooms, "budi");
    assert_eq!(told(&mut ana).await, ["* budi left", "* budi joined"]);
    sleep(2 * LIMITS.absence).await;
    assert_eq!(told(&mut ana).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn those_of_one_moment_are_one_line() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    told(&mut ana).await;
    let crowd: Vec<_> = (0..60).map(|n| enter(&rooms, &format!("n{n}"))).collect();
    assert_eq!(told(&mut ana).await, ["* n0, n1 and 58 more joined"]);
    // Whoever came in that moment was told of those behind, and of nobody twice.
    let mut crowd = crowd;
    assert_eq!(told(&mut crowd[0]).await, ["* n1, n2 and 57 more joined"]);
    assert!(greeting(&crowd[57]).ends_with(" and 38 more"));
    assert_eq!(told(&mut crowd[57]).await, ["* n58, n59 joined"]);
    assert_eq!(told(&mut crowd[59]).await, [""; 0]);
    let late = enter(&rooms, "late");
    let first: Vec<_> = (0..19).map(|n| format!("n{n}")).collect();
    assert_eq!(
        greeting(&late),
        format!("* here: ana, {} and 41 more", first.join(", "))
    );
    assert_eq!(told(&mut ana).await, ["* late joined"]);
    let half = crowd.split_off(30);
    drop(crowd);
    sleep(LIMITS.moment / 2).await;
    drop(half);
    // Whoever was here for a moment only is no news at all.
    drop(enter(&rooms, "moth"));
    sleep(LIMITS.absence).await;
    assert_eq!(told(&mut ana).await, ["* n0, n1 and 58 more left"]);
    assert_eq!(told(&mut ana).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn notices_are_not_counted_as_messages() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    told(&mut ana).await;
    ana.subscription.pause();
    let _budi = enter(&rooms, "budi");
    sleep(LIMITS.moment).await;
    assert_eq!(told(&mut ana).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_room_ends_though_somebody_is_still_to_be_told() {
    let rooms = open();
    let mut ana = enter(&rooms, "ana");
    drop(enter(&rooms, "budi"));
    rooms.close();
    drop(ana.speaker);
    while ana.subscription.next_frames().await.is_some() {}
}

fn people(names: &[&str], more: usize) -> People {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    People { names, more }
}

/// What those who are here are told of others on other servers.
#[tokio::test(start_paused = true)]
async fn who_is_on_several_servers_or_goes_from_one_to_another_is_there_once() {
    let room = Room::open(&LIMITS);
    tokio::spawn(room.clone().publish());
    let presence = Presence::begin(&room, &LIMITS, true).unwrap();
    let (speaker, mut ana) = room.enter().unwrap();
    let join = |id, name: &str| short_texts(&presence.join(id, name, None)).concat();
    let mut told = async || {
        sleep(LIMITS.absence + 2 * LIMITS.moment).await;
        let mut all = Vec::new();
        while let Some(Some(frames)) = ana.next_frames().now_or_never() {
            all.extend(short_texts(&frames.concat()));
        }
        all
    };
    // Who was there before is no news.
    presence.elsewhere(1, people(&["budi"], 0), false);
    let here = join(speaker.id(), "ana");
    assert_eq!(here, "* here: budi");
    assert_eq!(told().await, [""; 0]);
    presence.elsewhere(1, people(&["budi", "eve", "adi"], 0), true);
    assert_eq!(told().await, ["* eve, adi joined"]);
    // On two servers, then on the other, then on this one.
    presence.elsewhere(2, people(&["eve"], 0), true);
    presence.elsewhere(1, people(&["budi", "adi"], 0), true);
    let (moved, _) = room.enter().unwrap();
    assert_eq!(join(moved.id(), "eve"), "* here: ana, budi, adi");
    presence.elsewhere(2, People::default(), true);
    assert_eq!(told().await, [""; 0]);
    // And away, and back within a while.
    presence.leave(moved.id());
    sleep(LIMITS.absence / 2).await;
    presence.elsewhere(2, people(&["eve"], 0), true);
    assert_eq!(told().await, [""; 0]);
    // For a moment only.
    presence.elsewhere(2, people(&["eve", "moth"], 0), true);
    presence.elsewhere(2, people(&["eve"], 0), true);
    assert_eq!(told().await, [""; 0]);
    // Those beyond what a server names are counted, and have not come when they are named.
    presence.elsewhere(2, people(&["eve"], 7), true);
    let (late, _) = room.enter().unwrap();
    let here = join(late.id(), "late");
    assert_eq!(here, "* here: ana, budi, adi, eve and 7 more");
    assert_eq!(told().await, ["* late joined"]);
    presence.elsewhere(2, people(&["n1"], 6), true);
    assert_eq!(told().await, ["* eve left"]);
    // A server that is gone.
    presence.elsewhere(1, People::default(), true);
    assert_eq!(told().await, ["* budi, adi left"]);
}

#[test]
fn without_the_flag_nobody_is_told_anything() {
    let server = Server::start();
    let mut ana = Raw::enter(server.port, "/?name=ana");
    let mut budi = Raw::enter(server.port, "/?name=budi");
    budi.say("first");
    assert_eq!(ana.text(), "budi: first");
    drop(budi);
    let mut eve = Raw::enter(server.port, "/?name=eve");
    eve.say("second");
    assert_eq!(ana.text(), "eve: second");
}

/// A thousand join at once: each is told who is here once, and of the others in a few lines.
#[test]
fn a_thousand_at_once_cost_few_notices() {
    const CROWD: usize = 1000;
    const THREADS: usize = 4;
    let server = Server::with(&["--presence", "--max-connections", "1100"]);
    let port = server.port;
    let mut ana = Ear::of(Raw::enter(port, "/?name=ana"));
    assert_eq!(ana.text(), Some("* nobody else is here"));
    let joining: Vec<_> = (0..THREADS)
        .map(|_| thread::spawn(move || Raw::crowd(port, CROWD / THREADS)))
        .collect();
    let crowd: Vec<_> = joining
        .into_iter()
        .flat_map(|one| one.join().unwrap())
        .collect();
    let (mut joined, mut notices) = (0, 0);
    while joined < CROWD {
        let text = ana.text().unwrap();
        let names = text
            .strip_prefix("* ")
            .and_then(|text| text.strip_suffix(" joined"));
        let names = names.expect(text);
        joined += names.split(", ").count();
        if let Some((named, more)) = names
            .strip_suffix(" more")
            .and_then(|n| n.split_once(" and "))
        {
            assert_eq!(named.split(", ").count(), 2, "{text}");
            joined += more.parse::<usize>().unwrap();
        }
        notices += 1;
    }
    assert_eq!(joined, CROWD);
    assert!(notices <= CROWD / 10, "{notices} notices");
    drop(crowd);
}
