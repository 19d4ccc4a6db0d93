//! A room with a store against a simple model: whatever happens in whatever order, a restart
//! included, each reader gets, in order and once, exactly what others said from where it began, and
//! of each session it is known how many lines were taken. Nothing is ever missed, so what a reader
//! hears next is known to the word.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use chat_pair::server::batch::Lines;
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::rooms::{Member, Rooms};
use chat_pair::server::store::Terms;
use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use tokio::runtime::Builder;

use crate::Folder;
use crate::past::{enter, open_with};
use crate::support::raw::short_texts;

const PEOPLE: usize = 4;
/// Those who have a session; the others never ask for one.
const WITH_SESSION: usize = 3;

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Somebody says so many lines.
    Say(usize, usize),
    /// Somebody comes in, or comes back while its old connection is still there.
    Enter(usize, From, u64),
    /// Somebody's connection ends.
    Cut(usize),
    /// Somebody reads once.
    Read(usize),
    /// Somebody is too slow.
    Pause(usize),
    /// The server is started anew.
    Restart,
}

/// From where on a session wants to hear.
#[derive(Clone, Copy, Debug)]
enum From {
    Now,
    Last,
    Beginning,
    OtherEpoch,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let from = prop_oneof![
        2 => Just(From::Now),
        5 => Just(From::Last),
        2 => Just(From::Beginning),
        1 => Just(From::OtherEpoch),
    ];
    let who = 0..PEOPLE;
    let event = prop_oneof![
        8 => (who.clone(), 1..6_usize).prop_map(|(who, lines)| Event::Say(who, lines)),
        5 => (who.clone(), from, 0..9_u64).prop_map(|(who, from, sent)| Event::Enter(who, from, sent)),
        2 => who.clone().prop_map(Event::Cut),
        5 => who.clone().prop_map(Event::Read),
        2 => who.prop_map(Event::Pause),
        1 => Just(Event::Restart),
    ];
    vec(event, 0..80)
}

/// Somebody's connection, as a client sees it.
struct Connection {
    member: Member,
    /// Everything before this was heard, or is its own.
    next: u64,
    /// What it will hear, but for where each line is in the log.
    expected: VecDeque<String>,
}

#[derive(Default)]
struct World {
    history: usize,
    /// Who said each line. The text of a line is its position.
    log: Vec<usize>,
    epoch: Option<String>,
    /// How many lines were taken from each session.
    taken: HashMap<usize, u64>,
    connections: HashMap<usize, Connection>,
    /// Where each was last.
    last: HashMap<usize, u64>,
    /// How many came without a session: each is another author.
    strangers: usize,
}

impl World {
    /// What others said between two positions.
    fn others(&self, who: usize, range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
        let lines = range.filter(move |at| self.log[*at] != who);
        lines.map(|at| format!("n: {at}"))
    }

    async fn happens(&mut self, rooms: &Arc<Rooms>, event: Event) {
        match event {
            Event::Say(who, lines) => self.say(who, lines).await,
            Event::Enter(who, from, sent) => self.enter(rooms, who, from, sent).await,
            Event::Cut(who) => self.cut(who),
            Event::Read(who) => self.read(who).await,
            Event::Pause(who) => {
                if let Some(connection) = self.connections.get_mut(&who) {
                    connection.member.subscription.pause();
                }
            }
            Event::Restart => unreachable!("it is between two servers"),
        }
    }

    fn author(&self, who: usize) -> usize {
        match who {
            ..WITH_SESSION => who,
            _ => PEOPLE + self.strangers,
        }
    }

    async fn say(&mut self, who: usize, count: usize) {
        let (author, name) = (self.author(who), Identity::of("n"));
        let mut lines = Lines::default();
        for n in 0..count {
            lines.push(&name, &(self.log.len() + n).to_string());
        }
        let Some(connection) = self.connections.get(&who) else {
            return;
        };
        connection.member.speaker.say(&lines).await.unwrap();
        let said = self.log.len()..self.log.len() + count;
        self.log.resize(said.end, author);
        if let Some(taken) = self.taken.get_mut(&who) {
            *taken += count as u64;
        }
        for (other, connection) in &mut self.connections {
            if *other != who {
                let lines = said.clone().map(|at| format!("n: {at}"));
                connection.expected.extend(lines);
            }
        }
    }

    async fn enter(&mut self, rooms: &Arc<Rooms>, who: usize, from: From, sent: u64) {
        let end = self.log.len();
        let position = match from {
            From::Last => self.last.get(&who).copied().unwrap_or(0),
            _ => 0,
        };
        let position = self
            .connections
            .get(&who)
            .map_or(position, |connection| match from {
                From::Last => connection.next,
                _ => 0,
            });
        let after = match (from, &self.epoch) {
            (From::Now, _) | (_, None) => None,
            (From::OtherEpoch, _) => Some("another".to_owned()),
            (_, Some(epoch)) => Some(epoch.clone()),
        };
        let query = match (who, &after) {
            (WITH_SESSION.., _) => String::new(),
            (_, None) => format!("session=the-session-of-number-{who}&sent={sent}"),
            (_, Some(epoch)) => {
                format!("session=the-session-of-number-{who}&sent={sent}&after={epoch}.{position}")
            }
        };
        let member = enter(rooms, &query).await;
        if who >= WITH_SESSION {
            self.strangers += 1;
        }
        let author = self.author(who);
        let mut expected = VecDeque::new();
        let began = if who >= WITH_SESSION || after.is_none() {
            let first = end.saturating_sub(self.history);
            expected.extend(self.others(author, first..end));
            match expected.len() {
                0 => {}
                lines => {
                    expected.push_front(format!("* {lines} earlier messages"));
                    expected.push_back("* now".to_owned());
                }
            }
            first as u64
        } else if matches!(from, From::OtherEpoch) {
            expected.push_back("* what was said before is not known here".to_owned());
            end as u64
        } else {
            expected.extend(self.others(author, usize::try_from(position).unwrap()..end));
            position
        };
        let mut next = began;
        if who < WITH_SESSION {
            let taken = *self.taken.entry(who).or_insert(sent);
            let first = short_texts(&member.greeting.concat()).concat();
            let words: Vec<_> = first.strip_prefix('@').unwrap().split(' ').collect();
            next = words[1].parse().unwrap();
            // Where nothing earlier is for it, it may begin behind that.
            assert!(next == began || expected.is_empty() && next == end as u64);
            assert_eq!(words[2], taken.to_string());
            let epoch = self.epoch.get_or_insert_with(|| words[0].to_owned());
            assert_eq!(words[0], epoch);
        }
        let connection = Connection {
            member,
            next,
            expected,
        };
        if let Some(old) = self.connections.insert(who, connection)
            && who < WITH_SESSION
        {
            assert!(old.member.speaker.replaced().now_or_never().is_some());
        }
    }

    fn cut(&mut self, who: usize) {
        if let Some(connection) = self.connections.remove(&who) {
            self.last.insert(who, connection.next);
        }
    }

    /// Somebody reads once, if there is anything.
    async fn read(&mut self, who: usize) {
        let Some(connection) = self.connections.get_mut(&who) else {
            return;
        };
        if connection.expected.is_empty() {
            return;
        }
        let frames = connection.member.subscription.next_frames().await;
        let mut marked: Option<u64> = None;
        for text in short_texts(&frames.expect("the room is open").concat()) {
            if let Some(mark) = text.strip_prefix('@') {
                let (position, _) = mark.split_once(' ').unwrap();
                marked = Some(position.parse().unwrap());
                continue;
            }
            assert_eq!(Some(&text), connection.expected.front());
            connection.expected.pop_front();
            if let Some(position) = text.strip_prefix("n: ") {
                let position: u64 = position.parse().unwrap();
                if who < WITH_SESSION {
                    assert_eq!(marked, Some(position));
                    marked = Some(position + 1);
                }
                connection.next = position + 1;
            }
        }
    }

    /// Everybody who is there hears all.
    async fn ends(&mut self) {
        for who in 0..PEOPLE {
            while self
                .connections
                .get(&who)
                .is_some_and(|reader| !reader.expected.is_empty())
            {
                self.read(who).await;
            }
        }
    }
}

fn run(history: u64, events: &[Event]) {
    let limits = Limits {
        history,
        window_lines: 10,
        sessions: 2,
        gather: 60,
        store_rows: 4,
        ring: 1024,
        backlog: 1024 * 1024,
        ..Limits::DEFAULT
    };
    let folder = Folder::new();
    let mut world = World {
        history: usize::try_from(history).unwrap(),
        ..World::default()
    };
    for events in events.split(|event| matches!(event, Event::Restart)) {
        // All that belongs to a server is gone with its runtime.
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open_with(&folder, Terms::default(), &limits);
            let rooms = Rooms::stored(&limits, false, Some(store));
            for event in events {
                world.happens(&rooms, *event).await;
            }
            world.ends().await;
            (0..PEOPLE).for_each(|who| world.cut(who));
        });
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(60) })]

    #[test]
    fn a_stored_log_is_as_the_model(events in events()) {
        run(0, &events);
    }

    #[test]
    fn a_stored_log_with_history_is_as_the_model(events in events()) {
        run(15, &events);
    }
}
