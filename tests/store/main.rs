//! A store, with real processes: what outlives a server, however it ends.
//!
//! - [`killed`]: the server is killed, and links are cut, at random moments
//! - [`past`]: what is known after a restart, and what is read from the store
//! - [`faults`]: files that cannot be used, and disks that become full
//! - [`interleavings`]: a room with a store against a model of it

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod confirmed;
mod faults;
mod interleavings;
mod killed;
mod past;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rusqlite::{Connection, OpenFlags};
use support::session::{Client, is_taken};
use support::{Program, Server, empty_folder};

/// The session of Ana, and that of Bob.
const ANA: &str = "the-session-of-ana-000";
const BOB: &str = "the-session-of-bob-000";

/// A folder with a database in it, until it is dropped.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        Self {
            path: empty_folder("store"),
        }
    }

    /// Where the database is.
    fn file(&self) -> PathBuf {
        self.path.join("chat.db")
    }

    /// The server with this store, not started yet.
    fn command(&self) -> Command {
        let mut command = Program::command("server");
        command.arg("--store").arg(self.file());
        command
    }

    fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    fn serve_with(&self, args: &[&str]) -> Server {
        Server::spawn(self.command().args(args))
    }

    /// What any other program reads.
    fn open(&self) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        Connection::open_with_flags(self.file(), flags).unwrap()
    }

    /// Names and texts of a room, in their order.
    fn lines(&self, room: &str) -> Vec<(String, String)> {
        let db = self.open();
        let sql = "select name, text from lines where room = ? order by position";
        let mut lines = db.prepare(sql).unwrap();
        let lines = lines.query_map([room], |row| Ok((row.get(0)?, row.get(1)?)));
        lines.unwrap().map(Result::unwrap).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Ends a server as a crash does.
fn kill(mut server: Server) {
    server.program.signal("KILL");
    assert_eq!(server.program.exit(), -1);
}
