//! A program in a real pseudo-terminal, and an emulator that says what a person would see in it.
//! The program's output is fed to the emulator while something is waited for, so a wait ends with
//! the byte that fulfils it. All of such a wait has [`PATIENCE`] as its deadline, and then the test
//! panics with what the screen shows. Nothing here waits for keys to be read, or for a signal to
//! be heeded.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use portable_pty::{CommandBuilder, MasterPty, PtyPair, PtySize, SlavePty, native_pty_system};
use rustix::fs::{Mode, OFlags};
use rustix::termios::Action;
use unicode_width::UnicodeWidthChar;

use super::{PATIENCE, Program, Server, signal, starting, try_signal};

/// Rows that have left the screen at its top and can be seen again.
const SCROLLBACK: usize = 10_000;

/// A terminal with a program in it, which is killed when this is dropped.
pub struct Window {
    pty: Box<dyn MasterPty + Send>,
    /// Kept open, so that the modes can be read after the program's end.
    _slave: Box<dyn SlavePty + Send>,
    keyboard: Sender<Vec<u8>>,
    output: Receiver<Vec<u8>>,
    id: u32,
    ending: Receiver<i32>,
    ended: bool,
    emulator: vt100::Parser,
    /// Everything that the program wrote and that was waited for so far.
    pub bytes: Vec<u8>,
    modes_before: String,
}

/// `client` with arguments, as it would be started in a terminal that has colours.
pub fn client(args: &[&str]) -> CommandBuilder {
    let mut command = CommandBuilder::new(Program::command("client").get_program());
    command.args(args);
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("CHAT_")) {
        command.env_remove(variable);
    }
    command.env_remove("NO_COLOR");
    command.env("TERM", "xterm-256color");
    command
}

/// A pseudo-terminal with nothing in it. No program is started meanwhile: the library keeps the
/// terminal's two ends from other programs only after they are open, and a terminal that
/// somebody else has inherited would not hang up when it is closed.
pub fn terminal(columns: u16, rows: u16) -> PtyPair {
    let _alone = starting();
    native_pty_system().openpty(size(columns, rows)).unwrap()
}

impl Window {
    /// Starts a program in a terminal of this size. Waits for nothing.
    pub fn run(command: CommandBuilder, columns: u16, rows: u16) -> Self {
        let pair = terminal(columns, rows);
        let modes_before = modes(&*pair.master);
        let mut child = pair.slave.spawn_command(command).unwrap();
        let id = child.process_id().unwrap();
        let (end, ending) = channel();
        thread::spawn(move || {
            let status = child.wait().unwrap();
            let code = i32::try_from(status.exit_code()).unwrap();
            let _ = end.send(if status.signal().is_some() { -1 } else { code });
        });
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        // A terminal takes no more keys than it has room for; the test goes on meanwhile.
        let mut writer = pair.master.take_writer().unwrap();
        let (keyboard, keys) = channel::<Vec<u8>>();
        thread::spawn(move || {
            for keys in keys {
                if writer.write_all(&keys).is_err() {
                    return;
                }
            }
        });
        Self {
            pty: pair.master,
            _slave: pair.slave,
            keyboard,
            output,
            id,
            ending,
            ended: false,
            emulator: vt100::Parser::new(cells(rows), cells(columns), SCROLLBACK),
            bytes: Vec::new(),
            modes_before,
        }
    }

    /// A client that has joined, with nothing but the prompt on its screen; and its name. Waits for
    /// the client, for the server's word, and for the prompt: each has a deadline of its own.
    pub fn join(server: &mut Server, columns: u16, rows: u16, args: &[&str]) -> (Self, String) {
        let url = server.url();
        let mut window = Self::run(client(&[&[&*url], args].concat()), columns, rows);
        window.is_connected();
        (window, server.joined())
    }

    /// Waits until the client says so, and then until the screen is clear.
    #[track_caller]
    pub fn is_connected(&mut self) {
        self.until("leaves)");
        self.press("\x0c");
        self.shows(&[">"], (0, 2));
        self.emulator.screen_mut().clear_scrollback();
    }

    /// Presses keys, or pastes; does not wait until they are read.
    pub fn press(&self, keys: &str) {
        self.keyboard.send(keys.as_bytes().to_vec()).unwrap();
    }

    /// As a terminal does it: first its own rows, then the program is told.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        while let Ok(bytes) = self.output.try_recv() {
            self.feed(&bytes);
        }
        self.emulator.set_size(cells(rows), cells(columns));
        self.pty.resize(size(columns, rows)).unwrap();
    }

    /// Stops the output, as Ctrl+S does, or lets it go on.
    pub fn flow(&self, action: Action) {
        flow(&*self.pty, action);
    }

    /// Sends a signal to the program.
    pub fn signal(&self, name: &str) {
        signal(self.id, name);
    }

    /// Waits for the program's end and returns its exit code (-1 for a signal).
    #[track_caller]
    pub fn exit(&mut self) -> i32 {
        let code = self.ending.recv_timeout(PATIENCE);
        let code = code.unwrap_or_else(|_| panic!("it does not end: {:#?}", self.screen()));
        self.ended = true;
        code
    }

    /// Writes to the screen what another program would.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.emulator.process(bytes);
    }

    /// The rows of the screen down to the last one in use, and the cursor: row, column.
    pub fn screen(&self) -> (Vec<String>, (u16, u16)) {
        let screen = self.emulator.screen();
        let columns = screen.size().1.get();
        let mut rows: Vec<_> = screen
            .rows(0, columns)
            .map(|row| row.trim_end().to_owned())
            .collect();
        let cursor = screen.cursor_position();
        while rows.len() > usize::from(cursor.0) + 1 && rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        (rows, cursor)
    }

    /// The rows of the scrollback and of the screen.
    pub fn everything(&mut self) -> Vec<String> {
        let screen = self.emulator.screen_mut();
        let columns = screen.size().1.get();
        let mut rows = Vec::new();
        for back in (1..=screen.scrollback_len()).rev() {
            screen.set_scrollback(back);
            rows.extend(screen.rows(0, columns).next());
        }
        screen.set_scrollback(0);
        rows.extend(screen.rows(0, columns));
        rows.iter().map(|row| row.trim_end().to_owned()).collect()
    }

    /// The colour of each character of a row.
    pub fn colours(&self, row: u16) -> Vec<vt100::Color> {
        let screen = self.emulator.screen();
        (0..screen.size().1.get())
            .map(|column| screen.cell(row, column).unwrap())
            .filter(|cell| cell.has_contents())
            .map(vt100::Cell::fgcolor)
            .collect()
    }

    /// Waits until the condition holds: it is asked again whenever the emulator was fed.
    #[track_caller]
    pub fn wait(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                panic!("no {what}; the screen is {:#?}", self.screen());
            };
            self.feed(&bytes);
        }
    }

    /// Waits until the screen shows the text, however it is wrapped.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        self.wait(text, |window| {
            let rows = window.screen().0;
            rows.concat().contains(text) || rows.join(" ").contains(text)
        });
    }

    /// Waits until one of the rows is this one.
    #[track_caller]
    pub fn shows_row(&mut self, row: &str) {
        self.wait(row, |window| {
            window.screen().0.iter().any(|shown| shown == row)
        });
    }

    /// Waits until the last row in use is this one.
    #[track_caller]
    pub fn shows_last(&mut self, row: &str) {
        self.wait(row, |window| {
            window.screen().0.last().is_some_and(|last| last == row)
        });
    }

    /// Waits until these lines, wrapped, are all that the screen shows, or as many of the last
    /// rows of them as fit. The cursor: which of the lines, and which column.
    #[track_caller]
    pub fn shows(&mut self, lines: &[&str], cursor: (usize, u16)) {
        let (rows, columns) = self.emulator.screen().size();
        let (rows, columns) = (usize::from(rows.get()), usize::from(columns.get()));
        let wrapped = |lines: &[&str]| -> Vec<String> {
            lines.iter().flat_map(|line| wrap(line, columns)).collect()
        };
        let (row, mut expected) = (wrapped(&lines[..cursor.0]).len(), wrapped(lines));
        let hidden = expected.len().saturating_sub(rows);
        expected.drain(..hidden);
        let cursor = (u16::try_from(row - hidden).unwrap(), cursor.1);
        let expected = (expected, cursor);
        self.wait(&format!("{expected:#?}"), |window| {
            window.screen() == expected
        });
    }

    /// The terminal's modes as they are now.
    pub fn modes(&self) -> String {
        modes(&*self.pty)
    }

    /// The program has ended: waits until the terminal shows these lines, the last one being empty,
    /// and is as it was before.
    #[track_caller]
    pub fn is_restored(&mut self, lines: &[&str]) {
        self.shows(lines, (lines.len() - 1, 0));
        self.modes_are_restored();
    }

    /// Waits until bracketed paste has ended; then everything else is as it was, too.
    #[track_caller]
    pub fn modes_are_restored(&mut self) {
        self.wait("end of bracketed paste", |window| {
            !window.emulator.screen().bracketed_paste()
        });
        assert_eq!(self.modes(), self.modes_before);
        let screen = self.emulator.screen();
        assert!(!screen.hide_cursor());
        assert_eq!(screen.fgcolor(), vt100::Color::Default);
    }

    /// The program has taken the terminal.
    #[track_caller]
    pub fn modes_are_changed(&self) {
        assert_ne!(self.modes(), self.modes_before);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // It may be ending by itself, because its server was dropped before it.
        if !self.ended && self.ending.try_recv().is_err() {
            try_signal(self.id, "KILL");
        }
    }
}

/// The rows that a line takes in a terminal that wraps.
pub fn wrap(line: &str, columns: usize) -> Vec<String> {
    let (mut rows, mut used) = (vec![String::new()], 0);
    for char in line.chars() {
        let width = char.width().unwrap_or(0);
        if used + width > columns {
            rows.push(String::new());
            used = 0;
        }
        used += width;
        rows.last_mut().unwrap().push(char);
    }
    rows.iter().map(|row| row.trim_end().to_owned()).collect()
}

/// Stops the output of a terminal, or lets it go on.
pub fn flow(pty: &dyn MasterPty, action: Action) {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let name = pty.tty_name().unwrap();
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    rustix::termios::tcflow(terminal, action).unwrap();
}

fn modes(pty: &dyn MasterPty) -> String {
    format!("{:?}", pty.get_termios().unwrap())
}

fn size(columns: u16, rows: u16) -> PtySize {
    PtySize {
        rows,
        cols: columns,
        ..PtySize::default()
    }
}

fn cells(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}
