//! The whole of the tutorial as a transcript: three clients talk, one leaves, the server leaves.

use crate::support::Server;

#[test]
fn three_clients_talk_one_leaves_and_the_server_leaves() {
    let mut server = Server::start();
    let (mut ann, a) = server.join();
    let (mut bob, b) = server.join();
    let (mut cid, c) = server.join();
    assert!(a.starts_with("127.0.0.1:"), "{a}");

    ann.type_line("hello from client 1");
    assert_eq!(
        server.line(),
        format!("Received from {a}: hello from client 1")
    );
    assert_eq!(bob.line(), format!("{a}: hello from client 1"));
    assert_eq!(cid.line(), format!("{a}: hello from client 1"));

    // The first thing that each sender hears is somebody else: nobody gets a line back.
    bob.type_line("hello from client 2");
    assert_eq!(
        server.line(),
        format!("Received from {b}: hello from client 2")
    );
    assert_eq!(ann.line(), format!("{b}: hello from client 2"));
    assert_eq!(cid.line(), format!("{b}: hello from client 2"));

    cid.type_line("apa kabar? 👋");
    assert_eq!(server.line(), format!("Received from {c}: apa kabar? 👋"));
    assert_eq!(ann.line(), format!("{c}: apa kabar? 👋"));
    assert_eq!(bob.line(), format!("{c}: apa kabar? 👋"));

    // Order is kept.
    for n in 0..100 {
        ann.type_line(&n.to_string());
    }
    for n in 0..100 {
        assert_eq!(server.line(), format!("Received from {a}: {n}"));
        assert_eq!(bob.line(), format!("{a}: {n}"));
        assert_eq!(cid.line(), format!("{a}: {n}"));
    }

    // One leaves; the others talk on.
    cid.signal("INT");
    assert_eq!(cid.exit(), 0);
    assert_eq!(server.line(), format!("Client {c} disconnected"));
    ann.type_line("still here?");
    assert_eq!(server.line(), format!("Received from {a}: still here?"));
    assert_eq!(bob.line(), format!("{a}: still here?"));
    assert_eq!(cid.rest(), [""; 0]);
    assert_eq!(cid.err_rest(), ["client: left the chat"]);

    // The server leaves, and says so to everyone.
    server.program.signal("INT");
    assert_eq!(server.program.exit(), 0);
    for client in [&mut ann, &mut bob] {
        let why = "client: the server closed the chat: server shutting down (1001, going away)";
        assert_eq!(client.err_line(), why);
        assert_eq!(client.exit(), 1);
        assert_eq!(client.rest(), [""; 0]);
    }
    let mut gone = [server.line(), server.line()];
    gone.sort();
    let mut expected = [
        format!("Client {a} disconnected"),
        format!("Client {b} disconnected"),
    ];
    expected.sort();
    assert_eq!(gone, expected);
    assert_eq!(server.program.rest(), [""; 0]);
    assert_eq!(server.program.err_rest(), [""; 0]);
}
