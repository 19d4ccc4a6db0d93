//! What is different in a room whose log several servers share: what is said is sent to a stream, and
//! applied when the stream delivers it, between what the other servers have sent. All of them apply the
//! same in the same order.
//!
//! What this server has said brings its space with it, as everywhere. What comes from others has a space
//! of its own, for which it waits before it is applied. Meanwhile the server tells the others that it is
//! behind, and they send nothing more: so those who speak are slowed down to the readers of all servers.

mod flow;

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::State;
use crate::server::batch::BatchMut;
use crate::server::limits::Limits;
use crate::server::sessions::Asked;
use crate::server::store::nats::message::{self, Body, Head, INDEX, LINES, Part};
use crate::server::store::nats::{At, RoomLog, Up};

/// How far a room has come in the log.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// When the stream was made.
    created: Option<i128>,
    /// What tells its pasts apart: nothing, unless it was cut back.
    salt: u64,
    /// The last message that was applied.
    last: Option<At>,
    /// The sequence of the last lines before that which were applied.
    previous: u64,
    /// All was applied that was there, and what comes is applied when it comes.
    is_ready: bool,
    /// The log does not have the last message any more that was applied, from this time: so it has to get
    /// another past before anything else, unless it has got one since.
    cut: Option<i128>,
    /// The message of this server that gives it one.
    renewal: Option<u64>,
    /// When the log got the past that it has, if that is not its first one.
    renewed: Option<i128>,
    /// What is on its way to the stream. There is only one batch: so in the stream, no lines of an
    /// author can be missing before others.
    sent: Option<Sent>,
    /// Who waits for a session.
    claims: HashMap<u64, oneshot::Sender<()>>,
    /// Other servers whose readers are behind: how far each has come, and when it said so.
    behind: HashMap<u64, (u64, Instant)>,
}

impl Progress {
    /// The sequence of the last message that was applied; 0 if none was.
    fn sequence(&self) -> u64 {
        self.last.map_or(0, |last| last.sequence)
    }

    /// Whether the stream has what was sent before this message, and it was not delivered.
    fn has_lost_sent(&self, at: At) -> bool {
        let sent = self.sent.as_ref().and_then(|sent| sent.sequence);
        sent.is_some_and(|sequence| sequence < at.sequence)
    }

    /// Whether what is said goes to the stream, and what is in the stream comes from it.
    fn goes_on(&self) -> bool {
        self.is_ready && !self.sent.as_ref().is_some_and(|sent| sent.was_refused)
    }
}

/// A batch on its way to the stream.
#[derive(Debug)]
struct Sent {
    head: Head,
    message: Bytes,
    batch: BatchMut,
    begun: Instant,
    /// Its place there, if the stream has said that it has it.
    sequence: Option<u64>,
    /// The stream has not taken it at least once.
    was_refused: bool,
}

impl Sent {
    fn message(&self) -> (u64, Bytes) {
        (self.head.number, self.message.clone())
    }
}

impl State {
    /// What stands before the next message.
    fn head(&self, log: &RoomLog) -> Head {
        let (floor, prior) = self.history.ends();
        Head {
            server: log.nats.server(),
            number: log.nats.number(),
            salt: self.progress.salt,
            floor,
            prior,
        }
    }

    /// Takes what is to be sent next. Returns whether there is anything.
    fn begin_to_send(&mut self, log: &RoomLog, limits: &Limits) -> bool {
        while self.progress.sent.is_none() {
            if self.next.is_empty() || self.readers.is_closed() || !self.progress.is_ready {
                return false;
            }
            // Less at once while others are behind, so that they need not wait long for the next.
            let longest = if self.progress.behind.is_empty() {
                limits.nats_message()
            } else {
                limits.batch
            };
            let bytes = longest - message::HEAD;
            let space = |bytes| limits.space_for(bytes);
            let batch = self.next.take(LINES, bytes, message::PART, space);
            if batch.lines() == 0 {
                self.apply(batch, 0); // Notices are for those who are there.
                continue;
            }
            let said = batch.said().filter(|(.., lines)| *lines > 0);
            let parts = said.map(|(author, frames, lines)| Part {
                author: author.id,
                before: author.send(lines),
                lines,
                frames,
            });
            let (head, body) = (self.head(log), Body::Lines(parts.collect()));
            let message = message::encode(&head, &body).into();
            self.progress.sent = Some(Sent {
                head,
                message,
                batch,
                begun: Instant::now(),
                sequence: None,
                was_refused: false,
            });
            self.storing = true;
        }
        true
    }

    /// Begins to read: returns the message behind which that goes on, and which must come first. `None`
    /// if nothing was read yet, or nothing of this stream.
    fn begin_to_read(&mut self, log: &RoomLog, now: Up) -> Option<At> {
        self.progress.renewal = None;
        if self.progress.created != Some(now.created) {
            self.progress.created = Some(now.created);
            (self.progress.last, self.progress.cut) = (None, None);
            self.progress.renewed = None;
            self.history.begin_at(0);
            self.set_past(log, 0);
        }
        if self.progress.last.is_none() && now.cut > self.progress.renewed {
            // Nobody was here to notice whether this room has lost something then.
            self.progress.cut = self.progress.cut.max(now.cut);
        }
        self.progress.last
    }

    /// There is nothing to read: that is the first past, as it is for who did not know another one.
    fn begin_with_nothing(&mut self, log: &RoomLog) {
        self.history.begin_at(0);
        if self.progress.salt != 0 {
            self.be_of(0, log);
        }
    }

    /// The first message that is read tells which past this is, and whether it is the first of all.
    fn begin_with(&mut self, head: Head, at: At, log: &RoomLog) {
        let label = if head.prior == 0 {
            0
        } else {
            at.sequence << INDEX
        };
        self.history.begin_at(label);
        if head.salt != self.progress.salt {
            self.renew(log, head.salt, at);
        }
    }

    /// The log does not have what was applied last: it was cut back, as after a power failure.
    fn mark_cut_back(&mut self) {
        let lost = self.progress.last.take().map(|last| last.time);
        self.progress.cut = self.progress.cut.max(lost);
    }

    /// Whether a message that gives the log another past is on its way.
    fn is_renewed_soon(&self) -> bool {
        self.progress.cut.is_some() && self.progress.renewal.is_some()
    }

    /// What gives a log that was cut back another past.
    fn renewal(&mut self, log: &RoomLog) -> Option<(u64, Bytes)> {
        self.progress.cut?;
        let head = self.head(log);
        self.progress.renewal = Some(head.number);
        let salt = log
            .nats
            .digest(&[&format!("{:x} {}", head.server, head.number)]);
        let message = message::encode(&head, &Body::Salt(salt));
        Some((head.number, message.into()))
    }

    /// From here on the log has another past than what was known of it.
    fn renew(&mut self, log: &RoomLog, salt: u64, at: At) {
        self.progress.cut.take_if(|lost| at.time > *lost);
        self.progress.renewed = Some(at.time);
        self.be_of(salt, log);
    }

    /// What is read belongs to the past with this salt. If the log gets another one before anything else,
    /// those who are here are told then: before that they must not leave the room, since it would be
    /// closed, and nobody would know that the log was cut back.
    fn be_of(&mut self, salt: u64, log: &RoomLog) {
        match self.progress.cut {
            Some(_) => self.progress.salt = salt,
            None => self.set_past(log, salt),
        }
    }

    fn set_past(&mut self, log: &RoomLog, salt: u64) {
        self.progress.salt = salt;
        let epoch = log.epoch(self.progress.created.unwrap_or_default(), salt);
        self.history.renew(Some(format!("{epoch:016x}")));
        self.forget_sessions(log);
    }

    /// Another server says that its readers are behind, and how far it has come, or that they are not.
    fn hear_behind(&mut self, server: u64, sequence: Option<u64>, limits: &Limits) {
        let behind = &mut self.progress.behind;
        let Some(sequence) = sequence else {
            behind.remove(&server);
            return;
        };
        if behind.len() < limits.nats_servers || behind.contains_key(&server) {
            behind.insert(server, (sequence, Instant::now()));
        }
    }

    /// Whether there is something to send, and another server is two messages behind this one, since its
    /// readers are behind.
    fn is_ahead(&mut self, limits: &Limits) -> bool {
        let (now, longest) = (Instant::now(), 3 * limits.nats_behind);
        let behind = &mut self.progress.behind;
        behind.retain(|_, (_, said)| now - *said < longest);
        let mut behind = behind.values();
        !self.next.is_empty() && behind.any(|(sequence, _)| *sequence < self.progress.previous)
    }

    /// The stream has a message of this server, if that is known, or has not taken it. One that came to
    /// another past than the room knows is not lost: it is sent again when that past is read.
    fn record_ack(&mut self, number: u64, sequence: Option<u64>) {
        let sent = self.progress.sent.as_mut();
        if let Some(sent) = sent.filter(|sent| sent.head.number == number) {
            let head = sent.head;
            sent.sequence = sequence.filter(|sequence| !head.is_of_another_past(*sequence));
            sent.was_refused |= sequence.is_none();
        }
    }

    /// A message is delivered. If it is the one on its way, it was not lost, even if the stream had an earlier
    /// place for it once.
    fn record_delivery(&mut self, head: Head) {
        let sent = self.progress.sent.as_mut();
        if let Some(sent) = sent.filter(|sent| sent.head == head) {
            sent.sequence = None;
        }
    }

    /// Whether there was something in this room before a message that was not read here: whoever sent
    /// that had seen it, or it is of this server.
    fn has_missed(&self, head: Head, at: At) -> bool {
        head.prior >> INDEX > self.progress.sequence() || self.progress.has_lost_sent(at)
    }

    /// What comes before this message is forgotten by the stream, and was not read. What this server has
    /// sent of it was taken all the same: others may have read it.
    fn skip_to(&mut self, at: At, log: &RoomLog) {
        if self.progress.has_lost_sent(at)
            && let Some(sent) = self.progress.sent.take()
        {
            if let Some((_, Body::Lines(parts))) = message::decode(&sent.message) {
                self.history.count_shared(&parts, at);
            }
            self.settle(sent.batch, |_, _| {});
        }
        self.history.begin_at(at.sequence << INDEX);
        self.history.renew(None);
        self.forget_sessions(log);
    }

    /// Sends nothing more of sessions, since those are told that they have to come back: they will say
    /// it again, or that they do not know whether it was taken.
    fn forget_sessions(&mut self, log: &RoomLog) {
        self.next
            .keep(|author, _| author.key.is_none().then_some(0));
        let head = self.head(log);
        let Some(mut sent) = self.progress.sent.take() else {
            return;
        };
        sent.batch
            .keep(|author, _| author.key.is_none().then_some(0));
        if sent.batch.lines() == 0 {
            self.storing = false;
            return;
        }
        if let Some((_, Body::Lines(mut parts))) = message::decode(&sent.message) {
            parts.retain(|part| part.author >> 63 == 0);
            sent.message = message::encode(&head, &Body::Lines(parts)).into();
            (sent.head, sent.sequence) = (head, None);
        }
        self.progress.sent = Some(sent);
    }

    /// What another server is told that does not know how many lines of a session were taken, if that is
    /// known here now.
    fn answer(&self, session: u64, log: &RoomLog) -> Option<Bytes> {
        let taken = self.history.taken(session);
        let taken = taken.filter(|_| self.progress.is_ready)?;
        let body = Body::Taken { session, taken };
        Some(message::encode(&self.head(log), &body).into())
    }

    /// What other servers have said, as a batch.
    fn batch_of(&self, parts: &[Part<'_>], space: Option<OwnedSemaphorePermit>) -> BatchMut {
        let mut batch = BatchMut::default();
        for part in parts {
            let author = self.history.author(part.author);
            batch.push(&author, part.frames, part.lines);
        }
        batch.put(space);
        batch
    }

    /// Applies the next batch of the log, and publishes it.
    fn apply_shared(&mut self, batch: BatchMut, parts: &[Part<'_>], at: At) {
        let batch = self.history.apply_shared(batch, parts, at);
        self.progress.previous = self.progress.sequence();
        self.progress.last = Some(at);
        // What is read once more was heard, as far as it was read before.
        if self.progress.cut.is_none() {
            self.readers.push(batch);
            self.readers.publish();
        }
    }

    /// The sequence of the last message of this past that somebody knows who asks to enter; 0 if none.
    fn wanted(&self, asked: Option<&Asked>) -> u64 {
        let after = asked.and_then(|asked| asked.after.as_ref());
        let after = after.filter(|after| after.epoch == self.history.epoch());
        after.map_or(0, |after| after.position >> INDEX)
    }

    /// Whether the room has come as far as somebody has who asks to enter.
    pub(super) fn has_reached(&self, asked: Option<&Asked>) -> bool {
        self.progress.is_ready && self.wanted(asked) <= self.progress.sequence()
    }
}
