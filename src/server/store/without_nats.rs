//! What stands for a connection to NATS in a build without the cargo feature `nats`: nothing but the
//! sentence that says so. Since there can never be a connection, none of its methods is ever called, and the
//! compiler leaves out what would use it.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::unused_async
)] // The other one says what each of them is.

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

    pub fn trouble(&self) -> Option<String> {
        match *self {}
    }

    pub fn stream(&self) -> &str {
        match *self {}
    }

    pub fn digest(&self, _of: &[&str]) -> u64 {
        match *self {}
    }

    pub fn connection(&self) -> u64 {
        match *self {}
    }

    pub fn server(&self) -> u64 {
        match *self {}
    }

    pub fn number(&self) -> u64 {
        match *self {}
    }

    pub fn up(&self) -> watch::Receiver<Option<Up>> {
        match *self {}
    }

    pub async fn is_another(&self, _then: Up) -> Option<bool> {
        match *self {}
    }

    pub async fn has_lost(&self, _message: At) -> Option<bool> {
        match *self {}
    }

    pub fn record_read(&self, _then: Up, _at: At) {
        match *self {}
    }

    pub fn record_publish(&self, _took: Duration) {
        match *self {}
    }

    pub fn report_foreign(&self, _subject: &str) {
        match *self {}
    }

    pub async fn say(&self, _subject: String, _message: Bytes) {
        match *self {}
    }

    pub async fn publish(&self, _subject: &str, _number: u64, _message: Bytes) -> Option<u64> {
        match *self {}
    }

    pub async fn last(&self, _subject: &str) -> Result<Option<Entry>, Unknown> {
        match *self {}
    }

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
    pub async fn next(&mut self) -> Option<Entry> {
        match self.never {}
    }

    pub fn has_caught_up(&self) -> bool {
        match self.never {}
    }
}

impl Nats {
    pub async fn claim(
        &self,
        _room: &str,
        _name: &Name,
        _session: Option<u64>,
    ) -> Result<Claim, Unclaimed> {
        match *self {}
    }

    pub async fn names_given_back(&self) {
        match *self {}
    }

    pub async fn share_presence(self, _room: String, _presence: Arc<Presence>) {
        match self {}
    }

    pub async fn say_behind(&self, _room: &str, _sequence: Option<u64>) {
        match *self {}
    }

    pub async fn hear_behind(&self, _room: &str) -> Option<Behind> {
        match *self {}
    }
}

/// What other servers say, of which there are none.
pub struct Behind(Nats);

impl Behind {
    pub async fn next(&mut self) -> Option<(u64, Option<u64>)> {
        match self.0 {}
    }
}

/// A name on several servers, of which there are none.
#[derive(Debug)]
pub enum Claim {}

impl Claim {
    pub async fn lost(&self) -> Ended {
        match *self {}
    }
}
