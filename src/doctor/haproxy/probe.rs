//! Asks HAProxy and the kernel. Writes nothing, and starts no HAProxy but `haproxy -v`.

use super::{HaproxyAnswers, Port, RunningHaproxy, SocketFault, directory_of};
use crate::agent::config::OUR_DIRECTORY;
use crate::agent::haproxy::bind_probe::bind_obstacle;
use crate::agent::haproxy::master_socket::MasterSocket;
use crate::agent::haproxy::process::command;
use crate::agent::model::bind::Bind;
use crate::agent::{AgentConfig, HaproxyMode};
use rustix::fs::{Access, access};
use std::collections::BTreeSet;
use std::fs::{read_dir, read_link, read_to_string};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// `haproxy -v` takes some 10 ms.
const VERSION_DEADLINE: Duration = Duration::from_secs(5);

/// A socket whose listener is alive takes a connection at once.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// The port that clients dial where no `--bind` says otherwise in the examples, and the one that takes a privilege.
const PORT: u16 = 80;

/// Looks at HAProxy as the agent would find it.
pub(in crate::doctor) async fn ask(config: &AgentConfig) -> HaproxyAnswers {
    let socket = config.haproxy_mode.socket();
    let (version, running) = tokio::join!(version(&config.haproxy), running(socket));
    let directory = directory_of(&config.file, Path::new(OUR_DIRECTORY), Path::is_dir);
    let writable = access(directory, Access::WRITE_OK | Access::EXEC_OK);
    let text = |path: &str| read_to_string(path).unwrap_or_default();
    HaproxyAnswers {
        program: config.haproxy.clone(),
        version,
        is_supervised: matches!(config.haproxy_mode, HaproxyMode::Supervise(_)),
        socket: socket.to_owned(),
        running,
        directory: (
            directory.to_owned(),
            writable.map_err(|error| std::io::Error::from(error).to_string()),
        ),
        own_status: text("/proc/self/status"),
        unprivileged: text("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        tcp: text("/proc/net/tcp") + &text("/proc/net/tcp6"),
        ports: ports(config),
    }
}

fn ports(config: &AgentConfig) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    let is_named = !config.rules.binds.is_empty();
    let any = std::num::NonZeroU16::new(PORT).map(Bind::Everywhere);
    let named = config.rules.binds.values().copied();
    for bind in named.chain(any.filter(|_| !is_named)) {
        let number = bind.port();
        if ports.iter().all(|port| port.number != number) {
            ports.push(Port {
                number,
                is_named,
                obstacle: bind_obstacle(bind),
            });
        }
    }
    ports
}

async fn version(program: &Path) -> Result<String, String> {
    let mut haproxy = command(program);
    haproxy.arg("-v").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(VERSION_DEADLINE, haproxy.output()).await;
    let seconds = VERSION_DEADLINE.as_secs();
    let output = output
        .map_err(|_| format!("-v: no answer within {seconds} s"))?
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    Ok(line.to_owned())
}

async fn running(socket: &Path) -> Result<RunningHaproxy, SocketFault> {
    let connected = timeout(CONNECT_DEADLINE, UnixStream::connect(socket)).await;
    let connected =
        connected.map_err(|_| SocketFault::NoMaster("it takes no connection".to_owned()))?;
    connected.map_err(|error| match error.kind() {
        ErrorKind::NotFound => SocketFault::Absent,
        ErrorKind::PermissionDenied => SocketFault::NoRight,
        ErrorKind::ConnectionRefused => SocketFault::NotListening,
        _ => SocketFault::NoMaster(error.to_string()),
    })?;
    let processes = MasterSocket::new(socket.to_owned()).processes().await;
    let processes = processes.map_err(|error| {
        let text = error.to_string();
        let why = text.rsplit(": ").next().unwrap_or_default();
        SocketFault::NoMaster(why.to_owned())
    })?;
    let mut sockets = sockets_of(processes.worker);
    if let (Some(all), Some(masters)) = (&mut sockets, sockets_of(processes.master)) {
        all.extend(masters);
    }
    Ok(RunningHaproxy {
        version: processes.version,
        failed_reloads: processes.failed,
        status: read_to_string(format!("/proc/{}/status", processes.master)).unwrap_or_default(),
        sockets,
    })
}

/// The inodes of a process's sockets; `None` where this user may not see them.
fn sockets_of(pid: u32) -> Option<BTreeSet<u64>> {
    let entries = read_dir(PathBuf::from(format!("/proc/{pid}/fd"))).ok()?;
    let targets = entries.filter_map(|entry| read_link(entry.ok()?.path()).ok());
    let inode = |target: PathBuf| {
        let text = target.to_str()?.strip_prefix("socket:[")?;
        text.strip_suffix(']')?.parse().ok()
    };
    Some(targets.filter_map(inode).collect())
}
