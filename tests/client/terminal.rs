//! The client in a real pseudo-terminal, with an emulator that says what a person would see.
//! Messages come from a second client, and what was typed is read there.

use std::io::{Read, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::support::raw::{CLOSE, FIN, PING, PONG, RawServer, TEXT, bare_frame};
use crate::support::window::{self, Window, wrap};
use crate::support::{PATIENCE, Port, Program, Server};
use portable_pty::CommandBuilder;
use rustix::termios::Action;

/// A server, a client in a window, and another one that talks to it.
struct Chat {
    window: Window,
    /// How the client in the window is called.
    name: String,
    bob: Program,
    /// How the other one is called.
    b: String,
    server: Server,
}

impl Chat {
    fn start(columns: u16, rows: u16) -> Self {
        Self::with(columns, rows, &[])
    }

    fn with(columns: u16, rows: u16, args: &[&str]) -> Self {
        let mut server = Server::start();
        let (window, name) = Window::join(&mut server, columns, rows, args);
        let (bob, b) = server.join();
        Self {
            window,
            name,
            bob,
            b,
            server,
        }
    }

    /// Bob speaks; returns the line as everybody sees it.
    fn says(&mut self, text: &str) -> String {
        self.bob.type_line(text);
        format!("{}: {text}", self.b)
    }

    /// These lines of the window's client are what comes next at Bob's.
    #[track_caller]
    fn bob_hears<T: AsRef<str>>(&mut self, lines: impl IntoIterator<Item = T>) {
        for line in lines {
            let line = format!("{}: {}", self.name, line.as_ref());
            assert_eq!(self.bob.line(), line);
        }
    }
}

#[test]
fn messages_appear_above_a_line_of_three_rows() {
    let mut chat = Chat::start(10, 24);
    let input = ["> abcdefgh", "ijklmnopqr", "stuv"];
    chat.window.press("abcdefghijklmnopqrstuv");
    chat.window.shows(&input, (2, 4));
    let first = chat.says("first");
    let second = chat.says("second");
    let mut lines = vec![&*first, &second];
    lines.extend(input);
    chat.window.shows(&lines, (4, 4));
    // from within the line
    chat.window.press("\x1b[H\x1b[C");
    chat.window.shows(&lines, (2, 3));
    let third = chat.says("a message that wraps");
    let fourth = chat.says("x");
    let mut lines = vec![&*first, &second, &third, &fourth];
    lines.extend(input);
    chat.window.shows(&lines, (4, 3));
    // The screen is full: the chat goes up, the typed line stays.
    let fifth = chat.says("y");
    let mut lines = vec![&*first, &second, &third, &fourth, &fifth];
    lines.extend(input);
    chat.window.shows(&lines, (5, 3));
    chat.window.press("\r");
    let own = input.concat();
    let mut lines = vec![&*first, &second, &third, &fourth, &fifth, &own];
    lines.push(">");
    chat.window.shows(&lines, (6, 2));
    chat.bob_hears(["abcdefghijklmnopqrstuv"]);
    // Nothing was lost on the way up.
    let rows: Vec<_> = lines.iter().flat_map(|line| wrap(line, 10)).collect();
    assert_eq!(chat.window.everything()[..rows.len()], rows);
}

#[test]
fn a_wide_character_at_the_end_of_a_row_goes_down() {
    let mut chat = Chat::start(9, 24);
    chat.window.press("汉字汉字汉字");
    // Two columns of prompt and three characters leave one column over.
    chat.window.shows(&["> 汉字汉", "字汉字"], (1, 6));
    let one = chat.says("one");
    chat.window.shows(&[&one, "> 汉字汉", "字汉字"], (2, 6));
    // before the character that went down
    chat.window.press("\x02\x02\x02");
    chat.window.shows(&[&one, "> 汉字汉", "字汉字"], (2, 0));
    chat.window.press("👍");
    chat.window.shows(&[&one, "> 汉字汉", "👍字汉字"], (2, 2));
    chat.window.press("\x7fx");
    chat.window.shows(&[&one, "> 汉字汉x", "字汉字"], (2, 0));
    // Two of these, one of which is one column off, whatever the length of the name.
    let two = chat.says("汉字汉字汉");
    let three = chat.says("x汉字汉字汉👍");
    let lines = [&*one, &two, &three, "> 汉字汉x", "字汉字"];
    chat.window.shows(&lines, (4, 0));
    chat.window.press("\x01e\u{301}\r");
    chat.bob_hears(["e\u{301}汉字汉x字汉字"]);
}

#[test]
fn a_row_that_is_exactly_full() {
    let mut chat = Chat::start(30, 5);
    let full = "x".repeat(28);
    let input = format!("> {full}");
    chat.window.press(&full);
    chat.window.shows(&[&input, ""], (1, 0));
    let message = chat.says(&"m".repeat(28 - chat.b.len()));
    assert_eq!(message.len(), 30);
    chat.window.shows(&[&message, &input, ""], (2, 0));
    chat.window.press("\x7f");
    chat.window.shows(&[&message, &input[..29]], (1, 29));
    chat.window.press("x\r");
    chat.window.shows(&[&message, &input, ">"], (2, 2));
}

#[test]
fn a_line_longer_than_the_screen_shows_the_cursors_rows() {
    let mut chat = Chat::start(5, 4);
    chat.window.press("abcdefghijklmnopqrstuvwx");
    let message = chat.says("m");
    chat.window
        .shows(&[&message, "nopqr", "stuvw", "x"], (3, 1));
    chat.window.press("\x01");
    chat.window.shows_row("> abc");
    chat.window.press("\r");
    chat.bob_hears(["abcdefghijklmnopqrstuvwx"]);
}

#[test]
fn resizes_keep_the_chat_and_the_line() {
    let mut chat = Chat::start(40, 9);
    let said = [
        chat.says("a message of thirty characters"),
        chat.says("汉字汉字汉字汉字汉字👍"),
        chat.says("last"),
    ];
    let input = "> half a line that wraps once, not twice";
    let mut lines: Vec<_> = said.iter().map(String::as_str).collect();
    lines.push(&input[..38]);
    chat.window.press(&input[2..38]);
    chat.window.shows(&lines, (3, 38));
    // Narrower: only the last rows fit, and what is left of a name keeps its colour.
    chat.window.resize(20, 9);
    let mut narrow = lines.clone();
    narrow.splice(3.., [&input[..20], &input[20..38]]);
    chat.window.shows(&narrow, (4, 18));
    chat.window.resize(9, 9);
    narrow.splice(
        3..,
        [&input[..9], &input[9..18], &input[18..27], &input[27..36]],
    );
    narrow.push(&input[36..38]);
    chat.window.shows(&narrow, (7, 2));
    chat.window.resize(60, 9);
    chat.window.shows(&lines, (3, 38));
    assert_ne!(chat.window.colours(0)[0], vt100::Color::Default);
    chat.window.resize(60, 3);
    chat.window.shows(&lines, (3, 38));
    // a window that is dragged, with messages that arrive meanwhile
    let mut dragged = Vec::new();
    for columns in (6..60).rev().chain(7..=60) {
        chat.window.resize(columns, 9);
        if columns % 8 == 0 {
            dragged.push(chat.says(&format!("at {columns}")));
        }
    }
    lines.splice(3..3, dragged.iter().map(String::as_str));
    chat.window.shows(&lines, (lines.len() - 1, 38));
    chat.window.press("\r");
    chat.bob_hears([&input[2..38]]);
}

#[test]
fn typing_while_a_thousand_messages_arrive() {
    let mut chat = Chat::start(40, 10);
    let all: Vec<_> = (1..=1000).map(|n| format!("message {n}")).collect();
    let burst = all.join("\n") + "\n";
    chat.bob
        .input
        .as_mut()
        .unwrap()
        .write_all(burst.as_bytes())
        .unwrap();
    let words = "typed while a thousand messages arrive, it wraps";
    for char in words.chars() {
        chat.window.press(&char.to_string());
        thread::yield_now();
    }
    let all: Vec<_> = all
        .iter()
        .map(|text| format!("{}: {text}", chat.b))
        .collect();
    let input = format!("> {words}");
    let mut lines: Vec<_> = all.iter().map(String::as_str).collect();
    lines.extend([&input[..40], &input[40..]]);
    chat.window.shows(&lines, (1001, 10));
    let rows = chat.window.everything();
    assert_eq!(rows, lines);
    chat.window.press("\r");
    chat.bob_hears([words]);
}

fn pasted() -> Vec<String> {
    (0..500)
        .map(|number| format!("line {number} of\ta paste, é汉👍"))
        .collect()
}

#[test]
fn a_bracketed_paste_is_as_many_lines() {
    for end in ["\r", "\n", "\r\n"] {
        let mut chat = Chat::start(60, 10);
        let mut lines = pasted();
        chat.window.press("typed ");
        // Keys within a paste are no commands; the last line has no end.
        let paste = format!("{}{end}\x03\x04\x1arest", lines.join(end));
        chat.window.press(&format!("\x1b[200~{paste}\x1b[201~"));
        lines[0].insert_str(0, "typed ");
        chat.bob_hears(&lines);
        chat.window.shows_row("> rest");
    }
}

#[test]
fn a_plain_paste_is_as_many_lines() {
    for end in ["\r", "\n"] {
        let mut chat = Chat::start(60, 10);
        chat.window
            .press(&format!("{}{end}rest", pasted().join(end)));
        chat.bob_hears(pasted());
        chat.window.shows_row("> rest");
    }
}

#[test]
fn half_a_paste_stops_nothing() {
    let mut chat = Chat::start(40, 5);
    chat.window.press("\x1b[200~half");
    let message = chat.says("message");
    chat.window.shows(&[&message, "> half"], (1, 6));
    chat.window.press("\x1b[20");
    let another = chat.says("another");
    chat.window.shows(&[&message, &another, "> half"], (2, 6));
    chat.window.press("1~\x7f\r");
    chat.bob_hears(["hal"]);
}

#[test]
fn keys_and_history() {
    let mut chat = Chat::start(40, 12);
    chat.window.press("first\rsecond line\r");
    chat.window
        .shows(&["> first", "> second line", ">"], (2, 2));
    chat.window.press("draft\x1b[A\x1bOA");
    chat.window
        .shows(&["> first", "> second line", "> first"], (2, 7));
    chat.window.press("\x0e\x0e\x02X");
    chat.window
        .shows(&["> first", "> second line", "> drafXt"], (2, 7));
    chat.window
        .press("\x15\x1b[A\x17\x19\x19\x1b[H\x1b[3~S\x1b[1;5C\x0b!\r");
    let lines = ["> first", "> second line", "> Second!", ">"];
    chat.window.shows(&lines, (3, 2));
    // An empty line is none.
    chat.window.press("ignored\x15\rlast\r");
    chat.bob_hears(["first", "second line", "Second!", "last"]);
}

#[test]
fn clearing_the_screen_keeps_the_line() {
    let mut chat = Chat::start(40, 6);
    let (one, two) = (chat.says("one"), chat.says("two"));
    chat.window.press("half");
    chat.window.shows(&[&one, &two, "> half"], (2, 6));
    chat.window.press("\x0c");
    chat.window.shows(&["> half"], (0, 6));
    let three = chat.says("three");
    chat.window.shows(&[&three, "> half"], (1, 6));
    // and what was cleared stays away
    chat.window.resize(50, 6);
    let four = chat.says("four");
    chat.window.shows(&[&three, &four, "> half"], (2, 6));
}

#[test]
fn own_lines_stay_visible_among_the_others() {
    let mut chat = Chat::start(60, 10);
    chat.window.press("hello 汉👍\r");
    chat.bob_hears(["hello 汉👍"]);
    chat.window.shows(&["> hello 汉👍", ">"], (1, 2));
    let answer = chat.says("hi");
    chat.window.shows(&["> hello 汉👍", &answer, ">"], (2, 2));
    chat.window.press("bye\r");
    chat.window
        .shows(&["> hello 汉👍", &answer, "> bye", ">"], (3, 2));
}

/// What steers a terminal is made visible in the lines of others; a paste can hold it as well.
#[test]
fn own_lines_are_made_safe_as_those_of_others() {
    let mut chat = Chat::start(60, 10);
    chat.window
        .press("\x1b[200~\u{202e}evil\u{2066}\x1b[201~\r");
    chat.bob_hears(["\u{fffd}evil\u{fffd}"]);
    chat.window.press("end\r");
    chat.bob_hears(["end"]);
    chat.window.shows_row("> end");
    let text = String::from_utf8_lossy(&chat.window.bytes);
    assert!(!text.contains(['\u{202e}', '\u{2066}']), "{text:?}");
}

/// Each way out that a person or the system has, with half a line typed, which stays in sight.
#[test]
fn every_way_out_restores_the_terminal() {
    type WayOut = fn(&mut Chat);
    let ways: [(&str, WayOut); 5] = [
        ("Ctrl+C", |chat| chat.window.press("\x03")),
        ("Ctrl+D", |chat| chat.window.press("\x15\x04")),
        ("SIGTERM", |chat| chat.window.signal("TERM")),
        ("SIGHUP", |chat| chat.window.signal("HUP")),
        ("SIGINT", |chat| chat.window.signal("INT")),
    ];
    for (way, leave) in ways {
        let mut chat = Chat::start(40, 8);
        let hello = with_half_a_line(&mut chat);
        leave(&mut chat);
        assert_eq!(chat.window.exit(), 0, "{way}");
        let left = "client: left the chat";
        match way {
            // It leaves an empty line alone.
            "Ctrl+D" => chat.window.is_restored(&[&hello, left, ""]),
            _ => chat.window.is_restored(&[&hello, HALF, left, ""]),
        }
        let left = format!("Client {} disconnected", chat.name);
        while chat.server.line() != left {}
    }
}

#[test]
fn a_server_that_goes_restores_the_terminal() {
    for (signal, why) in [
        (
            "INT",
            "client: the server closed the chat: server shutting down (1001, going away); with --reconnect it would try again",
        ),
        (
            "KILL",
            "client: connection lost: the server went away without a goodbye; with --reconnect it would try again",
        ),
    ] {
        let mut chat = Chat::start(40, 8);
        let hello = with_half_a_line(&mut chat);
        chat.server.program.signal(signal);
        assert_eq!(chat.window.exit(), 1, "{signal}");
        chat.window.is_restored(&[&hello, HALF, why, ""]);
    }
}

/// A prompt and a line that is wrapped over two rows of a window of 40 columns.
const HALF: &str = "> half a line that is longer than a row of it";

/// The only line said so far, above a typed line of two rows.
fn with_half_a_line(chat: &mut Chat) -> String {
    let hello = chat.says("hello");
    chat.window.press(&HALF[2..]);
    chat.window
        .shows(&[&hello, &HALF[..40], &HALF[40..]], (2, 5));
    chat.window.modes_are_changed();
    hello
}

/// No server: the client says so below whatever was on the screen before, and that is all.
#[test]
fn without_a_server_the_terminal_is_as_it_was() {
    let port = Port::hold();
    let mut window = Window::run(window::client(&[&port.url()]), 100, 5);
    assert_eq!(window.exit(), 1);
    let why = "connection refused (is the server running?)";
    let why = format!("client: cannot connect to {}: {why}", port.url());
    window.is_restored(&[&why, ""]);
}

/// However much waits for a server that takes nothing, Ctrl+C leaves.
#[test]
fn ctrl_c_leaves_when_the_server_takes_nothing() {
    let listener = RawServer::listen();
    let mut window = Window::run(window::client(&[&listener.url()]), 60, 10);
    let mut server = listener.accept();
    window.is_connected();
    // It speaks, so it is not dead; but it never says that it has taken anything.
    let line = "x".repeat(16 * 1024) + "\r";
    window.press(&line.repeat(65));
    server.say("are you there?");
    for _ in 0..64 {
        assert_eq!(server.text().len(), 16 * 1024);
    }
    window.press("\x03");
    let (ended, end) = channel::<()>();
    let talk = thread::spawn(move || {
        // Often enough to be alive, until the client is gone or the test has failed.
        while end.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
            let alive = bare_frame(FIN | TEXT, b"well");
            if server.stream.write_all(&alive).is_err() {
                return;
            }
        }
    });
    window.exit();
    window.modes_are_restored();
    drop(ended);
    talk.join().unwrap();
}

#[test]
fn a_terminal_that_vanishes_is_the_end() {
    let mut server = Server::start();
    let mut command = window::client(&[&server.url()]);
    // Without a controlling terminal there is no SIGHUP to tell.
    command.set_controlling_tty(false);
    let pair = window::terminal(80, 24);
    let mut child = pair.slave.spawn_command(command).unwrap();
    let mut output = pair.master.try_clone_reader().unwrap();
    let name = server.joined();
    let (seen, prompt) = channel();
    let reader = thread::spawn(move || {
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&bytes).contains("leaves)") {
            output.read_exact(&mut byte).unwrap();
            bytes.extend(byte);
        }
        let _ = seen.send(());
    });
    prompt.recv_timeout(PATIENCE).unwrap();
    reader.join().unwrap();
    drop(pair);
    assert_eq!(server.line(), format!("Client {name} disconnected"));
    let (end, ended) = channel();
    thread::spawn(move || end.send(child.wait().unwrap()));
    let status = ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!(status.exit_code(), 0);
}

/// A window that hangs, or one that was told to stop (Ctrl+S): what it does not read keeps nobody
/// from leaving, and the modes come back.
#[test]
fn a_signal_ends_a_client_whose_terminal_stands_still() {
    let standing = [("INT", false), ("TERM", true)].map(|(name, flow)| {
        let listener = RawServer::listen();
        let pair = window::terminal(80, 24);
        let modes = format!("{:?}", pair.master.get_termios().unwrap());
        let command = window::client(&[&listener.url()]);
        let mut child = pair.slave.spawn_command(command).unwrap();
        let mut server = listener.accept();
        if flow {
            window::flow(&*pair.master, Action::OOff);
        }
        // More than the client keeps for its screen, so that it reads no more of what comes.
        let line = "x".repeat(1000);
        for _ in 0..300 {
            server.say(&line);
        }
        let id = child.process_id().unwrap();
        crate::support::signal(id, name);
        let (end, ended) = channel();
        thread::spawn(move || end.send(child.wait().unwrap()));
        (name, id, ended, pair, modes, server)
    });
    // Both are asked before the first is waited for: neither server answers their goodbye.
    for (name, id, ended, pair, modes, _server) in standing {
        let status = ended.recv_timeout(PATIENCE);
        if status.is_err() {
            crate::support::try_signal(id, "KILL");
        }
        assert_eq!(status.unwrap().exit_code(), 0, "{name}");
        assert_eq!(format!("{:?}", pair.master.get_termios().unwrap()), modes);
    }
}

/// Nothing is drawn while the size may not be the real one, but what was half drawn is written.
#[test]
fn a_window_that_is_resized_while_it_stands_still_goes_on() {
    let listener = RawServer::listen();
    let mut window = Window::run(window::client(&[&listener.url()]), 80, 24);
    let mut server = listener.accept();
    window.is_connected();
    window.flow(Action::OOff);
    for _ in 0..50 {
        server.say(&"x".repeat(1000));
    }
    // Behind the answer to the first, the client has tried to draw.
    for _ in 0..2 {
        server.send_frame(FIN | PING, b"");
        assert_eq!(server.frame().unwrap().0, FIN | PONG);
    }
    window.resize(70, 20);
    window.flow(Action::OOn);
    server.say("the end");
    window.until("the end");
    window.press("\x03");
    assert_eq!(window.exit(), 0);
    window.modes_are_restored();
}

/// A shell that has jobs, and the command that starts a client of the server at this URL in it.
fn shell(url: &str) -> (Window, String) {
    let mut shell = CommandBuilder::new("bash");
    shell.args(["--norc", "--noprofile", "--noediting", "-i"]);
    shell.env("PS1", "shell$ ");
    shell.env("TERM", "xterm");
    let mut window = Window::run(shell, 200, 20);
    window.shows_row("shell$");
    let client = window::client(&[url]);
    let client: Vec<_> = client
        .get_argv()
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    (window, client.join(" "))
}

/// What `kill %1` sends is seen although the terminal belongs to the shell.
#[test]
fn a_client_in_the_background_ends_when_it_is_asked_to() {
    let mut server = Server::start();
    let (mut window, client) = shell(&server.url());
    let modes = window.modes();
    for in_background in ["", "bg", "&"] {
        let is_started_there = in_background == "&";
        let end = if is_started_there { " &" } else { "" };
        // It tells what becomes of a job at once.
        window.press(&format!("set -b; clear; {client}{end}\n"));
        let name = server.joined();
        if !is_started_there {
            window.is_connected();
            window.press("\x1a");
        }
        window.shows_last("shell$");
        if in_background == "bg" {
            // What is typed before the client has stopped does not reach the shell.
            window.press("bg\n");
            window.wait("job in the background", |window| {
                window.screen().0.iter().any(|row| row.ends_with(" &"))
            });
            window.shows_last("shell$");
        }
        window.press("kill %1\n");
        assert_eq!(server.line(), format!("Client {name} disconnected"));
        window.until("client: left the chat");
        // Bash would say so of another exit code, or of a signal.
        window.until("[1]+  Done ");
        assert_eq!(window.modes(), modes);
    }
    window.press("exit\n");
    assert_eq!(window.exit(), 0);
}

/// It stays in the chat meanwhile, and shows what it has heard when the terminal is its own again.
#[test]
fn a_client_in_the_background_leaves_the_terminal_alone() {
    let listener = RawServer::listen();
    let (mut window, client) = shell(&listener.url());
    let modes = window.modes();
    window.press(&format!("clear; {client} &\n"));
    let mut server = listener.accept();
    // At first it has also said that it is connected.
    for (round, came) in [("one", 302), ("two", 301)] {
        // More than waits for a screen that stands still, and more than is kept.
        for _ in 0..300 {
            server.say(&format!("bob: {}", "x".repeat(1000)));
        }
        server.say(&format!("bob: {round}"));
        // All of it has to be there before the client has the terminal again, or it would draw the rest as it
        // comes.
        for _ in 0..2 {
            server.send_frame(FIN | PING, b"");
            while server.frame().unwrap().0 != FIN | PONG {}
        }
        window.press("echo \"not for the chat\"\n");
        window.shows_row("not for the chat");
        assert_eq!(window.modes(), modes);
        let (rows, _) = window.screen();
        assert!(!rows.iter().any(|row| row.starts_with("bob: ")), "{rows:?}");
        window.press("fg\n");
        window.shows_row(&format!("bob: {round}"));
        let rows = window.everything();
        let unshown = |row: &String| {
            let count = row.strip_prefix("client: ")?;
            let count = count.strip_suffix(" lines before these are not shown");
            count?.parse::<usize>().ok()
        };
        let last = rows.iter().rposition(|row| unshown(row).is_some());
        let (told, behind) = rows[last.expect("it was told")..].split_first().unwrap();
        let shown = behind.iter().filter(|row| row.starts_with("bob: ")).count();
        assert_eq!(unshown(told).unwrap() + shown, came);
        window.press("mine\r");
        assert_eq!(server.text_with_pongs(), "mine");
        let (first, ping) = server.frame().unwrap();
        assert_eq!(first, FIN | PING);
        server.send_frame(FIN | PONG, &ping);
        window.press("\x1a");
        window.shows_last("shell$");
        window.press("bg\nclear\n");
        window.shows(&["shell$"], (0, 7));
    }
    window.press("fg\n");
    window.shows_row(">");
    window.press("\x03");
    assert_eq!(server.close(), (1000, String::new()));
    server.send_frame(FIN | CLOSE, &1000_u16.to_be_bytes());
    window.shows_row("client: left the chat");
    window.shows_last("shell$");
    assert_eq!(window.modes(), modes);
    window.press("exit\n");
    assert_eq!(window.exit(), 0);
}

#[test]
fn ctrl_z_gives_the_terminal_back_and_fg_takes_it_again() {
    let mut server = Server::start();
    let (mut bob, b) = server.join();
    let (mut window, client) = shell(&server.url());
    let modes = window.modes();
    window.press(&format!("clear; {client}\n"));
    let name = server.joined();
    window.is_connected();
    window.press("half a line");
    window.shows(&["> half a line"], (0, 13));
    for round in 0..3 {
        window.press("\x1a");
        window.shows_last("shell$");
        let (rows, _) = window.screen();
        assert!(rows.iter().any(|row| row.contains("Stopped")), "{rows:?}");
        let half = rows.iter().any(|row| row.contains("half a line"));
        assert!(!half, "{rows:?}");
        assert_eq!(window.modes(), modes);
        // A message that comes meanwhile waits.
        bob.type_line(&format!("while stopped {round}"));
        window.press("fg\n");
        window.shows_row(&format!("{b}: while stopped {round}"));
        window.shows_last("> half a line");
        assert_ne!(window.modes(), modes);
        window.press("\x0c");
        window.shows(&["> half a line"], (0, 13));
    }
    window.press(" and the rest\r");
    window.shows_row("> half a line and the rest");
    assert_eq!(bob.line(), format!("{name}: half a line and the rest"));
    window.press("\x03");
    window.shows_row("client: left the chat");
    window.shows_row("shell$");
    assert_eq!(window.modes(), modes);
    window.press("echo \"code $?\"\n");
    window.shows_row("code 0");
    window.press("exit\n");
    assert_eq!(window.exit(), 0);
}

#[test]
fn a_stop_from_outside_is_repaired() {
    let mut chat = Chat::start(40, 6);
    let hello = chat.says("hello");
    chat.window.press("half");
    chat.window.shows(&[&hello, "> half"], (1, 6));
    chat.window.signal("STOP");
    // What a shell would print meanwhile.
    chat.window.feed(b"\r\n[1]+ Stopped\r\n$ fg\r\nclient\r\n");
    chat.window.signal("CONT");
    chat.window.shows(&[&hello, "> half"], (1, 6));
}

#[test]
fn a_sender_has_one_colour_in_every_window() {
    let mut chat = Chat::start(60, 10);
    let (mut other, _) = Window::join(&mut chat.server, 60, 10, &[]);
    let (mut cid, _) = chat.server.join();
    let one = chat.says("one");
    chat.window.shows(&[&one, ">"], (1, 2));
    cid.type_line("two: three");
    chat.window.until("two: three");
    let four = chat.says("four: five");
    for window in [&mut chat.window, &mut other] {
        window.until(&four);
        for row in [0, 2] {
            let colours = window.colours(row);
            let (name, text) = colours.split_at(chat.b.len());
            assert_ne!(name[0], vt100::Color::Default);
            assert!(name.iter().all(|colour| *colour == name[0]), "{name:?}");
            let plain = |colour| colour == vt100::Color::Default;
            assert!(text.iter().copied().all(plain), "{text:?}");
        }
    }
    assert_eq!(chat.window.colours(0)[0], chat.window.colours(2)[0]);
    assert_eq!(chat.window.colours(0)[0], other.colours(0)[0]);
    assert_eq!(chat.window.colours(1)[0], other.colours(1)[0]);
}

/// Whether the bytes hold a sequence that sets a colour; `ESC [ m` only takes them away.
fn coloured(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.split("\x1b[").skip(1).any(|sequence| {
        let parameters = sequence.find(|char: char| !char.is_ascii_digit() && char != ';');
        parameters.is_some_and(|at| at > 0 && sequence[at..].starts_with('m'))
    })
}

#[test]
fn no_color_means_none() {
    let mut server = Server::start();
    let (mut bob, b) = server.join();
    for (value, colour) in [("", true), ("1", false)] {
        let mut command = window::client(&[&server.url()]);
        command.env("NO_COLOR", value);
        let mut window = Window::run(command, 80, 10);
        window.is_connected();
        bob.type_line("hello");
        let hello = format!("{b}: hello");
        window.shows(&[&hello, ">"], (1, 2));
        window.press("\x03");
        assert_eq!(window.exit(), 0);
        window.is_restored(&[&hello, "client: left the chat", ""]);
        assert_eq!(coloured(&window.bytes), colour, "NO_COLOR={value}");
    }
}

/// A terminal that can do nothing but print: lines come as they are, and the terminal itself
/// shows what is typed.
#[test]
fn a_dumb_terminal_gets_no_escape_byte() {
    let mut server = Server::start();
    let (mut bob, b) = server.join();
    for end in ["\x03", "\x04"] {
        let mut command = window::client(&[&server.url()]);
        command.env("TERM", "dumb");
        let mut window = Window::run(command, 80, 10);
        window.until("leaves)");
        let mut joined = server.line();
        while !joined.starts_with("New connection from ") {
            joined = server.line();
        }
        let name = joined.strip_prefix("New connection from ").unwrap();
        bob.type_line("hello");
        window.shows_row(&format!("{b}: hello"));
        window.press("typed\r");
        assert_eq!(bob.line(), format!("{name}: typed"));
        window.shows_row("typed");
        window.press(end);
        assert_eq!(window.exit(), 0);
        window.until("client: left the chat");
        window.modes_are_restored();
        assert!(
            !window.bytes.contains(&0x1b),
            "{}",
            window.bytes.escape_ascii()
        );
    }
}

#[test]
fn times_stand_before_the_lines() {
    let mut chat = Chat::with(60, 10, &["--timestamps"]);
    let hello = chat.says("hello");
    chat.window.until(&hello);
    chat.window.press("mine\r");
    chat.bob_hears(["mine"]);
    // One drawing may come in pieces, and the last one brings the prompt.
    chat.window.wait("prompt behind both lines", |window| {
        let (rows, _) = window.screen();
        rows.len() == 3 && rows[2] == ">"
    });
    let (rows, _) = chat.window.screen();
    for (row, line) in rows.iter().zip([&*hello, "> mine"]) {
        let (time, rest) = row.split_at("00:00:00 ".len());
        assert_eq!(rest, line);
        let form = time.replace(|char: char| char.is_ascii_digit(), "0");
        assert_eq!(form, "00:00:00 ");
    }
    assert_eq!(rows[2..], [">"]);
}

/// The client cannot be made to panic, so this test is started again, in a window of its own, to
/// be a program with a terminal that does.
#[test]
fn a_panic_restores_the_terminal_before_its_message() {
    const AGAIN: &str = "TEST_THAT_PANICS";
    let name = "terminal::a_panic_restores_the_terminal_before_its_message";
    if std::env::var_os(AGAIN).is_some() {
        return panic_in_a_terminal();
    }
    let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(AGAIN, "1");
    command.env_remove("RUST_BACKTRACE");
    let mut window = Window::run(command, 60, 40);
    window.shows_row(">");
    let half = "half a line that is so long that it is wrapped over two rows";
    window.press(half);
    window.until("two rows");
    window.modes_are_changed();
    window.signal("TERM");
    assert_eq!(window.exit(), 101);
    window.until("test result: FAILED");
    let (rows, _) = window.screen();
    let (typed, message) = (
        rows.iter().any(|row| row.contains("half a line")),
        rows.iter().any(|row| row.starts_with("thread ")),
    );
    assert!(!typed && message, "{rows:#?}");
    assert!(rows.contains(&"as asked".to_owned()), "{rows:#?}");
    window.modes_are_restored();
}

fn panic_in_a_terminal() {
    use chat_pair::client::terminal::Terminal;
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut asked = signal(SignalKind::terminate()).unwrap();
        // At the start of a row, as it must be.
        std::io::stdout().write_all(b"\n").unwrap();
        let mut terminal = Terminal::open("> ", 1024).unwrap();
        tokio::select! {
            typed = terminal.next() => panic!("{typed:?}"),
            _ = asked.recv() => panic!("as asked"),
        }
    });
}
