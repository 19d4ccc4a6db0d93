//! Both programs, as a user meets them.
//!
//! - [`seed`]: the whole of the tutorial as a transcript
//! - [`sessions`]: links that are cut at random moments, and nothing is missed
//! - [`programs`]: flags, variables, mistakes and ends
//! - `tls`: the way of a line through TLS, and each reason why there is none; in a build without TLS,
//!   `without_tls`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod programs;
mod seed;
mod sessions;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
mod without_tls;
