//! TLS: who gets in, the certificate that changes, and the promises to and about slow readers, which
//! are the same.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use chat_pair::protocol::tls::Stream;
use chat_pair::server::handshake::{Refusal, Rules};
use chat_pair::server::limits::Limits;
use chat_pair::server::metrics::Stranger;
use chat_pair::server::tls::Certificate;
use futures_util::future::poll_fn;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, join, split};
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::raw::{Ear, Raw, missed};
use crate::support::tls::{Authority, Kind};
use crate::support::{PATIENCE, Server, resident};

/// Somebody who signs, and a server with a certificate of theirs.
fn served(flags: &[&str]) -> (Authority, Server) {
    let authority = Authority::new();
    authority.issue(Kind::Good);
    let certificate = authority.flags();
    let certificate: Vec<_> = certificate.iter().map(String::as_str).collect();
    let server = Server::with(&[&certificate, flags].concat());
    (authority, server)
}

#[test]
fn both_versions_of_tls_lead_into_the_chat() {
    let (authority, mut server) = served(&[]);
    let old = authority.tunnel(server.port, &TLS12);
    let new = authority.tunnel(server.port, &TLS13);
    let mut ann = Raw::enter(old, "/?name=ann");
    let mut bob = Raw::enter(new, "/?name=bob");
    ann.say("hello");
    assert_eq!(bob.text(), "ann: hello");
    bob.say(&"x".repeat(Limits::DEFAULT.message));
    assert_eq!(ann.text().len(), "bob: ".len() + Limits::DEFAULT.message);
    server.program.signal("TERM");
    for mut raw in [ann, bob] {
        assert_eq!(raw.close(), (1001, "server shutting down".to_owned()));
    }
    assert_eq!(server.program.exit(), 0);
    assert_eq!(server.program.err_rest(), [""; 0]);
}

#[test]
fn http_on_the_tls_port_is_answered_in_plain_text() {
    let (authority, mut server) = served(&[]);
    let mut plain = Raw::asking(server.port);
    let why = "this port speaks TLS: connect with wss:// or https://";
    assert_eq!(plain.refusal(), (400, why.to_owned()));
    let said = server.program.err_line();
    let name = plain.name();
    assert_eq!(said, format!("server: {name} was refused: {why} (400)"));

    // A hello that goes on as nothing does.
    let mut garbage = Raw::tcp(server.port);
    garbage.send(&[&[22, 3, 1, 2, 0][..], &[0xff; 512]].concat());
    let said = server.program.err_line();
    let name = garbage.name();
    let start = format!("server: {name} left: its TLS handshake failed: ");
    assert!(said.starts_with(&start), "{said}");

    // Nobody was harmed by it.
    drop(Raw::enter(authority.tunnel(server.port, &TLS13), "/"));
    server.stop_in_silence();
}

#[test]
fn a_tls_hello_on_the_plain_port_is_refused_at_once_and_said() {
    let mut server = Server::start();
    let mut raw = Raw::tcp(server.port);
    raw.send(&[22]); // the first byte of a hello, and nothing else
    let why = "this port does not speak TLS: connect with ws:// or http://";
    assert_eq!(raw.refusal(), (400, why.to_owned()));
    let said = server.program.err_line();
    let name = raw.name();
    assert_eq!(said, format!("server: {name} was refused: {why} (400)"));
}

#[test]
fn a_handshake_counts_as_a_connection() {
    let (authority, server) = served(&["--max-connections", "1"]);
    let tunnel = authority.tunnel(server.port, &TLS13);
    let silent = Raw::tcp(server.port);
    let (status, _) = Raw::asking_for(tunnel, "/").refusal();
    assert_eq!(status, 503);
    drop(silent);
    drop(Raw::join_when_there_is_room(tunnel));
}

#[test]
fn who_is_refused_before_tls_keeps_nobody_out() {
    let (authority, server) = served(&["--max-connections", "1"]);
    let tunnel = authority.tunnel(server.port, &TLS13);
    let mut plain = Raw::asking(server.port);
    assert_eq!(plain.refusal().0, 400);
    drop(Raw::join(tunnel));
    drop(plain); // which has not left before
}

fn open(chain: &str, key: &str) -> Result<Certificate, String> {
    let limits = Limits::DEFAULT;
    Certificate::open(Path::new(chain), Path::new(key), &limits, |_| ())
}

/// What comes of a stranger who sends these bytes and waits for the end.
fn accepted(sent: &[u8], until: Instant) -> Result<(), Refusal> {
    let authority = Authority::new();
    authority.issue(Kind::Good);
    let [_, chain, _, key] = authority.flags();
    let certificate = open(&chain, &key).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut stranger = tokio::net::TcpStream::connect(address).await.unwrap();
        stranger.write_all(sent).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let limits = Limits::DEFAULT;
        let someone = Stranger::arrives();
        let rules = Rules {
            origins: &[],
            until,
            seat: Ok(()),
            stranger: &someone,
        };
        let accepting = certificate.accept(stream, rules, &limits);
        let ending = async move {
            stranger.read_to_end(&mut Vec::new()).await.ok();
        };
        tokio::join!(accepting, ending).0.map(drop)
    })
}

#[test]
fn a_handshake_has_a_deadline() {
    let accepted = accepted(&[22], Instant::now());
    let Err(Refusal::Unanswered(why)) = accepted else {
        panic!("{accepted:?}");
    };
    assert_eq!(why, "the TLS handshake took too long");
}

#[test]
fn a_hello_has_a_size() {
    // Four records of a hello that says it is longer than they are together.
    let mut record = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    record[5..9].copy_from_slice(&[1, 0, 0xf0, 0]);
    // It does not wait for more of it.
    let accepted = accepted(&record.repeat(4), Instant::now() + Duration::from_hours(1));
    assert!(matches!(accepted, Err(Refusal::Left)), "{accepted:?}");
}

#[test]
fn a_key_that_everybody_can_read_is_said() {
    let authority = Authority::new();
    authority.issue(Kind::Good);
    let key = authority.file("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let flags = authority.flags();
    let mut server = Server::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let said = server.program.err_line();
    let why = format!("server: others can read the private key in {key}: chmod 600 {key}");
    assert_eq!(said, why);
}

/// The files are looked at every ten seconds, and this waits for that to happen twice.
#[test]
fn newcomers_get_a_new_certificate_and_nobody_is_dropped() {
    let (authority, mut server) = served(&[]);
    let before = authority.tunnel(server.port, &TLS13);
    let mut ann = Raw::enter(before, "/?name=ann");

    // Half of a new pair, as it is there for a moment while two files are replaced.
    let old = fs::read(authority.file("chain.pem")).unwrap();
    let successor = Authority::new();
    successor.issue(Kind::Good);
    fs::copy(successor.file("chain.pem"), authority.file("chain.pem")).unwrap();
    let said = server.program.err_line();
    let start = "server: the old certificate stays: the key in ";
    assert!(said.starts_with(start), "{said}");
    let mut bob = Raw::enter(before, "/?name=bob");
    assert_ne!(fs::read(authority.file("chain.pem")).unwrap(), old);

    fs::copy(successor.file("key.pem"), authority.file("key.pem")).unwrap();
    let said = server.program.err_line();
    assert_eq!(said, "server: newcomers get the new certificate");
    let after = successor.tunnel(server.port, &TLS13);
    let mut eve = Raw::enter(after, "/?name=eve");
    eve.say("hello");
    for old in [&mut ann, &mut bob] {
        assert_eq!(old.text_with_pongs(), "eve: hello");
    }
    server.stop_in_silence();
}

/// As `readers` and `promises` ask it of a connection without TLS, all at once: a reader that takes
/// nothing, one that takes a little now and then and is told exactly what it missed, and one that
/// takes everything.
#[test]
fn slow_and_stuck_readers_are_the_same_through_tls() {
    const SPEAKERS: usize = 16;
    const LINES: u64 = Limits::DEFAULT.ring as u64 * 8;
    let (authority, mut server) = served(&[]);
    let tunnel = authority.tunnel(server.port, &TLS13);
    let narrow = |target| Ear::of(Raw::narrow_for(tunnel, target));
    let (never, mut slow) = (narrow("/?name=never"), narrow("/?name=slow"));
    let mut quick = Ear::of(Raw::enter(tunnel, "/?name=quick"));
    let mut speakers: Vec<_> = (0..SPEAKERS)
        .map(|n| Raw::enter(tunnel, &format!("/?name=s{n}")))
        .collect();
    for speaker in &speakers {
        speaker.read_in_background();
    }

    let text = "x".repeat(400);
    for n in 0..LINES {
        let speaker = usize::try_from(n).unwrap() % SPEAKERS;
        speakers[speaker].say(&format!("{n} {text}"));
        assert_eq!(quick.text(), Some(&*format!("s{speaker}: {n} {text}")));
        if n % 256 == 255 {
            slow.read(); // a little, so that it is slow and not stuck
        }
    }

    slow.raw.widen();
    assert!(slow.numbered(LINES) > 0, "it kept up");
    let bound = Limits {
        connections: SPEAKERS + 3,
        tls: Limits::TLS,
        ..Limits::DEFAULT
    };
    let most = resident(server.program.id(), "VmHWM");
    assert!(most < bound.memory(), "{most} of {} bytes", bound.memory());
    drop((never, slow, quick, speakers));
    server.program.signal("TERM");
    assert_eq!(server.program.exit(), 0);
}

/// It reads a little only when something else has happened, and nothing is lost on it.
#[test]
fn a_reader_that_keeps_up_slowly_misses_nothing_through_tls() {
    const LINES: usize = 200;
    const PIECE: usize = 64 * 1024;
    let (authority, server) = served(&[]);
    let tunnel = authority.tunnel(server.port, &TLS13);
    let mut slow = Ear::of(Raw::enter(tunnel, "/?name=slow"));
    let mut ann = Raw::enter(tunnel, "/?name=ann");
    let line = "x".repeat(Limits::DEFAULT.message);
    let saying = thread::spawn(move || {
        (0..LINES).for_each(|_| ann.say(&line));
        ann
    });
    for n in 0..LINES {
        let text = slow.text_in_pieces(PIECE, || drop(Raw::enter(tunnel, "/elsewhere")));
        let text = text.expect("a line");
        assert_eq!(missed(text), None, "after {n} lines");
        assert_eq!(text.len(), "ann: ".len() + Limits::DEFAULT.message);
    }
    drop(saying.join().unwrap());
}

/// Both ends of a session, in memory, between which so many bytes fit.
async fn pair(
    fits: usize,
) -> (
    Stream<tokio::io::DuplexStream>,
    Stream<tokio::io::DuplexStream>,
) {
    let authority = Authority::new();
    authority.issue(Kind::Good);
    let [_, chain, _, key] = authority.flags();
    let chain = CertificateDer::pem_file_iter(chain).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    // The client's end of the handshake does not wait for them, so nobody would read them.
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(authority.ca()).unwrap();
    roots.add(ca).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = duplex(fits);
    let name = ServerName::try_from("localhost").unwrap();
    let accept = TlsAcceptor::from(Arc::new(server)).accept(near);
    let connect = TlsConnector::from(Arc::new(client)).connect(name, far);
    let (near, far) = tokio::try_join!(accept, connect).unwrap();
    let ((near, server), (far, client)) = (near.into_inner(), far.into_inner());
    (Stream::new(near, server), Stream::new(far, client))
}

/// What counts as written is on the socket: this is what the pace of a reader is measured by.
#[tokio::test]
async fn nothing_counts_as_written_that_the_socket_has_not_taken() {
    const FITS: usize = 3000;
    let (mut near, _far) = pair(FITS).await;
    let bytes = vec![b'x'; 100_000];
    let mut written = 0;
    let blocked = poll_fn(|cx| {
        while let Poll::Ready(n) = std::pin::Pin::new(&mut near).poll_write(cx, &bytes[written..]) {
            written += n.unwrap();
        }
        Poll::Ready(())
    });
    blocked.await;
    assert!((1000..=FITS).contains(&written), "{written}");
}

#[tokio::test]
async fn a_session_that_ends_without_a_goodbye_is_an_error() {
    let (near, mut far) = pair(1000).await;
    drop(near);
    let error = far.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    let (mut near, mut far) = pair(1000).await;
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever fits between the two ends, and in whatever pieces it is written and read.
    ///
    /// Six bytes at least: during a handshake rustls does not read as long as it has something to
    /// send. With less in between, each end waits for the other to take the six bytes of its change of
    /// cipher spec (RFC 8446 D.4).
    #[test]
    fn what_goes_in_comes_out(
        fits in 6..5000_usize,
        pieces in prop::collection::vec(0..40_000_usize, 1..6),
        reads in 1..20_000_usize,
    ) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let said: Vec<_> = pieces.iter().enumerate().map(|(n, len)| {
            let n = u8::try_from(n).unwrap();
            (0_u8..=250).cycle().map(|byte| byte ^ n).take(*len).collect::<Vec<u8>>()
        }).collect();
        let (there, back) = runtime.block_on(async {
            let (near, far) = timeout(PATIENCE, pair(fits)).await.expect("a handshake");
            let ((near_in, mut near_out), (mut far_in, far_out)) = (split(near), split(far));
            let speak = async {
                for piece in &said {
                    near_out.write_all(piece).await.unwrap();
                }
                near_out.shutdown().await.unwrap();
            };
            // What comes is sent back, in pieces of another size.
            let echo = async {
                let mut heard = Vec::new();
                let mut out = join(tokio::io::empty(), far_out);
                let mut buffer = vec![0; reads];
                loop {
                    let n = far_in.read(&mut buffer).await.unwrap();
                    if n == 0 {
                        break;
                    }
                    heard.extend_from_slice(&buffer[..n]);
                    out.write_all(&buffer[..n]).await.unwrap();
                }
                out.shutdown().await.unwrap();
                heard
            };
            let hear = async {
                let mut heard = Vec::new();
                let mut near_in = near_in;
                near_in.read_to_end(&mut heard).await.unwrap();
                heard
            };
            // So that what it stopped at is known if it ever does.
            let all = async { tokio::join!(speak, echo, hear) };
            let ((), there, back) = timeout(PATIENCE, all).await.expect("it goes on");
            (there, back)
        });
        prop_assert!(there == said.concat());
        prop_assert!(back == said.concat());
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    authority.issue(Kind::Good);
    let other = Authority::new();
    other.issue(Kind::Good);
    let [_, chain, _, key] = authority.flags();
    let written = |name: &str, text: &str| {
        let path = authority.file(name);
        fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        path
    };
    let empty = written("empty.pem", "");
    let locked = written(
        "locked.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let large = written("large.pem", &"x".repeat(1024 * 1024 + 1));
    let (missing, foreign) = (authority.file("missing.pem"), other.file("key.pem"));
    for (chain, key, why) in [
        (&missing, &key, "missing.pem: no such file or directory"),
        (&chain, &missing, "missing.pem: no such file or directory"),
        (&large, &key, "large.pem: it is longer than 1048576 bytes"),
        (
            &chain,
            &"/".to_owned(),
            "cannot read /: it is not a regular file",
        ),
        (&empty, &key, "there is no certificate in "),
        (&chain, &empty, "there is no private key in "),
        (&chain, &locked, "locked.pem is encrypted: "),
        (&chain, &foreign, "does not belong to the certificate in "),
    ] {
        let error = open(chain, key).unwrap_err();
        assert!(error.contains(why) && !error.contains('\n'), "{error}");
    }
}
