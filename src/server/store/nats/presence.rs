//! Who is in the rooms of the other servers of a chat. It is said and not stored: each server says who is
//! in a room there on the subject `STREAM.here.ROOM`, when that changes and now and then, and who does
//! not say so for a while is not there any more. Whoever opens a room asks on `STREAM.ask.ROOM`.
//!
//! ```text
//! SERVER SERVERS MORE     who says it, how many servers it knows to have the room, itself included (0:
//!                         itself no longer), and how many more people there are than names
//! NAME                    of each that is there
//! ```

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use async_nats::{StatusCode, SubscribeError};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};

use crate::server::presence::{People, Presence};
use crate::server::store::nats::{Nats, token};

/// What one server says of a room.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    server: u64,
    /// How many servers it knows to have the room.
    servers: usize,
    people: People,
}

impl Said {
    fn to_bytes(&self) -> Bytes {
        let (
            Self {
                server,
                servers,
                people,
            },
            more,
        ) = (self, self.people.more);
        let first = format!("{server:016x} {servers} {more}");
        let mut lines = vec![&*first];
        lines.extend(people.names.iter().map(String::as_str));
        lines.join("\n").into()
    }

    /// `None` if it is something else.
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
        let mut first = lines.next()?.split(' ');
        Some(Self {
            server: u64::from_str_radix(first.next()?, 16).ok()?,
            servers: first.next()?.parse().ok()?,
            people: People {
                more: first.next()?.parse().ok()?,
                names: lines.map(str::to_owned).collect(),
            },
        })
    }
}

/// What this server knows of one room on the others.
struct Others {
    nats: Nats,
    presence: Arc<Presence>,
    /// When each of them was heard last.
    heard: HashMap<u64, Instant>,
}

impl Nats {
    /// The task that tells the other servers who is in a room here, and learns who is there on them,
    /// until the room is about to end.
    pub async fn share_presence(self, room: String, presence: Arc<Presence>) {
        // An error means that the client is closed, at the end of the program.
        let _ = self.share(&room, presence.clone()).await;
        presence.set_known();
    }

    async fn share(self, room: &str, presence: Arc<Presence>) -> Result<(), SubscribeError> {
        let (client, limits, room) = (self.client().clone(), self.limits().clone(), token(room));
        let subject = format!("{}.here.{room}", self.stream());
        let ask = format!("{}.ask.{room}", self.stream());
        let inbox = client.new_inbox();
        let mut said = client.subscribe(subject.clone()).await?;
        let mut answers = client.subscribe(inbox.clone()).await?;
        // NATS says at once if there is nobody to ask; we are not asked ourselves before that.
        let _ = client
            .publish_with_reply(ask.clone(), inbox, Bytes::new())
            .await;
        let mut asked = client.subscribe(ask).await?;
        let mut patience = pin!(sleep(limits.nats_ask));
        let mut is_asking = true;
        let mut others = Others {
            nats: self,
            presence,
            heard: HashMap::new(),
        };
        let mut due = Instant::now() + limits.nats_tell;
        loop {
            let mut is_answered = false;
            tokio::select! {
                Some(answer) = answers.next(), if is_asking => {
                    let is_nobody = answer.status == Some(StatusCode::NO_RESPONDERS);
                    let servers = others.hear(&answer.payload, false);
                    is_answered = is_nobody || servers.is_some_and(|all| others.heard.len() >= all);
                }
                () = &mut patience, if is_asking => is_answered = true,
                Some(said) = said.next() => drop(others.hear(&said.payload, true)),
                Some(asked) = asked.next() => {
                    if let Some(reply) = asked.reply {
                        let _ = client.publish(reply, others.say(true).to_bytes()).await;
                    }
                }
                is_over = others.presence.moved() => {
                    if is_over {
                        break;
                    }
                    due = due.min(Instant::now() + limits.moment);
                }
                () = sleep_until(due) => {
                    // What waits for a connection would come late, and be old.
                    if others.nats.up().borrow().is_some() {
                        let _ = client.publish(subject.clone(), others.say(true).to_bytes()).await;
                    }
                    others.forget();
                    due = Instant::now() + limits.nats_tell;
                }
            }
            if is_answered {
                is_asking = false;
                others.presence.set_known();
                let _ = answers.unsubscribe().await;
            }
        }
        let _ = client.publish(subject, others.say(false).to_bytes()).await;
        Ok(())
    }
}

impl Others {
    /// Takes what another server says. Returns how many servers it knows to have the room.
    fn hear(&mut self, bytes: &[u8], is_news: bool) -> Option<usize> {
        let said = Said::of(bytes)?;
        if said.server == self.nats.server() {
            return None;
        }
        match said.servers {
            0 => drop(self.heard.remove(&said.server)),
            _ => drop(self.heard.insert(said.server, Instant::now())),
        }
        self.presence.elsewhere(said.server, said.people, is_news);
        Some(said.servers)
    }

    /// What this server says: who is here, if it has the room still.
    fn say(&self, has_room: bool) -> Said {
        let (mut servers, mut people) = (0, People::default());
        if has_room {
            servers = 1 + self.heard.len();
            people = self.presence.people(self.nats.limits().nats_people);
        }
        let server = self.nats.server();
        Said {
            server,
            servers,
            people,
        }
    }

    /// Those are not there any more of whom was heard nothing. As long as nothing can be heard that
    /// means nothing.
    fn forget(&mut self) {
        let now = Instant::now();
        if self.nats.up().borrow().is_none() {
            self.heard.values_mut().for_each(|heard| *heard = now);
        }
        let longest = self.nats.limits().nats_told;
        let silent = self.heard.extract_if(|_, heard| now - *heard >= longest);
        for (server, _) in silent {
            self.presence.elsewhere(server, People::default(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_as_it_is_written() {
        for names in [&[][..], &["ana"], &["ana", "[::1]:50112"]] {
            let said = Said {
                server: u64::MAX,
                servers: 3,
                people: People {
                    names: names.iter().map(|&name| name.to_owned()).collect(),
                    more: 2,
                },
            };
            assert_eq!(Said::of(&said.to_bytes()), Some(said));
        }
        for other in ["", "x 1 0", "1", "1 1", "1 1 x"] {
            assert_eq!(Said::of(other.as_bytes()), None, "{other}");
        }
    }
}
