//! A connection of the server in memory, so that a test can move its clock: whenever everything
//! waits, it jumps to the next deadline. So no wait takes time, and none has one of its own.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use chat_pair::server::connection::Outside;
use chat_pair::server::ended::Ended;
use chat_pair::server::handshake::{Rules, accept};
use chat_pair::server::identity::Identity;
use chat_pair::server::limits::Limits;
use chat_pair::server::log::Log;
use chat_pair::server::metrics::Stranger;
use chat_pair::server::room::Room;
use chat_pair::server::sessions::Asked;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::raw::REQUEST;

/// A room that publishes.
pub fn open(limits: &Limits) -> Arc<Room> {
    let room = Room::open(limits);
    tokio::spawn(room.clone().publish());
    room
}

/// The far end of a connection that has entered the room, and why it will have ended. So many
/// bytes fit between the two ends.
pub async fn connect(
    room: &Arc<Room>,
    limits: &Limits,
    bytes: usize,
) -> (DuplexStream, JoinHandle<Ended>) {
    connect_asking(room, limits, bytes, None, pending()).await
}

/// The same of a server that is asked to stop when `stopping` comes.
pub async fn connect_until(
    room: &Arc<Room>,
    limits: &Limits,
    bytes: usize,
    stopping: impl Future<Output = ()> + Send + Sync + 'static,
) -> (DuplexStream, JoinHandle<Ended>) {
    connect_asking(room, limits, bytes, None, stopping).await
}

/// The same with a session.
pub async fn connect_as(
    room: &Arc<Room>,
    limits: &Limits,
    bytes: usize,
    session: Option<&str>,
) -> (DuplexStream, JoinHandle<Ended>) {
    let asked = Asked::new(session, None, None).unwrap();
    connect_asking(room, limits, bytes, asked, pending()).await
}

/// The same with a session that comes back, and hears everything after `after`.
pub async fn connect_after(
    room: &Arc<Room>,
    limits: &Limits,
    bytes: usize,
    session: &str,
    after: &str,
) -> (DuplexStream, JoinHandle<Ended>) {
    let asked = Asked::new(Some(session), Some(after), None).unwrap();
    connect_asking(room, limits, bytes, asked, pending()).await
}

async fn connect_asking(
    room: &Arc<Room>,
    limits: &Limits,
    bytes: usize,
    asked: Option<Asked>,
    stopping: impl Future<Output = ()> + Send + Sync + 'static,
) -> (DuplexStream, JoinHandle<Ended>) {
    let (near, mut far) = duplex(bytes);
    let (room, limits) = (room.clone(), limits.clone());
    let connection = tokio::spawn(async move {
        let (reader, writer) = split(near);
        let rules = Rules {
            origins: &[],
            until: Instant::now() + limits.handshake,
            seat: Ok(()),
            stranger: &Stranger::arrives(),
        };
        let accepted = accept(
            reader,
            writer,
            rules,
            || Ok(()),
            async |_| room.enter_as(asked.as_ref()),
            &limits,
        )
        .await;
        let Ok((mut connection, (speaker, mut subscription, first), ())) = accepted else {
            panic!("not accepted");
        };
        connection.writer.push(first);
        let log = Log::open(&Limits {
            log: 0,
            ..limits.clone()
        })
        .unwrap();
        let name = Identity::of("name");
        connection
            .relay(
                &name,
                speaker,
                &mut subscription,
                &log,
                &limits,
                Outside {
                    stopping: pin!(stopping),
                    ended: pin!(pending()),
                },
            )
            .await
    });
    far.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(far.read_u8().await.unwrap());
    }
    (far, connection)
}
