//! What holds for every input: of what judges a stranger's request, and of what makes a
//! stranger's text safe to show.

use std::borrow::Cow;

use crate::support::Server;
use crate::support::change::changes;
use crate::support::raw::{REQUEST, Raw};
use chat_pair::protocol::line::{clean, lines, text};
use chat_pair::server::batch::Lines;
use chat_pair::server::handshake::{Refusal, Request, judge, read_head};
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::rooms::wanted;
use futures_util::{FutureExt, StreamExt};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::Config;
use tokio_websockets::ClientBuilder;

/// Nothing is written into the tree: a failure prints its input, which becomes a test of its own.
fn cases(cases: u32) -> Config {
    Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    }
}

/// The characters that may not reach a terminal or a log, written again from their list.
fn forbidden(c: char) -> bool {
    matches!(c,
        '\0'..='\x08' | '\n'..='\x1f' | '\x7f' | '\u{80}'..='\u{9f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text in which what matters is frequent.
fn texts() -> impl Strategy<Value = String> {
    let special = "\n\r\t\0\x1b\x7f \u{80}\u{85}\u{9f}\u{a0}\u{2027}\u{2028}\u{2029}\u{202a}\
        \u{202e}\u{202f}\u{2065}\u{2066}\u{2069}\u{206a}\u{200d}\u{200f}\u{61c}\u{fffd}\u{feff}";
    let special: Vec<char> = special.chars().collect();
    let line_ends = prop_oneof![Just('\n'), Just('\r')];
    let c = prop_oneof![
        4 => any::<char>(),
        3 => select(special),
        2 => line_ends,
        3 => proptest::char::range('a', 'z'),
    ];
    vec(c, 0..40).prop_map(String::from_iter)
}

/// One line around each length at which a frame takes another form, the name included.
fn long_texts() -> impl Strategy<Value = String> {
    let len = prop_oneof![100..130_usize, 65_510..65_540_usize];
    (len, select(vec!["x", "\x1b"])).prop_map(|(len, c)| c.repeat(len))
}

/// Two lines of a request that change places, or one that is there twice.
#[derive(Clone, Debug)]
enum Move {
    Repeat(Index),
    Swap(Index, Index),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        any::<Index>().prop_map(Move::Repeat),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Move::Swap(a, b)),
    ]
}

/// [`REQUEST`] with some changes; still one head that ends where its bytes end.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        ",",
        "/",
        "#",
        "?",
        "[",
        "%",
        "\0",
        "\u{e9}",
        "==",
        "Origin: null\r\n",
        "Host: a\r\n",
        "HTTP/1.0",
        "Sec-WebSocket-Key: a\r\n",
        "websocket",
    ];
    let changes = changes(&words.map(str::as_bytes));
    (vec(moves(), 0..3), vec(changes, 0..4)).prop_map(|(moves, changes)| {
        let mut lines: Vec<_> = REQUEST.trim_end().split("\r\n").collect();
        for a_move in &moves {
            match a_move {
                Move::Repeat(at) => lines.push(lines[at.index(lines.len())]),
                Move::Swap(a, b) => {
                    let (a, b) = (a.index(lines.len()), b.index(lines.len()));
                    lines.swap(a, b);
                }
            }
        }
        let mut head = lines.join("\r\n").into_bytes();
        for change in &changes {
            change.apply(&mut head);
        }
        // An empty line inside would end it early.
        while let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            head.drain(at..at + 2);
        }
        while head.ends_with(b"\r\n") {
            head.truncate(head.len() - 2);
        }
        head.extend(b"\r\n\r\n");
        head
    })
}

/// What a key has to be for the answer to be made from it.
fn is_key(key: &str) -> bool {
    key.len() == 24 && key.is_ascii() && key.ends_with("==")
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn any_bytes_are_judged(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(judge(&bytes, &[]).is_err());
    }

    #[test]
    fn any_fields_are_judged(bytes in vec(any::<u8>(), 0..100)) {
        for start in ["GET ", "GET / HTTP/1.1\r\n", &REQUEST[..REQUEST.len() - 2]] {
            let head = [start.as_bytes(), &bytes, b"\r\n\r\n"].concat();
            if let Ok(Request { key, .. }) = judge(&head, &[]) {
                prop_assert!(is_key(&key), "{key:?}");
            }
        }
    }

    #[test]
    fn a_changed_request_is_judged(request in requests()) {
        match judge(&request, &["null".to_owned()]) {
            Ok(Request { key, .. }) => prop_assert!(is_key(&key), "{key:?}"),
            Err(Refusal::Answered(status, why)) => {
                prop_assert!(status.is_client_error());
                prop_assert!(!why.is_empty() && !why.contains('\n'));
            }
            Err(other) => prop_assert!(false, "it is still here: {other:?}"),
        }
    }

    #[test]
    fn clean_lets_nothing_forbidden_out(line in texts()) {
        let cleaned = clean(&line);
        prop_assert!(!cleaned.contains(forbidden));
        // Each character is either itself or made visible.
        prop_assert_eq!(cleaned.chars().count(), line.chars().count());
        for (is, was) in cleaned.chars().zip(line.chars()) {
            prop_assert_eq!(is, if forbidden(was) { '\u{FFFD}' } else { was });
        }
        // Clean text is not copied, so a second time changes nothing.
        prop_assert!(matches!(clean(&cleaned), Cow::Borrowed(same) if same == cleaned));
        let touched = line.contains(forbidden);
        prop_assert_eq!(matches!(cleaned, Cow::Owned(_)), touched);
    }

    #[test]
    fn lines_are_the_text_without_its_line_ends(text in texts()) {
        let cut: Vec<_> = lines(&text).collect();
        // An empty message is one empty line.
        prop_assert!(!cut.is_empty() && cut.iter().all(|line| !line.contains('\n')));
        prop_assert_eq!(cut.concat(), text.replace("\r\n", "").replace('\n', ""));
    }

    #[test]
    fn a_batch_is_read_as_the_lines_that_went_in(
        said in vec(prop_oneof![9 => texts(), 1 => long_texts()], 0..5)
    ) {
        let name = "127.0.0.1:1";
        let said: Vec<_> = said.iter().flat_map(|text| lines(text)).collect();
        let identity = Identity::of(name);
        let mut batch = Lines::default();
        for line in &said {
            batch.push(&identity, line);
        }
        let expected: Vec<_> = said.iter().map(|line| format!("{name}: {}", clean(line))).collect();
        prop_assert_eq!(batch.count, said.len() as u64);
        let log = expected.iter().flat_map(|line| ["Received from ", line, "\n"]);
        let log = log.collect::<String>();
        prop_assert_eq!(std::str::from_utf8(&batch.log), Ok(&*log));

        let stream = tokio::io::join(&batch.frames[..], tokio::io::sink());
        let mut ws = ClientBuilder::new().take_over(stream);
        for line in expected {
            let message = ws.next().now_or_never().unwrap().unwrap().unwrap();
            prop_assert!(message.is_text());
            prop_assert_eq!(text(&message), Ok(&*line));
        }
        prop_assert!(ws.next().now_or_never().unwrap().is_none());
    }
}

/// The server does with a request what `judge` says, and has no trouble with any of them.
#[test]
fn the_server_does_what_judge_says() {
    let mut server = Server::with(&["--allow-origin", "null"]);
    let port = server.port;
    let does = |request: &[u8]| {
        let mut stream = request;
        let head = read_head(&mut stream, Limits::DEFAULT.head).now_or_never();
        let head = head.expect("all of it is there");
        let judged = head.and_then(|head| judge(&head.bytes, &["null".to_owned()]));
        let entered = judged.and_then(|request| wanted(&request.target).map(drop));
        let expected = match entered {
            Ok(()) => "101".to_owned(),
            Err(Refusal::Answered(status, _)) => status.as_str().to_owned(),
            Err(_) => unreachable!(),
        };
        let mut raw = Raw::tcp(port);
        raw.send(request);
        let head = raw.head();
        prop_assert_eq!(&head[..13], format!("HTTP/1.1 {expected} "));
        Ok(())
    };
    // What random changes seldom make: a beginning that is no method's.
    for first in ["\r\n", "\n", "#", "%", "websocket"] {
        does(&[first, REQUEST].concat().into_bytes()).unwrap();
    }
    let config = cases(200);
    proptest!(config, |(request in requests())| does(&request)?);
    Raw::join(port);
    server.stop();
    for line in server.program.err_rest() {
        assert!(line.contains(" was refused: "), "{line}");
    }
}
