//! The servers of the HAProxy on this machine, for `sidekick list`.

use crate::agent::haproxy::api::ProxyError;
use crate::agent::haproxy::master_socket::MasterSocket;
use crate::agent::haproxy::server_state::{RunningServers, parse_state};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// How long the command waits for each socket.
const ANSWER: Duration = Duration::from_secs(1);

/// The servers of the first of these master sockets that answers. `None`: no agent runs on this machine, or
/// the user may not use the sockets.
pub async fn haproxy_on_this_machine(sockets: &[PathBuf]) -> Option<RunningServers> {
    for socket in sockets {
        if let Ok(Ok(running)) = timeout(ANSWER, ask(socket)).await {
            return Some(running);
        }
    }
    None
}

async fn ask(socket: &Path) -> Result<RunningServers, ProxyError> {
    let master = MasterSocket::new(socket.to_owned());
    let worker = master.processes().await?.worker;
    let state = master.ask_worker(worker, "show servers state").await?;
    Ok(parse_state(&state)?)
}
