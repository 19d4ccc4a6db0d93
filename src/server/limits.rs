//! Every number of the server, each with its reason. Tests shrink them instead of waiting.

use std::time::Duration;

use crate::protocol::limits::{CLOSE, HEAD, MESSAGE, QUIET, longest};

/// What a stranger, a slow reader or a dead link may cost.
///
/// # Memory
///
/// The server's resident memory stays below
///
/// ```text
///   16 MiB                                     program and allocator, the tokens
/// + 4           * log                          two outputs: what waits and what is being written
/// + rooms       * (backlog + full + 32 KiB)    what rooms keep for those who are behind
/// + (connections + refusals)
///               * (2 * message + gather + full + said + 16 KiB + tls)
/// + windows                                    the last lines of all rooms, and their sessions
/// + store                                      what SQLite keeps for itself, or NATS
/// ```
///
/// where `full = batch + longest` is a full batch, to which one line more was added (with a store, `backlog`, if
/// that is more: what is said while it is busy becomes one), `longest` is one line as it is relayed ([`longest`]),
/// and `said = 2 * turn + longest` is text for the log. The fourth line is what one connection can hold: a
/// half-received message and the buffer it is read through, what is being written to it (the batch that fills
/// `gather` may be a whole one; what it reads of the past is copied for it, as much at a time), lines that wait for
/// the room to take them, as frames, and the text for the log of those and of what the room has taken and not
/// stored yet, pongs, its session and its task. [`Limits::memory`] computes it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one message from a client.
    pub message: usize,
    /// Connections at once, those included that have not been refused yet: four times what one chat room can be.
    pub connections: usize,
    /// Connections beyond `connections` that are being told that they are refused. The next ones wait in the
    /// listener's queue, …
    pub refusals: usize,
    /// … but no longer than this for each that is before them; then the first that has no seat is turned away.
    /// A request comes as soon as a connection does, and silent strangers must not keep out those who ask
    /// whether the server is well.
    pub refusal: Duration,
    /// Descriptors beside the connections: standard input, output and error, the log's copies of two of them,
    /// the listener, the service manager's socket, those of the runtimes (TLS has one of its own), and files
    /// that are read again.
    pub descriptors: usize,
    /// Connections that the system holds until they are accepted; a crowd that comes back must fit.
    pub accept_queue: i32,
    /// Bytes of HTTP head.
    pub head: usize,
    /// Bytes of TLS handshake: ten times what a browser sends.
    pub hello: usize,
    /// From the TCP connection to the open WebSocket: twice a round trip to the other side of
    /// the world with a lost packet or two.
    pub handshake: Duration,
    /// Bytes that a connection holds for TLS, none without it: what is encrypted and not written yet,
    /// which rustls limits to 64 KiB, a record of 16 KiB that is read or was, and its session.
    pub tls: usize,
    /// Bytes of pongs that are written together. A client that sends pings and does not read is
    /// not read any more when there are more than twice as many.
    pub control: usize,
    /// Bytes a second that a reader must take while it is behind, to be waited for. A little less
    /// than the 64 KiB of the promise, so that no jitter decides about a reader at just that rate.
    pub rate: u64,
    /// How long a reader may be behind this rate before the room no longer waits for it. A system
    /// often shows that its reader takes something only when the whole receive buffer, usually
    /// 128 KiB, is empty again; so this is a little more than the rate takes for that.
    pub patience: Duration,
    /// How long a reader that was too slow must keep up before the room waits for it again.
    pub probation: Duration,
    /// After a newcomer, which is somebody who came less than a `probation` ago, was too slow, the
    /// room does not wait for newcomers for this long.
    pub distrust: Duration,
    /// A reader that takes nothing for this long is gone. At 10 KB/s it takes 13 s until a
    /// receive buffer of 128 KiB is empty and its system shows that something was taken.
    pub stuck: Duration,
    /// Bytes that the system holds for a reader beyond what is on its way to it.
    pub unsent: u32,
    /// A goodbye: Close and the end of the TCP stream.
    pub close: Duration,
    /// Silence before a ping, and again how long its answer may take.
    pub quiet: Duration,
    /// After the signal to stop, those who were accepted already get this long to come in,
    /// so that they hear the goodbye and not nothing, …
    pub last_newcomers: Duration,
    /// … lines that were read already get this long to be said, …
    pub last_lines: Duration,
    /// … and then everyone this long to hear them. The promise is 5 s for all three.
    pub drain: Duration,
    /// Rooms at once; one is there as long as somebody is in it, or its past is kept and nobody
    /// needs its place.
    pub rooms: usize,
    /// Bytes that the slowest subscriber of a room may be behind before those who speak wait. At the lowest
    /// rate, these and what is being written are delivered before `drain`.
    pub backlog: usize,
    /// Places of the room's channel (a power of two): the batches that `backlog` can consist of.
    pub ring: usize,
    /// Bytes after which a batch is full: big enough that its overhead vanishes, small enough
    /// that a flood does not delay the line after it.
    pub batch: usize,
    /// Bytes after which a connection lets the others go on, …
    pub turn: usize,
    /// … and what each message counts beside its bytes, since an empty one costs time too.
    pub cost: usize,
    /// Bytes after which a receiver writes instead of taking one more batch that is ready.
    pub gather: usize,
    /// Lines of a room that are kept for those who come back: a long evening's talk, …
    pub window_lines: u64,
    /// … and the bytes that they may take: at the lowest rate who comes back has read them in 16 s.
    pub window: usize,
    /// Bytes that the kept lines and the sessions of all rooms may take together.
    pub windows: usize,
    /// Lines that whoever enters a room gets first.
    pub history: u64,
    /// Sessions of one room, with a connection or without: as many as there may be connections, so
    /// that all of them may be lost at once and come back.
    pub sessions: usize,
    /// How long a session is remembered without a connection: long enough for a laptop that is
    /// carried to another place, and for many of the pauses after which a client tries again.
    pub session: Duration,
    /// How often the server looks for what need not be remembered any more, …
    pub sweep: Duration,
    /// … and how soon again while nearly all of `windows` is used, and nothing can be dropped since
    /// somebody is in each of the rooms.
    pub sweep_rest: Duration,
    /// Those who come or go within a moment are named in one line.
    pub moment: Duration,
    /// Whoever is back within this time has not left.
    pub absence: Duration,
    /// Those who have left and might be back, at most: beyond it the others are not told of them.
    pub names_left: usize,
    /// Names in the line that tells who is here; the others are counted.
    pub names_here: usize,
    /// Names in the lines that tell who came and who left.
    pub names_told: usize,
    /// Bytes of output that wait for a slow standard output or standard error.
    pub log: usize,
    /// How long a line of output may wait for others to be written with it.
    pub log_pause: Duration,
    /// How long the log waits after an error, for instance of a full disk, before it tries again.
    pub log_retry: Duration,
    /// How often it is said that lines of output were dropped.
    pub log_seldom: Duration,
    /// How long the end of the program waits for a standard output that nobody reads.
    pub log_end: Duration,
    /// Lines a second on standard error about refused strangers.
    pub warnings: u32,
    /// Lines a second that a client may say; `None` when there is no limit.
    pub lines: Option<u32>,
    /// A client that was quiet may say as many lines at once as it may say in this time.
    pub burst: Duration,
    /// With a limit on lines, the bytes that the system keeps of a client that says more. Without one
    /// it decides itself, and keeps megabytes.
    pub unheard: usize,
    /// Connections from one address, or from one /64 of IPv6; `None` when there is no limit. Those
    /// of this machine itself are not counted.
    pub per_address: Option<usize>,
    /// Connections of such an address beyond `per_address` that are being told so (429). The next
    /// ones are closed without a word.
    pub answers: usize,
    /// Tokens in the file with them. Each is compared with what a stranger shows, which takes a
    /// tenth of a millisecond for all of these.
    pub tokens: usize,
    /// How often it is looked whether a file has changed that a flag names.
    pub look: Duration,
    /// Bytes that a store keeps in memory, none without one: two connections to the database, each with
    /// up to 2 MB of its pages (SQLite's default), and the index of what was written last. What waits
    /// to be stored has space in its room, and is counted there. With NATS, see [`Limits::nats`].
    pub store: usize,
    /// Descriptors of a store: the file itself, and three for each of two connections to the database. With
    /// NATS it is a few sockets.
    pub store_files: usize,
    /// Bytes of frames after which a commit does not wait for more.
    pub store_commit: usize,
    /// Rows that are read, or deleted, at once, so that nobody waits long for the next one.
    pub store_rows: usize,
    /// How long deleting old lines rests after each such step.
    pub store_pause: Duration,
    /// How often it is stored that a session is still here, so that it is not too old to be known.
    pub store_touch: Duration,
    /// How soon the store tries again after an error, for instance of a full disk.
    pub store_retry: Duration,
    /// How often it is said that lines cannot be read, which strangers may ask for again and again.
    pub store_seldom: Duration,
    /// How long it waits for another program that has locked the database, before that is an error.
    pub store_busy: Duration,
    /// How long a commit may take before whoever asks how the server is hears of it: a disk may never answer.
    pub store_patience: Duration,
    /// Bytes of `FILE-wal` that are kept when they are not needed any more.
    pub store_wal: i64,
    /// Notices about the store that a room can have on their way, beside what has space in it.
    pub store_notices: usize,
    /// How long the end of the server waits for the last commit. It is part of `drain`.
    pub store_end: Duration,
    /// How often NATS is asked whether it is there: so a dead link is noticed after three times this.
    pub nats_ping: Duration,
    /// How long it may take to answer a request.
    pub nats_answer: Duration,
    /// The longest pause between two attempts to reach it, or to use it.
    pub nats_retry: Duration,
    /// How often a stream that was there must not be found before it is made again: in a cluster that
    /// elects a leader it may not be found for a while.
    pub nats_missing: u32,
    /// How often the connection is made anew as long as something is not allowed on it.
    pub nats_again: Duration,
    /// Bytes that a new stream may take on the disks of NATS, for as long as the chat is not silent: a
    /// thousand rooms' `window`. NATS reserves them. Whoever runs it can change that.
    pub nats_bytes: i64,
    /// Messages of one room that a new stream keeps. Each has a line at least, so these are the lines of
    /// `window_lines`, and several times as many messages by which sessions come to a server.
    pub nats_messages: i64,
    /// Authors of one room of whom a server knows how many lines they have said, so that nothing is said
    /// twice: far more than speak in the time in which a line can come twice. All servers of a chat
    /// have to have the same number.
    pub nats_authors: usize,
    /// How long somebody who wants to enter waits for NATS before it is told to come back later.
    pub nats_enter: Duration,
    /// How long whoever comes back to a server that does not know how many of its lines were taken waits for
    /// one that does: for many round trips.
    pub nats_taken: Duration,
    /// How long to wait before something is tried again that did not work with NATS.
    pub nats_pause: Duration,
    /// How long NATS may be away before those in the rooms are told.
    pub nats_patience: Duration,
    /// How often NATS says that a room is silent. When it does not even do that for two and a half times
    /// this, the room is read anew.
    pub nats_heartbeat: Duration,
    /// How long NATS keeps what a server that ended was reading with.
    pub nats_inactive: Duration,
    /// How long the name of a server that died is not free: it stays in NATS for so long, …
    pub nats_name: Duration,
    /// … and is written there again so often, so that two attempts may fail.
    pub nats_renew: Duration,
    /// Requests about names that are on their way to NATS at once.
    pub nats_requests: usize,
    /// Bytes that the names of all servers may take in NATS: what a hundred thousand connections need.
    pub nats_names: i64,
    /// How often a server tells the others who is in a room, though nobody has come or left, …
    pub nats_tell: Duration,
    /// … and how long it may be silent before nobody is there any more.
    pub nats_told: Duration,
    /// How long whoever opens a room waits for others to say who is there. That hardly takes longer than a round
    /// trip, and all of this only when one of them has died; so a machine that is busy has time, too.
    pub nats_ask: Duration,
    /// Bytes of the names of one room that a server tells the others; those beyond are counted.
    pub nats_people: usize,
    /// How often a server says that its readers are behind. Whoever has not said so for three times as long
    /// is not waited for.
    pub nats_behind: Duration,
    /// Servers that are waited for at once. A stream has to keep more messages than that.
    pub nats_servers: usize,
    /// Connections to the port of `--metrics` at once: Prometheus, its twin, and a person or two.
    pub scrapes: usize,
    /// The accept loop's rest when the system is out of descriptors.
    pub rest: Duration,
}

impl Limits {
    /// Bytes of a full batch to which one line more was added.
    const fn full(&self) -> usize {
        self.batch + longest(self.message)
    }

    /// Bytes of what is said while a store is busy, which becomes one batch: all that has space in a room, or
    /// all that one connection says at once.
    const fn unstored(&self) -> usize {
        let (all, one) = (self.backlog, self.full());
        if all > one { all } else { one }
    }

    /// The space that lines of so many bytes need: their bytes, at least one place of the channel's share
    /// of it, and at most all of it. With 128 KiB and 256 places that share is 512 bytes. So there are
    /// never more batches than places, and the channel never overwrites one.
    #[must_use]
    pub fn space_for(&self, bytes: usize) -> usize {
        bytes.clamp(self.backlog.div_ceil(self.ring), self.backlog)
    }

    /// Bytes of the longest message to NATS: such a batch, and what stands before each part of it.
    #[must_use]
    pub const fn nats_message(&self) -> usize {
        self.unstored() + 64 * self.ring
    }

    /// Bytes of text for the log, of lines that are not in the room's log yet.
    const fn said(&self) -> usize {
        2 * self.turn + longest(self.message)
    }

    /// Bytes of resident memory that the server stays below, whatever its clients do.
    #[must_use]
    pub const fn memory(&self) -> usize {
        let full = if self.store > 0 {
            self.unstored()
        } else {
            self.full()
        };
        let connection = 2 * self.message + self.gather + full + self.said() + 16 * 1024 + self.tls;
        16 * 1024 * 1024
            + 4 * self.log
            + self.rooms * (self.backlog + full + 32 * 1024)
            + (self.connections + self.refusals) * connection
            + self.windows
            + self.store
    }

    /// What `store` is with NATS. For each room: a copy of what is on its way, as much of other servers
    /// and as much that NATS has sent and that is not looked at yet, and the counts of authors. NATS sends
    /// that much ahead, though for a room whose readers were fast before it may be up to 32 MiB: of those
    /// there is one here, since a room waits for a slow reader only for a moment.
    #[must_use]
    pub const fn nats(&self) -> usize {
        48 * 1024 * 1024 + self.rooms * (3 * self.backlog + 128 * self.nats_authors)
    }

    /// What `store` is with a store.
    pub const STORE: usize = 8 * 1024 * 1024;

    /// What `tls` is with TLS.
    pub const TLS: usize = 112 * 1024;

    /// What the server runs with unless a flag says otherwise.
    pub const DEFAULT: Self = Self {
        message: MESSAGE,
        connections: 4096,
        refusals: 16,
        refusal: Duration::from_millis(50),
        descriptors: 24,
        accept_queue: 1024,
        head: HEAD,
        hello: 16 * 1024,
        handshake: Duration::from_secs(5),
        tls: 0,
        control: 4 * 1024,
        rate: 56 * 1024,
        patience: Duration::from_millis(2570),
        probation: Duration::from_secs(10),
        distrust: Duration::from_secs(30),
        stuck: Duration::from_secs(15),
        unsent: 16 * 1024,
        close: CLOSE,
        quiet: QUIET,
        last_newcomers: Duration::from_millis(500),
        last_lines: Duration::from_millis(500),
        drain: Duration::from_millis(3200),
        rooms: 1024,
        backlog: 128 * 1024,
        ring: 256,
        batch: 16 * 1024,
        turn: 64 * 1024,
        cost: 64,
        gather: 64 * 1024,
        window_lines: 10_000,
        window: 1024 * 1024,
        windows: 64 * 1024 * 1024,
        history: 0,
        sessions: 4096,
        session: Duration::from_mins(10),
        sweep: Duration::from_mins(1),
        sweep_rest: Duration::from_secs(1),
        moment: Duration::from_millis(200),
        absence: Duration::from_secs(5),
        names_left: 1024,
        names_here: 20,
        names_told: 2,
        log: 4 * 1024 * 1024,
        log_pause: Duration::from_millis(5),
        log_retry: Duration::from_secs(1),
        log_seldom: Duration::from_secs(10),
        log_end: Duration::from_millis(300),
        warnings: 5,
        lines: None,
        burst: Duration::from_secs(10),
        unheard: 64 * 1024,
        per_address: None,
        answers: 4,
        tokens: 1024,
        look: Duration::from_secs(10),
        store: 0,
        store_files: 8,
        store_commit: 1024 * 1024,
        store_rows: 4096,
        store_pause: Duration::from_millis(20),
        store_touch: Duration::from_hours(1),
        store_retry: Duration::from_secs(1),
        store_seldom: Duration::from_mins(1),
        store_busy: Duration::from_secs(1),
        store_patience: Duration::from_secs(5),
        store_wal: 4 * 1024 * 1024,
        store_notices: 8,
        store_end: Duration::from_millis(300),
        nats_ping: Duration::from_secs(2),
        nats_answer: Duration::from_secs(2),
        nats_retry: Duration::from_millis(500),
        nats_missing: 3,
        nats_again: Duration::from_secs(10),
        nats_bytes: 1024 * 1024 * 1024,
        nats_messages: 64 * 1024,
        nats_authors: 4096,
        nats_enter: Duration::from_secs(3),
        nats_taken: Duration::from_secs(1),
        nats_pause: Duration::from_millis(100),
        nats_patience: Duration::from_secs(1),
        nats_heartbeat: Duration::from_secs(1),
        nats_inactive: Duration::from_secs(10),
        nats_name: Duration::from_secs(30),
        nats_renew: Duration::from_secs(10),
        nats_requests: 256,
        nats_names: 64 * 1024 * 1024,
        nats_tell: Duration::from_secs(5),
        nats_told: Duration::from_secs(15),
        nats_ask: Duration::from_secs(1),
        nats_people: 8 * 1024,
        nats_behind: Duration::from_millis(100),
        nats_servers: 64,
        scrapes: 4,
        rest: Duration::from_millis(100),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
