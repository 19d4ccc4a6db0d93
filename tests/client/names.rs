//! The client under a name and in a room, as a person or a script uses it.

use serde_json::Value;

use crate::support::raw::Raw;
use crate::support::{Program, Server};

/// A client that is connected, and says so like this.
fn connected(args: &[&str], whom: &str) -> Program {
    let mut client = Program::start("client", args);
    let line = format!("client: connected to {whom} (Ctrl+C or Ctrl+D leaves)");
    assert_eq!(client.err_line(), line);
    client
}

#[test]
fn a_client_says_who_it_is_and_where() {
    let mut server = Server::start();
    let (url, room) = (server.url(), format!("{}/rust", server.url()));
    let whom = format!("{room} as ana");
    let mut ana = connected(&[&room, "--name", "ana"], &whom);
    let in_url = format!("{room}?name=budi");
    let mut budi = connected(&[&in_url, "--name", "not-this"], &format!("{room} as budi"));
    let _elsewhere = connected(&[&url, "--name", "аня"], &format!("{url} as аня"));
    for who in ["ana", "budi", "аня"] {
        let line = server.line();
        assert!(line.contains(&format!(" ({who})")), "{line}");
    }
    ana.type_line("hello");
    assert_eq!(budi.line(), "ana: hello");
    budi.type_line("hi");
    assert_eq!(ana.line(), "budi: hi");
}

#[test]
fn the_environment_can_give_the_name() {
    let mut server = Server::start();
    let url = server.url();
    let mut client = Program::spawn(Program::command("client").arg(&url).env("CHAT_NAME", "ana"));
    assert!(client.err_line().contains(" as ana "));
    assert!(server.line().ends_with(" (ana)"));
}

#[test]
fn a_name_that_is_taken_is_the_end_or_is_waited_for() {
    let server = Server::start();
    let url = server.url();
    let holder = Raw::enter(server.port, "/?name=ana");
    let why = format!(
        "cannot connect to {url} as Ana: refused: the name Ana is taken here, or looks like one \
         that is (HTTP 409)"
    );
    let mut client = Program::start("client", &[&url, "--name", "Ana"]);
    assert_eq!(client.err_line(), format!("client: {why}"));
    assert_eq!(client.exit(), 1);
    let mut client = Program::start("client", &[&url, "--name", "Ana", "--reconnect"]);
    let line = client.err_line();
    assert!(
        line.starts_with(&format!("client: {why}; trying again in ")),
        "{line}"
    );
    drop(holder);
    let mut line = client.err_line();
    while line.contains("trying again") {
        line = client.err_line();
    }
    assert_eq!(
        line,
        format!("client: connected to {url} as Ana (Ctrl+C or Ctrl+D leaves)")
    );
}

/// There is no use in asking again for what will never be.
#[test]
fn a_room_or_a_name_that_cannot_be_is_the_end_also_with_reconnect() {
    let server = Server::start();
    for (path, name, why) in [
        ("/Rust", "ana", "there is no such room"),
        ("/rust", "a b", "a name is 1 to 32 letters and digits"),
    ] {
        let url = format!("{}{path}", server.url());
        let mut client = Program::start("client", &[&url, "--name", name, "--reconnect"]);
        let line = client.err_line();
        assert!(
            line.contains(why) && line.ends_with(" (HTTP 400)"),
            "{line}"
        );
        assert_eq!(client.exit(), 1);
    }
}

#[test]
fn presence_is_an_object_of_its_own_in_json() {
    let server = Server::with(&["--presence"]);
    let url = server.url();
    let mut ana = Program::start("client", &[&url, "--name", "ana", "--json"]);
    let mut next = || serde_json::from_str::<Value>(&ana.line()).unwrap();
    let here = next();
    assert_eq!(here["here"], Value::Array(Vec::new()));
    assert!(here["at"].is_string() && here.get("notice").is_none());
    let budi = Raw::enter(server.port, "/?name=budi");
    assert_eq!(next()["joined"], serde_json::json!(["budi"]));
    drop(budi);
    assert_eq!(next()["left"][0], "budi");
}
