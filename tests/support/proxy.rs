//! A proxy before a server, which cuts links at random moments. A moment is a number of bytes and
//! not a time, so that a seed says where the links are cut, on every machine.

use std::cell::Cell;
use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

/// Random numbers that a seed repeats (`SplitMix64`).
pub struct Random(u64);

impl Random {
    /// From the variable `SEED` if it is set, and from another seed each time if it is not. Prints
    /// which it is, so that a failure can be repeated.
    #[allow(clippy::print_stdout)] // the test harness shows it when the test fails
    pub fn seeded() -> Self {
        let random = || RandomState::new().hash_one(());
        let seed = std::env::var("SEED").map_or_else(|_| random(), |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        Self(seed)
    }

    /// Others that go on by themselves.
    pub fn another(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// How a link breaks.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// As if both ends had closed.
    Closed,
    /// As if the machine between them had crashed: what is on its way is lost.
    Reset,
    /// Only the client learns of it. The server keeps a connection on which nothing comes any more.
    Unnoticed,
}

/// When a link breaks, in bytes of both directions together, and how.
#[derive(Clone, Copy, Debug)]
pub struct Cut(u64, Break);

impl Cut {
    /// At a random moment within so many bytes; one in five within the handshake or close behind it.
    pub fn random(random: &mut Random, most: u64) -> Self {
        let most = if random.below(5) == 0 { 700 } else { most };
        let how = [Break::Closed, Break::Reset, Break::Unnoticed];
        let bytes = random.below(most);
        Self(bytes, how[usize::try_from(random.below(3)).unwrap()])
    }

    /// So many of them.
    pub fn several(random: &mut Random, count: usize, most: u64) -> Vec<Self> {
        (0..count).map(|_| Self::random(random, most)).collect()
    }

    /// The same, but so many bytes later.
    pub fn behind(self, bytes: u64) -> Self {
        Self(self.0 + bytes, self.1)
    }
}

/// The proxy. It runs until all tests have ended.
pub struct Proxy {
    pub port: u16,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    /// Before the server on this port. Each connection has the next of the cuts; when there are no
    /// more, the links hold.
    pub fn before(server: u16, cuts: Vec<Cut>) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async {
                let listener = TcpListener::from_std(listener).unwrap();
                let mut cuts = cuts.into_iter();
                while let Ok((client, _)) = listener.accept().await {
                    spawn_local(link(client, server, cuts.next(), counted.clone()));
                }
            });
        });
        Self { port, cuts: count }
    }

    /// How many links were cut.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Relaxed)
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }
}

/// A connection through the proxy, until it ends or is cut.
async fn link(mut client: TcpStream, port: u16, cut: Option<Cut>, cuts: Arc<AtomicUsize>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let left = Cell::new(cut);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let ended = tokio::try_join!(
        carry(&mut from_client, &mut to_server, &left),
        carry(&mut from_server, &mut to_client, &left),
    );
    let Err(how) = ended else { return };
    cuts.fetch_add(1, Relaxed);
    let crash = |stream: &TcpStream| SockRef::from(stream).set_linger(Some(Duration::ZERO));
    match how {
        Break::Closed => {}
        Break::Reset => crash(&client).and_then(|()| crash(&server)).unwrap(),
        Break::Unnoticed => {
            crash(&client).unwrap();
            drop(client);
            pending::<()>().await;
        }
    }
}

/// Carries what comes from one end to the other, to its end or until the link breaks.
async fn carry(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    left: &Cell<Option<Cut>>,
) -> Result<(), Break> {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut through = read;
        if let Some(Cut(until, how)) = left.get() {
            through = read.min(usize::try_from(until).unwrap());
            left.set(Some(Cut(until - through as u64, how)));
        }
        let written = to.write_all(&buffer[..through]).await;
        if let Some(Cut(0, how)) = left.get() {
            return Err(how);
        }
        if written.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    Ok(())
}
