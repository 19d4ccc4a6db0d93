//! One connection of the client over a stream in memory, with a clock that the tests move.

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use chat_pair::client::chat::{Chat, ChatEnd};
use chat_pair::client::connect::Opened;
use chat_pair::client::connection::{Connection, ConnectionEnd};
use chat_pair::client::console::Console;
use chat_pair::client::event::Event;
use chat_pair::client::limits::Limits;
use chat_pair::client::pipe::Output;
use chat_pair::client::session::Session;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncWrite, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_websockets::{CloseCode, Message, ServerBuilder, WebSocketStream};

/// The other ends of the client's three: what is typed, and who reads.
struct Person {
    input: mpsc::Sender<Event>,
    output: mpsc::Receiver<String>,
    /// Why the output cannot be written.
    break_output: oneshot::Sender<io::Error>,
    notes: (mpsc::Receiver<String>, oneshot::Sender<io::Error>),
}

fn chat(wait: Duration) -> (Chat, Person) {
    let limits = Limits::DEFAULT;
    let (input, events) = mpsc::channel(limits.queue);
    let (pieces, output) = mpsc::channel(1);
    let (break_output, broken) = oneshot::channel();
    let (notes, unread) = mpsc::channel(1);
    let (keep, never) = oneshot::channel();
    let ends = (Output::over(pieces, broken), Output::over(notes, never));
    let console = Console::pipes(events, ends.0, ends.1, &limits);
    let person = Person {
        input,
        output,
        break_output,
        notes: (unread, keep),
    };
    (Chat::new(console, limits, wait), person)
}

type Server = WebSocketStream<DuplexStream>;

fn pair() -> (DuplexStream, Server) {
    let (ours, theirs) = duplex(64 * 1024);
    (ours, ServerBuilder::new().serve(theirs))
}

/// A stream whose handshake is done.
fn opened<S>(stream: S) -> Opened<S> {
    let early = Bytes::new();
    Opened { stream, early }
}

/// Says lines until the client takes no more: its reader has stopped.
async fn fill(server: &mut Server) {
    let line = "127.0.0.1:1: ".to_owned() + &"x".repeat(1000);
    while let Ok(said) = timeout(
        Duration::from_secs(1),
        server.send(Message::text(line.clone())),
    )
    .await
    {
        said.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_is_noticed() {
    let (stream, _server) = pair();
    let (mut chat, _person) = chat(Duration::ZERO);
    let stream = opened(stream);
    assert_eq!(
        Connection::new(stream, &mut chat).talk().await,
        ConnectionEnd::Silent
    );
}

/// Were there anything to do meanwhile, the clock would stand still.
#[tokio::test(start_paused = true)]
async fn a_dead_link_is_noticed_though_nobody_reads_the_output() {
    let (stream, mut server) = pair();
    let (mut chat, _person) = chat(Duration::ZERO);
    let stream = opened(stream);
    let talk = Connection::new(stream, &mut chat).talk();
    let dead = async {
        fill(&mut server).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = talk => assert_eq!(ended, ConnectionEnd::Silent),
        () = dead => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_is_kept_though_nobody_reads_the_output() {
    let (stream, mut server) = pair();
    let (mut chat, mut person) = chat(Duration::ZERO);
    let stream = opened(stream);
    let talk = Connection::new(stream, &mut chat).talk();
    let alive = async {
        // As much as stops the client from reading on.
        for _ in 0..200 {
            server.send(Message::text("x".repeat(1000))).await.unwrap();
        }
        // Long enough to be given up several times; the library answers the pings.
        let _ = timeout(Duration::from_mins(10), async {
            while server.next().await.is_some() {}
        })
        .await;
        server.send(Message::text("the end")).await.unwrap();
        loop {
            let piece = person.output.recv().await.unwrap();
            if piece.ends_with("the end\n") {
                return;
            }
        }
    };
    tokio::select! {
        ended = talk => panic!("{ended}"),
        () = alive => {}
    }
}

/// A server that goes on and on, and nobody who reads: what is kept for the reader has an end.
#[tokio::test(start_paused = true)]
async fn a_reader_that_never_comes_back_is_the_end() {
    let (stream, mut server) = pair();
    let (mut chat, _person) = chat(Duration::ZERO);
    let stream = opened(stream);
    let talk = Connection::new(stream, &mut chat).talk();
    let flood = async {
        while server.send(Message::text("x".repeat(1000))).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = talk => assert_eq!(ended, ConnectionEnd::Unread),
        () = flood => {}
    }
    let most = chat.limits.ahead + 64 * 1024;
    assert!(chat.console.waiting() <= most, "{}", chat.console.waiting());
}

/// As a socket whose other end is gone.
struct Unwritable;

impl AsyncWrite for Unwritable {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a client finds that was stopped for a while: a ping, which it answers in vain, and why the
/// server has closed.
#[tokio::test(start_paused = true)]
async fn a_close_that_waits_is_read_before_a_write_error_counts() {
    let close = [&[0x88, 8][..], &1008_u16.to_be_bytes(), b"silent"].concat();
    for received in [
        [&[0x89, 0][..], &close].concat(),
        [&[0x89, 0, 0x89, 0, 0x81, 1, b'x'][..], &close].concat(),
    ] {
        let (mut chat, _person) = chat(Duration::ZERO);
        chat.outbox.push("typed".to_owned());
        let stream = opened(tokio::io::join(&received[..], Unwritable));
        let ended = Connection::new(stream, &mut chat).talk().await;
        let told = ConnectionEnd::Closed(CloseCode::POLICY_VIOLATION, "silent".to_owned());
        assert_eq!(ended, told);
    }
}

/// The lines that did not go out before the error are still to be sent.
#[tokio::test(start_paused = true)]
async fn a_write_error_leaves_the_lines_that_wait() {
    let (mut chat, _person) = chat(Duration::ZERO);
    for _ in 0..1000 {
        chat.outbox.push("x".repeat(1000));
    }
    let stream = opened(tokio::io::join(&[][..], Unwritable));
    let ended = Connection::new(stream, &mut chat).talk().await;
    assert_eq!(ended, ConnectionEnd::Lost);
    assert!(chat.outbox.waiting() > 900, "{}", chat.outbox.waiting());
    assert!(chat.goes_on());
}

/// A link that breaks when the input is over, but not all of it is sent.
#[tokio::test(start_paused = true)]
async fn after_the_end_of_the_input_what_is_unsent_goes_on() {
    let (mut chat, person) = chat(Duration::ZERO);
    for number in 0..200 {
        let line = format!("{number:01000}");
        person.input.send(Event::Line(line)).await.unwrap();
    }
    person.input.send(Event::End(None)).await.unwrap();
    // Less fits into the stream than there is to say.
    let (stream, theirs) = duplex(1024);
    let mut server = ServerBuilder::new().serve(theirs);
    let stream = opened(stream);
    let breaks = async {
        assert!(server.next().await.unwrap().unwrap().is_text());
        drop(server);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = Connection::new(stream, &mut chat).talk() => assert_eq!(ended, ConnectionEnd::Lost),
        () = breaks => {}
    }
    assert!(chat.leave_at.is_some() && chat.outbox.waiting() > 0);
    assert!(chat.goes_on());
    // All of it is doubtful now; nothing is left to be said.
    chat.outbox.batch(usize::MAX);
    sleep(Duration::from_secs(1)).await;
    chat.name_doubtful();
    assert!(!chat.goes_on());
    drop(person);
    assert_eq!(chat.close(ChatEnd::InputSent).await, ExitCode::FAILURE);
}

/// A client whose input has ended, with a line that the server does not read in time. Each 20 s the
/// server sends this, for so many times. Then it reads and answers the Close, or never does. Returns
/// how the client ended, and when.
async fn ended_with(sign: fn() -> Message, times: u32, answers: bool) -> (ConnectionEnd, u64) {
    let (stream, mut server) = pair();
    let (mut chat, person) = chat(Duration::ZERO);
    let line = Event::Line("last".to_owned());
    person.input.send(line).await.unwrap();
    person.input.send(Event::End(None)).await.unwrap();
    let begun = Instant::now();
    let busy = async {
        for _ in 0..times {
            sleep(Duration::from_secs(20)).await;
            server.send(sign()).await.unwrap();
        }
        while answers && server.next().await.is_some() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = Connection::new(opened(stream), &mut chat).talk() => {
            (ended, begun.elapsed().as_secs())
        }
        () = busy => unreachable!(),
    }
}

/// A server with a limit on lines, or with readers that it has to wait for, reads our last line much
/// later than we send it. Its pings and pongs say that it will.
#[tokio::test(start_paused = true)]
async fn a_server_that_shows_that_it_lives_is_waited_for_at_the_end_of_the_input() {
    for sign in [|| Message::ping(""), || Message::pong("")] {
        let sent = (ConnectionEnd::InputSent, 600);
        assert_eq!(ended_with(sign, 30, true).await, sent);
        // One of the two clocks that end it comes first; both say that it was not confirmed.
        let (ended, after) = ended_with(sign, 30, false).await;
        assert!(matches!(
            ended,
            ConnectionEnd::Unconfirmed | ConnectionEnd::Silent
        ));
        assert_eq!(after, 600 + 40);
    }
}

/// It is behind what waits for the output.
#[tokio::test(start_paused = true)]
async fn the_answer_to_a_goodbye_is_received_though_nobody_reads_the_output() {
    let (stream, mut server) = pair();
    let (mut chat, person) = chat(Duration::ZERO);
    let begun = Instant::now();
    let answers = async {
        // As much as stops the client from reading on.
        for _ in 0..200 {
            server.send(Message::text("x".repeat(1000))).await.unwrap();
        }
        let line = Event::Line("last".to_owned());
        person.input.send(line).await.unwrap();
        person.input.send(Event::End(None)).await.unwrap();
        while server.next().await.is_some() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = Connection::new(opened(stream), &mut chat).talk() => {
            assert_eq!(ended, ConnectionEnd::InputSent);
        }
        () = answers => unreachable!(),
    }
    // At once, and not only when a ping asks whether the server is there.
    assert!(begun.elapsed() < chat.limits.quiet);
}

/// When everything was taken, no server is waited for any longer than it was to be listened to.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_over_needs_no_server() {
    let wait = Duration::from_mins(1);
    let (mut chat, person) = chat(wait);
    assert_eq!(chat.handle(Event::End(None)), ControlFlow::Continue(()));
    let begun = Instant::now();
    let over = chat.meanwhile(std::future::pending::<()>()).await;
    assert_eq!((over, begun.elapsed()), (Err(ChatEnd::InputSent), wait));
    chat.outbox.push("not taken".to_owned());
    assert_eq!(chat.meanwhile(sleep(wait)).await, Ok(()));
    drop(person);
}

/// What others say says nothing about us.
#[tokio::test(start_paused = true)]
async fn a_server_that_only_relays_is_not_waited_for_at_the_end_of_the_input() {
    let sign = || Message::text("127.0.0.1:1: hello");
    let unconfirmed = (ConnectionEnd::Unconfirmed, 40);
    assert_eq!(ended_with(sign, 30, true).await, unconfirmed);
}

/// Nothing is sent before it is known what the server has taken, and that is not waited for without
/// end.
#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_say_whether_it_has_the_session_is_given_up() {
    let (stream, _server) = pair();
    let (mut chat, person) = chat(Duration::ZERO);
    chat.session = Session::new().unwrap();
    chat.session.ask(0);
    person
        .input
        .send(Event::Line("one".to_owned()))
        .await
        .unwrap();
    person.input.send(Event::End(None)).await.unwrap();
    let stream = opened(stream);
    let ended = Connection::new(stream, &mut chat).talk().await;
    assert_eq!(ended, ConnectionEnd::Silent);
    assert!(chat.outbox.waiting() == 1 && chat.goes_on());
}

/// A reader that leaves is a normal end; an output that cannot be written is not.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_a_failure() {
    for (error, exit) in [
        (io::ErrorKind::BrokenPipe, ExitCode::SUCCESS),
        (io::ErrorKind::StorageFull, ExitCode::FAILURE),
    ] {
        let (stream, mut server) = pair();
        let (mut chat, person) = chat(Duration::ZERO);
        let stream = opened(stream);
        let talk = Connection::new(stream, &mut chat).talk();
        person.break_output.send(error.into()).unwrap();
        let goodbye = async { while server.next().await.is_some() {} };
        let (ended, ()) = tokio::join!(talk, goodbye);
        assert_eq!(ended, ConnectionEnd::Left);
        assert_eq!(chat.close(ChatEnd::Left).await, exit);
    }
}

/// Nothing is read, nothing is answered: one wish is enough, and it is granted soon.
#[tokio::test(start_paused = true)]
async fn who_leaves_waits_less_than_three_seconds() {
    let (stream, mut server) = pair();
    let (mut chat, person) = chat(Duration::ZERO);
    let stream = opened(stream);
    let talk = Connection::new(stream, &mut chat).talk();
    let stuck = async {
        fill(&mut server).await;
        person.input.send(Event::Leave).await.unwrap();
        std::future::pending::<()>().await;
    };
    let before = Instant::now();
    let ended = tokio::select! {
        ended = talk => ended,
        () = stuck => unreachable!(),
    };
    assert_eq!(ended, ConnectionEnd::Left);
    let _ = chat.close(ChatEnd::Left).await;
    // A second of it was `fill`.
    assert!(before.elapsed() < Duration::from_secs(1 + 3));
}

/// In a pipe, why the client failed does not wait for the reader of the output.
#[tokio::test(start_paused = true)]
async fn why_it_failed_is_said_though_nobody_reads_the_output() {
    let (mut chat, mut person) = chat(Duration::ZERO);
    chat.console.show("unread", None);
    tokio::select! {
        _ = chat.close(ChatEnd::Failed("why".to_owned())) => panic!("it was not read"),
        note = person.notes.0.recv() => assert_eq!(note.as_deref(), Some("client: why\n")),
    }
}
