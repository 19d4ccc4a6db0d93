//! What is different in the past of a room whose log several servers share: what was taken from whom is
//! counted for the sessions of all of them, and a session may come to another server.

use std::sync::Arc;

use super::History;
use crate::server::batch::{Batch, BatchMut};
use crate::server::sessions::{Asked, Author, ELSEWHERE, RENEWED};
use crate::server::store::RoomStore;
use crate::server::store::nats::At;
use crate::server::store::nats::counts::{Claim, Counts};
use crate::server::store::nats::message::{INDEX, Part};

impl History {
    /// Takes the next batch of a log that several servers share: `parts` is what its message says of
    /// them, and the message has this place in the stream. Lines that were taken before are dropped.
    pub fn apply_shared(&mut self, mut batch: BatchMut, parts: &[Part<'_>], at: At) -> Batch {
        if let Some(counts) = &mut self.counts {
            let taken = parts.iter().map(|part| {
                let known = counts.take(part.author, part.before, part.lines, at.sequence);
                (known, part.lines)
            });
            let taken: Vec<_> = taken.collect();
            if taken.iter().any(|(known, _)| *known > 0) {
                let mut taken = taken.iter();
                // A notice is in no message.
                batch.keep(|_, lines| match lines {
                    0 => Some(0),
                    _ => taken
                        .next()
                        .and_then(|(known, all)| (known < all).then_some(*known)),
                });
            }
        }
        self.add(batch, at.sequence << INDEX, at.millis())
    }

    /// Lines were taken that were not read here.
    pub fn count_shared(&mut self, parts: &[Part<'_>], at: At) {
        if let Some(counts) = &mut self.counts {
            for part in parts {
                counts.take(part.author, part.before, part.lines, at.sequence);
            }
        }
    }

    /// A session comes to a connection of some server, which may know how many of its lines were taken. If
    /// it had one here, that learns of it, unless it `stays`.
    pub fn claim(&mut self, session: u64, taken: Option<u64>, claim: Claim, stays: bool, at: At) {
        let Some(counts) = &mut self.counts else {
            return;
        };
        counts.claim(session, taken, claim, at.sequence);
        if !stays && let Some(author) = counts.here(session).cloned() {
            author.replace(ELSEWHERE);
            if let Some(key) = &author.key {
                self.sessions.remove(key);
            }
            self.forgotten(&[author]);
        }
    }

    /// Another server knows how many lines of a session were taken.
    pub fn learn(&mut self, session: u64, taken: u64, at: At) {
        if let Some(counts) = &mut self.counts {
            counts.learn(session, taken, at.sequence);
        }
    }

    /// How many lines of a session were taken, in a log that several servers share, if that is known here.
    #[must_use]
    pub fn taken(&self, session: u64) -> Option<u64> {
        self.counts.as_ref()?.taken(session)
    }

    /// Who has a session, in a log that several servers share.
    #[must_use]
    pub fn claimed(&self, session: u64) -> Option<Claim> {
        self.counts.as_ref()?.claimed(session)
    }

    /// Whoever says these lines, in a log that several servers share.
    #[must_use]
    pub fn author(&self, id: u64) -> Arc<Author> {
        let here = self.counts.as_ref().and_then(|counts| counts.here(id));
        here.map_or_else(|| Author::connection(id), Arc::clone)
    }

    /// A log that several servers share is read from this position on.
    pub fn begin_at(&mut self, label: u64) {
        self.window.begin_at(label);
    }

    /// What is behind the last line that is not kept any more, and behind the last line.
    #[must_use]
    pub fn ends(&self) -> (u64, u64) {
        (self.window.floor(), self.window.label(self.window.end()))
    }

    /// What tells this past from all others.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The past is another one from here on, or some of it was not read. Those who have a session are to
    /// come back, and learn it.
    pub fn renew(&mut self, epoch: Option<String>) {
        for session in self.sessions.values() {
            session.author.replace(RENEWED);
        }
        self.forget_sessions();
        match epoch {
            Some(epoch) => {
                self.epoch = epoch;
                self.counts = self
                    .counts
                    .take()
                    .map(|_| Counts::new(self.limits.nats_authors));
            }
            None => {
                if let Some(counts) = &mut self.counts {
                    counts.doubt();
                }
            }
        }
    }

    /// Whether the session is still the one that was claimed, or nothing has happened to the one that is here.
    #[must_use]
    pub fn is_claimed(&self, asked: Option<&Asked>, claim: Option<Claim>) -> bool {
        let Some(asked) = asked else { return true };
        match (self.sessions.get(&asked.key), &self.store) {
            (Some(session), _) => session.author.is_settled(),
            (None, Some(RoomStore::Nats(log))) => {
                claim.is_some() && self.claimed(log.session(&asked.key)) == claim
            }
            _ => false,
        }
    }
}
