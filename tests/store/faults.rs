//! Files that cannot be used: each is refused in one line. And disks that become full while the
//! server runs: nobody is told that something was taken which is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, geteuid, prlimit};

use crate::support::raw::{FIN, PING, PONG, Raw, health};
use crate::support::{Program, Server, in_time, resident};
use crate::{ANA, Client, Folder, is_taken};

/// The server does not start, and says why in one line about this file.
#[track_caller]
fn refused(command: &mut Command, file: &str, why: &str) {
    let mut program = Program::spawn(command);
    assert_eq!(program.exit(), 1);
    let said = program.err_rest();
    let expected = format!("server: cannot use {file} as a store: {why}");
    assert_eq!((program.rest(), said), (vec![], vec![expected]));
}

#[track_caller]
fn is_refused(folder: &Folder, why: &str) {
    refused(&mut folder.command(), folder.file().to_str().unwrap(), why);
}

#[test]
fn a_file_that_another_server_has_is_refused() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let why = "another server has it; give each its own";
    is_refused(&folder, why);
    // By another name, too.
    let link = folder.path.join("link.db");
    std::os::unix::fs::symlink(folder.file(), &link).unwrap();
    let mut command = Program::command("server");
    command.arg("--store").arg(&link);
    refused(&mut command, link.to_str().unwrap(), why);
    fs::remove_file(&link).unwrap();
    fs::hard_link(folder.file(), &link).unwrap();
    refused(&mut command, link.to_str().unwrap(), why);
    // Everybody else can read, and write.
    let mut bob = Raw::enter(server.port, "/?name=bob");
    bob.say("one");
    is_taken(&mut bob);
    assert_eq!(folder.lines("").len(), 1);
    let db = Connection::open(folder.file()).unwrap();
    db.execute("update lines set text = 'two'", []).unwrap();
    bob.say("three");
    is_taken(&mut bob);
    drop(db);
    refused(&mut command, link.to_str().unwrap(), why);
    server.stop_in_silence();
    // What is not in the file itself yet after a crash belongs to one of its names only.
    is_refused(
        &folder,
        "it has two names (hard links), and may have one only; remove the other",
    );
    fs::remove_file(&link).unwrap();
    folder.serve().stop_in_silence();
    let texts: Vec<_> = folder.lines("").into_iter().map(|line| line.1).collect();
    assert_eq!(texts, ["two", "three"]);
}

#[test]
fn what_is_no_store_is_refused() {
    let folder = Folder::new();
    fs::write(
        folder.file(),
        "This is a letter, and no database at all. ".repeat(100),
    )
    .unwrap();
    is_refused(&folder, "it is not a database");
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 1);
    fs::remove_file(folder.file()).unwrap();
    let db = Connection::open(folder.file()).unwrap();
    db.execute_batch("create table cats (name text)").unwrap();
    is_refused(
        &folder,
        "it is the database of another program; name another file",
    );
    drop(db);
    // It was not touched.
    let db = Connection::open(folder.file()).unwrap();
    db.execute_batch("insert into cats values ('tom')").unwrap();
    let folder = Folder::new();
    fs::create_dir(folder.file()).unwrap();
    is_refused(&folder, "is a directory");
    let folder = Folder::new();
    let file = folder.path.join("nowhere/chat.db");
    let mut command = Program::command("server");
    command.arg("--store").arg(&file);
    refused(
        &mut command,
        file.to_str().unwrap(),
        "no such file or directory",
    );
}

#[test]
fn a_file_of_one_byte_is_not_written_over() {
    let folder = Folder::new();
    fs::write(folder.file(), "1").unwrap();
    is_refused(&folder, "it is not a database");
    assert_eq!(fs::read(folder.file()).unwrap(), b"1");
    // One of none is a new store.
    fs::write(folder.file(), "").unwrap();
    folder.serve().stop_in_silence();
}

#[test]
fn a_schema_that_is_not_known_is_refused() {
    let newer = "it was written by a newer server; use that one, or another file";
    let damaged = "it is damaged; put a copy of it back, or name another file";
    for (change, why) in [
        ("pragma user_version = 2", newer),
        ("pragma user_version = 0", damaged),
        ("pragma user_version = -1", damaged),
        ("drop table sessions", damaged),
        ("alter table lines drop column name", damaged),
        (
            "drop table lines; drop table rooms; drop table sessions; drop table store",
            damaged,
        ),
    ] {
        let folder = Folder::new();
        folder.serve().stop_in_silence();
        let db = Connection::open(folder.file()).unwrap();
        db.execute_batch(change).unwrap();
        drop(db);
        is_refused(&folder, why);
    }
    let folder = Folder::new();
    folder.serve().stop_in_silence();
    let db = Connection::open(folder.file()).unwrap();
    db.execute("delete from store", []).unwrap();
    drop(db);
    is_refused(&folder, "it is damaged");
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let folder = Folder::new();
    folder.serve().stop_in_silence();
    fs::set_permissions(folder.file(), Permissions::from_mode(0o444)).unwrap();
    let mut command = folder.command();
    if geteuid().is_root() {
        // Who is root can write everywhere.
        command.uid(65534);
    }
    let file = folder.file();
    refused(&mut command, file.to_str().unwrap(), "permission denied");
}

/// Damages each page of the file that has one of these texts in it: its head, so that nothing is found
/// there any more.
fn damage(folder: &Folder, texts: &[&str]) {
    const PAGE: usize = 4096;
    // Nothing is left in the log beside it, nor of what was moved from page to page.
    let db = Connection::open(folder.file()).unwrap();
    db.execute_batch("vacuum").unwrap();
    let log = "pragma wal_checkpoint(truncate)";
    let busy: i64 = db.query_row(log, [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
    drop(db);
    let mut bytes = fs::read(folder.file()).unwrap();
    for text in texts {
        let found = bytes
            .windows(text.len())
            .position(|bytes| bytes == text.as_bytes());
        let page = found.expect("it is stored") / PAGE * PAGE;
        bytes[page..page + 8].fill(0xff);
    }
    fs::write(folder.file(), bytes).unwrap();
}

#[test]
fn who_reads_what_is_damaged_misses_it_and_the_operator_is_told_once() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let mut eve = Raw::enter(server.port, "/?name=eve");
    let ana = Client::enter(server.port, &format!("/rust?session={ANA}"));
    let back = format!("/rust?session={ANA}{}", ana.after());
    let mut bob = Raw::enter(server.port, "/rust?name=bob");
    // Far more than a page in each room.
    for n in 0..100 {
        eve.say(&format!("eve {n}: {}", "x".repeat(300)));
        bob.say(&format!("bob {n}: {}", "x".repeat(300)));
    }
    is_taken(&mut eve);
    is_taken(&mut bob);
    server.stop();
    damage(&folder, &["eve 0: ", "bob 50: "]);
    let mut server = folder.serve();
    let mut bob = Raw::enter(server.port, "/rust?name=bob");
    for _ in 0..3 {
        let mut ana = Client::enter(server.port, &back);
        assert_eq!(ana.hear(), "* some messages missed");
        // The server goes on.
        bob.say("new");
        is_taken(&mut bob);
        assert_eq!(ana.hear(), "bob: new");
        // Of this room it cannot be known where it begins.
        assert_eq!(Raw::asking_for(server.port, "/").refusal().0, 503);
    }
    server.stop();
    let said = server.program.err_rest();
    let file = folder.file();
    let told = format!("cannot read lines from {}: it is damaged", file.display());
    assert_eq!(
        said.iter().filter(|line| line.ends_with(&told)).count(),
        1,
        "{said:?}"
    );
}

/// Lets no file of a process grow beyond so many bytes, as if the disk were full.
fn allow(server: &Server, bytes: Option<u64>) {
    let id = Pid::from_raw(server.program.id().cast_signed());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(id, Resource::Fsize, limit).unwrap();
}

const WAITING: &str = "* the chat cannot be stored for now: lines are kept, and sent later";
const GOES_ON: &str = "* the chat goes on";

#[test]
fn when_the_disk_is_full_those_who_speak_wait_and_it_goes_on() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let port = server.port;
    let mut ana = Client::enter(port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(port, "/?name=bob");
    ana.say("before");
    assert_eq!(bob.text(), "ana: before");
    for _ in 0..2 {
        allow(&server, Some(0));
        ana.raw.say("during");
        ana.raw.send_frame(FIN | PING, b"taken?");
        // Nobody hears the line, and there is no pong: this is the first that both get.
        assert_eq!(bob.text(), WAITING);
        let (kind, payload) = ana.raw.frame().unwrap();
        assert_eq!((kind & 0xf, &*payload), (1, WAITING.as_bytes()));
        let said = server.program.err_line();
        let file = folder.file();
        let start = format!("server: cannot store lines in {}: ", file.display());
        assert!(said.starts_with(&start), "{said}");
        assert!(
            said.ends_with(" (trying again; who speaks waits)"),
            "{said}"
        );
        // Whoever watches the server sees it, too.
        assert_eq!(
            health(port),
            (503, "the store cannot be used for now".to_owned())
        );
        server.program.signal("USR1");
        let told = server.program.err_line();
        let why = said.strip_prefix("server: ").unwrap();
        let why = why
            .strip_suffix(" (trying again; who speaks waits)")
            .unwrap();
        assert!(told.ends_with(&format!("; trouble: {why}")), "{told}");
        // Whoever comes can hear, and another room is not held up until somebody speaks there.
        let mut eve = Raw::enter(port, "/?name=eve");
        assert_eq!(eve.text(), WAITING);
        let other = Client::enter(port, &format!("/other?session={ANA}"));
        assert_eq!(other.taken, 0);
        let stored = folder.lines("").len();
        allow(&server, None);
        for hearer in [&mut bob, &mut eve] {
            assert_eq!(hearer.text(), "ana: during");
            assert_eq!(hearer.text(), GOES_ON);
        }
        // Its own notice may come on either side of its pong.
        let mut first = ana.raw.frame().unwrap();
        if first.0 & 0xf == PONG {
            first = ana.raw.frame().unwrap();
        } else {
            assert_eq!(ana.raw.frame().unwrap().0 & 0xf, PONG);
        }
        assert_eq!(first.1, GOES_ON.as_bytes());
        assert_eq!(folder.lines("").len(), stored + 1);
        let said = server.program.err_line();
        assert!(said.ends_with("chat.db: lines are stored again"), "{said}");
        assert_eq!(health(port), (200, "ok".to_owned()));
    }
    server.stop_in_silence();
}

/// For each line, the text for the log is hundreds of times what was sent.
#[test]
fn messages_of_empty_lines_take_little_memory() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let name = "%F0%90%90%80".repeat(32);
    let target = format!("/{}?name={name}", "r".repeat(64));
    let mut ana = Raw::enter(server.port, &target);
    ana.say("warm");
    is_taken(&mut ana);
    let before = resident(server.program.id(), "VmHWM");
    for _ in 0..4 {
        ana.say(&"\n".repeat(16 * 1024 - 1));
    }
    is_taken(&mut ana);
    let more = resident(server.program.id(), "VmHWM") - before;
    // SQLite has some of it, and the room's window.
    assert!(more < 8 * 1024 * 1024, "{more} bytes");
    server.stop();
}

/// Whether its last lines were taken cannot be known then, so it is told to come later, and at once.
#[test]
fn who_comes_back_while_its_lines_cannot_be_stored_is_refused_and_its_old_connection_goes_on() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let target = format!("/?session={ANA}&name=ana");
    let mut ana = Client::enter(server.port, &target);
    let mut bob = Raw::enter(server.port, "/?name=bob");
    ana.say("before");
    assert_eq!(bob.text(), "ana: before");
    allow(&server, Some(0));
    ana.raw.say("during");
    assert_eq!((bob.text(), ana.hear()), (WAITING.into(), WAITING.into()));
    server.program.err_line();
    let (status, why) = Raw::asking_for(server.port, &target).refusal();
    let expected = "what was said in this room cannot be read or stored now: try again later";
    assert_eq!((status, &*why), (503, expected));
    // Its old connection is listened to as before.
    ana.raw.say("more");
    allow(&server, None);
    assert_eq!(bob.text(), "ana: during");
    // Either may be first.
    let mut said = [bob.text(), bob.text()];
    said.sort();
    assert_eq!(said, [GOES_ON, "ana: more"]);
    is_taken(&mut ana.raw);
    let ana = Client::enter(server.port, &target);
    assert_eq!(ana.taken, 3);
    server.stop();
}

/// What is stored in a file that has no name any more is gone with the server.
#[test]
fn when_a_file_was_renamed_nothing_is_confirmed_until_it_is_back() {
    for name in ["chat.db", "chat.db-wal"] {
        let folder = Folder::new();
        let mut server = folder.serve();
        let mut bob = Raw::enter(server.port, "/?name=bob");
        let (file, away) = (folder.path.join(name), folder.path.join("away"));
        fs::rename(&file, &away).unwrap();
        bob.say("during");
        assert_eq!(bob.text(), WAITING);
        let shown = folder.file();
        let why = "it, or FILE-wal, was removed or renamed: put it back, or start the server anew";
        let said = format!("server: cannot store lines in {}: {why}", shown.display());
        let said = format!("{said} (trying again; who speaks waits)");
        assert_eq!(server.program.err_line(), said);
        fs::rename(&away, &file).unwrap();
        is_taken(&mut bob);
        assert_eq!(folder.lines(""), [("bob".to_owned(), "during".to_owned())]);
        server.stop();
    }
}

/// Another file in its place is not the same one.
#[test]
fn when_the_file_was_replaced_nothing_is_confirmed() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let mut bob = Raw::enter(server.port, "/?name=bob");
    fs::rename(folder.file(), folder.path.join("away")).unwrap();
    fs::write(folder.file(), "").unwrap();
    bob.say("during");
    assert_eq!(bob.text(), WAITING);
    server.stop();
}

#[test]
fn a_server_that_cannot_store_stops_all_the_same() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let mut ana = Client::enter(server.port, &format!("/?session={ANA}&name=ana"));
    let mut bob = Raw::enter(server.port, "/?name=bob");
    ana.say("before");
    assert_eq!(bob.text(), "ana: before");
    allow(&server, Some(0));
    bob.say("during");
    assert_eq!(ana.hear(), WAITING);
    server.program.signal("TERM");
    // Nothing was confirmed, and everybody is told that it is over.
    assert_eq!(bob.text(), WAITING);
    assert_eq!(bob.close().0, 1001);
    assert_eq!(ana.raw.close().0, 1001);
    assert_eq!(server.program.exit(), 0);
    assert_eq!(folder.lines(""), [("ana".to_owned(), "before".to_owned())]);
    // What was not confirmed is said again.
    let server = folder.serve();
    let mut bob = Raw::enter(server.port, "/?name=bob");
    bob.say("again");
    is_taken(&mut bob);
    assert_eq!(folder.lines("").len(), 2);
}

/// Everybody who comes is refused then, so whoever watches the server has to hear of it.
#[test]
fn a_store_that_cannot_be_read_is_no_secret() {
    let folder = Folder::new();
    let mut server = folder.serve();
    let port = server.port;
    let db = Connection::open(folder.file()).unwrap();
    // Each becomes so a moment after somebody was answered.
    let becomes = |status, why: &'static str| {
        let expected = (status, why.to_owned());
        in_time("the health", move || while health(port) != expected {});
    };
    for _ in 0..2 {
        db.execute_batch("alter table rooms rename to gone")
            .unwrap();
        assert_eq!(Raw::asking_for(port, "/").refusal().0, 503);
        becomes(503, "the store cannot be used for now");
        server.program.signal("USR1");
        let why = format!(
            "; trouble: cannot read lines from {}: ",
            folder.file().display()
        );
        while !server.program.err_line().contains(&why) {}
        db.execute_batch("alter table gone rename to rooms")
            .unwrap();
        // Also if nobody comes, since nobody may be sent to a server that is not well.
        becomes(200, "ok");
        drop(Raw::enter(port, "/?name=bob"));
    }
    server.stop();
}
