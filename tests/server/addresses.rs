//! How many connections an address may have. Tests come from this machine, which may have any
//! number; so the counting is asked for other addresses, and the refusal comes over the wire from
//! an address of this machine that is not the loopback's, if it has one.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use chat_pair::server::addresses::{Addresses, Counted};
use chat_pair::server::handshake::{self, Refusal};
use chat_pair::server::limits::Limits;
use http::StatusCode;
use proptest::prelude::*;
use proptest::sample::select;

use crate::handshake::turned_away;
use crate::support::raw::{REQUEST, Raw};
use crate::support::{PATIENCE, Program, Server, wait_until};

const SENTENCE: &str =
    "there are too many connections from your address: close one, or try again later";

fn limits(most: usize) -> Limits {
    Limits {
        per_address: Some(most),
        ..Limits::DEFAULT
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn beyond_so_many_some_are_told_and_the_next_are_not() {
    let answers = Limits::DEFAULT.answers;
    let addresses = Addresses::new(&limits(2));
    let count = || addresses.count(ip("192.0.2.1"));
    let inside: Vec<_> = (0..2).map(|_| count().unwrap()).collect();
    assert!(inside.iter().all(|counted| !counted.too_many));
    let told: Vec<_> = (0..answers).map(|_| count().unwrap()).collect();
    assert!(told.iter().all(|counted| counted.too_many));
    assert!(count().is_none());
    // Others are not concerned.
    assert!(!addresses.count(ip("192.0.2.2")).unwrap().too_many);
    // Who is told takes no place from anybody; only who is inside has one to give back.
    drop(told);
    assert!(count().unwrap().too_many);
    drop(inside);
    assert!(!count().unwrap().too_many);
}

#[test]
fn addresses_of_one_machine_count_as_one() {
    for (one, other, same) in [
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
        ("2001:db8::1", "2001:db8:0:1::1", false),
        ("2001:db8::1", "2001:db9::1", false),
        ("fe80::1", "fe80::2", true),
        ("::2", "::1:0:0:0:0", false),
    ] {
        let addresses = Addresses::new(&limits(1));
        let _first = addresses.count(ip(one)).unwrap();
        assert_eq!(
            addresses.count(ip(other)).unwrap().too_many,
            same,
            "{one} {other}"
        );
    }
}

#[test]
fn this_machine_may_have_any_number() {
    let addresses = Addresses::new(&limits(1));
    for here in ["127.0.0.1", "127.255.0.3", "::1", "::ffff:127.0.0.1"] {
        let all: Vec<_> = (0..100).map(|_| addresses.count(ip(here))).collect();
        assert!(all.iter().flatten().all(|counted| !counted.too_many));
        assert_eq!(all.iter().flatten().count(), 100);
    }
    // `::` and its neighbours are in the same /64 as `::1`, and are others all the same.
    let _one = addresses.count(ip("::2")).unwrap();
    assert!(addresses.count(ip("::3")).unwrap().too_many);
}

#[test]
fn without_the_flag_nobody_counts() {
    let addresses = Addresses::new(&Limits::DEFAULT);
    let all: Vec<_> = (0..1000)
        .map(|_| addresses.count(ip("192.0.2.1")))
        .collect();
    assert!(all.iter().flatten().all(|counted| !counted.too_many));
    assert_eq!(all.iter().flatten().count(), 1000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever comes and goes in whatever order: the counts are those of a list of all who are there.
    #[test]
    fn the_counts_are_right(
        most in 1..4_usize,
        steps in proptest::collection::vec((select(vec!["192.0.2.1", "192.0.2.2"]), any::<u8>()), 0..60),
    ) {
        let addresses = Addresses::new(&limits(most));
        let mut there: Vec<(&str, Counted)> = Vec::new();
        for (address, choice) in steps {
            if choice % 3 == 0 && !there.is_empty() {
                there.remove(usize::from(choice) % there.len());
                continue;
            }
            let of = |too_many| {
                let all = there.iter().filter(|(other, _)| *other == address);
                all.filter(|(_, counted)| counted.too_many == too_many).count()
            };
            let (inside, told) = (of(false), of(true));
            match addresses.count(ip(address)) {
                Some(counted) => {
                    prop_assert_eq!(counted.too_many, inside >= most);
                    prop_assert!(!counted.too_many || told < Limits::DEFAULT.answers);
                    there.push((address, counted));
                }
                None => {
                    prop_assert!(inside >= most && told == Limits::DEFAULT.answers);
                }
            }
        }
    }
}

/// Who is told gets an answer that HTTP understands, behind its request and before everything that
/// is judged of it.
#[tokio::test(start_paused = true)]
async fn too_many_connections_are_429() {
    let request = REQUEST.replace("\r\n\r\n", "\r\nOrigin: https://a.example\r\n\r\n");
    let enter = async |_: &handshake::Request| panic!("it was let in");
    let (answer, refusal) = turned_away(&request, Err(handshake::CROWDED), enter).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nRetry-After: 10\r\n"), "{head}");
    assert_eq!(body, format!("{SENTENCE}\n"));
    let expected = Refusal::Answered(StatusCode::TOO_MANY_REQUESTS, SENTENCE.into());
    assert_eq!(refusal, Some(expected));
}

/// An address of this machine that is not the loopback's. Nothing is sent for that.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
#[allow(clippy::print_stdout)] // a test that is skipped says so
fn an_address_takes_no_more_places_than_it_may() {
    let Some(address) = own_address() else {
        println!("skipped: this machine has no address but the loopback's");
        return;
    };
    let listen = format!("{address}:0");
    let args = [
        "--listen",
        &listen,
        "--max-per-address",
        "2",
        "--max-connections",
        "4",
    ];
    let mut server = Server::spawn(Program::command("server").args(args));
    let open = server.program.err_line();
    assert!(open.contains(" is open to other machines: "), "{open}");
    let at = SocketAddr::new(address, server.port);
    let connect = || Raw::over(TcpStream::connect_timeout(&at, PATIENCE).unwrap());
    let ask = || {
        let mut raw = connect();
        raw.send(REQUEST.as_bytes());
        raw
    };
    let mut second = ask();
    second.is_let_in("the second");
    let mut first = connect(); // A handshake that has only begun takes a place too.
    let mut third = ask();
    assert_eq!(third.refusal(), (429, SENTENCE.to_owned()));
    let line = server.program.err_line();
    assert_eq!(
        line,
        format!("server: {} was refused: {SENTENCE} (429)", third.name())
    );
    first.send(REQUEST.as_bytes());
    first.is_let_in("the first");
    drop(second);
    // Its place is free as soon as the server has noticed. Until then it is told, or not even that.
    let is_let_in = |mut raw: Raw| {
        let mut start = [0; 12];
        raw.stream.write_all(REQUEST.as_bytes()).is_ok()
            && raw.stream.read_exact(&mut start).is_ok()
            && start == *b"HTTP/1.1 101"
    };
    wait_until("another is let in", || is_let_in(connect()));
    first.say("still here");
    drop((first, third));
    server.stop();
}
