//! Who is here: those in a room are told who comes and who goes.
//!
//! A thousand who come at once must not cost a million notices. So those of one moment are
//! gathered, and named in one line by a task of the room. Whoever is back within a few seconds has
//! not left: a reconnect is not news. It is known by its session, or by its name if it has none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
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
    limits: Limits,
}

#[derive(Debug, Default)]
struct State {
    /// Those who are here, in the order in which they came.
    here: BTreeMap<u64, Person>,
    /// Those of them of whom the others have not been told, and when that is to be told.
    joined: BTreeMap<u64, String>,
    tell_joined: Option<Instant>,
    /// Those who have left, and when that is to be told.
    left: VecDeque<(Instant, Person)>,
    ended: bool,
}

/// Somebody, as the others know it.
#[derive(Debug, PartialEq, Eq)]
struct Person {
    name: String,
    session: Option<u64>,
}

impl Presence {
    /// Starts the task that tells. `None` when the room is closed.
    pub fn begin(room: &Arc<Room>, limits: &Limits) -> Option<Arc<Self>> {
        let (speaker, _) = room.enter()?;
        let presence = Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            limits: limits.clone(),
        });
        tokio::spawn(presence.clone().tell(speaker));
        Some(presence)
    }

    /// Somebody has come, perhaps with a session. Returns the frame that tells them who is here.
    pub fn join(&self, id: u64, name: &str, session: Option<u64>) -> Bytes {
        let mut state = self.state();
        let others = state.here.values().map(|person| &*person.name);
        let here = match listed(others, self.limits.names_here) {
            none if none.is_empty() => "nobody else is here".to_owned(),
            others => format!("here: {others}"),
        };
        let name = name.to_owned();
        let person = Person { name, session };
        let back = state
            .left
            .iter()
            .position(|(_, left)| left.name == person.name);
        let back = back.and_then(|at| state.left.remove(at));
        let is_back = back.as_ref().is_some_and(|(_, left)| *left == person);
        if let Some((_, other)) = back.filter(|_| !is_back) {
            // Its name is another's now, so it will not be back.
            let now = Instant::now();
            let due = now.checked_sub(self.limits.moment).unwrap_or(now);
            state.left.push_front((due, other));
        }
        if !is_back {
            state.joined.insert(id, person.name.clone());
            let soon = Instant::now() + self.limits.moment;
            state.tell_joined.get_or_insert(soon);
            self.changed.notify_one();
        }
        state.here.insert(id, person);
        frame::notice(&here)
    }

    /// Somebody has left. Nobody need be told of those who were only here for a moment.
    pub fn leave(&self, id: u64) {
        let mut state = self.state();
        let Some(person) = state.here.remove(&id) else {
            return;
        };
        if state.joined.remove(&id).is_some() {
            return;
        }
        if state.left.len() >= self.limits.names_left {
            state.left.pop_front();
        }
        state
            .left
            .push_back((Instant::now() + self.limits.absence, person));
        self.changed.notify_one();
    }

    /// The room is about to end: nothing more is told.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
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
    fn notices(&self) -> Vec<Lines<'static>> {
        let mut state = self.state();
        let now = Instant::now();
        let mut joined = BTreeMap::new();
        if state.tell_joined.is_some_and(|due| due <= now) {
            joined = std::mem::take(&mut state.joined);
            state.tell_joined = None;
        }
        let first = state.left.front();
        let is_due = first.is_some_and(|(due, _)| *due + self.limits.moment <= now);
        let due = if is_due {
            state.left.partition_point(|(due, _)| *due <= now)
        } else {
            0
        };
        let left: Vec<_> = state.left.drain(..due).map(|(_, left)| left.name).collect();
        drop(state);
        let most = self.limits.names_told;
        let mut notices = Vec::new();
        if !left.is_empty() {
            let names = listed(left.iter().map(String::as_str), most);
            notices.push(Lines::notice(&format!("{names} left"), None));
        }
        if let Some((&first, _)) = joined.first_key_value() {
            let names = listed(joined.values().map(String::as_str), most);
            let audience = Some(Audience::Before(first));
            notices.push(Lines::notice(&format!("{names} joined"), audience));
        }
        // Whoever came in this moment knows those who came before, and is told of those behind.
        let names: Vec<_> = joined.values().map(String::as_str).collect();
        for (n, &id) in joined.keys().enumerate() {
            let behind = &names[n + 1..];
            if !behind.is_empty() {
                let text = format!("{} joined", listed(behind.iter().copied(), most));
                notices.push(Lines::notice(&text, Some(Audience::Only(id))));
            }
        }
        notices
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When there is something to tell, if there is anything. Those who left within a moment are
    /// told together, too.
    fn next(&self, moment: Duration) -> Option<Instant> {
        let left = self.left.front().map(|(due, _)| *due + moment);
        self.tell_joined.into_iter().chain(left).min()
    }
}

/// So many names at most, and how many more there are: `ana, budi and 30 more`.
fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>, most: usize) -> String {
    let more = names.len().saturating_sub(most);
    let some = names.take(most).collect::<Vec<_>>().join(", ");
    match more {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}
