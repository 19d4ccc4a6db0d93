//! The room in memory: order, who hears what, and what exactly is counted as missed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use chat_pair::server::batch::Lines;
use chat_pair::server::limits::Limits;
use chat_pair::server::room::{Room, Seat};
use futures_util::FutureExt;

fn small() -> Limits {
    Limits {
        ring: 4,
        ..Limits::DEFAULT
    }
}

/// Says lines; they are published with what else is said in the same turn.
fn add(seat: &mut Seat, name: &str, texts: &[&str]) {
    let mut lines = Lines::of(name);
    for text in texts {
        lines.push(text);
    }
    seat.say(&lines).unwrap();
}

/// Ends the turn.
fn publish(room: &Arc<Room>) {
    assert!(room.clone().publish().now_or_never().is_none());
}

/// Says lines as one batch.
fn say(room: &Arc<Room>, seat: &mut Seat, name: &str, texts: &[&str]) {
    add(seat, name, texts);
    publish(room);
}

/// What others said that is there now and fits into one write, as texts; nothing there is
/// `None`, and so is a closed room.
fn hear(seat: &mut Seat) -> Option<Vec<String>> {
    let frames = loop {
        let batch = seat.hear().now_or_never()??;
        let frames = seat.gather(batch).concat();
        if !frames.is_empty() {
            break frames;
        }
    };
    let mut rest = &frames[..];
    let mut texts = Vec::new();
    while let [0x81, len @ 0..=125, ..] = *rest {
        let (text, behind) = rest[2..].split_at(usize::from(len));
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        rest = behind;
    }
    assert!(rest.is_empty(), "not a short text frame: {rest:?}");
    Some(texts)
}

fn closed(seat: &mut Seat) -> bool {
    loop {
        match seat.hear().now_or_never() {
            Some(Some(batch)) => assert!(seat.gather(batch).is_empty(), "not its own"),
            last => return matches!(last, Some(None)),
        }
    }
}

#[test]
fn everyone_hears_the_same_order_without_its_own() {
    let room = Room::open(&Limits::DEFAULT);
    let mut seats: Vec<_> = (0..3).map(|_| room.enter().unwrap()).collect();
    let mut all = Vec::new();
    for n in 0..100 {
        let from = n * 7 % 3;
        say(
            &room,
            &mut seats[from],
            &from.to_string(),
            &[&n.to_string()],
        );
        all.push(format!("{from}: {n}"));
    }
    for (from, seat) in seats.iter_mut().enumerate() {
        let own = format!("{from}: ");
        let others: Vec<_> = all.iter().filter(|line| !line.starts_with(&own)).collect();
        assert_eq!(hear(seat).unwrap().iter().collect::<Vec<_>>(), others);
        assert_eq!(hear(seat), None);
    }
}

#[test]
fn a_reader_that_fell_behind_is_told_how_many_lines_it_missed() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    say(&room, &mut ann, "a", &["0"]);
    assert_eq!(hear(&mut bob).unwrap(), ["a: 0"]);
    for n in 1..=10 {
        say(&room, &mut ann, "a", &[&n.to_string(), "more", "yet more"]);
    }
    // Four batches are kept; six of three lines are not.
    let heard = hear(&mut bob).unwrap();
    assert_eq!(heard[0], "* 18 messages missed");
    assert_eq!(heard[1], "a: 7");
    assert_eq!(heard.len(), 1 + 12);
    say(&room, &mut ann, "a", &["on"]);
    assert_eq!(hear(&mut bob).unwrap(), ["a: on"]);
}

#[test]
fn own_lines_are_not_missed() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    // Lost: 4 lines of Ann's, and 3 of Bob's own. Kept: an own batch among Ann's.
    say(&room, &mut bob, "b", &["own"]);
    say(&room, &mut ann, "a", &["lost", "lost"]);
    say(&room, &mut bob, "b", &["own", "own"]);
    say(&room, &mut ann, "a", &["lost", "lost"]);
    say(&room, &mut ann, "a", &["1"]);
    say(&room, &mut bob, "b", &["own"]);
    say(&room, &mut ann, "a", &["2"]);
    say(&room, &mut ann, "a", &["3"]);
    let told = ["* 4 messages missed", "a: 1", "a: 2", "a: 3"];
    assert_eq!(hear(&mut bob).unwrap(), told);
    // The next count starts afresh, whatever kept an own batch company.
    for n in 0..6 {
        say(&room, &mut bob, "b", &["own"]);
        say(&room, &mut ann, "a", &[&n.to_string()]);
    }
    let told = ["* 4 messages missed", "a: 4", "a: 5"];
    assert_eq!(hear(&mut bob).unwrap(), told);
    assert_eq!(hear(&mut bob), None);
}

#[test]
fn only_own_lines_lost_is_nothing_lost() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    for _ in 0..10 {
        say(&room, &mut bob, "b", &["own"]);
    }
    assert_eq!(hear(&mut bob), None);
    say(&room, &mut ann, "a", &["hi"]);
    assert_eq!(hear(&mut bob).unwrap(), ["a: hi"]);
}

/// Any mixture of speaking, hearing and falling behind: heard and missed make up what others
/// said, to the line, and what is heard is in order.
#[test]
fn heard_and_missed_make_up_what_others_said() {
    let room = Room::open(&small());
    let mut seats: Vec<_> = (0..3).map(|_| room.enter().unwrap()).collect();
    let mut said = [0_u64; 3];
    let (mut heard, mut missed, mut latest) = ([0_u64; 3], [0_u64; 3], [0_u64; 3]);
    let (mut chance, mut number) = (1_u64, 0_u64);
    let mut listen = |seats: &mut [Seat], who: usize| {
        for text in hear(&mut seats[who]).unwrap_or_default() {
            if let Some(count) = text
                .strip_prefix("* ")
                .and_then(|text| text.strip_suffix(" messages missed"))
            {
                missed[who] += count.parse::<u64>().unwrap();
                continue;
            }
            let (from, number) = text.split_once(": ").unwrap();
            assert_ne!(from, who.to_string());
            let number = number.parse().unwrap();
            assert!(number > latest[who], "{number} after {}", latest[who]);
            latest[who] = number;
            heard[who] += 1;
        }
        (heard, missed)
    };
    for _ in 0..10_000 {
        // A fixed sequence that looks like chance (Knuth's MMIX).
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let who = usize::try_from((chance >> 33) % 3).unwrap();
        if (chance >> 40).is_multiple_of(4) {
            listen(&mut seats, who);
            continue;
        }
        let count = (chance >> 50) % 3 + 1;
        let texts: Vec<_> = (1..=count).map(|n| (number + n).to_string()).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        say(&room, &mut seats[who], &who.to_string(), &texts);
        number += count;
        said[who] += count;
    }
    // One who speaks last, so that everyone behind learns how far.
    let mut last = room.enter().unwrap();
    say(&room, &mut last, "9", &[&(number + 1).to_string()]);
    for who in 0..3 {
        let (heard, missed) = listen(&mut seats, who);
        let others = said.iter().sum::<u64>() - said[who] + 1;
        assert_eq!(heard[who] + missed[who], others, "seat {who}");
        assert!(missed[who] > 0);
    }
}

#[test]
fn a_closing_room_delivers_its_backlog_and_then_ends() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    for n in 0..6 {
        say(&room, &mut ann, "a", &[&n.to_string()]);
    }
    room.close();
    let told = ["* 2 messages missed", "a: 2", "a: 3", "a: 4", "a: 5"];
    assert_eq!(hear(&mut bob).unwrap(), told);
    assert!(closed(&mut bob));
    assert!(closed(&mut ann));
    assert!(ann.say(&Lines::of("a")).is_err());
    assert!(room.enter().is_none());
}

#[test]
fn a_late_seat_misses_nothing_said_after_it_entered() {
    let room = Room::open(&small());
    let mut ann = room.enter().unwrap();
    for _ in 0..10 {
        say(&room, &mut ann, "a", &["before"]);
    }
    let mut bob = room.enter().unwrap();
    assert_eq!(hear(&mut bob), None);
    say(&room, &mut ann, "a", &["after"]);
    assert_eq!(hear(&mut bob).unwrap(), ["a: after"]);
}

#[test]
fn what_is_heard_at_once_is_bounded() {
    let limits = Limits {
        gather: 100,
        ..Limits::DEFAULT
    };
    let room = Room::open(&limits);
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    for _ in 0..10 {
        say(&room, &mut ann, "a", &[&"x".repeat(60)]);
    }
    for _ in 0..5 {
        assert_eq!(hear(&mut bob).unwrap().len(), 2);
    }
    assert_eq!(hear(&mut bob), None);
}

#[test]
fn what_is_said_in_one_turn_is_heard_at_once_by_all_others() {
    let room = Room::open(&small());
    let mut seats: Vec<_> = (0..3).map(|_| room.enter().unwrap()).collect();
    for n in 0..100 {
        let from = n % 3;
        add(&mut seats[from], &from.to_string(), &[&n.to_string()]);
    }
    publish(&room);
    for (own, seat) in seats.iter_mut().enumerate() {
        let others = (0..100).filter(|n| n % 3 != own);
        let others: Vec<_> = others.map(|n| format!("{}: {n}", n % 3)).collect();
        assert_eq!(hear(seat).unwrap(), others);
    }
}

#[test]
fn what_is_said_in_one_turn_is_not_for_who_comes_in_its_middle() {
    let room = Room::open(&small());
    let mut ann = room.enter().unwrap();
    add(&mut ann, "a", &["before"]);
    let mut bob = room.enter().unwrap();
    add(&mut ann, "a", &["after"]);
    publish(&room);
    assert_eq!(hear(&mut bob).unwrap(), ["a: after"]);
}

#[test]
fn a_closing_room_delivers_the_turn_it_is_in() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    add(&mut ann, "a", &["last"]);
    room.close();
    assert_eq!(room.publish().now_or_never(), Some(()));
    assert_eq!(hear(&mut bob).unwrap(), ["a: last"]);
    assert!(closed(&mut bob));
}

#[test]
fn a_cancelled_wait_loses_nothing() {
    let room = Room::open(&Limits::DEFAULT);
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    for n in 0..100 {
        assert_eq!(hear(&mut bob), None); // polled and dropped
        say(&room, &mut ann, "a", &[&n.to_string()]);
        assert_eq!(hear(&mut bob).unwrap(), [format!("a: {n}")]);
    }
}

#[test]
fn a_room_is_crowded_while_its_slowest_reader_is_more_than_half_behind() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (room.enter().unwrap(), room.enter().unwrap());
    for crowded in [false, false, true, true] {
        say(&room, &mut ann, "a", &["hi"]);
        hear(&mut ann);
        assert_eq!(ann.still_crowded(), crowded);
    }
    hear(&mut bob);
    assert!(!ann.still_crowded());
    say(&room, &mut ann, "a", &["hi"]);
    say(&room, &mut ann, "a", &["hi"]);
    say(&room, &mut ann, "a", &["hi"]);
    assert!(ann.still_crowded());
    drop(bob);
    hear(&mut ann);
    assert!(!ann.still_crowded()); // who has left is not waited for
}
