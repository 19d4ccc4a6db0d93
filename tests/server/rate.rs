//! How many lines a second somebody may say, by a clock that is moved and not waited for. Nothing is
//! lost, and nobody is called silent whom the server itself does not read.

use std::time::Duration;

use chat_pair::server::ended::Ended;
use chat_pair::server::limits::Limits;
use chat_pair::server::rate::Rate;
use chat_pair::server::room::Subscription;
use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, advance, timeout};
use tokio_websockets::{ClientBuilder, Message, WebSocketStream};

use crate::support::memory::{connect, connect_until, open};
use crate::support::raw::{FIN, PING, TEXT, frame};
use crate::support::{Program, Server};

/// Ten lines a second, and a hundred at once.
const LIMITS: Limits = Limits {
    lines: Some(10),
    ..Limits::DEFAULT
};

/// The next lines that are heard in the room, without their speaker's name; none when nothing is
/// said for an hour.
async fn next_lines(subscription: &mut Subscription) -> Vec<String> {
    let hour = Duration::from_hours(1);
    let Ok(frames) = timeout(hour, subscription.next_frames()).await else {
        return Vec::new();
    };
    let bytes = frames.unwrap_or_default().concat();
    let mut messages =
        ClientBuilder::new().take_over(tokio::io::join(&bytes[..], tokio::io::sink()));
    let mut lines = Vec::new();
    while let Some(Ok(message)) = messages.next().await {
        let text = chat_pair::protocol::line::text(&message).unwrap();
        lines.push(text.strip_prefix("name: ").expect(text).to_owned());
    }
    lines
}

/// Hears so many lines, which are numbers in order, and returns how many of them came within the
/// first `moment`, and when the last did.
async fn hear_numbers(subscription: &mut Subscription, count: usize) -> (usize, Duration) {
    let begun = Instant::now();
    let (mut heard, mut at_once) = (0, 0);
    while heard < count {
        let lines = next_lines(subscription).await;
        assert!(!lines.is_empty(), "{heard} of {count} lines");
        for line in lines {
            assert_eq!(line, heard.to_string());
            heard += 1;
        }
        if begun.elapsed() < Duration::from_millis(50) {
            at_once = heard;
        }
    }
    (at_once, begun.elapsed())
}

fn numbers(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| n.to_string())
}

fn client(far: DuplexStream) -> WebSocketStream<DuplexStream> {
    ClientBuilder::new().take_over(far)
}

#[tokio::test(start_paused = true)]
async fn a_message_of_many_lines_comes_as_fast_as_it_may() {
    const COUNT: usize = 2000;
    let room = open(&LIMITS);
    let (_other, mut ear) = room.enter().unwrap();
    let (far, connection) = connect(&room, &LIMITS, 64 * 1024).await;
    let mut client = client(far);
    let text = numbers(COUNT).collect::<Vec<_>>().join("\n");
    client.send(Message::text(text)).await.unwrap();
    let (at_once, last) = hear_numbers(&mut ear, COUNT).await;
    assert_eq!((at_once, last.as_secs()), (100, 190));
    assert!(!connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn many_messages_come_as_fast_as_they_may_and_what_is_read_meanwhile_is_little() {
    const COUNT: usize = 2000;
    let room = open(&LIMITS);
    let (_other, mut ear) = room.enter().unwrap();
    let (far, _connection) = connect(&room, &LIMITS, 1024).await;
    let mut client = client(far);
    let sending = tokio::spawn(async move {
        let mut sent_at = Vec::new();
        for line in numbers(COUNT) {
            client.send(Message::text(line)).await.unwrap();
            sent_at.push(Instant::now());
        }
        (client, sent_at)
    });
    let begun = Instant::now();
    let (at_once, last) = hear_numbers(&mut ear, COUNT).await;
    assert_eq!((at_once, last.as_secs()), (100, 190));
    // The client could not send much earlier than it was heard: two buffers' worth, of 8 bytes a
    // line at least, and the burst.
    let (_client, sent_at) = sending.await.unwrap();
    let early = sent_at.iter().filter(|at| **at == begun).count();
    assert!(early < 100 + (1024 + 16 * 1024) / 8, "{early} sent at once");
}

#[tokio::test(start_paused = true)]
async fn who_was_quiet_may_say_ten_seconds_worth_at_once_and_no_more() {
    let room = open(&LIMITS);
    let (_other, mut ear) = room.enter().unwrap();
    let (far, _connection) = connect(&room, &LIMITS, 64 * 1024).await;
    let mut client = client(far);
    for quiet in [1000, 15] {
        let text = numbers(101).collect::<Vec<_>>().join("\n");
        client.send(Message::text(text)).await.unwrap();
        let (at_once, last) = hear_numbers(&mut ear, 101).await;
        assert_eq!((at_once, last.as_millis() / 10), (100, 10));
        // Much longer than it takes to fill it, and long enough. Pings are answered.
        let silence = async { while client.next().await.is_some() {} };
        let heard = timeout(Duration::from_secs(quiet), silence).await;
        assert!(heard.is_err(), "it was closed");
    }
}

/// The server says that it lives, as often as to anyone who is silent; it does not expect an answer
/// that it would not read.
#[tokio::test(start_paused = true)]
async fn who_waits_for_its_turn_is_pinged_and_not_called_silent() {
    const COUNT: usize = 3000;
    for in_one_message in [true, false] {
        let room = open(&LIMITS);
        let (_other, mut ear) = room.enter().unwrap();
        let (mut far, connection) = connect(&room, &LIMITS, 64 * 1024).await;
        // All of it at once, then not a word, and no pong ever.
        let lines: Vec<_> = numbers(COUNT).collect();
        let sent = if in_one_message {
            frame(FIN | TEXT, lines.join("\n").as_bytes())
        } else {
            let frames = lines.iter().map(|line| frame(FIN | TEXT, line.as_bytes()));
            frames.collect::<Vec<_>>().concat()
        };
        let begun = Instant::now();
        far.write_all(&sent).await.unwrap();
        let (heard, pings) = tokio::join!(hear_numbers(&mut ear, COUNT), async {
            let mut pings = Vec::new();
            while pings.len() < 14 {
                let mut ping = [0; 2];
                far.read_exact(&mut ping).await.unwrap();
                assert_eq!(ping, [FIN | PING, 0]);
                pings.push(begun.elapsed().as_secs());
            }
            pings
        });
        assert_eq!(heard.1.as_secs(), 290);
        let expected: Vec<u64> = (1..=14).map(|n| 20 * n).collect();
        assert_eq!(pings, expected);
        assert!(!connection.is_finished());
        // From now on it is read again, and its silence is its own.
        assert!(matches!(connection.await.unwrap(), Ended::Silent(_)));
        assert!(
            begun.elapsed() < Duration::from_secs(290 + 41),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_pong_waits_for_the_lines_before_its_ping() {
    let room = open(&LIMITS);
    let (_other, mut ear) = room.enter().unwrap();
    let (far, _connection) = connect(&room, &LIMITS, 64 * 1024).await;
    let mut client = client(far);
    let begun = Instant::now();
    let text = numbers(200).collect::<Vec<_>>().join("\n");
    client.send(Message::text(text)).await.unwrap();
    client.send(Message::ping("asked")).await.unwrap();
    let answered = async {
        loop {
            let message = client.next().await.unwrap().unwrap();
            if message.is_pong() {
                return begun.elapsed();
            }
        }
    };
    let ((_, last), answered) = tokio::join!(hear_numbers(&mut ear, 200), answered);
    assert_eq!((last.as_secs(), answered.as_secs()), (10, 10));
}

/// When the server stops, what was read is said at once: all of a long message, and none of what
/// came later.
#[tokio::test(start_paused = true)]
async fn a_server_that_stops_does_not_wait_for_anybodys_turn() {
    const COUNT: usize = 3000;
    let room = open(&LIMITS);
    let (other, mut ear) = room.enter().unwrap();
    let (stop, stopping) = oneshot::channel::<()>();
    let stopping = async { drop(stopping.await) };
    let (far, connection) = connect_until(&room, &LIMITS, 64 * 1024, stopping).await;
    let mut client = client(far);
    let text = numbers(COUNT).collect::<Vec<_>>().join("\n");
    client.send(Message::text(text)).await.unwrap();
    let mut heard = 0;
    while heard < 500 {
        heard += next_lines(&mut ear).await.len();
    }
    let begun = Instant::now();
    drop((stop, other));
    room.close();
    while heard < COUNT {
        let lines = next_lines(&mut ear).await;
        assert_eq!(lines[0], heard.to_string());
        heard += lines.len();
    }
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(connection.await.unwrap(), Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn who_breaks_off_while_it_waits_is_noticed_with_the_next_ping() {
    let room = open(&LIMITS);
    let (_other, mut ear) = room.enter().unwrap();
    let (far, connection) = connect(&room, &LIMITS, 64 * 1024).await;
    let mut client = client(far);
    let begun = Instant::now();
    client
        .send(Message::text("x\n".repeat(8000)))
        .await
        .unwrap();
    assert_eq!(next_lines(&mut ear).await[0], "x");
    drop(client);
    assert_eq!(connection.await.unwrap(), Ended::Lost);
    assert!(
        begun.elapsed() <= Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

/// In any stretch of time there are at most as many lines as it allows beside the burst, and whoever
/// is told a time can say a line then.
#[test]
fn the_account_is_exact() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec((0..3000_u64, 1..40_u32), 1..40);
    proptest!(config, |(rate in 1..200_u32, steps in steps)| {
        runtime.block_on(async {
            let limits = Limits { lines: Some(rate), ..Limits::DEFAULT };
            let mut account = Rate::new(&limits).unwrap();
            let mut said: Vec<Instant> = Vec::new();
            for (pause, count) in steps {
                advance(Duration::from_millis(pause)).await;
                for _ in 0..count {
                    if let Some(until) = account.spend() {
                        assert!(until > Instant::now() && account.was_used_up());
                        advance(until - Instant::now()).await;
                        assert_eq!(account.spend(), None);
                    }
                    said.push(Instant::now());
                }
            }
            let burst = 10 * rate as usize;
            for (n, last) in said.iter().enumerate().skip(burst) {
                // The time of each line is rounded down by less than a nanosecond.
                let took = *last - said[n - burst];
                let least = Duration::from_secs(1) / rate;
                let rounded = Duration::from_nanos(burst as u64);
                assert!(took + rounded >= least, "{took:?}");
            }
        });
    });
    assert!(Rate::new(&Limits::DEFAULT).is_none());
}

#[test]
fn a_rate_is_a_number_of_lines() {
    for wrong in ["0", "-1", "1.5", "1000001", "ten", ""] {
        let mut program = Program::start("server", &["--rate", wrong]);
        assert_eq!(program.exit(), 2, "{wrong}");
        let said = program.err_rest();
        assert_eq!(said.len(), 1, "{said:?}");
    }
}

/// A paste of more than may be said at once, by real programs: all of it arrives, and the client
/// knows that.
#[test]
fn a_pipe_that_says_more_than_it_may_is_only_slower() {
    const COUNT: usize = 1100;
    let mut server = Server::with(&["--rate", "100"]);
    let (mut ear, _) = server.join();
    let (mut pipe, name) = server.join();
    for line in numbers(COUNT) {
        pipe.type_line(&line);
    }
    pipe.end_input();
    for line in numbers(COUNT) {
        assert_eq!(ear.line(), format!("{name}: {line}"));
    }
    assert_eq!(pipe.exit(), 0);
    server.stop_in_silence();
}
