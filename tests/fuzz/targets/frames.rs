//! What a client sends on an open connection: the others hear what it said and no more, its pings are
//! answered, and it is closed with the code that RFC 6455 has for what it did.

use std::future::pending;
use std::pin::pin;
use std::sync::OnceLock;

use chat_pair::protocol::line::{clean, lines};
use chat_pair::server::connection::Outside;
use chat_pair::server::frame;
use chat_pair::server::handshake::{Rules, accept};
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::log::Log;
use chat_pair::server::metrics::Stranger;
use chat_pair::server::room::{Room, Subscription};
use tokio::time::Instant;

use super::{Pieces, is_shown, run};

/// So small that a few bytes are too many.
const LIMITS: Limits = Limits {
    message: 300,
    turn: 512,
    batch: 256,
    gather: 512,
    control: 64,
    log: 0,
    ..Limits::DEFAULT
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub fn judge(bytes: &[u8]) {
    let expected = read(bytes);
    for most in [usize::MAX, 1, 7] {
        let (heard, answer) = run(converse(bytes, most));
        for line in &heard {
            is_shown(line);
        }
        assert_eq!(heard, expected.said);
        let (pongs, close) = answered(&answer);
        let close = close.map(|close| {
            close
                .first_chunk()
                .copied()
                .map_or(1005, u16::from_be_bytes)
        });
        assert!(
            expected.ends.contains(&close),
            "{close:?} {:?}",
            expected.ends
        );
        if close.is_some() {
            assert_eq!(pongs, expected.pongs);
        } else {
            assert!(expected.pongs.starts_with(&pongs));
        }
    }
}

/// What others hear of a client that sends this and is gone, and what it is answered.
async fn converse(bytes: &[u8], most: usize) -> (Vec<String>, Vec<u8>) {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| Log::open(&LIMITS).expect("a log"));
    let room = Room::open(&LIMITS);
    tokio::spawn(room.clone().publish());
    let (listener, subscription) = room.enter().expect("an open room");
    drop(listener);
    let hearing = tokio::spawn(hear(subscription));
    let sent = [REQUEST.as_bytes(), bytes].concat();
    let mut answer = Vec::new();
    let rules = Rules {
        origins: &[],
        until: Instant::now() + LIMITS.handshake,
        seat: Ok(()),
        stranger: &Stranger::arrives(),
    };
    let enter = async |_: &_| room.enter_as(None);
    let reader = Pieces::of(&sent, most);
    let accepted = accept(reader, &mut answer, rules, || Ok(()), enter, &LIMITS).await;
    let (mut connection, (speaker, mut heard, _), ()) = accepted.expect("a connection");
    let identity = Identity::of("ana");
    let never = Outside {
        stopping: pin!(pending::<()>()),
        ended: pin!(pending()),
    };
    let ended = connection.relay(&identity, speaker, &mut heard, log, &LIMITS, never);
    let ended = ended.await;
    is_shown(&ended.to_string());
    if let Some((code, reason)) = ended.goodbye() {
        connection.close(code, reason, &LIMITS).await;
    }
    drop((connection, heard));
    room.close();
    (hearing.await.expect("a listener"), answer)
}

async fn hear(mut subscription: Subscription) -> Vec<String> {
    let mut heard = Vec::new();
    while let Some(frames) = subscription.next_frames().await {
        for payload in frame::payloads(&frames.concat()) {
            heard.push(String::from_utf8(payload.to_vec()).expect("text"));
        }
    }
    heard
}

/// The pongs behind the answer to the request, and the Close at the end. There is nothing else.
fn answered(answer: &[u8]) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(head) = head else {
        // Whoever sends so little is gone before it is answered.
        assert_eq!(answer, b"");
        return (vec![], None);
    };
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let (mut rest, mut pongs) = (&answer[head + 4..], Vec::new());
    while let &[first, len @ 0..=125, ref behind @ ..] = rest {
        let (payload, behind) = behind.split_at(usize::from(len));
        rest = behind;
        match first {
            0x8a => pongs.push(payload.to_vec()),
            0x88 => {
                assert_eq!(rest, b"", "nothing comes behind a Close");
                assert!(std::str::from_utf8(payload.get(2..).unwrap_or_default()).is_ok());
                return (pongs, Some(payload.to_vec()));
            }
            other => panic!("a frame that begins with {other:#x}"),
        }
    }
    assert_eq!(rest, b"");
    (pongs, None)
}

/// What is to become of a client's frames, by RFC 6455 and the rules of the chat.
#[derive(Default)]
struct Expected {
    said: Vec<String>,
    pongs: Vec<Vec<u8>>,
    /// The codes with which it may end; `None` is without a goodbye, since the client is gone.
    ends: Vec<Option<u16>>,
}

/// A message of several frames.
struct Begun {
    is_text: bool,
    payload: Vec<u8>,
}

fn read(bytes: &[u8]) -> Expected {
    let (mut told, mut begun, mut rest) = (Expected::default(), None::<Begun>, bytes);
    loop {
        let &[first, second, ref behind @ ..] = rest else {
            told.ends = vec![None];
            if !rest.is_empty() {
                told.ends.push(Some(1002));
            }
            return told;
        };
        let (fin, opcode) = (first & 0x80 != 0, first & 0xf);
        let (is_control, masked) = (opcode >= 8, second & 0x80 != 0);
        let mut ends = Vec::new();
        let wrong = first & 0x70 != 0
            || !matches!(opcode, 0..=2 | 8..=10)
            || !masked
            || is_control && (!fin || second & 0x7f > 125)
            || opcode == 0 && begun.is_none()
            || matches!(opcode, 1 | 2) && begun.is_some();
        if wrong {
            ends.push(Some(1002));
        }
        let (form, size) = match second & 0x7f {
            126 => (
                2,
                behind
                    .get(..2)
                    .map(|len| (u64::from(len[0]) << 8) | u64::from(len[1])),
            ),
            127 => (8, behind.first_chunk().map(|len| u64::from_be_bytes(*len))),
            short => (0, Some(u64::from(short))),
        };
        let before = begun.as_ref().map_or(0, |begun| begun.payload.len());
        if let Some(size) = size {
            let shortest = match form {
                0 => true,
                2 => size > 125,
                _ => size > 65_535 && size >> 63 == 0,
            };
            if !shortest || opcode == 8 && size == 1 {
                ends.push(Some(1002));
            }
            if !is_control && size.saturating_add(before as u64) > LIMITS.message as u64 {
                ends.push(Some(1009));
            }
        }
        let seen = behind.get(form..).and_then(|behind| {
            let (mask, payload) = behind.split_first_chunk::<4>()?;
            let size = usize::try_from(size?).unwrap_or(usize::MAX);
            let seen = payload.iter().zip(mask.iter().cycle()).take(size);
            let seen: Vec<_> = seen.map(|(byte, mask)| byte ^ mask).collect();
            let next = payload.get(size..);
            Some((seen, next))
        });
        let (payload, next) = seen.unwrap_or_default();
        // A fault of the text may be seen before the rest of its frame has come.
        let message = begun.as_ref().map_or(&[][..], |begun| &begun.payload);
        let is_text = opcode == 1 || opcode == 0 && begun.as_ref().is_some_and(|it| it.is_text);
        if is_text && is_wrong(&[message, &payload].concat(), false) {
            ends.push(Some(1007));
        }
        let Some(next) = next else {
            // It is gone in the middle of the frame: a fault may have been seen by then, or not.
            ends.push(None);
            told.ends = ends;
            return told;
        };
        if !ends.is_empty() {
            told.ends = ends;
            return told;
        }
        rest = next;
        match opcode {
            8 => {
                told.ends = goodbye(&payload);
                return told;
            }
            9 => told.pongs.push(payload),
            10 => {}
            _ => {
                let message = begun.get_or_insert(Begun {
                    is_text: opcode == 1,
                    payload: Vec::new(),
                });
                message.payload.extend(payload);
                if message.is_text && fin && is_wrong(&message.payload, true) {
                    told.ends = vec![Some(1007)];
                    return told;
                }
                if fin && !message.is_text {
                    told.ends = vec![Some(1003)];
                    return told;
                }
                if fin {
                    let text = String::from_utf8_lossy(&message.payload);
                    let said = lines(&text).map(|line| format!("ana: {}", clean(line)));
                    told.said.extend(said);
                    begun = None;
                }
            }
        }
    }
}

/// Whether no text can begin with these bytes, or be these.
fn is_wrong(text: &[u8], is_whole: bool) -> bool {
    let error = std::str::from_utf8(text).err();
    error.is_some_and(|error| is_whole || error.error_len().is_some())
}

/// How a Close is answered: with its own code (5.5.1), unless there is no such code (7.4).
fn goodbye(payload: &[u8]) -> Vec<Option<u16>> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return vec![Some(1005)];
    };
    let code = u16::from_be_bytes(*code);
    let is_code = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    let mut ends = Vec::new();
    if !is_code {
        ends.push(Some(1002));
    }
    if std::str::from_utf8(reason).is_err() {
        ends.push(Some(1007));
    }
    if ends.is_empty() {
        ends.push(Some(code));
    }
    ends
}
