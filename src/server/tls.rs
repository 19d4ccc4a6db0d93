//! TLS on the server: the certificate, which may change while the server runs, and the handshake.

use std::fmt::Arguments;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use http::StatusCode;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{Error, ServerConfig};

use crate::os::read_file;
use crate::protocol::tls::Stream;
use crate::server::files;
use crate::server::handshake::{self, Refusal, refuse};
use crate::server::limits::Limits;

/// A client's TLS session.
pub type Session = Stream<TcpStream>;

const NOT_TLS: Refusal = refuse(
    StatusCode::BAD_REQUEST,
    "this port speaks TLS: connect with wss:// or https://",
);

/// A certificate with its key, for everyone who connects from now on.
#[derive(Debug)]
pub struct Certificate(Arc<RwLock<Arc<ServerConfig>>>);

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
        let (certificate, again) = (Self(current.clone()), paths.clone());
        files::follow(
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
        Ok(certificate)
    }

    /// Opens a TLS session, until the deadline at the latest. The kind of the first byte tells a TLS
    /// hello (RFC 8446 5.1) from an HTTP request, which is answered in plain text.
    ///
    /// # Errors
    ///
    /// There is no session, and the other end has been told why, if it could be.
    pub async fn accept(
        &self,
        stream: TcpStream,
        until: Instant,
        limits: &Limits,
    ) -> Result<Session, Refusal> {
        let late = |_| Refusal::Unanswered("the TLS handshake took too long".into());
        let opened = timeout_at(until, self.open_session(stream)).await;
        match opened.map_err(late)? {
            Ok(stream) => Ok(stream),
            Err((mut stream, refusal)) => {
                let answer = handshake::answer(&mut stream, &refusal);
                let _ = timeout(limits.close, answer).await;
                Err(refusal)
            }
        }
    }

    async fn open_session(&self, stream: TcpStream) -> Result<Session, (TcpStream, Refusal)> {
        const HELLO: u8 = 22;
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1..) if first == [HELLO] => {}
            Ok(1..) => return Err((stream, NOT_TLS)),
            _ => return Err((stream, Refusal::Left)),
        }
        let config = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
        match accepting.await {
            Ok(stream) => {
                let (socket, session) = stream.into_inner();
                Ok(Stream::new(socket, session))
            }
            Err((error, stream)) if error.kind() == ErrorKind::InvalidData => {
                let why = format!("its TLS handshake failed: {error}");
                Err((stream, Refusal::Unanswered(why.into())))
            }
            Err((_, stream)) => Err((stream, Refusal::Left)),
        }
    }
}

/// What new sessions begin with.
fn config(paths: &[PathBuf; 2], [chain, key]: &[Vec<u8>; 2]) -> Result<Arc<ServerConfig>, String> {
    let [chain_file, key_file] = paths.each_ref().map(|path| path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(format!(
        "there is no certificate in {chain_file}: it has to be PEM, with lines of BEGIN CERTIFICATE"
    ))?;
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
