//! The listening socket: binds, and goes on accepting whatever the system says.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::time::{Duration, Instant, sleep_until};

use crate::os::plain;
use crate::server::limits::Limits;
use crate::server::log::Log;

/// A bound listener that rests when the system has no descriptor left.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    /// How long the last rest was, and until when it lasts.
    rest: Duration,
    until: Instant,
    told: Option<Instant>,
}

impl Listener {
    /// Binds the first address of `listen` (`ADDRESS:PORT` or `NAME:PORT`) that can be bound.
    ///
    /// # Errors
    ///
    /// One line that says why not and what to do.
    pub async fn bind(listen: &str, limits: &Limits) -> Result<Self, String> {
        let cannot = |why: &str| format!("cannot listen on {listen}: {why}");
        let found = lookup_host(listen).await;
        let found: Vec<_> = found.map_err(|error| cannot(&plain(&error)))?.collect();
        let tcp = bind_first(&found, limits).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => cannot(
                "the port is taken (is another server running? else choose another --listen)",
            ),
            io::ErrorKind::PermissionDenied => cannot(
                "permission denied (ports below 1024 are for administrators: choose a higher one)",
            ),
            io::ErrorKind::AddrNotAvailable => cannot("this machine does not have that address"),
            _ => cannot(&plain(&error)),
        })?;
        show_progress(&tcp, limits);
        Ok(Self {
            tcp,
            rest: Duration::ZERO,
            until: Instant::now(),
            told: None,
        })
    }

    /// The port really bound.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    pub fn port(&self) -> io::Result<u16> {
        self.tcp.local_addr().map(|address| address.port())
    }

    /// The next connection and the name of its other end. Errors are waited out, never returned:
    /// a listener that ends because one connection failed, or because descriptors ran out for a
    /// moment, is a server that is down. May be cancelled.
    pub async fn accept(&mut self, log: &Log, limits: &Limits) -> (TcpStream, String) {
        loop {
            sleep_until(self.until).await;
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    self.rest = Duration::ZERO;
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    return (stream, peer.to_string());
                }
                Err(error) if is_the_peers(&error) => {}
                Err(error) => self.tire(&error, log, limits),
            }
        }
    }

    /// Rests, longer each time, and says so once a minute at most.
    fn tire(&mut self, error: &io::Error, log: &Log, limits: &Limits) {
        let now = Instant::now();
        self.rest = (2 * self.rest).clamp(limits.rest, limits.rest_most);
        self.until = now + self.rest;
        if self
            .told
            .is_none_or(|told| now - told >= Duration::from_mins(1))
        {
            self.told = Some(now);
            let why = plain(error);
            log.complain(format_args!(
                "cannot accept for now: {why} (newcomers wait)"
            ));
        }
    }
}

/// Raises the soft limit on descriptors to the hard one, and says how many connections fit when
/// those are fewer than wanted.
///
/// # Errors
///
/// Fewer connections fit, and how many.
pub fn descriptors_for(limits: &Limits) -> Result<(), usize> {
    let most = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    let others = limits.refusals + limits.descriptors;
    let fit = usize::try_from(most)
        .unwrap_or(usize::MAX)
        .saturating_sub(others)
        .max(1);
    if fit < limits.connections {
        Err(fit)
    } else {
        Ok(())
    }
}

/// Binds the first address that can be bound.
fn bind_first(addresses: &[SocketAddr], limits: &Limits) -> io::Result<TcpListener> {
    let mut bound = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        bound = bind_one(*address, limits);
        if bound.is_ok() {
            break;
        }
    }
    bound
}

fn bind_one(address: SocketAddr, limits: &Limits) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A server that was stopped can be started again at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits.accept_queue)
}

/// Makes a slow reader's progress visible. By default the system reports a socket as writable only
/// when a third of its buffer of megabytes is free, so one that reads 100 KB/s looks stuck for
/// half a minute. With this bound on what is not sent yet, which connections inherit from the
/// listener, it is reported as soon as the reader has taken a little. Linux only; elsewhere, or
/// when it fails, a slow reader is cut off sooner.
fn show_progress(tcp: &TcpListener, limits: &Limits) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(limits.unsent);
    #[cfg(not(target_os = "linux"))]
    let _ = (tcp, limits);
}

/// Errors of a connection that ended before it was accepted (accept(2)).
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted
    )
}
