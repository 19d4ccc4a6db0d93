//! A file with tokens: exactly those who stand in it come in, under their names, and no message has
//! anything of it.

use std::collections::HashMap;
use std::sync::Arc;

use chat_pair::protocol::limits::TOKEN;
use chat_pair::protocol::token::Token;
use chat_pair::server::access::{Access, Tokens};
use chat_pair::server::limits::Limits;
use chat_pair::server::name::Name;
use tokio::sync::watch;

pub fn judge(bytes: &[u8]) {
    let limits = Limits {
        tokens: 16,
        ..Limits::DEFAULT
    };
    let stands = stands(bytes);
    let tokens = match Tokens::parse(bytes, &limits) {
        Ok(tokens) => tokens,
        Err(why) => return is_silent(&why),
    };
    let stands = stands.expect("a wrong line");
    assert_eq!(tokens.count(), stands.len());
    assert!((1..=limits.tokens).contains(&stands.len()));
    let (_in_force, tokens) = watch::channel(Arc::new(tokens));
    let access = Access::by(tokens);
    let admit = |token: &str| Some(access.admit(Some(Token::new(token)?)));
    for (token, name) in &stands {
        let pass = admit(token).expect("a token");
        let name_of = pass.expect("it stands there").name(None).expect("a name");
        assert_eq!(name_of.as_ref().map(Name::text), name.as_deref());
        let other = format!("{token}x");
        if let Some(admitted) = admit(&other) {
            assert_eq!(admitted.is_ok(), stands.contains_key(&other));
        }
    }
    assert!(access.admit(None).is_err());
}

/// The tokens and their names; `None` when a line is wrong whatever the names are.
fn stands(bytes: &[u8]) -> Option<HashMap<String, Option<String>>> {
    let mut tokens = HashMap::new();
    for line in std::str::from_utf8(bytes).ok()?.split('\n') {
        let words: Vec<_> = line.split_whitespace().collect();
        let comment = words.iter().position(|word| word.starts_with('#'));
        let (token, name) = match &words[..comment.unwrap_or(words.len())] {
            [] => continue,
            [token] => (*token, None),
            [token, name] => (*token, Some((*name).to_owned())),
            _ => return None,
        };
        let start = token.trim_end_matches('=');
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        if start.is_empty() || token.len() > TOKEN || !start.chars().all(allowed) {
            return None;
        }
        if tokens.insert(token.to_owned(), name).is_some() {
            return None;
        }
    }
    Some(tokens)
}

/// Apart from numbers, a message is one of these.
fn is_silent(why: &str) {
    let words = why.split(|c: char| c.is_ascii_digit());
    let words: String = words
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("N");
    let begins = [
        "there is no token in it",
        "there are N tokens in it, and at most N can be",
        "line N is not UTF-N",
        "line N is neither TOKEN nor TOKEN NAME; a token is N to N letters, digits and -._~+/, and = at its end",
        "line N has the same token as line N",
        "the name in line N is wrong: a name is N to N letters and digits of any script, - _ and ., and no address",
        "the name in line N is wrong: it looks like another one",
    ];
    let words = format!(
        "{words}{}",
        if why.ends_with(|c: char| c.is_ascii_digit()) {
            "N"
        } else {
            ""
        }
    );
    assert!(begins.contains(&&*words), "{words}");
}
