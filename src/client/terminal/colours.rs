//! A colour for each sender, so that a reader can tell them apart.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The colours of those who spoke last: each its own, as long as there are enough.
#[derive(Clone, Debug, Default)]
pub struct Colours(VecDeque<(String, u8)>);

impl Colours {
    /// Twelve colours of the 256 that have the same red, green and blue in every terminal: those
    /// that a theme leaves alone. Each has a contrast of 3:1 or more with black and with white
    /// (WCAG 2.2, 1.4.11), so that it can be read on either; as far apart as that allows.
    const COLOURS: [u8; 12] = [30, 27, 68, 99, 128, 133, 200, 198, 131, 196, 136, 28];

    /// The name in its colour; what comes behind it has the usual one again.
    #[must_use]
    pub fn paint(&mut self, name: &str) -> String {
        format!("\x1b[38;5;{}m{name}\x1b[m", self.colour(name))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_senders_as_colours_look_different() {
        let mut shown = Colours::default();
        let names: Vec<_> = (0..12).map(|n| format!("127.0.0.1:{n}")).collect();
        let colours: Vec<_> = names.iter().map(|name| shown.colour(name)).collect();
        let mut sorted = colours.clone();
        sorted.sort_unstable();
        let mut all = Colours::COLOURS;
        all.sort_unstable();
        assert_eq!(sorted, all);
        // One more takes the colour of who was silent longest; the others keep theirs.
        assert_eq!(shown.colour(&names[0]), colours[0]);
        assert_eq!(shown.colour("one more"), colours[1]);
        assert_eq!(shown.colour(&names[2]), colours[2]);
        assert_eq!(shown.0.len(), 12);
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
        for colour in Colours::COLOURS {
            let light = luminance(colour) + 0.05;
            let (on_black, on_white) = (light / 0.05, 1.05 / light);
            assert!(on_black >= 3.0, "{colour} on black: {on_black}");
            assert!(on_white >= 3.0, "{colour} on white: {on_white}");
        }
        // The measure itself: white on black is the most there is.
        assert!((luminance(231) - 1.0).abs() < 1e-9 && luminance(16).abs() < 1e-9);
    }
}
