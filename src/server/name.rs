//! The names that people choose: which there are, and when two of them are the same.

use std::collections::HashMap;
use std::net::IpAddr;

use precis_profiles::UsernameCaseMapped;
use precis_profiles::precis_core::profile::PrecisFastInvocation;
use unicode_security::confusable_detection::skeleton;

use crate::protocol::limits::NAME;

/// The most marks in a row.
const MARKS: usize = 2;

/// What a name has to be, for those who chose another.
pub const RULE: &str =
    "a name is 1 to 32 letters and digits of any script, - _ and ., and no address";

/// A name, and what it is compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    text: String,
    /// Two names are the same when they have one of these in common: the form in which case and
    /// width make no difference (RFC 8265 3.3), and what the name and this form look like, which is
    /// the skeleton of UTS 39, section 4. Look-alikes in another case are found by the skeletons of
    /// that form and of the capitals.
    keys: [String; 4],
}

impl Name {
    /// The name, if it keeps to [`RULE`].
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let ordinary = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.".contains(c);
        // A mark that belongs to no letter would be put onto what stands before the name, and a pile
        // of them onto the lines above.
        let begins = |c: char| c.is_ascii() || c.is_alphanumeric();
        let chars: Vec<_> = text.chars().collect();
        let piles = chars
            .windows(MARKS + 1)
            .any(|some| !some.iter().any(|&c| begins(c)));
        if text.chars().count() > NAME
            || !text.starts_with(begins)
            || !text.contains(char::is_alphanumeric)
            || !text.chars().all(ordinary)
            || text.contains(is_like_punctuation)
            || piles
        {
            return None;
        }
        // Letters, digits and the marks that belong to them, in every script; nothing else, and
        // nothing that an empty name or a wrong mixture of directions would be.
        let form = UsernameCaseMapped::enforce(text).ok()?.into_owned();
        if !form.chars().all(ordinary) || looks_like_an_address(&form) {
            return None;
        }
        let capitals = text.to_uppercase();
        let keys = [
            skeleton(text).collect(),
            skeleton(&capitals).collect(),
            skeleton(&form).collect(),
            form,
        ];
        let text = text.to_owned();
        Some(Self { text, keys })
    }

    /// The name as it was chosen.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it is compared by: two names are the same when they have one of these in common.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// Whether the other name is the same, or looks like it.
    #[must_use]
    pub fn resembles(&self, other: &Self) -> bool {
        self.keys.iter().any(|key| other.keys.contains(key))
    }
}

/// Unicode counts these as letters, but they look like colons, quotation marks, full stops and the
/// like: clicks, modifier letters, and the tone marks of Lisu.
fn is_like_punctuation(c: char) -> bool {
    matches!(c, '\u{1C0}'..='\u{1C3}' | '\u{2B0}'..='\u{2FF}' | '\u{A4F8}'..='\u{A4FF}')
}

/// Also when letters stand for some of the digits.
fn looks_like_an_address(form: &str) -> bool {
    let digits = skeleton(form).map(|c| match c {
        'l' | 'i' | 'I' => '1',
        'o' | 'O' => '0',
        c => c,
    });
    let digits: String = digits.collect();
    form.parse::<IpAddr>().is_ok() || digits.parse::<IpAddr>().is_ok()
}

/// Names of which no two are the same, and which connection has each.
#[derive(Debug, Default)]
pub struct Names(HashMap<String, u64>);

impl Names {
    /// Whether nobody has the name, or only the connection that is about to be replaced.
    #[must_use]
    pub fn is_free(&self, name: &Name, replaced: Option<u64>) -> bool {
        let mut owners = name.keys.iter().filter_map(|key| self.0.get(key));
        owners.all(|owner| Some(*owner) == replaced)
    }

    /// Gives a name that is free to a connection.
    pub fn take(&mut self, name: &Name, connection: u64) {
        self.0
            .extend(name.keys.iter().map(|key| (key.clone(), connection)));
    }

    /// A connection gives back its name, unless that was taken over.
    pub fn free(&mut self, name: &Name, connection: u64) {
        for key in &name.keys {
            if self.0.get(key) == Some(&connection) {
                self.0.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_letters_and_digits_of_any_script() {
        for text in [
            "ana",
            "Ana-Maria_2.0",
            "å",
            "Ωmega",
            "अनिता",
            "محمد",
            "李雷",
            "ゆき",
            "한나",
            "аня",
            &"x".repeat(32),
            &"李".repeat(32),
            "1",
            "1.2",
            "_ana",
        ] {
            assert_eq!(Name::new(text).expect(text).text(), text);
        }
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_no_name() {
        for text in [
            "",
            " ",
            "...",
            "a b",
            "a:",
            "a: b",
            "*",
            "* ana",
            "@ana",
            "a@b",
            "a,b",
            "(ana)",
            "a/b",
            "\u{7}",
            "127.0.0.1",
            "I27.o.0.l",
            "127.0.0.1ː80",
            "aʼ",
            "a\u{a4fd}",
            "ǃa",
            "a\u{301}\u{301}\u{301}",
            "１２７.０.０.１",
            "::1",
            "127.0.0.1:80",
            "a\u{200b}b",
            "a\u{202e}b",
            "😀",
            "a\u{a0}b",
            "\u{ff0a}",
            "a\u{ff1a}",
            "\u{301}",
            &"x".repeat(33),
        ] {
            assert_eq!(Name::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn names_that_look_the_same_are_the_same() {
        for (one, other) in [
            ("ana", "ana"),
            ("ana", "ANA"),
            ("ana", "аna"),    // Cyrillic
            ("ana", "АNA"),    // Cyrillic, in capitals
            ("ana", "ａｎａ"), // full width
            ("paypal", "раураl"),
            ("lvan", "Ivan"),
            ("é", "e\u{301}"),
            ("bob", "ВОВ"), // Cyrillic
            ("straße", "STRASSE"),
            ("Σ", "ς"),
        ] {
            let mut names = Names::default();
            let (one, other) = (Name::new(one).expect(one), Name::new(other).expect(other));
            names.take(&one, 1);
            assert!(!names.is_free(&other, None), "{one:?} {other:?}");
            names.free(&one, 1);
            assert!(names.is_free(&other, None));
            names.take(&other, 2);
            assert!(!names.is_free(&one, None), "{other:?} {one:?}");
        }
    }

    #[test]
    fn other_names_are_others() {
        let mut names = Names::default();
        for text in ["ana", "anna", "budi", "an", "аня", "李雷", "李磊"] {
            let name = Name::new(text).expect(text);
            assert!(names.is_free(&name, None), "{text}");
            names.take(&name, 1);
        }
    }

    #[test]
    fn a_name_that_was_taken_over_is_not_given_back_by_who_had_it() {
        let mut names = Names::default();
        let (small, capital) = (Name::new("ana").unwrap(), Name::new("Ana").unwrap());
        names.take(&small, 1);
        assert!(!names.is_free(&capital, Some(2)));
        assert!(names.is_free(&capital, Some(1)));
        names.take(&capital, 2);
        names.free(&small, 1);
        assert!(!names.is_free(&small, None));
        names.free(&capital, 2);
        assert!(names.is_free(&small, None));
        // Of two spellings each has keys of its own, and none is left behind.
        assert!(names.0.is_empty(), "{names:?}");
    }
}
