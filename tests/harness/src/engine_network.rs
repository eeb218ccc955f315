//! An engine's network namespace, for who has to be where its containers and published ports can be dialled.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns};
use tokio::io::copy_bidirectional;
use tokio::task::JoinHandle;

use super::warden::require;

/// The network namespace of an engine, in which a server of the test's own is reached too.
pub struct EngineNetwork {
    namespace: PathBuf,
    address: SocketAddr,
    relaying: JoinHandle<()>,
}

impl EngineNetwork {
    /// The namespace with this name, and a way from there to the server at an `http://HOST:PORT` of the test's.
    pub(crate) fn of(namespace: PathBuf, url: &str) -> EngineNetwork {
        let listener = enter(namespace.clone(), || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no port is free")
        });
        let address = listener.local_addr().expect("a bound socket has one");
        let server = url.trim_start_matches("http://").to_owned();
        EngineNetwork {
            namespace,
            address,
            relaying: tokio::spawn(relay(listener, server)),
        }
    }

    /// The server's URL, there.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Surroundings for `Announce::within`: as on a user's machine, where sidekick is beside the engine.
    pub fn surroundings(&self) -> Vec<String> {
        let nsenter = require("nsenter").display().to_string();
        let namespace = format!("--net={}", self.namespace.display());
        let with_its_parent = ["--", "setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned);
        [nsenter, namespace]
            .into_iter()
            .chain(with_its_parent)
            .collect()
    }

    /// What a client there gets from a published port.
    pub fn dial(&self, port: u16) -> std::io::Result<TcpStream> {
        enter(self.namespace.clone(), move || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        })
    }
}

impl Drop for EngineNetwork {
    fn drop(&mut self) {
        self.relaying.abort();
    }
}

/// Does something in that namespace: a socket stays where it was made.
fn enter<T: Send + 'static>(namespace: PathBuf, work: impl FnOnce() -> T + Send + 'static) -> T {
    let entered = thread::spawn(move || {
        let file = File::open(namespace).expect("the engine runs");
        setns(file, CloneFlags::CLONE_NEWNET).expect("its network can't be entered");
        work()
    });
    entered.join().expect("the work is done")
}

async fn relay(listener: TcpListener, server: String) {
    listener.set_nonblocking(true).expect("a socket can be");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime takes it");
    loop {
        let (mut client, _) = listener.accept().await.expect("it listens");
        let server = server.clone();
        tokio::spawn(async move {
            if let Ok(mut server) = tokio::net::TcpStream::connect(server).await {
                // Either end may break off.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
