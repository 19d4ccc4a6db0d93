//! The listening socket: binds, and goes on accepting whatever the system says.

use std::io::{self, ErrorKind};
use std::net::{self, SocketAddr};

use rlimit::Resource;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, Instant, sleep};

use crate::os::describe;
use crate::server::limits::Limits;
use crate::server::log::Log;

/// A bound listener that rests when the system has no descriptor left.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    /// When the operator was last told that nobody can be accepted.
    told: Option<Instant>,
}

impl Listener {
    /// Goes on with a socket that listens already, as a service manager passes it.
    ///
    /// # Errors
    ///
    /// One line that says why not.
    pub fn inherit(socket: net::TcpListener, limits: &Limits) -> Result<Self, String> {
        let tcp = socket.set_nonblocking(true);
        let tcp = tcp.and_then(|()| TcpListener::from_std(socket));
        let tcp = tcp.map_err(|error| {
            let why = describe(&error);
            format!("cannot listen on the socket that was passed (LISTEN_FDS): {why}")
        })?;
        tune(&tcp, limits);
        Ok(Self { tcp, told: None })
    }

    /// Binds the first address of `listen` (`ADDRESS:PORT` or `NAME:PORT`) that can be bound.
    ///
    /// # Errors
    ///
    /// One line that says why not and what to do.
    pub async fn bind(listen: &str, limits: &Limits) -> Result<Self, String> {
        let tcp = TcpListener::bind(listen).await.map_err(|error| {
            let why = match error.kind() {
                ErrorKind::AddrInUse => {
                    "the port is taken (is another server running? else choose another --listen)"
                }
                ErrorKind::PermissionDenied => {
                    "permission denied (ports below 1024 are for administrators: choose a higher \
                     one)"
                }
                ErrorKind::AddrNotAvailable => "this machine does not have that address",
                _ => &describe(&error),
            };
            format!("cannot listen on {listen}: {why}")
        })?;
        tune(&tcp, limits);
        Ok(Self { tcp, told: None })
    }

    /// What was bound: the port also when any free one was asked for. If the system does not know
    /// it, all addresses and port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        self.tcp.local_addr().unwrap_or(unknown)
    }

    /// The next connection and the address of its other end. Errors are waited out, never returned:
    /// a listener that ends because one connection failed, or because descriptors ran out for a
    /// moment, is a server that is down. May be cancelled.
    pub async fn accept(&mut self, log: &Log, limits: &Limits) -> (TcpStream, SocketAddr) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    return (stream, peer);
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    self.warn(&error, log);
                    sleep(limits.rest).await;
                }
            }
        }
    }

    /// Tells the operator, once a minute at most.
    fn warn(&mut self, error: &io::Error, log: &Log) {
        const SELDOM: Duration = Duration::from_mins(1);
        if self.told.is_none_or(|told| told.elapsed() >= SELDOM) {
            self.told = Some(Instant::now());
            let why = describe(error);
            log.warn(format_args!(
                "cannot accept for now: {why} (newcomers wait)"
            ));
        }
    }
}

/// Sets what the standard library has no words for. If the system does not take one of them, the
/// chat works all the same, only less well under load.
///
/// A longer queue of connections that wait to be accepted: those beyond it wait for lost packets to
/// be sent again.
///
/// A bound on what the system holds for a reader, which connections inherit from the listener, so
/// that a slow reader's progress is visible. By default Linux reports a socket as writable only when
/// a third of its buffer of megabytes is free, and one that reads 100 KB/s looks stuck for half a
/// minute.
///
/// With a limit on lines, a bound also on what the system holds of a client that says more.
fn tune(tcp: &TcpListener, limits: &Limits) {
    let socket = socket2::SockRef::from(tcp);
    let _ = socket.listen(limits.accept_queue);
    if limits.lines.is_some() {
        let _ = socket.set_recv_buffer_size(limits.unheard);
    }
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_notsent_lowat(limits.unsent);
}

/// Whether one connection ended before it was accepted (accept(2)), which is no trouble of ours.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

/// Raises the soft limit on descriptors to the hard one, since each connection needs one. If those
/// are too few, `limits` allows fewer connections from now on, and the operator is told.
pub fn fit_to_descriptors(limits: &mut Limits, log: &Log) {
    let most = rlimit::increase_nofile_limit(u64::MAX);
    let most = most.or_else(|_| Resource::NOFILE.get_soft());
    let most = most.unwrap_or(u64::MAX);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let fit = most
        .saturating_sub(limits.refusals + limits.descriptors)
        .max(1);
    if fit < limits.connections {
        log.warn(format_args!(
            "at most {fit} connections at once, not {}: the system gives this process no more \
             descriptors (see ulimit -n)",
            limits.connections
        ));
        limits.connections = fit;
    }
}
