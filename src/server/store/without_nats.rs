//! What stands for a connection to NATS in a build without the cargo feature `nats`: nothing but the
//! sentence that says so. Since there can never be a connection, the compiler leaves out what would use
//! it.

use std::fmt::Arguments;

use crate::server::limits::Limits;
use crate::server::store::nats::Place;

/// A connection, of which there is none.
#[derive(Clone, Debug)]
pub enum Nats {}

impl Nats {
    /// Says that there is no NATS.
    ///
    /// # Errors
    ///
    /// Always.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn open(
        _place: Place<'_>,
        _limits: &Limits,
        _tell: impl Fn(Arguments<'_>) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        Err(
            "--nats needs NATS, and this server was built without it (the cargo feature nats)"
                .to_owned(),
        )
    }

    /// Never called, like all that follows, since there is no connection.
    #[must_use]
    pub fn stream(&self) -> &str {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn digest(&self, _of: &[&str]) -> u64 {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn connection(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn interrupted(&self) {
        match *self {}
    }
}
