//! Tokens: who has one may come in. What one looks like, and the file with some of them.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::os;
use crate::protocol::limits::TOKEN;

/// What stands before a token among the subprotocols of a request: a web page has no other way to
/// show one.
pub const SUBPROTOCOL: &str = "token.";

/// What is wrong with a file in which nobody has a token.
pub const NONE: &str = "there is no token in it";

/// A secret that lets its bearer in. Nothing prints it, and it has no `==`, whose time would tell
/// how much of a guess is right.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token, if the text is one: 1 to [`TOKEN`] bytes, letters, digits and `-._~+/`, and `=` at
    /// the end (`b64token` of RFC 6750 2.1).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let start = text.trim_end_matches('=');
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
        let is_token = !start.is_empty() && text.len() <= TOKEN && start.bytes().all(allowed);
        is_token.then(|| Self(text.to_owned()))
    }

    /// The secret itself, for those who send it or compare it. It must not get into any message.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What an `Authorization` field shows as a token (RFC 6750 2.1). The scheme may be in capitals or not
/// (RFC 9110 11.1).
#[must_use]
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, shown) = value.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("Bearer");
    is_bearer.then(|| shown.trim_matches(' '))
}

/// What [`Token::new`] asks for, in words.
#[must_use]
pub fn rule() -> String {
    format!("a token is 1 to {TOKEN} letters, digits and -._~+/, and = at its end")
}

/// A line of a token file.
#[derive(Debug)]
pub struct Entry<'t> {
    /// Its number, from 1.
    pub line: usize,
    /// Its token.
    pub token: Token,
    /// The name behind the token.
    pub name: Option<&'t str>,
}

/// The tokens of a file: `TOKEN` or `TOKEN NAME` in each line. A word that begins with `#` begins a
/// comment.
///
/// # Errors
///
/// The number of the first line that is wrong, and why. What stands there is not said, since it may
/// be a token.
pub fn entries(file: &[u8]) -> Result<Vec<Entry<'_>>, String> {
    let mut entries = Vec::new();
    let mut seen = HashMap::new();
    for (line, bytes) in (1..).zip(file.split(|&b| b == b'\n')) {
        let text = std::str::from_utf8(bytes).map_err(|_| format!("line {line} is not UTF-8"))?;
        let mut words = text
            .split_whitespace()
            .take_while(|word| !word.starts_with('#'));
        let Some(word) = words.next() else { continue };
        let (name, more) = (words.next(), words.next());
        let token = Token::new(word).filter(|_| more.is_none());
        let token = token
            .ok_or_else(|| format!("line {line} is neither TOKEN nor TOKEN NAME; {}", rule()))?;
        if let Some(first) = seen.insert(word, line) {
            return Err(format!("line {line} has the same token as line {first}"));
        }
        entries.push(Entry { line, token, name });
    }
    Ok(entries)
}

/// The first token of a file.
///
/// # Errors
///
/// One line that names the file and says why there is none and what to do.
pub fn first(path: &Path) -> Result<Token, String> {
    let file = read(path)?;
    let entries = entries(&file).map_err(|why| wrong(path, &why))?;
    let first = entries.into_iter().next();
    let first = first.ok_or_else(|| wrong(path, NONE))?;
    Ok(first.token)
}

/// Reads a token file.
///
/// # Errors
///
/// One line that names the file and says why it cannot be used and what to do.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    os::read_secret(path)
}

/// One line that names a token file and says what is wrong with it.
#[must_use]
pub fn wrong(path: &Path, why: &str) -> String {
    format!("cannot use the tokens in {}: {why}", path.display())
}
