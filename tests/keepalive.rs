//! A dead link is noticed within 40 seconds, by a clock that is moved and not waited for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use chat_pair::server::connection::{Ended, relay};
use chat_pair::server::limits::Limits;
use chat_pair::server::log::Journal;
use chat_pair::server::room::Room;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_websockets::{ClientBuilder, ServerBuilder};

/// A stay in a room of its own, and the client's end of the connection.
fn stay(limits: Limits) -> (DuplexStream, JoinHandle<Ended>) {
    let (near, far) = duplex(256);
    let stay = tokio::spawn(async move {
        let journal = Journal::open(&limits);
        let mut seat = Room::open(&limits).enter().unwrap();
        let mut ws = ServerBuilder::new().serve(near);
        relay(&mut ws, "name", &mut seat, &journal, &limits).await
    });
    (far, stay)
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_a_ping_is_cut_after_40_seconds() {
    let limits = Limits::default();
    let begun = Instant::now();
    let (mut client, stay) = stay(limits.clone());
    let mut ping = [0; 2];
    client.read_exact(&mut ping).await.unwrap();
    assert_eq!(ping, [0x89, 0]);
    assert_eq!(begun.elapsed().as_secs(), limits.quiet.as_secs());
    assert!(matches!(stay.await.unwrap(), Ended::Silent(_)));
    assert_eq!(begun.elapsed().as_secs(), 2 * limits.quiet.as_secs());
}

#[tokio::test(start_paused = true)]
async fn who_answers_stays_for_ever() {
    let (client, stay) = stay(Limits::default());
    let mut client = ClientBuilder::new().take_over(client);
    for _ in 0..100 {
        assert!(client.next().await.unwrap().unwrap().is_ping());
        // The library answers while it is polled.
        let answered = tokio::time::timeout(Duration::from_secs(1), client.next()).await;
        assert!(answered.is_err());
    }
    assert!(!stay.is_finished());
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_for_5_seconds_is_stuck() {
    let limits = Limits::default();
    let (near, _far) = duplex(16);
    let room = Room::open(&limits);
    tokio::spawn(room.clone().publish());
    let (mut seat, mut other) = (room.enter().unwrap(), room.enter().unwrap());
    let journal = Journal::open(&limits);
    let begun = Instant::now();
    let mut lines = chat_pair::server::batch::Lines::of("other");
    lines.push("more than the pipe holds");
    other.say(&lines).unwrap();
    let mut ws = ServerBuilder::new().serve(near);
    let ended = relay(&mut ws, "name", &mut seat, &journal, &limits).await;
    assert!(matches!(ended, Ended::Stuck(limit) if limit == limits.write));
    assert_eq!(begun.elapsed().as_secs(), limits.write.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_a_little_now_and_then_is_not_stuck() {
    let limits = Limits::default();
    let (near, mut far) = duplex(16);
    let room = Room::open(&limits);
    tokio::spawn(room.clone().publish());
    let (mut seat, mut other) = (room.enter().unwrap(), room.enter().unwrap());
    let mut lines = chat_pair::server::batch::Lines::of("other");
    lines.push("more than the pipe holds");
    let all = lines.frames.len();
    other.say(&lines).unwrap();
    let stay = tokio::spawn(async move {
        let journal = Journal::open(&limits);
        let mut ws = ServerBuilder::new().serve(near);
        relay(&mut ws, "name", &mut seat, &journal, &limits).await
    });
    // As long as it is being written to; after that it would have to answer pings.
    for _ in 0..all - 16 {
        sleep(Duration::from_secs(4)).await;
        assert_eq!(far.read_exact(&mut [0]).await.unwrap(), 1);
    }
    assert!(!stay.is_finished());
}
