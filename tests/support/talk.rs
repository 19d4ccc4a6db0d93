//! Clients that speak and listen, each with a session, while servers are killed and links are cut.
//! Nothing may be lost, and nothing may come twice.
//!
//! What breaks does so after a random number of lines that were heard, and not after a time, so that it
//! falls into the middle of the talk on every machine.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::PATIENCE;
use super::proxy::Random;
use super::raw::{FIN, PING, PONG, Raw, TEXT, frame};

/// A link through a proxy.
struct Link {
    client: TcpStream,
    server: TcpStream,
    /// The server is not told that the client has gone.
    left: Arc<Mutex<bool>>,
}

/// What stands between the clients and a server, which may have another port after each start.
#[derive(Default)]
pub struct Front {
    /// Where the clients find it.
    pub port: u16,
    /// `None` while there is no server.
    server: Mutex<Option<u16>>,
    changed: Condvar,
    links: Mutex<Vec<Link>>,
    /// The servers' ends of links that were cut at the other end.
    left: Mutex<Vec<TcpStream>>,
}

impl Front {
    /// Before the server at this port.
    pub fn of(server: u16) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            server: Mutex::new(Some(server)),
            ..Self::default()
        });
        let this = front.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                this.connect(client.unwrap());
            }
        });
        front
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

    /// The server has another port now, or there is none: then whoever connects waits.
    pub fn serves(&self, port: Option<u16>) {
        *self.server.lock().unwrap() = port;
        self.changed.notify_all();
    }

    /// Cuts one of the links that are there: at both ends, or so that the server does not notice.
    pub fn cut(&self, random: &mut Random) {
        let mut links = self.links.lock().unwrap();
        let last = links.len().min(CLIENTS);
        if last == 0 {
            return;
        }
        // The newest are alive, mostly.
        let back = usize::try_from(random.below(last as u64)).unwrap();
        let at = links.len() - 1 - back;
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

/// How many speak and listen.
const CLIENTS: usize = 5;

/// How many lines one of them may be ahead of another: half of those that are kept, so that nobody misses
/// any who waits for a server while the others talk.
const LEAD: usize = 5000;

/// A client that has a session and comes back at once when its link breaks, to any of the fronts.
struct Client {
    number: usize,
    /// How many lines each of them says.
    lines: usize,
    fronts: Vec<Arc<Front>>,
    random: Random,
    /// `EPOCH.POSITION` of what comes next.
    epoch: Option<String>,
    next: u64,
    /// How many of its lines it knows to be taken.
    taken: usize,
    heard: Vec<String>,
    told: Sender<()>,
    all_are_there: Arc<Barrier>,
    /// How many lines each of them has heard and said.
    all_progress: Arc<[AtomicUsize; CLIENTS]>,
}

impl Client {
    /// Speaks and listens to the end.
    fn run(mut self) -> Vec<String> {
        while !self.is_done() {
            let _ = self.talk(); // Until the link breaks.
        }
        self.heard
    }

    fn is_done(&self) -> bool {
        self.taken == self.lines && self.heard.len() == (CLIENTS - 1) * self.lines
    }

    fn progress(&self) -> usize {
        self.taken + self.heard.len()
    }

    fn is_ahead(&self) -> bool {
        let others = self
            .all_progress
            .iter()
            .map(|progress| progress.load(Relaxed));
        others
            .min()
            .is_some_and(|last| self.progress() > last + LEAD)
    }

    fn talk(&mut self) -> io::Result<()> {
        let after = self
            .epoch
            .as_ref()
            .map(|epoch| format!("&after={epoch}.{}", self.next));
        let target = format!(
            "/talk?name=c{}&session=the-session-of-number-{}&sent={}{}",
            self.number,
            self.number,
            self.taken,
            after.unwrap_or_default()
        );
        let front = usize::try_from(self.random.below(self.fronts.len() as u64)).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", self.fronts[front].port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = super::raw::REQUEST;
        let request = request.replacen("GET / ", &format!("GET {target} "), 1);
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let head = String::from_utf8(head).unwrap();
        let refused = ["HTTP/1.1 409 ", "HTTP/1.1 503 "];
        if self.fronts.len() > 1 && refused.iter().any(|refused| head.starts_with(refused)) {
            // This one of the servers does not know the others' last news yet, or has no log now.
            return Err(broken());
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut raw = Raw::over(stream.try_clone()?);
        let (_, first) = raw.frame_if_whole().ok_or_else(broken)?;
        let first = String::from_utf8(first).unwrap();
        let words: Vec<_> = first.strip_prefix('@').expect(&first).split(' ').collect();
        let [epoch, next, taken] = words[..] else {
            panic!("{first}");
        };
        let next = next.parse::<u64>().unwrap();
        match &self.epoch {
            Some(before) => assert!(
                epoch == before && next >= self.next,
                "{first} behind {before} {}",
                self.next
            ),
            // Nobody speaks before all are there, since nobody hears what was said before.
            None => _ = self.all_are_there.wait(),
        }
        self.epoch = Some(epoch.to_owned());
        self.next = next;
        let taken = taken.parse::<usize>().unwrap();
        // What was confirmed is taken.
        let known = self.taken..=self.lines;
        assert!(known.contains(&taken), "{taken} taken, not {known:?}");
        self.taken = taken;
        let mut sent = taken;
        loop {
            self.all_progress[self.number].store(self.progress(), Relaxed);
            if !self.is_ahead() && sent == self.taken && sent < self.lines {
                let piece = (sent..self.lines).take(20);
                sent += piece.len();
                let lines = piece.flat_map(|n| frame(FIN | TEXT, n.to_string().as_bytes()));
                let lines: Vec<_> = lines.chain(frame(FIN | PING, b"")).collect();
                stream.write_all(&lines)?;
            }
            if self.is_done() {
                return Ok(());
            }
            let (kind, payload) = raw.frame_if_whole().ok_or_else(broken)?;
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
        if text.starts_with("* the chat ") {
            return; // It is interrupted, or goes on.
        }
        assert!(!text.starts_with('*'), "{text}");
        self.heard.push(text.to_owned());
        self.next += 1;
        let _ = self.told.send(());
    }
}

/// A talk of five in the room `talk`, each of whom says the same number of lines: `c0: 0` and so on.
pub struct Talk {
    /// What happens at random, by the seed that is printed.
    pub random: Random,
    clients: Vec<JoinHandle<Vec<String>>>,
    lines: usize,
    heard: Receiver<()>,
    count: usize,
}

impl Talk {
    /// All enter, and begin to speak.
    pub fn begin(fronts: &[Arc<Front>], lines: usize) -> Self {
        let mut random = Random::seeded();
        let (told, heard) = channel();
        let all_are_there = Arc::new(Barrier::new(CLIENTS));
        let all_progress = Arc::default();
        let clients = (0..CLIENTS).map(|number| {
            let client = Client {
                number,
                lines,
                fronts: fronts.to_vec(),
                random: random.another(),
                epoch: None,
                next: 0,
                taken: 0,
                heard: Vec::new(),
                told: told.clone(),
                all_are_there: all_are_there.clone(),
                all_progress: Arc::clone(&all_progress),
            };
            thread::spawn(|| client.run())
        });
        Self {
            clients: clients.collect(),
            random,
            lines,
            heard,
            count: 0,
        }
    }

    /// Lets them talk for a while, so that so many more such whiles follow.
    pub fn go_on(&mut self, more: usize) {
        self.count += self.heard.try_iter().count();
        let rest = CLIENTS * (CLIENTS - 1) * self.lines - self.count;
        let most = 2 * rest / (more + 1) + 1;
        let pause = usize::try_from(self.random.below(most as u64)).unwrap();
        for _ in 0..pause {
            self.heard.recv_timeout(PATIENCE).expect("a line is heard");
        }
        self.count += pause;
    }

    /// Lets them talk until so many lines more were heard, or until nobody can hear any.
    pub fn go_on_for(&mut self, lines: usize) {
        const SILENCE: Duration = Duration::from_secs(1);
        let heard = (0..lines).take_while(|_| self.heard.recv_timeout(SILENCE).is_ok());
        self.count += heard.count();
    }

    /// Lets them talk to the end. Each must have heard every line of the others once, and all in one
    /// order. Returns what each of them heard.
    #[allow(clippy::print_stdout)] // the test harness shows it when the test fails
    pub fn end(self) -> Vec<Vec<String>> {
        println!("{} lines were heard in the midst of it", self.count);
        let over = loop {
            if let Err(over) = self.heard.recv_timeout(PATIENCE) {
                break over;
            }
        };
        // The pings of its server would keep one for ever that waits for a line which is lost.
        let all_have_ended = RecvTimeoutError::Disconnected;
        assert_eq!(over, all_have_ended, "somebody waits for a line");
        let clients = self.clients.into_iter();
        let heard: Vec<_> = clients.map(|client| client.join().unwrap()).collect();
        for (number, heard) in heard.iter().enumerate() {
            assert_eq!(heard.iter().collect::<HashSet<_>>().len(), heard.len());
            for other in (0..CLIENTS).filter(|other| *other != number) {
                let name = format!("c{other}: ");
                let own = heard.iter().filter_map(|line| line.strip_prefix(&name));
                let own: Vec<_> = own.map(|text| text.parse::<usize>().unwrap()).collect();
                assert!(own == (0..self.lines).collect::<Vec<_>>(), "{name}");
            }
        }
        for (a, b) in (0..CLIENTS).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let names = [format!("c{a}: "), format!("c{b}: ")];
            let both = |heard: &Vec<String>| -> Vec<_> {
                let lines = heard.iter();
                let others = lines.filter(|line| !names.iter().any(|name| line.starts_with(name)));
                others.cloned().collect()
            };
            assert!(both(&heard[a]) == both(&heard[b]), "{a} and {b} differ");
        }
        heard
    }
}
