//! How many lines were taken from whom, by the order of the stream. A batch that is in the stream twice,
//! since its server could not know that it was, and lines that a client has said again to another server,
//! are dropped by this count, and by all servers alike.

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
    taken: u64,
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
        let is_new = !self.of.contains_key(&author);
        let count = self.count(author, sequence);
        if is_new {
            count.taken = before;
        }
        let known = count.taken.saturating_sub(before).min(lines);
        count.taken = count.taken.max(before + lines);
        known
    }

    /// A session comes to a connection. How many of its lines were taken is believed if it is not known
    /// here.
    pub fn claim(&mut self, session: u64, sent: u64, claim: Claim, sequence: u64) {
        let is_new = !self.of.contains_key(&session);
        let count = self.count(session, sequence);
        if is_new {
            count.taken = sent;
        }
        count.claim = Some(claim);
    }

    /// How many lines of a session were taken.
    #[must_use]
    pub fn taken(&self, session: u64) -> u64 {
        self.of.get(&session).map_or(0, |count| count.taken)
    }

    /// Who has a session.
    #[must_use]
    pub fn claimed(&self, session: u64) -> Option<Claim> {
        self.of.get(&session)?.claim
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
        assert_eq!(counts.taken(1), 10);
        // The same again, a part of it, and more than it.
        assert_eq!(counts.take(1, 7, 3, 2), 3);
        assert_eq!(counts.take(1, 2, 3, 3), 3);
        assert_eq!(counts.take(1, 8, 5, 4), 2);
        assert_eq!(counts.taken(1), 13);
        assert_eq!(counts.take(1, 20, 1, 5), 0);
        assert_eq!(counts.take(1, 13, 7, 6), 7);
        // What a client says of itself counts only when nothing is known.
        counts.claim(1, 3, (5, 5), 7);
        counts.claim(2, 3, (5, 6), 8);
        assert_eq!((counts.taken(1), counts.taken(2)), (21, 3));
        assert_eq!(counts.claimed(2), Some((5, 6)));
    }

    #[test]
    fn only_the_oldest_counts_are_forgotten() {
        let mut counts = Counts::new(10);
        for author in 0..25 {
            counts.take(author, 0, 1, author);
            assert!(counts.of.len() <= 10);
            assert!((author.saturating_sub(3)..=author).all(|recent| counts.taken(recent) == 1));
        }
    }
}
