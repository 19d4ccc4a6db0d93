//! TLS on the server: the certificate, which may change while the server runs, and the handshake.
//!
//! A handshake takes up to five milliseconds of a processor, with the largest keys, and strangers
//! can ask for any number of them. So handshakes are made on a thread of their own, and however many
//! wait there, the chat goes on beside it.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use http::StatusCode;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, join};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{Error, ServerConfig, ServerConnection};

use crate::os::{self, cannot_start, describe, read_file};
use crate::protocol::tls::Stream;
use crate::server::files;
use crate::server::handshake::{self, Refusal, Rules, refuse};
use crate::server::limits::Limits;

/// A client's TLS session.
pub type Session = Stream<TcpStream>;

const LATE: Refusal = Refusal::Unanswered(Cow::Borrowed("the TLS handshake took too long"));
const NOT_TLS: Refusal = refuse(
    StatusCode::BAD_REQUEST,
    "this port speaks TLS: connect with wss:// or https://",
);

/// A certificate with its key, for everyone who connects from now on.
#[derive(Debug)]
pub struct Certificate {
    current: Arc<RwLock<Arc<ServerConfig>>>,
    /// The runtime of the thread that makes the handshakes.
    handshakes: Handle,
}

impl Certificate {
    /// Reads the chain of certificates, the server's own first, and the private key of that one,
    /// both in PEM. When they change they are read again, and `tell` says so in one line. When they
    /// cannot be used then, that is said too, and the old certificate stays for as long as that is
    /// so. Connections stay in every case.
    ///
    /// # Errors
    ///
    /// One line that says which of the two files cannot be used, and why.
    pub fn open(
        chain: &Path,
        key: &Path,
        limits: &Limits,
        tell: impl Fn(Arguments<'_>) + Send + 'static,
    ) -> Result<Self, String> {
        let paths = [chain.to_owned(), key.to_owned()];
        let read = |paths: &[PathBuf; 2]| Ok([read_file(&paths[0])?, read_file(&paths[1])?]);
        let first = read(&paths)?;
        let current = Arc::new(RwLock::new(config(&paths, &first)?));
        if os::is_public(key) {
            let key = key.display();
            tell(format_args!(
                "others can read the private key in {key}: chmod 600 {key}"
            ));
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot use TLS: {}", describe(&error)))?;
        let certificate = Self {
            current: current.clone(),
            handshakes: runtime.handle().clone(),
        };
        // To the end of the program.
        os::start_thread(move || runtime.block_on(pending::<()>())).map_err(cannot_start)?;
        let again = paths.clone();
        let followed = files::follow(
            limits.look,
            first,
            move || read(&again),
            move |files| {
                let files = files.map_err(str::to_owned);
                match files.and_then(|files| config(&paths, files)) {
                    Ok(config) => {
                        *current.write().unwrap_or_else(PoisonError::into_inner) = config;
                        tell(format_args!("newcomers get the new certificate"));
                    }
                    Err(why) => tell(format_args!("the old certificate stays: {why}")),
                }
            },
        );
        followed.map_err(cannot_start)?;
        Ok(certificate)
    }

    /// Opens a TLS session, until the deadline at the latest, and returns it and the rules. The kind of the
    /// first byte tells a TLS hello (RFC 8446 5.1) from an HTTP request, which is answered in plain text.
    ///
    /// # Errors
    ///
    /// There is no session, and the other end has been told why, if it could be. It has given its seat back
    /// before that, since it may be a while in leaving.
    pub async fn accept<'r, S>(
        &self,
        stream: TcpStream,
        rules: Rules<'r, S>,
        limits: &Limits,
    ) -> Result<(Session, Rules<'r, S>), Refusal> {
        let (until, mut first) = (rules.until, [0]);
        let peeked = timeout_at(until, stream.peek(&mut first)).await;
        let (mut stream, refusal) = match peeked.map_err(|_| LATE)? {
            Ok(1..) if first == [handshake::TLS_HELLO] => {
                match self.handshake(stream, until, limits).await? {
                    (socket, Ok(session)) => return Ok((Stream::new(socket, session), rules)),
                    (stream, Err(refusal)) => (stream, refusal),
                }
            }
            Ok(1..) => (stream, NOT_TLS),
            _ => return Err(Refusal::Left),
        };
        rules.stranger.count_refused(&refusal);
        drop(rules.seat);
        let answer = handshake::answer(&mut stream, &refusal);
        let _ = timeout(limits.close, answer).await;
        Err(refusal)
    }

    /// Makes a handshake, on the thread for that.
    async fn handshake(
        &self,
        stream: TcpStream,
        until: Instant,
        limits: &Limits,
    ) -> Result<(TcpStream, Result<ServerConnection, Refusal>), Refusal> {
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let (stream, most) = (stream.into_std().map_err(left)?, limits.hello as u64);
        let making = async move {
            let (reader, writer) = TcpStream::from_std(stream)?.into_split();
            let accepting = TlsAcceptor::from(config).accept(join(reader.take(most), writer));
            let (stream, made) = match accepting.into_fallible().await {
                Ok(made) => {
                    let (stream, session) = made.into_inner();
                    (stream, Ok(session))
                }
                Err((error, stream)) => (stream, Err(refusal(&error))),
            };
            let (reader, writer) = stream.into_inner();
            let stream = reader.into_inner().reunite(writer);
            Ok::<_, io::Error>((stream.map_err(io::Error::other)?.into_std()?, made))
        };
        // In a set, since that ends it when nobody waits for it any more.
        let mut tasks = JoinSet::new();
        let in_time = async move {
            tokio::select! {
                // Looked at first: what is late already costs nothing more.
                biased;
                () = sleep_until(until) => None,
                made = making => Some(made),
            }
        };
        tasks.spawn_on(in_time, &self.handshakes);
        let made = timeout_at(until, tasks.join_next()).await;
        let made = made.ok().flatten().and_then(Result::ok).flatten();
        let (stream, made) = made.ok_or(LATE)?.map_err(left)?;
        Ok((TcpStream::from_std(stream).map_err(left)?, made))
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn left(_: io::Error) -> Refusal {
    Refusal::Left
}

/// Why there is no session.
fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidData => {
            Refusal::Unanswered(format!("its TLS handshake failed: {error}").into())
        }
        _ => Refusal::Left,
    }
}

/// What new sessions begin with.
fn config(paths: &[PathBuf; 2], [chain, key]: &[Vec<u8>; 2]) -> Result<Arc<ServerConfig>, String> {
    let [chain_file, key_file] = paths.each_ref().map(|path| path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|_| format!("a certificate in {chain_file} is not whole"))?;
    if chain.is_empty() {
        return Err(format!(
            "there is no certificate in {chain_file}: it has to be PEM, with lines of BEGIN CERTIFICATE"
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        if key.windows(9).any(|word| word == b"ENCRYPTED") {
            format!(
                "the private key in {key_file} is encrypted: write it without a password, with openssl pkey"
            )
        } else {
            format!(
                "there is no private key in {key_file}: it has to be PEM, with a line of BEGIN PRIVATE KEY"
            )
        }
    })?;
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map(Arc::new)
        .map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                format!("the key in {key_file} does not belong to the certificate in {chain_file}")
            }
            error => format!("cannot use {chain_file} with {key_file}: {error}"),
        })
}
