//! The real programs, started as a user would, and what they print. Every wait has a deadline
//! that only a broken program reaches; nothing sleeps.

#![allow(dead_code)] // each test file uses its part

pub mod memory;
pub mod raw;
pub mod window;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::iter;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Far more than anything here takes on the slowest machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Bytes of resident memory that neither program comes near, attacked or not.
const SMALL: usize = 60 * 1024 * 1024;

/// Bytes of a flood: more than that, so whoever keeps all of it is found out.
pub const FLOOD: u64 = SMALL as u64 + 4 * 1024 * 1024;

/// A running program of this crate. Ended when dropped.
pub struct Program {
    child: Child,
    pub input: Option<ChildStdin>,
    pub out: Lines,
    pub err: Lines,
}

impl Program {
    /// `server` or `client` with arguments, its three ends on pipes.
    pub fn start(name: &str, args: &[&str]) -> Self {
        Self::spawn(Self::command(name).args(args))
    }

    pub fn command(name: &str) -> Command {
        let path = match name {
            "server" => env!("CARGO_BIN_EXE_server"),
            "client" => env!("CARGO_BIN_EXE_client"),
            _ => panic!("no program {name}"),
        };
        let mut command = Command::new(path);
        // What the developer has set must not change what is tested.
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("CHAT_")) {
            command.env_remove(variable);
        }
        command
    }

    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_on(command, Stdio::piped(), Stdio::piped())
    }

    /// Its standard output goes somewhere else than to `out`, which is empty then.
    pub fn spawn_into(command: &mut Command, output: impl Into<Stdio>) -> Self {
        let program = Self::spawn_on(command, output.into(), Stdio::piped());
        // Our copy of the other end would keep its reader from seeing the end.
        command.stdout(Stdio::null());
        program
    }

    /// With outputs of the test's own; `out` and `err` read those that are piped.
    pub fn spawn_on(command: &mut Command, out: Stdio, err: Stdio) -> Self {
        command.stdin(Stdio::piped()).stdout(out).stderr(err);
        let mut child = {
            let _alone = starting();
            command.spawn().unwrap()
        };
        let input = child.stdin.take();
        let out = child.stdout.take().map_or_else(Lines::none, Lines::of);
        let err = child.stderr.take().map_or_else(Lines::none, Lines::of);
        Self {
            child,
            input,
            out,
            err,
        }
    }

    /// A client that is connected: it has said so.
    pub fn client(port: u16) -> Self {
        let mut client = Self::start("client", &[&format!("ws://127.0.0.1:{port}")]);
        client.is_connected();
        client
    }

    /// A client says on standard error that it is connected, and nothing before that.
    #[track_caller]
    pub fn is_connected(&mut self) {
        let said = self.err_line();
        assert!(said.starts_with("client: connected to "), "{said}");
    }

    /// The next line of standard output.
    pub fn line(&mut self) -> String {
        let line = self.out.next();
        line.unwrap_or_else(|| panic!("no line on standard output: {:?}", self.err.rest().last()))
    }

    /// The next line of standard error.
    pub fn err_line(&mut self) -> String {
        self.err.next().expect("a line on standard error")
    }

    /// Everything else that comes on standard output, to its end.
    pub fn rest(&mut self) -> Vec<String> {
        self.out.rest()
    }

    /// Everything else that comes on standard error, to its end.
    pub fn err_rest(&mut self) -> Vec<String> {
        self.err.rest()
    }

    pub fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    pub fn end_input(&mut self) {
        self.input = None;
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `INT`, `TERM`, `KILL`, …
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// It has never had much in memory.
    #[track_caller]
    pub fn is_small(&self) {
        let most = resident(self.id(), "VmHWM");
        assert!(most < SMALL, "{most} bytes");
    }

    /// Waits for the end and returns the exit code (-1 for a signal). What it still prints is
    /// kept for `rest` and `err_rest`.
    pub fn exit(&mut self) -> i32 {
        self.out.read_to_end();
        self.err.read_to_end();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Held while a program is started or a pseudo-terminal is opened: see [`window::terminal`].
fn starting() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a signal to a process.
pub fn signal(id: u32, name: &str) {
    assert!(try_signal(id, name), "no process {id}");
}

/// Whether there was a process to send it to.
pub fn try_signal(id: u32, name: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{name}"), &id.to_string()]);
    kill.stderr(Stdio::null()).status().unwrap().success()
}

/// A port that nobody else is given while this lives. Nothing listens on it until a server does.
pub struct Port {
    pub number: u16,
    _held: Socket,
}

impl Port {
    pub fn hold() -> Self {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // As servers do, so that both may be bound at once: only one of them listens.
        held.set_reuse_address(true).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        held.bind(&any.into()).unwrap();
        let number = held.local_addr().unwrap().as_socket().unwrap().port();
        Self {
            number,
            _held: held,
        }
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.number)
    }

    /// Starts a server there.
    pub fn serve(&self) -> Server {
        let listen = format!("127.0.0.1:{}", self.number);
        Server::spawn(Program::command("server").args(["--listen", &listen]))
    }
}

/// A server on a free port.
pub struct Server {
    pub program: Program,
    pub port: u16,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(args: &[&str]) -> Self {
        Self::spawn(
            Program::command("server")
                .args(["--listen", "127.0.0.1:0"])
                .args(args),
        )
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut program = Program::spawn(command);
        let line = program.line();
        let port = line.strip_prefix("listening on port ").expect(&line);
        let port = port.parse().expect(&line);
        Self { program, port }
    }

    /// A server whose standard output nobody reads: the pipe behind the first line is the test's.
    pub fn unread(err: Stdio) -> (Self, PipeReader) {
        let (mut pipe, out) = io::pipe().unwrap();
        let mut command = Program::command("server");
        let program = Program::spawn_on(command.args(["--listen", "127.0.0.1:0"]), out.into(), err);
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            pipe.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        let line = String::from_utf8(line).unwrap();
        let port = line.strip_prefix("listening on port ").expect(&line);
        let port = port.trim_end().parse().expect(&line);
        (Self { program, port }, pipe)
    }

    pub fn line(&mut self) -> String {
        self.program.line()
    }

    /// Reads standard output to the line `last`, and returns what came before.
    pub fn lines_to(&mut self, last: &str) -> Vec<String> {
        iter::repeat_with(|| self.line())
            .take_while(|line| line != last)
            .collect()
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// The name of the client that joins next.
    pub fn joined(&mut self) -> String {
        let line = self.line();
        let name = line.strip_prefix("New connection from ");
        name.expect(&line).to_owned()
    }

    /// Does something while the server stands still, and has it find all of it at once.
    pub fn while_stopped(&self, act: impl FnOnce()) {
        self.program.signal("STOP");
        act();
        self.program.signal("CONT");
    }

    /// Starts a client and returns it with its name, once the server knows it.
    pub fn join(&mut self) -> (Program, String) {
        self.join_with(&[])
    }

    /// The same with these flags.
    pub fn join_with(&mut self, args: &[&str]) -> (Program, String) {
        let mut client = Program::start("client", &[&[&*self.url()], args].concat());
        client.is_connected();
        (client, self.joined())
    }

    /// Asks the server to stop, and waits for its normal end.
    #[track_caller]
    pub fn stop(&mut self) {
        self.program.signal("TERM");
        assert_eq!(self.program.exit(), 0);
    }

    /// The same; nothing more than what was read had to be said to the operator.
    #[track_caller]
    pub fn stop_in_silence(&mut self) {
        self.stop();
        assert_eq!(self.program.err_rest(), [""; 0]);
    }
}

/// A server with flags that it either understands or refuses: `None` when it has ended with 2 and
/// a line that has these words in it.
pub fn served_or_refused(command: &mut Command, words: &str) -> Option<Server> {
    let mut program = Program::spawn(command);
    if let Some(line) = program.out.next() {
        let port = line.strip_prefix("listening on port ").expect(&line);
        let port = port.parse().expect(&line);
        return Some(Server { program, port });
    }
    assert_eq!(program.exit(), 2);
    let said = program.err_rest();
    assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
    None
}

/// Bytes of memory that a process has resident (`VmRSS`), or had at most (`VmHWM`).
pub fn resident(id: u32, what: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.strip_prefix(':')?.strip_suffix("kB"));
    kib.unwrap().trim().parse::<usize>().unwrap() * 1024
}

/// How many descriptors a process has open.
pub fn descriptors(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// The lines of one end of a program, read on a thread so that it never has to wait for us.
pub struct Lines {
    coming: Receiver<String>,
    kept: VecDeque<String>,
}

impl Lines {
    pub fn of(end: impl Read + Send + 'static) -> Self {
        Self::first(usize::MAX, end)
    }

    /// Only the first so many lines; then the end is closed, before `next` says so.
    pub fn first(count: usize, end: impl Read + Send + 'static) -> Self {
        let (sender, coming) = channel();
        thread::spawn(move || {
            for line in BufReader::new(end).lines().take(count) {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            coming,
            kept: VecDeque::new(),
        }
    }

    /// No lines at all.
    pub fn none() -> Self {
        Self::of(io::empty())
    }

    /// The next line; `None` at the end.
    pub fn next(&mut self) -> Option<String> {
        self.kept.pop_front().or_else(|| self.receive())
    }

    /// The next line if it is there already.
    pub fn try_next(&mut self) -> Option<String> {
        self.kept
            .pop_front()
            .or_else(|| self.coming.try_recv().ok())
    }

    /// All lines to the end.
    pub fn rest(&mut self) -> Vec<String> {
        self.read_to_end();
        self.kept.drain(..).collect()
    }

    fn read_to_end(&mut self) {
        while let Some(line) = self.receive() {
            self.kept.push_back(line);
        }
    }

    fn receive(&mut self) -> Option<String> {
        match self.coming.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing was printed for {PATIENCE:?}"),
        }
    }
}
