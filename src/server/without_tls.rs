//! What stands for TLS in a build without it (cargo's `--no-default-features`): nothing but the
//! sentence that says so.

use std::fmt::Arguments;
use std::path::Path;

use tokio::net::TcpStream;

use crate::server::handshake::{Refusal, Rules};
use crate::server::limits::Limits;

/// A client's TLS session, of which there is none.
pub type Session = TcpStream;

/// A certificate, of which there is none.
#[derive(Debug)]
pub enum Certificate {}

impl Certificate {
    /// Says that there is no TLS.
    ///
    /// # Errors
    ///
    /// Always: one line that names the flag.
    pub fn open(
        _chain: &Path,
        _key: &Path,
        _limits: &Limits,
        _tell: impl Fn(Arguments<'_>) + Send + 'static,
    ) -> Result<Self, String> {
        Err("--tls-cert and --tls-key need TLS, and this server was built without it (the cargo feature tls)".to_owned())
    }

    /// Never called, since there is no certificate.
    ///
    /// # Errors
    ///
    /// There are none.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn accept<'r, S>(
        &self,
        _stream: TcpStream,
        _rules: Rules<'r, S>,
        _limits: &Limits,
    ) -> Result<(Session, Rules<'r, S>), Refusal> {
        match *self {}
    }
}
