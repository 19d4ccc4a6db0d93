//! TLS: the certificate that the servers show, and the load generator's end of a connection.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, version};

/// One read of one client.
pub const READ: usize = 64 * 1024;
/// More than what one read may leave in a session: a record whose end has not come (RFC 8446 5.2).
const RECORD: usize = 17 * 1024;

/// A certificate for 127.0.0.1 and its key, in files that go when it goes.
pub struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    pub fn make() -> Result<Certificate, String> {
        let folder =
            std::env::temp_dir().join(format!("chat-pair-bench-tls-{}", std::process::id()));
        let made = Certificate { folder };
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()])
                .map_err(|error| error.to_string())?;
        fs::create_dir_all(&made.folder)
            .and_then(|()| fs::write(made.chain(), cert.pem()))
            .and_then(|()| fs::write(made.key(), signing_key.serialize_pem()))
            .map_err(|error| format!("{}: {error}", made.folder.display()))?;
        Ok(made)
    }

    pub fn chain(&self) -> PathBuf {
        self.folder.join("chain.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What every client begins its session with. It trusts this certificate, and offers one version and
/// one cipher suite, so that all servers encrypt alike. It resumes nothing: each client is a stranger.
pub fn config(chain: &Path) -> Result<Arc<ClientConfig>, String> {
    let certificate = CertificateDer::from_pem_file(chain).map_err(|error| error.to_string())?;
    let mut trusted = RootCertStore::empty();
    trusted
        .add(certificate)
        .map_err(|error| error.to_string())?;
    let provider = CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// One client's end of a connection, with TLS or without.
pub struct Link {
    pub stream: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Link {
    /// Begins a session where there is a configuration for one. `finish_handshake` has to follow.
    pub fn begin(stream: TcpStream, config: Option<&Arc<ClientConfig>>) -> io::Result<Link> {
        let mut link = Link {
            stream,
            session: None,
        };
        if let Some(config) = config {
            let server = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
            let session = ClientConnection::new(Arc::clone(config), server);
            link.session = Some(Box::new(session.map_err(io::Error::other)?));
            link.flush()?;
        }
        Ok(link)
    }

    /// Waits for the session; the socket must still be a blocking one.
    pub fn finish_handshake(&mut self) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            while session.is_handshaking() {
                session.complete_io(&mut self.stream)?;
            }
        }
        self.flush()
    }

    /// Reads once from the socket, with TLS until a byte of plain text has come. `plain` and `wire` have
    /// `READ` bytes each. After that nothing is left in the session that could be read, so the socket
    /// says when there is more.
    ///
    /// rustls would read 4 KiB at a time from the socket, which costs a system call each: so it gets
    /// its bytes from memory.
    pub fn read(&mut self, plain: &mut [u8], wire: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.stream.read(plain);
        };
        let mut filled = 0;
        while filled == 0 {
            let read = self.stream.read(&mut wire[..READ - RECORD])?;
            if read == 0 {
                return Ok(0);
            }
            let mut unread = &wire[..read];
            while !unread.is_empty() {
                session.read_tls(&mut unread)?;
                let state = session.process_new_packets().map_err(io::Error::other)?;
                let ready = state.plaintext_bytes_to_read();
                session
                    .reader()
                    .read_exact(&mut plain[filled..filled + ready])?;
                filled += ready;
            }
        }
        Ok(filled)
    }

    /// Writes; with TLS bytes also count as written when they are encrypted and `has_unwritten`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nothing new is encrypted before the rest has been written, so that is never much.
        self.flush()?;
        let Some(session) = &mut self.session else {
            return self.stream.write(bytes);
        };
        let written = session.writer().write(bytes)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    /// Whether something is encrypted that the socket would not take yet.
    pub fn has_unwritten(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.wants_write())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            while session.wants_write() {
                session.write_tls(&mut self.stream)?;
            }
        }
        Ok(())
    }
}
