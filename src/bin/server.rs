//! The server: a listener, the rooms, and one task for each connection.

use std::io::{self, Write};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use chat_pair::flags;
use chat_pair::os::{Stop, describe};
use chat_pair::server::flags::Server as Flags;
use chat_pair::server::handshake::{self, Refusal, Rules};
use chat_pair::server::limits::Limits;
use chat_pair::server::listener::{Listener, fit_to_descriptors};
use chat_pair::server::log::Log;
use chat_pair::server::rooms::Rooms;
use chat_pair::server::tls::Certificate;
use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

fn main() -> ExitCode {
    let ended = match flags::parse::<Flags>("server") {
        Ok(flags) => run(flags),
        Err(exit) => return exit,
    };
    let Err(line) = ended else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(io::stderr(), "server: {line}");
    ExitCode::FAILURE
}

fn run(flags: Flags) -> Result<(), String> {
    /// After so many tasks tokio asks the system for new input, 61 unless told otherwise. With a
    /// larger number all tasks that are ready run first, and what they say becomes one batch.
    const EVENT_INTERVAL: u32 = 1024;
    let mut runtime = match flags.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().worker_threads(flags.threads);
    runtime.event_interval(EVENT_INTERVAL);
    let runtime = runtime.build().map_err(|error| cannot_start(&error))?;
    runtime.block_on(serve(flags))
}

fn cannot_start(error: &io::Error) -> String {
    format!("cannot start: {}", describe(error))
}

/// What the task of every connection needs.
struct Shared {
    rooms: Arc<Rooms>,
    log: Log,
    limits: Limits,
    origins: Vec<String>,
    certificate: Option<Arc<Certificate>>,
}

async fn serve(flags: Flags) -> Result<(), String> {
    let mut limits = flags.limits();
    let certificate = flags.certificate()?;
    let mut stop = Stop::listen().map_err(|error| cannot_start(&error))?;
    let mut listener = Listener::bind(&flags.listen, &limits).await?;
    let log = Log::open(&limits).map_err(|error| cannot_start(&error))?;
    log.report_panics();
    log.print(format_args!("listening on port {}", listener.port()));
    fit_to_descriptors(&mut limits, &log);
    if let Some(certificate) = certificate.clone() {
        tokio::spawn(certificate.renew(log.clone(), limits.clone()));
    }

    let shared = Arc::new(Shared {
        rooms: Rooms::new(&limits, flags.presence),
        log,
        limits,
        origins: flags.allow_origin,
        certificate,
    });
    let mut connections = JoinSet::new();
    // Nothing is ever sent here. When `serving` is dropped, every `closing` learns of it.
    let (serving, closing) = watch::channel(());
    loop {
        // A few more than there are places for, since those get an answer: 503.
        let most = shared.limits.connections + shared.limits.refusals;
        tokio::select! {
            (stream, address) = listener.accept(&shared.log, &shared.limits), if connections.len() < most => {
                while connections.try_join_next().is_some() {} // whose places are free again
                let full = connections.len() >= shared.limits.connections;
                connections.spawn(connection(shared.clone(), stream, address, full, closing.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = stop.asked() => break,
        }
    }

    // Nobody else comes in, handshakes end, and nobody is listened to any more. What was read is
    // still said, and each room closes behind it.
    drop((listener, serving));
    shared.rooms.close();
    let ended = tokio::select! {
        () = drain(&mut connections, &shared) => Ok(()),
        () = stop.asked() => Err("ended at once, at a second signal".to_owned()),
    };
    connections.shutdown().await;
    shared.log.close(shared.limits.log_end);
    ended
}

/// Waits until every connection has heard the goodbye, or the time for that is over. Lines that
/// still wait for space after the first part of it are refused, since they would keep their room
/// open.
async fn drain(connections: &mut JoinSet<()>, shared: &Shared) {
    let Shared { rooms, limits, .. } = shared;
    let mut ended = pin!(async { while connections.join_next().await.is_some() {} });
    if timeout(limits.last_lines, &mut ended).await.is_err() {
        rooms.refuse();
        let _ = timeout(limits.drain, ended).await;
    }
}

/// One connection, with TLS or without.
async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: String,
    full: bool,
    mut closing: watch::Receiver<()>,
) {
    // A line is small and should leave at once. Failing is no reason to turn anyone away.
    let _ = stream.set_nodelay(true);
    let rules = Rules {
        origins: &shared.origins,
        full,
        until: Instant::now() + shared.limits.handshake,
    };
    let Some(certificate) = &shared.certificate else {
        let (reader, writer) = stream.into_split();
        return chat(&shared, reader, writer, &address, rules, closing).await;
    };
    // Boxed, here and below, so that the memory of a handshake is not kept as long as the
    // connection, and that of TLS not by connections without it.
    let accepting = Box::pin(certificate.accept(stream, rules.until, &shared.limits));
    let accepted = tokio::select! {
        accepted = accepting => accepted,
        _ = closing.changed() => return,
    };
    match accepted {
        Ok(stream) => {
            let (reader, writer) = split(stream);
            Box::pin(chat(&shared, reader, writer, &address, rules, closing)).await;
        }
        Err(refusal) => warn_of(&refusal, &address, &shared.log),
    }
}

/// One connection, from the WebSocket handshake to the goodbye.
async fn chat<R, W>(
    shared: &Shared,
    reader: R,
    writer: W,
    address: &str,
    rules: Rules<'_>,
    mut closing: watch::Receiver<()>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Shared {
        rooms, log, limits, ..
    } = shared;
    let enter = |target: &Uri| rooms.enter(target, address);
    let accepted = tokio::select! {
        accepted = Box::pin(handshake::accept(reader, writer, rules, enter, limits)) => accepted,
        _ = closing.changed() => return,
    };
    let (mut connection, mut member) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => return warn_of(&refusal, address, log),
    };
    let (identity, stopping) = (&member.identity, closing.changed());
    let announced = log.announce(identity);
    connection.writer.push(member.greeting);
    let heard = &mut member.subscription;
    let ended = connection
        .relay(identity, member.speaker, heard, log, limits, stopping)
        .await;
    drop((announced, member.subscription, member.place));
    if ended.concerns_operator() {
        log.warn_of_stranger(format_args!("{} {ended}", identity.label));
    }
    if let Some((code, reason)) = ended.goodbye() {
        connection.close(code, reason, limits).await;
    }
}

/// Tells the operator of a stranger who did not get in.
fn warn_of(refusal: &Refusal, address: &str, log: &Log) {
    match refusal {
        Refusal::Answered(status, why) => {
            let status = status.as_u16();
            log.warn_of_stranger(format_args!("{address} was refused: {why} ({status})"));
        }
        Refusal::Unanswered(why) => log.warn_of_stranger(format_args!("{address} left: {why}")),
        Refusal::Left => {}
    }
}
