//! How many lines were taken from whom, by the order of the stream. A batch that is in the stream twice,
//! since its server could not know that it was, and lines that a client has said again to another server,
//! are dropped by this count, and by all servers alike.
//!
//! A server that has begun to read late does not know all who have spoken. What it learns of a session is
//! what the first lines say that it reads of it, or another server; never what the client says, which only
//! the server has to believe that lets it in. Else two servers could drop different lines.

use std::collections::HashMap;
use std::sync::Arc;

use crate::server::sessions::Author;

/// The counts of a room.
#[derive(Debug)]
pub struct Counts {
    of: HashMap<u64, Count>,
    /// How many there may be.
    most: usize,
}

/// Which message of which server gave a session its connection.
pub type Claim = (u64, u64);

#[derive(Debug, Default)]
struct Count {
    /// `None` if that is not known here.
    taken: Option<u64>,
    /// The last message that was about it.
    sequence: u64,
    claim: Option<Claim>,
    /// Whose it is, if that is a session with a connection here.
    here: Option<Arc<Author>>,
}

impl Counts {
    /// No counts yet, and at most so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            of: HashMap::new(),
            most,
        }
    }

    /// Lines come from an author, who had said `before` others. Returns how many of them were taken
    /// already. There may be a gap between those that are known and these: then the lines in it were
    /// taken before the server that counts here began to read, since no server sends anything before what
    /// it has sent earlier is in the stream.
    pub fn take(&mut self, author: u64, before: u64, lines: u64, sequence: u64) -> u64 {
        let count = self.count(author, sequence);
        let taken = count.taken.unwrap_or(before);
        count.taken = Some(taken.max(before + lines));
        taken.saturating_sub(before).min(lines)
    }

    /// A session comes to a connection of a server, which may know how many of its lines were taken.
    pub fn claim(&mut self, session: u64, taken: Option<u64>, claim: Claim, sequence: u64) {
        let count = self.count(session, sequence);
        count.taken = count.taken.or(taken);
        count.claim = Some(claim);
    }

    /// Another server knows how many lines of a session were taken.
    pub fn learn(&mut self, session: u64, taken: u64, sequence: u64) {
        self.count(session, sequence).taken.get_or_insert(taken);
    }

    /// How many lines of a session were taken, if that is known here.
    #[must_use]
    pub fn taken(&self, session: u64) -> Option<u64> {
        self.of.get(&session)?.taken
    }

    /// Who has a session.
    #[must_use]
    pub fn claimed(&self, session: u64) -> Option<Claim> {
        self.of.get(&session)?.claim
    }

    /// Sessions may have said something that was not read here. Connections of other servers may have, too,
    /// but only their own server says what they say.
    pub fn doubt(&mut self) {
        let sessions = self.of.iter_mut().filter(|(author, _)| **author >> 63 == 1);
        sessions.for_each(|(_, count)| count.taken = None);
    }

    /// The session that has this number, if it has a connection here.
    #[must_use]
    pub fn here(&self, author: u64) -> Option<&Arc<Author>> {
        self.of.get(&author)?.here.as_ref()
    }

    /// A session has a connection here.
    pub fn arrive(&mut self, author: &Arc<Author>) {
        self.of.entry(author.id).or_default().here = Some(author.clone());
    }

    /// A session is not here any more.
    pub fn leave(&mut self, session: u64) {
        if let Some(count) = self.of.get_mut(&session) {
            count.here = None;
        }
    }

    fn count(&mut self, author: u64, sequence: u64) -> &mut Count {
        if self.of.len() >= self.most && !self.of.contains_key(&author) {
            self.forget();
        }
        let count = self.of.entry(author).or_default();
        count.sequence = sequence;
        count
    }

    /// Forgets the half of which nothing was heard for longest.
    fn forget(&mut self) {
        let mut sequences: Vec<_> = self.of.values().map(|count| count.sequence).collect();
        let half = sequences.len() / 2;
        let (_, median, _) = sequences.select_nth_unstable(half);
        let median = *median;
        self.of
            .retain(|_, count| count.here.is_some() || count.sequence > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_dropped_and_a_gap_is_believed() {
        let mut counts = Counts::new(100);
        // Whoever begins to read late believes what comes first.
        assert_eq!(counts.take(1, 7, 3, 1), 0);
        assert_eq!(counts.taken(1), Some(10));
        // The same again, a part of it, and more than it.
        assert_eq!(counts.take(1, 7, 3, 2), 3);
        assert_eq!(counts.take(1, 2, 3, 3), 3);
        assert_eq!(counts.take(1, 8, 5, 4), 2);
        assert_eq!(counts.taken(1), Some(13));
        assert_eq!(counts.take(1, 20, 1, 5), 0);
        assert_eq!(counts.take(1, 13, 7, 6), 7);
        assert_eq!(counts.taken(1), Some(21));
    }

    #[test]
    fn what_others_know_counts_only_when_nothing_is_known_here() {
        let mut counts = Counts::new(100);
        counts.take(1, 0, 21, 1);
        for session in 1..=4 {
            counts.claim(session, None, (5, session), session);
            assert_eq!(counts.claimed(session), Some((5, session)));
        }
        let known = |counts: &Counts| [1, 2, 3, 4].map(|session| counts.taken(session));
        assert_eq!(known(&counts), [Some(21), None, None, None]);
        counts.claim(2, Some(7), (6, 1), 5);
        counts.learn(3, 8, 6);
        // The server that has it now says more than anybody knew; and its client says lines once more.
        assert_eq!(counts.take(4, 9, 1, 7), 0);
        assert_eq!(known(&counts), [Some(21), Some(7), Some(8), Some(10)]);
        for session in 1..=4 {
            counts.claim(session, Some(1), (6, session), 8);
            counts.learn(session, 1, 9);
        }
        assert_eq!(known(&counts), [Some(21), Some(7), Some(8), Some(10)]);
    }

    #[test]
    fn only_the_oldest_counts_are_forgotten() {
        let mut counts = Counts::new(10);
        for author in 0..25 {
            counts.take(author, 0, 1, author);
            assert!(counts.of.len() <= 10);
            let is_known = |recent| counts.taken(recent) == Some(1);
            assert!((author.saturating_sub(3)..=author).all(is_known));
        }
    }
}
