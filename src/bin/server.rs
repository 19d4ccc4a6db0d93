//! The server: a listener, the rooms, and one task for each connection.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Weak};

use chat_pair::flags;
use chat_pair::os::{Stop, cannot_start};
use chat_pair::server::addresses::{Addresses, Counted};
use chat_pair::server::arrivals::{Arrivals, Seat};
use chat_pair::server::connection::Outside;
use chat_pair::server::deadline::within;
use chat_pair::server::ended::Ended;
use chat_pair::server::entrance::{Entrance, Guest};
use chat_pair::server::flags::{LISTEN, Server as Flags};
use chat_pair::server::handshake::{self, Refusal};
use chat_pair::server::limits::Limits;
use chat_pair::server::listener::{Listener, fit_to_descriptors};
use chat_pair::server::log::Log;
use chat_pair::server::service::Service;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

fn main() -> ExitCode {
    let ended = match flags::parse::<Flags>("server") {
        Ok(flags) => run(flags),
        Err(exit) => return exit,
    };
    ended.unwrap_or_else(|line| {
        let _ = writeln!(io::stderr(), "server: {line}");
        ExitCode::FAILURE
    })
}

/// Returns what the program ends with, or in one line, why it cannot even begin.
fn run(flags: Flags) -> Result<ExitCode, String> {
    /// After so many tasks tokio asks the system for new input, 61 unless told otherwise. With a
    /// larger number all tasks that are ready run first, and what they say becomes one batch.
    const EVENT_INTERVAL: u32 = 1024;
    let service = Service::open()?;
    let mut runtime = match flags.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().worker_threads(flags.threads);
    runtime.event_interval(EVENT_INTERVAL);
    let runtime = runtime.build().map_err(cannot_start)?;
    let ended = runtime.block_on(serve(flags, service));
    // A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    ended
}

/// What the task of every connection needs.
struct Shared {
    entrance: Entrance,
    log: Log,
    limits: Limits,
}

async fn serve(flags: Flags, mut service: Service) -> Result<ExitCode, String> {
    let mut limits = flags.limits();
    let mut stop = Stop::listen().map_err(cannot_start)?;
    let is_passed = service.socket.is_some();
    let listening = async {
        match service.socket.take() {
            Some(socket) => Listener::inherit(socket, &limits),
            None => Listener::bind(&flags.listen, &limits).await,
        }
    };
    let mut listener = tokio::select! {
        listener = listening => listener?,
        // A name that is looked up can take long.
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    };
    let log = Log::open(&limits).map_err(cannot_start)?;
    log.report_panics();
    if is_passed && flags.listen != LISTEN {
        let what = &flags.listen;
        log.warn(format_args!(
            "--listen {what} is ignored: a service manager has passed a socket that listens (LISTEN_FDS)"
        ));
    }
    fit_to_descriptors(&mut limits, &log);
    let opened = tokio::select! {
        entrance = Entrance::open(&flags, &limits, &log) => entrance.map(Some),
        () = stop.asked() => Ok(None),
    };
    let entrance = match opened {
        Ok(Some(entrance)) => entrance,
        ended => return Ok(end(&log, &limits, ended.map(drop))),
    };
    let address = listener.address();
    log.print(format_args!("listening on port {}", address.port()));
    service.ready(&log);
    if let Some(line) = entrance.exposure(address) {
        log.warn(format_args!("{line}"));
    }

    let shared = Arc::new(Shared {
        entrance,
        log,
        limits,
    });
    let addresses = Addresses::new(&shared.limits);
    let seats = Arc::new(Semaphore::new(shared.limits.connections));
    let mut connections = JoinSet::new();
    let mut arrivals = Arrivals::default();
    // Nothing is ever sent here. When `serving` is dropped, every `closing` learns of it.
    let (serving, closing) = watch::channel(());
    // Nor here. Each task holds an `entering` until its handshake is over, so `entered` ends when none is left.
    let (entering, mut entered) = mpsc::channel::<()>(1);
    loop {
        while connections.try_join_next().is_some() {} // whose places are free again
        arrivals.forget_ended(connections.len());
        // A few more than there are seats, since whoever is refused has none.
        let most = shared.limits.connections + shared.limits.refusals;
        tokio::select! {
            (stream, address) = listener.accept(&shared.log, &shared.limits), if connections.len() < most => {
                let Some(counted) = addresses.count(address.ip()) else { continue };
                let seat = match seats.clone().try_acquire_owned() {
                    Ok(_) if counted.too_many => Err(handshake::CROWDED),
                    seat => seat.map(Arc::new).map_err(|_| handshake::FULL),
                };
                let held = seat.as_ref().map_or_else(|_| Weak::new(), Arc::downgrade);
                let task = connections.spawn(connection(shared.clone(), stream, address, seat, counted, entering.clone(), closing.clone()));
                arrivals.push(task, held);
            }
            Some(_) = connections.join_next() => {}
            () = arrivals.turn_one_away(&shared.limits), if connections.len() >= most => {}
            () = stop.asked() => break,
        }
    }

    // Nobody else is accepted. Who was already has a moment to come in; then handshakes end, and nobody
    // is listened to any more. What was read is still said, and each room closes behind it.
    service.stopping();
    shared.entrance.rooms.begin_to_end();
    drop((listener, entering));
    within(shared.limits.last_newcomers, entered.recv()).await;
    drop(serving);
    shared.entrance.rooms.close();
    let ended = tokio::select! {
        () = drain(&mut connections, &shared) => Ok(()),
        () = stop.asked() => Err("ended at once, at a second signal".to_owned()),
    };
    connections.shutdown().await;
    shared.entrance.close().await;
    Ok(end(&shared.log, &shared.limits, ended))
}

/// Says why the server ends, if it should not, behind all that was said before. Nobody may read that, and it is
/// not waited for then. Returns what the program ends with.
fn end(log: &Log, limits: &Limits, ended: Result<(), String>) -> ExitCode {
    if let Err(why) = &ended {
        log.warn(format_args!("{why}"));
    }
    log.close(limits.log_end);
    ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// Waits until every connection has heard the goodbye, or the time for that is over. Lines that
/// still wait for space after the first part of it are refused, since they would keep their room
/// open.
async fn drain(connections: &mut JoinSet<()>, shared: &Shared) {
    let Shared {
        entrance, limits, ..
    } = shared;
    let mut ended = pin!(async { while connections.join_next().await.is_some() {} });
    if timeout(limits.last_lines, &mut ended).await.is_err() {
        entrance.rooms.refuse();
        let _ = timeout(limits.drain, ended).await;
    }
}

/// One connection, from the handshake to the goodbye.
async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    seat: Result<Arc<Seat>, Refusal>,
    _counted: Counted,
    entering: mpsc::Sender<()>,
    mut closing: watch::Receiver<()>,
) {
    let Shared {
        entrance,
        log,
        limits,
    } = &*shared;
    let address = address.to_string();
    let Guest {
        mut connection,
        mut member,
        mut pass,
        seat: _seat,
    } = tokio::select! {
        // Boxed, so that the memory of a handshake is not kept as long as the connection.
        admitted = Box::pin(entrance.admit(stream, &address, seat)) => match admitted {
            Ok(guest) => guest,
            Err(refusal) if refusal.concerns_operator() => {
                return log.warn_of_stranger(format_args!("{address} {refusal}"));
            }
            Err(_) => return,
        },
        _ = closing.changed() => return,
    };
    drop(entering);
    let (identity, heard) = (&member.identity, &mut member.subscription);
    let mut announced = log.announce(identity);
    let ended = {
        let outside = Outside {
            stopping: pin!(closing.changed()),
            ended: pin!(async {
                tokio::select! {
                    fault = pass.revoked() => Ended::Fault(fault),
                    ended = member.place.lost() => ended,
                }
            }),
        };
        let relay = connection.relay(identity, member.speaker, heard, log, limits, outside);
        relay.await
    };
    announced.ends(&ended);
    drop((announced, member.subscription, member.place));
    if ended.concerns_operator() {
        log.warn_of_stranger(format_args!("{} {ended}", identity.label));
    }
    if let Some((code, reason)) = ended.goodbye() {
        connection.close(code, reason, limits).await;
    }
}
