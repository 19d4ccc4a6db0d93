//! What takes seconds, by a clock that is moved and not waited for: a dead link, a reader that is
//! stuck, one that is slow.

use std::time::Duration;

use crate::support::memory::{connect, open};
use crate::support::raw::missed;
use chat_pair::protocol::line;
use chat_pair::server::batch::Lines;
use chat_pair::server::ended::Ended;
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::room::{Speaker, Subscription};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, DuplexStream, join, split};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_websockets::{ClientBuilder, Message};

const LIMITS: Limits = Limits::DEFAULT;

/// Says a line of so many bytes.
async fn say(speaker: &Speaker, bytes: usize) {
    let name = Identity::of("other");
    let mut lines = Lines::default();
    lines.push(&name, &"x".repeat(bytes));
    speaker.say(&lines).await.unwrap();
}

/// One who hears everything at once.
fn hear_all(mut subscription: Subscription) {
    tokio::spawn(async move { while subscription.next_frames().await.is_some() {} });
}

/// Says lines of 16 KiB until they have to wait for somebody; returns how many went in.
async fn flood(speaker: &Speaker) -> usize {
    for n in 0..1000 {
        let said = timeout(Duration::from_millis(1), say(speaker, 16 * 1024)).await;
        if said.is_err() {
            return n;
        }
    }
    panic!("nobody is waited for");
}

/// Takes so many bytes, as soon as they are there.
async fn take(far: &mut DuplexStream, bytes: usize) {
    let mut taken = vec![0; bytes];
    far.read_exact(&mut taken).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_a_ping_is_cut_after_40_seconds() {
    let room = open(&LIMITS);
    let (mut far, connection) = connect(&room, &LIMITS, 256).await;
    let begun = Instant::now();
    let mut ping = [0; 2];
    far.read_exact(&mut ping).await.unwrap();
    assert_eq!(ping, [0x89, 0]);
    assert_eq!(begun.elapsed().as_secs(), LIMITS.quiet.as_secs());
    assert!(matches!(connection.await.unwrap(), Ended::Silent(_)));
    assert_eq!(begun.elapsed().as_secs(), 2 * LIMITS.quiet.as_secs());
}

#[tokio::test(start_paused = true)]
async fn who_answers_stays_for_ever() {
    let room = open(&LIMITS);
    let (far, connection) = connect(&room, &LIMITS, 256).await;
    let mut client = ClientBuilder::new().take_over(far);
    for _ in 0..100 {
        assert!(client.next().await.unwrap().unwrap().is_ping());
        // The library answers while it is polled.
        assert!(
            timeout(Duration::from_secs(1), client.next())
                .await
                .is_err()
        );
    }
    assert!(!connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_for_15_seconds_is_stuck() {
    let room = open(&LIMITS);
    let (other, _) = room.enter().unwrap();
    let (_far, connection) = connect(&room, &LIMITS, 512).await;
    let begun = Instant::now();
    say(&other, 1000).await;
    assert_eq!(connection.await.unwrap(), Ended::Stuck(LIMITS.stuck));
    assert_eq!(begun.elapsed().as_secs(), LIMITS.stuck.as_secs());
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_little_now_and_then_is_neither_stuck_nor_silent() {
    let room = open(&LIMITS);
    let (other, _) = room.enter().unwrap();
    let (mut far, connection) = connect(&room, &LIMITS, 512).await;
    say(&other, 1000).await;
    // As long as it is being written to; after that it would have to answer pings.
    for _ in 0..400 {
        sleep(Duration::from_secs(14)).await;
        take(&mut far, 1).await;
    }
    assert!(!connection.is_finished());
}

/// What a system shows at once of what its reader takes: a whole receive buffer.
const STEP: usize = 128 * 1024;

/// A reader with such a buffer, in a room where somebody speaks as much as is taken.
async fn connect_in_a_flood() -> (DuplexStream, JoinHandle<Ended>) {
    let room = open(&LIMITS);
    let (other, subscription) = room.enter().unwrap();
    hear_all(subscription);
    let (far, connection) = connect(&room, &LIMITS, STEP).await;
    tokio::spawn(async move {
        for _ in 0..1000 {
            say(&other, 16 * 1024).await;
        }
    });
    (far, connection)
}

/// Takes a full buffer sixty times, with pauses, behind these `frames`. Each must be a line of the flood:
/// none is a notice of missed ones.
async fn takes_all(far: &mut DuplexStream, mut frames: Vec<u8>, pause: Duration) {
    for _ in 0..60 {
        let mut step = vec![0; STEP];
        far.read_exact(&mut step).await.unwrap();
        frames.extend(step);
        sleep(pause).await;
    }
    let line = 4 + "other: ".len() + 16 * 1024;
    assert!(
        frames
            .chunks(line)
            .all(|frame| frame.starts_with(&[0x81, 126, 0x40, 7]))
    );
}

/// A reader at exactly the rate, whose system shows its progress in steps, is waited for without end, and
/// misses nothing.
#[tokio::test(start_paused = true)]
async fn who_takes_64_kib_a_second_is_waited_for() {
    let (mut far, connection) = connect_in_a_flood().await;
    takes_all(&mut far, Vec::new(), Duration::from_secs(2)).await;
    assert!(!connection.is_finished());
}

/// The server stood still for a while (SIGSTOP, SIGCONT), and its reader did not.
#[tokio::test(start_paused = true)]
async fn who_reads_while_the_server_stands_still_is_waited_for() {
    let (mut far, connection) = connect_in_a_flood().await;
    // Until somebody has to wait for it.
    sleep(Duration::from_millis(1)).await;
    let mut frames = vec![0; STEP];
    let taken = far.read_exact(&mut frames).now_or_never();
    taken.expect("it is all there").unwrap();
    advance(2 * LIMITS.patience).await;
    takes_all(&mut far, frames, Duration::from_millis(100)).await;
    assert!(!connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn who_takes_less_costs_the_others_two_seconds_and_misses_what_it_has_no_time_for() {
    let room = open(&LIMITS);
    let (other, subscription) = room.enter().unwrap();
    hear_all(subscription);
    let (mut far, connection) = connect(&room, &LIMITS, 64 * 1024).await;
    flood(&other).await;
    let begun = Instant::now();
    say(&other, 16 * 1024).await;
    let waited = begun.elapsed();
    assert!(
        waited <= LIMITS.patience,
        "{waited:?} by the test's own clock"
    );
    // From now on nobody waits for it, however little it takes, and it stays.
    for _ in 0..20 {
        let begun = Instant::now();
        for _ in 0..100 {
            say(&other, 16 * 1024).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        sleep(Duration::from_secs(4)).await;
        take(&mut far, 16 * 1024).await;
    }
    assert!(!connection.is_finished());
}

/// Also one that is only a little too slow is not waited for every few seconds anew.
#[tokio::test(start_paused = true)]
async fn who_takes_40_kib_a_second_costs_the_others_some_seconds_once() {
    let room = open(&LIMITS);
    let (other, subscription) = room.enter().unwrap();
    hear_all(subscription);
    let (mut far, connection) = connect(&room, &LIMITS, 64 * 1024).await;
    let reading = tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            take(&mut far, 40 * 1024).await;
        }
    });
    let mut waited = Duration::ZERO;
    for _ in 0..120 {
        let begun = Instant::now();
        for _ in 0..20 {
            say(&other, 16 * 1024).await;
        }
        waited += begun.elapsed();
        sleep(Duration::from_millis(500)).await;
    }
    assert!(waited > Duration::ZERO, "the flood was too small");
    // While it is waited for it earns 40 of 56 KiB, so its credit lasts three and a half times.
    assert!(waited <= 4 * LIMITS.patience, "{waited:?} in a minute");
    assert!(!connection.is_finished());
    reading.abort();
}

/// It is waited for again when it has caught up and has kept up for ten seconds, not earlier.
#[tokio::test(start_paused = true)]
async fn who_keeps_up_for_ten_seconds_is_waited_for_again() {
    let room = open(&LIMITS);
    let (other, subscription) = room.enter().unwrap();
    hear_all(subscription);
    let (mut far, connection) = connect(&room, &LIMITS, 64 * 1024).await;
    flood(&other).await;
    say(&other, 16 * 1024).await;
    for (after, counted) in [(5, false), (10, true)] {
        // It takes whatever is there.
        while timeout(Duration::from_millis(1), far.read(&mut vec![0; 64 * 1024]))
            .await
            .is_ok()
        {}
        sleep(Duration::from_secs(after)).await;
        say(&other, 1).await;
        tokio::task::yield_now().await;
        let waits = async {
            for _ in 0..1000 {
                say(&other, 16 * 1024).await;
            }
        };
        let begun = Instant::now();
        waits.await;
        assert_eq!(begun.elapsed() > Duration::ZERO, counted, "after {after} s");
    }
    assert!(!connection.is_finished());
}

/// Nobody reads what a speaker sends while its lines have to wait, so its silence means nothing.
#[tokio::test(start_paused = true)]
async fn who_waits_to_speak_is_not_silent() {
    let limits = Limits {
        stuck: Duration::from_secs(1000),
        patience: Duration::from_secs(1000),
        ..LIMITS
    };
    let room = open(&limits);
    let (other, subscription) = room.enter().unwrap();
    let (far, connection) = connect(&room, &limits, 512).await;
    let mut client = ClientBuilder::new().take_over(far);
    flood(&other).await; // Nobody hears it: `subscription` is waited for.
    drop(other);
    let reading = tokio::spawn(async move {
        client.send(Message::text("hello")).await.unwrap();
        client.for_each(|_| async {}).await;
    });
    sleep(Duration::from_mins(5)).await;
    assert!(!connection.is_finished());
    hear_all(subscription);
    reading.abort();
}

/// Pongs and the lines of the room share one way out, and neither ends up inside the other, also
/// when more pongs wait than are written together.
#[tokio::test(start_paused = true)]
async fn pongs_that_wait_stay_whole() {
    const PINGS: usize = 200;
    let room = open(&LIMITS);
    let (other, subscription) = room.enter().unwrap();
    hear_all(subscription);
    let (far, _connection) = connect(&room, &LIMITS, 1000).await;
    let client = ClientBuilder::new().take_over(far);
    let (mut sending, mut receiving) = client.split();
    let sending = tokio::spawn(async move {
        for n in 0..PINGS {
            let ping = Message::ping(vec![b'p'; n % 100]);
            sending.send(ping).await.unwrap();
        }
        sending
    });
    let (mut pongs, mut lines) = (0, 0);
    for n in 0..PINGS {
        say(&other, n).await;
        sleep(Duration::from_millis(1)).await;
    }
    while (pongs, lines) < (PINGS, PINGS) {
        let message = receiving.next().await.unwrap().unwrap();
        pongs += usize::from(message.is_pong());
        lines += usize::from(message.is_text());
    }
    assert_eq!((pongs, lines), (PINGS, PINGS));
    drop(sending.await.unwrap());
}

/// A stranger every second who never reads, for a minute, while somebody has much to say. The first
/// ones are waited for, and the others are not: so the room stands still for a few seconds, once.
#[tokio::test(start_paused = true)]
async fn newcomers_that_never_read_hold_the_room_only_once() {
    let room = open(&LIMITS);
    let (ann, subscription) = room.enter().unwrap();
    hear_all(subscription);
    let strangers = tokio::spawn({
        let room = room.clone();
        async move {
            let mut strangers = Vec::new();
            for _ in 0..60 {
                strangers.push(connect(&room, &LIMITS, 1024).await);
                sleep(Duration::from_secs(1)).await;
            }
            strangers
        }
    });
    let mut waited = Duration::ZERO;
    while !strangers.is_finished() {
        let begun = Instant::now();
        say(&ann, 1000).await;
        waited += begun.elapsed();
        sleep(Duration::from_millis(1)).await;
    }
    assert!(waited >= LIMITS.patience, "nobody was waited for");
    assert!(waited < 3 * LIMITS.patience, "{waited:?}");
    drop(strangers.await.unwrap());

    // When there were none for a while, whoever comes is waited for again.
    sleep(LIMITS.distrust).await;
    let (_far, _connection) = connect(&room, &LIMITS, 1024).await;
    flood(&ann).await;
}

/// The trickler takes 100 bytes for each line of a thousand that somebody else has heard. So it
/// takes nothing at all while the room waits for it, and the room must stop waiting. Each line is
/// said when the one before was heard, so each is a batch of its own.
#[tokio::test(start_paused = true)]
async fn a_trickler_does_not_hold_the_room() {
    const LINES: u64 = 4 * LIMITS.ring as u64;
    let room = open(&LIMITS);
    let (ann, subscription) = room.enter().unwrap();
    hear_all(subscription);
    let (mut trickler, connection) = connect(&room, &LIMITS, 16 * 1024).await;
    let (bob, _bob) = connect(&room, &LIMITS, 16 * 1024).await;
    let mut bob = ClientBuilder::new().take_over(bob);
    let (name, text) = (Identity::of("ann"), "x".repeat(1000));
    let (mut taken, begun) = (Vec::new(), Instant::now());
    for n in 0..LINES {
        let mut lines = Lines::default();
        lines.push(&name, &format!("{n} {text}"));
        ann.say(&lines).await.unwrap();
        let heard = bob.next().await.unwrap().unwrap();
        assert_eq!(line::text(&heard), Ok(&*format!("ann: {n} {text}")));
        let mut little = [0; 100];
        trickler.read_exact(&mut little).await.unwrap();
        taken.extend(little);
    }
    assert!(
        begun.elapsed() <= LIMITS.patience,
        "the room waits for the trickler"
    );
    // It is told what it did not get, and is still in.
    let (reader, writer) = split(trickler);
    let mut trickler = ClientBuilder::new().take_over(join(taken.chain(reader), writer));
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < LINES {
        let message = trickler.next().await.expect("the trickler stays").unwrap();
        match missed(line::text(&message).unwrap()) {
            Some(count) => lost += count,
            None => heard += 1,
        }
    }
    assert!(lost > 0, "it kept up");
    assert_eq!(heard + lost, LINES);
    let here = Message::text("I am still here");
    trickler.send(here).await.unwrap();
    let heard = bob.next().await.unwrap().unwrap();
    assert_eq!(line::text(&heard), Ok("name: I am still here"));
    assert!(!connection.is_finished());
}
