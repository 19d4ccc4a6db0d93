//! TLS on the client: whom it trusts, and the handshake.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use crate::client::connect::{ConnectError, HUNG_UP};
use crate::os::{describe, read_file};
use crate::protocol::line;
use crate::protocol::tls::Stream;

/// Whose signature under a server's certificate is believed.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Those whom the system trusts, and whoever is in the file `ca`, in PEM.
    ///
    /// # Errors
    ///
    /// One line that says which of them cannot be used, and why.
    pub fn load(ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // Systems have some that are not usable, which is no reason not to use the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(ca) = ca {
            let none = || {
                let file = ca.display();
                format!(
                    "there is no certificate in {file}: --ca takes PEM, with lines of BEGIN CERTIFICATE"
                )
            };
            let bytes = read_file(ca)?;
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
            let (added, _) = roots.add_parsable_certificates(certificates.map_err(|_| none())?);
            if added == 0 {
                return Err(none());
            }
        }
        if roots.is_empty() {
            return Err(
                "this system trusts nobody: install its package ca-certificates, or use --ca"
                    .to_owned(),
            );
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot use TLS: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Opens a TLS session with `host`, which has to prove by its certificate that it is that one.
    ///
    /// # Errors
    ///
    /// There is no session, and why.
    pub async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<Stream<TcpStream>, ConnectError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ConnectError::last("no certificate can be for such a name"))?;
        let connecting = TlsConnector::from(self.0.clone()).connect(name, stream);
        let stream = connecting.await.map_err(|error| failed(&error, host))?;
        let (socket, session) = stream.into_inner();
        Ok(Stream::new(socket, session))
    }
}

/// Why there is no session, in words. What is wrong with a certificate is wrong until somebody mends
/// it, so there is no use in trying again.
fn failed(error: &io::Error, host: &str) -> ConnectError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::InvalidCertificate(why)) => ConnectError::last(refused(why, host)),
        Some(Error::InvalidMessage(_)) => {
            ConnectError::last("what listens there does not speak TLS (is it a ws:// server?)")
        }
        // By the other end, which may be about to start.
        Some(error @ Error::AlertReceived(_)) => {
            format!("its TLS handshake failed: {error}").into()
        }
        Some(error) => ConnectError::last(format!("its TLS handshake failed: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => HUNG_UP.into(),
        None => describe(error).into(),
    }
}

/// What is wrong with a certificate.
fn refused(why: &CertificateError, host: &str) -> String {
    use CertificateError as Why;
    let clock = "is the clock of this machine right?";
    match why {
        Why::Expired | Why::ExpiredContext { .. } => {
            format!("its certificate has expired ({clock})")
        }
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet ({clock})")
        }
        Why::NotValidForNameContext { presented, .. } => {
            let names = names(presented);
            format!("its certificate is for {names}, not for {host}")
        }
        Why::NotValidForName => format!("its certificate is not for {host}"),
        // An issuer of the same name may be trusted, whose key is another one.
        Why::UnknownIssuer
        | Why::BadSignature
        | Why::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "nobody whom this machine trusts has signed its certificate (see --ca)".to_owned()
        }
        Why::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is one to sign others with, not one for a server \
             (made with openssl? then with basicConstraints=CA:FALSE)"
                .to_owned()
        }
        why => {
            // The others have no words for people, only their names.
            let why = format!("{why:?}");
            let name = why.split([' ', '(', '{']).next().unwrap_or_default();
            format!("its certificate cannot be trusted ({name})")
        }
    }
}

/// The first of the names that a certificate is for, as rustls gives them.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 3;
    /// The longest name that there can be (RFC 1035 2.3.4).
    const LONGEST: usize = 255;
    let names = presented.iter().filter_map(|name| {
        let name = name.strip_prefix("DnsName(\"")?.strip_suffix("\")")?;
        let name: String = name.chars().take(LONGEST).collect();
        Some(line::clean(&name).into_owned())
    });
    let names: Vec<_> = names.take(SHOWN).collect();
    match names.len() {
        0 => "something else".to_owned(),
        _ => format!("the name {}", names.join(", ")),
    }
}
