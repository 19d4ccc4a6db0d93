//! Both programs, as a user meets them.
//!
//! - [`seed`]: the whole of the tutorial as a transcript
//! - [`programs`]: flags, variables, mistakes and ends

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod programs;
mod seed;
