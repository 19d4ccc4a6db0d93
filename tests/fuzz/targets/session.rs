//! Sessions, from both ends. The first byte says which of `session`, `after` and `sent` are there, one
//! in each line behind it; then come lines of a server, to which a client listens.

use chat_pair::client::session::{Heard, Session};
use chat_pair::server::handshake::Refusal;
use chat_pair::server::rooms::wanted;
use chat_pair::server::sessions::Asked;

/// The largest number that JavaScript counts to without gaps.
const MOST: u64 = 1 << 53;

pub fn judge(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut chars = text.chars();
    let there = chars.next().map_or(0, u32::from);
    let mut lines = chars.as_str().split('\n');
    let mut value = |n: u32| {
        let line = lines.next().unwrap_or_default();
        (there >> n & 1 == 1).then_some(line)
    };
    asks(value(0), value(1), value(2));
    hears(lines);
}

/// What a server understands is what stands there.
fn asks(session: Option<&str>, after: Option<&str>, sent: Option<&str>) {
    let url_safe = |text: &str, most: usize| {
        (1..=most).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let is_number = |text: &str| {
        let digits = text.trim_start_matches('0');
        let all_digits = text.chars().all(|c| c.is_ascii_digit());
        // Both have as many digits as the other, so their order is that of the numbers.
        let most = MOST.to_string();
        let fits = digits.len() < most.len() || (digits.len() == most.len() && *digits <= *most);
        !text.is_empty() && all_digits && fits
    };
    let is_session = session.is_none_or(|key| key.len() >= 22 && url_safe(key, 64));
    let is_after = after.is_none_or(|after| {
        let place = after.split_once('.');
        place.is_some_and(|(epoch, position)| url_safe(epoch, 64) && is_number(position))
    });
    let alone = session.is_none() && (after.is_some() || sent.is_some());
    let good = is_session && is_after && sent.is_none_or(is_number) && !alone;
    match Asked::new(session, after, sent) {
        Ok(asked) => {
            assert!(good, "{session:?} {after:?} {sent:?}");
            assert_eq!(asked.is_some(), session.is_some());
            let Some(asked) = asked else { return };
            assert_eq!(Some(asked.key.secret()), session);
            let place = asked.after.map(|after| (after.epoch, after.position));
            let stands = after.and_then(|after| after.split_once('.'));
            let stands = stands.map(|(epoch, at)| (epoch.to_owned(), at.parse().expect(at)));
            assert_eq!(place, stands);
            assert_eq!(asked.sent, sent.map(|sent| sent.parse().expect(sent)));
        }
        Err(Refusal::Answered(status, why)) => {
            assert!(!good, "{session:?} {after:?} {sent:?}");
            assert!(status.as_u16() == 400 && why.is_ascii());
        }
        Err(other) => panic!("it is still here: {other:?}"),
    }
}

/// Whatever a server says, the client asks for its own session and for nothing that no server can have said.
fn hears<'l>(lines: impl Iterator<Item = &'l str>) {
    let mut session = Session::new().expect("random numbers");
    let first = session.ask(0).expect("a session");
    let mut kept = false;
    for line in lines {
        let heard = session.hear(line);
        match heard {
            Heard::Begun { taken, same_past } => {
                assert!(!kept && taken <= MOST && !same_past && line.starts_with('@'));
            }
            Heard::Place => assert!(kept && line.starts_with('@')),
            Heard::Line(_) => assert!(!kept || !line.starts_with('@')),
        }
        assert!(!session.is_asked(), "the first line is the answer");
        assert!(session.is_kept() != session.is_plain());
        kept = session.is_kept();
    }
    let again = session.ask(MOST).expect("a session");
    let key = first.strip_suffix("&sent=0").expect(&first);
    assert!(again.starts_with(key), "{again:?}");
    let target = format!("/?{again}").parse().expect("a target");
    if let Ok(wanted) = wanted(&target) {
        let asked = wanted.session.expect("a session");
        assert_eq!(asked.sent, Some(MOST));
        assert!(kept || asked.after.is_none());
    } else {
        // It is behind the last line that there can be.
        let place = again.split(['.', '&']).nth(2).expect(&again);
        assert!(place.parse::<u64>().expect(place) > MOST, "{again:?}");
    }
}
