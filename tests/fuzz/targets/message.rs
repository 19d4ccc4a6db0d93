//! A message of the stream: what is understood is all of it, and its frames are as this server writes
//! them, since every reader gets them as they are.

use chat_pair::server::frame;
use chat_pair::server::store::nats::message::{Body, LINES, decode, encode};

pub fn judge(bytes: &[u8]) {
    let Some((head, body)) = decode(bytes) else {
        return;
    };
    assert_eq!(encode(&head, &body), bytes);
    let Body::Lines(parts) = body else { return };
    let mut all = 0;
    for part in parts {
        let mut again = Vec::new();
        let mut lines = 0;
        for payload in frame::payloads(part.frames) {
            let text = std::str::from_utf8(payload).expect("text");
            frame::text_frame(&mut again, &[text]);
            lines += 1;
        }
        assert_eq!(again, part.frames);
        assert_eq!(lines, part.lines);
        assert_eq!(frame::end_of(part.frames, lines), part.frames.len());
        all += lines;
    }
    assert!(all <= LINES);
}
