//! The session of this program: what it asks a server for so that nothing is missed and nothing is
//! said twice when its link breaks, and what the server says to it in the lines that begin with `@`.

use std::io;

use jiff::Timestamp;

use crate::protocol::session::{is_epoch, number};

/// Who this program is, over all of its connections, and how far it has heard. The default asks
/// for no session. It has no `Debug`, since its key is a secret.
#[derive(Default)]
pub struct Session {
    /// The secret by which the server knows it again; `None` if it asks for no session.
    key: Option<String>,
    /// The line that comes next.
    place: Option<Place>,
    /// When the lines were said that come next, if the server has told it.
    said: Option<Timestamp>,
    peer: Peer,
}

/// A place in the log of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Of which past the room is.
    epoch: String,
    /// How many lines were said before.
    position: u64,
}

/// What the server of the current connection is.
#[derive(Default, PartialEq, Eq)]
enum Peer {
    /// One that knows nothing of sessions, or was not asked for one.
    #[default]
    Plain,
    /// It was asked for the session, and has not said anything yet.
    Asked,
    /// It has the session.
    Keeps,
}

/// What a line of the server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The server has the session, and has taken so many of its lines.
    Begun {
        /// How many lines, by the server's count.
        taken: u64,
        /// Whether the room still has the past in which the last lines were sent.
        same_past: bool,
    },
    /// It was about the place of the next line; there is nothing to show.
    Place,
    /// It is to be shown; and when it was said, if that is known.
    Line(Option<Timestamp>),
}

impl Session {
    /// A session that no server knows yet.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn new() -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let key = format!("{:032x}", u128::from_ne_bytes(random));
        Ok(Self {
            key: Some(key),
            ..Self::default()
        })
    }

    /// The query of a URL that asks for the session, and for what comes behind the last line that
    /// was heard. A server that does not know the session begins to count its lines at `sent`.
    /// `None` if there is nothing to ask for. The key is in it, so it must not get into any message.
    pub fn ask(&mut self, sent: u64) -> Option<String> {
        let key = self.key.as_ref()?;
        (self.peer, self.said) = (Peer::Asked, None);
        let after = self.place.as_ref().map_or(String::new(), |place| {
            format!("&after={}.{}", place.epoch, place.position)
        });
        Some(format!("session={key}{after}&sent={sent}"))
    }

    /// Whether the server was asked for the session and has not answered. Its answer comes before
    /// anything else that it sends, if it knows what a session is.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.peer == Peer::Asked
    }

    /// Whether the server has the session.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.peer == Peer::Keeps
    }

    /// Whether the server knows nothing of sessions, so that lines which it did not confirm stay in
    /// doubt.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.peer == Peer::Plain
    }

    /// The server has sent something else than the answer to our request, so it knows nothing of
    /// sessions.
    pub fn set_plain(&mut self) {
        self.peer = Peer::Plain;
    }

    /// Forgets how far it has heard. Returns whether there was anything to forget.
    pub fn forget_place(&mut self) -> bool {
        self.place.take().is_some()
    }

    /// Takes a line of the server, which may be about the session itself.
    pub fn hear(&mut self, line: &str) -> Heard {
        let mark = line.strip_prefix('@');
        if self.is_asked() {
            if let Some((place, taken)) = mark.and_then(beginning) {
                let before = self.place.as_ref();
                let same_past = before.is_some_and(|before| before.epoch == place.epoch);
                (self.peer, self.place) = (Peer::Keeps, Some(place));
                return Heard::Begun { taken, same_past };
            }
            self.set_plain();
        }
        match &mut self.place {
            Some(place) if self.peer == Peer::Keeps => {
                if let Some(mark) = mark {
                    // Nobody's name begins with `@`, so what we cannot read is meant for newer clients.
                    if let Some((position, said)) = position(mark) {
                        (place.position, self.said) = (position, said);
                    }
                    return Heard::Place;
                }
                // A line of the server's own has no place, and is said when it comes.
                if line.starts_with("* ") {
                    return Heard::Line(None);
                }
                place.position += 1;
                Heard::Line(self.said)
            }
            _ => Heard::Line(None),
        }
    }
}

/// `EPOCH POSITION TAKEN`, the first message of a server that has the session.
fn beginning(mark: &str) -> Option<(Place, u64)> {
    let mut words = mark.split(' ');
    let (epoch, position, taken) = (words.next()?, words.next()?, words.next()?);
    let place = Place {
        epoch: epoch.to_owned(),
        position: number(position)?,
    };
    let taken = number(taken)?;
    (is_epoch(epoch) && words.next().is_none()).then_some((place, taken))
}

/// `POSITION MILLISECONDS`. No time if no calendar has it.
fn position(mark: &str) -> Option<(u64, Option<Timestamp>)> {
    let (position, millis) = mark.split_once(' ')?;
    let millis = number(millis)?.try_into().ok()?;
    Some((number(position)?, Timestamp::from_millisecond(millis).ok()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: Heard = Heard::Line(None);

    fn asked() -> Session {
        let mut session = Session::new().unwrap();
        session.ask(0);
        session
    }

    /// What it asks for behind the key.
    fn rest(session: &mut Session, sent: u64) -> String {
        let query = session.ask(sent).unwrap();
        query.split_once('&').unwrap().1.to_owned()
    }

    fn at(millis: i64) -> Heard {
        Heard::Line(Some(Timestamp::from_millisecond(millis).unwrap()))
    }

    #[test]
    fn a_key_is_a_new_one_each_time_and_fit_for_a_url() {
        let [one, two] = [(); 2].map(|()| Session::new().unwrap().ask(3).unwrap());
        assert_ne!(one, two);
        let key = one.strip_prefix("session=").unwrap();
        let key = key.strip_suffix("&sent=3").unwrap();
        assert_eq!(key.len(), 32);
        assert!(key.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(Session::default().ask(0), None);
    }

    #[test]
    fn a_place_counts_on_by_itself_up_to_the_next_mark() {
        let mut session = asked();
        let begun = |taken, same_past| Heard::Begun { taken, same_past };
        assert_eq!(session.hear("@abc 7 3"), begun(3, false));
        assert_eq!(rest(&mut session, 0), "after=abc.7&sent=0");
        assert_eq!(session.hear("@abc 7 3"), begun(3, true));
        assert_eq!(session.hear("* 2 messages missed"), LINE);
        assert_eq!(session.hear("@9 1000"), Heard::Place);
        assert_eq!(session.hear("ana: one"), at(1000));
        assert_eq!(session.hear("* budi left"), LINE);
        assert_eq!(session.hear("ana: @5 5"), at(1000));
        // For programs that are newer than this one.
        assert_eq!(session.hear("@what is this"), Heard::Place);
        assert_eq!(session.hear("@20 2000"), Heard::Place);
        assert_eq!(session.hear("ana: * three"), at(2000));
        assert_eq!(rest(&mut session, 5), "after=abc.21&sent=5");
        assert_eq!(session.hear("@def 0 0"), begun(0, false));
        assert!(session.forget_place() && !session.forget_place());
        assert_eq!(rest(&mut session, 5), "sent=5");
    }

    #[test]
    fn a_server_without_sessions_is_known_by_the_first_thing_that_it_says() {
        for first in [
            "ana: hi",
            "* hi",
            "",
            "@",
            "@ana",
            "@ana 1",
            "@ana 1 x",
            "@ana 1 2 3",
            "@a:a 1 2",
            "@ 1 2",
            "@ana 1 99999999999999999",
        ] {
            let mut session = asked();
            assert!(session.is_asked());
            assert_eq!(session.hear(first), LINE, "{first}");
            assert!(session.is_plain());
            // Whatever it says now, it is shown.
            assert_eq!(session.hear("@abc 7 3"), LINE);
            assert_eq!(rest(&mut session, 0), "sent=0");
        }
        // What was heard elsewhere before is not forgotten.
        let mut session = asked();
        session.hear("@abc 7 3");
        session.ask(0);
        session.set_plain();
        session.hear("ana: hi");
        assert_eq!(rest(&mut session, 0), "after=abc.7&sent=0");
    }

    #[test]
    fn a_time_that_no_calendar_has_is_none() {
        let mut session = asked();
        session.hear("@abc 0 0");
        session.hear("@0 9007199254740992");
        assert_eq!(session.hear("ana: hi"), LINE);
    }

    proptest! {
        /// Whatever a server says, what we ask it for next is what it would understand.
        #[test]
        fn what_is_asked_for_is_always_a_query(lines in prop::collection::vec(
            prop_oneof![".*", "@[a-z0-9. &=]{0,9} [0-9]{1,20} [0-9]{1,20}", "@[0-9]{1,20} [0-9]{1,20}"],
            0..20,
        )) {
            let mut session = asked();
            for line in &lines {
                session.hear(line);
            }
            let query = session.ask(1).unwrap();
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.&=".contains(c);
            prop_assert!(query.chars().all(allowed), "{}", query);
            let keys: Vec<_> = form_urlencoded::parse(query.as_bytes()).map(|(key, _)| key).collect();
            prop_assert!(keys == ["session", "sent"] || keys == ["session", "after", "sent"]);
        }

        /// The place is behind everything that was heard, in whichever pieces the marks cut it.
        #[test]
        fn a_place_is_that_of_the_next_line(
            start in 0..1_u64 << 40,
            pieces in prop::collection::vec((0..9_u64, 0..9_u64), 0..20),
        ) {
            let mut session = asked();
            session.hear(&format!("@abc {start} 0"));
            let mut position = start;
            for (own, others) in pieces {
                if others > 0 {
                    position += own;
                    session.hear(&format!("@{position} 5"));
                }
                for _ in 0..others {
                    prop_assert_eq!(session.hear("ana: hi"), at(5));
                }
                position += others;
            }
            prop_assert_eq!(rest(&mut session, 0), format!("after=abc.{position}&sent=0"));
        }
    }
}
