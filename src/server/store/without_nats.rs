//! What stands for a connection to NATS in a build without the cargo feature `nats`: nothing but the
//! sentence that says so. Since there can never be a connection, the compiler leaves out what would use
//! it.

use std::fmt::Arguments;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::server::ended::Ended;
use crate::server::limits::Limits;
use crate::server::name::Name;
use crate::server::presence::Presence;
use crate::server::store::nats::{At, Entry, Place, Unclaimed, Up};

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
    pub fn trouble(&self) -> Option<String> {
        match *self {}
    }

    /// Never called.
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
    #[must_use]
    pub fn server(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn number(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn up(&self) -> watch::Receiver<Option<Up>> {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn is_another(&self, _then: Up) -> Option<bool> {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn has_lost(&self, _message: At) -> Option<bool> {
        match *self {}
    }

    /// Never called.
    pub fn has_read(&self, _then: Up, _at: At) {
        match *self {}
    }

    /// Never called.
    pub fn has_sent(&self, _took: Duration) {
        match *self {}
    }

    /// Never called.
    pub fn is_not_ours(&self, _subject: &str) {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn say(&self, _subject: String, _message: Bytes) {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn publish(&self, _subject: &str, _number: u64, _message: Bytes) -> Option<u64> {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    ///
    /// There are none.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn last(&self, _subject: &str) -> Result<Option<Entry>, Unknown> {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    ///
    /// There are none.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn follow(&self, _subject: &str, _sequence: u64) -> Result<Delivery, Unknown> {
        match *self {}
    }
}

/// What is never said, since nothing is asked.
#[derive(Debug)]
pub enum Unknown {}

/// What is delivered, which is nothing.
pub struct Delivery {
    /// How many messages there were.
    pub pending: u64,
    never: Nats,
}

impl Delivery {
    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn next(&mut self) -> Option<Entry> {
        match self.never {}
    }

    /// Never called.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        match self.never {}
    }
}

impl Nats {
    /// Never called.
    ///
    /// # Errors
    ///
    /// Never.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn claim(
        &self,
        _room: &str,
        _name: &Name,
        _session: Option<u64>,
    ) -> Result<Claim, Unclaimed> {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn names_given_back(&self) {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn share_presence(self, _room: String, _presence: Arc<Presence>) {
        match self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn say_behind(&self, _room: &str, _sequence: Option<u64>) {
        match *self {}
    }

    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn hear_behind(&self, _room: &str) -> Option<Behind> {
        match *self {}
    }
}

/// What other servers say, of which there are none.
pub struct Behind(Nats);

impl Behind {
    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn next(&mut self) -> Option<(u64, Option<u64>)> {
        match self.0 {}
    }
}

/// A name on several servers, of which there are none.
#[derive(Debug)]
pub enum Claim {}

impl Claim {
    /// Never called.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn lost(&self) -> Ended {
        match *self {}
    }
}
