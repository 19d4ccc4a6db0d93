//! The room in memory: order, who hears what, and what exactly is counted as missed.

use std::sync::Arc;

use chat_pair::server::batch::Lines;
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::room::{Closed, Room, Speaker, Subscription};
use futures_util::FutureExt;

fn small() -> Limits {
    Limits {
        ring: 4,
        ..Limits::DEFAULT
    }
}

/// Somebody who speaks and hears.
struct Member {
    speaker: Option<Speaker>,
    subscription: Subscription,
}

impl Member {
    fn enter(room: &Arc<Room>) -> Self {
        let (speaker, subscription) = room.enter().unwrap();
        Self {
            speaker: Some(speaker),
            subscription,
        }
    }

    /// Says lines; they are published with what else is said in the same turn. `None` when they
    /// have to wait for space, and then they were not said.
    fn try_add(&mut self, name: &str, texts: &[&str]) -> Option<Result<(), Closed>> {
        let name = Identity::of(name);
        let mut lines = Lines::default();
        for text in texts {
            lines.push(&name, text);
        }
        let speaker = self.speaker.as_ref().unwrap();
        speaker.say(&lines).now_or_never()
    }

    /// Says nothing any more, and hears on.
    fn fall_silent(&mut self) {
        self.speaker = None;
    }

    fn add(&mut self, name: &str, texts: &[&str]) {
        self.try_add(name, texts).expect("space").unwrap();
    }

    /// What others said that is there now and fits into one write, as texts; nothing there is
    /// `None`, and so is a closed room.
    fn hear(&mut self) -> Option<Vec<String>> {
        let frames = loop {
            let frames = self.subscription.next_frames().now_or_never()??.concat();
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

    /// Whether the room is closed, and nothing is left to hear.
    fn is_at_the_end(&mut self) -> bool {
        loop {
            match self.subscription.next_frames().now_or_never() {
                Some(Some(frames)) => assert!(frames.is_empty(), "not its own"),
                last => return matches!(last, Some(None)),
            }
        }
    }
}

/// Ends the turn.
pub fn publish(room: &Arc<Room>) {
    assert!(room.clone().publish().now_or_never().is_none());
}

/// Says lines as one batch.
fn say(room: &Arc<Room>, member: &mut Member, name: &str, texts: &[&str]) {
    member.add(name, texts);
    publish(room);
}

#[test]
fn everyone_hears_the_same_order_without_its_own() {
    let room = Room::open(&Limits::DEFAULT);
    let mut members: Vec<_> = (0..3).map(|_| Member::enter(&room)).collect();
    let mut all = Vec::new();
    for n in 0..100 {
        let from = n * 7 % 3;
        say(
            &room,
            &mut members[from],
            &from.to_string(),
            &[&n.to_string()],
        );
        all.push(format!("{from}: {n}"));
    }
    for (from, member) in members.iter_mut().enumerate() {
        let own = format!("{from}: ");
        let others: Vec<_> = all.iter().filter(|line| !line.starts_with(&own)).collect();
        assert_eq!(member.hear().unwrap().iter().collect::<Vec<_>>(), others);
        assert_eq!(member.hear(), None);
    }
}

#[test]
fn a_reader_that_paused_is_told_how_many_lines_it_missed() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    say(&room, &mut ann, "a", &["0"]);
    assert_eq!(bob.hear().unwrap(), ["a: 0"]);
    // What it has not taken when it pauses is missed, too.
    say(&room, &mut ann, "a", &["1"]);
    bob.subscription.pause();
    for n in 2..=10 {
        say(&room, &mut ann, "a", &[&n.to_string(), "more", "yet more"]);
        assert!(ann.hear().is_none());
    }
    assert_eq!(bob.hear().unwrap(), ["* 28 messages missed"]);
    assert_eq!(bob.hear(), None);
    say(&room, &mut ann, "a", &["on"]);
    assert_eq!(bob.hear().unwrap(), ["a: on"]);
}

#[test]
fn own_lines_are_not_missed() {
    let room = Room::open(&Limits::DEFAULT);
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    for missed in [4, 2] {
        // Some own lines are taken, some are published and not taken, some are said in a pause.
        say(&room, &mut bob, "b", &["own"]);
        assert_eq!(bob.hear(), None);
        say(&room, &mut bob, "b", &["own", "own"]);
        say(&room, &mut ann, "a", &["lost", "lost"]);
        bob.subscription.pause();
        say(&room, &mut bob, "b", &["own"]);
        for _ in 2..missed {
            say(&room, &mut ann, "a", &["lost"]);
        }
        bob.add("b", &["own"]);
        let told = format!("* {missed} messages missed");
        assert_eq!(bob.hear().unwrap(), [told]);
        say(&room, &mut bob, "b", &["own"]);
        say(&room, &mut ann, "a", &["on"]);
        assert_eq!(bob.hear().unwrap(), ["a: on"]);
    }
}

#[test]
fn only_own_lines_lost_is_nothing_lost() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    bob.subscription.pause();
    for _ in 0..10 {
        say(&room, &mut bob, "b", &["own"]);
        assert_eq!(ann.hear().unwrap(), ["b: own"]);
    }
    assert_eq!(bob.hear(), None);
    say(&room, &mut ann, "a", &["hi"]);
    assert_eq!(bob.hear().unwrap(), ["a: hi"]);
}

/// Any mixture of speaking, hearing and pausing: heard and missed make up what others
/// said, to the line, and what is heard is in order.
#[test]
fn heard_and_missed_make_up_what_others_said() {
    let room = Room::open(&small());
    let mut members: Vec<_> = (0..3).map(|_| Member::enter(&room)).collect();
    let mut said = [0_u64; 3];
    let (mut heard, mut missed, mut latest) = ([0_u64; 3], [0_u64; 3], [0_u64; 3]);
    let (mut chance, mut number) = (1_u64, 0_u64);
    let mut listen = |members: &mut [Member], who: usize| {
        for text in members[who].hear().unwrap_or_default() {
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
        match (chance >> 40) % 8 {
            0 | 1 => {
                listen(&mut members, who);
                continue;
            }
            2 => {
                members[who].subscription.pause();
                continue;
            }
            _ => {}
        }
        let count = (chance >> 50) % 3 + 1;
        let texts: Vec<_> = (1..=count).map(|n| (number + n).to_string()).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        while members[who].try_add(&who.to_string(), &texts).is_none() {
            publish(&room);
            (0..3).for_each(|who| _ = listen(&mut members, who));
        }
        publish(&room);
        number += count;
        said[who] += count;
    }
    for who in 0..3 {
        listen(&mut members, who); // What it has missed,
        let (heard, missed) = listen(&mut members, who); // and what is there.
        let others = said.iter().sum::<u64>() - said[who];
        assert_eq!(heard[who] + missed[who], others, "member {who}");
        assert!(missed[who] > 0);
    }
}

#[test]
fn a_closing_room_delivers_its_backlog_and_then_ends() {
    let room = Room::open(&Limits::DEFAULT);
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    let mut eve = Member::enter(&room);
    eve.subscription.pause();
    for n in 0..3 {
        say(&room, &mut ann, "a", &[&n.to_string()]);
    }
    room.close();
    assert!(room.enter().is_none());
    // Those who are there may still say what they have read, until they leave.
    say(&room, &mut ann, "a", &["last words"]);
    bob.fall_silent();
    eve.fall_silent();
    let told = ["a: 0", "a: 1", "a: 2", "a: last words"];
    assert_eq!(bob.hear().unwrap(), told);
    assert!(!bob.is_at_the_end());
    ann.fall_silent();
    assert!(bob.is_at_the_end());
    assert!(ann.is_at_the_end());
    // Also one that comes back when everything is over learns what it has missed.
    assert_eq!(eve.hear().unwrap(), ["* 4 messages missed"]);
    assert!(eve.is_at_the_end());
}

#[test]
fn a_late_member_misses_nothing_said_after_it_entered() {
    let room = Room::open(&small());
    let mut ann = Member::enter(&room);
    for _ in 0..10 {
        say(&room, &mut ann, "a", &["before"]);
        assert!(ann.hear().is_none());
    }
    let mut bob = Member::enter(&room);
    assert_eq!(bob.hear(), None);
    say(&room, &mut ann, "a", &["after"]);
    assert_eq!(bob.hear().unwrap(), ["a: after"]);
}

#[test]
fn what_is_heard_at_once_is_bounded() {
    let limits = Limits {
        gather: 100,
        ..Limits::DEFAULT
    };
    let room = Room::open(&limits);
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    for _ in 0..10 {
        say(&room, &mut ann, "a", &[&"x".repeat(60)]);
    }
    for _ in 0..5 {
        assert_eq!(bob.hear().unwrap().len(), 2);
    }
    assert_eq!(bob.hear(), None);
}

#[test]
fn what_is_said_in_one_turn_is_heard_at_once_by_all_others() {
    let room = Room::open(&Limits::DEFAULT);
    let mut members: Vec<_> = (0..3).map(|_| Member::enter(&room)).collect();
    for n in 0..100 {
        let from = n % 3;
        members[from].add(&from.to_string(), &[&n.to_string()]);
    }
    publish(&room);
    for (own, member) in members.iter_mut().enumerate() {
        let others = (0..100).filter(|n| n % 3 != own);
        let others: Vec<_> = others.map(|n| format!("{}: {n}", n % 3)).collect();
        assert_eq!(member.hear().unwrap(), others);
    }
}

#[test]
fn what_is_said_in_one_turn_is_not_for_who_comes_in_its_middle() {
    let room = Room::open(&small());
    let mut ann = Member::enter(&room);
    ann.add("a", &["before"]);
    let mut bob = Member::enter(&room);
    ann.add("a", &["after"]);
    publish(&room);
    assert_eq!(bob.hear().unwrap(), ["a: after"]);
}

#[test]
fn a_closing_room_delivers_the_turn_it_is_in() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    ann.add("a", &["last"]);
    room.close();
    ann.fall_silent();
    bob.fall_silent();
    assert_eq!(room.publish().now_or_never(), Some(()));
    assert_eq!(bob.hear().unwrap(), ["a: last"]);
    assert!(bob.is_at_the_end());
}

#[test]
fn a_cancelled_wait_loses_nothing() {
    let room = Room::open(&Limits::DEFAULT);
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    for n in 0..100 {
        assert_eq!(bob.hear(), None); // polled and dropped
        say(&room, &mut ann, "a", &[&n.to_string()]);
        assert_eq!(bob.hear().unwrap(), [format!("a: {n}")]);
    }
}

/// Three are there: one who speaks, one who hears at once, and one who waits.
#[test]
fn who_speaks_waits_for_the_slowest_subscriber() {
    let room = Room::open(&small());
    let (mut ann, mut bob, mut eve) = (
        Member::enter(&room),
        Member::enter(&room),
        Member::enter(&room),
    );
    let said = ["a: 0", "a: 1", "a: 2", "a: 3"];
    for n in 0..4 {
        say(&room, &mut ann, "a", &[&n.to_string()]);
        assert!(ann.hear().is_none());
    }
    assert!(ann.try_add("a", &["4"]).is_none());
    assert_eq!(bob.hear().unwrap(), said);
    assert!(ann.try_add("a", &["4"]).is_none());
    // As soon as the slowest has taken what it was behind with, it goes on.
    assert_eq!(eve.hear().unwrap(), said);
    say(&room, &mut ann, "a", &["4"]);
    for reader in [&mut bob, &mut eve] {
        assert_eq!(reader.hear().unwrap(), ["a: 4"]);
    }
}

/// A line that takes more than all of the space waits until there is all of it, and no longer.
#[test]
fn a_line_longer_than_the_space_gets_in() {
    let limits = Limits {
        backlog: 100,
        ..Limits::DEFAULT
    };
    let room = Room::open(&limits);
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    say(&room, &mut ann, "a", &["hi"]);
    let long = "x".repeat(120);
    assert!(ann.try_add("a", &[&long]).is_none());
    assert_eq!(bob.hear().unwrap(), ["a: hi"]);
    assert!(ann.hear().is_none());
    say(&room, &mut ann, "a", &[&long]);
    assert_eq!(bob.hear().unwrap(), [format!("a: {long}")]);
}

/// Says long lines until they have to wait.
fn fill(room: &Arc<Room>, member: &mut Member) {
    let long = "x".repeat(Limits::DEFAULT.batch);
    let waits = (0..100).any(|_| {
        let said = member.try_add("a", &[&long]);
        publish(room);
        assert!(member.hear().is_none());
        said.is_none()
    });
    assert!(waits, "nobody is waited for");
}

#[test]
fn who_pauses_or_leaves_is_not_waited_for() {
    let room = Room::open(&small());
    let mut ann = Member::enter(&room);
    for leaves in [false, true] {
        let mut bob = Member::enter(&room);
        fill(&room, &mut ann);
        if leaves {
            drop(bob);
        } else {
            bob.subscription.pause();
        }
        for _ in 0..10 {
            say(&room, &mut ann, "a", &["on"]);
            assert!(ann.hear().is_none());
        }
    }
}

#[test]
fn who_hears_again_after_a_pause_is_waited_for_again() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    bob.subscription.pause();
    say(&room, &mut ann, "a", &["hi"]);
    ann.hear();
    assert_eq!(bob.hear().unwrap(), ["* 1 messages missed"]);
    fill(&room, &mut ann);
    // Whoever is too slow learns that somebody waits now, except in a pause.
    assert!(bob.subscription.congested().now_or_never().is_some());
    bob.subscription.pause();
    assert!(bob.subscription.congested().now_or_never().is_none());
}

/// However many wait to speak: the channel never overwrites what a counted reader has not taken,
/// and all get in, in the order they came.
#[test]
fn a_crowd_speaks_in_turn() {
    const CROWD: usize = 100;
    const EACH: usize = 200;
    let room = Room::open(&small());
    let mut bob = Member::enter(&room);
    let crowd = (0..CROWD).map(|_| room.enter().unwrap());
    let (speakers, subscriptions): (Vec<_>, Vec<_>) = crowd.unzip();
    drop(subscriptions);
    let texts: Vec<_> = (0..CROWD)
        .map(|n| format!("{n} {}", "x".repeat(100)))
        .collect();
    let name = Identity::of("c");
    let lines: Vec<_> = texts
        .iter()
        .map(|text| {
            let mut lines = Lines::default();
            (0..EACH).for_each(|_| lines.push(&name, text));
            lines
        })
        .collect();
    let mut waiting: Vec<_> = speakers
        .iter()
        .zip(&lines)
        .map(|(speaker, lines)| Box::pin(speaker.say(lines)))
        .collect();
    let mut heard = 0;
    while heard < CROWD * EACH {
        waiting.retain_mut(|said| said.now_or_never().is_none_or(|said| said.is_err()));
        publish(&room);
        for text in bob.hear().unwrap() {
            let expected = format!("c: {} ", heard / EACH);
            assert!(text.starts_with(&expected), "{text}");
            heard += 1;
        }
    }
    assert!(waiting.is_empty());
}

#[test]
fn who_still_waits_when_the_room_refuses_has_said_nothing() {
    let room = Room::open(&small());
    let (mut ann, mut bob) = (Member::enter(&room), Member::enter(&room));
    fill(&room, &mut ann);
    let name = Identity::of("a");
    let mut lines = Lines::default();
    lines.push(&name, &"x".repeat(Limits::DEFAULT.batch));
    let speaker = ann.speaker.take().unwrap();
    let mut waiting = Box::pin(speaker.say(&lines));
    assert!((&mut waiting).now_or_never().is_none());
    room.close();
    assert!((&mut waiting).now_or_never().is_none());
    room.refuse();
    assert!(waiting.now_or_never().unwrap().is_err());
    drop(speaker);
    bob.fall_silent();
    while bob
        .subscription
        .next_frames()
        .now_or_never()
        .unwrap()
        .is_some()
    {}
}
