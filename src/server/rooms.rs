//! Rooms and the names in them. The path of a request is the room, and `?name=` is the name.
//!
//! A room comes into being when somebody enters and is gone with the last one. Rooms have nothing
//! in common: each has its own channel, its own space and its own names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{StatusCode, Uri};

use crate::server::access::Pass;
use crate::server::handshake::{Refusal, SHUTTING_DOWN, refuse};
use crate::server::identity::Identity;
use crate::server::limits::Limits;
use crate::server::name::{self, Name, Names};
use crate::server::presence::Presence;
use crate::server::room::{Room, Speaker, Subscription};

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

/// All rooms in which somebody is.
#[derive(Debug)]
pub struct Rooms {
    state: Mutex<State>,
    limits: Limits,
    /// Whether those in a room are told who comes and goes.
    presence: bool,
}

#[derive(Debug, Default)]
struct State {
    rooms: HashMap<String, Entry>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    room: Arc<Room>,
    members: usize,
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
    /// The first frame that it gets: who is here.
    pub greeting: Option<Bytes>,
    /// Its place in the room, which it has until this is dropped.
    pub place: Place,
}

/// A place in a room. When the last one is dropped the room is gone.
#[derive(Debug)]
pub struct Place {
    rooms: Arc<Rooms>,
    room: String,
    id: u64,
    name: Option<Name>,
}

impl Rooms {
    /// No rooms yet.
    #[must_use]
    pub fn new(limits: &Limits, presence: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            limits: limits.clone(),
            presence,
        })
    }

    /// Lets a client, which came from `address`, into the room that `target` names, under the name
    /// that it asks for, or the one that `pass` gives it. To be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no such room or name, or the name is taken or not for this client, or there is no
    /// place for another room.
    pub fn enter(
        self: &Arc<Self>,
        target: &Uri,
        address: &str,
        pass: &mut Pass,
    ) -> Result<Member, Refusal> {
        let (path, name) = wanted(target)?;
        let name = pass.name(name)?;
        let mut state = self.state();
        if state.closed {
            return Err(SHUTTING_DOWN);
        }
        if !state.rooms.contains_key(path) && state.rooms.len() >= self.limits.rooms {
            return Err(TOO_MANY_ROOMS);
        }
        let entry = state.rooms.entry(path.to_owned());
        let entry = entry.or_insert_with(|| self.open());
        if let Some(name) = &name
            && !entry.names.take(name)
        {
            return Err(taken(name));
        }
        let identity = identity(path, name.as_ref(), address);
        // Every room is open as long as it is in the map.
        let (speaker, subscription) = entry.room.enter().ok_or(SHUTTING_DOWN)?;
        let id = speaker.id();
        let presence = entry.presence.as_ref();
        let greeting = presence.map(|presence| presence.join(id, &identity.name));
        entry.members += 1;
        Ok(Member {
            identity,
            speaker,
            subscription,
            greeting,
            place: Place {
                rooms: self.clone(),
                room: path.to_owned(),
                id,
                name,
            },
        })
    }

    fn open(&self) -> Entry {
        let room = Room::open(&self.limits);
        tokio::spawn(room.clone().publish());
        let presence = self.presence.then(|| Presence::begin(&room, &self.limits));
        Entry {
            room,
            members: 0,
            names: Names::default(),
            presence: presence.flatten(),
        }
    }

    /// Lets nobody enter any more, and closes each room behind its last speaker.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.rooms.values().for_each(Entry::close);
    }

    /// Refuses what those who wait for space still have to say, in every room.
    pub fn refuse(&self) {
        let state = self.state();
        state.rooms.values().for_each(|entry| entry.room.refuse());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn close(&self) {
        self.room.close();
        if let Some(presence) = &self.presence {
            presence.end();
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
            entry.names.free(name);
        }
        if let Some(presence) = &entry.presence {
            presence.leave(self.id);
        }
        entry.members -= 1;
        if entry.members == 0 {
            entry.close();
            state.rooms.remove(&self.room);
            if state.rooms.is_empty() {
                // An empty server is as small as before.
                state.rooms.shrink_to_fit();
            }
        }
    }
}

/// The room that a target names, which is nothing for the seed's, and the name that it asks for.
///
/// # Errors
///
/// There is no such room, or no such name.
pub fn wanted(target: &Uri) -> Result<(&str, Option<Name>), Refusal> {
    let room = room_of(target.path())?;
    Ok((room, name_of(target.query().unwrap_or_default())?))
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

/// The name that a query asks for. What else is in it is not looked at.
fn name_of(query: &str) -> Result<Option<Name>, Refusal> {
    let pairs = form_urlencoded::parse(query.as_bytes());
    let mut names = pairs.filter(|(key, _)| key == "name").map(|(_, name)| name);
    match (names.next(), names.next()) {
        (None, _) => Ok(None),
        (Some(name), None) => Name::new(&name).map(Some).ok_or(NO_NAME),
        (Some(_), Some(_)) => Err(SEVERAL_NAMES),
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
