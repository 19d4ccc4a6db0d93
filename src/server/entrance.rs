//! The entrance: what every stranger has to pass on its way from the listener into a room, and what
//! the flags of the extras open for that.

use std::fmt::Arguments;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::server::access::{self, Access, Pass};
use crate::server::arrivals::Seat;
use crate::server::connection::Connection;
use crate::server::flags::Server as Flags;
use crate::server::handshake::{self, Refusal, Request, Rules};
use crate::server::limits::Limits;
use crate::server::log::Log;
use crate::server::metrics::exporter::Exporter;
use crate::server::metrics::{self, Stranger};
use crate::server::rooms::{Member, Rooms};
use crate::server::socket::{self, ReadHalf, WriteHalf};
use crate::server::store::nats::Nats;
use crate::server::store::{Store, file};
use crate::server::tls::Certificate;

/// The entrance.
#[derive(Debug)]
pub struct Entrance {
    /// Where it leads to.
    pub rooms: Arc<Rooms>,
    store: Option<Store>,
    access: Access,
    origins: Vec<String>,
    certificate: Option<Certificate>,
    /// With more threads the connections write at the same time, so then each does it itself.
    is_single_threaded: bool,
    limits: Limits,
}

/// Who has come in.
#[derive(Debug)]
pub struct Guest {
    /// Its connection, which has its greeting to write.
    pub connection: Connection<ReadHalf, WriteHalf>,
    /// Its place in the room.
    pub member: Member,
    /// How long it may stay.
    pub pass: Pass,
    /// What it holds while it is here.
    pub seat: Arc<Seat>,
}

impl Entrance {
    /// Opens what the flags name. To be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// One line that names the file that cannot be used, and says why and what to do.
    pub async fn open(flags: &Flags, limits: &Limits, log: &Log) -> Result<Self, String> {
        let signal = metrics::StatusSignal::listen()?;
        let operator = log.clone();
        let tell = move |line: Arguments<'_>| operator.warn(line);
        let access = Access::open(flags.token_file.as_deref(), limits, tell.clone())?;
        let certificate = flags.tls();
        let certificate =
            certificate.map(|(chain, key)| Certificate::open(chain, key, limits, tell.clone()));
        let certificate = certificate.transpose()?;
        let exporter = match &flags.metrics {
            Some(address) => Some(Exporter::bind(address).await?),
            None => None,
        };
        // Last, since a store has to be closed.
        let store = match (&flags.store, flags.stream()) {
            (Some(file), _) => Some(Store::File(file::Store::open(
                file,
                flags.terms(),
                limits,
                tell,
            )?)),
            (None, Some(place)) => Some(Store::Nats(Nats::open(place, limits, tell).await?)),
            (None, None) => None,
        };
        let rooms = Rooms::stored(limits, flags.presence, store.clone());
        signal.tell(&rooms, log);
        if let Some(exporter) = exporter {
            exporter.serve(&rooms, limits);
        }
        Ok(Self {
            rooms,
            store,
            access,
            origins: flags.allow_origin.clone(),
            certificate,
            is_single_threaded: flags.threads == 1,
            limits: limits.clone(),
        })
    }

    /// What it means that others can reach this address, in one line, if they can.
    #[must_use]
    pub fn exposure(&self, address: SocketAddr) -> Option<String> {
        access::exposure(
            address,
            self.certificate.is_some(),
            self.access.needs_token(),
        )
    }

    /// Lets a stranger in: TLS, its request, its token, its name and its room. All that has one
    /// deadline.
    ///
    /// # Errors
    ///
    /// It was refused, and has been told so if it could be; so is everybody who has no seat, but for those
    /// who ask how the server is.
    pub async fn admit(
        &self,
        stream: TcpStream,
        address: &str,
        seat: Result<Arc<Seat>, Refusal>,
    ) -> Result<Guest, Refusal> {
        let stranger = Stranger::arrives();
        let admitted = self.let_in(stream, address, seat, &stranger).await;
        match &admitted {
            Ok(_) => stranger.count_admitted(),
            Err(refusal) => stranger.count_refused(refusal),
        }
        admitted
    }

    async fn let_in(
        &self,
        stream: TcpStream,
        address: &str,
        seat: Result<Arc<Seat>, Refusal>,
        stranger: &Stranger,
    ) -> Result<Guest, Refusal> {
        let (limits, certificate) = (&self.limits, self.certificate.as_ref());
        let rules = Rules {
            origins: &self.origins,
            seat,
            until: Instant::now() + limits.handshake,
            stranger,
        };
        let enter = async |request: &Request| {
            let mut pass = self.access.admit(request.token.clone())?;
            let entering = self
                .rooms
                .enter_when_known(&request.target, address, &mut pass);
            Ok((entering.await?, pass))
        };
        let (reader, writer, rules) = socket::open(stream, certificate, rules, limits).await?;
        let health = || self.rooms.health();
        let accepted = handshake::accept(reader, writer, rules, health, enter, limits).await?;
        let (mut connection, (mut member, pass), seat) = accepted;
        if self.is_single_threaded
            && let Some(socket) = connection.writer.socket().plain()
        {
            member.subscription.lend_when_up_to_date(socket);
        }
        connection.writer.push(member.greeting.drain(..));
        Ok(Guest {
            connection,
            member,
            pass,
            seat,
        })
    }

    /// Closes what it has opened, when nobody is in a room any more: what was said is written.
    pub async fn close(&self) {
        if let Some(store) = self.store.clone() {
            store.close(self.limits.store_end).await;
        }
    }
}
