//! Bytes that nobody would think of, for what a stranger's bytes meet first. Each target has examples in
//! `corpus`, made by hand; libFuzzer looks for more (CONTRIBUTING.md says how). Here all of them are judged,
//! and then as many as `FUZZ_CASES` says that are made of them by a few changes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/change.rs"]
mod change;
mod targets;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{env, fmt, fs};

use change::changes;
use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestError, TestRunner};

/// Counts the bytes that are allocated.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that no input takes, beside some copies of it. A stranger can announce far more.
const MOST: usize = 1024 * 1024;

/// An input, which is printed so that it can become a file.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "printf '{}'",
            self.0.escape_ascii().to_string().replace('%', "%%")
        )
    }
}

/// Runs a target on its examples, and on what is made of them by changes and by these words.
fn fuzz(name: &str, words: &[&[u8]]) {
    // One at a time, since they are measured.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let target = targets::ALL.into_iter().find(|(target, _)| *target == name);
    let judge = |Input(bytes): &Input| {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        target.unwrap().1(bytes);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        assert!(taken < MOST + 16 * bytes.len(), "{taken} bytes of memory");
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let files = fs::read_dir(folder.join(name)).unwrap();
    let mut examples: Vec<_> = files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    examples.sort();
    for example in &examples {
        judge(&Input(example.clone()));
    }

    let cases = env::var("FUZZ_CASES").map_or(1000, |cases| cases.parse().unwrap());
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    };
    let begin = (select(examples.clone()), any::<Index>(), any::<bool>());
    let changed = (begin, select(examples), vec(changes(words), 0..6));
    let inputs = changed.prop_map(|((mut bytes, at, both), other, changes)| {
        if both {
            bytes.truncate(at.index(bytes.len() + 1));
            bytes.extend(other);
        }
        for change in &changes {
            change.apply(&mut bytes);
        }
        Input(bytes)
    });
    let judged = TestRunner::new(config).run(&inputs, |input| {
        judge(&input);
        Ok(())
    });
    if let Err(TestError::Fail(why, input)) = judged {
        panic!("{why}\nThe shortest such input: {input:?}");
    }
}

#[test]
fn a_request_is_answered_in_the_same_way_in_whatever_pieces_it_comes() {
    let words: [&[u8]; 16] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b"\0",
        b"\x16",
        b"\x1b",
        b"\xff",
        b"GET ",
        b"HTTP/1.1",
        b"\r\n\r\n",
        b"Origin: a\r\n",
        b"?name=",
    ];
    fuzz("head", &words);
}

#[test]
fn an_open_connection_goes_on_or_ends_with_the_right_code() {
    let words: [&[u8]; 14] = [
        b"\x81\x80\0\0\0\0",
        b"\x01\x80\0\0\0\0",
        b"\x80\x80\0\0\0\0",
        b"\x00\x81\0\0\0\0a",
        b"\x89\x80\0\0\0\0",
        b"\x8a\x80\0\0\0\0",
        b"\x88\x82\0\0\0\0\x03\xe8",
        b"\x82\x80\0\0\0\0",
        b"\xfe\0\x7e",
        b"\xff\0\0\0\0",
        b"\n",
        b"\x1b",
        b"\xc3",
        b"\xf0\x9f",
    ];
    fuzz("frames", &words);
}

#[test]
fn a_query_is_understood_as_the_standard_has_it() {
    let words: [&[u8]; 18] = [
        b"?",
        b"&",
        b"=",
        b"+",
        b"%",
        b"%20",
        b"%c3",
        b"%A9",
        b"%00",
        b"%2B",
        b"name=",
        b"session=",
        b"after=",
        b"sent=",
        b"9007199254740992",
        b".",
        b"&&",
        b"%f0%9f%91%8b",
    ];
    fuzz("query", &words);
}

#[test]
fn a_session_is_understood_by_both_ends() {
    let words: [&[u8]; 10] = [
        b"\n",
        b".",
        b"@",
        b" ",
        b"* ",
        b"+",
        b"-",
        b"0",
        b"9007199254740992",
        b"9007199254740993",
    ];
    fuzz("session", &words);
}

#[test]
fn a_message_of_the_stream_is_understood_wholly_or_not_at_all() {
    let words: [&[u8]; 8] = [
        b"\x01\0",
        b"\x01\x01",
        b"\x01\x02",
        b"\x81\x01a",
        b"\x81\x7e\0\x05",
        b"\x81\x7f\0\0\0\0",
        b"\0\0\0\0\0\0\0\x01",
        b"\xff\xff\xff\xff",
    ];
    fuzz("message", &words);
}

#[test]
fn the_tokens_of_a_file_are_those_that_stand_in_it() {
    let words: [&[u8]; 10] = [
        b"\n",
        b" ",
        b"\t",
        b"\r",
        b"#",
        b"=",
        b" ana",
        "\u{a0}".as_bytes(),
        b"\xff",
        "\u{430}na".as_bytes(),
    ];
    fuzz("tokens", &words);
}
