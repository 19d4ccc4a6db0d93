//! A build without NATS shares nothing, and says so.

use crate::support::Program;

#[test]
fn nats_is_refused_by_name() {
    let mut server = Program::start("server", &["--nats", "nats://127.0.0.1:4222"]);
    assert_eq!(server.exit(), 1);
    let expected =
        "server: --nats needs NATS, and this server was built without it (the cargo feature nats)";
    assert_eq!(
        (server.rest(), server.err_rest()),
        (vec![], vec![expected.to_owned()])
    );
}
