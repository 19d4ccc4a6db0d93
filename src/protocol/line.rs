//! What a chat line is: pure functions, no I/O.

use std::borrow::Cow;
use std::str::Utf8Error;

use tokio_websockets::Message;

/// The text of a message.
///
/// # Errors
///
/// The bytes are not UTF-8. The WebSocket library has looked already, but lets a fragmented
/// message end inside a code point, so what it calls text is checked again (RFC 6455 8.1).
pub fn text(message: &Message) -> Result<&str, Utf8Error> {
    std::str::from_utf8(message.as_payload())
}

/// The lines of a message, without their ends (`\n` or `\r\n`). A line may be empty, and so an
/// empty message is one line.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let empty = text.is_empty().then_some("");
    empty.into_iter().chain(text.lines())
}

/// The line with everything that could steer a terminal or reorder a log made visible as U+FFFD.
/// Clean text, which is nearly all text, is not copied.
#[must_use]
pub fn clean(line: &str) -> Cow<'_, str> {
    // Nearly always the answer. A piece is looked at to its end, also behind a byte that is not plain: of
    // that the compiler makes instructions for many bytes at once.
    let mut pieces = line.as_bytes().chunks(64);
    if pieces.all(|piece| piece.iter().fold(true, |all, byte| all & is_plain(*byte))) {
        return Cow::Borrowed(line);
    }
    let Some(first) = line.find(is_harmful) else {
        return Cow::Borrowed(line);
    };
    let mut cleaned = String::with_capacity(line.len() + 2);
    cleaned.push_str(&line[..first]);
    cleaned.extend(
        line[first..]
            .chars()
            .map(|c| if is_harmful(c) { '\u{FFFD}' } else { c }),
    );
    Cow::Owned(cleaned)
}

/// Whether a byte is a printable character of ASCII, or the tab.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// Whether a character acts on its surroundings instead of being seen: C0 but the tab, DEL, C1,
/// the line and paragraph separators (some readers of logs end a line there), and the
/// bidirectional overrides and isolates, which make text read other than it is stored. Marks
/// that right-to-left text needs (U+200E, U+200F, U+061C) and joiners (U+200D) stay.
fn is_harmful(c: char) -> bool {
    let is_separator =
        matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    is_separator || c.is_control() && c != '\t' // C0, DEL, C1: Unicode's category Cc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_is_not_copied() {
        for text in ["hello", "a\tb", "‏שלום עולם", "مرحبا", "👩‍👩‍👧 é 漢字", ""]
        {
            assert!(matches!(clean(text), Cow::Borrowed(_)), "{text:?}");
        }
    }

    #[test]
    fn what_steers_a_terminal_becomes_visible() {
        assert_eq!(clean("a\x1b[31mb\x07"), "a\u{FFFD}[31mb\u{FFFD}");
        assert_eq!(clean("\u{9b}2J\u{7f}"), "\u{FFFD}2J\u{FFFD}");
        assert_eq!(clean("\u{202E}evil\u{2066}"), "\u{FFFD}evil\u{FFFD}");
        assert_eq!(clean("a\rb"), "a\u{FFFD}b");
    }

    #[test]
    fn a_message_may_hold_several_lines() {
        let several: Vec<_> = lines("one\r\ntwo\n\n\r\nthree\n").collect();
        assert_eq!(several, ["one", "two", "", "", "three"]);
        assert_eq!(lines("\n\r\n").count(), 2);
        assert_eq!(lines("").collect::<Vec<_>>(), [""]);
    }
}
