//! TLS for the peers, asked for as chat-pair is: `--tls-cert chain.pem --tls-key key.pem`.

use std::error::Error;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// rustls with its defaults. `None` without flags.
pub fn acceptor() -> Result<Option<TlsAcceptor>, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cert_flag, chain, key_flag, key] = &arguments[..] else {
        return match arguments.is_empty() {
            true => Ok(None),
            false => Err("usage: [--tls-cert chain.pem --tls-key key.pem]".into()),
        };
    };
    if cert_flag != "--tls-cert" || key_flag != "--tls-key" {
        return Err("usage: [--tls-cert chain.pem --tls-key key.pem]".into());
    }
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(Some(Arc::new(config).into()))
}
