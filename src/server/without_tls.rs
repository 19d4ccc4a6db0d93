//! What stands for TLS in a build without it (cargo's `--no-default-features`): nothing but the
//! sentence that says so.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::server::handshake::Refusal;
use crate::server::limits::Limits;
use crate::server::log::Log;

/// A stream with TLS, of which there is none.
pub type Accepted = Result<TcpStream, Refusal>;

/// A certificate, of which there is none.
#[derive(Debug)]
pub enum Certificate {}

impl Certificate {
    /// Says that there is no TLS.
    ///
    /// # Errors
    ///
    /// Always: one line that names the flag.
    pub fn open(_chain: &Path, _key: &Path) -> Result<Arc<Self>, String> {
        Err("--tls-cert and --tls-key need TLS, and this server was built without it (the cargo feature tls)".to_owned())
    }

    /// Never called, since there is no certificate.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn accept(&self, _stream: TcpStream, _until: Instant, _limits: &Limits) -> Accepted {
        match *self {}
    }

    /// Never called, since there is no certificate.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn renew(self: Arc<Self>, _log: Log, _limits: Limits) {
        match *self {}
    }
}
