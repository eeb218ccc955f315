//! etcd by TLS, as the sidekicks see it: a relay before each wire that asks for a client's certificate, and whose
//! certificates can be replaced while it runs.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sidekick_harness::{Authority, free_port};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A name that every sidekick looks up for each connection.
pub const HOST: &str = "etcd.test";

/// All relays, with one authority; they end with this.
pub struct Tls {
    authority: Authority,
    directory: TempDir,
    config: watch::Sender<Arc<ServerConfig>>,
    relays: JoinSet<()>,
}

impl Tls {
    /// No relay yet.
    pub fn new() -> Tls {
        let (authority, directory) = (Authority::generate(), tempfile::tempdir());
        let directory = directory.expect("no temporary directory can be made");
        let config = config(&authority, &directory);
        Tls {
            authority,
            directory,
            config: watch::Sender::new(config),
            relays: JoinSet::new(),
        }
    }

    /// A relay before the server at an `http://HOST:PORT`; the URL to dial instead.
    pub async fn before(&mut self, url: &str) -> String {
        let server = url.trim_start_matches("http://").to_owned();
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.expect("a free port can be bound");
        self.relays
            .spawn(relay(listener, server, self.config.subscribe()));
        format!("https://{HOST}:{port}")
    }

    /// Another authority, a server's certificate and a client's of its own, in the same files. Every connection
    /// ends, and nothing of the old authority is good for a new one.
    pub fn rotate(&mut self) {
        self.authority.rotate();
        let config = config(&self.authority, &self.directory);
        self.config.send_replace(config);
    }

    /// The options of who dials: the authority's certificate, the client's, and its key.
    pub fn options(&self) -> [(&'static str, PathBuf); 3] {
        let authority = &self.authority;
        [
            ("--etcd-cacert", authority.certificate()),
            ("--etcd-cert", authority.client_certificate()),
            ("--etcd-key", authority.client_key()),
        ]
    }
}

fn config(authority: &Authority, directory: &TempDir) -> Arc<ServerConfig> {
    let (certificate, key) = authority.issue_for_server(directory.path());
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let ca = CertificateDer::from_pem_file(authority.certificate()).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("an authority's certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring knows the usual versions of TLS");
    let config = config.with_client_cert_verifier(clients.build().expect("it has a root"));
    let mut config = config
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    // gRPC.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn relay(
    listener: TcpListener,
    server: String,
    mut config: watch::Receiver<Arc<ServerConfig>>,
) {
    loop {
        let acceptor = TlsAcceptor::from(config.borrow_and_update().clone());
        // Dropped where the certificates change, and every connection with it.
        let mut connections = JoinSet::new();
        loop {
            // All arms may be dropped: none that isn't ready has taken anything.
            tokio::select! {
                Ok((client, _)) = listener.accept() => {
                    connections.spawn(carry(acceptor.clone(), client, server.clone()));
                }
                Some(_) = connections.join_next() => {}
                changed = config.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            }
        }
    }
}

/// An error is a connection that broke, and breaks the other.
async fn carry(acceptor: TlsAcceptor, client: TcpStream, server: String) {
    let mut server = match TcpStream::connect(server).await {
        Ok(server) => server,
        Err(_) => return,
    };
    if let Ok(mut client) = acceptor.accept(client).await {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
