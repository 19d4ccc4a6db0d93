//! What both ends know of sessions: which epochs and numbers there can be in their lines and URLs.

/// Whether a byte needs no escaping in a URL, as in a session's key (base64url, RFC 4648 5).
#[must_use]
pub fn is_url_safe(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

/// Whether the text can tell one past of a room from others.
#[must_use]
pub fn is_epoch(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_url_safe)
}

/// A position, a number of lines or a time: at most the largest number that JavaScript counts to
/// without gaps. `None` if the text is no such number.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    const MOST: u64 = 1 << 53;
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n <= MOST)
}
