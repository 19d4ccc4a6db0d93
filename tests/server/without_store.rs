//! A build without SQLite has no store, and says so.

use crate::support::Program;

#[test]
fn a_store_is_refused_by_name() {
    let mut server = Program::start("server", &["--store", "/nowhere/chat.db"]);
    assert_eq!(server.exit(), 1);
    let expected = "server: --store needs SQLite, and this server was built without it (the cargo feature \
        sqlite)";
    assert_eq!(
        (server.rest(), server.err_rest()),
        (vec![], vec![expected.to_owned()])
    );
}

#[test]
fn what_a_store_is_to_do_needs_a_store() {
    for wrong in [&["--store-sync"][..], &["--store-days", "1"]] {
        let mut server = Program::start("server", wrong);
        assert_eq!(server.exit(), 2);
        let said = server.err_rest();
        assert!(
            said.len() == 1 && said[0].contains("--store <FILE>"),
            "{said:?}"
        );
    }
}
