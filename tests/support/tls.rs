//! Certificates of the tests' own, good ones and each kind of bad one, and a way to let the bytes of
//! [`super::raw`] go through TLS.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use socket2::SockRef;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// What is wrong with a certificate, if anything is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Good,
    Expired,
    NotValidYet,
    OtherName,
    /// Self-signed, as a certificate that others are signed with.
    Issuer,
}

/// Somebody who signs certificates, with a directory of their own for the files.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tls-{}-{count}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "chat tests");
        let own = params.self_signed(&key).unwrap();
        fs::write(directory.join("ca.pem"), own.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { directory, issuer }
    }

    /// The file of that name in the directory.
    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    /// Its own certificate, which is what others have to trust.
    pub fn ca(&self) -> String {
        self.file("ca.pem")
    }

    /// Writes `chain.pem` and `key.pem`, of a new certificate for this machine.
    pub fn issue(&self, kind: Kind) {
        let names = match kind {
            Kind::OtherName => vec!["chat.example".to_owned()],
            _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        };
        let mut params = CertificateParams::new(names).unwrap();
        match kind {
            Kind::Expired => params.not_after = date_time_ymd(2020, 1, 1),
            Kind::NotValidYet => params.not_before = date_time_ymd(2999, 1, 1),
            _ => {}
        }
        let key = KeyPair::generate().unwrap();
        let certificate = if let Kind::Issuer = kind {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.self_signed(&key)
        } else {
            params.signed_by(&key, &self.issuer)
        };
        fs::write(self.file("chain.pem"), certificate.unwrap().pem()).unwrap();
        let file = self.file("key.pem");
        fs::write(&file, key.serialize_pem()).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }

    /// The flags of a server with the certificate that was issued last.
    pub fn flags(&self) -> [String; 4] {
        let (chain, key) = (self.file("chain.pem"), self.file("key.pem"));
        ["--tls-cert".to_owned(), chain, "--tls-key".to_owned(), key]
    }

    /// A port where everyone who connects is connected with `port` through TLS. Little fits on the
    /// way, so a reader that is slow here is slow there.
    pub fn tunnel(&self, port: u16, version: &'static SupportedProtocolVersion) -> u16 {
        const LITTLE: usize = 4096;
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.ca()).unwrap();
        roots.add(ca).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let entrance = listener.local_addr().unwrap().port();
        let carry = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let connector = connector.clone();
                tokio::spawn(async move {
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.set_recv_buffer_size(4096).unwrap();
                    SockRef::from(&socket).set_tcp_mss(536).unwrap();
                    let far = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
                    far.set_nodelay(true).unwrap();
                    near.set_nodelay(true).unwrap();
                    // Else the system would take all that a test has for a reader.
                    SockRef::from(&near)
                        .set_send_buffer_size(64 * 1024)
                        .unwrap();
                    let name = ServerName::try_from("localhost").unwrap();
                    let mut far = connector.connect(name, far).await.unwrap();
                    let _ =
                        copy_bidirectional_with_sizes(&mut near, &mut far, LITTLE, LITTLE).await;
                });
            }
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        // It lives as long as the test program.
        thread::spawn(move || runtime.block_on(carry));
        entrance
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
