//! How the servers of a chat wait for each other, so that whoever speaks is slowed down to the readers of
//! all of them. A server whose readers are behind says again and again, on the subject
//! `STREAM.behind.ROOM`, how far it has come in a room, and the others send nothing more meanwhile, until
//! it says that it is not behind any more. That is said and not stored, as `SERVER SEQUENCE` and as
//! `SERVER`; who says nothing, as one that died, is not waited for.

use async_nats::Subscriber;
use futures_util::StreamExt;

use crate::server::store::nats::{Nats, token};

/// What other servers say of how far they have come in a room.
pub struct Behind {
    nats: Nats,
    said: Subscriber,
}

impl Nats {
    /// Says that this server has come so far in a room, and would come further if its readers did; `None`
    /// when they do.
    pub async fn say_behind(&self, room: &str, sequence: Option<u64>) {
        let server = self.server();
        let said = match sequence {
            Some(sequence) => format!("{server:016x} {sequence}"),
            None => format!("{server:016x}"),
        };
        self.say(self.behind(room), said.into()).await;
    }

    /// Listens to the others. `None` at the end of the program.
    pub async fn hear_behind(&self, room: &str) -> Option<Behind> {
        let said = self.client().subscribe(self.behind(room)).await.ok()?;
        let nats = self.clone();
        Some(Behind { nats, said })
    }

    fn behind(&self, room: &str) -> String {
        format!("{}.behind.{}", self.stream(), token(room))
    }
}

impl Behind {
    /// Waits until another server says something: which one, and how far it has come if it is behind.
    pub async fn next(&mut self) -> Option<(u64, Option<u64>)> {
        loop {
            let said = self.said.next().await?;
            if let Some(said) = read(&said.payload)
                && said.0 != self.nats.server()
            {
                return Some(said);
            }
        }
    }
}

fn read(said: &[u8]) -> Option<(u64, Option<u64>)> {
    let said = std::str::from_utf8(said).ok()?;
    let (server, sequence) = match said.split_once(' ') {
        Some((server, sequence)) => (server, Some(sequence.parse().ok()?)),
        None => (said, None),
    };
    Some((u64::from_str_radix(server, 16).ok()?, sequence))
}
