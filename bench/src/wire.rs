//! The bytes on the wire, by hand: what every client sends, and how an answer is read (RFC 6455 5.2).

/// The mask of every frame sent. A real client's is random, which costs the server the same.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// What follows `GET` and the path. RFC 6455 1.3 gives this key and its answer.
pub const REQUEST: &str = " HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A masked close frame with code 1000 (RFC 6455 5.5.1), the mask being zero.
pub const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

pub fn masked_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = match text.len() {
        length @ 0..126 => vec![0x81, 0x80 | length as u8],
        length => [&[0x81, 0x80 | 126], &(length as u16).to_be_bytes()[..]].concat(),
    };
    frame.extend(MASK);
    frame.extend(
        text.iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// The length of a frame's head and of its payload (never masked by a server), once the head is all there.
pub fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [_, length @ 0..126, ..] => Some((2, length.into())),
        [_, 126, a, b, ..] => Some((4, u16::from_be_bytes([a, b]).into())),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            Some((10, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize))
        }
        _ => None,
    }
}

/// Eight decimal digits, two by two at once: a loop over them would cost as much as the rest of a line.
pub fn number(digits: &[u8; 8]) -> u32 {
    let ones = u64::from_le_bytes(*digits).wrapping_sub(0x3030_3030_3030_3030);
    let pairs = ones.wrapping_mul(10).wrapping_add(ones >> 8);
    let low = (pairs & 0xff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let high = (pairs >> 16 & 0xff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    (low.wrapping_add(high) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_reads_what_format_writes() {
        for value in [0, 7, 10, 99, 12_345_678, 90_000_001, 99_999_999] {
            assert_eq!(
                number(format!("{value:08}").as_bytes().first_chunk().unwrap()),
                value
            );
        }
    }

    #[test]
    fn a_masked_frame_has_the_head_that_its_length_asks_for() {
        assert_eq!(
            masked_frame(b"hi"),
            [
                0x81,
                0x82,
                MASK[0],
                MASK[1],
                MASK[2],
                MASK[3],
                b'h' ^ MASK[0],
                b'i' ^ MASK[1]
            ]
        );
        assert_eq!(masked_frame(&[b'x'; 16_000])[..4], [0x81, 0xfe, 0x3e, 0x80]);
    }

    #[test]
    fn a_head_is_read_only_when_it_is_all_there() {
        assert_eq!(head(&[0x81]), None);
        assert_eq!(head(&[0x81, 5]), Some((2, 5)));
        assert_eq!(head(&[0x81, 126, 1]), None);
        assert_eq!(head(&[0x81, 126, 1, 0]), Some((4, 256)));
        assert_eq!(
            head(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            Some((10, 65_536))
        );
    }
}
