//! The connection to NATS, the stream in it, and what the operator hears of both. A task of its own
//! looks after them: it makes the stream if there is none, and looks at it again after each time that
//! the connection was lost.

use std::fmt::{self, Arguments};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use std::error::Error;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind, RequestErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{ConsumerErrorKind, LastRawMessageErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode, stream};
use async_nats::{
    Client, ClientError, ConnectOptions, Event, HeaderValue, ServerAddr, ServerError, StatusCode,
    Subject, Subscriber,
};
use bytes::Bytes;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::os;
use crate::server::limits::Limits;
use crate::server::metrics;
use crate::server::store::nats::names::Names;
use crate::server::store::nats::{At, Entry, Place, Up};
use crate::server::store::number;

/// A connection to NATS. Each clone is the same one.
#[derive(Clone, Debug)]
pub struct Nats(Arc<Shared>);

struct Shared {
    client: Client,
    context: Context,
    /// The name of the stream.
    stream: String,
    /// What the operator calls it.
    shown: String,
    /// Since when it can be used, if it can be now.
    up: watch::Receiver<Option<Up>>,
    /// The last message of the stream that was read in any room.
    newest: Mutex<Option<At>>,
    /// Notified when somebody found that the stream should be looked at.
    look: Notify,
    /// What tells this run of the server from all others that ever were.
    server: u64,
    /// The number of the next message of this server.
    next_message: AtomicU64,
    /// The author that the next connection without a session is.
    next_author: AtomicU64,
    names: Names,
    limits: Limits,
    told: Told,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shown)
    }
}

/// What the client says by itself. Since it drops such events when there are many, they are hints.
#[derive(Clone, Debug, Default)]
struct Hint {
    /// How often there was a connection.
    round: u64,
    /// Why there is none.
    failed: Option<&'static str>,
    /// What was not allowed first.
    forbidden: Option<String>,
}

/// What the operator was told last of the trouble that there is, about each of these things: nothing is
/// said twice.
struct Told {
    tell: Box<dyn Fn(Arguments<'_>) + Send + Sync>,
    of: [Mutex<Option<String>>; 3],
    passed_over: Once,
}

/// What can be in trouble.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The connection, or the stream.
    Stream,
    /// Sending to it.
    Sending,
    /// Reading it.
    Reading,
}

impl Told {
    /// There is trouble with something, or there is none.
    fn tell(&self, part: Part, trouble: Option<String>, shown: &str) {
        let told = &self.of[part as usize];
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == trouble {
            return;
        }
        match &trouble {
            Some(why) => (self.tell)(format_args!(
                "cannot use {shown}: {why} (trying again; who speaks waits)"
            )),
            None => (self.tell)(format_args!("{shown} can be used again")),
        }
        *told = trouble;
    }

    /// What the operator was told of one of them.
    fn trouble(&self, part: Part) -> Option<String> {
        let told = self.of[part as usize].lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// There is something that is no trouble: it is said once.
    fn pass_over(&self, what: Arguments<'_>) {
        self.passed_over.call_once(|| (self.tell)(what));
    }
}

impl Nats {
    /// Begins to connect, and goes on with that until the end of the program. To be called within a
    /// Tokio runtime. `tell` tells the operator.
    ///
    /// # Errors
    ///
    /// One line that names a file or a URL that cannot be used.
    pub async fn open(
        place: Place<'_>,
        limits: &Limits,
        tell: impl Fn(Arguments<'_>) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let addresses = place.urls.iter().map(|url| {
            url.parse::<ServerAddr>()
                .map_err(|_| format!("{} is no URL of a NATS server", without_secret(url)))
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let urls: Vec<_> = place.urls.iter().map(|url| without_secret(url)).collect();
        let (hints, hinted) = watch::channel(Hint::default());
        let longest_pause = limits.nats_retry;
        let is_tls = place.urls.iter().any(|url| url.starts_with("tls://"));
        let mut options = ConnectOptions::new()
            .name("chat")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ping_interval(limits.nats_ping)
            .connection_timeout(limits.nats_answer)
            .request_timeout(Some(limits.nats_answer))
            .reconnect_delay_callback(move |attempts| {
                let pause = Duration::from_millis(10) * u32::try_from(attempts).unwrap_or(u32::MAX);
                pause.min(longest_pause)
            })
            .event_callback(move |event| {
                hints.send_modify(|hint| hint.take(event, is_tls));
                async {}
            });
        // The library does not look for them in the URLs by itself.
        if let Some(url) = addresses.iter().find(|url| url.has_user_pass()) {
            let (user, password) = (url.username().unwrap_or_default(), url.password());
            options = match password {
                Some(password) => options.user_and_password(user.to_owned(), password.to_owned()),
                None => options.token(user.to_owned()),
            };
        }
        if let Some(file) = place.credentials {
            let text = String::from_utf8(os::read_file(file)?);
            let with = text.ok().and_then(|text| options.credentials(&text).ok());
            let shown = file.display();
            options = with.ok_or_else(|| {
                format!("cannot use {shown} as credentials: they are not what `nsc generate creds` writes")
            })?;
            if os::is_public(file) {
                tell(format_args!(
                    "others can read the credentials in {shown}: chmod 600 {shown}"
                ));
            }
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| format!("cannot start: {error}"))?;
        let (server, connections) = random.split_at(8);
        // Of what tells connections apart the lower 24 bits count, the 39 above them are random, and the first
        // bit is that of sessions.
        let first_author = number(connections) >> 1 & !0xff_ffff;
        let stream = place.stream.to_owned();
        let (troubled, up) = watch::channel(None);
        let (limits, shown) = (limits.clone(), format!("NATS at {}", urls.join(",")));
        let told = Told {
            tell: Box::new(tell),
            of: Default::default(),
            passed_over: Once::new(),
        };
        // With `retry_on_initial_connect` this does not wait for the connection.
        let client = options.connect(addresses).await;
        let client = client.map_err(|error| format!("cannot use {shown}: {error}"))?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(limits.nats_answer);
        let nats = Self(Arc::new(Shared {
            client,
            context,
            stream,
            shown,
            up,
            newest: Mutex::default(),
            look: Notify::new(),
            server: number(server),
            next_message: AtomicU64::new(1),
            next_author: AtomicU64::new(first_author),
            names: Names::new(&limits),
            limits,
            told,
        }));
        tokio::spawn(nats.clone().look_after(hinted, troubled));
        tokio::spawn(nats.clone().renew_names());
        Ok(nats)
    }

    /// The task that looks after the connection and the stream.
    async fn look_after(self, mut hinted: watch::Receiver<Hint>, up: watch::Sender<Option<Up>>) {
        let shared = &self.0;
        // The stream was there once, and was not found so many times since.
        let (mut was_there, mut missing) = (false, 0);
        let mut last = None;
        // When the connection was made anew, and what was not allowed before, as long as it may still turn
        // out that it is not now.
        let (mut renewed, mut suspected) = (Instant::now(), None::<String>);
        // What is in the way was said when this connection was made.
        let mut is_old = false;
        loop {
            let hint = hinted.borrow_and_update().clone();
            let is_in_the_way = is_old || hint.forbidden.is_some();
            if is_in_the_way && renewed.elapsed() >= shared.limits.nats_again {
                // NATS drops a subscription that is not allowed any more, and says what it takes only when
                // a connection is made. So only a new one shows whether that has changed. An error means
                // that there is none now.
                (renewed, suspected) = (Instant::now(), hint.forbidden);
                is_old = false;
                let _ = shared.client.force_reconnect().await;
                let _ = timeout(shared.limits.nats_retry, hinted.changed()).await;
                continue;
            }
            if renewed.elapsed() >= shared.limits.nats_answer {
                suspected = None;
            }
            let mut found = Err(String::new());
            if shared.client.connection_state() == State::Connected {
                // A stream that is not found while a cluster elects its leader is there all the same.
                let may_make = !was_there || missing >= shared.limits.nats_missing;
                if was_there && may_make {
                    let why = format!("its stream {} is gone, and is made anew", shared.stream);
                    shared.told.tell(Part::Stream, Some(why), &shared.shown);
                }
                let looked = self.look(may_make, hint.round, last).await;
                is_old = matches!(looked, Err(Trouble::SaidAtFirst(_)));
                found = looked.map_err(|trouble| match trouble {
                    Trouble::Missing => {
                        missing += 1;
                        String::new()
                    }
                    Trouble::NoAnswer => {
                        let hint = hinted.borrow();
                        let forbidden = hint.forbidden.as_deref().or(suspected.as_deref());
                        forbidden.map_or_else(|| "it does not answer".to_owned(), not_allowed)
                    }
                    Trouble::Said(why) | Trouble::SaidAtFirst(why) => why,
                });
            } else if let Some(why) = hint.failed {
                found = Err(why.to_owned());
            }
            let is_same = hinted.borrow().round == hint.round;
            match found {
                Ok(now) if is_same => {
                    (was_there, missing) = (true, 0);
                    last = Some(now);
                    up.send_replace(last);
                    let forbidden = hint.forbidden.as_deref().or(suspected.as_deref());
                    let forbidden = forbidden.map(not_allowed);
                    shared.told.tell(Part::Stream, forbidden, &shared.shown);
                    let again = match (&hint.forbidden, &suspected) {
                        (Some(_), _) => Some(shared.limits.nats_again),
                        (None, Some(_)) => Some(shared.limits.nats_answer),
                        (None, None) => None,
                    };
                    tokio::select! {
                        _ = hinted.changed() => {}
                        () = shared.look.notified() => {}
                        () = sleep_until(renewed + again.unwrap_or_default()), if again.is_some() => {}
                    }
                    if shared.client.connection_state() != State::Connected {
                        up.send_replace(None);
                    }
                    continue;
                }
                Ok(_) => {}
                Err(why) => {
                    up.send_replace(None);
                    if !why.is_empty() {
                        shared.told.tell(Part::Stream, Some(why), &shared.shown);
                    }
                }
            }
            let _ = timeout(shared.limits.nats_retry, hinted.changed()).await;
        }
    }

    /// Looks at the stream in this round, and makes it if there is none. `last` is what was found before.
    async fn look(&self, may_make: bool, round: u64, last: Option<Up>) -> Result<Up, Trouble> {
        let shared = &self.0;
        let (most, needed) = (
            shared.client.max_payload(),
            shared.limits.nats_message() + HEADERS,
        );
        if most < needed {
            return Err(Trouble::SaidAtFirst(format!(
                "its max_payload is {most}, and this server needs {needed}: make it larger, or --max-message smaller"
            )));
        }
        let wanted = stream::Config {
            name: shared.stream.clone(),
            subjects: vec![format!("{}.room.*", shared.stream)],
            max_bytes: shared.limits.nats_bytes,
            max_messages_per_subject: shared.limits.nats_messages,
            discard: stream::DiscardPolicy::Old,
            ..stream::Config::default()
        };
        let found = match shared.context.get_stream(&shared.stream).await {
            Ok(found) => found,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    if !may_make {
                        return Err(Trouble::Missing);
                    }
                    let made = shared.context.create_stream(&wanted).await;
                    if made.is_err() {
                        sleep(shared.limits.nats_pause).await;
                    }
                    // When several servers make it at once, NATS 2.9 may answer with a wrong time, or that
                    // there is another stream with its subjects.
                    let found = shared.context.get_stream(&shared.stream).await;
                    if let (Err(_), Err(error)) = (&found, made) {
                        return Err(self.not_made(&error));
                    }
                    found.map_err(|error| unanswered(&error))?
                }
                GetStreamErrorKind::JetStream(error) => return Err(self.refused(&error)),
                _ => return Err(unanswered(&error)),
            },
        };
        let (info, config) = (found.cached_info(), &found.cached_info().config);
        // Each server may send a message before it has read those of the others.
        let servers = i64::try_from(shared.limits.nats_servers).unwrap_or(i64::MAX);
        let too_few = |most| (1..=servers).contains(&most);
        let wrong = [
            (config.subjects != wanted.subjects, "subjects"),
            (config.discard != wanted.discard, "discard"),
            (config.retention != wanted.retention, "retention"),
            (config.storage != wanted.storage, "storage"),
            (config.no_ack, "no_ack"),
            (too_few(config.max_messages), "max_msgs"),
            (
                too_few(config.max_messages_per_subject),
                "max_msgs_per_subject",
            ),
            (config.sealed, "sealed"),
            (
                config.mirror.is_some() || config.sources.is_some(),
                "sources",
            ),
        ];
        let wrong: Vec<_> = wrong
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, what)| *what)
            .collect();
        if !wrong.is_empty() {
            let stream = &shared.stream;
            return Err(Trouble::Said(format!(
                "its stream {stream} has other settings than this server gives one ({}): delete it, or name \
                 another with --nats-stream",
                wrong.join(", ")
            )));
        }
        let created = info.created.unix_timestamp_nanos();
        if created <= 0 {
            return Err(Trouble::NoAnswer); // It does not know yet.
        }
        self.look_for_names(config.num_replicas).await?;
        let last = last.filter(|last| last.created == created);
        let mut cut = last.and_then(|last| last.cut);
        let newest = *self.newest();
        if let Some(newest) = newest
            && (last.is_none() || self.lacks(newest).await?)
        {
            // It is not of this stream, or is not in it any more.
            *self.newest() = None;
            cut = last.and(cut.max(Some(newest.time)));
        }
        Ok(Up {
            round,
            created,
            cut,
        })
    }

    /// Whether the stream has lost a message that was read of it: it was cut back, as after a power
    /// failure. What it has forgotten since is not lost. `None` if it cannot be known now.
    pub async fn has_lost(&self, message: At) -> Option<bool> {
        self.lacks(message).await.ok()
    }

    /// As [`Nats::has_lost`]; the error says why it cannot be known.
    async fn lacks(&self, message: At) -> Result<bool, Trouble> {
        let Shared {
            context,
            stream,
            limits,
            ..
        } = &*self.0;
        for attempt in 0..limits.nats_missing {
            // One that leads a cluster since a moment ago may not have all yet.
            if attempt > 0 {
                sleep(limits.nats_retry).await;
            }
            let found = context.get_stream(stream).await;
            let found = found.map_err(|error| unanswered(&error))?;
            let state = &found.cached_info().state;
            if state.last_sequence < message.sequence {
                continue;
            }
            return match found.get_raw_message(message.sequence).await {
                Ok(there) => Ok(there.time.unix_timestamp_nanos() != message.time),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
                Err(_) => Err(Trouble::NoAnswer),
            };
        }
        Ok(true)
    }

    fn newest(&self) -> MutexGuard<'_, Option<At>> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        let newest = self.0.newest.lock();
        newest.unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of the stream was read, as it was `then`.
    pub fn record_read(&self, then: Up, at: At) {
        if *self.0.up.borrow() == Some(then) {
            let mut newest = self.newest();
            *newest = (*newest).max(Some(at));
        }
    }

    /// Looks at the bucket of the names, and makes it if there is none.
    async fn look_for_names(&self, replicas: usize) -> Result<(), Trouble> {
        let Shared {
            stream,
            context,
            limits,
            ..
        } = &*self.0;
        let bucket = format!("{stream}-names");
        // As the library would make it, which does not understand what NATS 2.9 says of an account.
        let wanted = stream::Config {
            name: format!("KV_{bucket}"),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            max_age: limits.nats_name,
            max_bytes: limits.nats_names,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            // They are as safe as what is said.
            num_replicas: replicas,
            ..stream::Config::default()
        };
        let mut found = context.get_key_value(&bucket).await;
        if found.is_err() {
            let made = context.create_stream(wanted).await;
            made.map_err(|error| self.not_made(&error))?;
            found = context.get_key_value(&bucket).await;
        }
        let bucket = found.map_err(|error| unanswered(&error))?;
        self.0.names.set_bucket(bucket);
        Ok(())
    }

    /// What it means that a stream was not made.
    fn not_made(&self, error: &CreateStreamError) -> Trouble {
        match error.kind() {
            CreateStreamErrorKind::JetStream(error) => self.refused(&error),
            CreateStreamErrorKind::TimedOut => Trouble::NoAnswer,
            other => Trouble::Said(other.to_string()),
        }
    }

    /// What an error of JetStream means.
    fn refused(&self, error: &jetstream::Error) -> Trouble {
        let stream = &self.0.stream;
        Trouble::Said(match error.error_code() {
            ErrorCode::STREAM_SUBJECT_OVERLAP => overlap("", stream),
            ErrorCode::STREAM_NAME_EXIST => {
                format!("its stream {stream} is another program's: name another with --nats-stream")
            }
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                NO_JETSTREAM.to_owned()
            }
            ErrorCode::STORAGE_RESOURCES_EXCEEDED => {
                "it has no space left for the stream".to_owned()
            }
            // It is full, in one way or another.
            ErrorCode::STREAM_STORE_FAILED => format!("its stream {stream} takes nothing: {error}"),
            _ => error.to_string(),
        })
    }

    /// The name of the stream.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.0.stream
    }

    pub(super) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The names that connections of this server have.
    pub(super) fn names(&self) -> &Names {
        &self.0.names
    }

    /// A digest of something in this stream.
    #[must_use]
    pub fn digest(&self, of: &[&str]) -> u64 {
        let text = [&[self.stream()], of].concat().join(" ");
        number(&Sha256::digest(text))
    }

    /// The author that a new connection is which has no session: no other one ever, on no server.
    #[must_use]
    pub fn connection(&self) -> u64 {
        self.0.next_author.fetch_add(1, Relaxed)
    }

    /// What tells this run of the server from all others.
    #[must_use]
    pub fn server(&self) -> u64 {
        self.0.server
    }

    /// The number of the next message: no other message of this server has it.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.next_message.fetch_add(1, Relaxed)
    }

    /// Sends a message that may get lost, if there is a connection: what waits for one would come late.
    pub async fn say(&self, subject: String, message: Bytes) {
        if self.up().borrow().is_some() {
            // An error means that the client is closed, at the end of the program.
            let _ = self.client().publish(subject, message).await;
        }
    }

    /// Sends a message, once, and waits until the stream has it. With the same number it is in the
    /// stream once, if that is sent soon enough after the first time. Returns its sequence there; `None`
    /// if the stream may not have it.
    pub async fn publish(&self, subject: &str, number: u64, message: Bytes) -> Option<u64> {
        let Shared {
            context,
            stream,
            server,
            shown,
            told,
            client,
            ..
        } = &*self.0;
        if client.connection_state() != State::Connected {
            return None;
        }
        let publish = PublishMessage::build()
            .message_id(format!("{server:016x}-{number}"))
            .payload(message);
        let sent = async {
            let sent = context.send_publish(subject.to_owned(), publish).await?;
            sent.await
        };
        let sent = tokio::select! {
            sent = sent => sent,
            () = self.interrupted() => return None,
        };
        let why = match sent {
            // A cluster may answer so while it does not know yet whether it has the message.
            Ok(ack) if ack.sequence == 0 => return None,
            Ok(ack) if ack.stream == *stream => {
                told.tell(Part::Sending, None, shown);
                return Some(ack.sequence);
            }
            Ok(ack) => overlap(&format!(", {},", ack.stream), stream),
            Err(error) => match error.kind() {
                // The connection is not well, or the stream is gone, which the task that looks after
                // them finds out.
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => return None,
                PublishErrorKind::StreamNotFound => {
                    self.look_again();
                    return None;
                }
                _ => {
                    let source = error.source();
                    let known = source.and_then(|error| error.downcast_ref::<jetstream::Error>());
                    match known.map(|error| self.refused(error)) {
                        Some(Trouble::Said(why)) => why,
                        _ => source.map_or_else(|| error.to_string(), ToString::to_string),
                    }
                }
            },
        };
        told.tell(Part::Sending, Some(why), shown);
        None
    }

    /// The stream has delivered a message of this server, which took so long.
    pub fn record_publish(&self, took: Duration) {
        metrics::PUBLISHES.observe(took);
        self.0.told.tell(Part::Sending, None, &self.0.shown);
    }

    /// Whether the stream is another one than it was then. `None` if it cannot be known now.
    pub async fn is_another(&self, then: Up) -> Option<bool> {
        let found = self.0.context.get_stream(self.stream()).await.ok()?;
        let is_another = found.cached_info().created.unix_timestamp_nanos() != then.created;
        if is_another {
            self.look_again();
        }
        Some(is_another)
    }

    /// The stream should be looked at.
    pub(super) fn look_again(&self) {
        self.0.look.notify_one();
    }

    /// A message could not be read, since it is another program's, and is passed over.
    pub fn report_foreign(&self, subject: &str) {
        let Shared { told, shown, .. } = &*self.0;
        told.pass_over(format_args!(
            "there are messages in {subject} of {shown} that are not of a chat server: they are passed over"
        ));
    }

    /// The last message of a subject, as the leader of the stream has it: replicas may be behind.
    ///
    /// # Errors
    ///
    /// It cannot be known now.
    pub async fn last(&self, subject: &str) -> Result<Option<Entry>, Unknown> {
        let stream = self.0.context.get_stream_no_info(self.stream()).await;
        let stream = stream.map_err(|_| Unknown)?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(Entry {
                at: At {
                    sequence: message.sequence,
                    time: message.time.unix_timestamp_nanos(),
                },
                message: message.payload,
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(_) => {
                self.look_again();
                Err(Unknown)
            }
        }
    }

    /// Reads a subject from a message on, which is the first that there is from this sequence on.
    ///
    /// # Errors
    ///
    /// It cannot be read now.
    pub async fn follow(&self, subject: &str, sequence: u64) -> Result<Delivery, Unknown> {
        let Shared {
            client,
            context,
            limits,
            ..
        } = &*self.0;
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.map_err(|_| Unknown)?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: sequence,
            },
            filter_subject: subject.to_owned(),
            ack_policy: AckPolicy::None,
            flow_control: true,
            idle_heartbeat: limits.nats_heartbeat,
            inactive_threshold: limits.nats_inactive,
            memory_storage: true,
            num_replicas: 1,
            ..push::Config::default()
        };
        let consumer = context.create_consumer_on_stream(config, self.stream());
        let consumer = match consumer.await {
            Ok(consumer) => consumer,
            Err(error) => {
                self.look_again();
                if let ConsumerErrorKind::JetStream(error) = error.kind()
                    && error.error_code() != ErrorCode::STREAM_NOT_FOUND
                {
                    let told = Some(format!("a room cannot be read: {error}"));
                    self.0.told.tell(Part::Reading, told, &self.0.shown);
                }
                return Err(Unknown);
            }
        };
        self.0.told.tell(Part::Reading, None, &self.0.shown);
        Ok(Delivery {
            client: client.clone(),
            context: context.clone(),
            messages,
            pending: consumer.cached_info().num_pending,
            last: 0,
            silence: limits.nats_heartbeat * 5 / 2,
        })
    }

    /// Why nothing can be said through it now, in words for the operator, if that is so. What a single
    /// room cannot read is not meant: that is known to be over only when somebody is there.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let Shared {
            told, shown, up, ..
        } = &*self.0;
        let why = told
            .trouble(Part::Stream)
            .or_else(|| told.trouble(Part::Sending));
        let why = why.or_else(|| up.borrow().is_none().then(|| "not yet".to_owned()))?;
        Some(format!("cannot use {shown}: {why}"))
    }

    /// Whether it can be used, and since when; changes of that.
    #[must_use]
    pub fn up(&self) -> watch::Receiver<Option<Up>> {
        self.0.up.clone()
    }

    /// Waits until it cannot be used, or has a new connection: what was asked on the last one may never be
    /// answered. Does not wait if it cannot be used now.
    pub async fn interrupted(&self) {
        let mut up = self.up();
        let now = *up.borrow_and_update();
        // An error means that the runtime ends.
        let _ = up.wait_for(|up| up.is_none() || *up != now).await;
    }
}

/// Something cannot be known now.
#[derive(Debug)]
pub struct Unknown;

/// What the stream delivers of a subject: an ephemeral push consumer of our own. Whatever is odd with it
/// ends it, and another one is made from the last message on.
pub struct Delivery {
    client: Client,
    context: Context,
    messages: Subscriber,
    /// How many messages there were when it began.
    pub pending: u64,
    /// How many were delivered.
    last: u64,
    /// The longest silence.
    silence: Duration,
}

impl Delivery {
    /// Waits for the next message. `None` at the end, which says nothing of the stream.
    pub async fn next(&mut self) -> Option<Entry> {
        loop {
            let message = timeout(self.silence, self.messages.next()).await.ok()??;
            if let Some(status) = message.status {
                if status != StatusCode::IDLE_HEARTBEAT {
                    return None;
                }
                let headers = message.headers.unwrap_or_default();
                let header = |name: &str| headers.get(name).map(HeaderValue::as_str);
                if header("Nats-Last-Consumer").is_some_and(|last| last != self.last.to_string()) {
                    return None;
                }
                // It asks for an answer before it sends more: that is its flow control.
                let stalled = header("Nats-Consumer-Stalled").map(Subject::from);
                if let Some(reply) = message.reply.or(stalled) {
                    self.client.publish(reply, Bytes::new()).await.ok()?;
                }
                continue;
            }
            let message = jetstream::Message {
                message,
                context: self.context.clone(),
            };
            let info = message.info().ok()?;
            if info.consumer_sequence != self.last + 1 {
                return None;
            }
            self.last += 1;
            let at = At {
                sequence: info.stream_sequence,
                time: info.published.unix_timestamp_nanos(),
            };
            return Some(Entry {
                at,
                message: message.message.payload,
            });
        }
    }

    /// Whether all was delivered that there was when it began.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        self.last >= self.pending
    }
}

/// Bytes of the headers of a message at most.
const HEADERS: usize = 256;

const NO_JETSTREAM: &str = "it has no JetStream: start it with `nats-server -js`";

/// Why the stream cannot be used.
enum Trouble {
    /// There is none, and it is too early to make one.
    Missing,
    /// There was no answer.
    NoAnswer,
    /// In words.
    Said(String),
    /// In words, of what is known since the connection was made.
    SaidAtFirst(String),
}

/// That this server may not do something, in NATS's words.
fn not_allowed(what: &str) -> String {
    format!("it does not allow this server what it needs: {what}")
}

/// That another stream, which is the one `named` if that is known, has the subjects of this one.
fn overlap(named: &str, stream: &str) -> String {
    format!(
        "another stream there{named} has the subjects {stream}.room.*: change that one, or name another \
         with --nats-stream"
    )
}

/// What it means that a request could not be made.
fn unanswered(error: &dyn std::error::Error) -> Trouble {
    let source = error.source();
    let source = source.and_then(|error| error.downcast_ref::<jetstream::context::RequestError>());
    match source.map(jetstream::context::RequestError::kind) {
        Some(RequestErrorKind::NoResponders) => Trouble::Said(NO_JETSTREAM.to_owned()),
        _ => Trouble::NoAnswer,
    }
}

impl Hint {
    fn take(&mut self, event: Event, is_tls: bool) {
        match event {
            Event::Connected => {
                self.round += 1;
                (self.failed, self.forbidden) = (None, None);
            }
            Event::ClientError(ClientError::Other(why)) => {
                self.failed = Some(match &*why {
                    why if why.contains("authorization") => {
                        "it does not let this server in (see --nats-creds)"
                    }
                    why if why.contains("DNS") => "there is no such host",
                    // The library does not say which of them.
                    _ if is_tls => "it cannot be reached, or its certificate is not trusted here",
                    _ => "it cannot be reached",
                });
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.failed = Some("it does not let this server in (see --nats-creds)");
            }
            Event::ServerError(ServerError::Other(what))
                if self.forbidden.is_none()
                    && what.to_lowercase().starts_with("permissions violation") =>
            {
                // An inbox has another name each time.
                let inbox = what.split_once("\"_INBOX.");
                let inbox = inbox.map(|(before, _)| format!("{before}\"_INBOX.>\""));
                self.forbidden = Some(inbox.unwrap_or(what));
            }
            _ => {}
        }
    }
}

/// A URL without the user's name and password.
fn without_secret(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}
