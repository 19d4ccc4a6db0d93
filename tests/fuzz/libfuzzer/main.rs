//! One of the targets behind libFuzzer: the one whose name is in the variable `FUZZ`.

#![no_main]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "../targets/mod.rs"]
mod targets;

use std::env;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static JUDGE: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = env::var("FUZZ").expect("FUZZ is the name of a target");
    let target = targets::ALL.iter().find(|(target, _)| *target == name);
    target.expect("there is no such target").1
});

fuzz_target!(|bytes: &[u8]| JUDGE(bytes));
