//! The service manager that started the server, if one did: systemd, or what speaks its protocol. It
//! may pass a socket that listens already (`sd_listen_fds(3)`), wants to know when the server is ready
//! and when it begins to end (`sd_notify(3)`), and that it has not got stuck
//! (`sd_watchdog_enabled(3)`). Where nobody asks for any of it, nothing happens.
//!
//! What is told is sent here and not by the crate `sd-notify`, since that waits while nobody reads it:
//! so a service manager that stands still would hold up the chat.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use listenfd::ListenFd;
use socket2::SockRef;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::os::{cannot_start, describe};
use crate::server::log::Log;

/// What a service manager has passed, and whom to tell.
#[derive(Debug)]
pub struct Service {
    /// A socket that listens already. It stays open when the server ends: whoever connects then waits
    /// for the next server, and is not refused.
    pub socket: Option<TcpListener>,
    manager: Option<Arc<Manager>>,
    /// After so long without a sign of life the server is taken for stuck, if anybody minds.
    patience: Option<Duration>,
}

impl Service {
    /// What the environment names. To be called once, and while there is one thread, since it takes
    /// the variables of the passed sockets away.
    ///
    /// # Errors
    ///
    /// One line: what was passed is not one socket that listens for TCP, and what to do.
    pub fn open() -> Result<Self, String> {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(process::id()));
        let patience = number("WATCHDOG_USEC").filter(|period| is_ours && *period > 0);
        let path = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        let manager = path.map(Manager::open);
        let manager = manager.transpose().map_err(cannot_start)?;
        Ok(Self {
            socket: passed(&mut ListenFd::from_env())?,
            manager: manager.map(Arc::new),
            patience: patience.map(Duration::from_micros),
        })
    }

    /// Tells that the server is ready, and from now on, as long as the runtime goes on, that it is
    /// alive. To be called within a Tokio runtime.
    pub fn ready(&self, log: &Log) {
        let Some(manager) = &self.manager else { return };
        let told = manager.tell("READY=1");
        if let Err(error) = &told {
            log.warn(format_args!(
                "cannot tell the service manager at {} that the server is ready: {} (trying again)",
                manager.shown.display(),
                describe(error)
            ));
        }
        tokio::spawn(watch(manager.clone(), told.is_ok(), self.patience));
    }

    /// Tells that the server begins to end.
    pub fn stopping(&self) {
        if let Some(manager) = &self.manager {
            manager.is_stopping.store(true, Relaxed);
            // Whoever cannot hear it sees the end itself.
            let _ = manager.tell("STOPPING=1");
        }
    }
}

/// How soon a service manager is told again that did not take that the server is ready: it waits for that, and
/// some day ends a server that did not say so.
const AGAIN: Duration = Duration::from_millis(500);

/// Tells that the server is ready, until that was taken. Then it gives a sign of life twice in the time after which
/// the server is taken for stuck. It is a task among those of the chat, so when they are stuck, it is, too.
async fn watch(manager: Arc<Manager>, mut is_told: bool, patience: Option<Duration>) {
    while !is_told {
        sleep(AGAIN).await;
        is_told = manager.is_stopping.load(Relaxed) || manager.tell("READY=1").is_ok();
    }
    let Some(patience) = patience else { return };
    let mut beat = interval(patience / 2);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        // The next one may get through.
        let _ = manager.tell("WATCHDOG=1");
    }
}

/// Where a service manager wants to be told.
#[derive(Debug)]
struct Manager {
    shown: OsString,
    /// Kept open, so that there is a sign of life also when no descriptor is left.
    socket: UnixDatagram,
    /// It was told that the server begins to end.
    is_stopping: AtomicBool,
}

impl Manager {
    fn open(shown: OsString) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            shown,
            socket,
            is_stopping: AtomicBool::new(false),
        })
    }

    fn tell(&self, state: &str) -> io::Result<()> {
        let address = address(&self.shown)?;
        self.socket
            .send_to_addr(state.as_bytes(), &address)
            .map(drop)
    }
}

/// A path; on Linux behind an `@` a name in the abstract namespace (unix(7)).
fn address(shown: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    {
        use std::os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt};
        if let Some(name) = shown.as_bytes().strip_prefix(b"@") {
            return SocketAddr::from_abstract_name(name);
        }
    }
    SocketAddr::from_pathname(shown)
}

/// The socket that was passed, if any was.
fn passed(sockets: &mut ListenFd) -> Result<Option<TcpListener>, String> {
    let count = sockets.len();
    if count > 1 {
        return Err(format!(
            "{count} sockets were passed (LISTEN_FDS), and the server listens on one: name one \
             ListenStream= in the unit of the socket"
        ));
    }
    let wrong = "what was passed (LISTEN_FDS) is no socket that listens for TCP: the unit of the \
                 socket needs ListenStream=PORT or ADDRESS:PORT, and Accept=no";
    let socket = sockets.take_tcp_listener(0).map_err(|_| wrong)?;
    match &socket {
        Some(tcp) if !SockRef::from(tcp).is_listener().unwrap_or(true) => Err(wrong.to_owned()),
        _ => Ok(socket),
    }
}
