//! `--reconnect`: a server that goes and comes back on the same port, under a client that stays.

use std::io::{BufWriter, Write};
use std::thread;

use crate::support::raw::{CLOSE, FIN, PING, PONG, Raw, RawServer, TEXT};
use crate::support::window::{self, Window};
use crate::support::{Port, Program, Server};

const LOST: &str = "connection lost: the server went away without a goodbye";
const SHUT: &str = "the server closed the chat: server shutting down (1001, going away)";
const REFUSED: &str = "connection refused (is the server running?)";
const NEW_PAST: &str = "* what was said before is not known here";
const LEFT: &str = "client: left the chat";

fn start(url: &str) -> Program {
    Program::start("client", &[url, "--reconnect"])
}

fn connected(url: &str) -> String {
    format!("client: connected to {url} (Ctrl+C or Ctrl+D leaves)")
}

/// A port and its URL, a server on it, and a client that has joined it.
fn connected_pair() -> (Port, String, Server, Program) {
    let port = Port::hold();
    let url = port.url();
    let server = port.serve();
    let mut client = start(&url);
    assert_eq!(client.err_line(), connected(&url));
    (port, url, server, client)
}

fn refused(url: &str) -> String {
    format!("cannot connect to {url}: {REFUSED}")
}

/// One attempt that failed, told in one line: why, and when the next one is, in so many seconds.
#[track_caller]
fn tries_again(line: &str, why: &str) -> f32 {
    let seconds = line
        .strip_prefix(&format!("client: {why}; trying again in "))
        .and_then(|rest| rest.strip_suffix(" s"))
        .unwrap_or_else(|| panic!("{line} is not about {why}"));
    let (whole, tenths) = seconds.split_once('.').unwrap();
    let digits = whole.bytes().chain(tenths.bytes());
    assert!(digits.map(char::from).all(|digit| digit.is_ascii_digit()));
    assert_eq!(tenths.len(), 1, "{line}");
    seconds.parse().unwrap()
}

/// Waits for a connection to a server that knows nothing of sessions, but answers the ping that asks
/// whether it does.
#[track_caller]
fn plain(listener: &RawServer) -> Raw {
    let mut server = listener.accept();
    let (first, ping) = server.frame().unwrap();
    assert_eq!((first, &*ping), (FIN | PING, &b""[..]));
    server.send_frame(FIN | PONG, &ping);
    server
}

/// Passes over attempts that failed, up to the one that did not.
#[track_caller]
fn is_connected(client: &mut Program, url: &str) {
    loop {
        let line = client.err_line();
        if line == connected(url) {
            return;
        }
        tries_again(&line, &refused(url));
    }
}

#[test]
fn a_server_that_was_killed_and_comes_back_is_joined_again() {
    let (port, url, mut server, mut ann) = connected_pair();
    for attempts_in_vain in [1, 0] {
        let a = server.joined();
        let (mut bob, b) = server.join();
        bob.type_line("hello");
        assert_eq!(ann.line(), format!("{b}: hello"));
        server.program.signal("KILL");
        server.program.exit();
        // Once for each attempt, of which there are two at least the first time.
        tries_again(&ann.err_line(), LOST);
        for _ in 0..attempts_in_vain {
            tries_again(&ann.err_line(), &refused(&url));
        }
        server = port.serve();
        is_connected(&mut ann, &url);
        assert_eq!(ann.line(), NEW_PAST);
        // Its name is another one each time.
        drop((a, b));
    }
    let a = server.joined();
    let (mut bob, _) = server.join();
    ann.type_line("back again");
    assert_eq!(bob.line(), format!("{a}: back again"));
    ann.signal("INT");
    assert_eq!(ann.exit(), 0);
    assert_eq!((ann.rest(), ann.err_rest()), (vec![], vec![LEFT.into()]));
}

#[test]
fn a_server_that_shuts_down_and_comes_back_is_joined_again() {
    let (port, url, mut server, mut ann) = connected_pair();
    server.joined();
    server.program.signal("INT");
    assert_eq!(server.program.exit(), 0);
    tries_again(&ann.err_line(), SHUT);
    let mut server = port.serve();
    is_connected(&mut ann, &url);
    let a = server.joined();
    ann.type_line("back again");
    assert_eq!(server.line(), format!("Received from {a}: back again"));
}

#[test]
fn a_client_may_be_started_before_its_server() {
    let port = Port::hold();
    let url = port.url();
    let mut ann = start(&url);
    tries_again(&ann.err_line(), &refused(&url));
    ann.type_line("early");
    ann.end_input();
    let mut server = port.serve();
    is_connected(&mut ann, &url);
    let a = server.joined();
    assert_eq!(server.line(), format!("Received from {a}: early"));
    assert_eq!(ann.exit(), 0);
    let taken = "client: left the chat: the server has taken all of the input";
    assert_eq!(ann.err_rest(), [taken]);
}

#[test]
fn lines_piped_while_the_server_is_down_arrive_after() {
    let (port, url, mut server, mut ann) = connected_pair();
    server.joined();
    server.program.signal("KILL");
    // Until it has ended it may still have the port.
    server.program.exit();
    tries_again(&ann.err_line(), LOST);
    // More than the client reads ahead.
    for number in 0..1000 {
        ann.type_line(&number.to_string());
    }
    let mut server = port.serve();
    is_connected(&mut ann, &url);
    let a = server.joined();
    ann.type_line("and after");
    for number in 0..1000 {
        assert_eq!(server.line(), format!("Received from {a}: {number}"));
    }
    assert_eq!(server.line(), format!("Received from {a}: and after"));
}

/// The server is killed in the middle of a pipe: the lines in doubt and those that the next server
/// takes follow on each other, and none is sent twice.
#[test]
fn a_kill_in_the_middle_of_a_pipe_sends_no_line_twice() {
    in_the_middle_of_a_pipe("KILL", LOST);
}

/// A server that shuts down shows everything that it has confirmed, or says how many lines of it nobody has read
/// in time; so all others are either shown by one of the two, or named.
#[test]
fn a_shutdown_in_the_middle_of_a_pipe_loses_no_line_unnamed() {
    in_the_middle_of_a_pipe("INT", SHUT);
}

fn in_the_middle_of_a_pipe(signal: &str, why: &str) {
    // All of it fits into what the server's output may hold back.
    const LINES: usize = 20_000;
    let (port, url, mut server, mut ann) = connected_pair();
    let a = server.joined();
    let mut input = BufWriter::new(ann.input.take().unwrap());
    let writing = thread::spawn(move || {
        for number in 0..LINES {
            writeln!(input, "{number}").unwrap();
        }
        input.into_inner().unwrap()
    });
    let mut took = 0;
    while took < 1000 {
        assert_eq!(server.line(), format!("Received from {a}: {took}"));
        took += 1;
    }
    server.program.signal(signal);
    for line in server.program.rest() {
        // The last one of a server that was killed may be cut off.
        if line == format!("Received from {a}: {took}") {
            took += 1;
        }
    }
    server.program.exit(); // so that the port is free
    // When nobody reads them, it waits only so long for that at its end.
    let dropped = |line: String| {
        let count = line.strip_prefix("server: ")?;
        let count = count.strip_suffix(" log lines dropped at the end")?;
        count.parse::<usize>().ok()
    };
    let dropped: usize = server
        .program
        .err_rest()
        .into_iter()
        .filter_map(dropped)
        .sum();
    tries_again(&ann.err_line(), why);
    let mut server = port.serve();
    is_connected(&mut ann, &url);
    let again = server.joined();
    // Perhaps all others were sent before; this one was not.
    let mut input = writing.join().unwrap();
    writeln!(input, "{LINES}").unwrap();
    drop(input);
    let exit = ann.exit();
    // The lines in doubt, since the server has another past: five by their text, the others by their
    // number.
    let doubt = "client: the server may not have taken: ";
    let (mut doubtful, mut more) = (Vec::new(), 0);
    let said = ann.err_rest();
    for named in said.iter().filter_map(|line| line.strip_prefix(doubt)) {
        match named.strip_suffix(" more lines after that") {
            Some(number) => more = number.parse().unwrap(),
            None => doubtful.push(named.parse::<usize>().unwrap()),
        }
    }
    let first = server.line();
    let first = first.strip_prefix(&format!("Received from {again}: "));
    let first: usize = first.unwrap().parse().unwrap();
    let least = doubtful.first().copied().unwrap_or(first);
    let named: Vec<_> = (least..).take(doubtful.len()).collect();
    assert_eq!(doubtful, named);
    assert_eq!(first, least + doubtful.len() + more);
    assert!(took <= first, "{took} are shown, {first} is sent again");
    // What was confirmed may be lost in the memory of a server that was killed.
    let shown = signal == "KILL" || least <= took + dropped;
    assert!(
        shown,
        "{least} are confirmed, {took} are shown, {dropped} dropped"
    );
    for number in first + 1..=LINES {
        assert_eq!(server.line(), format!("Received from {again}: {number}"));
    }
    // The exit code tells whether everything is known to have arrived.
    assert_eq!(exit, i32::from(!doubtful.is_empty()));
}

/// What a pipe has said already is named when somebody leaves before the server has answered for the session:
/// until then nothing of it is sent.
#[test]
fn who_leaves_before_the_session_has_begun_is_told_what_was_not_sent() {
    let listener = RawServer::listen();
    let (mut client, mut server) = listener.join(&["--reconnect"]);
    client.type_line("one");
    client.type_line("two");
    let input = client.input.as_mut().unwrap();
    input.write_all(b"\xff\n").unwrap();
    // Then it has read the others, too.
    assert_eq!(client.err_line(), "client: line 3 is not UTF-8: not sent");
    client.signal("INT");
    while server.frame().is_some_and(|(kind, _)| kind != FIN | CLOSE) {}
    drop(server);
    assert_eq!(client.exit(), 1);
    let said = client.err_rest();
    let named = ["one", "two"].map(|line| format!("client: not sent: {line}"));
    assert!(named.iter().all(|line| said.contains(line)), "{said:?}");
    assert_eq!(said.last().unwrap(), "client: 3 lines were not sent");
}

/// A line that was sent may have arrived; sending it again could say it twice.
#[test]
fn lines_in_doubt_are_named_and_not_sent_again() {
    let listener = RawServer::listen();
    let url = listener.url();
    let mut ann = start(&url);
    let mut server = plain(&listener);
    assert_eq!(ann.err_line(), connected(&url));
    ann.type_line("one");
    assert_eq!(server.text(), "one");
    let (first, ping) = server.frame().unwrap();
    assert_eq!(first, FIN | PING);
    server.send_frame(FIN | PONG, &ping);
    ann.type_line("two");
    assert_eq!(server.text(), "two");
    server.frame().unwrap(); // its ping
    drop(server);
    let doubt = "client: the server may not have taken: two";
    assert_eq!(ann.err_line(), doubt);
    tries_again(&ann.err_line(), LOST);
    let mut server = plain(&listener);
    assert_eq!(ann.err_line(), connected(&url));
    ann.type_line("three");
    assert_eq!(server.frame().unwrap(), (FIN | TEXT, b"three".into()));
    // Numbers of lines go on, so that a late pong means what it meant.
    assert_eq!(
        server.frame().unwrap(),
        (FIN | PING, 3u64.to_be_bytes().into())
    );
}

/// The link breaks after the end of the input, and most of it is still to be sent: the client goes
/// on until it is, and the exit code says that not all of it is known to have arrived.
#[test]
fn what_is_unsent_at_the_end_of_the_input_is_sent_when_the_server_is_back() {
    const LINES: usize = 1000;
    let listener = RawServer::narrow();
    let url = listener.url();
    let mut ann = start(&url);
    let mut server = plain(&listener);
    assert_eq!(ann.err_line(), connected(&url));
    let text = |number: usize| format!("{number:04}{}", "x".repeat(1000));
    let lines: Vec<_> = (0..LINES).map(text).collect();
    // Small enough to be kept, so the client knows the end of it; more than the system holds on
    // its way to a server that takes one line.
    let mut input = ann.input.take().unwrap();
    input
        .write_all((lines.join("\n") + "\n").as_bytes())
        .unwrap();
    drop(input);
    assert_eq!(server.text(), lines[0]);
    server.reset();
    let mut line = ann.err_line();
    while line.starts_with("client: the server may not have taken: ") {
        line = ann.err_line();
    }
    assert!(line.contains("trying again in"), "{line}");
    let mut server = plain(&listener);
    assert_eq!(ann.err_line(), connected(&url));
    let first = server.text_with_pongs();
    let first: usize = first[..4].parse().unwrap();
    assert!(first < LINES);
    for line in &lines[first + 1..] {
        assert_eq!(server.text_with_pongs(), *line);
    }
    let (last, ping) = server.frame().unwrap();
    assert_eq!(last, FIN | PING);
    server.send_frame(FIN | PONG, &ping);
    assert_eq!(server.close(), (1000, String::new()));
    server.send_frame(FIN | CLOSE, &1000u16.to_be_bytes());
    server.shut();
    assert_eq!(ann.exit(), 1);
    let unsure = "client: the server did not confirm that it took everything";
    assert_eq!(ann.err_rest(), [unsure]);
}

/// A client in a window, without a server.
fn lonely(port: &Port, args: &[&str]) -> Window {
    let url = port.url();
    let mut window = Window::run(window::client(&[&[&*url], args].concat()), 100, 20);
    if args.contains(&"--reconnect") {
        window.until("trying again in ");
        window.press("\x0c");
    }
    window
}

const KEPT: &str = "client: not connected: kept to be sent later";

#[test]
fn lines_typed_while_the_server_is_down_arrive_after() {
    let port = Port::hold();
    let mut server = port.serve();
    let (mut window, _) = Window::join(&mut server, 100, 20, &["--reconnect"]);
    server.program.signal("KILL");
    // Until it has ended it may still have the port.
    server.program.exit();
    window.until(&format!("{LOST}; trying again in "));
    window.press("one\rtwo\rthree\rhalf");
    for (text, waiting) in [("one", 1), ("two", 2), ("three", 3)] {
        window.shows_row(&format!("> {text}"));
        window.shows_row(&format!("{KEPT} ({waiting} waiting)"));
    }
    let mut server = port.serve();
    window.until(&connected(&port.url()));
    let a = server.joined();
    window.press(" a line\r");
    for text in ["one", "two", "three", "half a line"] {
        assert_eq!(server.line(), format!("Received from {a}: {text}"));
    }
    window.press("\x04");
    assert_eq!(window.exit(), 0);
    window.until(LEFT);
    window.modes_are_restored();
}

#[test]
fn a_wait_is_left_at_once_when_nothing_was_kept() {
    let port = Port::hold();
    for keys in ["\x03", "\x04"] {
        let mut window = lonely(&port, &["--reconnect"]);
        window.press(keys);
        assert_eq!(window.exit(), 0);
        window.until(LEFT);
        window.modes_are_restored();
    }
    for name in ["INT", "TERM", "HUP"] {
        let mut window = lonely(&port, &["--reconnect"]);
        window.press("half");
        window.until("> half");
        window.signal(name);
        assert_eq!(window.exit(), 0, "{name}");
        window.until(LEFT);
        window.modes_are_restored();
        // The same with pipes at both ends.
        let mut ann = start(&port.url());
        tries_again(&ann.err_line(), &refused(&port.url()));
        ann.signal(name);
        assert_eq!(ann.exit(), 0, "{name}");
        assert_eq!(ann.err_rest().last().unwrap(), LEFT);
    }
}

#[test]
fn lines_that_were_kept_and_never_sent_are_named() {
    let port = Port::hold();
    for count in [1, 7] {
        let mut window = lonely(&port, &["--reconnect"]);
        for number in 0..count {
            window.press(&format!("line {number}\r"));
        }
        window.shows_row(&format!("{KEPT} ({count} waiting)"));
        window.press("\x0c\x03");
        assert_eq!(window.exit(), 1);
        window.until(match count {
            1 => "client: 1 line was not sent",
            _ => "client: 7 lines were not sent",
        });
        for number in 0..count.min(5) {
            window.shows_row(&format!("client: not sent: line {number}"));
        }
        if count > 5 {
            window.shows_row("client: not sent: 2 more lines after that");
        }
        window.modes_are_restored();
    }
}

/// What came through a pipe and was never sent is no less lost.
#[test]
fn piped_lines_that_were_never_sent_are_not_lost_in_silence() {
    let port = Port::hold();
    let mut ann = start(&port.url());
    tries_again(&ann.err_line(), &refused(&port.url()));
    ann.type_line("one");
    ann.type_line("two");
    // It has read them ahead: the second attempt is behind the end of the input.
    ann.end_input();
    tries_again(&ann.err_line(), &refused(&port.url()));
    ann.signal("INT");
    let code = ann.exit();
    let mut said = ann.err_rest();
    said.retain(|line| !line.contains("trying again in"));
    let expected = [
        "client: not sent: one",
        "client: not sent: two",
        "client: 2 lines were not sent",
    ];
    assert_eq!((code, said), (1, expected.map(String::from).to_vec()));
}

/// A person's lines are kept up to a bound, and what is beyond it is said at once.
#[test]
fn the_bound_of_what_is_kept_is_said() {
    // As many of the longest lines as limits.outbox has room for.
    const LONGEST: usize = 16 * 1024;
    const KEPT_LINES: usize = 64;
    let port = Port::hold();
    let mut window = lonely(&port, &["--reconnect"]);
    let line = |number: usize| format!("{number:0LONGEST$}");
    for number in 0..KEPT_LINES {
        window.press(&format!("{}\r", line(number)));
    }
    window.shows_row(&format!("{KEPT} ({KEPT_LINES} waiting)"));
    window.press("one too many\r");
    window.shows_row("client: not connected, and too much is waiting: this line is not kept");
    // Served by hand, since so much at once may be more than a server's output holds back.
    let mut server = RawServer::on(port.number).accept();
    window.until(&connected(&port.url()));
    for number in 0..KEPT_LINES {
        let text = server.text_with_pongs();
        assert!(text == line(number), "line {number} is another one");
    }
    window.press("and after\r");
    assert_eq!(server.text_with_pongs(), "and after");
    window.press("\x03");
    assert_eq!(window.exit(), 1);
    window.shows_row("client: 1 line was not sent");
}

/// Whoever accepts connections and says nothing is no server to be asked again at once.
#[test]
fn a_server_that_only_hangs_up_is_waited_for_longer_each_time() {
    let listener = RawServer::listen();
    let mut ann = start(&listener.url());
    let mut hangs_up = || {
        drop(listener.accept());
        assert_eq!(ann.err_line(), connected(&listener.url()));
        tries_again(&ann.err_line(), LOST)
    };
    // At most a second, then one at least.
    assert!(hangs_up() <= 1.0);
    assert!(hangs_up() >= 1.0);
    // One that has said something is asked again soon.
    drop(plain(&listener));
    assert_eq!(ann.err_line(), connected(&listener.url()));
    assert!(tries_again(&ann.err_line(), LOST) <= 1.0);
}

#[test]
fn without_the_flag_the_first_loss_is_the_end() {
    for (signal, why) in [("KILL", LOST), ("INT", SHUT)] {
        let mut server = Server::start();
        let (mut ann, _) = server.join();
        let (mut window, _) = Window::join(&mut server, 100, 5, &[]);
        server.program.signal(signal);
        let why = format!("client: {why}");
        assert_eq!(ann.exit(), 1);
        assert_eq!((ann.rest(), ann.err_rest()), (vec![], vec![why.clone()]));
        assert_eq!(window.exit(), 1);
        // A person may not know that there is a remedy.
        let why = format!("{why}; with --reconnect it would try again");
        window.is_restored(&[&why, ""]);
    }
    let port = Port::hold();
    let why = format!("client: {}", refused(&port.url()));
    let mut ann = Program::start("client", &[&port.url()]);
    assert_eq!((ann.exit(), ann.err_rest()), (1, vec![why.clone()]));
    let mut window = lonely(&port, &[]);
    assert_eq!(window.exit(), 1);
    window.is_restored(&[&why, ""]);
}

/// Lines that were read from a pipe that goes on, and that nobody has taken: whoever ends the client
/// while there is no server is told of them.
#[test]
fn lines_of_a_running_pipe_that_were_not_sent_are_named_when_it_is_left_offline() {
    let (_port, _url, mut server, mut ann) = connected_pair();
    server.joined();
    server.program.signal("KILL");
    tries_again(&ann.err_line(), LOST);
    ann.type_line("one");
    ann.type_line("two");
    // A pipe holds 64 KiB. So when it has taken more, the client has read on behind these two. A line without an end
    // is none yet.
    let mut input = ann.input.take().unwrap();
    input
        .write_all(&"x".repeat(128 * 1024).into_bytes())
        .unwrap();
    ann.signal("TERM");
    assert_eq!(ann.exit(), 1);
    let said = ann.err_rest();
    for line in ["not sent: one", "not sent: two"] {
        assert!(said.iter().any(|said| said.ends_with(line)), "{said:?}");
    }
    assert_eq!(said.last().unwrap(), "client: 2 lines were not sent");
    drop(input);
}
