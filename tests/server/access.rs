//! Who may come in, with which token and under which name: each refusal on a real socket, and what
//! becomes of those who are in when the tokens change.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use chat_pair::protocol::token::Token;
use chat_pair::server::access::{Access, Pass, Tokens, exposure};
use chat_pair::server::handshake::Refusal;
use chat_pair::server::limits::Limits;
use chat_pair::server::name::Name;
use futures_util::FutureExt;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::sync::watch;
use tokio_websockets::CloseCode;

use crate::support::raw::{Others, REQUEST, Raw, TEXT, frame};
use crate::support::{PATIENCE, Program, Secret, Server};

const NO_TOKEN: &str = "a valid token is needed here";
const LIMITS: Limits = Limits::DEFAULT;

fn serve(tokens: &Secret, args: &[&str]) -> Server {
    Server::with(&[&["--token-file", tokens.name()], args].concat())
}

/// Asks with these fields, and is answered 401 as RFC 9110 11.6.1 wants it.
#[track_caller]
fn unauthorized(port: u16, fields: &str) {
    let mut raw = Raw::asking_with(port, "/", fields);
    let head = raw.head();
    assert!(
        head.starts_with("HTTP/1.1 401 Unauthorized\r\n"),
        "{fields}: {head}"
    );
    assert!(head.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{head}");
    assert_eq!(raw.response(), format!("{NO_TOKEN}\n"));
}

#[test]
fn who_shows_no_valid_token_is_refused() {
    let tokens = Secret::with("# those of today\nright\n\n  other ana # hers\nlong==\n");
    let mut server = serve(&tokens, &[]);
    let long = format!("Authorization: Bearer {}\r\n", "r".repeat(257));
    for fields in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer righ\r\n",
        "Authorization: Bearer rightt\r\n",
        "Authorization: Bearer RIGHT\r\n",
        "Authorization: Bearer right right\r\n",
        "Authorization: Bearer right,\r\n",
        "Authorization: Bearer long\r\n",
        "Authorization: Bearer long=\r\n",
        "Authorization: Bearer #\r\n",
        "Authorization: Bearer ana\r\n",
        "Authorization: Bearer other ana\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer\r\n",
        "Authorization: right\r\n",
        "Authorization: Basic right\r\n",
        "Authorization: Bearerright\r\n",
        "Authorization: Bearer right\r\nAuthorization: Bearer right\r\n",
        "Authorization: Bearer right\r\nSec-WebSocket-Protocol: token.right\r\n",
        "Authorization: Bearer r\u{ef}ght\r\n",
        "Sec-WebSocket-Protocol: chat\r\n",
        "Sec-WebSocket-Protocol: chat, token.wrong\r\n",
        "Sec-WebSocket-Protocol: chat, right\r\n",
        "Sec-WebSocket-Protocol: chat, token.\r\n",
        "Sec-WebSocket-Protocol: chat, Token.right\r\n",
        "Sec-WebSocket-Protocol: chat, token.right, token.right\r\n",
        "Sec-WebSocket-Protocol: token.right\r\nSec-WebSocket-Protocol: token.wrong\r\n",
        "X-Token: right\r\n",
        &long,
    ] {
        unauthorized(server.port, fields);
    }
    for target in ["/?token=right", "/?access_token=right"] {
        let refusal = Raw::asking_for(server.port, target).refusal();
        assert_eq!(refusal, (401, NO_TOKEN.to_owned()));
    }
    server.stop();
    // None of them was ever announced, and the operator was told of some and of the number.
    assert_eq!(server.program.rest(), [""; 0]);
    let told = server.program.err_rest().concat();
    assert!(
        told.contains(&format!(" was refused: {NO_TOKEN} (401)")),
        "{told}"
    );
}

#[test]
fn who_shows_a_valid_token_gets_in() {
    let tokens = Secret::with("right\nlong-._~+/1==\n");
    let server = serve(&tokens, &[]);
    for fields in [
        "Authorization: Bearer right\r\n",
        "authorization: bearer   right  \r\n",
        "Authorization: BEARER long-._~+/1==\r\n",
        "Sec-WebSocket-Protocol: token.right\r\n",
        // What a web server in front asked a browser for is none of ours.
        "Authorization: Basic eDp5\r\nSec-WebSocket-Protocol: chat, token.right\r\n",
    ] {
        Raw::asking_with(server.port, "/", fields).is_let_in(fields);
    }
}

/// As a browser asks for `new WebSocket(url, ['chat', 'token.right'])`: it wants exactly one of the
/// protocols that it offers chosen, and that must not be the one with the secret in it.
#[test]
fn of_the_protocols_of_a_page_chat_is_chosen() {
    let chosen = |port: u16, fields: &str| {
        let head = Raw::asking_with(port, "/", fields).head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{fields}: {head}");
        let lines = head.to_ascii_lowercase();
        let chosen = lines
            .lines()
            .filter_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        chosen.map(str::to_owned).collect::<Vec<_>>()
    };
    let tokens = Secret::with("right\n");
    let server = serve(&tokens, &["--allow-origin", "https://a.example"]);
    let page = "Origin: https://a.example\r\n";
    for fields in [
        "Sec-WebSocket-Protocol: chat, token.right\r\n",
        "Sec-WebSocket-Protocol: token.right,chat\r\n",
        "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: token.right\r\n",
        "Sec-WebSocket-Protocol: token.right\r\nsec-websocket-protocol: mqtt ,chat\r\n",
    ] {
        assert_eq!(
            chosen(server.port, &format!("{page}{fields}")),
            ["chat"],
            "{fields}"
        );
    }
    let alone = "Sec-WebSocket-Protocol: token.right\r\n";
    assert_eq!(chosen(server.port, alone), [""; 0]);
    // The same where no token is needed.
    let open = Server::start();
    for (fields, expected) in [
        ("Sec-WebSocket-Protocol: chat\r\n", &["chat"][..]),
        ("Sec-WebSocket-Protocol: chat, token.any\r\n", &["chat"]),
        ("Sec-WebSocket-Protocol: chats, Chat, token.any\r\n", &[]),
        ("", &[]),
    ] {
        assert_eq!(chosen(open.port, fields), expected, "{fields}");
    }
}

#[test]
fn everything_that_can_be_judged_without_the_token_comes_first_and_the_rest_later() {
    let tokens = Secret::with("right\n");
    let server = serve(&tokens, &[]);
    let status = |target: &str, fields: &str| {
        let refusal = Raw::asking_with(server.port, target, fields).refusal();
        refusal.0
    };
    let right = "Authorization: Bearer right\r\n";
    assert_eq!(status("/", "Host: again\r\n"), 400);
    assert_eq!(status("/", "Origin: https://a.example\r\n"), 403);
    for target in ["/Rust", "/?name=a%20b", "/?name=ana&name=ana"] {
        assert_eq!(status(target, ""), 401);
        assert_eq!(status(target, right), 400);
    }
    let full = serve(&tokens, &["--max-connections", "1"]);
    let _ana = Raw::enter_with(full.port, "/", "right");
    assert_eq!(Raw::asking(full.port).refusal().0, 503);
}

#[test]
fn a_token_with_a_name_is_that_name_and_nobody_else_has_it() {
    let tokens = Secret::with("a ana\na2 ana\nb Budi\nc\n");
    let mut server = serve(&tokens, &[]);
    let port = server.port;
    let asked = |target: &str, token: &str| {
        let fields = format!("Authorization: Bearer {token}\r\n");
        Raw::asking_with(port, target, &fields)
    };
    // She need not ask, in any room; and may ask for what looks like it.
    for (room, target) in [
        ("", "/"),
        (" in rust", "/rust"),
        (" in a", "/a?name=ana"),
        (" in b", "/b?name=ANA"),
        (" in c", "/c?name=%D0%B0na"), // Cyrillic
    ] {
        let at = Raw::enter_with(port, target, "a").name();
        assert_eq!(
            server.line(),
            format!("New connection from {at} (ana){room}")
        );
        assert_eq!(
            server.line(),
            format!("Client {at} (ana) disconnected{room}")
        );
    }
    // Nobody else may, not even while she is away.
    for (target, token, name) in [
        ("/?name=ana", "c", "ana"),
        ("/?name=ANA", "c", "ANA"),
        ("/elsewhere?name=%D0%B0na", "c", "аna"), // Cyrillic
        ("/?name=%EF%BD%81na", "c", "ａna"),      // full width
        ("/?name=BUDI", "c", "BUDI"),
    ] {
        let why = format!("the name {name} belongs to a token, or looks like one that does");
        assert_eq!(asked(target, token).refusal(), (403, why));
    }
    // And who has a name has no other, not even a free one.
    for (target, token, own) in [
        ("/?name=eve", "a", "ana"),
        ("/?name=Budi", "a", "ana"),
        ("/?name=ana", "b", "Budi"),
    ] {
        let why = format!("this token is for the name {own}, and for no other");
        assert_eq!(asked(target, token).refusal(), (403, why));
    }
    // Her other device has the name too, but not in the same room at once.
    let mut ana = Raw::enter_with(port, "/", "a");
    let taken = "the name ana is taken here, or looks like one that is".to_owned();
    assert_eq!(asked("/", "a2").refusal(), (409, taken.clone()));
    assert_eq!(asked("/?name=ana", "a").refusal(), (409, taken));
    let _phone = Raw::enter_with(port, "/rust", "a2");
    // Without a name in the token, any other is free, or none.
    let mut carla = Raw::enter_with(port, "/?name=carla", "c");
    let mut nobody = Raw::enter_with(port, "/", "c");
    ana.say("hello");
    assert_eq!([carla.text(), nobody.text()], ["ana: hello"; 2]);
    carla.say("hi");
    assert_eq!([ana.text(), nobody.text()], ["carla: hi"; 2]);
    let at = nobody.name();
    nobody.say("hey");
    assert_eq!(ana.text(), format!("{at}: hey"));
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_what_to_do() {
    let refused = |file: &str, words: &[&str]| {
        let args = ["--token-file", file];
        let mut program = Program::start("server", &args);
        assert_eq!(program.exit(), 1, "{words:?}");
        assert_eq!(program.rest(), [""; 0]);
        let said = program.err_rest();
        assert_eq!(said.len(), 1, "{said:?}");
        for word in [file, "server: "].iter().chain(words) {
            assert!(said[0].contains(word), "{said:?} {word}");
        }
        assert!(!said[0].contains("s3cret"), "{said:?}");
    };
    refused("/nowhere/tokens", &["no such file or directory"]);
    refused("/", &["not a regular file"]);
    for mode in [0o604, 0o640, 0o602, 0o610] {
        let open = Secret::with("s3cret\n");
        open.chmod(mode);
        refused(
            open.name(),
            &["others can read it", &format!("chmod 600 {}", open.name())],
        );
    }
    let pipe = Secret::with("");
    fs::remove_file(&pipe.path).unwrap();
    mknodat(CWD, &pipe.path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    refused(pipe.name(), &["not a regular file"]);
    let many = (0..=LIMITS.tokens)
        .map(|n| format!("s3cret{n}\n"))
        .collect::<Vec<_>>()
        .concat();
    let long = format!("{}\n", "s3cret".repeat(43));
    for (content, words) in [
        (&b""[..], "there is no token in it"),
        (b"# s3cret\n\n", "there is no token in it"),
        (b"ok\ns3cret#2\n", "line 2 is neither"),
        (b"s3cret ana maria\n", "line 1 is neither"),
        (b"s3cret,\n", "line 1 is neither"),
        (b"==\n", "line 1 is neither"),
        (b"ok\n\xffs3cret\n", "line 2 is not UTF-8"),
        (
            b"s3cret\n\ns3cret ana\n",
            "line 3 has the same token as line 1",
        ),
        (
            b"ana s3cret@\n",
            "the name in line 1 is wrong: a name is 1 to 32",
        ),
        (
            b"a ana\nb ANA\n",
            "the name in line 2 is wrong: it looks like another one",
        ),
        (
            b"a ana\nb \xd0\xb0na\n",
            "the name in line 2 is wrong: it looks",
        ),
        (
            many.as_bytes(),
            "there are 1025 tokens in it, and at most 1024 can be",
        ),
        (long.as_bytes(), "line 1 is neither"),
        (
            &vec![b'#'; 1024 * 1024 + 1],
            "it is longer than 1048576 bytes",
        ),
    ] {
        refused(Secret::with(content).name(), &[words]);
    }
}

#[test]
fn the_variable_names_the_file_too() {
    let tokens = Secret::with("right");
    let mut command = Program::command("server");
    let server = Server::spawn(command.env("CHAT_TOKEN_FILE", &tokens.path));
    unauthorized(server.port, "");
    Raw::enter_with(server.port, "/", "right");
}

/// A file of the most tokens, each of which has a name.
#[test]
fn there_may_be_a_thousand_tokens() {
    let file = (0..LIMITS.tokens)
        .map(|n| format!("{n:064x} n{n}\n"))
        .collect::<Vec<_>>()
        .concat();
    let server = serve(&Secret::with(file), &[]);
    for n in [0, 1, LIMITS.tokens / 2, LIMITS.tokens - 1] {
        let mut one = Raw::enter_with(server.port, "/", &format!("{n:064x}"));
        let mut other = Raw::enter_with(server.port, "/", &format!("{:064x}", (n + 2) % 1000));
        one.say("me");
        assert_eq!(other.text(), format!("n{n}: me"));
    }
    unauthorized(
        server.port,
        &format!("Authorization: Bearer {:064x}\r\n", LIMITS.tokens),
    );
}

/// All that can become of those who are in when the file changes, in one change, since it takes up
/// to ten seconds until the server looks.
#[test]
fn whose_token_is_gone_is_closed_and_nobody_else() {
    const GOODBYE: &str = "your token is not valid any more";
    const RENAMED: &str = "the names of the tokens were changed, and yours with them";
    let tokens = Secret::with("gone\nstays\nrenamed ana\nnamed budi\nfree\nslow\nwaits\n");
    let mut server = serve(&tokens, &["--rate", "100"]);
    let port = server.port;
    let enter = |target: &str, token: &str| Raw::enter_with(port, target, token);
    let (mut gone, mut renamed) = (enter("/", "gone"), enter("/", "renamed"));
    let (mut stays, mut named) = (enter("/", "stays"), enter("/", "named"));
    let mut squatter = enter("/?name=eve", "free");
    let mut free = enter("/?name=fay", "free");
    // One that takes nothing, with more on its way to it than fits.
    let fields = "Authorization: Bearer slow\r\n";
    let mut slow = Raw::narrow_with(port, "/slow", fields);
    let slow_name = slow.name();
    let mut loud = enter("/slow", "stays");
    let mut ear = enter("/slow", "stays");
    for _ in 0..12 {
        loud.say(&"x".repeat(10_000));
        ear.text();
    }
    // One that has more to say than it may: a thousand lines at once, and then for an hour.
    let mut waits = enter("/rate", "waits");
    let mut hears = enter("/rate", "stays");
    waits.say(&"x\n".repeat(8000));
    for _ in 0..1000 {
        assert!(hears.text().ends_with(": x"));
    }
    // What was confirmed is said, whatever happens then.
    gone.say("the last word");
    gone.send_frame(0x89, b"");
    assert_eq!(gone.frame(), Some((0x8a, Vec::new())));
    tokens.write("stays\nrenamed anita\nnamed budi\nfree\nnew eve\n");
    for (closed, goodbye) in [
        (&mut gone, GOODBYE),
        (&mut renamed, RENAMED),
        (&mut squatter, RENAMED),
        (&mut waits, GOODBYE),
    ] {
        assert_eq!(closed.close(), (1008, goodbye.to_owned()));
    }
    let line = format!("{} was read again, tokens in force now: 5", tokens.name());
    let told = std::iter::repeat_with(|| server.program.err_line()).take(6);
    let told: Vec<_> = told.collect();
    assert!(told.contains(&format!("server: {line}")), "{told:?}");
    for (name, goodbye) in [
        (gone.name(), GOODBYE),
        (renamed.name() + " (ana)", RENAMED),
        (slow_name.clone(), GOODBYE),
    ] {
        let line = format!("server: {name} was closed: {goodbye} (1008)");
        assert!(told.contains(&line), "{told:?}");
    }
    // It gets no more than what was on its way; the rest of it is cut off after two seconds.
    let ended = slow.stream.read_to_end(&mut Vec::new());
    assert!(ended.is_ok_and(|bytes| bytes < 120_000));
    for other in [&mut stays, &mut named, &mut free] {
        assert!(other.text().ends_with(": the last word"));
    }
    // Those who stay are heard, and the new name has its owner.
    stays.say("still here");
    for other in [&mut named, &mut free] {
        assert!(other.text().ends_with(": still here"));
    }
    let mut eve = enter("/", "new");
    eve.say("me");
    assert_eq!(stays.text(), "eve: me");
    unauthorized(port, "Authorization: Bearer gone\r\n");
}

/// The file is looked at every few moments here, and each line about it is as the server says it.
#[test]
fn a_change_of_the_file_is_said_once_and_a_bad_one_changes_nothing() {
    let limits = Limits {
        look: Duration::from_millis(1),
        ..LIMITS
    };
    let file = Secret::with("one\n");
    let (said, lines) = channel();
    let tell = move |line: std::fmt::Arguments<'_>| drop(said.send(line.to_string()));
    let access = Access::open(Some(&file.path), &limits, tell).unwrap();
    let next = || lines.recv_timeout(PATIENCE).unwrap();
    let is_in = |token: &str| access.admit(Token::new(token)).is_ok();
    let (name, stay) = (file.name(), "(the tokens from before stay in force)");
    let again = |count: usize| format!("{name} was read again, tokens in force now: {count}");
    file.write("two\nthree\n");
    assert_eq!(next(), again(2));
    assert_eq!(["one", "two", "three"].map(is_in), [false, true, true]);
    file.chmod(0o644);
    let open = format!("{name} holds a secret and others can read it: chmod 600 {name} {stay}");
    assert_eq!(next(), open);
    file.write("four\nfour\n");
    let wrong = "line 2 has the same token as line 1";
    assert_eq!(
        next(),
        format!("cannot use the tokens in {name}: {wrong} {stay}")
    );
    assert_eq!(["two", "four"].map(is_in), [true, false]);
    file.write("");
    let wrong = "there is no token in it";
    assert_eq!(
        next(),
        format!("cannot use the tokens in {name}: {wrong} {stay}")
    );
    fs::remove_file(&file.path).unwrap();
    assert_eq!(
        next(),
        format!("cannot read {name}: no such file or directory {stay}")
    );
    assert!(is_in("three"));
    file.write("four\n");
    // Nothing was said twice, or this would not be next.
    assert_eq!(next(), again(1));
    assert_eq!(["three", "four"].map(is_in), [false, true]);
}

fn tokens(file: &str) -> Arc<Tokens> {
    Arc::new(Tokens::parse(file.as_bytes(), &LIMITS).unwrap())
}

#[test]
fn a_pass_ends_when_it_would_be_another_one() {
    for (before, token, wished, after, ends) in [
        ("a\nb", "a", None, "b\na", false),
        ("a\nb", "a", None, "b", true),
        ("a ana", "a", None, "a ana\nb budi", false),
        ("a ana", "a", None, "a budi", true),
        ("a ana", "a", None, "a Ana", true),
        ("a ana", "a", None, "a", true),
        ("a ana", "a", Some("ana"), "a", false), // it asked for that, and anybody may have it now
        ("a ana", "a", Some("ANA"), "a ana", false),
        ("a", "a", None, "a ana", true),
        ("a", "a", Some("ana"), "a ana", false),
        ("a", "a", Some("ana"), "a\nb ana", true),
        ("a", "a", Some("ana"), "a\nb ANA", true),
        ("a", "a", Some("ana"), "a\nb budi", false),
        ("a", "a", None, "a\nb budi", false),
    ] {
        let (sender, receiver) = watch::channel(tokens(before));
        let mut pass = Access::by(receiver).admit(Token::new(token)).unwrap();
        pass.name(wished.map(|name| Name::new(name).unwrap()))
            .unwrap();
        assert!(pass.revoked().now_or_never().is_none());
        sender.send_replace(tokens(after));
        let fault = pass.revoked().now_or_never();
        let code = fault.map(|(code, _)| code);
        let expected = ends.then_some(CloseCode::POLICY_VIOLATION);
        assert_eq!(code, expected, "{before:?} {wished:?} {after:?}");
        // Nobody watches the file any more: the tokens stay, and nothing spins.
        drop(sender);
        if !ends {
            assert!(pass.revoked().now_or_never().is_none());
        }
    }
}

/// One that came in just before a change and is looked at just behind it.
#[test]
fn a_change_while_somebody_comes_in_is_seen() {
    let (sender, receiver) = watch::channel(tokens("a"));
    let access = Access::by(receiver);
    let mut pass = access.admit(Token::new("a")).unwrap();
    sender.send_replace(tokens("b"));
    assert!(matches!(pass.name(None), Err(Refusal::Answered(..))));
    let mut pass = access.admit(Token::new("b")).unwrap();
    pass.name(None).unwrap();
    sender.send_replace(tokens("c"));
    assert!(pass.revoked().now_or_never().is_some());
    assert!(Pass::default().revoked().now_or_never().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever shows something gets in when it stands in the file, and only then.
    #[test]
    fn exactly_the_tokens_of_the_file_get_in(
        known in proptest::collection::hash_set("[ab]{1,3}=?", 1..10),
        shown in "[ab]{1,3}=?",
    ) {
        let file: Vec<_> = known.iter().map(String::as_str).collect();
        let (_sender, receiver) = watch::channel(tokens(&file.join("\n")));
        let admitted = Access::by(receiver).admit(Token::new(&shown));
        prop_assert_eq!(admitted.is_ok(), known.contains(&shown));
    }

    #[test]
    fn a_token_is_as_rfc_6750_has_it(text in "[a-c0=~ #.é]{0,6}") {
        let start = text.trim_end_matches('=');
        let is_token = !start.is_empty()
            && start.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        prop_assert_eq!(Token::new(&text).is_some(), is_token);
    }
}

#[test]
fn who_listens_for_others_is_told_what_that_means() {
    let said = |address: &str, tls, tokens| {
        let address: SocketAddr = address.parse().unwrap();
        exposure(address, tls, tokens).unwrap_or_default()
    };
    for here in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        assert_eq!(said(here, false, false), "");
    }
    for there in [
        "0.0.0.0:8080",
        "[::]:8080",
        "192.0.2.1:8080",
        "[::ffff:0.0.0.0]:8080",
    ] {
        for (tls, tokens) in [(false, false), (false, true), (true, false)] {
            let line = said(there, tls, tokens);
            assert!(
                line.starts_with("port 8080 is open to other machines: "),
                "{line}"
            );
            assert!(!line.contains('\n'));
            assert_eq!(line.contains("--tls-cert"), !tls, "{line}");
            assert_eq!(line.contains("--token-file"), !tokens, "{line}");
        }
        assert_eq!(said(there, true, true), "");
    }
}

#[test]
fn a_server_that_is_open_to_others_says_so_in_one_line_and_serves() {
    let mut command = Program::command("server");
    let mut server = Server::spawn(command.args(["--listen", "0.0.0.0:0"]));
    let line = server.program.err_line();
    let port = server.port;
    assert!(
        line.starts_with(&format!("server: port {port} is open to other machines: ")),
        "{line}"
    );
    Others::join(port).talk();
    server.stop_in_silence();
    let mut server = Server::with(&[]);
    server.stop_in_silence();
}

/// A request that comes together with its first line is not heard before it is judged.
#[test]
fn nothing_of_a_refused_client_is_said() {
    let tokens = Secret::with("right\n");
    let mut server = serve(&tokens, &[]);
    let mut ear = Raw::enter_with(server.port, "/", "right");
    let mut refused = Raw::tcp(server.port);
    refused.send(&[REQUEST.as_bytes(), &frame(0x80 | TEXT, b"let me in")].concat());
    assert_eq!(refused.refusal().0, 401);
    let mut other = Raw::enter_with(server.port, "/", "right");
    other.say("next");
    assert_eq!(ear.text(), format!("{}: next", other.name()));
    drop((ear, other));
    server.stop();
    assert!(!server.program.rest().concat().contains("let me in"));
}
