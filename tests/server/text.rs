//! What the text of a message can do to those who read it: nothing but be read.

use crate::support::raw::{CONTINUATION, FIN, Raw, TEXT, frame};
use crate::support::{Program, Server};

/// One who speaks, one who listens, and a client that shows.
struct Chat {
    server: Server,
    ann: Raw,
    bob: Raw,
    cid: Program,
}

impl Chat {
    fn start(args: &[&str]) -> Self {
        let mut server = Server::with(args);
        let (cid, _) = server.join();
        let mut join = || {
            let raw = Raw::join(server.port);
            assert_eq!(server.line(), format!("New connection from {}", raw.name()));
            raw
        };
        let (ann, bob) = (join(), join());
        Self {
            server,
            ann,
            bob,
            cid,
        }
    }

    /// The next that everybody hears of the one who speaks is this line.
    fn hears(&mut self, line: &str) {
        let name = self.ann.name();
        assert_eq!(self.bob.text(), format!("{name}: {line}"));
        assert_eq!(self.cid.line(), format!("{name}: {line}"));
        assert_eq!(self.server.line(), format!("Received from {name}: {line}"));
    }

    fn says(&mut self, text: &str, lines: &[&str]) {
        self.ann.say(text);
        for line in lines {
            self.hears(line);
        }
    }

    /// Nothing came before what is said now.
    fn and_nothing_else(mut self) {
        self.says("end", &["end"]);
    }
}

#[test]
fn every_line_of_a_message_carries_the_name_of_its_sender() {
    let mut chat = Chat::start(&[]);
    let forged = [
        "127.0.0.1:1: I never said this",
        "New connection from 127.0.0.1:1",
        "Client 127.0.0.1:1 disconnected",
        "Received from 127.0.0.1:1: nor this",
        "* 5 messages missed",
        "server: standard output is closed: the log ends here",
        " ",
        "listening on port 1",
    ];
    chat.says(&forged.join("\n"), &forged);
    chat.says(&forged.join("\r\n"), &forged);
    chat.says(
        &format!("\n{}\n", forged.join("\n")),
        &[&[""], &forged[..]].concat(),
    );
    for line in forged {
        chat.says(line, &[line]);
    }
    // What ends a line elsewhere does not end one here.
    for end in ["\r", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}"] {
        let text = format!("a{end}New connection from 127.0.0.1:1");
        chat.says(&text, &["a\u{FFFD}New connection from 127.0.0.1:1"]);
    }
    chat.and_nothing_else();
}

#[test]
fn lines_that_come_in_fragments_are_cut_where_the_lines_are() {
    let mut chat = Chat::start(&[]);
    let text = "one\r\ntwo 👋\nthree".as_bytes();
    chat.ann.send(&frame(TEXT, &text[..1]));
    for byte in &text[1..] {
        chat.ann.send(&frame(CONTINUATION, &[*byte]));
    }
    chat.ann.send(&frame(FIN | CONTINUATION, b""));
    for line in ["one", "two 👋", "three"] {
        chat.hears(line);
    }
    chat.and_nothing_else();
}

#[test]
fn a_character_that_steers_is_seen_and_does_nothing() {
    let steers = ('\0'..='\u{9f}')
        .filter(|c| c.is_control() && !"\t\n".contains(*c))
        .chain('\u{202A}'..='\u{202E}')
        .chain('\u{2066}'..='\u{2069}')
        .chain(['\u{2028}', '\u{2029}']);
    let steers: Vec<_> = steers.collect();
    assert_eq!(steers.len(), 30 + 1 + 32 + 5 + 4 + 2);
    let mut chat = Chat::start(&[]);
    for c in &steers {
        chat.says(&format!("a{c}b"), &["a\u{FFFD}b"]);
        chat.says(&c.to_string(), &["\u{FFFD}"]);
    }
    let all: String = steers.iter().collect();
    let seen = "\u{FFFD}".repeat(steers.len());
    chat.says(&format!("{all}\n{all}"), &[&seen, &seen]);
    chat.says(
        "\x1b]0;title\x07\x1b[2J\n\x1b[1A",
        &["\u{FFFD}]0;title\u{FFFD}\u{FFFD}[2J", "\u{FFFD}[1A"],
    );
    chat.and_nothing_else();
}

#[test]
fn text_of_the_world_passes_as_it_is() {
    let mut chat = Chat::start(&[]);
    for line in [
        "apa kabar?",
        "a\tb\t",
        "  leading and trailing  ",
        "👩‍👩‍👧‍👦 🏳️‍🌈 👋🏽 🇮🇩",
        "\u{200F}שלום עולם\u{200E}",
        "مرحبا\u{061C} بالعالم",
        "نمی\u{200C}خواهم",
        "e\u{301} é 漢字 한글 ไทย",
        "\u{FEFF}\u{FFFD}\u{FFFF}\u{10FFFF}\u{E000}",
        "\u{a0}\u{ad}\u{2027}\u{202F}\u{2065}\u{206A}",
    ] {
        chat.says(line, &[line]);
    }
    chat.and_nothing_else();
}

/// A line may be empty, and a message that is empty is such a line.
#[test]
fn empty_lines_are_lines() {
    let mut chat = Chat::start(&[]);
    for text in ["", "\n", "\r\n"] {
        chat.says(text, &[""]);
    }
    chat.says("\n\r\n\n", &["", "", ""]);
    chat.ann.send(&frame(TEXT, b""));
    chat.ann.send(&frame(FIN | CONTINUATION, b""));
    chat.hears("");
    chat.says("\n\na\n\nb", &["", "", "a", "", "b"]);
    chat.and_nothing_else();
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
    for (args, most) in [
        (&[][..], 16_384),
        (&["--max-message", "10"], 10),
        (&["--max-message", "100000"], 100_000),
        (&["--max-message", "262144"], 262_144),
    ] {
        let mut chat = Chat::start(args);
        let longest = "x".repeat(most);
        chat.says(&longest, &[&longest]);
        // Each of these grows to three bytes on its way.
        chat.says(&"\x07".repeat(most), &[&"\u{FFFD}".repeat(most)]);
        let half = "y".repeat(most / 2);
        chat.ann.send(&frame(TEXT, half.as_bytes()));
        chat.ann.send(&frame(FIN | CONTINUATION, half.as_bytes()));
        chat.hears(&half.repeat(2));
        let mut dan = Raw::join(chat.server.port);
        chat.server.line();
        dan.say(&"x".repeat(most + 1));
        assert_eq!(
            dan.close(),
            (
                1009,
                format!(
                    "a message of {} bytes, and at most {most} are allowed",
                    most + 1
                )
            )
        );
        drop(dan);
        chat.server.line();
        chat.and_nothing_else();
    }
}

#[test]
fn a_message_of_many_lines_arrives_line_by_line() {
    let mut chat = Chat::start(&[]);
    let text = "\u{7f}\n".repeat(16_384 / 2);
    chat.says(&text, &vec!["\u{FFFD}"; 16_384 / 2]);
    chat.and_nothing_else();
}
