//! Who is here: those in a room are told who comes and who goes.
//!
//! A thousand who come at once must not cost a million notices. So those of one moment are
//! gathered, and named in one line by a task of the room. Whoever is back within a few seconds has
//! not left: a reconnect under the same name is not news. Of two who had the name one after the other, a session
//! tells which.
//!
//! If several servers have the room, each tells the others who is in it there. Somebody is known by its
//! name, here as there: who goes from one server to another has neither come nor left.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::server::batch::{Audience, Lines};
use crate::server::frame;
use crate::server::limits::Limits;
use crate::server::room::{Room, Speaker};

/// Who is in one room.
#[derive(Debug)]
pub struct Presence {
    state: Mutex<State>,
    /// There is something to tell, or the room is about to end.
    changed: Notify,
    /// There is something to tell the other servers.
    moved: Notify,
    /// Who is on other servers is known, as far as it can be.
    known: watch::Sender<bool>,
    limits: Limits,
}

/// Those who are in the room on another server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// Those that were there first, in the order in which they came.
    pub names: Vec<String>,
    /// How many more there are.
    pub more: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Those who are here, in the order in which they came.
    here: BTreeMap<u64, String>,
    /// The sessions of those of them who have one.
    sessions: BTreeMap<u64, u64>,
    /// Those of them of whom the others have not been told, and when that is to be told.
    joined: BTreeMap<u64, String>,
    tell_joined: Option<Instant>,
    /// Those who have left, and when that is to be told.
    left: VecDeque<(Instant, String, Who)>,
    /// Those who are on other servers.
    elsewhere: BTreeMap<u64, People>,
    /// Names that came on other servers and are not announced yet, by who had come here last before them: those
    /// who come here later learn of them at once.
    joined_elsewhere: BTreeMap<u64, Vec<String>>,
    /// Who came here last.
    newest: u64,
    ended: bool,
}

/// The session of somebody, if it has one; `None` if that is not known, since it was on another server.
type Who = Option<Option<u64>>;

impl Presence {
    /// Starts the task that tells. `None` when the room is closed. If it is `shared`, other servers have
    /// the room, too.
    pub fn begin(room: &Arc<Room>, limits: &Limits, shared: bool) -> Option<Arc<Self>> {
        let (speaker, _) = room.enter()?;
        let presence = Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            moved: Notify::new(),
            known: watch::Sender::new(!shared),
            limits: limits.clone(),
        });
        tokio::spawn(presence.clone().tell(speaker));
        Some(presence)
    }

    /// Somebody has come, perhaps with a session. Returns the frame that tells them who is here.
    pub fn join(&self, id: u64, name: &str, session: Option<u64>) -> Bytes {
        let mut state = self.state();
        let (others, more) = state.others(name, session);
        let here = match listed(others.into_iter(), self.limits.names_here, more) {
            none if none.is_empty() => "nobody else is here".to_owned(),
            others => format!("here: {others}"),
        };
        state.here.insert(id, name.to_owned());
        state.sessions.extend(session.map(|session| (id, session)));
        state.newest = id;
        self.moved.notify_one();
        let is_back = state.is_back(name, Some(session), &self.limits);
        if !is_back && !state.is_elsewhere(name) {
            state.joined.insert(id, name.to_owned());
            let soon = Instant::now() + self.limits.moment;
            state.tell_joined.get_or_insert(soon);
            self.changed.notify_one();
        }
        frame::notice(&here)
    }

    /// Somebody has left. Nobody need be told of those who were only here for a moment in which nobody else
    /// has come, who would know of them.
    pub fn leave(&self, id: u64) {
        let mut state = self.state();
        let Some(name) = state.here.remove(&id) else {
            return;
        };
        let session = state.sessions.remove(&id);
        self.moved.notify_one();
        let is_unknown = state.newest == id && state.joined.remove(&id).is_some();
        if !is_unknown && !state.is_elsewhere(&name) {
            state.miss(name, Some(session), &self.limits);
            self.changed.notify_one();
        }
    }

    /// These are on another server now, and nobody else. That they have come is told if it is news.
    pub fn elsewhere(&self, server: u64, people: People, is_news: bool) {
        let mut state = self.state();
        let before = state.elsewhere.remove(&server).unwrap_or_default();
        if before == people {
            state
                .elsewhere
                .extend((!people.is_nobody()).then_some((server, people)));
            return;
        }
        let there = |state: &State, people: &People, known: &People| {
            let here = state.here.values().map(String::as_str);
            let elsewhere = state.elsewhere.values().flat_map(|people| &people.names);
            let here = here.chain(elsewhere.map(String::as_str));
            let here: HashSet<_> = here.chain(known.names.iter().map(String::as_str)).collect();
            let names = people
                .names
                .iter()
                .filter(|name| !here.contains(name.as_str()));
            names.cloned().collect::<Vec<_>>()
        };
        for name in there(&state, &people, &before) {
            // Whoever was there already, but not named, has not come.
            if !state.is_back(&name, None, &self.limits) && is_news && before.more == 0 {
                let newest = state.newest;
                state.joined_elsewhere.entry(newest).or_default().push(name);
                let soon = Instant::now() + self.limits.moment;
                state.tell_joined.get_or_insert(soon);
            }
        }
        for name in there(&state, &before, &people) {
            // Whoever came here since then knows of them.
            let newest = state.newest;
            let joined = state.joined_elsewhere.get_mut(&newest);
            let is_unknown = joined.is_some_and(|joined| {
                let at = joined.iter().position(|joined| *joined == name);
                at.map(|at| joined.remove(at)).is_some()
            });
            if !is_unknown {
                state.miss(name, None, &self.limits);
            }
        }
        if !people.is_nobody() {
            state.elsewhere.insert(server, people);
        }
        self.changed.notify_one();
    }

    /// Those who are here, with so many bytes of names at most.
    #[must_use]
    pub fn people(&self, most: usize) -> People {
        let state = self.state();
        let mut bytes = 0;
        let names = state.here.values().take_while(|name| {
            bytes += name.len() + 1;
            bytes <= most
        });
        let names: Vec<_> = names.cloned().collect();
        let more = state.here.len() - names.len();
        People { names, more }
    }

    /// Waits until somebody has come or left here, or the room is about to end. Returns whether it is.
    pub async fn moved(&self) -> bool {
        self.moved.notified().await;
        self.state().ended
    }

    /// What can be known of the other servers is known now.
    pub fn set_known(&self) {
        self.known.send_replace(true);
    }

    /// Waits until it is.
    pub async fn known(&self) {
        // An error cannot be, since the sender is here.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// The room is about to end: nothing more is told.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
        self.moved.notify_one();
    }

    /// The task. It ends, and gives the right to speak back, when the room is about to end.
    async fn tell(self: Arc<Self>, speaker: Speaker) {
        while !self.state().ended {
            let next = self.state().next(self.limits.moment);
            tokio::select! {
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                () = self.changed.notified() => continue,
            }
            for notice in self.notices() {
                if speaker.say(&notice).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What is to be told now.
    fn notices(&self) -> Vec<Lines> {
        let mut state = self.state();
        let now = Instant::now();
        let (mut joined, mut elsewhere) = (BTreeMap::new(), BTreeMap::new());
        if state.tell_joined.is_some_and(|due| due <= now) {
            joined = std::mem::take(&mut state.joined);
            elsewhere = std::mem::take(&mut state.joined_elsewhere);
            state.tell_joined = None;
        }
        let first = state.left.front();
        let is_due = first.is_some_and(|(due, ..)| *due + self.limits.moment <= now);
        let due = if is_due {
            state.left.partition_point(|(due, ..)| *due <= now)
        } else {
            0
        };
        let left = state.left.drain(..due).map(|(_, name, _)| name);
        let left: Vec<_> = left.collect();
        drop(state);
        let most = self.limits.names_told;
        let mut notices = Vec::new();
        if !left.is_empty() {
            let names = listed(left.iter().map(String::as_str), most, 0);
            notices.push(Lines::notice(&format!("{names} left"), None));
        }
        if let Some((&first, _)) = joined.first_key_value() {
            let names = listed(joined.values().map(String::as_str), most, 0);
            let audience = Some(Audience::Before(first));
            notices.push(Lines::notice(&format!("{names} joined"), audience));
        }
        // Whoever came in this moment knows those who came before, and is told of those behind.
        let names: Vec<_> = joined.values().map(String::as_str).collect();
        for (n, &id) in joined.keys().enumerate() {
            let behind = &names[n + 1..];
            if !behind.is_empty() {
                let text = format!("{} joined", listed(behind.iter().copied(), most, 0));
                notices.push(Lines::notice(&text, Some(Audience::Only(id))));
            }
        }
        // Whoever came here later knows of them.
        for (newest, names) in elsewhere.iter().filter(|(_, names)| !names.is_empty()) {
            let names = listed(names.iter().map(String::as_str), most, 0);
            let audience = Some(Audience::Before(newest + 1));
            notices.push(Lines::notice(&format!("{names} joined"), audience));
        }
        notices
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl People {
    fn is_nobody(&self) -> bool {
        self.names.is_empty() && self.more == 0
    }
}

impl State {
    /// All but the one with this name and perhaps this session, those included who may be back soon, and how
    /// many more there are of whom no name is known.
    fn others(&self, name: &str, session: Option<u64>) -> (Vec<&str>, usize) {
        let mut others: Vec<_> = self.here.values().map(String::as_str).collect();
        if !self.elsewhere.is_empty() || !self.left.is_empty() {
            let mut known: HashSet<_> = others.iter().copied().chain([name]).collect();
            let elsewhere = self.elsewhere.values().flat_map(|people| &people.names);
            let is_other = |who: Who| session.is_none() || who != Some(session);
            let away = self.left.iter().filter(|(.., who)| is_other(*who));
            let away = away.map(|(_, name, _)| name);
            let more = elsewhere.chain(away).map(String::as_str);
            others.extend(more.filter(|name| known.insert(name)));
        }
        let more = self.elsewhere.values().map(|people| people.more).sum();
        (others, more)
    }

    fn is_elsewhere(&self, name: &str) -> bool {
        let mut elsewhere = self.elsewhere.values().flat_map(|people| &people.names);
        elsewhere.any(|other| other == name)
    }

    /// Whether somebody had left, and is back. If it is another who has come with its name, it will not
    /// be back, and that is told first.
    fn is_back(&mut self, name: &str, who: Who, limits: &Limits) -> bool {
        let at = self.left.iter().position(|(_, left, _)| left == name);
        let Some((_, left, before)) = at.and_then(|at| self.left.remove(at)) else {
            return false;
        };
        if let (Some(before), Some(now)) = (before, who)
            && before != now
        {
            let now = Instant::now();
            let due = now.checked_sub(limits.moment).unwrap_or(now);
            self.left.push_front((due, left, Some(before)));
            return false;
        }
        true
    }

    /// Somebody has left, and might be back.
    fn miss(&mut self, name: String, who: Who, limits: &Limits) {
        if self.left.len() >= limits.names_left {
            self.left.pop_front();
        }
        let due = Instant::now() + limits.absence;
        self.left.push_back((due, name, who));
    }

    /// When there is something to tell, if there is anything. Those who left within a moment are
    /// told together, too.
    fn next(&self, moment: Duration) -> Option<Instant> {
        let left = self.left.front().map(|(due, ..)| *due + moment);
        self.tell_joined.into_iter().chain(left).min()
    }
}

/// So many names at most, and how many more there are: `ana, budi and 30 more`.
fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>, most: usize, more: usize) -> String {
    let more = names.len().saturating_sub(most) + more;
    let some = names.take(most).collect::<Vec<_>>().join(", ");
    match more {
        0 => some,
        more if some.is_empty() => format!("{more} more"),
        more => format!("{some} and {more} more"),
    }
}
