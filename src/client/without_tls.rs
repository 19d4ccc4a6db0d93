//! What stands for TLS in a build without it (cargo's `--no-default-features`): nothing but the
//! sentence that says so.

use std::path::Path;

use tokio::net::TcpStream;

use crate::client::connect::ConnectError;

/// Whom to trust: nobody.
#[derive(Clone, Debug)]
pub enum Trust {}

impl Trust {
    /// Says that there is no TLS.
    ///
    /// # Errors
    ///
    /// Always: one line that says so.
    pub fn load(_ca: Option<&Path>) -> Result<Self, String> {
        Err("wss:// and --ca need TLS, and this client was built without it (the cargo feature tls)".to_owned())
    }

    /// Never called, since nobody is trusted.
    ///
    /// # Errors
    ///
    /// There are none.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn connect(&self, _: TcpStream, _: &str) -> Result<TcpStream, ConnectError> {
        match *self {}
    }
}
