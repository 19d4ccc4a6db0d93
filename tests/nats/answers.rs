//! Answers of NATS that never come, since the connection broke on which it was asked. Here an answer may
//! take an hour: whoever waits for it, and does not ask anew, does not come to the end of its test.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use chat_pair::server::limits::Limits;
use chat_pair::server::name::Name;
use chat_pair::server::store::nats::{self, Place};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::Nats;
use crate::support::PATIENCE;

/// A way to NATS that breaks when something is asked for the last of so many times, which NATS does not
/// hear then.
struct Way {
    port: u16,
    /// How many times are left.
    left: Arc<AtomicUsize>,
}

impl Way {
    fn losing(what: &'static str, times: usize, nats: &Nats) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (left, behind) = (Arc::new(AtomicUsize::new(times)), nats.port.number);
        let count = left.clone();
        thread::spawn(move || {
            for server in listener.incoming() {
                let (server, count) = (server.unwrap(), count.clone());
                let nats = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)).unwrap();
                let mut back = (nats.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || io::copy(&mut back.0, &mut back.1));
                thread::spawn(move || pass(server, nats, what.as_bytes(), &count));
            }
        });
        Self { port, left }
    }

    /// The log behind it, when it can be used.
    async fn open(&self) -> nats::Nats {
        let hour = Duration::from_hours(1);
        let limits = Limits {
            nats_answer: hour,
            nats_enter: hour,
            ..Limits::DEFAULT
        };
        let place = Place {
            urls: &[format!("nats://127.0.0.1:{}", self.port)],
            stream: "chat",
            credentials: None,
        };
        let log = nats::Nats::open(place, &limits, |_| {}).await.unwrap();
        log.up().wait_for(Option::is_some).await.unwrap();
        log
    }
}

/// Passes everything on to NATS, until what is not to come there.
fn pass(mut server: TcpStream, mut nats: TcpStream, what: &[u8], left: &AtomicUsize) {
    let (mut bytes, mut passed) = (Vec::new(), 0);
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = server.read(&mut piece) {
        bytes.extend_from_slice(&piece[..n]);
        while let Some(at) = bytes[passed..]
            .windows(what.len())
            .position(|is| is == what)
        {
            passed += at + what.len();
            if left.load(Relaxed) > 0 && left.fetch_sub(1, Relaxed) == 1 {
                let _ = server.shutdown(Shutdown::Both);
                let _ = nats.shutdown(Shutdown::Both);
                return;
            }
        }
        // What may be the beginning of it is looked at again with the next piece.
        passed = passed.max(bytes.len().saturating_sub(what.len() - 1));
        if nats.write_all(&piece[..n]).is_err() {
            return;
        }
    }
    let _ = nats.shutdown(Shutdown::Both);
}

/// Runs to the end, within [`PATIENCE`].
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let done = runtime.block_on(async { timeout(PATIENCE, test).await });
    done.expect("an answer is waited for that never comes")
}

#[test]
fn a_line_is_sent_anew() {
    let Some(nats) = Nats::start() else { return };
    let way = Way::losing("PUB chat.room.rust ", 1, &nats);
    run(async {
        let log = way.open().await;
        let send = || log.publish("chat.room.rust", 1, Bytes::from_static(b"hello"));
        assert_eq!(send().await, None);
        let sequence = loop {
            log.up().wait_for(Option::is_some).await.unwrap();
            if let Some(sequence) = send().await {
                break sequence;
            }
        };
        assert_eq!(sequence, 1);
    });
    assert_eq!(way.left.load(Relaxed), 0, "nothing was lost");
}

#[test]
fn a_name_is_asked_for_anew() {
    let name = Name::new("emma").unwrap();
    let keys: HashSet<_> = name.keys().collect();
    // Whoever has a session writes one of the keys once more in the end.
    for times in 1..=keys.len() + 1 {
        let Some(nats) = Nats::start() else { return };
        let way = Way::losing("PUB $KV.chat-names.rust.", times, &nats);
        run(async {
            let log = way.open().await;
            let claimed = log.claim("rust", &name, Some(1)).await;
            assert!(claimed.is_ok(), "{:?}", claimed.err());
        });
        assert_eq!(way.left.load(Relaxed), 0, "nothing was lost");
    }
}
