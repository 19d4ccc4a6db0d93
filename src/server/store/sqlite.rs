//! The store in an SQLite database, so that any tool can search and export it:
//!
//! ```text
//! sqlite3 chat.db "select at, name, text from lines where room = 'rust'"
//! ```
//!
//! The file has `application_id` 0x63686174 ("chat"), and this schema, `user_version` 1:
//!
//! ```text
//! lines      room       the room; nothing for the seed's
//!            position   0, 1, 2 and so on in each room; the order of its lines
//!            at         when it was said, in milliseconds of Unix time
//!            author     who said it: a session (negative), or a connection that had none
//!            name       what stood before it: a name, or an address
//!            text       the line
//! rooms      room, next                   the position of the next line
//! sessions   room, session, taken, at     how many lines were taken from it, and when it was last
//!                                         here, within some two hours
//! store      id, starts, boot             one row: what tells this file from all others, how often
//!                                         it was opened, and, while a power cut could take lines
//!                                         that were heard, since which start of the system
//! ```
//!
//! `lines` has the primary key `(room, position)` and is kept in its order, so the lines of a room are
//! beside each other. `session` is a SHA-256 of the key, which is random and a secret, and `id`: it
//! lets nobody take the session over. Everything of one commit is in one transaction.
//!
//! When a power cut may have taken lines, the file gets another id: so the epochs of all rooms change,
//! and nobody believes to have heard what was said instead of those lines.
//!
//! It is in WAL mode, so others may read while the server writes; they see `FILE-wal` and `FILE-shm`
//! beside it, which does not work over a network. On Linux two servers are kept apart by a lock on the
//! file (flock(2)), of which SQLite's own know nothing.

use std::collections::HashMap;
use std::fmt::Arguments;
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, ToSql, TransactionBehavior, params,
};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use crate::os::{cannot_start, describe, start_thread};
use crate::server::batch::BatchMut;
use crate::server::frame;
use crate::server::history::now;
use crate::server::limits::Limits;
use crate::server::metrics;
use crate::server::store::file::{
    Append, Known, Order, Piece, Question, Since, Store, Terms, Touch,
};

/// "chat", as a number.
const APPLICATION: i64 = 0x6368_6174;
/// The version of the schema.
const VERSION: i64 = 1;
/// What Linux calls the time since the system was started. Elsewhere there is no such file, and a power
/// cut is not noticed.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The number of a connection has so many bits, and above them it has how often the file was opened.
const CONNECTIONS: u32 = 40;

const SCHEMA: &str = "
    create table lines (
        room text not null, position integer not null, at integer not null,
        author integer not null, name text not null, text text not null,
        primary key (room, position)
    ) without rowid;
    create table rooms (room text primary key, next integer not null) without rowid;
    create table sessions (
        room text not null, session blob not null, taken integer not null, at integer not null,
        primary key (room, session)
    ) without rowid;
    create table store (id text not null, starts integer not null, boot text);
    insert into store values (lower(hex(randomblob(16))), 0, null);
    pragma application_id = 1667785076;
    pragma user_version = 1;
";

/// What can be asked of a database that has this schema.
const TABLES: [&str; 4] = [
    "select room, position, at, author, name, text from lines",
    "select room, next from rooms",
    "select room, session, taken, at from sessions",
    "select id, starts, boot from store",
];

/// An open file.
#[derive(Clone, Debug)]
pub struct File {
    /// What tells it from all others.
    id: Arc<str>,
}

impl File {
    /// A digest of something that differs from file to file.
    pub fn digest(&self, what: &str, of: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update([what, &*self.id, of].join(" "))
            .finalize()
            .into()
    }
}

/// Opens the file, and starts the two threads.
pub fn open(
    file: &Path,
    terms: Terms,
    limits: &Limits,
    tell: impl Fn(Arguments<'_>) + Clone + Send + 'static,
) -> Result<Store, String> {
    let shown = file.display().to_string();
    let cannot = |why: &str| format!("cannot use {shown} as a store: {why}");
    let held = Held::open(file).map_err(|error| cannot(&error.words()))?;
    let (db, id, starts) = begin(&held, terms, limits).map_err(|error| cannot(&error.words()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error: rusqlite::Error| cannot(&words(&error));
    let readable = Connection::open_with_flags(&held.path, flags).map_err(failed)?;
    readable.busy_timeout(limits.store_busy).map_err(failed)?;
    let held = Arc::new(held);

    let (orders, ordered) = channel();
    let (questions, asked) = channel();
    let (troubled, trouble) = watch::channel(None);
    let (cannot_read, unreadable) = watch::channel(None);
    let (writing, reading) = (Since::default(), Since::default());
    let file = File { id: id.into() };
    let writer = Writer {
        db,
        file: file.clone(),
        shown: shown.clone(),
        limits: limits.clone(),
        troubled,
        writing: writing.clone(),
        days: terms.days,
        room: String::new(),
        rest_until: Instant::now(),
        retry_at: Instant::now(),
        held: held.clone(),
    };
    let told = tell.clone();
    let started = start_thread(move || {
        let ended = writer.run(&ordered, told);
        // An error means that nobody waits for it.
        let _ = ended.map(|ended| ended.send(()));
    });
    started.map_err(cannot_start)?;
    let reader = Reader {
        db: readable,
        shown: shown.clone(),
        limits: limits.clone(),
        troubled: cannot_read,
        reading: reading.clone(),
        _held: held,
    };
    start_thread(move || reader.run(&asked, tell)).map_err(cannot_start)?;
    Ok(Store {
        orders,
        questions,
        places: Arc::new(Semaphore::new(limits.connections)),
        trouble,
        unreadable,
        writing,
        reading,
        patience: limits.store_patience,
        shown: shown.into(),
        next_author: Arc::new(AtomicU64::new(starts << CONNECTIONS)),
        file,
    })
}

/// The file, which this server alone may use. It is open for as long as SQLite has it: when any
/// descriptor of a file is closed, the system lets go of the locks that SQLite has on it.
struct Held {
    file: fs::File,
    path: PathBuf,
}

impl Held {
    /// Opened by ourselves before SQLite does, since the system says better why that cannot be done.
    fn open(file: &Path) -> Result<Self, Unusable> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // What is said is for those who are let in. SQLite gives what it makes beside it the same mode.
        let held = Self {
            file: options.mode(0o600).open(file)?,
            path: fs::canonicalize(file)?,
        };
        // Elsewhere this lock and those of SQLite may exclude each other.
        if cfg!(target_os = "linux") {
            match held.file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Unusable::Refused(
                        "another server has it; give each its own",
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        let metadata = held.file.metadata()?;
        if metadata.nlink() > 1 {
            // What is in FILE-wal after a crash would not be found by the other name.
            return Err(Unusable::Refused(
                "it has two names (hard links), and may have one only; remove the other",
            ));
        }
        if metadata.len() == 1 {
            // SQLite takes this for nothing, and would write over it.
            return Err(Unusable::Refused("it is not a database"));
        }
        Ok(held)
    }

    /// What is written into the file is found there after a restart.
    fn check(&self) -> Result<(), Unusable> {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let here = fs::metadata(&self.path).map(identity);
        let is_here = here.is_ok_and(|here| self.file.metadata().map(identity).ok() == Some(here));
        // SQLite has made it when it opened the file, and removes it when it closes that.
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        if is_here && Path::new(&wal).exists() {
            return Ok(());
        }
        Err(Unusable::Refused(
            "it, or FILE-wal, was removed or renamed: put it back, or start the server anew",
        ))
    }
}

/// Why a file cannot be used.
enum Unusable {
    System(io::Error),
    Failed(rusqlite::Error),
    Refused(&'static str),
}

impl Unusable {
    fn words(&self) -> String {
        match self {
            Self::System(error) => describe(error),
            Self::Failed(error) => words(error),
            Self::Refused(why) => (*why).to_owned(),
        }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

/// The database, ready to be written to, its id, and how often it was opened.
fn begin(
    held: &Held,
    terms: Terms,
    limits: &Limits,
) -> Result<(Connection, String, u64), Unusable> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(&held.path, flags)?;
    db.busy_timeout(limits.store_busy)?;
    let number = |db: &Connection, sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application = number(&db, "pragma application_id")?;
    let version = number(&db, "pragma user_version")?;
    let is_empty = number(&db, "select count(*) from sqlite_schema")? == 0;
    match (application, version) {
        (APPLICATION, VERSION) if TABLES.iter().all(|table| db.prepare(table).is_ok()) => {}
        (APPLICATION, version) if version > VERSION => {
            return Err(Unusable::Refused(
                "it was written by a newer server; use that one, or another file",
            ));
        }
        (APPLICATION, _) => {
            return Err(Unusable::Refused(
                "it is damaged; put a copy of it back, or name another file",
            ));
        }
        (0, 0) if is_empty => {}
        _ => {
            return Err(Unusable::Refused(
                "it is the database of another program; name another file",
            ));
        }
    }
    let mode: String = db.query_row("pragma journal_mode = wal", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Unusable::Refused(
            "SQLite has no WAL mode there; name a file on a local disk",
        ));
    }
    // That there may be something to lose has to be known after a power cut.
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "journal_size_limit", limits.store_wal)?;
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if is_empty {
        change.execute_batch(SCHEMA)?;
    }
    change.execute("update store set starts = starts + 1", [])?;
    let boot = fs::read_to_string(BOOT).unwrap_or_default();
    let boot = boot.trim();
    change.execute(
        "update store set id = lower(hex(randomblob(16))) where boot <> ?",
        [boot],
    )?;
    // Only without --store-sync, a commit may be gone after a power cut.
    let risky = (!terms.sync).then_some(boot);
    change.execute("update store set boot = ?", [risky])?;
    let (id, starts) = change.query_row("select id, starts from store", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
    })?;
    change.commit()?;
    if !terms.sync {
        db.pragma_update(None, "synchronous", "normal")?;
    }
    Ok((db, id, starts.cast_unsigned()))
}

/// An error in words that say what it is about.
fn words(error: &rusqlite::Error) -> String {
    let known = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::ReadOnly) => "it cannot be written to",
        Some(ErrorCode::CannotOpen) => "it, or a file beside it, cannot be opened",
        Some(ErrorCode::NotADatabase) => "it is not a database",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program is writing to it"
        }
        // What is there is not what was written.
        Some(ErrorCode::DatabaseCorrupt) | None => "it is damaged",
        Some(ErrorCode::SystemIoFailure) => "the system cannot read or write it",
        _ => return error.to_string(),
    };
    known.to_owned()
}

/// What the thread that writes has.
struct Writer {
    db: Connection,
    file: File,
    /// What the operator calls the file.
    shown: String,
    limits: Limits,
    /// Why nothing can be stored now, if that is so.
    troubled: watch::Sender<Option<String>>,
    /// Since when the disk was asked to write something.
    writing: Since,
    days: Option<u32>,
    /// From which room on old lines are looked for next, and when.
    room: String,
    rest_until: Instant,
    /// When to try again, in a time of trouble.
    retry_at: Instant,
    held: Arc<Held>,
}

/// What is to be stored with the next commit.
#[derive(Default)]
struct Waiting {
    batches: Vec<Append>,
    sessions: Vec<Touch>,
    /// Bytes of the batches.
    bytes: usize,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.sessions.is_empty()
    }
}

/// What came of waiting for what a thread is asked.
enum Next<T> {
    Came(T),
    /// Nothing came in time.
    Nothing,
    /// Nobody is there any more.
    Over,
}

/// Waits for what comes next, no longer than `until` if that is given.
fn next<T>(asked: &Receiver<T>, until: Option<Instant>) -> Next<T> {
    let Some(until) = until else {
        return asked.recv().map_or(Next::Over, Next::Came);
    };
    match asked.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(next) => Next::Came(next),
        Err(RecvTimeoutError::Timeout) => Next::Nothing,
        Err(RecvTimeoutError::Disconnected) => Next::Over,
    }
}

impl Writer {
    /// The thread. Everything that was said while one commit ran is in the next one. Returns whom to
    /// tell that it has ended.
    fn run(mut self, orders: &Receiver<Order>, tell: impl Fn(Arguments<'_>)) -> Option<Sender<()>> {
        let mut waiting = Waiting::default();
        let ended = loop {
            let troubled = self.troubled.borrow().is_some();
            let until = match (troubled, waiting.is_empty()) {
                (true, _) => Some(self.retry_at),
                (false, true) => self.days.map(|_| self.rest_until),
                (false, false) => Some(Instant::now()),
            };
            let next = next(orders, until);
            let is_order = matches!(next, Next::Came(_));
            match next {
                Next::Came(Order::Append(append)) => {
                    waiting.bytes += append.batch.len();
                    waiting.batches.push(append);
                }
                Next::Came(Order::Touch(touch)) => waiting.sessions.push(touch),
                Next::Came(Order::End(ended)) => {
                    self.store(&mut waiting, &tell);
                    break Some(ended);
                }
                Next::Nothing => {}
                Next::Over => break None,
            }
            if is_order {
                let is_full = waiting.bytes >= self.limits.store_commit
                    || waiting.sessions.len() >= self.limits.store_rows;
                let is_over = if troubled {
                    Instant::now() >= self.retry_at
                } else {
                    is_full
                };
                if !is_over {
                    continue; // There may be more.
                }
            }
            if troubled || !waiting.is_empty() {
                self.store(&mut waiting, &tell);
            }
            // Also while somebody always speaks.
            if self.troubled.borrow().is_none() && Instant::now() >= self.rest_until {
                self.forget(&tell);
            }
        };
        // So that nothing need be recovered at the next start. While others read, that cannot be done,
        // which does not matter.
        let _ = self.db.busy_timeout(Duration::ZERO);
        let checkpoint = "pragma wal_checkpoint(truncate)";
        let busy = self
            .db
            .query_row(checkpoint, [], |row| row.get::<_, i64>(0));
        if busy == Ok(0) {
            // It is on the disk now.
            let _ = self.db.execute("update store set boot = null", []);
            let _ = self.db.query_row(checkpoint, [], |_| Ok(()));
        }
        drop(self.db);
        ended
    }

    /// Stores what waits, if that can be done now.
    fn store(&mut self, waiting: &mut Waiting, tell: impl Fn(Arguments<'_>)) {
        // Who does not wait any more is not stored: else these could become ever more in a time of
        // trouble.
        waiting.sessions.retain(|touch| !touch.done.is_closed());
        let commit = |()| Ok(commit(&mut self.db, waiting, &self.file)?);
        let begun = Instant::now();
        let stored = self.writing.during(|| self.held.check().and_then(commit));
        let shown = &self.shown;
        let troubled = self.troubled.borrow().is_some();
        match stored {
            Ok(()) => {
                metrics::COMMITS.observe(begun.elapsed());
                if troubled {
                    tell(format_args!("{shown}: lines are stored again"));
                    self.troubled.send_replace(None);
                }
                let Waiting {
                    batches, sessions, ..
                } = std::mem::take(waiting);
                // An error means that nobody waits for it any more.
                for append in batches {
                    let _ = append.done.send(append.batch);
                }
                for touch in sessions {
                    let _ = touch.done.send(touch.taken);
                }
            }
            Err(error) if !troubled => {
                let trouble = format!("cannot store lines in {shown}: {}", error.words());
                tell(format_args!("{trouble} (trying again; who speaks waits)"));
                self.troubled.send_replace(Some(trouble));
                self.retry_at = Instant::now() + self.limits.store_retry;
            }
            Err(_) => self.retry_at = Instant::now() + self.limits.store_retry,
        }
    }

    /// Deletes some of the lines that are too old, in one room, and says when to go on.
    fn forget(&mut self, tell: impl Fn(Arguments<'_>)) {
        let Some(days) = self.days else { return };
        let oldest = now().saturating_sub(u64::from(days) * 24 * 60 * 60 * 1000);
        let forget = || forget(&mut self.db, &self.room, oldest.cast_signed(), &self.limits);
        let forgotten = self.writing.during(forget);
        let pause = match forgotten {
            Ok(Forgotten::Some) => self.limits.store_pause,
            Ok(Forgotten::AllOf(room)) => {
                self.room = room + "\0"; // The least name behind this one.
                self.limits.store_pause
            }
            Ok(Forgotten::All) => {
                self.room.clear();
                self.limits.sweep
            }
            Err(error) => {
                let (shown, why) = (&self.shown, words(&error));
                tell(format_args!("cannot delete old lines from {shown}: {why}"));
                self.room.clear();
                self.limits.sweep
            }
        };
        self.rest_until = Instant::now() + pause;
    }
}

/// How many lines will have been taken from each session that said some of this batch.
fn taken_from(batch: &BatchMut, file: &File) -> impl Iterator<Item = ([u8; 32], u64)> {
    let mut sessions = HashMap::new();
    for (author, _, lines) in batch.said().filter(|(.., lines)| *lines > 0) {
        if let Some(key) = &author.key {
            sessions.entry(author.id).or_insert((key, author.taken())).1 += lines;
        }
    }
    let sessions = sessions.into_values();
    sessions.map(|(key, lines)| (file.digest("session", key.secret()), lines))
}

/// Puts what waits into the database, all or nothing of it.
fn commit(db: &mut Connection, waiting: &mut Waiting, file: &File) -> rusqlite::Result<()> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if waiting.is_empty() {
        // Something has to be written, so that it is known whether that can be done.
        change.execute("update store set starts = starts", [])?;
    }
    {
        let mut line = change.prepare_cached("insert into lines values (?, ?, ?, ?, ?, ?)")?;
        let mut next = change.prepare_cached("insert or replace into rooms values (?, ?)")?;
        let mut taken =
            change.prepare_cached("insert or replace into sessions values (?, ?, ?, ?)")?;
        for append in &waiting.batches {
            let (room, time) = (&*append.room, append.time.cast_signed());
            let mut position = append.position.cast_signed();
            for (author, frames, lines) in append.batch.said() {
                if lines == 0 {
                    continue; // A notice is for those who are there.
                }
                for payload in frame::payloads(frames) {
                    let payload = String::from_utf8_lossy(payload);
                    // No name has this in it.
                    let (name, text) = payload.split_once(": ").unwrap_or(("", &payload));
                    let author = author.id.cast_signed();
                    line.execute(params![room, position, time, author, name, text])?;
                    position += 1;
                }
            }
            next.execute(params![room, position])?;
            for (session, lines) in taken_from(&append.batch, file) {
                taken.execute(params![room, session, lines.cast_signed(), time])?;
            }
        }
    }
    let mut touch = change.prepare_cached(
        "insert into sessions values (?, ?, ?, ?)
         on conflict do update set at = max(at, excluded.at) returning taken",
    )?;
    for session in &mut waiting.sessions {
        let (room, taken) = (&*session.room, session.taken.cast_signed());
        let row = params![room, session.session, taken, now().cast_signed()];
        let taken = touch.query_row(row, |row| row.get::<_, i64>(0))?;
        session.taken = taken.cast_unsigned();
    }
    drop(touch);
    change.commit()
}

/// How many of the lines that are too old were deleted.
enum Forgotten {
    /// There may be more in the same room.
    Some,
    /// There are none left in this room.
    AllOf(String),
    /// There was no other room.
    All,
}

/// Deletes some of the lines that were said before `oldest`, in the first room from `from` on; and, behind them, what is known of sessions that were not here since then.
fn forget(
    db: &mut Connection,
    from: &str,
    oldest: i64,
    limits: &Limits,
) -> rusqlite::Result<Forgotten> {
    let most = i64::try_from(limits.store_rows).unwrap_or(i64::MAX);
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let room: Option<String> = change
        .prepare_cached(
            "select min(room) from (
                 select min(room) as room from lines where room >= ?1
                 union all select min(room) from sessions where room >= ?1)",
        )?
        .query_row([from], |row| row.get(0))?;
    let Some(room) = room else {
        return Ok(Forgotten::All);
    };
    // Only from the beginning, so that there are never gaps between the lines that are left, even if
    // the clock was wrong for a while.
    let (found, last) = {
        let mut first = change.prepare_cached(
            "select position, at from lines where room = ? order by position limit ?",
        )?;
        let mut rows = first.query(params![room, most])?;
        let (mut found, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(1)? >= oldest {
                break;
            }
            (found, last) = (found + 1, Some(row.get::<_, i64>(0)?));
        }
        (found, last)
    };
    if let Some(last) = last {
        change
            .prepare_cached("delete from lines where room = ? and position <= ?")?
            .execute(params![room, last])?;
    }
    let is_done = found < most;
    if is_done {
        // Those that are here were touched since, and others may have been for as long after that.
        let unseen = i64::try_from(2 * limits.store_touch.as_millis()).unwrap_or(i64::MAX);
        change
            .prepare_cached("delete from sessions where room = ? and at < ?")?
            .execute(params![room, oldest.saturating_sub(unseen)])?;
    }
    change.commit()?;
    Ok(if is_done {
        Forgotten::AllOf(room)
    } else {
        Forgotten::Some
    })
}

/// What the thread that reads has.
struct Reader {
    db: Connection,
    shown: String,
    limits: Limits,
    /// Why nothing can be read now, if that is so.
    troubled: watch::Sender<Option<String>>,
    /// Since when the disk was asked to read something.
    reading: Since,
    _held: Arc<Held>,
}

impl Reader {
    /// The thread. A question that cannot be answered is dropped, and so is its answer. In a time of trouble it
    /// tries again by itself, since nobody may come as long as there is trouble.
    fn run(self, questions: &Receiver<Question>, tell: impl Fn(Arguments<'_>)) {
        let mut told: Option<Instant> = None;
        loop {
            let troubled = self.troubled.borrow().is_some();
            let until = troubled.then(|| Instant::now() + self.limits.store_retry);
            let question = match next(questions, until) {
                Next::Came(question) => Some(question),
                Next::Nothing => None,
                Next::Over => return,
            };
            let seldom = self.limits.store_seldom;
            let answered = self.reading.during(|| match question {
                Some(question) if question.is_closed() && !troubled => Ok(()),
                Some(question) => self.answer(question),
                None => self.known("", None).map(drop),
            });
            let answered = answered.map_err(|error| {
                let (shown, why) = (&self.shown, words(&error));
                format!("cannot read lines from {shown}: {why}")
            });
            let trouble = answered.err();
            if let Some(trouble) = &trouble
                && told.is_none_or(|then| then.elapsed() >= seldom)
            {
                tell(format_args!("{trouble}"));
                told = Some(Instant::now());
            }
            self.troubled.send_replace(trouble);
        }
    }

    fn answer(&self, question: Question) -> rusqlite::Result<()> {
        match question {
            Question::Known {
                room,
                session,
                answer,
                place,
            } => {
                let known = self.known(&room, session)?;
                drop(place);
                // An error, here and below, means that nobody waits for it any more.
                let _ = answer.send(known);
            }
            Question::Lines {
                room,
                who,
                range,
                count,
                answer,
            } => {
                let mut lines = self.db.prepare_cached(
                    "select position, at, author, name, text from lines
                     where room = ? and position >= ? and position < ? order by position limit ?",
                )?;
                let (start, end) = (range.start.cast_signed(), range.end.cast_signed());
                let most = i64::try_from(self.limits.store_rows).unwrap_or(i64::MAX);
                let mut rows = lines.query(params![&*room, start, end, most])?;
                let (mut piece, mut told, mut line) = (Piece::default(), None, Vec::new());
                piece.position = range.start;
                if let Some(end) = count {
                    let mut others = self.db.prepare_cached(
                        "select count(*) from lines
                         where room = ? and position >= ? and position < ? and author <> ?",
                    )?;
                    let (end, author) = (end.cast_signed(), who.author.cast_signed());
                    let others = others.query_row(params![&*room, start, end, author], |row| {
                        row.get::<_, i64>(0)
                    })?;
                    piece.counted = others.cast_unsigned();
                }
                let mut count = 0;
                let is_full = loop {
                    let Some(row) = rows.next()? else {
                        break count == most;
                    };
                    let position = row.get::<_, i64>(0)?.cast_unsigned();
                    let time = row.get::<_, i64>(1)?.cast_unsigned();
                    let author = row.get::<_, i64>(2)?.cast_unsigned();
                    if count == 0 {
                        piece.gap = position > piece.position;
                    }
                    count += 1;
                    if author == who.author {
                        piece.own += 1;
                        piece.position = position + 1;
                        continue;
                    }
                    line.clear();
                    if who.marked && told != Some((position, time)) {
                        line.extend_from_slice(&frame::mark(position, time));
                    }
                    let (name, text) = (row.get_ref(3)?.as_str()?, row.get_ref(4)?.as_str()?);
                    frame::text_frame(&mut line, &[name, ": ", text]);
                    if !piece.frames.is_empty()
                        && piece.frames.len() + line.len() > self.limits.gather
                    {
                        break true;
                    }
                    piece.frames.extend_from_slice(&line);
                    told = Some((position + 1, time));
                    piece.position = position + 1;
                };
                if !is_full && piece.position < range.end {
                    // There is nothing more up to its end: it was deleted.
                    piece.gap = true;
                    piece.position = range.end;
                }
                let _ = answer.send(piece);
            }
        }
        Ok(())
    }

    fn known(&self, room: &str, session: Option<[u8; 32]>) -> rusqlite::Result<Known> {
        let number = |sql: &str, params: &[&dyn ToSql]| -> rusqlite::Result<Option<u64>> {
            let mut found = self.db.prepare_cached(sql)?;
            let found = found.query_row(params, |row| row.get::<_, Option<i64>>(0));
            Ok(found.optional()?.flatten().map(i64::cast_unsigned))
        };
        let end = number("select next from rooms where room = ?", &[&room])?.unwrap_or(0);
        let start = number("select min(position) from lines where room = ?", &[&room])?;
        let taken = match session {
            Some(session) => number(
                "select taken from sessions where room = ? and session = ?",
                &[&room, &session],
            )?,
            None => None,
        };
        Ok(Known {
            start: start.unwrap_or(end),
            end,
            taken,
        })
    }
}
