//! What NATS may be like when the server starts: whatever it is, the operator hears it in one line, and
//! the server tries again.

use crate::support::raw::{Raw, health};
use crate::support::{Port, Program, Server};
use crate::{ANA, Nats, is_taken};

/// The server says this of its NATS.
#[track_caller]
fn says(server: &mut Server, url: &str, why: &str) {
    let said = server.program.err_line();
    let expected =
        format!("server: cannot use NATS at {url}: {why} (trying again; who speaks waits)");
    assert_eq!(said, expected);
}

/// The server says that its NATS does not allow it this subject.
#[track_caller]
fn may_not(server: &mut Server, url: &str, subject: &str) {
    let said = server.program.err_line();
    let start =
        format!("server: cannot use NATS at {url}: it does not allow this server what it needs: ");
    assert!(said.starts_with(&start), "{said}");
    assert!(said.contains(subject), "{said}");
}

/// Nobody gets in, and is told why.
#[track_caller]
fn refuses(server: &mut Server) {
    let (status, why) = Raw::asking_for(server.port, "/").refusal();
    assert_eq!(status, 503);
    assert!(why.contains("cannot be read or stored now"), "{why}");
    let said = server.program.err_line();
    assert!(said.contains("was refused"), "{said}");
    let why = "NATS cannot be used for now";
    assert_eq!(health(server.port), (503, why.to_owned()));
}

#[test]
fn without_jetstream_nobody_gets_in() {
    let Some(nats) = Nats::with("") else { return };
    let mut server = Server::spawn(&mut nats.command());
    let why = "it has no JetStream: start it with `nats-server -js`";
    says(&mut server, &nats.url(), why);
    refuses(&mut server);
    server.stop_in_silence();
}

#[test]
fn a_nats_that_takes_too_little_is_named() {
    let Some(nats) =
        Nats::with("max_payload: 65536\njetstream { store_dir: \"FOLDER/jetstream\" }")
    else {
        return;
    };
    let mut server = Server::spawn(&mut nats.command());
    let why = "its max_payload is 65536, and this server needs 147712: make it larger, or --max-message \
               smaller";
    says(&mut server, &nats.url(), why);
    refuses(&mut server);
    server.stop_in_silence();
}

#[test]
fn a_nats_that_is_not_there_is_waited_for() {
    let nothing = Port::hold();
    let url = format!("nats://127.0.0.1:{}", nothing.number);
    let mut server = Server::with(&["--nats", &url]);
    says(&mut server, &url, "it cannot be reached");
    refuses(&mut server);
    server.stop_in_silence();
}

#[test]
fn a_nats_that_comes_later_is_used() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    nats.kill();
    let mut server = Server::spawn(&mut nats.command());
    says(&mut server, &nats.url(), "it cannot be reached");
    nats.run();
    let said = server.program.err_line();
    assert_eq!(
        said,
        format!("server: NATS at {} can be used again", nats.url())
    );
    assert_eq!(health(server.port), (200, "ok".to_owned()));
    server.stop_in_silence();
}

#[test]
fn who_may_not_use_it_is_told_what_is_missing() {
    let Some(nats) = Nats::with(
        "jetstream { store_dir: \"FOLDER/jetstream\" }
         authorization { users = [ { user: ana, password: secret, permissions: { publish: [\"x\"] } } ] }",
    ) else {
        return;
    };
    let mut server = Server::spawn(&mut nats.command());
    says(
        &mut server,
        &nats.url(),
        "it does not let this server in (see --nats-creds)",
    );
    server.stop_in_silence();
    let with_secret = format!("nats://ana:secret@127.0.0.1:{}", nats.port.number);
    let mut server = Server::with(&["--nats", &with_secret]);
    may_not(&mut server, &nats.url(), "$JS.API.STREAM.INFO.chat");
    server.stop_in_silence();
}

#[test]
fn who_may_not_speak_is_told_what_is_missing() {
    let Some(nats) = Nats::with(
        "jetstream { store_dir: \"FOLDER/jetstream\" }
         authorization { users = [ { user: ana, password: secret,
             permissions: { publish: { deny: [\"chat.room.*\"] } } } ] }",
    ) else {
        return;
    };
    let url = format!("nats://ana:secret@127.0.0.1:{}", nats.port.number);
    let mut server = Server::with(&["--nats", &url]);
    let mut ana = Raw::enter(server.port, "/");
    ana.say("hello?");
    assert_eq!(
        ana.text(),
        "* the chat is interrupted: lines are kept and sent later"
    );
    may_not(&mut server, &nats.url(), "chat.room.");
    // Whoever comes with a session, which all servers have to know of, is refused.
    let target = format!("/?session={ANA}");
    let (status, _) = Raw::asking_for(server.port, &target).refusal();
    assert_eq!(status, 503);
    drop(ana);
}

/// Waits until the server has made its connection anew, which it does every ten seconds.
#[test]
fn rights_that_are_given_back_are_used_again() {
    let configuration = |rights: &str| {
        format!(
            "jetstream {{ store_dir: \"FOLDER/jetstream\" }}
             authorization {{ users = [ {{ user: ana, password: secret, permissions: {{ {rights} }} }} ] }}"
        )
    };
    for (denied, subject) in [
        ("publish: { deny: [\"chat.room.*\"] }", "chat.room."),
        ("subscribe: { deny: [\"_INBOX.>\"] }", "_INBOX.>"),
    ] {
        let Some(nats) = Nats::with(&configuration("")) else {
            return;
        };
        let url = format!("nats://ana:secret@127.0.0.1:{}", nats.port.number);
        let mut server = Server::with(&["--nats", &url]);
        let mut ana = Raw::enter(server.port, "/");
        ana.say("before");
        is_taken(&mut ana);
        nats.reload(&configuration(denied));
        ana.say("during");
        assert_eq!(
            ana.text_with_pongs(),
            "* the chat is interrupted: lines are kept and sent later"
        );
        may_not(&mut server, &nats.url(), subject);
        assert_eq!(health(server.port).0, 503);
        nats.reload(&configuration(""));
        assert_eq!(ana.text_with_pongs(), "* the chat goes on");
        is_taken(&mut ana);
        let said = server.program.err_line();
        assert!(said.ends_with(" can be used again"), "{said}");
        assert_eq!(health(server.port), (200, "ok".to_owned()));
    }
}

/// The same of what NATS says when a connection is made.
#[test]
fn a_nats_that_takes_enough_again_is_used_again() {
    let store = "jetstream { store_dir: \"FOLDER/jetstream\" }";
    let little = format!("{store}\nmax_payload: 1000");
    let Some(mut nats) = Nats::with(store) else {
        return;
    };
    let mut server = nats.serve();
    let mut ana = Raw::enter(server.port, "/");
    ana.say("before");
    is_taken(&mut ana);
    nats.kill();
    // Else it may be there again before the server has looked for it.
    let said = server.program.err_line();
    assert!(said.contains("it cannot be reached"), "{said}");
    nats.configure(&little);
    nats.run();
    let said = server.program.err_line();
    assert!(said.contains("its max_payload is 1000"), "{said}");
    nats.reload(store);
    ana.say("after");
    is_taken(&mut ana);
    let said = server.program.err_line();
    assert!(said.ends_with(" can be used again"), "{said}");
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for (wrong, why) in [
        (
            &["--nats", "localhost:4222"][..],
            "it is nats://HOST:PORT or tls://HOST:PORT",
        ),
        (
            &["--nats", "nats://a", "--store", "b"],
            "cannot be used with",
        ),
        (
            &["--nats", "nats://a", "--nats-stream", "a.b"],
            "it is 1 to 64 of",
        ),
        (&["--nats-stream", "a"], "--nats <URL>"),
        (&["--nats-creds", "a"], "--nats <URL>"),
    ] {
        let mut server = Program::start("server", wrong);
        assert_eq!(server.exit(), 2);
        let said = server.err_rest();
        assert!(said.len() == 1 && said[0].contains(why), "{said:?}");
    }
    let mut server = Program::start(
        "server",
        &["--nats", "nats://127.0.0.1:1", "--nats-creds", "/nowhere"],
    );
    assert_eq!(server.exit(), 1);
    let why = "server: cannot read /nowhere: no such file or directory";
    assert_eq!(server.err_rest(), [why]);
}

/// Who has signed the certificate of NATS is trusted by the system, here by the variable that says so.
#[cfg(feature = "tls")]
#[test]
fn nats_is_reached_through_tls() {
    use crate::support::tls::{Authority, Kind};

    let authority = Authority::new();
    authority.issue(Kind::Good);
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}
         jetstream {{ store_dir: \"FOLDER/jetstream\" }}",
        authority.file("chain.pem"),
        authority.file("key.pem")
    );
    let Some(nats) = Nats::with(&tls) else { return };
    let url = nats.url().replace("nats://", "tls://");
    let serve = |ca: Option<String>| {
        let mut command = Program::command("server");
        command.args(["--nats", &url]);
        command
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR");
        ca.map(|file| command.env("SSL_CERT_FILE", file));
        Server::spawn(&mut command)
    };
    let [first, second] = [(); 2].map(|()| serve(Some(authority.ca())));
    let mut ana = Raw::enter(first.port, "/?name=ana");
    let mut bob = Raw::enter(second.port, "/?name=bob");
    ana.say("hi");
    assert_eq!(bob.text(), "ana: hi");
    let mut server = serve(None);
    let why = "it cannot be reached, or its certificate is not trusted here";
    says(&mut server, &url, why);
    server.stop_in_silence();
}
