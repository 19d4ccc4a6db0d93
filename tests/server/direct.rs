//! The room writes to those who have everything: to a socket whose system takes only what a test lets it.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use chat_pair::server::batch::Lines;
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::room::{Room, Speaker, Subscription, TryWrite};
use futures_util::FutureExt;

use crate::room::publish;
use crate::support::raw::short_texts;

/// What was written to it, and how many bytes more it takes.
#[derive(Debug, Default)]
pub struct Socket(Mutex<(Vec<u8>, usize)>);

impl Socket {
    /// It takes so many bytes more.
    pub fn take(&self, bytes: usize) {
        self.0.lock().unwrap().1 += bytes;
    }

    /// What was written to it since this was last asked.
    pub fn written(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }
}

impl TryWrite for Socket {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (written, space) = &mut *self.0.lock().unwrap();
        let bytes = slices.iter().flat_map(|slice| &**slice);
        let bytes: Vec<u8> = bytes.copied().collect();
        let count = bytes.len().min(*space);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        written.extend(&bytes[..count]);
        *space -= count;
        Ok(count)
    }
}

/// The waker of a reader's task, which counts how often it was woken.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A room, somebody who speaks in it, and a reader that has lent its socket.
struct World {
    room: Arc<Room>,
    speaker: Speaker,
    reader: Subscription,
    socket: Arc<Socket>,
    task: Arc<Task>,
    /// The reader's own, which says nothing.
    silent: Speaker,
}

impl World {
    fn new(limits: &Limits) -> Self {
        let room = Room::open(limits);
        let (speaker, _) = room.enter().unwrap();
        let (silent, mut reader) = room.enter().unwrap();
        let socket = Arc::new(Socket::default());
        reader.lend_when_up_to_date(socket.clone());
        let mut world = Self {
            room,
            speaker,
            reader,
            socket,
            task: Arc::default(),
            silent,
        };
        assert_eq!(world.next(), None);
        world
    }

    /// Somebody says a line, and it is published. Returns whether there was space for it.
    fn say(&self, text: &str) -> bool {
        let said = say(&self.speaker, text);
        publish(&self.room);
        said
    }

    /// What the reader itself has to write now.
    fn next(&mut self) -> Option<Vec<u8>> {
        let waker = Waker::from(self.task.clone());
        let next = pin!(self.reader.next_frames());
        match next.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(frames) => Some(frames.expect("the room is open").concat()),
            Poll::Pending => None,
        }
    }

    fn written(&self) -> Vec<String> {
        short_texts(&self.socket.written())
    }

    fn woken(&self) -> usize {
        self.task.0.load(Ordering::Relaxed)
    }
}

/// Says a line. Returns whether there was space for it.
fn say(speaker: &Speaker, text: &str) -> bool {
    let name = Identity::of("n");
    let mut lines = Lines::default();
    lines.push(&name, text);
    let said = speaker.say(&lines).now_or_never();
    said.map(Result::unwrap).is_some()
}

#[test]
fn who_has_everything_is_not_woken_for_what_is_new() {
    let mut world = World::new(&Limits::DEFAULT);
    world.socket.take(1000);
    for text in ["a", "b", "c"] {
        assert!(world.say(text));
        assert_eq!(world.written(), [format!("n: {text}")]);
    }
    assert_eq!(world.next(), None);
    assert_eq!(world.woken(), 0);
}

#[test]
fn who_does_not_take_everything_at_once_writes_the_rest_itself() {
    let mut world = World::new(&Limits::DEFAULT);
    world.socket.take(4);
    assert!(world.say("a"));
    assert_eq!(world.woken(), 1);
    // What comes now is behind the rest, though the system would take it.
    world.socket.take(1000);
    assert!(world.say("b"));
    let mut heard = world.socket.written();
    assert_eq!(heard, *b"\x81\x04n:");
    heard.extend(world.next().unwrap());
    assert_eq!(short_texts(&heard), ["n: a"]);
    assert_eq!(short_texts(&world.next().unwrap()), ["n: b"]);
    // Now it has everything again.
    assert_eq!(world.next(), None);
    assert!(world.say("c"));
    assert_eq!(world.written(), ["n: c"]);
}

#[test]
fn what_was_written_takes_no_space() {
    let limits = Limits {
        backlog: 1024,
        ring: 2,
        ..Limits::DEFAULT
    };
    let mut world = World::new(&limits);
    world.socket.take(1000);
    for _ in 0..10 {
        assert!(world.say("a"), "everything was written");
    }
    world.socket.take(1);
    let said = (0..1000).take_while(|_| world.say("a")).count();
    assert!(said < 1000, "it is waited for");
    while world.next().is_some() {}
    assert!(world.say("a"));
}

#[test]
fn a_socket_is_taken_back_with_what_is_not_written() {
    let mut world = World::new(&Limits::DEFAULT);
    assert!(world.reader.take_back().is_empty());
    world.socket.take(1000);
    assert!(world.say("a"));
    assert!(world.written().is_empty(), "it was taken back");
    assert_eq!(short_texts(&world.next().unwrap()), ["n: a"]);
    assert_eq!(world.next(), None);
    // It may come back by itself just then.
    world.socket.0.lock().unwrap().1 = 9;
    assert!(say(&world.speaker, "b"));
    assert!(world.say("c"));
    let rest = world.reader.take_back().concat();
    let mut heard = world.socket.written();
    assert_eq!((heard.len(), rest.len()), (9, 3));
    heard.extend(rest);
    assert_eq!(short_texts(&heard), ["n: b", "n: c"]);
    assert_eq!(world.next(), None);
}

#[test]
fn who_leaves_is_not_written_to_any_more() {
    let World {
        room,
        speaker,
        reader,
        socket,
        ..
    } = World::new(&Limits::DEFAULT);
    socket.take(1000);
    drop(reader);
    assert!(say(&speaker, "a"));
    publish(&room);
    assert!(socket.written().is_empty());
    assert_eq!(Arc::strong_count(&socket), 1);
}

#[test]
fn a_closed_room_is_heard_to_the_end() {
    let World {
        room,
        speaker,
        mut reader,
        socket,
        silent,
        ..
    } = World::new(&Limits::DEFAULT);
    socket.take(1000);
    assert!(say(&speaker, "a"));
    room.close();
    drop((speaker, silent));
    assert_eq!(short_texts(&socket.written()), ["n: a"]);
    let mut next = || reader.next_frames().now_or_never().unwrap();
    assert!(next().unwrap().is_empty());
    assert!(next().is_none());
    assert!(next().is_none());
}
