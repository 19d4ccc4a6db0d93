//! The client in a real pseudo-terminal, with an emulator that says what a person would see.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use support::{PATIENCE, Server};

struct Window {
    pty: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    bytes: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

impl Window {
    fn open(port: u16) -> Self {
        let (rows, cols) = (12, 60);
        let size = PtySize {
            rows,
            cols,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_client"));
        command.arg(format!("ws://127.0.0.1:{port}"));
        let child = pair.slave.spawn_command(command).unwrap();
        let mut output = pair.master.try_clone_reader().unwrap();
        let (sender, bytes) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                let _ = sender.send(buffer[..n].to_vec());
            }
        });
        let keys = pair.master.take_writer().unwrap();
        // The other end stays open, so that the modes can be read after the program's end.
        std::mem::forget(pair.slave);
        let screen = vt100::Parser::new(rows, cols, 0);
        Self {
            pty: pair.master,
            keys,
            child,
            bytes,
            screen,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows the text.
    fn until(&mut self, text: &str) {
        while !self.screen.screen().contents().contains(text) {
            let bytes = self.bytes.recv_timeout(PATIENCE);
            let bytes = bytes.unwrap_or_else(|_| panic!("no {text:?} on {}", self.text()));
            self.screen.process(&bytes);
        }
    }

    fn text(&self) -> String {
        self.screen.screen().contents()
    }

    fn modes(&self) -> String {
        format!("{:?}", self.pty.get_termios().unwrap())
    }
}

/// Ctrl+C and Ctrl+D end the client at once, politely, and leave the terminal as it was.
#[test]
fn ctrl_c_and_ctrl_d_leave_and_the_terminal_is_as_it_was() {
    for key in ["\x03", "\x04"] {
        let mut server = Server::start();
        let (mut bob, b) = server.join();
        let mut window = Window::open(server.port);
        let before = window.modes();
        window.until("connected to");
        let name = server.line();
        let name = name.strip_prefix("New connection from ").unwrap();
        window.press("typed in a terminal\r");
        assert_eq!(bob.line(), format!("{name}: typed in a terminal"));
        bob.type_line("hi");
        window.until(&format!("{b}: hi"));
        window.press(key);
        assert_eq!(window.child.wait().unwrap().exit_code(), 0);
        assert_eq!(window.modes(), before);
        assert_eq!(
            server.line(),
            format!("Received from {name}: typed in a terminal")
        );
        assert_eq!(server.line(), format!("Received from {b}: hi"));
        assert_eq!(server.line(), format!("Client {name} disconnected"));
    }
}
