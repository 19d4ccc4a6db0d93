//! What a room does with a log that several servers share: it sends what is said here, reads what all
//! have said, and lets sessions in. What follows from it for the room is in the parent module, where
//! nothing waits.

use std::future::pending;
use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use super::Sent;
use crate::server::frame::SOME_MISSED;
use crate::server::room::stored::{StoreAnswer, Stored};
use crate::server::room::{Room, State};
use crate::server::sessions::{Asked, Suspended};
use crate::server::store::nats::counts::Claim;
use crate::server::store::nats::message::{self, Body, Head, INDEX};
use crate::server::store::nats::{At, Entry, RoomLog, Up};

/// What those in a room hear when nothing goes to the stream or nothing comes from it.
const WAITING: &str = "the chat is interrupted: lines are kept and sent later";

impl Room {
    /// Sends what is said to the stream, and applies what the stream delivers, until the room is closed.
    pub(in crate::server::room) async fn share(&self, stored: &Stored, log: &RoomLog) {
        tokio::select! {
            () = self.send(stored, log) => {}
            () = self.follow(stored, log) => {}
            () = self.hear_behind(stored, log) => {}
            () = self.tell_of_interruptions(stored) => {}
        }
    }

    /// Waits until something is so in the room, which changes when something is applied.
    async fn until<T>(&self, stored: &Stored, mut is: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let applied = stored.applied.notified();
            let found = is(&mut self.state());
            match found {
                Some(found) => return found,
                None => applied.await,
            }
        }
    }

    /// Tells those in the room when nothing goes to the stream or comes from it for a while.
    async fn tell_of_interruptions(&self, stored: &Stored) {
        let (patience, goes_on) = (self.limits.nats_patience, |state: &mut State| {
            state.progress.goes_on().then_some(())
        });
        loop {
            self.until(stored, goes_on).await;
            self.until(stored, |state| (!state.progress.goes_on()).then_some(()))
                .await;
            if timeout(patience, self.until(stored, goes_on))
                .await
                .is_err()
            {
                self.interrupt(stored, WAITING);
                self.until(stored, goes_on).await;
                self.go_on(stored);
            }
        }
    }

    /// Learns which of the other servers are behind.
    async fn hear_behind(&self, stored: &Stored, log: &RoomLog) {
        if let Some(mut behind) = log.nats.hear_behind(&log.room).await {
            while let Some((server, sequence)) = behind.next().await {
                self.state().hear_behind(server, sequence, &self.limits);
                stored.applied.notify_waiters();
            }
        }
        pending::<()>().await;
    }

    /// Sends one batch after the other, but none while the readers of another server are behind.
    async fn send(&self, stored: &Stored, log: &RoomLog) {
        while !self.state().readers.is_closed() {
            if self.state().is_ahead(&self.limits) {
                // It is over, too, when they have said nothing for long.
                let is_not = |state: &mut State| (!state.is_ahead(&self.limits)).then_some(());
                let _ = timeout(self.limits.nats_behind, self.until(stored, is_not)).await;
            } else if self.state().begin_to_send(log, &self.limits) {
                self.send_until_applied(stored, log).await;
            } else {
                self.to_publish.notified().await;
            }
        }
    }

    /// Sends a batch, again and again, until the stream has delivered it, or the room is closed.
    async fn send_until_applied(&self, stored: &Stored, log: &RoomLog) {
        loop {
            let sent = self.state().progress.sent.as_ref().map(Sent::message);
            let Some((number, message)) = sent else {
                return;
            };
            let is_over = |state: &mut State| {
                let sent = state.progress.sent.as_ref().map(|sent| sent.head.number);
                (sent != Some(number) || state.readers.is_closed())
                    .then(|| state.readers.is_closed())
            };
            // What was read by then is not sent once more, if it was there already.
            let sending = async {
                let is_ready = |state: &mut State| state.progress.is_ready.then_some(());
                self.until(stored, is_ready).await;
                self.send_once(log, number, message, |sequence| {
                    self.state().record_ack(number, sequence);
                    self.skip_what_was_lost(stored, log);
                    stored.applied.notify_waiters();
                })
                .await;
            };
            tokio::select! {
                () = sending => {}
                is_closed = self.until(stored, is_over) => if is_closed { return },
            }
        }
    }

    /// Says that something was missed if what was sent was: the stream has it before something that was
    /// read.
    fn skip_what_was_lost(&self, stored: &Stored, log: &RoomLog) {
        let last = self.state().progress.last;
        if let Some(last) = last
            && self.state().progress.has_lost_sent(last)
        {
            self.skip_to(stored, log, last);
        }
    }

    /// What comes before this message is forgotten by the stream, and was not read.
    fn skip_to(&self, stored: &Stored, log: &RoomLog, at: At) {
        let mut state = self.state();
        state.skip_to(at, log);
        self.end(&mut state);
        drop(state);
        self.tell(stored, SOME_MISSED);
    }

    /// Sends a message when there is a connection: what is sent while there is none would be sent once for
    /// each time. Says at which sequence the stream has it, if it does, and returns when it may have to be
    /// sent again.
    async fn send_once(
        &self,
        log: &RoomLog,
        number: u64,
        message: Bytes,
        is_sent: impl FnOnce(Option<u64>),
    ) {
        let mut up = log.nats.up();
        let is_up = up.wait_for(Option::is_some).await.is_ok();
        let sequence = if is_up {
            log.nats.publish(&log.subject, number, message).await
        } else {
            None
        };
        is_sent(sequence);
        if sequence.is_some() {
            // It will be delivered, unless it was lost there. If the connection is lost, it may have to be
            // sent again, too: to a stream that was cut back.
            let _ = timeout(self.limits.nats_answer, up.changed()).await;
        } else {
            sleep(self.limits.nats_pause).await;
        }
    }

    /// Reads the stream, and again whenever that ends, until the room is closed.
    async fn follow(&self, stored: &Stored, log: &RoomLog) {
        let mut up = log.nats.up();
        loop {
            let now = up.wait_for(Option::is_some).await.map(|up| *up);
            let Ok(Some(now)) = now else { return };
            tokio::select! {
                _ = self.read(stored, log, now) => {}
                _ = up.wait_for(|up| *up != Some(now)) => {}
            }
            self.state().progress.is_ready = false;
            stored.applied.notify_waiters();
            sleep(self.limits.nats_pause).await;
        }
    }

    /// Reads the stream from the last message on that was applied, or from where the room's last lines
    /// begin. Returns when it has to be read anew.
    async fn read(&self, stored: &Stored, log: &RoomLog, now: Up) -> Option<()> {
        let mut expected = self.state().begin_to_read(log, now);
        let begin = match expected {
            Some(at) => at.sequence,
            None => match log.nats.last(&log.subject).await.ok()? {
                None => {
                    self.state().begin_with_nothing(log);
                    1
                }
                Some(Entry { at, message }) => match message::decode(&message) {
                    Some((head, _)) if !head.is_of_another_past(at.sequence) => head.floor >> INDEX,
                    _ => 1, // It says nothing of what is before it.
                },
            },
        };
        let mut delivery = log.nats.follow(&log.subject, begin.max(1)).await.ok()?;
        // One that was made anew is begun with when that is known everywhere in this server.
        if log.nats.is_another(now).await? {
            return None;
        }
        if let Some(last) = expected
            && delivery.pending == 0
        {
            let is_there = |at: At| at == last || at.sequence > last.sequence;
            if !self.ends_before(log, is_there).await? {
                return None;
            }
            if log.nats.has_lost(last).await? {
                self.state().mark_cut_back();
                return None;
            }
            expected = None; // The stream has forgotten all of the room.
        }
        let mut is_first = expected.is_none();
        loop {
            if delivery.has_caught_up() {
                self.catch_up(stored, log).await?;
            }
            let entry = delivery.next().await?;
            log.nats.record_read(now, entry.at);
            let mut is_gap = false;
            if let Some(last) = expected.take() {
                if entry.at == last {
                    continue;
                }
                if entry.at.sequence <= last.sequence {
                    self.state().mark_cut_back();
                    return None;
                }
                if now.cut.is_some_and(|cut| cut >= last.time) {
                    // It was cut back, and there is more in it again than was read.
                    self.state().mark_cut_back();
                    return None;
                }
                // The stream has forgotten what was to be read next.
                is_gap = true;
            }
            if entry.at.sequence <= self.state().progress.sequence() {
                continue;
            }
            self.take(stored, log, &entry, &mut is_first, is_gap).await;
            stored.applied.notify_waiters();
        }
    }

    /// Whether the last message of the room in the stream is another one than those that are looked for.
    /// In a cluster, what is read comes from one of the replicas, and that may not have all yet; also one
    /// that leads since a moment ago. So the leader is asked, and asked again. `None` if it cannot be known
    /// now.
    async fn ends_before(&self, log: &RoomLog, is_there: impl Fn(At) -> bool) -> Option<bool> {
        for attempt in 0..self.limits.nats_missing {
            if attempt > 0 {
                sleep(self.limits.nats_retry).await;
            }
            let newest = log.nats.last(&log.subject).await.ok()?;
            if newest.is_some_and(|newest| is_there(newest.at)) {
                return Some(false);
            }
        }
        Some(true)
    }

    /// All was read that was there. `None` if it has to be read anew.
    async fn catch_up(&self, stored: &Stored, log: &RoomLog) -> Option<()> {
        if self.state().progress.is_ready {
            return Some(());
        }
        if self.state().is_renewed_soon() {
            return Some(());
        }
        let renewal = self.state().renewal(log);
        if let Some((number, message)) = renewal {
            // When it comes back the room has another past, here and everywhere.
            log.nats.publish(&log.subject, number, message).await?;
            return Some(());
        }
        self.state().progress.is_ready = true;
        stored.applied.notify_waiters();
        self.to_publish.notify_one();
        Some(())
    }

    /// Applies a message of the stream, before which there is a gap if the stream has forgotten something.
    async fn take(
        &self,
        stored: &Stored,
        log: &RoomLog,
        entry: &Entry,
        is_first: &mut bool,
        is_gap: bool,
    ) {
        let at = entry.at;
        let Some((head, body)) = message::decode(&entry.message) else {
            log.nats.report_foreign(&log.subject);
            self.state().progress.last = Some(at);
            return;
        };
        if head.is_of_another_past(at.sequence) {
            // The server that sent it sends it again when it has read so far.
            if !*is_first {
                self.state().progress.last = Some(at);
            }
            return;
        }
        self.state().record_delivery(head);
        if std::mem::take(is_first) {
            self.state().begin_with(head, at, log);
        } else if is_gap || self.state().has_missed(head, at) {
            // The stream has forgotten it before it was delivered.
            self.skip_to(stored, log, at);
        }
        let is_own = head.server == log.nats.server();
        let is_sent = |sent: &mut Sent| is_own && sent.head.number == head.number;
        if let Body::Lines(parts) = &body
            && !self.state().progress.sent.as_mut().is_some_and(is_sent)
        {
            let bytes = parts.iter().map(|part| part.frames.len()).sum();
            let space = self.space_for_others(stored, log, bytes).await;
            let mut state = self.state();
            let batch = state.batch_of(parts, space);
            return state.apply_shared(batch, parts, at);
        }
        if let Some(answer) = self.apply(stored, log, head, body, at) {
            log.nats.say(log.subject.to_string(), answer).await;
        }
    }

    /// Applies a message for which there is space. Returns the answer to it, if it is a question.
    fn apply(
        &self,
        stored: &Stored,
        log: &RoomLog,
        head: Head,
        body: Body<'_>,
        at: At,
    ) -> Option<Bytes> {
        let is_own = head.server == log.nats.server();
        let mut state = self.state();
        match body {
            Body::Lines(parts) => {
                let is_sent = |sent: &mut Sent| sent.head.number == head.number;
                // It was there a moment ago, and nobody else takes it.
                let Sent { batch, begun, .. } = state.progress.sent.take_if(is_sent)?;
                // Often this is known before the stream's answer has come.
                log.nats.record_publish(begun.elapsed());
                state.settle(batch, |state, batch| state.apply_shared(batch, &parts, at));
                self.end(&mut state);
            }
            Body::Claim { session, taken } => {
                let claim = (head.server, head.number);
                // What is read once more of a log that was cut back is not so any more.
                let stays = is_own || state.progress.cut.is_some();
                state.history.claim(session, taken, claim, stays, at);
                if is_own && let Some(waiting) = state.progress.claims.remove(&head.number) {
                    // An error means that nobody waits for it any more.
                    let _ = waiting.send(());
                }
                state.progress.last = Some(at);
                if taken.is_none() && !is_own {
                    return state.answer(session, log);
                }
            }
            Body::Taken { session, taken } => {
                state.history.learn(session, taken, at);
                state.progress.last = Some(at);
            }
            Body::Salt(salt) => {
                state.progress.last = Some(at);
                let is_awaited = is_own && state.progress.renewal == Some(head.number);
                let was_cut = state.progress.cut.is_some();
                if was_cut {
                    // What was read again was known, and is not kept.
                    state.history.begin_at(at.sequence << INDEX);
                }
                if is_awaited {
                    (state.progress.cut, state.progress.renewal) = (None, None);
                }
                let is_first = head.salt == state.progress.salt;
                if is_first || is_awaited && was_cut {
                    // Another server's may have been first.
                    let salt = if is_first { salt } else { state.progress.salt };
                    state.renew(log, salt, at);
                    drop(state);
                    // What came since it was cut back was not said to those who are here.
                    self.tell(stored, SOME_MISSED);
                }
            }
        }
        None
    }

    /// Waits for the space that lines of other servers need, and tells those to wait for as long.
    async fn space_for_others(
        &self,
        stored: &Stored,
        log: &RoomLog,
        bytes: usize,
    ) -> Option<OwnedSemaphorePermit> {
        let mut space = pin!(self.space(&stored.others, bytes, false));
        if let Some(space) = space.as_mut().now_or_never() {
            return space.ok();
        }
        loop {
            let sequence = self.state().progress.sequence();
            log.nats.say_behind(&log.room, Some(sequence)).await;
            if let Ok(space) = timeout(self.limits.nats_behind, space.as_mut()).await {
                log.nats.say_behind(&log.room, None).await;
                return space.ok();
            }
        }
    }

    /// Waits until the room has come as far as the client has, and until the session that it asks for is
    /// this connection's, on all servers. `None` if that cannot be now.
    pub(in crate::server::room) async fn ask_shared(
        &self,
        stored: &Stored,
        log: &RoomLog,
        asked: Option<&Asked>,
    ) -> Option<StoreAnswer> {
        let claim = async {
            let is_beyond = self.is_beyond(stored, log, asked).await;
            let Some(asked) = asked else {
                return StoreAnswer::shared(is_beyond, None, None);
            };
            let author = self.state().history.author_of(&asked.key);
            let suspended = author.map(Suspended::new);
            if let Some(suspended) = &suspended {
                suspended.author().settled().await;
            }
            // Also if it is here: it may have been elsewhere, and this server not have read that yet.
            let claim = self.claim(stored, log, asked).await;
            StoreAnswer::shared(is_beyond, Some(claim), suspended)
        };
        timeout(self.limits.nats_enter, claim).await.ok()
    }

    /// Waits until the room has come as far as the client has. Returns whether that cannot be, since the
    /// log does not go so far any more: it was lost when nobody was there to notice that.
    async fn is_beyond(&self, stored: &Stored, log: &RoomLog, asked: Option<&Asked>) -> bool {
        let reached = |state: &mut State| state.has_reached(asked).then_some(());
        let is_ready = |state: &mut State| state.progress.is_ready.then_some(());
        let ask = async {
            loop {
                self.until(stored, is_ready).await;
                let wanted = self.state().wanted(asked);
                if let Some(true) = self.ends_before(log, |at| at.sequence >= wanted).await {
                    return;
                }
                sleep(self.limits.nats_retry).await;
            }
        };
        tokio::select! {
            biased;
            () = self.until(stored, reached) => false,
            () = ask => true,
        }
    }

    /// Takes a session over from whichever server has it. If none says how many of its lines were taken,
    /// the client is believed.
    async fn claim(&self, stored: &Stored, log: &RoomLog, asked: &Asked) -> Claim {
        let session = log.session(&asked.key);
        // Who says nothing of it may have been here before.
        let is_new = asked.after.is_none() && asked.sent == Some(0);
        let (done, mut claimed) = oneshot::channel();
        let (number, message, is_known) = {
            let mut state = self.state();
            let head = state.head(log);
            let taken = state.history.taken(session).or(is_new.then_some(0));
            let body = Body::Claim { session, taken };
            let claims = &mut state.progress.claims;
            claims.retain(|_, waiting| !waiting.is_closed());
            claims.insert(head.number, done);
            let message = Bytes::from(message::encode(&head, &body));
            (head.number, message, taken.is_some())
        };
        loop {
            tokio::select! {
                _ = &mut claimed => break,
                () = self.send_once(log, number, message.clone(), drop) => {}
            }
        }
        if !is_known {
            let taken = |state: &mut State| state.history.taken(session);
            let _ = timeout(self.limits.nats_taken, self.until(stored, taken)).await;
        }
        (log.nats.server(), number)
    }
}
