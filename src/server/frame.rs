//! The frames that the server encodes itself. A server's frames are not masked (RFC 6455 5.1), so
//! they are the same for every receiver.

use bytes::Bytes;
use tokio_websockets::CloseCode;

/// A ping without a payload (RFC 6455 5.5.2).
pub const PING: &[u8] = &[0x89, 0];

/// The frame that tells a reader how many lines it did not get.
#[must_use]
pub fn missed(lines: u64) -> Bytes {
    notice(&format!("{lines} messages missed"))
}

/// A line of the server's own.
#[must_use]
pub fn notice(text: &str) -> Bytes {
    text_of(&["* ", text])
}

/// A text frame whose payload is `parts` joined.
#[must_use]
pub fn text_of(parts: &[&str]) -> Bytes {
    let mut frame = Vec::new();
    text_frame(&mut frame, parts);
    frame.into()
}

/// Bytes of the longest [`mark`].
pub const MARK: usize = 2 + "@ ".len() + 2 * 20;

/// The frame `@POSITION MILLISECONDS`, which says of the line behind it where it is in the log, and
/// when it was said in Unix time.
#[must_use]
pub fn mark(position: u64, time: u64) -> Bytes {
    text_of(&[&format!("@{position} {time}")])
}

/// The lengths of the head and of the payload of the first of the text frames, which [`text_frame`]
/// has written; two zeros if there is none.
fn lengths(frames: &[u8]) -> (usize, usize) {
    match *frames {
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        [_, 127, _, _, _, _, a, b, c, d, ..] => (10, u32::from_be_bytes([a, b, c, d]) as usize),
        [_, len, ..] => (2, usize::from(len)),
        _ => (0, 0),
    }
}

/// Where the first so many of the text frames end, which [`text_frame`] has written.
#[must_use]
pub fn end_of(frames: &[u8], count: u64) -> usize {
    (0..count).fold(0, |end, _| {
        let (head, len) = lengths(&frames[end..]);
        end + head + len
    })
}

/// The payloads of text frames, which [`text_frame`] has written.
pub fn payloads(frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let (head, len) = lengths(rest);
        let (frame, behind) = rest.split_at(head + len);
        rest = behind;
        (head > 0).then(|| &frame[head..])
    })
}

/// What a reader is told that has missed lines, of which nobody knows how many they were.
pub const SOME_MISSED: &str = "some messages missed";

/// Whether these are exactly so many text frames, as [`text_frame`] writes them.
#[must_use]
pub fn are_texts(frames: &[u8], count: u64) -> bool {
    let mut rest = frames;
    for _ in 0..count {
        let (head, len) = lengths(rest);
        // A length has its shortest form (RFC 6455 5.2). The high bytes of one of eight are zero, since
        // no frame is as long as that.
        let is_text = match rest {
            [0x81, 127, 0, 0, 0, 0, ..] => len > 65_535,
            [0x81, 126, ..] => len > 125,
            [0x81, 0..=125, ..] => true,
            _ => false,
        };
        let payload = rest.get(head..head + len);
        if !is_text || payload.is_none_or(|text| std::str::from_utf8(text).is_err()) {
            return false;
        }
        rest = &rest[head + len..];
    }
    rest.is_empty()
}

/// A Close with its code and reason (RFC 6455 5.5.1). The reason is short: all of a control frame
/// must fit into 125 bytes. Code 1005 means that there is no code, and is never sent (7.4.1).
#[must_use]
pub fn close(code: CloseCode, reason: &str) -> Bytes {
    const FINAL_CLOSE: u8 = 0x88;
    let mut payload = Vec::new();
    if code != CloseCode::NO_STATUS_RECEIVED {
        payload.extend_from_slice(&u16::from(code).to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    let len = u8::try_from(payload.len()).unwrap_or(0);
    [&[FINAL_CLOSE, len], &payload[..usize::from(len)]]
        .concat()
        .into()
}

/// Appends one final, unmasked text frame (RFC 6455 5.2) whose payload is `parts` joined.
pub fn text_frame(out: &mut Vec<u8>, parts: &[&str]) {
    const FINAL_TEXT: u8 = 0x81;
    const LONGEST_HEAD: usize = 10;
    let len: usize = parts.iter().map(|part| part.len()).sum();
    // At once: to let it grow with each part would cost more than the rest.
    out.reserve(LONGEST_HEAD + len);
    out.push(FINAL_TEXT);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::line;
    use futures_util::{FutureExt, StreamExt};
    use tokio_websockets::ClientBuilder;

    /// The library on the other side is the judge of the encoding, at each form of the length.
    #[test]
    fn the_library_reads_what_is_encoded_here() {
        for len in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let text = "x".repeat(len);
            let mut frame = Vec::new();
            text_frame(&mut frame, &[&text]);
            let stream = tokio::io::join(&frame[..], tokio::io::sink());
            let mut ws = ClientBuilder::new().take_over(stream);
            let message = ws.next().now_or_never().unwrap().unwrap().unwrap();
            assert_eq!(line::text(&message), Ok(&*text));
            let twice = frame.repeat(2);
            assert_eq!(payloads(&twice).collect::<Vec<_>>(), [text.as_bytes(); 2]);
        }
    }
}
