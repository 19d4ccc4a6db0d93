//! From the bytes a terminal sends to the keys a person pressed. No I/O.
//!
//! The decoder never waits for time to pass: ESC is the start of a sequence or
//! of Alt, however long ago it came, as in readline. Nothing here needs the
//! Escape key on its own. Only a paste can end with a pause, which whoever has
//! a clock tells.

use std::mem;

/// A key, or a character of a paste (which can only be `Text` or `Enter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are named as on the keyboard")]
pub enum Key {
    /// A character to insert: a tab, or anything that is not a control character.
    Text(char),
    /// Also Ctrl+J, and any of CR, LF, CR LF in a paste.
    Enter,
    /// Ctrl and a lower-case letter.
    Control(char),
    /// Alt and an ASCII character.
    Alt(char),
    Backspace,
    /// Backspace with Alt.
    WordBackspace,
    Delete,
    /// Delete with Ctrl or Alt.
    WordDelete,
    Left,
    Right,
    /// Left with Ctrl or Alt.
    WordLeft,
    /// Right with Ctrl or Alt.
    WordRight,
    Up,
    Down,
    Home,
    End,
}

/// Bytes of a CSI sequence that are kept; no key's sequence is longer, and
/// the rest of a longer one is swallowed.
const SEQUENCE: usize = 32;

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    Utf8([u8; 4], usize),
    Escape,
    /// After ESC O (Single Shift 3): how some terminals begin arrow keys.
    Ss3,
    /// After ESC [ (Control Sequence Introducer).
    Csi(Vec<u8>),
}

/// Turns bytes into keys, one byte at a time.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Between the marks of a bracketed paste, where no key is a command.
    pasting: bool,
    /// A CR was the last byte, so that LF after it is the same line's end.
    returned: bool,
}

impl Decoder {
    /// Takes the next byte; returns the key that it completes.
    pub fn feed(&mut self, byte: u8) -> Option<Key> {
        let returned = mem::take(&mut self.returned);
        if returned && byte == b'\n' {
            return None;
        }
        let key = match mem::take(&mut self.state) {
            State::Ground => self.ground(byte),
            State::Utf8(bytes, len) => self.utf8(bytes, len, byte),
            State::Escape => self.escape(byte),
            // A control character is never part of a sequence: that one was cut off.
            _ if byte < b' ' => self.ground(byte),
            State::Ss3 => arrow(byte, false),
            State::Csi(sequence) => self.csi(sequence, byte),
        };
        match key {
            Some(Key::Alt(char)) if self.pasting => Some(Key::Text(char)),
            Some(Key::Text(_) | Key::Enter) | None => key,
            Some(_) => key.filter(|_| !self.pasting),
        }
    }

    /// Whether no key is a command until a paste has ended.
    #[must_use]
    pub fn is_pasting(&self) -> bool {
        self.pasting
    }

    /// A paste has ended, whether its end mark came or not.
    pub fn end_paste(&mut self) {
        self.pasting = false;
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        match byte {
            0x1b => {
                self.state = State::Escape;
                None
            }
            b'\r' => {
                self.returned = true;
                Some(Key::Enter)
            }
            b'\n' => Some(Key::Enter),
            b'\t' | b' '..=b'~' => Some(Key::Text(byte.into())),
            0x08 | 0x7f => Some(Key::Backspace),
            0..=0x1f => Some(Key::Control((byte | 0x60).into())),
            0x80.. => self.utf8([0; 4], 0, byte),
        }
    }

    fn utf8(&mut self, mut bytes: [u8; 4], len: usize, byte: u8) -> Option<Key> {
        bytes[len] = byte;
        match str::from_utf8(&bytes[..=len]) {
            Ok(text) => text
                .chars()
                .next()
                // C1 control characters are two bytes long.
                .filter(|char| !char.is_control())
                .map(Key::Text),
            // Incomplete. Four bytes are never that, so `bytes` is long enough.
            Err(error) if error.error_len().is_none() => {
                self.state = State::Utf8(bytes, len + 1);
                None
            }
            // Broken text is dropped; the byte that broke it may begin something.
            Err(_) if len > 0 => self.ground(byte),
            Err(_) => None,
        }
    }

    fn escape(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' => self.state = State::Csi(Vec::new()),
            b'O' => self.state = State::Ss3,
            0x08 | 0x7f => return Some(Key::WordBackspace),
            b' '..=b'~' => return Some(Key::Alt(byte.into())),
            _ => return self.ground(byte),
        }
        None
    }

    fn csi(&mut self, mut sequence: Vec<u8>, byte: u8) -> Option<Key> {
        // The Linux console's function keys have a second bracket, ESC [ [ A.
        let ends = matches!(byte, b'@'..=b'~') && !(byte == b'[' && sequence.is_empty());
        if !ends {
            if sequence.len() < SEQUENCE {
                sequence.push(byte);
            }
            self.state = State::Csi(sequence);
            return None;
        }
        let sequence = str::from_utf8(&sequence).unwrap_or_default();
        let (number, modifiers) = sequence.split_once(';').unwrap_or((sequence, "1"));
        // One more than the sum of Shift 1, Alt 2, Ctrl 4.
        let by_word = modifiers
            .parse::<u8>()
            .is_ok_and(|sum| sum.wrapping_sub(1) & 0b110 != 0);
        match (number, byte) {
            ("200" | "201", b'~') => {
                self.pasting = number == "200";
                None
            }
            ("1" | "7", b'~') => Some(Key::Home),
            ("4" | "8", b'~') => Some(Key::End),
            ("3", b'~') if by_word => Some(Key::WordDelete),
            ("3", b'~') => Some(Key::Delete),
            ("" | "1", _) => arrow(byte, by_word),
            _ => None,
        }
    }
}

fn arrow(byte: u8, by_word: bool) -> Option<Key> {
    match byte {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'C' if by_word => Some(Key::WordRight),
        b'C' => Some(Key::Right),
        b'D' if by_word => Some(Key::WordLeft),
        b'D' => Some(Key::Left),
        b'F' => Some(Key::End),
        b'H' => Some(Key::Home),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        bytes
            .iter()
            .filter_map(|&byte| decoder.feed(byte))
            .collect()
    }

    fn text(text: &str) -> Vec<Key> {
        text.chars().map(Key::Text).collect()
    }

    #[test]
    fn sequences() {
        for (bytes, key) in [
            ("\x1b[A", Key::Up),
            ("\x1bOA", Key::Up),
            ("\x1b[1;5D", Key::WordLeft),
            ("\x1b[1;3C", Key::WordRight),
            ("\x1b[1;2C", Key::Right),
            ("\x1b[3~", Key::Delete),
            ("\x1b[3;5~", Key::WordDelete),
            ("\x1b[1~", Key::Home),
            ("\x1bOF", Key::End),
            ("\x1b\x7f", Key::WordBackspace),
            ("\x1bb", Key::Alt('b')),
            ("\x1b\x1bb", Key::Alt('b')),
            ("\x7f", Key::Backspace),
            ("\x08", Key::Backspace),
            ("\x01", Key::Control('a')),
            ("\x1a", Key::Control('z')),
            ("\n", Key::Enter),
            ("\r\n", Key::Enter),
            ("\x1b\r", Key::Enter),
            // cut off by another key
            ("\x1b[1;\x03", Key::Control('c')),
        ] {
            assert_eq!(keys(bytes.as_bytes()), [key], "{bytes:?}");
        }
    }

    #[test]
    fn unknown_sequences_are_swallowed_whole() {
        assert_eq!(
            keys(b"\x1b[[Aa\x1b[15~b\x1b[?1;2cc\x1b[Id\x1bOPe"),
            text("abcde")
        );
        assert_eq!(
            keys(format!("\x1b[{}m!", "1;".repeat(500)).as_bytes()),
            text("!")
        );
    }

    #[test]
    fn utf8_whole_broken_and_cut_off() {
        assert_eq!(keys("aé汉👍".as_bytes()), text("aé汉👍"));
        assert_eq!(keys(b"\xff\xe6\xb1a\xc3\xc3\xa9\x80"), text("aé"));
        assert_eq!(keys("\u{9b}31m".as_bytes()), text("31m"));
    }

    #[test]
    fn a_paste_is_text_and_line_ends() {
        let mut expected = text("a\tb");
        for line in ["c", "d", "e"] {
            expected.push(Key::Enter);
            expected.extend(text(line));
        }
        let pasted = b"\x1b[200~a\tb\x03\x1a\x7f\rc\nd\r\n\x1b[31me\x1b[A\x1b[201~\x03";
        expected.push(Key::Control('c'));
        assert_eq!(keys(pasted), expected);
    }

    /// A terminal that died in the middle of a paste, or a program that writes half a one.
    #[test]
    fn a_paste_whose_end_never_comes_can_be_ended() {
        let mut decoder = Decoder::default();
        for &byte in b"\x1b[200~a\x03\x04\x1b[20" {
            assert_ne!(decoder.feed(byte), Some(Key::Control('c')));
        }
        assert!(decoder.is_pasting());
        decoder.end_paste();
        assert_eq!(decoder.feed(0x03), Some(Key::Control('c')));
        assert_eq!(decoder.feed(0x04), Some(Key::Control('d')));
    }
}
