//! Five clients speak and listen, each with a session, while the server is killed and started again
//! and links are cut. Nothing is lost, and nothing comes twice.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::PATIENCE;
use crate::support::raw::{FIN, PING, PONG, Raw, TEXT, frame};
use crate::{Folder, kill};

const CLIENTS: usize = 5;
const LINES: usize = 2000;
const KILLS: usize = 20;
const CUTS: usize = 50;

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }
}

/// A link through the proxy.
struct Link {
    client: TcpStream,
    server: TcpStream,
    /// The server is not told that the client has gone.
    left: Arc<Mutex<bool>>,
}

/// What stands between the clients and the server, which has another port after each start.
#[derive(Default)]
struct Proxy {
    /// `None` while there is no server.
    server: Mutex<Option<u16>>,
    changed: Condvar,
    links: Mutex<Vec<Link>>,
    /// The servers' ends of links that were cut at the other end.
    left: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    fn listen() -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Arc::new(Self::default());
        let this = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                this.connect(client.unwrap());
            }
        });
        (proxy, port)
    }

    fn connect(&self, client: TcpStream) {
        let mut port = self.server.lock().unwrap();
        while port.is_none() {
            port = self.changed.wait(port).unwrap();
        }
        // When the server was killed just now, the client is closed, too, and tries again.
        let Ok(server) = TcpStream::connect(("127.0.0.1", port.unwrap())) else {
            return;
        };
        server.set_nodelay(true).unwrap();
        client.set_nodelay(true).unwrap();
        let left = Arc::new(Mutex::new(false));
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let is_left = Arc::clone(&left);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            if !*is_left.lock().unwrap() {
                let _ = to.shutdown(Shutdown::Both);
            }
        });
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let link = Link {
            client,
            server,
            left,
        };
        self.links.lock().unwrap().push(link);
    }

    fn serves(&self, port: Option<u16>) {
        *self.server.lock().unwrap() = port;
        self.changed.notify_all();
    }

    /// Cuts one of the links that are there: at both ends, or so that the server does not notice.
    fn cut(&self, random: &mut Random) {
        let mut links = self.links.lock().unwrap();
        let last = links.len().min(CLIENTS);
        if last == 0 {
            return;
        }
        // The newest are alive, mostly.
        let at = links.len() - 1 - random.below(last);
        let link = links.remove(at);
        if random.below(2) == 0 {
            *link.left.lock().unwrap() = true;
            let _ = link.client.shutdown(Shutdown::Both);
            self.left.lock().unwrap().push(link.server);
        } else {
            let _ = link.client.shutdown(Shutdown::Both);
            let _ = link.server.shutdown(Shutdown::Both);
        }
    }
}

/// A client that has a session and comes back at once when its link breaks.
struct Client {
    number: usize,
    port: u16,
    /// `EPOCH.POSITION` of what comes next.
    epoch: Option<String>,
    next: u64,
    /// How many of its lines it knows to be taken.
    taken: usize,
    heard: Vec<String>,
    told: Sender<()>,
    all_are_there: Arc<Barrier>,
}

impl Client {
    /// Speaks and listens to the end.
    fn run(mut self) -> Vec<String> {
        while self.heard.len() < (CLIENTS - 1) * LINES || self.taken < LINES {
            let _ = self.talk(); // Until the link breaks.
        }
        self.heard
    }

    fn talk(&mut self) -> io::Result<()> {
        let after = self
            .epoch
            .as_ref()
            .map(|epoch| format!("&after={epoch}.{}", self.next));
        let target = format!(
            "/killed?name=c{}&session=the-session-of-number-{}&sent={}{}",
            self.number,
            self.number,
            self.taken,
            after.unwrap_or_default()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = crate::support::raw::REQUEST;
        let request = request.replacen("GET / ", &format!("GET {target} "), 1);
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut raw = Raw::over(stream.try_clone()?);
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (_, first) = raw.frame().ok_or_else(broken)?;
        let first = String::from_utf8(first).unwrap();
        let words: Vec<_> = first.strip_prefix('@').expect(&first).split(' ').collect();
        let [epoch, next, taken] = words[..] else {
            panic!("{first}");
        };
        match &self.epoch {
            Some(before) => assert_eq!((epoch, next), (&**before, &*self.next.to_string())),
            // Nobody speaks before all are there, since nobody hears what was said before.
            None => _ = self.all_are_there.wait(),
        }
        self.epoch = Some(epoch.to_owned());
        self.next = next.parse().unwrap();
        let taken = taken.parse::<usize>().unwrap();
        // What was confirmed is taken.
        assert!(
            (self.taken..=LINES).contains(&taken),
            "{taken} taken, not {}",
            self.taken
        );
        self.taken = taken;
        let mut sent = taken;
        loop {
            if sent == self.taken && sent < LINES {
                let piece = (sent..LINES).take(20);
                sent += piece.len();
                let lines = piece.flat_map(|n| frame(FIN | TEXT, n.to_string().as_bytes()));
                let lines: Vec<_> = lines.chain(frame(FIN | PING, b"")).collect();
                stream.write_all(&lines)?;
            }
            if sent == LINES && self.taken == LINES && self.heard.len() == (CLIENTS - 1) * LINES {
                return Ok(());
            }
            let (kind, payload) = raw.frame().ok_or_else(broken)?;
            match kind & 0xf {
                TEXT => self.hear(&String::from_utf8(payload).unwrap()),
                PING => stream.write_all(&frame(FIN | PONG, &payload))?,
                PONG => self.taken = sent,
                _ => return Err(broken()),
            }
        }
    }

    fn hear(&mut self, text: &str) {
        if let Some(mark) = text.strip_prefix('@') {
            let position = mark.split(' ').next().unwrap().parse().unwrap();
            assert!(position >= self.next, "{text}, not {}", self.next);
            self.next = position;
            return;
        }
        assert!(!text.starts_with('*'), "{text}");
        self.heard.push(text.to_owned());
        self.next += 1;
        let _ = self.told.send(());
    }
}

#[test]
#[allow(clippy::print_stdout)] // the seed, for whoever has to repeat a failure
fn whoever_comes_back_has_every_line_once_though_the_server_was_killed() {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    let seed =
        std::env::var("CHAT_SEED").map_or(u64::from(nanos) | 1, |seed| seed.parse().unwrap());
    println!("CHAT_SEED={seed}");
    let mut random = Random(seed);
    let folder = Folder::new();
    let mut server = folder.serve();
    let (proxy, port) = Proxy::listen();
    proxy.serves(Some(server.port));
    let (told, heard) = channel();
    let all_are_there = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client {
                number,
                port,
                epoch: None,
                next: 0,
                taken: 0,
                heard: Vec::new(),
                told: told.clone(),
                all_are_there: all_are_there.clone(),
            };
            thread::spawn(|| client.run())
        })
        .collect();
    drop(told);
    // By how much was heard, not by time, so that each falls into the middle of the talk.
    let all = CLIENTS * (CLIENTS - 1) * LINES;
    let mut kills: Vec<_> = (0..KILLS + CUTS).map(|n| n < KILLS).collect();
    let mut count = 0;
    while !kills.is_empty() {
        count += heard.try_iter().count();
        let pause = random.below(2 * (all - count) / (kills.len() + 1) + 1);
        for _ in 0..pause {
            heard.recv_timeout(PATIENCE).expect("something is heard");
        }
        count += pause;
        if kills.swap_remove(random.below(kills.len())) {
            proxy.serves(None);
            kill(server);
            server = folder.serve();
            proxy.serves(Some(server.port));
        } else {
            proxy.cut(&mut random);
        }
    }
    println!("{} lines were heard behind the last of them", all - count);
    while heard.recv_timeout(PATIENCE).is_ok() {}
    let order = folder.lines("killed");
    assert_eq!(order.len(), CLIENTS * LINES);
    assert_eq!(order.iter().collect::<HashSet<_>>().len(), order.len());
    for (number, client) in clients.into_iter().enumerate() {
        let name = format!("c{number}");
        let own = order.iter().filter(|(from, _)| *from == name);
        let own: Vec<_> = own
            .map(|(_, text)| text.parse::<usize>().unwrap())
            .collect();
        assert_eq!(own, (0..LINES).collect::<Vec<_>>());
        let others = order.iter().filter(|(from, _)| *from != name);
        let others: Vec<_> = others
            .map(|(from, text)| format!("{from}: {text}"))
            .collect();
        assert!(client.join().unwrap() == others, "{name} has another order");
    }
    server.stop();
}
