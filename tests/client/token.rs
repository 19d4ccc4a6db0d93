//! The token that a client shows: where it comes from, what it is told without a valid one, and that
//! nobody ever sees it.

use std::fs;

use crate::support::raw::{Raw, RawServer, agreement};
use crate::support::{Program, Secret, Server};

const REFUSED: &str = "refused: a valid token is needed here (HTTP 401), see --token-file";

fn serve(tokens: &Secret) -> Server {
    Server::with(&["--token-file", tokens.name()])
}

/// A client that fails with one line, which has this in it.
#[track_caller]
fn fails(mut client: Program, why: &str) {
    let said = client.err_line();
    assert!(said.starts_with("client: ") && said.contains(why), "{said}");
    assert_eq!((client.exit(), client.err_rest()), (1, Vec::new()));
}

#[test]
fn the_token_comes_from_a_file_or_a_variable_and_the_file_comes_first() {
    let tokens = Secret::with("a-token ana\nb-token budi\n");
    let mut server = serve(&tokens);
    let url = server.url();
    let own = Secret::with("# mine\n\nb-token budi # of the phone\na-token\n");
    let client = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = Program::command("client");
        Program::spawn(command.arg(&url).args(args).envs(env.iter().copied()))
    };
    for (args, env, name) in [
        (&["--token-file", own.name()][..], &[][..], "budi"),
        (&[], &[("CHAT_TOKEN_FILE", own.name())], "budi"),
        (&[], &[("CHAT_TOKEN", "a-token")], "ana"),
        (
            &["--token-file", own.name()],
            &[("CHAT_TOKEN", "a-token")],
            "budi",
        ),
        (
            &[],
            &[("CHAT_TOKEN_FILE", own.name()), ("CHAT_TOKEN", "a-token")],
            "budi",
        ),
        (
            &[],
            &[("CHAT_TOKEN_FILE", ""), ("CHAT_TOKEN", "a-token")],
            "ana",
        ),
    ] {
        let mut client = client(args, env);
        client.is_connected();
        let joined = server.joined();
        assert!(joined.ends_with(&format!(" ({name})")), "{joined}");
        client.end_input();
        assert_eq!(client.exit(), 0);
        server.line();
    }
    fails(client(&[], &[]), REFUSED);
    fails(
        client(&["--reconnect"], &[("CHAT_TOKEN", "c-token")]),
        REFUSED,
    );
    fails(client(&[], &[("CHAT_TOKEN", "")]), REFUSED);
    let other = client(&["--name", "eve"], &[("CHAT_TOKEN", "a-token")]);
    fails(
        other,
        "refused: this token is for the name ana, and for no other (HTTP 403)",
    );
}

/// There is a server, and nobody connects to it.
#[test]
fn a_token_that_cannot_be_read_is_the_end_before_anything_is_sent() {
    let server = Server::start();
    let url = server.url();
    let with = |file: &str| Program::start("client", &[&url, "--token-file", file]);
    fails(
        with("/nowhere/token"),
        "cannot read /nowhere/token: no such file or directory",
    );
    fails(with("/tmp"), "cannot read /tmp: it is not a regular file");
    let file = Secret::with("s3cret\n");
    file.chmod(0o644);
    fails(
        with(file.name()),
        &format!("others can read it: chmod 600 {}", file.name()),
    );
    for (content, why) in [
        ("", "there is no token in it"),
        ("s3cret,\n", "line 1 is neither TOKEN nor TOKEN NAME"),
        ("ok\ns3cret s3cret s3cret\n", "line 2 is neither"),
    ] {
        let file = Secret::with(content);
        let mut client = with(file.name());
        let said = client.err_line();
        assert!(said.contains(why) && said.contains(file.name()), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        assert_eq!(client.exit(), 1);
    }
    let mut command = Program::command("client");
    let client = Program::spawn(command.arg(&url).env("CHAT_TOKEN", "s3 cret"));
    fails(
        client,
        "client: what CHAT_TOKEN holds is not a token: a token is 1 to 256 letters, digits and \
         -._~+/, and = at its end",
    );
    let mut server = server;
    server.stop();
    assert_eq!(server.program.rest(), [""; 0]);
}

#[test]
fn no_flag_takes_a_token() {
    let mut client = Program::start("client", &["--token", "s3cret"]);
    assert_eq!(client.exit(), 2);
    // Nor does any help show it.
    for help in ["-h", "--help"] {
        let mut command = Program::command("client");
        let mut client = Program::spawn(command.arg(help).env("CHAT_TOKEN", "s3cret"));
        assert_eq!(client.exit(), 0);
        let text = client.rest().concat();
        assert!(
            text.contains("--token-file") && !text.contains("s3cret"),
            "{text}"
        );
    }
}

#[test]
fn it_is_sent_as_rfc_6750_has_it_and_only_if_there_is_one() {
    for (token, field) in [("s3cret", Some("authorization: Bearer s3cret")), ("", None)] {
        let server = RawServer::listen();
        let mut command = Program::command("client");
        let client = Program::spawn(command.arg(server.url()).env("CHAT_TOKEN", token));
        let mut raw = server.tcp();
        let request = raw.head();
        raw.send(&agreement(&request));
        let sent = request.lines().filter(|line| line.contains("uthorization"));
        assert_eq!(
            sent.collect::<Vec<_>>(),
            field.into_iter().collect::<Vec<_>>()
        );
        drop((client, raw));
    }
}

/// Whoever renews the tokens of both ends need not start the client anew.
#[test]
fn a_client_that_is_refused_looks_whether_it_has_another_token_now() {
    let server = RawServer::listen();
    let file = Secret::with("old");
    let args = [
        &server.url(),
        "--token-file",
        file.name(),
        "--reconnect",
        "--wait",
        "60",
    ];
    let mut client = Program::spawn(Program::command("client").args(args));
    let asked_with = |token: &str| {
        let mut raw = server.tcp();
        let request = raw.head();
        let bearer = format!("authorization: Bearer {token}");
        assert!(request.lines().any(|line| line == bearer), "{request}");
        (raw, request)
    };
    let refuses =
        |mut raw: Raw| raw.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let (raw, _) = asked_with("old");
    file.write("new");
    refuses(raw);
    let (mut raw, request) = asked_with("new");
    raw.send(&agreement(&request));
    drop(raw);
    refuses(asked_with("new").0);
    assert_eq!(client.exit(), 1);
    let said = client.err_rest();
    assert!(
        said[0].contains("; there is another token now; trying again in "),
        "{said:?}"
    );
    assert!(
        said.last().unwrap().ends_with(", see --token-file"),
        "{said:?}"
    );
}

/// The name of a host is looked up only after this was said, so none has to be there.
#[test]
fn a_token_that_others_could_read_on_its_way_is_warned_of_once() {
    let file = Secret::with("s3cret\n");
    let warned = |url: &str, token: &Secret| {
        let mut client = Program::start("client", &[url, "--token-file", token.name()]);
        let said = client.err_line();
        said == "client: the token goes there in clear text: whoever sees the network can read it"
    };
    assert!(warned("ws://chat.invalid", &file));
    let server = Server::start();
    let port = server.port;
    for here in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        assert!(!warned(&format!("ws://{here}:{port}"), &file), "{here}");
    }
    let mut client = Program::start("client", &["ws://chat.invalid"]);
    assert!(client.err_line().contains("cannot connect to "));
}

/// Strangers who show the tokens where they belong and where they do not. Returns what they hear.
fn ask_in_every_way(port: u16) -> Vec<String> {
    let mut seen = Vec::new();
    for (fields, status) in [
        ("Authorization: Bearer qzWrong\r\n", 401),
        ("Authorization: Bearer qzBad,\r\n", 401),
        ("Authorization: qzRight\r\n", 401),
        ("Sec-WebSocket-Protocol: chat, token.qzWrong\r\n", 401),
        (
            "Sec-WebSocket-Protocol: chat, token.qzRight\r\nHost: a\r\n",
            400,
        ),
        (
            "Authorization: Bearer qzRight\r\nOrigin: https://a.example\r\n",
            403,
        ),
        ("Authorization: Bearer qzRight\r\nqzBad\r\n", 400),
    ] {
        let (got, why) = Raw::asking_with(port, "/", fields).refusal();
        assert_eq!(got, status, "{fields}");
        seen.push(why);
    }
    let mut page = Raw::asking_with(port, "/", "Sec-WebSocket-Protocol: chat, token.qzRight\r\n");
    seen.push(page.head());
    page.send(&[0x83, 0x80, 0, 0, 0, 0]); // a fault of a client that was let in
    assert_eq!(page.close().0, 1002);
    seen
}

/// All that both programs ever print, in a run with right, wrong, malformed and revoked tokens, and
/// what everybody on this machine can see of them.
#[test]
fn no_token_is_ever_seen() {
    // None of them is a part of any word that the programs print.
    const ALL: [&str; 6] = ["qzRight", "qzNamed", "qzGone", "qzWrong", "qzBad", "qzNew"];
    let tokens = Secret::with("qzRight\nqzNamed ana\nqzGone\n");
    let mut seen = Vec::new();
    let mut server = serve(&tokens);
    let (url, port) = (server.url(), server.port);
    let start = |token: &str| {
        let file = Secret::with(token);
        let args = [&url, "--token-file", file.name(), "--reconnect"];
        let mut client = Program::spawn(Program::command("client").args(args));
        let first = client.err_line();
        (client, first)
    };
    let mut clients = Vec::new();
    for token in ["qzRight", "qzNamed", "qzGone"] {
        let (client, said) = start(token);
        assert!(said.contains("connected to "), "{said}");
        seen.push(said);
        clients.push(client);
    }
    for token in ["qzWrong", "qzBad,", "qzBad qzBad qzBad", "qzBad\nqzBad"] {
        let (mut client, said) = start(token);
        seen.push(said);
        assert_eq!(client.exit(), 1);
        seen.extend(client.err_rest());
        seen.extend(client.rest());
    }
    for content in [
        "qzBad,\n",
        "qzBad\nqzBad\n",
        "qzRight qzBad@\n",
        "a qzNew\nb qzNew\n\u{e9}\n",
    ] {
        let file = Secret::with(content);
        let args = ["--token-file", file.name()];
        let mut server = Program::start("server", &args);
        assert_eq!(server.exit(), 1);
        seen.extend(server.err_rest());
        seen.extend(server.rest());
    }
    seen.extend(ask_in_every_way(port));
    for process in clients.iter().chain([&server.program]) {
        let line = fs::read(format!("/proc/{}/cmdline", process.id())).unwrap();
        assert!(!line.is_empty());
        seen.push(String::from_utf8_lossy(&line).into_owned());
    }
    tokens.write("qzRight\nqzNamed anita\nqzNew\n");
    // Whose token is gone is closed, tries again, and is refused.
    let mut gone = clients.pop().unwrap();
    assert_eq!(gone.exit(), 1);
    let said = gone.err_rest();
    assert!(
        said[0].contains("your token is not valid any more (1008, "),
        "{said:?}"
    );
    assert!(said[1].ends_with(REFUSED), "{said:?}");
    seen.extend(said);
    // Whose name has changed is closed too, and comes in again under the new one.
    let mut ana = clients.pop().unwrap();
    let said = ana.err_line();
    assert!(said.contains("; trying again in "), "{said}");
    seen.push(said);
    ana.is_connected();
    let mut right = clients.pop().unwrap();
    ana.type_line("hello");
    assert_eq!(right.line(), "anita: hello");
    tokens.write("qzBad,\n");
    let wrong = std::iter::repeat_with(|| server.program.err_line())
        .inspect(|line| seen.push(line.clone()))
        .find(|line| line.contains("line 1 is neither"));
    assert!(wrong.is_some());
    server.program.signal("TERM");
    assert_eq!(server.program.exit(), 0);
    drop(ana);
    right.signal("TERM");
    assert_eq!(right.exit(), 0);
    for mut program in [server.program, right] {
        seen.extend(program.err_rest());
        seen.extend(program.rest());
    }
    assert!(seen.len() > 30, "{seen:?}");
    for line in &seen {
        let line_in_small = line.to_lowercase();
        for token in ALL {
            assert!(!line_in_small.contains(&token.to_lowercase()), "{line}");
        }
    }
}
