//! A build without TLS says so, instead of talking in clear text.

use crate::support::Program;

#[test]
fn what_needs_tls_is_refused_by_name() {
    for args in [&["wss://localhost:9"][..], &["--ca", "ca.pem"]] {
        let mut client = Program::start("client", args);
        assert_eq!(client.exit(), 1);
        let why = "client: wss:// and --ca need TLS, and this client was built without it (the cargo \
                   feature tls)";
        assert_eq!(client.err_rest(), [why]);
    }
    let files = ["--tls-cert", "chain.pem", "--tls-key", "key.pem"];
    let mut server = Program::start("server", &files);
    assert_eq!(server.exit(), 1);
    let why = "server: --tls-cert and --tls-key need TLS, and this server was built without it (the \
               cargo feature tls)";
    assert_eq!(server.err_rest(), [why]);
}
