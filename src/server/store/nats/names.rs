//! The names in the rooms of all servers of a chat, of which no two may be the same either. They are in
//! a bucket of keys and values of JetStream, in which a key can be written by one server alone: the
//! others are refused when it has changed since they looked.
//!
//! A name has a few keys, as in [`Name`], and each stands there as `ROOM.DIGEST` with the value
//! `CONNECTION SESSION`: who has it. Whatever is not written again within half a minute is gone from the
//! bucket, so a server that died gives back its names. It is kept in files as the stream is: so it needs
//! nothing of the operator that the stream does not need, and names outlive a NATS that is started again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_websockets::CloseCode;

use crate::server::ended::Ended;
use crate::server::limits::Limits;
use crate::server::name::Name;
use crate::server::store::nats::{Nats, Unclaimed, token};

/// How often a key is looked at again that others write at the same time.
const ATTEMPTS: usize = 8;

/// What a connection is told that has lost its name.
const TAKEN: &str = "somebody else has your name now";

/// The names that connections of this server have.
#[derive(Debug)]
pub struct Names {
    /// `None` until the bucket was seen.
    bucket: Mutex<Option<Store>>,
    held: Mutex<HashMap<u64, Arc<Held>>>,
    /// Places for requests: so many are on their way at once.
    requests: Semaphore,
    /// How many names are being given back.
    leaving: watch::Sender<usize>,
}

/// A name that a connection has on all servers, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    nats: Nats,
    held: Arc<Held>,
}

/// A name, and who has it.
#[derive(Debug)]
struct Held {
    owner: Owner,
    /// Locked as long as they are being written, so that what was given back is not taken again.
    keys: tokio::sync::Mutex<Keys>,
    lost: watch::Sender<Option<Unclaimed>>,
}

#[derive(Debug)]
struct Keys {
    /// Each with the revision in which it was written last; 0 if that is not known.
    revisions: Vec<(String, u64)>,
    renewed: Instant,
    /// They are not this connection's any more.
    over: bool,
}

/// Who has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    /// What tells a connection from all others of all servers.
    connection: u64,
    session: Option<u64>,
}

impl Owner {
    fn value(self) -> String {
        let session = self.session;
        let session = session.map_or_else(|| "-".to_owned(), |id| format!("{id:016x}"));
        format!("{:016x} {session}", self.connection)
    }

    /// `None` if something else stands there.
    fn of(value: &[u8]) -> Option<Self> {
        let (connection, session) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            connection: hexadecimal(connection)?,
            session: match session {
                "-" => None,
                session => Some(hexadecimal(session)?),
            },
        })
    }
}

impl Names {
    /// No names yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            bucket: Mutex::default(),
            held: Mutex::default(),
            requests: Semaphore::new(limits.nats_requests),
            leaving: watch::Sender::new(0),
        }
    }

    /// The bucket is this one.
    pub fn set_bucket(&self, bucket: Store) {
        *self.bucket.lock().unwrap_or_else(PoisonError::into_inner) = Some(bucket);
    }

    fn bucket(&self) -> Result<Store, Unclaimed> {
        let bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.clone().ok_or(Unclaimed::Unknown)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Arc<Held>>> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names that are to be written again by now.
    fn due(&self, renew: Duration) -> Vec<Arc<Held>> {
        let is_due = |held: &&Arc<Held>| {
            // One that is locked is being written, or given back.
            let keys = held.keys.try_lock();
            keys.is_ok_and(|keys| keys.renewed.elapsed() >= renew)
        };
        self.held().values().filter(is_due).cloned().collect()
    }
}

impl Nats {
    /// Claims a name in a room for a connection. A name that another connection of the session has goes
    /// from that one to this.
    ///
    /// # Errors
    ///
    /// Somebody else has it, or a name that looks like it, or this cannot be known now.
    pub async fn claim(
        &self,
        room: &str,
        name: &Name,
        session: Option<u64>,
    ) -> Result<Claim, Unclaimed> {
        let claiming = self.claim_when_up(room, name, session);
        let claimed = timeout(self.limits().nats_enter, claiming).await;
        claimed.unwrap_or(Err(Unclaimed::Unknown))
    }

    async fn claim_when_up(
        &self,
        room: &str,
        name: &Name,
        session: Option<u64>,
    ) -> Result<Claim, Unclaimed> {
        let _ = self.up().wait_for(Option::is_some).await;
        let names = self.names();
        // All servers take the keys in the same order, so that of two who want the same name one gets
        // it.
        let digests = name.keys().map(|key| self.digest(&["name", room, key]));
        let mut digests: Vec<_> = digests.collect();
        digests.sort_unstable();
        digests.dedup();
        let owner = Owner {
            connection: self.connection(),
            session,
        };
        let held = Arc::new(Held {
            owner,
            keys: tokio::sync::Mutex::new(Keys {
                revisions: Vec::new(),
                renewed: Instant::now(),
                over: false,
            }),
            lost: watch::Sender::new(None),
        });
        // From here on what was claimed is given back if this ends early.
        let claim = Claim {
            nats: self.clone(),
            held,
        };
        let mut keys = claim.held.keys.lock().await;
        for digest in digests {
            let key = format!("{}.{digest:016x}", token(room));
            keys.revisions.push((key.clone(), 0));
            let revision = self.surely(|| self.write(&key, owner, 0, true)).await;
            if revision == Err(Unclaimed::Taken) {
                keys.revisions.pop();
            }
            let revision = revision?;
            if let Some(last) = keys.revisions.last_mut() {
                last.1 = revision;
            }
        }
        // Of several connections of one session that take the keys at once, the one that has the first
        // of them in the end has the name.
        if let [(key, revision), _, ..] = &mut keys.revisions[..]
            && session.is_some()
        {
            let known = *revision;
            let written = self.surely(|| self.write(key, owner, known, false));
            *revision = written.await?;
        }
        drop(keys);
        names.held().insert(owner.connection, claim.held.clone());
        Ok(claim)
    }

    /// Writes that a key is the owner's, when the last that is `known` of it is this revision. Returns
    /// the new one. With `take`, it may be taken from another connection of the same session.
    async fn write(
        &self,
        key: &str,
        owner: Owner,
        known: u64,
        take: bool,
    ) -> Result<u64, Unclaimed> {
        let (names, bucket) = (self.names(), self.names().bucket()?);
        let mut revision = known;
        let _place = names.requests.acquire().await;
        for _ in 0..ATTEMPTS {
            let written = bucket.update(key, owner.value().into(), revision).await;
            match written.map_err(|error| error.kind()) {
                Ok(revision) => return Ok(revision),
                Err(UpdateErrorKind::WrongLastRevision) => {}
                Err(_) => return Err(Unclaimed::Unknown),
            }
            let entry = bucket.entry(key).await.map_err(|_| Unclaimed::Unknown)?;
            revision = match entry {
                None => 0,
                // What is older than what is known here says who had it when a copy of the bucket was
                // made, which was put back.
                Some(entry) if entry.operation == Operation::Put && entry.revision >= known => {
                    let other = Owner::of(&entry.value);
                    let is_same_session = other.is_some_and(|other| {
                        owner.session.is_some() && other.session == owner.session
                    });
                    match other {
                        // What was written before and not confirmed.
                        Some(other) if other == owner => entry.revision,
                        _ if is_same_session && take => entry.revision,
                        _ if is_same_session => return Err(Unclaimed::Moved),
                        _ => return Err(Unclaimed::Taken),
                    }
                }
                // It was given back, or is as old as that.
                Some(entry) => entry.revision,
            };
        }
        Err(Unclaimed::Unknown)
    }

    /// Writes again and again, until it is known whether the key is the owner's.
    async fn surely<F>(&self, write: impl Fn() -> F) -> Result<u64, Unclaimed>
    where
        F: Future<Output = Result<u64, Unclaimed>>,
    {
        loop {
            let written = tokio::select! {
                written = write() => written,
                // The next attempt finds out whether this one was heard.
                () = self.interrupted() => Err(Unclaimed::Unknown),
            };
            if written != Err(Unclaimed::Unknown) {
                return written;
            }
            // A bucket that was just made does not take anything for a moment.
            self.look_again();
            sleep(self.limits().nats_pause).await;
        }
    }

    /// Gives a key back, unless another connection has it now.
    async fn erase(&self, key: &str, owner: Owner, mut revision: u64) -> Result<(), Unclaimed> {
        let (names, bucket) = (self.names(), self.names().bucket()?);
        let _place = names.requests.acquire().await;
        for _ in 0..ATTEMPTS {
            if revision > 0 {
                let erased = bucket.delete_expect_revision(key, Some(revision)).await;
                match erased.map_err(|error| error.kind()) {
                    Ok(()) => return Ok(()),
                    Err(UpdateErrorKind::WrongLastRevision) => {}
                    Err(_) => return Err(Unclaimed::Unknown),
                }
            }
            let entry = bucket.entry(key).await.map_err(|_| Unclaimed::Unknown)?;
            match entry.filter(|entry| entry.operation == Operation::Put) {
                Some(entry) if Owner::of(&entry.value) == Some(owner) => revision = entry.revision,
                _ => return Ok(()),
            }
        }
        Err(Unclaimed::Unknown)
    }

    /// Writes a name again. An error means that NATS does not answer.
    async fn renew(&self, held: Arc<Held>) -> Result<(), Unclaimed> {
        let mut keys = held.keys.lock().await;
        if keys.over {
            return Ok(());
        }
        for (n, (key, revision)) in keys.revisions.iter_mut().enumerate() {
            // An older connection of the session may have taken the others before it found that out.
            match self.write(key, held.owner, *revision, n > 0).await {
                Ok(new) => *revision = new,
                Err(Unclaimed::Unknown) => return Err(Unclaimed::Unknown),
                Err(why) => {
                    // Whoever has it by the bucket keeps it.
                    held.lost.send_replace(Some(why));
                    self.names().held().remove(&held.owner.connection);
                    return Ok(());
                }
            }
        }
        keys.renewed = Instant::now();
        Ok(())
    }

    /// The task that writes the names again, as long as their connections are there.
    pub async fn renew_names(self) {
        let (names, mut up) = (self.names(), self.up());
        let limits = self.limits();
        // An error means that the runtime ends.
        while up.wait_for(Option::is_some).await.is_ok() {
            let due = stream::iter(names.due(limits.nats_renew)).map(|held| Ok(self.renew(held)));
            tokio::select! {
                // What could not be written is due the next time.
                done = due.try_buffer_unordered(limits.nats_requests).try_collect::<()>() => {
                    if done.is_err() {
                        self.look_again();
                    }
                }
                () = self.interrupted() => {}
            }
            sleep(limits.nats_retry).await;
        }
    }

    /// Waits until all names are given back whose connections have ended.
    pub async fn names_given_back(&self) {
        let mut leaving = self.names().leaving.subscribe();
        let _ = leaving.wait_for(|names| *names == 0).await;
    }

    /// Gives a name back. If NATS cannot be reached, it is free when its time is over.
    async fn give_back(self, held: Arc<Held>) {
        let mut keys = held.keys.lock().await;
        keys.over = true;
        for (key, revision) in &keys.revisions {
            if self.up().borrow().is_none() || self.erase(key, held.owner, *revision).await.is_err()
            {
                break;
            }
        }
        self.names().leaving.send_modify(|names| *names -= 1);
    }
}

impl Claim {
    /// Waits until another connection has the name, which can only be when NATS was away for longer
    /// than names are kept there, or when that one has the session.
    pub async fn lost(&self) -> Ended {
        let mut lost = self.held.lost.subscribe();
        let why = lost.wait_for(Option::is_some).await;
        if why.is_ok_and(|why| *why == Some(Unclaimed::Moved)) {
            return Ended::Replaced;
        }
        Ended::Fault((CloseCode::POLICY_VIOLATION, TAKEN.into()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let names = self.nats.names();
        names.held().remove(&self.held.owner.connection);
        // At the end of the program nothing is given back any more.
        if let Ok(runtime) = Handle::try_current() {
            names.leaving.send_modify(|names| *names += 1);
            runtime.spawn(self.nats.clone().give_back(self.held.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_is_written() {
        for session in [None, Some(0), Some(u64::MAX)] {
            let owner = Owner {
                connection: 42,
                session,
            };
            assert_eq!(Owner::of(owner.value().as_bytes()), Some(owner));
        }
        for other in ["", "1", "x -", "1 x", "1 - 2", "\u{e9} -"] {
            assert_eq!(Owner::of(other.as_bytes()), None, "{other}");
        }
    }
}
