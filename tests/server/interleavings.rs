//! The log of a room against a simple model: whatever happens in whatever order, each reader gets,
//! in order and once, exactly what others said from where it began, but for what it is told to have
//! missed; and of each session it is known exactly how many lines were taken.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chat_pair::server::batch::Lines;
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::room::{Room, Speaker, Subscription};
use chat_pair::server::sessions::Asked;
use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use tokio::time::Instant;

use crate::direct::Socket;
use crate::support::raw::{missed, short_texts};

const PEOPLE: usize = 5;
/// Those who have a session; the others never ask for one.
const WITH_SESSION: usize = 4;

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Somebody says so many lines; the next batch has them.
    Say(usize, usize),
    /// The batch is published.
    Publish,
    /// Somebody comes in, or comes back while its old connection is still there.
    Enter(usize, From, u64),
    /// Somebody's connection ends.
    Cut(usize),
    /// A connection that was replaced ends.
    Bury,
    /// Somebody reads once.
    Read(usize),
    /// Somebody reads all that is there.
    ReadAll(usize),
    /// The system takes so many bytes more for somebody.
    Take(usize, usize),
    /// Somebody has something else to write, and takes its socket back.
    TakeBack(usize),
    /// Somebody is too slow.
    Pause(usize),
    /// So much time passes that those who are away are forgotten.
    Forget,
}

/// From where on a session wants to hear.
#[derive(Clone, Copy, Debug)]
enum From {
    Now,
    Last,
    /// So many lines before that.
    Earlier(u64),
    OtherEpoch,
    Future,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let from = prop_oneof![
        2 => Just(From::Now),
        6 => Just(From::Last),
        2 => (1..6_u64).prop_map(From::Earlier),
        1 => Just(From::OtherEpoch),
        1 => Just(From::Future),
    ];
    let who = 0..PEOPLE;
    let event = prop_oneof![
        8 => (who.clone(), 1..4_usize).prop_map(|(who, lines)| Event::Say(who, lines)),
        3 => Just(Event::Publish),
        4 => (who.clone(), from, 0..9_u64).prop_map(|(who, from, sent)| Event::Enter(who, from, sent)),
        2 => who.clone().prop_map(Event::Cut),
        1 => Just(Event::Bury),
        3 => who.clone().prop_map(Event::Read),
        3 => who.clone().prop_map(Event::ReadAll),
        3 => (who.clone(), 1..60_usize).prop_map(|(who, bytes)| Event::Take(who, bytes)),
        1 => who.clone().prop_map(Event::TakeBack),
        2 => who.prop_map(Event::Pause),
        1 => Just(Event::Forget),
    ];
    vec(event, 0..120)
}

/// What a room has to do, said in the simplest way.
struct Model {
    limits: Limits,
    /// Who said each line. The text of a line is its position.
    log: Vec<usize>,
    /// The sessions that are remembered.
    sessions: HashMap<usize, Session>,
    /// Since which line the past is kept.
    kept_from: u64,
    /// Counts departures.
    departures: u64,
}

struct Session {
    taken: u64,
    /// The same when it began.
    sent: u64,
    /// The position at which it began.
    began: u64,
    /// When it left, if it has.
    left: Option<u64>,
}

impl Model {
    fn end(&self) -> u64 {
        self.log.len() as u64
    }

    fn is_kept(&self) -> bool {
        self.limits.history > 0 || !self.sessions.is_empty()
    }

    /// The first line that must be kept; none must be if few bytes may be.
    fn start(&self) -> u64 {
        if !self.is_kept() || self.limits.window < Limits::DEFAULT.window {
            return self.end();
        }
        self.kept_from
            .max(self.end().saturating_sub(self.limits.window_lines))
    }

    /// How many lines between two positions are not this one's.
    fn others(&self, who: usize, from: u64, to: u64) -> u64 {
        let lines = &self.log[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
        lines.iter().filter(|author| **author != who).count() as u64
    }

    fn say(&mut self, who: usize) {
        self.log.push(who);
        if let Some(session) = self.sessions.get_mut(&who) {
            session.taken += 1;
        }
    }

    fn forget(&mut self, which: impl Fn(&Session) -> bool) {
        self.sessions.retain(|_, session| !which(session));
        if !self.is_kept() {
            self.kept_from = self.end();
        }
    }

    /// Whether the room knows how many lines from a position on are the session's own.
    fn knows_own(&self, who: usize, from: u64) -> bool {
        let own = |at: &u64| self.log[usize::try_from(*at).unwrap()] == who;
        let began = self.sessions[&who].began;
        let since: Vec<_> = (from.max(began)..self.end()).filter(own).collect();
        from >= began && since.windows(2).all(|two| two[0] + 1 == two[1])
    }

    /// Somebody asks for a session; it is remembered from now on.
    fn session(&mut self, who: usize, sent: u64) {
        if let Some(session) = self.sessions.get_mut(&who) {
            session.left = None;
            return;
        }
        while self.sessions.len() >= self.limits.sessions {
            let gone = self.sessions.values();
            let gone =
                gone.filter_map(|session| Some((session.taken > session.sent, session.left?)));
            let Some((_, oldest)) = gone.min() else { break };
            self.forget(|session| session.left == Some(oldest));
        }
        if !self.is_kept() {
            self.kept_from = self.end();
        }
        let session = Session {
            taken: sent,
            sent,
            began: self.end(),
            left: None,
        };
        self.sessions.insert(who, session);
    }

    fn leave(&mut self, who: usize) {
        self.departures += 1;
        if let Some(session) = self.sessions.get_mut(&who) {
            session.left = Some(self.departures);
        }
    }
}

/// Somebody's connection, as a client sees it.
struct Connection {
    speaker: Speaker,
    subscription: Subscription,
    /// What the room may write to.
    socket: Arc<Socket>,
    /// What was written and is not heard yet.
    unheard: Vec<u8>,
    /// Who says its lines: whose the session is, or nobody else.
    author: usize,
    /// Everything before this was heard, is its own, or was missed.
    next: u64,
    /// How many lines it was told to have missed since then; `None` if it was told that it does not
    /// know how many.
    missed: Option<u64>,
    /// Whether the room may not know how many.
    vague: bool,
    /// What the last `@` says of the next line.
    marked: Option<u64>,
    /// Where what is earlier ends.
    now: Option<u64>,
}

struct World {
    room: Arc<Room>,
    model: Model,
    epoch: String,
    connections: HashMap<usize, Connection>,
    /// Those that were replaced.
    buried: Vec<Connection>,
    /// Where each was last.
    last: HashMap<usize, u64>,
}

impl World {
    fn new(limits: &Limits) -> Self {
        Self {
            room: Room::open(limits),
            model: Model {
                limits: limits.clone(),
                log: Vec::new(),
                sessions: HashMap::new(),
                kept_from: 0,
                departures: 0,
            },
            epoch: String::new(),
            connections: HashMap::new(),
            buried: Vec::new(),
            last: HashMap::new(),
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Say(who, lines) => self.say(who, lines),
            Event::Publish => assert!(self.room.clone().publish().now_or_never().is_none()),
            Event::Enter(who, from, sent) => self.enter(who, from, sent),
            Event::Cut(who) => {
                if let Some(connection) = self.connections.remove(&who) {
                    self.last.insert(who, connection.next);
                    self.model.leave(who);
                }
            }
            Event::Bury => drop(self.buried.pop()),
            Event::Read(who) => _ = self.read(who),
            Event::ReadAll(who) => self.read_all(who),
            Event::Take(who, bytes) => {
                if let Some(connection) = self.connections.get_mut(&who) {
                    connection.socket.take(bytes);
                }
            }
            Event::TakeBack(who) => {
                if let Some(connection) = self.connections.get_mut(&who) {
                    let frames = connection.subscription.take_back();
                    connection.write(&frames);
                }
            }
            Event::Pause(who) => {
                if let Some(connection) = self.connections.get_mut(&who) {
                    connection.subscription.pause();
                }
            }
            Event::Forget => {
                let later = Instant::now() + self.model.limits.session;
                self.room.history(|past| past.forget(later));
                self.model.forget(|session| session.left.is_some());
            }
        }
        for connection in &self.buried {
            assert!(connection.speaker.replaced().now_or_never().is_some());
        }
        for connection in self.connections.values() {
            assert!(connection.speaker.replaced().now_or_never().is_none());
        }
    }

    fn say(&mut self, who: usize, count: usize) {
        let name = Identity::of("n");
        let mut lines = Lines::default();
        for n in 0..count {
            lines.push(&name, &(self.model.log.len() + n).to_string());
        }
        // Whoever was replaced says the same, and it is not taken.
        for connection in &self.buried {
            let said = connection.speaker.say(&lines).now_or_never();
            assert!(said.expect("space").is_err());
        }
        if let Some(connection) = self.connections.get(&who) {
            let said = connection.speaker.say(&lines).now_or_never();
            said.expect("space").expect("it was not replaced");
            (0..count).for_each(|_| self.model.say(connection.author));
        }
    }

    fn enter(&mut self, who: usize, from: From, sent: u64) {
        let end = self.model.end();
        if who >= WITH_SESSION {
            if self.connections.contains_key(&who) {
                return;
            }
            let (speaker, subscription, first) = self.room.enter_as(None).unwrap();
            assert!(first.is_none());
            self.arrive(who, speaker, subscription, None);
            return;
        }
        let last = self.connections.get(&who).map(|connection| connection.next);
        let last = last.or(self.last.get(&who).copied()).unwrap_or(end);
        let after = match from {
            From::Now => None,
            // Before the epoch is known there is nothing to come back to.
            _ if self.epoch.is_empty() => None,
            From::Last => Some(last),
            From::Earlier(lines) => Some(last.saturating_sub(lines)),
            From::OtherEpoch => Some(0),
            From::Future => Some(end + 1),
        };
        let epoch = match from {
            From::OtherEpoch => "another",
            _ => &self.epoch,
        };
        let text = after.map(|position| format!("{epoch}.{position}"));
        let key = format!("the-session-of-number-{who}");
        let sent_text = sent.to_string();
        let asked = Asked::new(Some(&key), text.as_deref(), Some(&sent_text));
        let entered = self.room.enter_as(asked.unwrap().as_ref());
        if after.is_some_and(|after| after > end) && !matches!(from, From::OtherEpoch) {
            assert!(entered.is_err());
            return;
        }
        let (speaker, subscription, first) = entered.unwrap();
        self.model.session(who, sent);
        let first = short_texts(&first.unwrap()).concat();
        let words: Vec<_> = first.strip_prefix('@').unwrap().split(' ').collect();
        let [epoch, position, taken] = words[..] else {
            panic!("{first}");
        };
        if self.epoch.is_empty() {
            epoch.clone_into(&mut self.epoch);
        }
        assert_eq!(epoch, self.epoch);
        assert_eq!(taken, self.model.sessions[&who].taken.to_string());
        if let Some(old) = self.connections.remove(&who) {
            self.buried.push(old);
        }
        let after = match from {
            From::OtherEpoch => after.map(|_| Err(())),
            _ => after.map(Ok),
        };
        let began = self.arrive(who, speaker, subscription, after);
        assert_eq!(position, began.to_string());
    }

    /// Somebody is in. It hears from `after` on, or from now on if that was of another epoch. Returns
    /// the position from which it hears.
    fn arrive(
        &mut self,
        who: usize,
        speaker: Speaker,
        mut subscription: Subscription,
        after: Option<Result<u64, ()>>,
    ) -> u64 {
        let socket = Arc::new(Socket::default());
        if who.is_multiple_of(2) {
            subscription.lend_when_up_to_date(socket.clone());
        }
        let (model, end) = (&self.model, self.model.end());
        let author = match who {
            ..WITH_SESSION => who,
            _ => PEOPLE + usize::try_from(speaker.id()).unwrap(),
        };
        let first = end.saturating_sub(model.limits.history).max(model.start());
        let mut connection = Connection {
            speaker,
            subscription,
            socket,
            unheard: Vec::new(),
            author,
            next: end,
            missed: Some(0),
            vague: false,
            marked: None,
            now: None,
        };
        let mut expected = None;
        match after {
            None => match model.others(author, first, end) {
                0 => {}
                lines => {
                    expected = Some(format!("* {lines} earlier messages"));
                    (connection.next, connection.now) = (first, Some(end));
                }
            },
            Some(Ok(position)) => {
                connection.next = position;
                connection.vague = !model.knows_own(who, position);
            }
            Some(Err(())) => {
                expected = Some("* what was said before is not known here".to_owned());
            }
        }
        let began = connection.next;
        self.connections.insert(who, connection);
        if let Some(expected) = expected {
            let connection = self.connections.get_mut(&who).unwrap();
            let frames = connection.subscription.next_frames().now_or_never();
            let mut heard = short_texts(&frames.unwrap().unwrap().concat()).into_iter();
            assert_eq!(heard.next(), Some(expected));
            self.hear(who, heard);
        }
        began
    }

    /// Reads once; returns whether there was anything.
    fn read(&mut self, who: usize) -> bool {
        let Some(connection) = self.connections.get_mut(&who) else {
            return false;
        };
        let frames = connection.subscription.next_frames().now_or_never();
        let frames = frames.map(|frames| frames.expect("the room is open"));
        connection.write(frames.as_deref().unwrap_or_default());
        let heard = short_texts(&std::mem::take(&mut connection.unheard));
        let is_more = frames.is_some() || !heard.is_empty();
        self.hear(who, heard.into_iter());
        is_more
    }

    fn read_all(&mut self, who: usize) {
        while self.read(who) {}
    }

    /// Somebody hears these texts.
    fn hear(&mut self, who: usize, texts: impl Iterator<Item = String>) {
        let model = &self.model;
        let connection = self.connections.get_mut(&who).unwrap();
        for text in texts {
            if text == "* now" {
                let now = connection.now.take().expect("something earlier");
                assert!(connection.next <= now.max(model.start()));
            } else if text == "* some messages missed" {
                assert!(connection.vague, "the room can know how many");
                assert!(connection.next < model.start());
                (connection.missed, connection.vague) = (None, false);
            } else if let Some(count) = missed(&text) {
                assert!(connection.next < model.start(), "it is kept");
                connection.missed = connection.missed.map(|before| before + count);
            } else if let Some(mark) = text.strip_prefix('@') {
                let (position, _) = mark.split_once(' ').unwrap();
                connection.marked = Some(position.parse().unwrap());
            } else {
                let position: u64 = text.strip_prefix("n: ").unwrap().parse().unwrap();
                assert!(
                    position >= connection.next,
                    "{text} after {}",
                    connection.next
                );
                assert_ne!(
                    model.log[usize::try_from(position).unwrap()],
                    connection.author
                );
                assert!(connection.now.is_none_or(|now| position < now));
                connection.pass(model, position);
                connection.next = position + 1;
                assert_eq!(connection.marked.is_some(), who < WITH_SESSION);
                if let Some(marked) = &mut connection.marked {
                    assert_eq!(*marked, position);
                    *marked += 1;
                }
            }
        }
    }

    /// Everybody who is there hears all, and is told of all that it does not hear.
    fn ends(&mut self) {
        for who in 0..PEOPLE {
            self.happens(Event::Publish);
            self.read_all(who);
            let end = self.model.end();
            if let Some(connection) = self.connections.get_mut(&who) {
                connection.pass(&self.model, end);
                assert_eq!(connection.now, None);
            }
        }
    }
}

impl Connection {
    /// Writes frames behind what the room has written.
    fn write(&mut self, frames: &[Bytes]) {
        self.unheard.extend(self.socket.written());
        self.unheard.extend(frames.concat());
    }

    /// What is between the last line and this position is its own, or it was told of it.
    fn pass(&mut self, model: &Model, position: u64) {
        let others = model.others(self.author, self.next, position);
        let missed = self.missed.replace(0);
        assert!(
            missed.is_none_or(|missed| missed == others),
            "{missed:?} of {others}"
        );
        self.next = position;
    }
}

fn run(limits: &Limits, events: Vec<Event>) {
    let mut world = World::new(limits);
    for event in events {
        world.happens(event);
    }
    world.ends();
}

fn small() -> Limits {
    Limits {
        window_lines: 10,
        sessions: 3,
        ring: 1024,
        backlog: 1024 * 1024,
        ..Limits::DEFAULT
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(400) })]

    #[test]
    fn a_log_without_history_is_as_the_model(events in events()) {
        run(&small(), events);
    }

    #[test]
    fn a_log_with_history_is_as_the_model(events in events()) {
        run(&Limits { history: 4, ..small() }, events);
    }

    #[test]
    fn a_log_of_few_bytes_is_as_the_model(events in events()) {
        run(&Limits { window: 600, gather: 60, ..small() }, events);
    }
}
