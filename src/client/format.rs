//! How a line of the chat looks: plain, with colours and times, or as JSON.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use crate::client::terminal::Colours;

/// What to make of a line.
#[derive(Clone, Debug, Default)]
pub struct Format {
    /// A colour for each sender, on a screen that has colours.
    pub colours: Option<Colours>,
    /// Local time before each line.
    pub times: bool,
    /// A JSON object for each line.
    pub json: bool,
}

/// What a line from the server is.
enum Line<'a> {
    Message { from: &'a str, text: &'a str },
    Notice(&'a str),
}

impl<'a> Line<'a> {
    /// A name has no space in it; the server's own lines begin with `* `.
    fn of(line: &'a str) -> Self {
        match line.split_once(": ") {
            Some((from, text)) if !from.contains(' ') => Self::Message { from, text },
            _ => Self::Notice(line.strip_prefix("* ").unwrap_or(line)),
        }
    }
}

impl Format {
    /// A line from the server as it is shown, without a line end. The line has been made safe. It was
    /// said at this time, or now if that is not known.
    #[must_use]
    pub fn line(&mut self, line: &str, said: Option<Timestamp>) -> String {
        if self.json {
            let at = format!("{:.3}", said.unwrap_or_else(Timestamp::now));
            return match Line::of(line) {
                Line::Message { from, text } => json!({ "at": at, "from": from, "text": text }),
                Line::Notice(notice) => match presence(notice) {
                    Some((what, names, 0)) => json!({ "at": at, what: names }),
                    Some((what, names, more)) => json!({ "at": at, what: names, "more": more }),
                    None => json!({ "at": at, "notice": notice }),
                },
            }
            .to_string();
        }
        let time = self.time(said);
        match (Line::of(line), &mut self.colours) {
            (Line::Message { from, text }, Some(colours)) => {
                format!("{time}{}: {text}", colours.paint(from))
            }
            _ => format!("{time}{line}"),
        }
    }

    /// A line of one's own as it stays visible behind the prompt.
    #[must_use]
    pub fn own(&self, prompt: &str, line: &str) -> String {
        format!("{}{prompt}{line}", self.time(None))
    }

    fn time(&self, said: Option<Timestamp>) -> String {
        if self.times {
            let said = said.unwrap_or_else(Timestamp::now);
            let local = said.to_zoned(TimeZone::system());
            local.strftime("%H:%M:%S ").to_string()
        } else {
            String::new()
        }
    }
}

/// What a notice of who is here, who joined or who left says: which of these, the names in it, and how
/// many more there were.
fn presence(notice: &str) -> Option<(&str, Vec<&str>, u64)> {
    if notice == "nobody else is here" {
        return Some(("here", Vec::new(), 0));
    }
    let here = notice.strip_prefix("here: ").map(|names| ("here", names));
    let (what, names) = here.or_else(|| {
        let (names, what) = notice.rsplit_once(' ')?;
        matches!(what, "joined" | "left").then_some((what, names))
    })?;
    // Somebody may be called `more`, which is a name behind a comma then.
    let counted = names.strip_suffix(" more").and_then(|names| {
        let (names, more) = names.rsplit_once(" and ").unwrap_or(("", names));
        Some((names, more.parse().ok()?))
    });
    let (names, more) = counted.unwrap_or((names, 0));
    let names = names.split(", ").filter(|name| !name.is_empty());
    Some((what, names.collect(), more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_as_they_came() {
        assert_eq!(
            Format::default().line("127.0.0.1:1: hi", None),
            "127.0.0.1:1: hi"
        );
        assert_eq!(
            Format::default().line("* 3 messages missed", None),
            "* 3 messages missed"
        );
    }

    #[test]
    fn a_sender_keeps_its_colour_and_the_text_has_none() {
        let mut format = Format {
            colours: Some(Colours::default()),
            ..Format::default()
        };
        let line = format.line("127.0.0.1:1: a: b", None);
        assert_eq!(line, format.line("127.0.0.1:1: a: b", None));
        assert!(line.ends_with("m127.0.0.1:1\x1b[m: a: b"), "{line}");
        assert_eq!(
            format.line("* 3 messages missed", None),
            "* 3 messages missed"
        );
    }

    #[test]
    fn json_tells_who_and_what() {
        let mut format = Format {
            json: true,
            ..Format::default()
        };
        let mut read = |line: &str| {
            serde_json::from_str::<serde_json::Value>(&format.line(line, None)).unwrap()
        };
        let message = read("[::1]:5: say \"hi\"\t\\");
        assert_eq!(message["from"], "[::1]:5");
        assert_eq!(message["text"], "say \"hi\"\t\\");
        assert!(message["at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(read("* 3 messages missed")["notice"], "3 messages missed");
        let nobody = read("* nobody else is here");
        assert_eq!(nobody["here"].as_array().unwrap().len(), 0);
        let here = read("* here: ana, [::1]:5 and 45 more");
        assert_eq!(here["here"], json!(["ana", "[::1]:5"]));
        assert_eq!(here["more"], 45);
        let unknown = read("* here: 5 more");
        assert_eq!(
            (&unknown["here"], &unknown["more"]),
            (&json!([]), &json!(5))
        );
        for names in ["more", "ana, more", "5, more"] {
            let expected = names.split(", ").collect::<Vec<_>>();
            assert_eq!(read(&format!("* here: {names}"))["here"], json!(expected));
            assert_eq!(
                read(&format!("* {names} joined"))["joined"],
                json!(expected)
            );
        }
        let joined = read("* ana joined");
        assert_eq!(joined["joined"], json!(["ana"]));
        assert_eq!(joined.as_object().unwrap().len(), 2);
        assert_eq!(read("* ana, budi left")["left"], json!(["ana", "budi"]));
        // What somebody says is never taken for a notice.
        assert_eq!(read("ana: * budi left")["text"], "* budi left");
    }

    #[test]
    fn a_time_stands_before_the_line() {
        let format = Format {
            times: true,
            ..Format::default()
        };
        let line = format.own("> ", "hi");
        let (time, own) = line.split_at(9);
        assert_eq!(own, "> hi");
        assert!(time.chars().zip("00:00:00 ".chars()).all(|(got, form)| {
            if form == '0' {
                got.is_ascii_digit()
            } else {
                got == form
            }
        }));
    }
}
