//! A client that asks for a session, by hand.

use super::raw::{FIN, PING, PONG, Raw};

/// A client with a session.
pub struct Client {
    pub raw: Raw,
    pub epoch: String,
    /// The position of the next line.
    pub next: u64,
    /// How many of its lines had been taken when it came in.
    pub taken: u64,
}

impl Client {
    /// Enters. As `client` does, it says that none of its lines were taken, if it has said nothing else.
    #[track_caller]
    pub fn enter(port: u16, target: &str) -> Self {
        Self::of(Raw::enter(port, &complete(target)))
    }

    /// The same when it may be refused for a while.
    #[track_caller]
    pub fn enter_when_it_can(port: u16, target: &str) -> Self {
        Self::of(Raw::enter_when_it_can(port, &complete(target)))
    }

    /// Of a connection that has asked for a session.
    #[track_caller]
    pub fn of(mut raw: Raw) -> Self {
        let first = raw.text();
        let words: Vec<_> = first.strip_prefix('@').expect(&first).split(' ').collect();
        let [epoch, next, taken] = words[..] else {
            panic!("{first}");
        };
        Self {
            epoch: epoch.to_owned(),
            next: next.parse().unwrap(),
            taken: taken.parse().unwrap(),
            raw,
        }
    }

    /// What it asks for to hear everything that it has not heard.
    pub fn after(&self) -> String {
        format!("&after={}.{}", self.epoch, self.next)
    }

    /// Waits for the next line or notice.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        loop {
            let text = self.raw.text_with_pongs();
            if let Some(mark) = text.strip_prefix('@') {
                let position = mark.split(' ').next().unwrap().parse().unwrap();
                assert!(position >= self.next, "{text}, not {}", self.next);
                self.next = position;
                continue;
            }
            if !text.starts_with("* ") {
                self.next += 1;
            }
            return text;
        }
    }

    /// Says a line, and waits until it is taken. It must have heard everything before.
    #[track_caller]
    pub fn say(&mut self, text: &str) {
        self.raw.say(text);
        is_taken(&mut self.raw);
    }
}

fn complete(target: &str) -> String {
    let says = target.contains("&sent=") || target.contains("&after=");
    target.to_owned() + if says { "" } else { "&sent=0" }
}

/// Waits for the pong that says that everything was taken. What comes before it is not looked at.
#[track_caller]
pub fn is_taken(raw: &mut Raw) {
    raw.send_frame(FIN | PING, b"taken?");
    while raw.frame().expect("a pong").0 & 0xf != PONG {}
}
