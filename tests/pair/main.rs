//! Both programs, as a user meets them.
//!
//! - [`seed`]: the whole of the tutorial as a transcript
//! - [`programs`]: flags, variables, mistakes and ends
//! - `tls`: the way of a line through TLS, and each reason why there is none; in a build without TLS,
//!   `without_tls`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod programs;
mod seed;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
mod without_tls;
