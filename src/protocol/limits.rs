//! The numbers that both ends must agree on, or that are the same for both.

use std::time::Duration;

/// Bytes of one message from a client: a long paragraph, several times over.
pub const MESSAGE: usize = 16 * 1024;

/// The largest message that a flag may allow.
pub const MESSAGE_MOST: usize = 256 * 1024;

/// Bytes of HTTP head, as most web servers allow.
pub const HEAD: usize = 8 * 1024;

/// A goodbye: Close, its answer, the end of the TCP stream.
pub const CLOSE: Duration = Duration::from_secs(2);

/// Silence after which a ping asks whether the link lives, and again how long the answer may take:
/// a dead link is noticed within twice this.
pub const QUIET: Duration = Duration::from_secs(20);

/// Characters of the longest name.
pub const NAME: usize = 32;

/// Bytes of the longest token: 32 random bytes are 64 digits, and other people's tokens are longer.
pub const TOKEN: usize = 256;

/// Bytes of a file that a flag names: a thousand of the longest tokens, several times over.
pub const FILE: usize = 1024 * 1024;

/// Bytes of the longest line as it is relayed, when a message has at most `message` bytes: each
/// replaced control character grows from one byte to three, and a name is put in front, whose
/// characters have up to four bytes.
#[must_use]
pub const fn longest(message: usize) -> usize {
    3 * message + 4 * NAME + 32
}
