//! The target of a request: what is understood is what somebody else reads in it, and is understood again
//! when it is written again.

use chat_pair::protocol::limits::NAME;
use chat_pair::server::handshake::Refusal;
use chat_pair::server::name::Name;
use chat_pair::server::rooms::{Wanted, wanted};
use form_urlencoded::Serializer;
use http::Uri;

use super::is_shown;

pub fn judge(bytes: &[u8]) {
    let Ok(target) = Uri::try_from(bytes) else {
        return;
    };
    let pairs = pairs(target.query().unwrap_or_default());
    let understood = match wanted(&target) {
        Ok(understood) => understood,
        Err(Refusal::Answered(status, why)) => {
            assert!(status.is_client_error());
            return is_shown(&why);
        }
        Err(other) => panic!("it is still here: {other:?}"),
    };
    let Wanted {
        path,
        name,
        session,
    } = &understood;
    let in_room = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    assert!(path.len() <= 64 && path.bytes().all(in_room), "{path:?}");
    let is = |key: &str, value: Option<&str>| {
        let all = pairs.iter().filter(|(name, _)| name == key);
        let all: Vec<_> = all.map(|(_, value)| &**value).collect();
        assert_eq!(all, value.as_slice(), "{key}");
    };
    is("name", name.as_ref().map(Name::text));
    is("session", session.as_ref().map(|asked| asked.key.secret()));
    if let Some(name) = name {
        is_name(name.text());
    }
    let mut again = Serializer::new(format!("/{path}?"));
    for (key, value) in &pairs {
        again.append_pair(key, value);
    }
    let again = again.finish().parse().expect("a target");
    let again = wanted(&again).expect("the same");
    assert_eq!(
        (again.path, &again.name, format!("{:?}", again.session)),
        (*path, name, format!("{session:?}"))
    );
}

/// What every line begins with can be taken for nothing else, nor steer anything.
fn is_name(name: &str) {
    is_shown(name);
    assert!((1..=NAME).contains(&name.chars().count()));
    assert!(!name.contains([' ', ':', '/', '\t']), "{name:?}");
    assert!(!name.starts_with(['*', '@']), "{name:?}");
}

/// `application/x-www-form-urlencoded` as <https://url.spec.whatwg.org/#urlencoded-parsing> has it.
fn pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pairs = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
    let pairs = pairs.map(|(name, value)| (decoded(name), decoded(value)));
    pairs.collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        (bytes, rest) = match (first, code) {
            (b'%', Some(code)) => ([&bytes[..], &[code]].concat(), &behind[2..]),
            (b'+', _) => ([&bytes[..], b" "].concat(), behind),
            _ => ([&bytes[..], &[first]].concat(), behind),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
