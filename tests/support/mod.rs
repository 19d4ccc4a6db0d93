//! What the tests share: here the real programs, started as a user would, and what they print; in
//! [`raw`] the network by hand, in [`proxy`] links that break, in [`session`] clients that come back, in
//! [`talk`] some to whom servers break, too, in [`window`] a terminal, in [`memory`] a connection without either, in
//! [`change`] inputs that are nearly right, in `tls` certificates.
//!
//! Nothing sleeps: each wait ends with the line, the byte or the end that it is for. [`PATIENCE`] is
//! its deadline, which only a broken program reaches, and then the test panics; each function
//! says whether all of its wait has that deadline or each line. Two waits have none: writing
//! to the standard input of a program that does not read it, when the pipe's 64 KiB are full, and
//! the end of a program that was killed.

#![allow(dead_code)] // each test file uses its part

pub mod change;
pub mod memory;
pub mod proxy;
pub mod raw;
pub mod session;
pub mod talk;
#[cfg(feature = "tls")]
pub mod tls;
pub mod window;

use std::collections::VecDeque;
use std::env;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::iter;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal as catch};

/// The deadline of a wait: far more than anything here takes on the slowest machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Does something that has no deadline of its own on a thread, and waits for it within
/// [`PATIENCE`]. When that is over, the thread is left alone and the test panics.
#[track_caller]
pub fn in_time<T>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T
where
    T: Send + 'static,
{
    let (done, result) = channel();
    thread::spawn(move || drop(done.send(work())));
    let result = result.recv_timeout(PATIENCE);
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Looks again and again whether something is so, within [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

/// Receives in the same way again after an interruption, which comes to a socket with a deadline also
/// without a signal that is caught (signal(7)).
pub fn uninterrupted<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match receive() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// Closes the end of a pipe that is read from. Waits until nobody else has it either.
#[track_caller]
pub fn close(reader: PipeReader) {
    let pipe = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let probe = File::options().write(true).open(pipe).unwrap();
    drop(reader);
    is_unread(probe);
}

/// Waits until nobody can read what is written to this pipe. A program that another test is just
/// starting may have a copy of the other end for a moment longer than we have.
#[track_caller]
pub fn is_unread(mut pipe: impl Write) {
    wait_until("nobody holds the pipe", || pipe.write_all(b"\n").is_err());
}

/// Bytes of resident memory that neither program comes near, attacked or not.
const SMALL: usize = 60 * 1024 * 1024;

/// Bytes of a flood: more than that, so whoever keeps all of it is found out.
pub const FLOOD: u64 = SMALL as u64 + 4 * 1024 * 1024;

/// A running program of this crate. Killed when dropped, if it has not ended by then.
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

    /// The same, not started yet.
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
        // Nor may tests meet on one port, so a server that is told none takes a free one.
        if name == "server" {
            command.env("CHAT_LISTEN", "127.0.0.1:0");
        }
        command
    }

    /// Starts it, its three ends on pipes. Waits for nothing.
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
        Self::spawn_from(command, Stdio::piped(), out, err)
    }

    /// The same with an input of the test's own.
    pub fn spawn_from(command: &mut Command, input: Stdio, out: Stdio, err: Stdio) -> Self {
        command.stdin(input).stdout(out).stderr(err);
        catch_hangup();
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

    /// A client of the server on this port. Waits until it says that it is connected.
    pub fn client(port: u16) -> Self {
        let mut client = Self::start("client", &[&format!("ws://127.0.0.1:{port}")]);
        client.is_connected();
        client
    }

    /// Waits for the next line of standard error, which says that the client is connected.
    #[track_caller]
    pub fn is_connected(&mut self) {
        let said = self.err_line();
        assert!(said.starts_with("client: connected to "), "{said}");
    }

    /// Waits for the next line of standard output.
    pub fn line(&mut self) -> String {
        let line = self.out.next();
        line.unwrap_or_else(|| panic!("no line on standard output: {:?}", self.err.rest().last()))
    }

    /// Waits for the next line of standard error.
    pub fn err_line(&mut self) -> String {
        self.err.next().expect("a line on standard error")
    }

    /// Waits for the end of standard output; everything else that comes there. The deadline is
    /// each line's.
    pub fn rest(&mut self) -> Vec<String> {
        self.out.rest()
    }

    /// The same of standard error.
    pub fn err_rest(&mut self) -> Vec<String> {
        self.err.rest()
    }

    /// Writes a line to standard input. Does not wait until it is read, unless the pipe is full.
    pub fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// Closes standard input: the program finds its end behind what was typed.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `INT`, `TERM`, `KILL`, … Does not wait for what it does.
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// It has never had much in memory.
    #[track_caller]
    pub fn is_small(&self) {
        let most = resident(self.id(), "VmHWM");
        assert!(most < SMALL, "{most} bytes");
    }

    /// Waits for the end of both outputs, with the deadline for each line, then for the end of the
    /// program, with another one. Returns the exit code (-1 for a signal). What it still prints
    /// is kept for `rest` and `err_rest`.
    #[track_caller]
    pub fn exit(&mut self) -> i32 {
        self.out.read_to_end();
        self.err.read_to_end();
        let process = WaitId::Pid(Pid::from_child(&self.child));
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        in_time("the end", move || waitid(process, ended)).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Under `nohup` the programs would ignore `HUP` as the tests do. What is caught here is at its
/// default again in a program that is started (execve(2)).
fn catch_hangup() {
    static CAUGHT: Once = Once::new();
    CAUGHT.call_once(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        drop(catch(SignalKind::hangup()).unwrap());
    });
}

/// Held while a program is started or a pseudo-terminal is opened: see [`window::terminal`].
fn starting() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a signal to a process, which must be there. Does not wait for what it does.
pub fn signal(id: u32, name: &str) {
    assert!(try_signal(id, name), "no process {id}");
}

/// The same; returns whether there was a process to send it to.
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

    /// Starts a server there, and waits until it listens.
    pub fn serve(&self) -> Server {
        let listen = format!("127.0.0.1:{}", self.number);
        Server::spawn(Program::command("server").args(["--listen", &listen]))
    }
}

/// A server on a free port, which listens.
pub struct Server {
    pub program: Program,
    pub port: u16,
}

impl Server {
    /// Starts it, and waits until it says that it listens.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with these flags.
    pub fn with(args: &[&str]) -> Self {
        Self::spawn(Program::command("server").args(args))
    }

    /// The same of a command that names the port to listen on.
    pub fn spawn(command: &mut Command) -> Self {
        Self::of(Program::spawn(command))
    }

    /// A server that was started. Waits until it says that it listens.
    pub fn of(mut program: Program) -> Self {
        let line = program.line();
        let port = line.strip_prefix("listening on port ").expect(&line);
        let port = port.parse().expect(&line);
        Self { program, port }
    }

    /// A server whose standard output nobody reads: the pipe behind the first line is the test's.
    /// Waits for that line.
    pub fn unread(err: Stdio) -> (Self, PipeReader) {
        Self::unread_as(Program::command("server"), err)
    }

    /// The same of a command that names the port to listen on.
    pub fn unread_as(mut command: Command, err: Stdio) -> (Self, PipeReader) {
        let (mut pipe, out) = io::pipe().unwrap();
        let program = Program::spawn_on(&mut command, out.into(), err);
        // It keeps a copy of the end that is written to; without it, a server that fails is noticed.
        drop(command);
        let (line, pipe) = in_time("the first line", move || {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                let mut byte = [0];
                pipe.read_exact(&mut byte).unwrap();
                line.extend(byte);
            }
            (String::from_utf8(line).unwrap(), pipe)
        });
        let port = line.strip_prefix("listening on port ").expect(&line);
        let port = port.trim_end().parse().expect(&line);
        (Self { program, port }, pipe)
    }

    /// Waits for the next line of standard output.
    pub fn line(&mut self) -> String {
        self.program.line()
    }

    /// Waits for the line `last` on standard output, and returns what came before. The deadline is
    /// each line's.
    pub fn lines_to(&mut self, last: &str) -> Vec<String> {
        iter::repeat_with(|| self.line())
            .take_while(|line| line != last)
            .collect()
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Waits for the next line of standard output; the name of the client that it says has joined.
    pub fn joined(&mut self) -> String {
        let line = self.line();
        let name = line.strip_prefix("New connection from ");
        name.expect(&line).to_owned()
    }

    /// Does something while the server stands still, and has it find all of it at once. Waits until
    /// it stands still, not until it goes on.
    pub fn while_stopped(&self, act: impl FnOnce()) {
        self.program.signal("STOP");
        wait_until("it stands still", || is_stopped(self.program.id()));
        act();
        self.program.signal("CONT");
    }

    /// Starts a client, and waits until it says that it is connected and the server that it has
    /// joined. Returns it with its name.
    pub fn join(&mut self) -> (Program, String) {
        self.join_with(&[])
    }

    /// The same with these flags.
    pub fn join_with(&mut self, args: &[&str]) -> (Program, String) {
        let mut client = Program::start("client", &[&[&*self.url()], args].concat());
        client.is_connected();
        (client, self.joined())
    }

    /// Asks the server to stop, and waits for its normal end as [`Program::exit`] does.
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

/// A path in the temporary folder that nothing else of this run has.
fn own_path(kind: &str) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("chat-{kind}-{}-{number}", std::process::id()))
}

/// Makes an empty folder. Whoever has it removes it.
pub fn empty_folder(kind: &str) -> PathBuf {
    let path = own_path(kind);
    // A run that was killed may have left one of that name.
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).unwrap();
    path
}

/// A file that only its owner can read, until it is dropped.
pub struct Secret {
    pub path: PathBuf,
}

impl Secret {
    /// With this in it. What the tests write into it is not secret.
    pub fn with(content: impl AsRef<[u8]>) -> Self {
        let secret = Self {
            path: own_path("secret"),
        };
        secret.write(content);
        secret
    }

    /// With this in it from now on, all at once, as a careful editor does it.
    pub fn write(&self, content: impl AsRef<[u8]>) {
        let new = self.path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, &self.path).unwrap();
    }

    /// Sets who can read it.
    pub fn chmod(&self, mode: u32) {
        fs::set_permissions(&self.path, Permissions::from_mode(mode)).unwrap();
    }

    /// As an argument.
    pub fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A server with flags that it either understands or refuses: `None` when it has ended with 2 and
/// a line that has these words in it. Waits until it listens or has ended.
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

/// Whether a process stands still because of a signal: the field behind its name in parentheses.
fn is_stopped(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    status.rsplit_once(") ").unwrap().1.starts_with('T')
}

/// How many descriptors a process has open.
pub fn descriptors(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// The lines of one end of a program, read on a thread so that it never has to wait for us. We wait
/// for each line, or the end behind the last, within [`PATIENCE`].
pub struct Lines {
    coming: Receiver<String>,
    kept: VecDeque<String>,
}

impl Lines {
    /// All of them.
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

    /// Waits for the next line; `None` at the end.
    pub fn next(&mut self) -> Option<String> {
        self.kept.pop_front().or_else(|| self.receive())
    }

    /// The next line if it is there already. Waits for nothing.
    pub fn try_next(&mut self) -> Option<String> {
        self.kept
            .pop_front()
            .or_else(|| self.coming.try_recv().ok())
    }

    /// Waits for the end; all lines to there. The deadline is each line's.
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
