//! What stands for metrics over HTTP in a build without the cargo feature `metrics`: nothing but the
//! sentence that says so.

use std::sync::Arc;
use std::time::Duration;

use crate::server::limits::Limits;
use crate::server::rooms::Rooms;

/// How long something took, which nobody asks here.
#[derive(Debug)]
pub struct Times;

impl Times {
    pub(super) const fn new() -> Self {
        Self
    }

    /// Keeps nothing.
    pub fn observe(&self, _took: Duration) {}
}

/// A port for metrics, of which there is none here.
#[derive(Debug)]
pub enum Exporter {}

impl Exporter {
    /// Says that there are none.
    ///
    /// # Errors
    ///
    /// Always.
    #[allow(clippy::unused_async)] // as the other one is
    pub async fn bind(_address: &str) -> Result<Self, String> {
        Err(
            "--metrics needs what speaks to Prometheus, and this server was built without it (the cargo \
             feature metrics)"
                .to_owned(),
        )
    }

    /// Cannot be called.
    pub fn serve(self, _rooms: &Arc<Rooms>, _limits: &Limits) {
        match self {}
    }
}
