//! A server that systemd starts: what it is told, and a socket that is there before the server and
//! after it. And the files of the package that has systemd do so.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::iter;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use chat_pair::server::flags::Server as Flags;
use clap::CommandFactory;

use crate::support::raw::Raw;
use crate::support::{PATIENCE, Port, Program, Server, empty_folder, uninterrupted, wait_until};

/// A folder that is gone when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(empty_folder("service"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where systemd would be told what the server does.
struct Manager {
    socket: UnixDatagram,
    folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.0.join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.0.join("notify")
    }

    /// A server that has been told of it, with these flags, not started yet.
    fn server(&self, args: &[&str]) -> Command {
        let mut command = Program::command("server");
        command.args(args).env("NOTIFY_SOCKET", self.path());
        command
    }

    /// Waits for what is told next.
    fn told(&self) -> String {
        told(&self.socket)
    }

    /// Waits for this, and passes over what comes before it. All of the wait has one deadline.
    #[track_caller]
    fn is_told(&self, state: &str) {
        wait_until(state, || self.told() == state);
    }

    /// Throws away what was told so far. Waits for nothing.
    fn forget(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// All that was told has been read, now that the server has ended.
    #[track_caller]
    fn was_told_nothing_else(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let error = self.socket.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// Waits for what is told next.
fn told(socket: &UnixDatagram) -> String {
    let mut state = [0; 256];
    let length = uninterrupted(|| socket.recv(&mut state)).unwrap();
    String::from_utf8(state[..length].to_vec()).unwrap()
}

/// A free port of this machine.
const FREE: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[test]
fn it_tells_when_it_is_ready_and_when_it_ends() {
    let manager = Manager::new();
    let port = Port::hold();
    let listen = format!("127.0.0.1:{}", port.number);
    // The watchdog is meant for another process.
    let mut command = manager.server(&["--listen", &listen]);
    let command = command
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1");
    let program = Program::spawn(command);
    assert_eq!(manager.told(), "READY=1");
    // It is: nobody has waited for its first line.
    let mut ann = Raw::join(port.number);
    let mut server = Server::of(program);
    server.program.signal("TERM");
    // Not at the end, but when it begins: a client is there yet.
    assert_eq!(manager.told(), "STOPPING=1");
    assert_eq!(ann.close().0, 1001);
    assert_eq!(server.program.exit(), 0);
    manager.was_told_nothing_else();
}

#[cfg(target_os = "linux")]
#[test]
fn a_manager_may_have_a_name_that_is_in_no_folder() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("chat-service-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Program::command("server");
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let mut server = Server::spawn(&mut command);
    assert_eq!(told(&socket), "READY=1");
    server.stop_in_silence();
    assert_eq!(told(&socket), "STOPPING=1");
}

#[test]
fn one_that_cannot_start_is_never_ready() {
    let manager = Manager::new();
    let mut command = manager.server(&["--token-file", "/nonexistent"]);
    let mut program = Program::spawn(&mut command);
    assert_eq!(program.exit(), 1);
    manager.was_told_nothing_else();
}

#[test]
fn it_shows_that_it_is_alive_until_it_has_ended() {
    let manager = Manager::new();
    let mut command = manager.server(&[]);
    let mut server = Server::spawn(command.env("WATCHDOG_USEC", "200000"));
    assert_eq!(manager.told(), "READY=1");
    for _ in 0..5 {
        assert_eq!(manager.told(), "WATCHDOG=1");
    }
    // Also while it ends, for as long as somebody has to be waited for.
    let silent = Raw::join(server.port);
    // The system keeps ten of what nobody has read, which is a second's worth, and the server does not say again
    // that it ends. So there is room for it: a server that stands still fills it with nothing else.
    server.while_stopped(|| {
        manager.forget();
        server.program.signal("TERM");
    });
    manager.is_told("STOPPING=1");
    assert_eq!(manager.told(), "WATCHDOG=1");
    drop(silent);
    assert_eq!(server.program.exit(), 0);
}

/// The chat does not wait for it, either when there is none at all.
#[test]
fn a_manager_that_does_not_read_holds_up_nobody() {
    let manager = Manager::new();
    let fill = UnixDatagram::unbound().unwrap();
    fill.set_nonblocking(true).unwrap();
    while fill.send_to(b"X=1", manager.path()).is_ok() {}
    let gone = manager.folder.0.join("gone");
    let reasons = [
        (manager.path(), "resource temporarily unavailable"),
        (gone, "no such file or directory"),
    ];
    for (path, why) in reasons {
        let mut command = manager.server(&[]);
        let command = command.env("NOTIFY_SOCKET", &path);
        let mut server = Server::spawn(command.env("WATCHDOG_USEC", "1000"));
        let (mut ann, mut bob) = (Raw::join(server.port), Raw::join(server.port));
        for n in 0..1000 {
            ann.say(&n.to_string());
            assert_eq!(bob.text(), format!("{}: {n}", ann.name()));
        }
        if path == manager.path() {
            // When it reads again it learns that the server is ready: else it would end it some day.
            manager.is_told("READY=1");
        }
        drop((ann, bob));
        server.stop();
        let path = path.display();
        assert_eq!(
            server.program.err_rest(),
            [format!(
                "server: cannot tell the service manager at {path} that the server is ready: {why} (trying again)"
            )]
        );
    }
}

/// Starts a server as systemd does that passes it sockets: `count` of them, of which the first is at
/// descriptor 3, and meant for the process `id`, `$$` being the server itself.
fn activate(socket: impl Into<OwnedFd>, count: usize, id: &str, args: &[&str]) -> Program {
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3<&0 4<&0 </dev/null; export LISTEN_FDS={count} LISTEN_PID={id}; exec \"$@\""
    );
    let server = Program::command("server");
    command
        .args(["-c", &script, "sh"])
        .arg(server.get_program());
    for (name, _) in server.get_envs() {
        command.env_remove(name);
    }
    command.args(args);
    let socket = Stdio::from(socket.into());
    Program::spawn_from(&mut command, socket, Stdio::piped(), Stdio::piped())
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_restart_refuses_nobody_who_connects_meanwhile() {
    const ROUNDS: usize = 5;
    const CROWD: usize = 10;
    let (socket, port) = listener();
    let start = || Server::of(activate(socket.try_clone().unwrap(), 1, "$$", &[]));
    let (is_in, are_in) = channel();
    // Some who have asked by now. Each is let in, and told when the server it has come to ends.
    let some = || {
        let one = || {
            let (mut raw, is_in) = (Raw::asking(port), is_in.clone());
            thread::spawn(move || {
                raw.is_let_in("it asked while the server was started anew");
                is_in.send(()).unwrap();
                assert_eq!(raw.close().0, 1001);
            })
        };
        iter::repeat_with(one).take(CROWD).collect::<Vec<_>>()
    };
    let mut server = start();
    let mut crowd = Vec::new();
    for _ in 0..ROUNDS {
        assert_eq!(server.port, port);
        let mut ann = Raw::join(port);
        // They ask when the server does not know yet that it is to stop, and it learns of both at
        // once; …
        server.while_stopped(|| {
            crowd.extend(some());
            server.program.signal("TERM");
        });
        // … while it says goodbye; …
        crowd.extend(some());
        assert_eq!(ann.close().0, 1001);
        crowd.extend(some());
        assert_eq!(server.program.exit(), 0);
        // … and when there is none.
        crowd.extend(some());
        server = start();
        for _ in 0..4 * CROWD {
            are_in.recv_timeout(PATIENCE).unwrap();
        }
    }
    server.stop_in_silence();
    for one in crowd {
        one.join().unwrap();
    }
}

#[test]
fn a_flag_that_is_for_nothing_is_named() {
    let (socket, port) = listener();
    let mut server = Server::of(activate(socket, 1, "$$", &FREE));
    assert_eq!(server.port, port);
    server.stop();
    assert_eq!(
        server.program.err_rest(),
        [
            "server: --listen 127.0.0.1:0 is ignored: a service manager has passed a socket that \
             listens (LISTEN_FDS)"
        ]
    );
}

#[test]
fn a_socket_that_is_meant_for_another_process_is_left_alone() {
    let (socket, port) = listener();
    let mut server = Server::of(activate(socket, 1, "1", &FREE));
    assert_ne!(server.port, port);
    server.stop_in_silence();
}

#[test]
fn it_listens_on_one_tcp_socket_and_says_so_of_anything_else() {
    const WRONG: &str = "server: what was passed (LISTEN_FDS) is no socket that listens for TCP: the \
        unit of the socket needs ListenStream=PORT or ADDRESS:PORT, and Accept=no";
    let (socket, port) = listener();
    let folder = Folder::new();
    let unix = UnixListener::bind(folder.0.join("socket")).unwrap();
    let wrong: [OwnedFd; 4] = [
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        unix.into(),
        File::open("/dev/null").unwrap().into(),
        TcpStream::connect(("127.0.0.1", port)).unwrap().into(),
    ];
    for socket in wrong {
        let mut program = activate(socket, 1, "$$", &[]);
        assert_eq!(program.exit(), 1);
        assert_eq!(program.err_rest(), [WRONG]);
    }
    let mut program = activate(socket, 2, "$$", &[]);
    assert_eq!(program.exit(), 1);
    let why = "server: 2 sockets were passed (LISTEN_FDS), and the server listens on one: name one \
        ListenStream= in the unit of the socket";
    assert_eq!(program.err_rest(), [why]);
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn packaged(file: &str) -> String {
    fs::read_to_string(format!("{ROOT}/packaging/{file}")).unwrap()
}

#[test]
fn the_package_has_the_version_and_names_each_variable() {
    let version = env!("CARGO_PKG_VERSION");
    let first = format!("chat-pair ({version}-1) ");
    assert!(packaged("debian/changelog").starts_with(&first));
    let changes = fs::read_to_string(format!("{ROOT}/CHANGELOG.md")).unwrap();
    assert!(changes.contains(&format!("\n## {version} - ")));
    let defaults = packaged("default");
    for flag in Flags::command().get_arguments() {
        let Some(variable) = flag.get_env() else {
            continue;
        };
        let variable = variable.to_str().unwrap();
        // Where it listens is what the unit of the socket says.
        if variable == "CHAT_LISTEN" {
            continue;
        }
        // Those are told of in words.
        let told = [
            "TOKEN_FILE",
            "TLS_CERT",
            "TLS_KEY",
            "NATS",
            "NATS_STREAM",
            "NATS_CREDS",
        ];
        let is_told = told.iter().any(|name| variable == format!("CHAT_{name}"));
        assert!(defaults.contains(variable), "{variable}");
        assert_eq!(
            !is_told,
            defaults.contains(&format!("\n#{variable}=")),
            "{variable}"
        );
    }
}

/// Where systemd is installed, it finds nothing to say about the units, and hardly anything that the
/// server could do to the machine: at most 1.5 of 10.
#[test]
#[allow(clippy::print_stderr)] // that it was left out
fn the_units_are_sound_and_expose_little() {
    let folder = Folder::new();
    let service = folder.0.join("chat-pair.service");
    let unit = packaged("chat-pair.service");
    let server = env!("CARGO_BIN_EXE_server");
    let here = unit.replace(
        "ExecStart=/usr/bin/chat-server",
        &format!("ExecStart={server}"),
    );
    assert_ne!(here, unit);
    fs::write(&service, here).unwrap();
    fs::write(
        folder.0.join("chat-pair.socket"),
        packaged("chat-pair.socket"),
    )
    .unwrap();
    let analyze = |words: &[&str]| {
        Command::new("systemd-analyze")
            .args(words)
            .arg(&service)
            .output()
    };
    let verified = match analyze(&["verify", "--man=no"]) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return eprintln!("left out: there is no systemd-analyze here");
        }
        verified => verified.unwrap(),
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    let exposure = analyze(&["security", "--offline=yes", "--threshold=15", "--no-pager"]).unwrap();
    let said = String::from_utf8_lossy(&exposure.stdout);
    assert!(exposure.status.success(), "{said}");
}
