//! A request: it is answered in the same way in whatever pieces it comes, and what is let in is a request
//! also when it is read by other eyes.

use chat_pair::protocol::head;
use chat_pair::server::handshake::{FULL, Method, Refusal, Request, Rules, accept};
use chat_pair::server::limits::Limits;
use chat_pair::server::metrics::Stranger;
use chat_pair::server::rooms::wanted;
use http::StatusCode;
use tokio::time::Instant;

use super::{Pieces, is_shown, run};

/// What is wrong with the server that is full.
const TROUBLE: &str = "something is wrong";

/// What a page may come from here.
const ORIGIN: &str = "https://chat.example";

pub fn judge(bytes: &[u8]) {
    let pieces = [bytes.len().max(1), 1, 1 + bytes.len() / 3];
    let [whole, single, third] = pieces.map(|most| run(answer(bytes, most, false)));
    assert_eq!(whole, single);
    assert_eq!(whole, third);
    let (judged, told) = run(answer(bytes, bytes.len().max(1), true));
    is_told(&judged.expect_err("there is no seat"), &told, true);
    let (judged, answer) = whole;
    match judged {
        Ok(()) => {
            is_request(bytes);
            assert!(answer.is_empty(), "the connection's writer says it");
        }
        Err(refusal) => is_told(&refusal, &answer, false),
    }
    let [whole, _, third] = pieces;
    assert_eq!(run(cut(bytes, whole)), run(cut(bytes, third)));
}

/// What is made of the request, and what is written to who sent it; by a server that is well, or by one that
/// is full and in trouble.
async fn answer(bytes: &[u8], most: usize, is_full: bool) -> (Result<(), Refusal>, String) {
    let mut answer = Vec::new();
    let limits = Limits::DEFAULT;
    let rules = Rules {
        origins: &[ORIGIN.to_owned()],
        until: Instant::now() + limits.handshake,
        seat: if is_full { Err(FULL) } else { Ok(()) },
        stranger: &Stranger::arrives(),
    };
    let enter = async |request: &Request| wanted(&request.target).map(drop);
    let reader = Pieces::of(bytes, most);
    let health = || if is_full { Err(TROUBLE) } else { Ok(()) };
    let accepted = accept(reader, &mut answer, rules, health, enter, &limits).await;
    let judged = accepted.map(drop);
    (judged, String::from_utf8(answer).expect("text"))
}

/// The head and what is behind it.
async fn cut(bytes: &[u8], most: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut stream = Pieces::of(bytes, most);
    let head = head::read(&mut stream, Limits::DEFAULT.head, |_| true);
    let head = head.await.ok()?;
    assert!(head.bytes.len() <= Limits::DEFAULT.head);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    assert_eq!(end.map(|end| end + 4), Some(head.bytes.len()));
    Some((head.bytes.to_vec(), [&head.rest, stream.bytes].concat()))
}

/// A refusal can be shown to the operator, and is a whole answer in HTTP.
fn is_told(refusal: &Refusal, answer: &str, is_full: bool) {
    is_shown(&refusal.to_string());
    let (status, text) = match refusal {
        Refusal::Answered(status, why) => {
            assert!(status.is_client_error() || is_full && *refusal == FULL);
            (*status, format!("{why}\n"))
        }
        Refusal::HealthCheck(_) if is_full => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{TROUBLE}\n"))
        }
        Refusal::HealthCheck(_) => (StatusCode::OK, "ok\n".to_owned()),
        _ => return assert_eq!((refusal, answer), (&Refusal::Left, "")),
    };
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    let expected = match refusal {
        Refusal::HealthCheck(Method::Head) => "",
        _ => &text,
    };
    assert_eq!(body, expected);
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with(&format!("HTTP/1.1 {} ", status.as_u16())));
    lines.clone().for_each(is_shown);
    let length = format!("Content-Length: {}", text.len());
    assert!(lines.any(|line| line == length), "{head}");
}

/// What was let in has what RFC 6455 4.2.1 asks for, as somebody reads it who knows nothing but lines.
fn is_request(bytes: &[u8]) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let text = String::from_utf8_lossy(&bytes[..end.expect("an end")]);
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let words: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    assert!(
        matches!(&*words, ["GET", _, "HTTP/1.1"]),
        "the request line {words:?}"
    );
    let fields = lines.map(|line| line.split_once(':').expect(line));
    let fields: Vec<_> = fields.collect();
    let all = |name: &str| -> Vec<&str> {
        let named = fields
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named
            .map(|(_, value)| value.trim_matches([' ', '\t']))
            .collect()
    };
    let lists = |name: &str, word: &str| {
        let all = all(name).join(",");
        all.split(',')
            .any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    assert_eq!(all("host").len(), 1);
    assert!(lists("upgrade", "websocket") && lists("connection", "upgrade"));
    assert_eq!(all("sec-websocket-version"), ["13"]);
    assert!(matches!(&*all("origin"), [] | [ORIGIN]));
    let keys = all("sec-websocket-key");
    assert_eq!(keys.len(), 1);
    assert!(keys[0].len() == 24 && keys[0].ends_with("=="), "{keys:?}");
}
