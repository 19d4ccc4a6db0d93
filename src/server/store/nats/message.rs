//! What one message of the stream says, in numbers of eight or four bytes, the highest first:
//!
//! ```text
//! head    1 byte for the form, which is 1; 1 byte for what it is; then each in 8 bytes: the server,
//!         the number of the message among its own, the salt of the room's epoch, the position behind the
//!         last line that this server does not keep any more, and behind the last one that it knew
//! lines   what is 0; then of each author in turn: its number (8), how many lines it has said before
//!         these (8), how many these are (4), how many bytes (4), and the lines as WebSocket frames
//! claim   what is 1: a session (8) comes to a connection of this server, and so many of its lines were
//!         taken (8), or what is 3: the server does not know how many, and those that do say so
//! salt    what is 2: the room's epoch has this salt (8) from here on, if it has that of the head
//! taken   what is 4: of a session (8) so many lines were taken (8), for those that do not know it
//! ```
//!
//! Who writes to the stream is trusted as these servers are; what cannot be read is another program's.

use crate::server::frame;

/// The form of a message.
const FORM: u8 = 1;
/// Lines of one message at most: the index of a line in it has 12 bits of its position.
pub const LINES: u64 = (1 << INDEX) - 1;
/// How many bits of a position are the index of a line in its message. Above them is the sequence of
/// the message in the stream, so all is well up to 2^41 messages.
pub const INDEX: u32 = 12;

/// Bytes of what stands before every message, …
pub const HEAD: usize = 2 + 5 * 8;
/// … and of what stands before the lines of each author.
pub const PART: usize = 3 * 8;

/// What stands before every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The run of a server.
    pub server: u64,
    /// Which of its messages this is.
    pub number: u64,
    /// The salt that the room's epoch has for it.
    pub salt: u64,
    /// What is behind the last line that it does not keep any more.
    pub floor: u64,
    /// What is behind the last line that it knew.
    pub prior: u64,
}

impl Head {
    /// Whether a message with this head, which has this sequence in the stream, was meant for another past
    /// of the room: whoever sent it had seen lines that are not before it. It was on its way when the
    /// stream was made anew or cut back, and all servers drop it.
    #[must_use]
    pub fn is_of_another_past(&self, sequence: u64) -> bool {
        self.prior >> INDEX >= sequence
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Lines.
    Lines(Vec<Part<'a>>),
    /// A session comes to a connection of the server.
    Claim {
        /// Which one.
        session: u64,
        /// How many of its lines were taken, if the server knows that.
        taken: Option<u64>,
    },
    /// The room's epoch has another salt from here on.
    Salt(u64),
    /// The answer to a claim of a server that does not know this.
    Taken {
        /// Of which session.
        session: u64,
        /// How many of its lines were taken.
        taken: u64,
    },
}

/// Lines of one author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Whose.
    pub author: u64,
    /// How many it has said before.
    pub before: u64,
    /// How many they are.
    pub lines: u64,
    /// Their frames.
    pub frames: &'a [u8],
}

/// A message to be sent.
#[must_use]
pub fn encode(head: &Head, body: &Body<'_>) -> Vec<u8> {
    let what = match body {
        Body::Lines(_) => 0,
        Body::Claim { taken: Some(_), .. } => 1,
        Body::Salt(_) => 2,
        Body::Claim { taken: None, .. } => 3,
        Body::Taken { .. } => 4,
    };
    let mut bytes = vec![FORM, what];
    let put = |bytes: &mut Vec<u8>, numbers: &[u64]| {
        for number in numbers {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
    };
    let Head {
        server,
        number,
        salt,
        floor,
        prior,
    } = *head;
    put(&mut bytes, &[server, number, salt, floor, prior]);
    match body {
        Body::Lines(parts) => {
            for part in parts {
                let size = part.frames.len() as u64 & 0xffff_ffff;
                put(
                    &mut bytes,
                    &[part.author, part.before, part.lines << 32 | size],
                );
                bytes.extend_from_slice(part.frames);
            }
        }
        Body::Claim { session, taken } => {
            put(&mut bytes, &[*session]);
            put(&mut bytes, taken.as_slice());
        }
        Body::Taken { session, taken } => put(&mut bytes, &[*session, *taken]),
        Body::Salt(salt) => put(&mut bytes, &[*salt]),
    }
    bytes
}

/// What a message says; `None` if it is another program's.
#[must_use]
pub fn decode(message: &[u8]) -> Option<(Head, Body<'_>)> {
    let (&[FORM, what], mut rest) = message.split_first_chunk()? else {
        return None;
    };
    let head = Head {
        server: number(&mut rest)?,
        number: number(&mut rest)?,
        salt: number(&mut rest)?,
        floor: number(&mut rest)?,
        prior: number(&mut rest)?,
    };
    let body = match what {
        0 => {
            let (mut parts, mut all) = (Vec::new(), 0);
            while !rest.is_empty() {
                let (author, before) = (number(&mut rest)?, number(&mut rest)?);
                let sizes = number(&mut rest)?;
                let (lines, size) = (sizes >> 32, usize::try_from(sizes & 0xffff_ffff).ok()?);
                let (frames, behind) = rest.split_at_checked(size)?;
                rest = behind;
                all += lines;
                if lines == 0 || all > LINES || !frame::are_texts(frames, lines) {
                    return None;
                }
                before.checked_add(lines)?;
                parts.push(Part {
                    author,
                    before,
                    lines,
                    frames,
                });
            }
            Body::Lines(parts)
        }
        1 => Body::Claim {
            session: number(&mut rest)?,
            taken: Some(number(&mut rest)?),
        },
        2 => Body::Salt(number(&mut rest)?),
        3 => Body::Claim {
            session: number(&mut rest)?,
            taken: None,
        },
        4 => Body::Taken {
            session: number(&mut rest)?,
            taken: number(&mut rest)?,
        },
        _ => return None,
    };
    rest.is_empty().then_some((head, body))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: Head = Head {
        server: 1,
        number: 2,
        salt: 3,
        floor: 4 << INDEX,
        prior: 5 << INDEX,
    };

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut frames = Vec::new();
        frame::text_frame(&mut frames, &["ana: ", "hi"]);
        frame::text_frame(&mut frames, &["ana: ", &"x".repeat(70_000)]);
        let part = |author, before| Part {
            author,
            before,
            lines: 2,
            frames: &frames,
        };
        for body in [
            Body::Lines(vec![part(7, 0), part(1 << 63, 1 << 40)]),
            Body::Claim {
                session: 1 << 63 | 5,
                taken: Some(9),
            },
            Body::Claim {
                session: 1 << 63 | 5,
                taken: None,
            },
            Body::Salt(u64::MAX),
            Body::Taken {
                session: 5,
                taken: 1 << 40,
            },
        ] {
            let bytes = encode(&HEAD, &body);
            assert_eq!(decode(&bytes), Some((HEAD, body)));
        }
    }

    #[test]
    fn what_is_not_written_like_this_is_not_ours() {
        let claim = |taken| Body::Claim { session: 5, taken };
        let taken = Body::Taken {
            session: 5,
            taken: 9,
        };
        for body in [
            Body::Lines(vec![]),
            claim(Some(9)),
            claim(None),
            Body::Salt(7),
            taken,
        ] {
            let mut bytes = encode(&HEAD, &body);
            assert!(decode(&bytes).is_some());
            bytes.push(0);
            assert_eq!(decode(&bytes), None);
        }
        // A reader of this frame would have to leave (RFC 6455 5.2).
        let part = |frames| Part {
            author: 7,
            before: 1,
            lines: 1,
            frames,
        };
        for frames in [&b"\x81\x7e\0\x02hi"[..], b"\x81\x7f\0\0\0\0\0\0\0\x02hi"] {
            let bytes = encode(&HEAD, &Body::Lines(vec![part(frames)]));
            assert_eq!(decode(&bytes), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_cut_or_changed_is_believed_to_have_other_frames(
            cut in 0..200_usize, at in 0..200_usize, to in any::<u8>(),
        ) {
            let mut frames = Vec::new();
            frame::text_frame(&mut frames, &["ana: ", &"x".repeat(100)]);
            let part = Part { author: 7, before: 1, lines: 1, frames: &frames };
            let mut bytes = encode(&HEAD, &Body::Lines(vec![part]));
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            if let Some((_, Body::Lines(parts))) = decode(&bytes) {
                for part in parts {
                    prop_assert!(frame::are_texts(part.frames, part.lines));
                }
            }
        }
    }
}
