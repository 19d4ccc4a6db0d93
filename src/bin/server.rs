//! The server: a room, a listener, and one task for each connection.

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
use chat_pair::server::room::Room;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

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
    /// Tasks that run before the runtime looks for new input: all that are ready, so that
    /// everything that was said meanwhile becomes one batch.
    const EVERYTHING: u32 = 1024;
    let mut runtime = match flags.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().worker_threads(flags.threads);
    runtime.event_interval(EVERYTHING);
    let runtime = runtime.build().map_err(|error| cannot_start(&error))?;
    runtime.block_on(serve(flags))
}

fn cannot_start(error: &io::Error) -> String {
    format!("cannot start: {}", describe(error))
}

/// What the task of every connection needs.
struct Chat {
    room: Arc<Room>,
    log: Log,
    limits: Limits,
    origins: Vec<String>,
}

async fn serve(flags: Flags) -> Result<(), String> {
    let mut limits = flags.limits();
    let mut stop = Stop::listen().map_err(|error| cannot_start(&error))?;
    let mut listener = Listener::bind(&flags.listen, &limits).await?;
    let log = Log::open(&limits).map_err(|error| cannot_start(&error))?;
    log.report_panics();
    log.print(format_args!("listening on port {}", listener.port()));
    fit_to_descriptors(&mut limits, &log);

    let room = Room::open(&limits);
    tokio::spawn(room.clone().publish());
    let chat = Arc::new(Chat {
        room,
        log,
        limits,
        origins: flags.allow_origin,
    });
    let mut connections = JoinSet::new();
    let (serving, closing) = watch::channel(());
    loop {
        // Those that are too many are let in far enough to be told so.
        let most = chat.limits.connections + chat.limits.refusals;
        tokio::select! {
            (stream, name) = listener.accept(&chat.log, &chat.limits), if connections.len() < most => {
                while connections.try_join_next().is_some() {} // whose places are free again
                let full = connections.len() >= chat.limits.connections;
                connections.spawn(connection(chat.clone(), stream, name, full, closing.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = stop.asked() => break,
        }
    }

    // Nobody else comes in, handshakes end, and nobody is listened to any more. What was read is
    // still said, and the room closes behind it.
    drop((listener, serving));
    chat.room.close();
    let drained = tokio::select! {
        () = drain(&mut connections, &chat) => Ok(()),
        () = stop.asked() => Err("ended at once, at a second signal".to_owned()),
    };
    connections.shutdown().await;
    chat.log.close(chat.limits.log_end);
    drained
}

/// Waits until every connection has heard the goodbye, or the time for that is over.
async fn drain(connections: &mut JoinSet<()>, chat: &Chat) {
    let Chat { room, limits, .. } = chat;
    let mut ended = pin!(async { while connections.join_next().await.is_some() {} });
    if timeout(limits.last_lines, &mut ended).await.is_err() {
        room.refuse();
        let _ = timeout(limits.drain, ended).await;
    }
}

/// One connection, from the handshake to the goodbye.
async fn connection(
    chat: Arc<Chat>,
    stream: TcpStream,
    name: String,
    full: bool,
    mut closing: watch::Receiver<()>,
) {
    let Chat {
        room, log, limits, ..
    } = &*chat;
    // A line is small and should leave at once. Failing is no reason to turn anyone away.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let rules = Rules {
        origins: &chat.origins,
        full,
    };
    let accepted = tokio::select! {
        // Boxed, so that the memory of a handshake is not kept as long as the connection.
        accepted = Box::pin(handshake::accept(reader, writer, rules, room, limits)) => accepted,
        _ = closing.changed() => return,
    };
    let (mut connection, speaker, mut subscription) = match accepted {
        Ok(accepted) => accepted,
        Err(Refusal::Left) => return,
        Err(Refusal::Answered(status, why)) => {
            let status = status.as_u16();
            return log.warn_of_stranger(format_args!("{name} was refused: {why} ({status})"));
        }
    };
    let announced = log.announce(&name);
    let stopping = closing.changed();
    let ended = connection
        .relay(&name, speaker, &mut subscription, log, limits, stopping)
        .await;
    drop((announced, subscription));
    if ended.concerns_operator() {
        log.warn_of_stranger(format_args!("{name} {ended}"));
    }
    if let Some((code, reason)) = ended.goodbye() {
        connection.close(code, reason, limits).await;
    }
}
