//! A wire that can be cut in several ways.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ports;

/// A TCP proxy before one server.
pub struct Proxy {
    port: u16,
    wire: watch::Sender<Wire>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before the server at an `http://HOST:PORT`; it lets everything pass.
    pub async fn before(url: &str) -> Proxy {
        let server = url.trim_start_matches("http://").to_owned();
        let (wire, state) = watch::channel(Wire::Whole);
        let port = ports::free();
        let accepting = tokio::spawn(accept(port, server, state));
        Proxy {
            port,
            wire,
            accepting,
        }
    }

    /// The URL to dial instead of the server's own.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Connections old and new stay open and are never answered.
    pub fn black_hole(&self) {
        self.wire.send_replace(Wire::BlackHole);
    }

    /// Connections old and new break at once.
    pub fn refuse(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// New connections pass again; those that went through the black hole have lost bytes, and break.
    pub fn pass(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    BlackHole,
    Cut,
}

async fn accept(port: u16, server: String, mut wire: watch::Receiver<Wire>) {
    loop {
        // Nobody listens while the wire is cut: that is what refuses.
        if wire.wait_for(|&wire| wire != Wire::Cut).await.is_err() {
            return;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .expect("the proxy's port is taken");
        let mut until_cut = wire.clone();
        loop {
            // Both arms may be dropped: an accept that is not ready has taken nothing, a wait looks again.
            tokio::select! {
                client = listener.accept() => {
                    let (client, _) = client.expect("the proxy cannot accept");
                    tokio::spawn(carry(client, server.clone(), wire.clone()));
                }
                _ = until_cut.wait_for(|&wire| wire == Wire::Cut) => break,
            }
        }
    }
}

async fn carry(mut client: TcpStream, server: String, mut wire: watch::Receiver<Wire>) {
    let mut upstream = None;
    if *wire.borrow_and_update() == Wire::Whole {
        let Ok(mut stream) = TcpStream::connect(&server).await else {
            return;
        };
        // Dropping the copy may lose bytes that are on their way, as a broken wire does.
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut stream) => return,
            _ = wire.wait_for(|&wire| wire != Wire::Whole) => {}
        }
        upstream = Some(stream);
    }
    if *wire.borrow() == Wire::BlackHole {
        tokio::select! {
            () = swallow(&mut client) => {}
            _ = wire.wait_for(|&wire| wire != Wire::BlackHole) => {}
        }
    }
    drop(upstream);
}

/// Reads for ever; also past the client's end, for a black hole doesn't answer to that either.
async fn swallow(client: &mut TcpStream) {
    let mut into = [0; 4096];
    while matches!(client.read(&mut into).await, Ok(read) if read > 0) {}
    std::future::pending().await
}
