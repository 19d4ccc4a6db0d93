//! The past of a room: the positions of its lines, the last of them, and the sessions of those who
//! may come back. A room in which nobody ever asked for a session keeps nothing but a number.

mod shared;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::server::batch::{Batch, BatchMut};
use crate::server::frame;
use crate::server::handshake::Refusal;
use crate::server::limits::Limits;
use crate::server::metrics;
use crate::server::sessions::{Asked, Author, Key, NOT_YET, Subscriber};
use crate::server::store::nats::counts::Counts;
use crate::server::store::{Known, Piece, RoomStore};
use crate::server::window::{Budget, Window};

/// Bytes of a session in memory, its key and its place in the table included.
const SESSION: usize = 512;

/// The past of a room.
#[derive(Debug)]
pub struct History {
    /// What tells this past from all others.
    epoch: String,
    window: Window,
    sessions: HashMap<Key, Session>,
    budget: Arc<Budget>,
    limits: Limits,
    /// What keeps it for longer.
    store: Option<RoomStore>,
    /// How many lines were taken from whom, if several servers share the log.
    counts: Option<Counts>,
    /// What the store has is known.
    begun: bool,
    /// How many sessions were forgotten so far.
    forgotten: u64,
}

#[derive(Debug)]
struct Session {
    author: Arc<Author>,
    /// Since when it has no connection.
    left: Option<Instant>,
    /// When the store was last told that it is here. The receiver of the answer is kept, though nobody reads
    /// that, because the store skips what nobody waits for.
    touched: Option<(Instant, oneshot::Receiver<u64>)>,
}

/// Where a reader is in the log.
#[derive(Debug)]
pub struct Bookmark {
    /// The reader, as a batch sees it.
    pub who: Subscriber,
    /// Who says its lines.
    pub author: Arc<Author>,
    /// The position of the next line.
    position: u64,
    /// How many of the lines before that are the reader's own, if that is known.
    own: Option<u64>,
    /// What is left of the past. Boxed, since it is rare, and every connection has a bookmark.
    past: Option<Box<Past>>,
}

/// What a reader has to read before what is new.
#[derive(Debug, Default)]
struct Past {
    /// Where what is new begins, and how many of the lines before that are the reader's own.
    end: u64,
    own: u64,
    /// What is to be said to it first.
    notice: Option<Bytes>,
    /// Only the store knows how many lines there are for it, and it is told that first.
    uncounted: bool,
    /// Where the lines end that were said before it came, if it is told so.
    now: Option<u64>,
    /// How many bytes and lines of what is new it may still pass over.
    spare: (i64, i64),
}

impl Past {
    /// The reader has read so many bytes and lines: half of that is added to `spare`.
    fn add_spare(&mut self, bytes: usize, lines: u64) {
        self.spare.0 += i64::try_from(bytes / 2).unwrap_or(i64::MAX);
        self.spare.1 += i64::try_from(lines / 2).unwrap_or(i64::MAX);
    }

    /// The notice `* now`, when the reader has come to where it belongs.
    fn now_at(&mut self, position: u64) -> Option<Bytes> {
        let is_due = self.now.take_if(|now| *now <= position);
        is_due.map(|_| frame::notice("now"))
    }
}

impl Bookmark {
    fn at(position: u64, own: Option<u64>, author: Arc<Author>) -> Self {
        let who = Subscriber {
            connection: author.speaker(),
            author: author.id,
            marked: author.key.is_some(),
        };
        Self {
            who,
            author,
            position,
            own,
            past: None,
        }
    }

    /// Reads the past first, behind this notice, and has `* now` behind the lines up to `now`.
    fn with(mut self, notice: Bytes, now: Option<u64>) -> Self {
        self.past = Some(Box::new(Past {
            notice: Some(notice),
            now,
            ..Past::default()
        }));
        self
    }

    /// Reads the lines up to `now` first, of which the store knows how many are for it.
    fn with_uncounted(mut self, now: u64) -> Self {
        self.past = Some(Box::new(Past {
            uncounted: true,
            now: Some(now),
            ..Past::default()
        }));
        self
    }

    /// Up to where the store has to count the lines that are for the reader.
    #[must_use]
    pub fn uncounted(&self) -> Option<u64> {
        let past = self.past.as_ref().filter(|past| past.uncounted);
        past.and_then(|past| past.now)
    }

    /// The position of the next line.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether something of the past is left to read, before what is new.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.past.is_some()
    }

    /// Takes what the store had of a range that ends at `end`; `None` if it could not be read. Returns
    /// its frames.
    pub fn take(&mut self, piece: Option<Piece>, end: u64) -> Vec<Bytes> {
        let past = self.past.as_mut();
        let mut frames = Vec::from_iter(past.and_then(|past| past.notice.take()));
        let lost = Piece {
            gap: true,
            position: end,
            ..Piece::default()
        };
        let piece = piece.unwrap_or(lost);
        if let Some(past) = &mut self.past
            && std::mem::take(&mut past.uncounted)
        {
            match piece.counted {
                0 => past.now = None,
                lines => frames.push(earlier(lines)),
            }
        }
        if piece.gap {
            frames.push(frame::notice(frame::SOME_MISSED));
            self.own = None;
        }
        if let Some(past) = &mut self.past {
            past.add_spare(piece.frames.len(), piece.position - self.position);
        }
        let lines = frame::payloads(&piece.frames).filter(|line| !line.starts_with(b"@"));
        metrics::DELIVERIES.add(lines.count() as u64);
        frames.push(piece.frames.into());
        self.pass(piece.position, piece.own);
        if let Some(past) = &mut self.past {
            frames.extend(past.now_at(piece.position));
        }
        frames
    }

    /// Whether the reader may pass over what is new, since it is kept as well. It may pass over half as
    /// much as it has read of the past, so that nothing is given up that it has not read yet. What is
    /// kept is bounded in bytes and in lines, so both are counted; it may begin with as many lines as
    /// there is still place for.
    #[must_use]
    pub fn may_pass_over(&self) -> bool {
        let spare = self.past.as_ref().map(|past| past.spare);
        spare.is_some_and(|(bytes, lines)| bytes > 0 && lines > 0)
    }

    /// Passes over a batch that is new, but for its notices, which are not kept. It is to be read as a
    /// part of the past.
    pub fn pass_over(&mut self, batch: &Batch, notices: &mut Vec<Bytes>) {
        let own = batch.notices_for(self.who, notices);
        if let Some(past) = &mut self.past {
            past.end = batch.position + batch.lines;
            past.own += own;
            past.spare.0 -= i64::try_from(batch.bytes()).unwrap_or(i64::MAX);
            past.spare.1 -= i64::try_from(batch.lines).unwrap_or(i64::MAX);
        }
    }

    /// Everything before `position` is behind the reader, so many more of its own lines with it.
    pub fn pass(&mut self, position: u64, own: u64) {
        self.position = position;
        self.own = self.own.map(|before| before + own);
    }
}

/// What stands before the lines that were said before somebody came.
fn earlier(lines: u64) -> Bytes {
    frame::notice(&format!("{lines} earlier messages"))
}

impl History {
    /// A past that begins now.
    #[must_use]
    pub fn new(limits: &Limits, budget: &Arc<Budget>, store: Option<&RoomStore>) -> Self {
        // The standard library's hashers have random keys; what they make of nothing is random.
        let random = || format!("{:016x}", RandomState::new().hash_one(()));
        Self {
            epoch: store.map_or_else(random, RoomStore::epoch),
            window: Window::new(limits, budget),
            sessions: HashMap::new(),
            budget: budget.clone(),
            limits: limits.clone(),
            store: store.cloned(),
            counts: store.and_then(|store| match store {
                RoomStore::File(_) => None,
                RoomStore::Nats(_) => Some(Counts::new(limits.nats_authors)),
            }),
            begun: false,
            forgotten: 0,
        }
    }

    /// Takes the next batch of the log: its lines get their positions, those who said them are
    /// known to have done so, and the lines are kept if anybody may ask for them. `stored` is the
    /// time at which it was stored, if there is a store.
    pub fn apply(&mut self, batch: BatchMut, stored: Option<u64>) -> Batch {
        let kept = self.is_kept();
        let now = || if kept { now() } else { 0 };
        let time = stored.unwrap_or_else(now);
        self.add(batch, self.window.end(), time)
    }

    /// Adds a batch, of which clients are told `label` as the position of its first line.
    fn add(&mut self, batch: BatchMut, mut label: u64, time: u64) -> Batch {
        let kept = self.is_kept();
        let (batch, authors) = batch.freeze(self.window.end(), label, time);
        for (author, (frames, lines)) in authors.iter().zip(batch.parts()) {
            if lines == 0 {
                continue; // A notice is for those who are there, and is not told again.
            }
            author.count(self.window.end(), lines);
            if kept {
                self.window.push(author.id, label, time, frames, lines);
            } else {
                self.window.pass(lines);
            }
            label += lines;
        }
        batch
    }

    /// Lets a connection in, which from now on speaks for the session that it asks for. Returns
    /// where it is in the log, and the frame `@EPOCH POSITION TAKEN` if it asks for one.
    ///
    /// # Errors
    ///
    /// It asks for what was not said yet.
    pub fn enter(
        &mut self,
        connection: u64,
        asked: Option<&Asked>,
        known: Option<&Known>,
    ) -> Result<(Bookmark, Option<Bytes>), Refusal> {
        let start = known.map_or(self.window.start(), |known| known.start);
        let Some(asked) = asked else {
            let id = self.store.as_ref().map(RoomStore::connection);
            let author = Author::unnamed(id.unwrap_or(connection), connection);
            return Ok((self.earlier(author, start), None));
        };
        let end = self.window.end();
        let after = asked.after.as_ref();
        let after = after.map(|after| (after.epoch == self.epoch).then_some(after.position));
        let is_shared = self.counts.is_some();
        if after
            .flatten()
            .is_some_and(|position| position > end && !is_shared)
        {
            return Err(NOT_YET);
        }
        let author = self.session(connection, asked, known);
        let taken = match &mut self.counts {
            None => author.taken(),
            Some(counts) => {
                counts.arrive(&author);
                let taken = counts.taken(author.id).unwrap_or(author.taken());
                author.begin_at(taken);
                taken
            }
        };
        let bookmark = match after {
            None => self.earlier(author, start),
            // The positions that clients know are others than ours.
            Some(Some(label)) if is_shared => {
                let position = self.window.position(label);
                let before = author.said_before(position);
                let bookmark = Bookmark::at(position, before, author);
                if label < self.window.floor() {
                    bookmark.with(frame::notice(frame::SOME_MISSED), None)
                } else {
                    bookmark
                }
            }
            Some(Some(position)) => Bookmark::at(position, author.said_before(position), author),
            Some(None) => Bookmark::at(end, Some(author.said()), author).with(
                frame::notice("what was said before is not known here"),
                None,
            ),
        };
        let label = if is_shared {
            self.window.label(bookmark.position)
        } else {
            bookmark.position
        };
        let first = format!("@{} {label} {taken}", self.epoch);
        Ok((bookmark, Some(frame::text_of(&[&first]))))
    }

    /// The session that a connection asks for, which it has now, whoever had it before.
    fn session(&mut self, connection: u64, asked: &Asked, known: Option<&Known>) -> Arc<Author> {
        let key = &asked.key;
        if let Some(session) = self.sessions.get_mut(key) {
            session.left = None;
            session.author.replace(connection);
            return session.author.clone();
        }
        let is_full =
            |all: &Self| all.sessions.len() >= all.limits.sessions || all.budget.is_exceeded();
        while is_full(self) && self.forget_oldest() {}
        // Of the key, so that a session which was forgotten still does not get its own lines; never
        // the number of a connection.
        let hash = || self.sessions.hasher().hash_one(key) | 1 << 63;
        let id = self.store.as_ref();
        let id = id.map_or_else(hash, |store| store.session(key));
        let (start, end) = (self.window.start(), self.window.end());
        let taken = known
            .and_then(|known| known.taken)
            .or(asked.sent)
            .unwrap_or(0);
        let began = (self.window.lines_of(id, start, end), taken);
        let author = Author::session(id, key, connection, began, end);
        self.budget.account(0, SESSION);
        let session = Session {
            author: author.clone(),
            left: None,
            touched: None,
        };
        self.sessions.insert(key.clone(), session);
        author
    }

    /// Where somebody begins who has not been here: with the last lines, if they are shown. Those
    /// before `start` are gone.
    fn earlier(&self, author: Arc<Author>, start: u64) -> Bookmark {
        let end = self.window.end();
        let first = end.saturating_sub(self.limits.history);
        let first = first.max(start.min(end));
        if author.key.is_some() && first < self.window.start() {
            return Bookmark::at(first, None, author).with_uncounted(end);
        }
        let own = self.window.lines_of(author.id, first, end);
        match end - first - own {
            0 => Bookmark::at(end, Some(author.said()), author),
            lines => {
                let before = author.said() - own;
                Bookmark::at(first, Some(before), author).with(earlier(lines), Some(end))
            }
        }
    }

    /// Whether enough is known of what the store has to let somebody in, and nothing can have changed
    /// since that was asked, when `forgotten` sessions were. The first answer is where the room begins.
    pub fn is_known(&mut self, asked: Option<&Asked>, known: &Known, forgotten: u64) -> bool {
        if !self.begun {
            self.begun = true;
            self.window.pass(known.end);
        }
        let session = asked.map(|asked| self.sessions.get(&asked.key));
        match session {
            None => true,
            Some(None) => forgotten == self.forgotten,
            Some(Some(session)) => session.author.is_settled(),
        }
    }

    /// Whether there is a store, so that nothing is applied which that does not have.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.store.is_some()
    }

    /// How many sessions were forgotten so far.
    #[must_use]
    pub fn forgotten_so_far(&self) -> u64 {
        self.forgotten
    }

    /// Whoever has a session now, or had it last.
    #[must_use]
    pub fn author_of(&self, key: &Key) -> Option<Arc<Author>> {
        Some(self.sessions.get(key)?.author.clone())
    }

    /// The position of the next line.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.window.end()
    }

    /// What a reader is to read from the store next, since it is not kept here any more.
    #[must_use]
    pub fn older(&self, bookmark: &Bookmark, is_subscribed: bool) -> Option<Range<u64>> {
        let Some(RoomStore::File(_)) = &self.store else {
            return None;
        };
        let (position, start) = (bookmark.position, self.window.start());
        let past = bookmark.past.as_ref();
        let end = past.map(|past| past.end).filter(|_| is_subscribed);
        let ends = [end, past.and_then(|past| past.now)];
        let until = ends.into_iter().flatten().fold(start, u64::min);
        (position < until).then_some(position..until)
    }

    /// How many sessions are known.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sessions.len() as u64
    }

    /// The connection that a session has, or had last.
    #[must_use]
    pub fn connection_of(&self, key: &Key) -> Option<u64> {
        Some(self.sessions.get(key)?.author.speaker())
    }

    /// A connection has ended. Its session is kept for a while, if it still was its own.
    pub fn leave(&mut self, connection: u64, author: &Author) {
        let session = author
            .key
            .as_ref()
            .and_then(|key| self.sessions.get_mut(key));
        if let Some(session) = session
            && author.speaker() == connection
        {
            session.left = Some(Instant::now());
        }
    }

    /// A reader subscribes: until now it is the past.
    pub fn subscribe(&self, bookmark: &mut Bookmark) {
        let end = self.window.end();
        if bookmark.position < end || bookmark.past.is_some() {
            let past = bookmark.past.get_or_insert_default();
            (past.end, past.own) = (end, bookmark.author.said());
            let most = self.limits.window_lines;
            let lines = most.saturating_sub(end - bookmark.position);
            past.spare = (0, i64::try_from(lines).unwrap_or(i64::MAX));
        }
    }

    /// The next frames of the past for a reader that is behind, about as many as a batch has. What
    /// is not kept any more is missed, and it is told.
    pub fn read(&self, bookmark: &mut Bookmark) -> Vec<Bytes> {
        let Some(mut past) = bookmark.past.take() else {
            return Vec::new();
        };
        let (who, end) = (bookmark.who, past.end);
        let mut frames = Vec::from_iter(past.notice.take());
        let start = self.window.start().min(end);
        if bookmark.position < start {
            let own = past.own - self.window.lines_of(who.author, start, end);
            let lines = start - bookmark.position;
            match bookmark.own.map(|before| lines - (own - before)) {
                Some(0) => {}
                Some(missed) => {
                    metrics::MISSED.add(missed);
                    frames.push(frame::missed(missed));
                }
                None => frames.push(frame::notice(frame::SOME_MISSED)),
            }
            (bookmark.position, bookmark.own) = (start, Some(own));
        }
        let until = past.now.unwrap_or(end);
        let (piece, position, own) =
            self.window
                .read(who, bookmark.position, until, self.limits.batch);
        past.add_spare(piece.len(), position - bookmark.position);
        metrics::DELIVERIES.add(position - bookmark.position - own);
        if !piece.is_empty() {
            frames.push(piece.into());
        }
        bookmark.pass(position, own);
        frames.extend(past.now_at(position));
        if position < end {
            bookmark.past = Some(past);
        } else {
            bookmark.own = Some(past.own);
        }
        frames
    }

    /// Forgets the sessions that have been without a connection for too long; without any, what was
    /// kept for them as well. The store is told now and then that the others are here.
    pub fn forget(&mut self, now: Instant) {
        let longest = self.limits.session;
        let old = self.sessions.extract_if(|_, session| {
            let is_new = session.left.is_none_or(|left| now - left < longest);
            !is_new && session.author.is_settled()
        });
        let old: Vec<_> = old.map(|(_, session)| session.author).collect();
        self.forgotten(&old);
        let Some(RoomStore::File(file)) = &self.store else {
            return;
        };
        for (key, session) in &mut self.sessions {
            let last = session.touched.as_ref().map(|(then, _)| *then);
            if last.is_none_or(|then| now - then >= self.limits.store_touch) {
                session.touched = Some((now, file.touch(key, session.author.taken())));
            }
        }
    }

    /// Forgets everything.
    pub fn forget_all(&mut self) {
        self.forget_sessions();
        self.window.clear();
    }

    /// Forgets who has a session.
    fn forget_sessions(&mut self) {
        let all: Vec<_> = self
            .sessions
            .drain()
            .map(|(_, session)| session.author)
            .collect();
        self.forgotten(&all);
    }

    /// Forgets the session that has been without a connection for longest, of those that never said
    /// anything if there is one: they lose nothing by it, and a stranger can have any number of them.
    /// Returns whether there was one.
    fn forget_oldest(&mut self) -> bool {
        let left = self
            .sessions
            .iter()
            .filter(|(_, session)| session.author.is_settled())
            .filter_map(|(key, session)| Some((session.author.has_spoken(), session.left?, key)));
        let oldest = left.min_by_key(|(has_spoken, left, _)| (*has_spoken, *left));
        let oldest = oldest.map(|(.., key)| key.clone());
        let session = oldest.and_then(|key| self.sessions.remove(&key));
        let author = session.map(|session| session.author);
        self.forgotten(author.as_slice());
        author.is_some()
    }

    fn forgotten(&mut self, sessions: &[Arc<Author>]) {
        if let Some(counts) = &mut self.counts {
            for author in sessions {
                counts.leave(author.id);
            }
        }
        self.forgotten += sessions.len() as u64;
        self.budget.account(sessions.len() * SESSION, 0);
        self.sessions.shrink_to(2 * self.sessions.len());
        if !self.is_kept() {
            self.window.clear();
        }
    }

    /// Whether anybody may ask for what is said.
    fn is_kept(&self) -> bool {
        self.store.is_some() || self.limits.history > 0 || !self.sessions.is_empty()
    }

    /// Whether it would be missed: by a session that may come back, or by those who come later.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        let lines = self.window.end() - self.window.start();
        let is_shown = self.limits.history > 0 && self.store.is_none();
        !self.sessions.is_empty() || is_shown && lines > 0
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.forget_all();
    }
}

/// Milliseconds of Unix time.
#[must_use]
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = now.map(|now| now.as_millis()).unwrap_or_default();
    u64::try_from(millis).unwrap_or_default()
}
