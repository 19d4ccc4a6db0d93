//! The server: a room, a listener, and one task for each connection.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chat_pair::flags;
use chat_pair::os::{Stop, plain};
use chat_pair::server::flags::Server as Flags;
use chat_pair::server::handshake::{self, Refusal, Rules};
use chat_pair::server::limits::Limits;
use chat_pair::server::listener::{self, Listener};
use chat_pair::server::log::Log;
use chat_pair::server::room::Room;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::signal::unix::SignalKind;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

fn main() -> ExitCode {
    let ended = match flags::parse::<Flags>("server") {
        Ok(flags) => run(&flags),
        Err(exit) => return exit,
    };
    let Err(line) = ended else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(io::stderr(), "server: {line}");
    ExitCode::FAILURE
}

const EVERYTHING: u32 = 1024;

fn run(flags: &Flags) -> Result<(), String> {
    let mut runtime = match flags.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().worker_threads(flags.threads);
    // Look for new input only when everything that is ready has been done: then all that was
    // said meanwhile is one turn's.
    runtime.event_interval(EVERYTHING);
    let runtime = runtime.build().map_err(cannot_start)?;
    runtime.block_on(serve(flags))
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn cannot_start(error: io::Error) -> String {
    format!("cannot start: {}", plain(&error))
}

/// What the task of every connection needs.
struct Chat {
    room: Arc<Room>,
    log: Log,
    limits: Limits,
    origins: Vec<String>,
}

impl Chat {
    fn open(flags: &Flags, mut limits: Limits, log: Log) -> Arc<Self> {
        if let Err(most) = listener::descriptors_for(&limits) {
            let wanted = limits.connections;
            log.complain(format_args!(
                "at most {most} connections at once, not {wanted}: the system gives this process \
                 no more descriptors (see ulimit -n)"
            ));
            limits.connections = most;
        }
        let origins = flags
            .allow_origin
            .iter()
            .filter(|origin| !origin.is_empty());
        let origins = origins.cloned().collect();
        let room = Room::open(&limits);
        Arc::new(Self {
            room,
            log,
            limits,
            origins,
        })
    }
}

async fn serve(flags: &Flags) -> Result<(), String> {
    let limits = Limits {
        message: flags.max_message,
        connections: flags.max_connections,
        ..Limits::DEFAULT
    };
    let stop = Stop::listen(&[
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]);
    let mut stop = stop.map_err(cannot_start)?;
    let mut listener = Listener::bind(&flags.listen, &limits).await?;
    let log = Log::open(&limits).map_err(cannot_start)?;
    log.report_panics();
    log.say(format_args!(
        "listening on port {}",
        listener.port().unwrap_or_default()
    ));

    let chat = Chat::open(flags, limits, log);
    let Chat {
        room, log, limits, ..
    } = &*chat;
    tokio::spawn(room.clone().publish());
    let (open, closing) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        // Those that are too many are let in far enough to be told so.
        let let_in = connections.len() < limits.connections + limits.refusals;
        tokio::select! {
            (stream, name) = listener.accept(log, limits), if let_in => {
                while connections.try_join_next().is_some() {} // whose places are free again
                let full = connections.len() >= limits.connections;
                connections.spawn(connection(chat.clone(), stream, name, full, closing.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = stop.asked() => break,
        }
    }

    // Nobody new; handshakes end; nobody is listened to any more. What was read is said, and the
    // room closes behind it.
    drop((listener, open));
    room.close();
    let drained = async { while connections.join_next().await.is_some() {} };
    let refuse = async {
        sleep(limits.last_words).await;
        room.refuse();
        std::future::pending::<()>().await;
    };
    let at_once = tokio::select! {
        _ = timeout(limits.drain, drained) => false,
        () = refuse => false,
        () = stop.asked() => true,
    };
    connections.shutdown().await;
    log.close(Duration::from_millis(400));
    if at_once {
        Err("ended at once, at a second signal".to_owned())
    } else {
        Ok(())
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
        room,
        log,
        limits,
        origins,
    } = &*chat;
    // A line is small and should leave at once. Failing is no reason to turn anyone away.
    let _ = stream.set_nodelay(true);
    let rules = Rules { origins, full };
    let (reader, writer) = stream.into_split();
    // Boxed, so that the memory of a handshake is not kept as long as the connection.
    let accepted = Box::pin(handshake::accept(reader, writer, rules, room, limits));
    let accepted = tokio::select! {
        accepted = accepted => accepted,
        _ = closing.changed() => return,
    };
    let (mut connection, speaker, mut subscription) = match accepted {
        Ok(accepted) => accepted,
        Err(Refusal::Answered(status, why)) => {
            return log.complain_of(format_args!(
                "{name} was refused: {why} ({})",
                status.as_str()
            ));
        }
        Err(Refusal::Left) => return,
    };
    let presence = log.announce(&name);
    let ended = connection
        .relay(
            &name,
            speaker,
            &mut subscription,
            log,
            limits,
            closing.changed(),
        )
        .await;
    drop((presence, subscription));
    if ended.is_worth_a_line() {
        log.complain_of(format_args!("{name} {ended}"));
    }
    if let Some((code, reason)) = ended.goodbye() {
        connection.close(code, reason, limits).await;
    }
}
