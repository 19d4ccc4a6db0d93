//! The line being typed: what each key does to it, and where its characters
//! come to stand on the screen. No I/O.
//!
//! The unit is the grapheme cluster (Unicode Standard Annex 29), so that one
//! key press steps over, or deletes, what a person sees as one character.

use std::{collections::VecDeque, mem, ops::Range};

use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};
use unicode_width::UnicodeWidthStr;

use super::keys::Key;

/// Lines that Up can bring back; as many as a shell keeps by default.
const HISTORY_LINES: usize = 500;
/// Bytes of those lines, so that pasted books do not stay in memory.
const HISTORY_BYTES: usize = 256 * 1024;

/// What a key led to.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Edit {
    /// The line looks as before.
    Nothing,
    /// The text or the cursor changed.
    Changed,
    /// The line is finished; the editor is empty again.
    Line(String),
    /// The same of a line that is longer than a line may be, of which only the beginning is known.
    TooLong,
    /// The person wants to go (Ctrl+C, or Ctrl+D on an empty line).
    Leave,
    /// The person wants the shell back for a while (Ctrl+Z).
    Suspend,
    /// The person wants an empty screen (Ctrl+L).
    Clear,
}

/// The text being typed, its cursor, the history, and the text last killed.
#[derive(Debug)]
pub struct Editor {
    text: String,
    /// In bytes; always at a boundary of grapheme clusters.
    cursor: usize,
    max: usize,
    /// Something did not fit. The rest of a paste does not belong behind what did.
    is_full: bool,
    killed: String,
    history: History,
}

impl Editor {
    /// An empty line that takes at most `max` bytes of UTF-8.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            text: String::new(),
            cursor: 0,
            max,
            is_full: false,
            killed: String::new(),
            history: History::default(),
        }
    }

    /// The text as typed so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Bytes of the longest line.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Where the next character goes, in bytes from the start of the text.
    #[must_use]
    pub fn cursor(&self) -> usize {
        self.cursor
    }

    /// Takes the text away, as if nothing had been typed.
    pub fn clear(&mut self) -> String {
        (self.cursor, self.is_full) = (0, false);
        mem::take(&mut self.text)
    }

    /// Does what the key does in a shell (readline's Emacs mode).
    pub fn key(&mut self, key: Key) -> Edit {
        match key {
            Key::Text(char) => self.insert(char.encode_utf8(&mut [0; 4])),
            Key::Enter => self.submit(),
            Key::Control('c') => Edit::Leave,
            Key::Control('d') if self.text.is_empty() => Edit::Leave,
            Key::Control('z') => Edit::Suspend,
            Key::Control('l') => Edit::Clear,
            Key::Left | Key::Control('b') => self.go(self.previous()),
            Key::Right | Key::Control('f') => self.go(self.following()),
            Key::WordLeft | Key::Alt('b') => self.go(self.word_start(has_letters)),
            Key::WordRight | Key::Alt('f') => self.go(self.word_end()),
            Key::Home | Key::Control('a') => self.go(0),
            Key::End | Key::Control('e') => self.go(self.text.len()),
            Key::Up | Key::Control('p') => self.recall(History::older),
            Key::Down | Key::Control('n') => self.recall(History::newer),
            Key::Backspace => self.delete(self.previous()..self.cursor),
            Key::Delete | Key::Control('d') => self.delete(self.cursor..self.following()),
            Key::WordBackspace => self.kill(self.word_start(has_letters)..self.cursor),
            Key::Control('w') => self.kill(self.word_start(is_not_space)..self.cursor),
            Key::WordDelete | Key::Alt('d') => self.kill(self.cursor..self.word_end()),
            Key::Control('u') => self.kill(0..self.cursor),
            Key::Control('k') => self.kill(self.cursor..self.text.len()),
            Key::Control('y') => self.insert(&self.killed.clone()),
            Key::Control(_) | Key::Alt(_) => Edit::Nothing,
        }
    }

    fn insert(&mut self, text: &str) -> Edit {
        self.is_full |= self.text.len() + text.len() > self.max;
        if text.is_empty() || self.is_full {
            return Edit::Nothing;
        }
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
        self.settle();
        Edit::Changed
    }

    fn submit(&mut self) -> Edit {
        let is_full = self.is_full;
        let line = self.clear();
        self.history.add(&line);
        if is_full {
            Edit::TooLong
        } else {
            Edit::Line(line)
        }
    }

    fn go(&mut self, to: usize) -> Edit {
        let from = mem::replace(&mut self.cursor, to);
        if from == to {
            Edit::Nothing
        } else {
            Edit::Changed
        }
    }

    fn delete(&mut self, range: Range<usize>) -> Edit {
        if range.is_empty() {
            return Edit::Nothing;
        }
        (self.cursor, self.is_full) = (range.start, false);
        self.text.drain(range);
        self.settle();
        Edit::Changed
    }

    fn kill(&mut self, range: Range<usize>) -> Edit {
        // Killing nothing must not cost what can still be yanked.
        if !range.is_empty() {
            self.killed = self.text[range.clone()].to_owned();
        }
        self.delete(range)
    }

    fn recall(&mut self, step: fn(&mut History, &str) -> Option<String>) -> Edit {
        let Some(text) = step(&mut self.history, &self.text) else {
            return Edit::Nothing;
        };
        (self.cursor, self.is_full) = (text.len(), false);
        self.text = text;
        Edit::Changed
    }

    /// Characters that came together may have joined into one cluster (two
    /// halves of a flag, say): the cursor then belongs after it.
    fn settle(&mut self) {
        let len = self.text.len();
        let mut cursor = GraphemeCursor::new(self.cursor, len, true);
        if let Ok(false) = cursor.is_boundary(&self.text, 0) {
            self.cursor = cursor
                .next_boundary(&self.text, 0)
                .ok()
                .flatten()
                .unwrap_or(len);
        }
    }

    fn previous(&self) -> usize {
        let mut before = self.text[..self.cursor].grapheme_indices(true);
        before.next_back().map_or(0, |(start, _)| start)
    }

    fn following(&self) -> usize {
        let mut after = self.text[self.cursor..].graphemes(true);
        self.cursor + after.next().map_or(0, str::len)
    }

    fn word_start(&self, is_word: fn(&str) -> bool) -> usize {
        self.text[..self.cursor]
            .grapheme_indices(true)
            .rev()
            .skip_while(|(_, cluster)| !is_word(cluster))
            .take_while(|(_, cluster)| is_word(cluster))
            .last()
            .map_or(0, |(start, _)| start)
    }

    fn word_end(&self) -> usize {
        self.text[self.cursor..]
            .grapheme_indices(true)
            .skip_while(|(_, cluster)| !has_letters(cluster))
            .take_while(|(_, cluster)| has_letters(cluster))
            .last()
            .map_or(self.text.len(), |(start, cluster)| {
                self.cursor + start + cluster.len()
            })
    }
}

fn has_letters(cluster: &str) -> bool {
    cluster.contains(char::is_alphanumeric)
}

fn is_not_space(cluster: &str) -> bool {
    !cluster.contains(char::is_whitespace)
}

/// The lines of this session, oldest first, and a place among them.
#[derive(Debug, Default)]
struct History {
    lines: VecDeque<String>,
    bytes: usize,
    /// The index of the line that is shown; `lines.len()` for the draft.
    at: usize,
    /// The half-typed line that Up left behind.
    draft: String,
}

impl History {
    fn add(&mut self, line: &str) {
        if !line.is_empty() && self.lines.back().is_none_or(|last| last != line) {
            self.bytes += line.len();
            self.lines.push_back(line.to_owned());
        }
        while self.lines.len() > HISTORY_LINES || self.bytes > HISTORY_BYTES {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |line| line.len());
        }
        self.at = self.lines.len();
        self.draft.clear();
    }

    fn older(&mut self, shown: &str) -> Option<String> {
        let older = self.at.checked_sub(1)?;
        if self.at == self.lines.len() {
            shown.clone_into(&mut self.draft);
        }
        self.at = older;
        self.lines.get(older).cloned()
    }

    fn newer(&mut self, _: &str) -> Option<String> {
        if self.at == self.lines.len() {
            return None;
        }
        self.at += 1;
        let newer = self.lines.get(self.at).cloned();
        Some(newer.unwrap_or_else(|| mem::take(&mut self.draft)))
    }
}

/// Where a line stands on a screen.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// What each row shows; none is wider than the screen.
    pub rows: Vec<String>,
    /// The cursor's row among `rows`.
    pub row: usize,
    /// The cursor's column, less than the screen's columns.
    pub column: usize,
}

/// Breaks the prompt and the text into rows of `columns`, with the cursor on
/// the character that begins at byte `cursor` of the text. Of more than
/// `max_rows` it keeps those that end with the cursor's.
#[must_use]
pub fn layout(prompt: &str, text: &str, cursor: usize, columns: usize, max_rows: usize) -> Layout {
    let columns = columns.max(1);
    let (mut rows, mut row, mut used) = (Vec::new(), String::new(), 0);
    let mut at = None;
    let of_prompt = prompt.graphemes(true).map(|cluster| (None, cluster));
    let of_text = text
        .grapheme_indices(true)
        .map(|(start, cluster)| (Some(start), cluster));
    for (start, cluster) in of_prompt.chain(of_text) {
        let (cluster, width) = cells(cluster, columns);
        // At least one, or a cursor on a zero-width character could stand outside.
        if used + width.max(1) > columns {
            rows.push(mem::take(&mut row));
            used = 0;
        }
        if at.is_none() && start.is_some_and(|start| start >= cursor) {
            at = Some((rows.len(), used));
        }
        row.push_str(cluster);
        used += width;
    }
    rows.push(row);
    // A full last row: the next character, and the cursor, go below it.
    if used == columns {
        rows.push(String::new());
        used = 0;
    }
    let (row, column) = at.unwrap_or((rows.len() - 1, used));
    let hidden = (row + 1).saturating_sub(max_rows.max(1));
    rows.drain(..hidden);
    rows.truncate(max_rows.max(1));
    Layout {
        rows,
        row: row - hidden,
        column,
    }
}

/// What stands for a cluster on the screen, and its width.
fn cells(cluster: &str, columns: usize) -> (&str, usize) {
    const STAND_IN: (&str, usize) = ("\u{fffd}", 1);
    match cluster.width() {
        // Its width on a screen depends on its place, ours would be a guess.
        _ if cluster == "\t" => (" ", 1),
        _ if cluster.contains(moves_others) => STAND_IN,
        width if width > columns => STAND_IN,
        width => (cluster, width),
    }
}

/// Line ends and bidirectional controls, which would rearrange the row.
fn moves_others(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn press(editor: &mut Editor, keys: &[Key]) {
        for &key in keys {
            let _ = editor.key(key);
        }
    }

    fn typed(text: &str) -> Editor {
        let mut editor = Editor::new(1000);
        press(
            &mut editor,
            &text.chars().map(Key::Text).collect::<Vec<_>>(),
        );
        editor
    }

    /// `|` is the cursor.
    fn shown(editor: &Editor) -> String {
        let (before, after) = editor.text().split_at(editor.cursor());
        format!("{before}|{after}")
    }

    #[test]
    fn keys_edit_as_in_a_shell() {
        use Key::*;
        let cases: &[(&str, &[Key], &str)] = &[
            ("abc", &[Left, Text('x')], "abx|c"),
            ("abc", &[Home, Right, Delete], "a|c"),
            ("abc", &[Control('a'), Control('d')], "|bc"),
            (
                "abc",
                &[Control('b'), Control('b'), Control('f'), Backspace],
                "a|c",
            ),
            ("e\u{301}a", &[Left, Backspace], "|a"),
            ("汉字", &[Left, Backspace], "|字"),
            (
                "👨\u{200d}👩\u{200d}👧x",
                &[Left, Left],
                "|👨\u{200d}👩\u{200d}👧x",
            ),
            ("one two-three", &[WordLeft], "one two-|three"),
            (
                "one two",
                &[Home, WordRight, WordRight, WordLeft],
                "one |two",
            ),
            ("one two-three  ", &[Control('w')], "one |"),
            ("satu dua é汉👍", &[Control('w')], "satu dua |"),
            ("one two-three", &[WordBackspace], "one two-|"),
            ("cafe\u{301} b", &[Home, WordRight], "cafe\u{301}| b"),
            ("one two", &[Home, Alt('d')], "| two"),
            (
                "one two",
                &[Home, WordDelete, End, Control('y')],
                " twoone|",
            ),
            ("one two", &[WordLeft, Control('k')], "one |"),
            ("one two", &[WordLeft, Control('u')], "|two"),
            (
                "one two",
                &[Control('u'), Control('k'), Control('y')],
                "one two|",
            ),
            (
                "one",
                &[Control('e'), Control('k'), Control('x'), Alt('z')],
                "one|",
            ),
            // two halves of a flag that come together are stepped over as one
            ("🇩x🇪", &[Left, Backspace], "🇩🇪|"),
        ];
        for (text, keys, expected) in cases {
            let mut editor = typed(text);
            press(&mut editor, keys);
            assert_eq!(shown(&editor), *expected, "{text:?} {keys:?}");
        }
    }

    #[test]
    fn keys_that_are_not_about_the_text() {
        assert_eq!(typed("a").key(Key::Control('c')), Edit::Leave);
        assert_eq!(typed("").key(Key::Control('d')), Edit::Leave);
        assert_eq!(typed("a").key(Key::Control('d')), Edit::Nothing);
        assert_eq!(typed("a").key(Key::Control('z')), Edit::Suspend);
        assert_eq!(typed("a").key(Key::Control('l')), Edit::Clear);
        assert_eq!(typed("ab").key(Key::Enter), Edit::Line("ab".into()));
    }

    #[test]
    fn of_a_line_that_is_too_long_the_beginning_is_left() {
        let mut editor = Editor::new(4);
        let text: Vec<_> = "ab汉c汉d".chars().map(Key::Text).collect();
        press(&mut editor, &text);
        assert_eq!(shown(&editor), "ab|");
        assert_eq!(editor.key(Key::Enter), Edit::TooLong);
        press(&mut editor, &text[..2]);
        assert_eq!(editor.key(Key::Enter), Edit::Line("ab".into()));
        // Whoever has deleted something has seen what is left.
        press(&mut editor, &text);
        press(&mut editor, &[Key::Backspace, Key::Text('e')]);
        assert_eq!(editor.key(Key::Enter), Edit::Line("ae".into()));
        press(&mut editor, &text);
        press(&mut editor, &[Key::Up]);
        assert_eq!(editor.key(Key::Enter), Edit::Line("ae".into()));
    }

    #[test]
    fn history_keeps_the_draft_and_its_bounds() {
        let mut editor = Editor::new(HISTORY_BYTES);
        for line in ["one", "two", "two", "", "three"] {
            press(
                &mut editor,
                &line.chars().map(Key::Text).collect::<Vec<_>>(),
            );
            press(&mut editor, &[Key::Enter]);
        }
        press(&mut editor, &[Key::Text('d'), Key::Up, Key::Control('p')]);
        assert_eq!(shown(&editor), "two|");
        press(&mut editor, &[Key::Up, Key::Up]);
        assert_eq!(shown(&editor), "one|");
        press(
            &mut editor,
            &[Key::Down, Key::Control('n'), Key::Down, Key::Down],
        );
        assert_eq!(shown(&editor), "d|");

        for number in 0..2 * HISTORY_LINES {
            editor.history.add(&number.to_string());
        }
        assert_eq!(editor.history.lines.len(), HISTORY_LINES);
        editor.history.add(&"x".repeat(HISTORY_BYTES - 1));
        assert_eq!(
            (editor.history.lines.len(), editor.history.bytes),
            (1, HISTORY_BYTES - 1)
        );
        editor.history.add(&"y".repeat(HISTORY_BYTES + 1));
        assert_eq!((editor.history.lines.len(), editor.history.bytes), (0, 0));
    }

    #[test]
    fn rows() {
        type Case = (
            &'static str,
            usize,
            usize,
            &'static [&'static str],
            (usize, usize),
        );
        #[rustfmt::skip]
        let cases: &[Case] = &[
            // text, cursor, columns, rows, cursor
            ("",           0,  5, &["> "],                      (0, 2)),
            ("ab",         2,  5, &["> ab"],                    (0, 4)),
            ("ab",         1,  5, &["> ab"],                    (0, 3)),
            // exactly full: the cursor is on the row below
            ("abc",        3,  5, &["> abc", ""],               (1, 0)),
            ("abc",        2,  5, &["> abc", ""],               (0, 4)),
            ("abcdefgh",   8,  5, &["> abc", "defgh", ""],      (2, 0)),
            ("abcdefgh",   3,  5, &["> abc", "defgh", ""],      (1, 0)),
            // a wide character that does not fit goes down, and the cursor with it
            ("ab汉c",      2,  5, &["> ab", "汉c"],             (1, 0)),
            ("ab汉c",      5,  5, &["> ab", "汉c"],             (1, 2)),
            ("a汉",        4,  5, &["> a汉", ""],               (1, 0)),
            // one cluster, two columns
            ("👨\u{200d}👩\u{200d}👧x", 18, 5, &["> 👨\u{200d}👩\u{200d}👧x", ""], (0, 4)),
            ("e\u{301}x",  3,  5, &["> e\u{301}x"],             (0, 3)),
            ("a\tb",       2,  5, &["> a b", ""],               (0, 4)),
            ("a\u{202e}b", 4,  5, &["> a\u{fffd}b", ""],        (0, 4)),
            // one column
            ("a汉",        1,  1, &[">", " ", "a", "\u{fffd}", ""], (3, 0)),
            ("a",          1,  0, &[">", " ", "a", ""],         (3, 0)),
        ];
        for &(text, cursor, columns, rows, (row, column)) in cases {
            let expected = Layout {
                rows: rows.iter().map(|&row| row.into()).collect(),
                row,
                column,
            };
            assert_eq!(
                layout("> ", text, cursor, columns, 99),
                expected,
                "{text:?} {cursor} {columns}"
            );
        }
    }

    #[test]
    fn only_the_rows_that_end_with_the_cursors_are_kept() {
        let text = "aaaabbbbccccdd";
        for (cursor, rows, row, column) in [
            (14, ["cccc", "dd"], 1, 2),
            (9, ["bbbb", "cccc"], 1, 1),
            (1, ["aaaa", "bbbb"], 0, 1),
        ] {
            let expected = Layout {
                rows: rows.map(String::from).into(),
                row,
                column,
            };
            assert_eq!(layout("", text, cursor, 4, 2), expected, "{cursor}");
        }
    }

    fn any_key() -> impl Strategy<Value = Key> {
        const JOINING: &[char] = &[
            'a', ' ', '\t', '汉', '👍', '👨', '\u{200d}', '\u{301}', '🇩', '🇪', '\u{fe0f}',
        ];
        use Key::*;
        let fixed = [
            Enter,
            Backspace,
            WordBackspace,
            Delete,
            WordDelete,
            Left,
            Right,
            WordLeft,
            WordRight,
            Up,
            Down,
            Home,
            End,
        ];
        prop_oneof![
            3 => any::<char>().prop_map(Text),
            6 => prop::sample::select(JOINING).prop_map(Text),
            4 => prop::sample::select(fixed.to_vec()),
            3 => (b'a'..=b'z').prop_map(|letter| Control(letter.into())),
            1 => (b'a'..=b'z').prop_map(|letter| Alt(letter.into())),
        ]
    }

    proptest! {
        #[test]
        fn any_keys_leave_the_cursor_inside(
            keys in prop::collection::vec(any_key(), 0..80),
            columns in 0_usize..12,
            max_rows in 0_usize..6,
        ) {
            let mut editor = Editor::new(100);
            for key in keys {
                let _ = editor.key(key);
                let (text, cursor) = (editor.text(), editor.cursor());
                prop_assert!(text.len() <= 100);
                prop_assert!(cursor == text.len() || text.grapheme_indices(true).any(|(at, _)| at == cursor));
                let layout = layout("> ", text, cursor, columns, max_rows);
                prop_assert!(layout.rows.len() <= max_rows.max(1));
                prop_assert!(layout.row < layout.rows.len());
                prop_assert!(layout.column < columns.max(1));
                for row in &layout.rows {
                    let width: usize = row.graphemes(true).map(UnicodeWidthStr::width).sum();
                    prop_assert!(width <= columns.max(1), "{row:?} in {columns}");
                }
            }
        }

        #[test]
        fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = crate::client::terminal::keys::Decoder::default();
            let mut editor = Editor::new(100);
            for key in bytes.into_iter().filter_map(|byte| decoder.feed(byte)) {
                let _ = editor.key(key);
            }
        }
    }
}
