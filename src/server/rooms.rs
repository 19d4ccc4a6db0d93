//! Rooms and the names in them. The path of a request is the room, and `?name=` is the name.
//!
//! A room comes into being when somebody enters. It is gone with the last one, unless somebody may
//! come back to a session there, or newcomers are shown what was said before: then it stays, empty,
//! until that is over or its place is needed. Rooms have nothing in common but the budget for what
//! is kept of them: each has its own channel, its own space and its own names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use http::{StatusCode, Uri};
use tokio::time::{Instant, sleep, timeout};

use crate::server::access::Pass;
use crate::server::ended::Ended;
use crate::server::handshake::{NOT_KNOWN, Refusal, SHUTTING_DOWN, refuse};
use crate::server::history::History;
use crate::server::identity::Identity;
use crate::server::limits::Limits;
use crate::server::name::{self, Name, Names};
use crate::server::presence::Presence;
use crate::server::room::{Room, Speaker, StoreAnswer, Subscription};
use crate::server::sessions::{Asked, NO_AFTER, NO_SENT, NO_SESSION};
use crate::server::store::{Claim, Store, Unclaimed};
use crate::server::window::Budget;

/// The longest name of a room.
const LONGEST: usize = 64;

const NO_ROOM: Refusal = refuse(
    StatusCode::BAD_REQUEST,
    "there is no such room: a room is / or a slash and 1 to 64 of a to z, 0 to 9, - and _",
);
const NO_NAME: Refusal = refuse(StatusCode::BAD_REQUEST, name::RULE);
const SEVERAL_NAMES: Refusal = refuse(StatusCode::BAD_REQUEST, "there is one name at most");
const TOO_MANY_ROOMS: Refusal = refuse(
    StatusCode::SERVICE_UNAVAILABLE,
    "there are too many rooms: enter one that is there, or try again later",
);

/// What is the matter when nobody can enter any more.
const ENDING: &str = "the server is shutting down";

/// All rooms in which somebody is, or was.
#[derive(Debug)]
pub struct Rooms {
    state: Mutex<State>,
    limits: Limits,
    budget: Arc<Budget>,
    /// Whether those in a room are told who comes and goes.
    presence: bool,
    store: Option<Store>,
}

#[derive(Debug, Default)]
struct State {
    rooms: HashMap<String, Entry>,
    /// The server ends soon, …
    ending: bool,
    /// … and lets nobody in any more.
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    room: Arc<Room>,
    members: usize,
    /// Since when there are none.
    empty: Option<Instant>,
    names: Names,
    presence: Option<Arc<Presence>>,
}

/// Who has entered a room.
#[derive(Debug)]
pub struct Member {
    /// How it is called.
    pub identity: Identity,
    /// Its right to speak.
    pub speaker: Speaker,
    /// What it hears.
    pub subscription: Subscription,
    /// The first frames that it gets: where in the log it is, if it asked, and who is here.
    pub greeting: Vec<Bytes>,
    /// Its place in the room, which it has until this is dropped.
    pub place: Place,
}

/// A place in a room. When the last one is dropped the room is gone, unless its past is needed.
#[derive(Debug)]
pub struct Place {
    rooms: Arc<Rooms>,
    room: String,
    id: u64,
    name: Option<Name>,
    /// The name on all servers, if there are several.
    claim: Option<Claim>,
}

/// A room, who is in it, and a place there.
type Held = (Arc<Room>, Option<Arc<Presence>>, Place);

impl Rooms {
    /// No rooms yet. To be called within a Tokio runtime.
    #[must_use]
    pub fn new(limits: &Limits, presence: bool) -> Arc<Self> {
        Self::stored(limits, presence, None)
    }

    /// No rooms yet, and the store of their logs, if there is one.
    #[must_use]
    pub fn stored(limits: &Limits, presence: bool, store: Option<Store>) -> Arc<Self> {
        let rooms = Arc::new(Self {
            state: Mutex::default(),
            limits: limits.clone(),
            budget: Budget::new(limits.windows),
            presence,
            store,
        });
        tokio::spawn(forget(
            Arc::downgrade(&rooms),
            rooms.budget.clone(),
            limits.clone(),
        ));
        rooms
    }

    /// Lets a client, which came from `address`, into the room that `target` names, under the name
    /// that it asks for, or the one that `pass` gives it. To be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no such room, name or session, or the name is taken or not for this client, or there is no
    /// place for another room.
    pub fn enter(
        self: &Arc<Self>,
        target: &Uri,
        address: &str,
        pass: &mut Pass,
    ) -> Result<Member, Refusal> {
        let wanted = wanted(target)?;
        let name = pass.name(wanted.name)?;
        let entered =
            self.enter_knowing(wanted.path, name, wanted.session.as_ref(), address, None)?;
        entered.ok_or(NOT_KNOWN) // It is never asked for anything without a store.
    }

    /// As [`Rooms::enter`], when it is known what the store has of the room, if there is a store.
    ///
    /// # Errors
    ///
    /// As there, and when the store cannot be read.
    pub async fn enter_when_known(
        self: &Arc<Self>,
        target: &Uri,
        address: &str,
        pass: &mut Pass,
    ) -> Result<Member, Refusal> {
        let Some(store) = &self.store else {
            return self.enter(target, address, pass);
        };
        let wanted = wanted(target)?;
        let (name, session) = (pass.name(wanted.name)?, wanted.session.as_ref());
        // A place in the room as long as this takes, so that it is not dropped meanwhile.
        let (room, presence, _place) = self.hold(wanted.path)?;
        let mut claim = None;
        if let Some(name) = &name {
            let claimed = store.claim(wanted.path, name, session.map(|asked| &asked.key));
            claim = claimed.await.map_err(|why| match why {
                Unclaimed::Taken => taken(name),
                Unclaimed::Moved | Unclaimed::Unknown => NOT_KNOWN,
            })?;
        }
        if let Some(presence) = presence {
            presence.known().await;
        }
        loop {
            let answer = room.ask(session).await.ok_or(NOT_KNOWN)?;
            let entered =
                self.enter_knowing(wanted.path, name.clone(), session, address, Some(&answer))?;
            if let Some(mut member) = entered {
                member.place.claim = claim;
                return Ok(member);
            }
        }
    }

    /// A place in a room, for nobody who could speak or hear there.
    fn hold(self: &Arc<Self>, path: &str) -> Result<Held, Refusal> {
        let mut state = self.state();
        let entry = self.entry(&mut state, path)?;
        entry.let_in();
        let place = Place {
            rooms: self.clone(),
            room: path.to_owned(),
            id: 0, // No connection has it.
            name: None,
            claim: None,
        };
        Ok((entry.room.clone(), entry.presence.clone(), place))
    }

    /// A room, which is opened if it is not there.
    fn entry<'s>(&self, state: &'s mut State, path: &str) -> Result<&'s mut Entry, Refusal> {
        if state.closed {
            return Err(SHUTTING_DOWN);
        }
        if !state.rooms.contains_key(path)
            && state.rooms.len() >= self.limits.rooms
            && !state.drop_oldest()
        {
            return Err(TOO_MANY_ROOMS);
        }
        let entry = state.rooms.entry(path.to_owned());
        Ok(entry.or_insert_with(|| self.open(path)))
    }

    /// `None` when it has to be asked again what the store has.
    fn enter_knowing(
        self: &Arc<Self>,
        path: &str,
        name: Option<Name>,
        session: Option<&Asked>,
        address: &str,
        answer: Option<&StoreAnswer>,
    ) -> Result<Option<Member>, Refusal> {
        let mut state = self.state();
        let entry = self.entry(&mut state, path)?;
        // The connection that had the session until now, which may not know yet that its link is
        // dead: the name goes from it to this one, and nobody has left.
        let replaced =
            session.and_then(|asked| entry.room.history(|past| past.connection_of(&asked.key)));
        if let Some(name) = &name
            && !entry.names.is_free(name, replaced)
        {
            return Err(taken(name));
        }
        let identity = identity(path, name.as_ref(), address);
        let entered = match answer {
            None => Some(entry.room.enter_as(session)?),
            Some(answer) => entry.room.enter_knowing(session, answer)?,
        };
        let Some((speaker, subscription, first)) = entered else {
            return Ok(None);
        };
        let id = speaker.id();
        if let Some(name) = &name {
            entry.names.take(name, id);
        }
        let mut greeting = Vec::from_iter(first);
        greeting.extend(entry.room.interruption());
        if let Some(presence) = &entry.presence {
            if let Some(replaced) = replaced {
                presence.leave(replaced);
            }
            greeting.push(presence.join(id, &identity.name, speaker.session()));
        }
        entry.let_in();
        Ok(Some(Member {
            identity,
            speaker,
            subscription,
            greeting,
            place: Place {
                rooms: self.clone(),
                room: path.to_owned(),
                id,
                name,
                claim: None,
            },
        }))
    }

    fn open(&self, path: &str) -> Entry {
        let store = self.store.as_ref().map(|store| store.room(path));
        let room = Room::among(&self.limits, &self.budget, store);
        tokio::spawn(room.clone().publish());
        let shared = self.store.as_ref().filter(|store| store.is_shared());
        let begin = || Presence::begin(&room, &self.limits, shared.is_some());
        let presence = self.presence.then(begin).flatten();
        if let (Some(presence), Some(store)) = (&presence, shared) {
            store.share_presence(path, presence);
        }
        Entry {
            room,
            members: 0,
            empty: Some(Instant::now()),
            names: Names::default(),
            presence,
        }
    }

    /// How many rooms there are, and how many sessions in them.
    #[must_use]
    pub fn count(&self) -> (u64, u64) {
        let state = self.state();
        let rooms = state.rooms.values();
        let sessions = rooms.map(|entry| entry.room.history(|past| past.sessions()));
        (state.rooms.len() as u64, sessions.sum())
    }

    /// What is in trouble now, in words for the operator.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if self.state().ending {
            return Some(ENDING.to_owned());
        }
        self.store.as_ref()?.trouble()
    }

    /// Whether whoever comes can enter and speak, as far as that is known.
    ///
    /// # Errors
    ///
    /// It cannot, and why, in words for strangers.
    pub fn health(&self) -> Result<(), &'static str> {
        if self.state().ending {
            return Err(ENDING);
        }
        match &self.store {
            Some(store) if store.trouble().is_some() => Err(store.trouble_in_general()),
            _ => Ok(()),
        }
    }

    /// Says from now on that the server ends, to those who ask how it is.
    pub fn begin_to_end(&self) {
        self.state().ending = true;
    }

    /// Lets nobody enter any more, and closes each room behind its last speaker.
    pub fn close(&self) {
        let mut state = self.state();
        (state.ending, state.closed) = (true, true);
        state.rooms.values().for_each(Entry::close);
    }

    /// Refuses what those who wait for space still have to say, in every room.
    pub fn refuse(&self) {
        let state = self.state();
        state.rooms.values().for_each(|entry| entry.room.refuse());
    }

    /// Forgets what need not be remembered any more, the rooms in which nothing else was, and as
    /// many of the others in which nobody is as the budget asks for. Returns whether they suffice.
    fn forget(&self) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        state.rooms.retain(|_, entry| {
            entry.room.history(|past| past.forget(now));
            entry.is_needed()
        });
        while self.budget.is_scarce() && state.drop_oldest() {}
        state.shrink();
        !self.budget.is_scarce()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that forgets: now and then, and as soon as the budget asks for it.
async fn forget(rooms: Weak<Rooms>, budget: Arc<Budget>, limits: Limits) {
    while let Some(rooms) = rooms.upgrade() {
        let suffices = rooms.forget();
        drop(rooms);
        if !suffices {
            sleep(limits.sweep_rest).await;
        }
        let _ = timeout(limits.sweep, budget.scarce()).await;
    }
}

impl State {
    /// Drops the empty room in which nothing was said, or if there is none, the one that has been empty for
    /// longest: else strangers could make everybody forget the others by coming and going. Returns whether
    /// there was one.
    fn drop_oldest(&mut self) -> bool {
        let empty = self
            .rooms
            .iter()
            .filter(|(_, entry)| !entry.room.is_storing())
            .filter_map(|(path, entry)| {
                let since = entry.empty?;
                let was_used = entry.room.history(|past| past.end() > 0);
                Some((was_used, since, path))
            });
        let oldest = empty.min_by_key(|(was_used, since, _)| (*was_used, *since));
        let path = oldest.map(|(.., path)| path.clone());
        path.is_some_and(|path| self.rooms.remove(&path).is_some())
    }

    /// An empty server is as small as before.
    fn shrink(&mut self) {
        if self.rooms.is_empty() {
            self.rooms.shrink_to_fit();
        }
    }
}

impl Entry {
    /// Somebody has got a place.
    fn let_in(&mut self) {
        self.members += 1;
        self.empty = None;
    }

    /// Whether somebody is in the room, or its past is needed.
    fn is_needed(&self) -> bool {
        self.members > 0 || self.room.is_storing() || self.room.history(|past| past.is_needed())
    }

    fn close(&self) {
        self.room.close();
        if let Some(presence) = &self.presence {
            presence.end();
        }
    }
}

/// An entry is dropped when nobody is in its room any more.
impl Drop for Entry {
    fn drop(&mut self) {
        self.close();
        self.room.history(History::forget_all);
    }
}

impl Place {
    /// Waits until the name is another's on another server: for ever, if there is no other.
    pub async fn lost(&self) -> Ended {
        match &self.claim {
            // Boxed, since the others should not keep room for it.
            Some(claim) => Box::pin(claim.lost()).await,
            None => pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.rooms.state();
        let Some(entry) = state.rooms.get_mut(&self.room) else {
            return;
        };
        if let Some(name) = &self.name {
            entry.names.free(name, self.id);
        }
        if let Some(presence) = &entry.presence {
            presence.leave(self.id);
        }
        entry.members -= 1;
        if entry.members == 0 {
            entry.empty = Some(Instant::now());
        }
        if !entry.is_needed() {
            state.rooms.remove(&self.room);
            state.shrink();
        }
    }
}

/// What a target asks for.
#[derive(Debug)]
pub struct Wanted<'t> {
    /// The room, which is nothing for the seed's.
    pub path: &'t str,
    /// The name.
    pub name: Option<Name>,
    /// The session.
    pub session: Option<Asked>,
}

/// What a target asks for.
///
/// # Errors
///
/// There is no such room, no such name, or no such session.
pub fn wanted(target: &Uri) -> Result<Wanted<'_>, Refusal> {
    let path = room_of(target.path())?;
    let query = target.query().unwrap_or_default();
    let name = only(query, "name", SEVERAL_NAMES)?;
    let name = name
        .map(|name| Name::new(&name).ok_or(NO_NAME))
        .transpose()?;
    let session = only(query, "session", NO_SESSION)?;
    let (after, sent) = (
        only(query, "after", NO_AFTER)?,
        only(query, "sent", NO_SENT)?,
    );
    let session = Asked::new(session.as_deref(), after.as_deref(), sent.as_deref())?;
    Ok(Wanted {
        path,
        name,
        session,
    })
}

fn room_of(path: &str) -> Result<&str, Refusal> {
    let room = path.strip_prefix('/').unwrap_or(path);
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if room.len() <= LONGEST && room.bytes().all(allowed) {
        Ok(room)
    } else {
        Err(NO_ROOM)
    }
}

/// The value of a query's key, unless there are `several`. What else is in it is not looked at.
fn only<'q>(query: &'q str, key: &str, several: Refusal) -> Result<Option<Cow<'q, str>>, Refusal> {
    let pairs = form_urlencoded::parse(query.as_bytes());
    let mut values = pairs
        .filter(|(name, _)| name == key)
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err(several),
        (value, _) => Ok(value),
    }
}

fn taken(name: &Name) -> Refusal {
    let name = name.text();
    let why = format!("the name {name} is taken here, or looks like one that is");
    Refusal::Answered(StatusCode::CONFLICT, why.into())
}

fn identity(room: &str, name: Option<&Name>, address: &str) -> Identity {
    let mut identity = Identity::of(address);
    if let Some(name) = name {
        name.text().clone_into(&mut identity.name);
        identity.label = format!("{address} ({})", name.text());
    }
    if !room.is_empty() {
        identity.place = format!(" in {room}");
    }
    identity
}
