//! How a line of the chat looks: plain, with colours and times, or as JSON.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{Timestamp, Zoned};
use serde_json::json;

/// What to make of a line.
#[derive(Clone, Debug, Default)]
pub struct Format {
    /// A colour for each sender.
    pub colours: bool,
    /// Local time before each line.
    pub times: bool,
    /// A JSON object for each line.
    pub json: bool,
    /// Who has which colour.
    pub palette: Palette,
}

/// The colours of those who spoke last: each its own, as long as there are enough.
#[derive(Clone, Debug, Default)]
pub struct Palette(VecDeque<(String, u8)>);

impl Palette {
    /// Twelve colours of the 256 that have the same red, green and blue in every terminal: those
    /// that a theme leaves alone. Each has a contrast of 3:1 or more with black and with white
    /// (WCAG 2.2, 1.4.11), so that it can be read on either; as far apart as that allows.
    const COLOURS: [u8; 12] = [30, 27, 68, 99, 128, 133, 200, 198, 131, 196, 136, 28];

    /// The colour of a sender: the one it has; else, where it is free, the one its name hashes
    /// to, so that it looks the same in other clients; else that of who was silent longest.
    fn colour(&mut self, name: &str) -> u8 {
        let known = self.0.iter().position(|(sender, _)| sender == name);
        let colour = match known.and_then(|at| self.0.remove(at)) {
            Some((_, colour)) => colour,
            None => self
                .free(name)
                .or_else(|| Some(self.0.pop_front()?.1))
                .unwrap_or_default(),
        };
        self.0.push_back((name.to_owned(), colour));
        colour
    }

    fn free(&self, name: &str) -> Option<u8> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let wished = usize::try_from(hasher.finish() % 12).unwrap_or(0);
        let mut colours = Self::COLOURS.into_iter().cycle().skip(wished).take(12);
        colours.find(|colour| self.0.iter().all(|(_, taken)| taken != colour))
    }
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
    /// A line from the server as it is shown, without a line end. The line has been made safe.
    #[must_use]
    pub fn line(&mut self, line: &str) -> String {
        if self.json {
            let at = format!("{:.3}", Timestamp::now());
            return match Line::of(line) {
                Line::Message { from, text } => json!({ "at": at, "from": from, "text": text }),
                Line::Notice(notice) => json!({ "at": at, "notice": notice }),
            }
            .to_string();
        }
        match Line::of(line) {
            Line::Message { from, text } if self.colours => {
                let colour = self.palette.colour(from);
                format!("{}\x1b[38;5;{colour}m{from}\x1b[m: {text}", self.time())
            }
            _ => format!("{}{line}", self.time()),
        }
    }

    /// A line of one's own as it stays visible behind the prompt.
    #[must_use]
    pub fn own(&self, prompt: &str, line: &str) -> String {
        format!("{}{prompt}{line}", self.time())
    }

    fn time(&self) -> String {
        if self.times {
            Zoned::now().strftime("%H:%M:%S ").to_string()
        } else {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_as_they_came() {
        assert_eq!(Format::default().line("127.0.0.1:1: hi"), "127.0.0.1:1: hi");
        assert_eq!(
            Format::default().line("* 3 messages missed"),
            "* 3 messages missed"
        );
    }

    #[test]
    fn a_sender_keeps_its_colour_and_the_text_has_none() {
        let mut format = Format {
            colours: true,
            ..Format::default()
        };
        let line = format.line("127.0.0.1:1: a: b");
        assert_eq!(line, format.line("127.0.0.1:1: a: b"));
        assert!(line.ends_with("m127.0.0.1:1\x1b[m: a: b"), "{line}");
        assert_eq!(format.line("* 3 messages missed"), "* 3 messages missed");
    }

    #[test]
    fn as_many_senders_as_colours_look_different() {
        let mut palette = Palette::default();
        let names: Vec<_> = (0..12).map(|n| format!("127.0.0.1:{n}")).collect();
        let colours: Vec<_> = names.iter().map(|name| palette.colour(name)).collect();
        let mut sorted = colours.clone();
        sorted.sort_unstable();
        let mut all = Palette::COLOURS;
        all.sort_unstable();
        assert_eq!(sorted, all);
        // One more takes the colour of who was silent longest; the others keep theirs.
        assert_eq!(palette.colour(&names[0]), colours[0]);
        assert_eq!(palette.colour("one more"), colours[1]);
        assert_eq!(palette.colour(&names[2]), colours[2]);
        assert_eq!(palette.0.len(), 12);
    }

    /// How much light a colour of the 256 gives (WCAG 2.2, relative luminance). 16 to 231 are a
    /// cube of six steps each of red, green and blue.
    fn luminance(colour: u8) -> f64 {
        const STEPS: [f64; 6] = [0.0, 95.0, 135.0, 175.0, 215.0, 255.0];
        let linear = |step: u8| {
            let value = STEPS[usize::from(step)] / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        let step = colour - 16;
        let (red, green, blue) = (linear(step / 36), linear(step / 6 % 6), linear(step % 6));
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    #[test]
    fn every_colour_can_be_read_on_black_and_on_white() {
        for colour in Palette::COLOURS {
            let light = luminance(colour) + 0.05;
            let (on_black, on_white) = (light / 0.05, 1.05 / light);
            assert!(on_black >= 3.0, "{colour} on black: {on_black}");
            assert!(on_white >= 3.0, "{colour} on white: {on_white}");
        }
        // The measure itself: white on black is the most there is.
        assert!((luminance(231) - 1.0).abs() < 1e-9 && luminance(16).abs() < 1e-9);
    }

    #[test]
    fn json_tells_who_and_what() {
        let mut format = Format {
            json: true,
            ..Format::default()
        };
        let mut read =
            |line: &str| serde_json::from_str::<serde_json::Value>(&format.line(line)).unwrap();
        let message = read("[::1]:5: say \"hi\"\t\\");
        assert_eq!(message["from"], "[::1]:5");
        assert_eq!(message["text"], "say \"hi\"\t\\");
        assert!(message["at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(read("* 3 messages missed")["notice"], "3 messages missed");
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
