//! HAProxy: its version, its master socket, its file's directory and its ports. Pure.

mod probe;

pub(super) use probe::ask;

use super::report::{Finding, Subject};
use super::version::{Release, release};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The oldest whose `add server` needs no experimental mode.
const OLDEST: Release = (2, 6);

/// The first port that needs no privilege, where the kernel doesn't say (ip(7), `ip_unprivileged_port_start`).
const UNPRIVILEGED: u16 = 1024;

/// The bit of CAP_NET_BIND_SERVICE in the masks of `/proc/PID/status` (capabilities(7)).
const NET_BIND_SERVICE: u64 = 1 << 10;

/// The state LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Why there is no answer at the master socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SocketFault {
    /// There is nothing at the path.
    Absent,
    /// This user may not open it.
    NoRight,
    /// Nothing listens there.
    NotListening,
    /// What answers is no master that has a worker; or why it doesn't answer.
    NoMaster(String),
}

/// A HAProxy that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningHaproxy {
    pub(super) version: Release,
    /// How many of the last reloads failed in a row.
    pub(super) failed_reloads: u32,
    /// The master's `/proc/PID/status`; empty where it can't be read.
    pub(super) status: String,
    /// The inodes of its sockets; `None` where this user may not see them.
    pub(super) sockets: Option<BTreeSet<u64>>,
}

/// A port that HAProxy is to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) number: u16,
    /// It is named by `--bind`, and not just port 80.
    pub(super) is_named: bool,
    /// Why it can't be bound by sidekick; `None` where it can, or that is unknown.
    pub(super) obstacle: Option<String>,
}

/// What was found.
#[derive(Debug, Clone)]
pub(super) struct HaproxyAnswers {
    pub(super) program: PathBuf,
    /// The first line of `haproxy -v`, or why there is none.
    pub(super) version: Result<String, String>,
    /// The agent starts it.
    pub(super) is_supervised: bool,
    pub(super) socket: PathBuf,
    pub(super) running: Result<RunningHaproxy, SocketFault>,
    /// The directory that the file is written in, or that is made, and whether this user may.
    pub(super) directory: (PathBuf, Result<(), String>),
    /// This process's `/proc/self/status`.
    pub(super) own_status: String,
    /// The kernel's `ip_unprivileged_port_start`, and both of its lists of sockets.
    pub(super) unprivileged: String,
    pub(super) tcp: String,
    pub(super) ports: Vec<Port>,
}

/// What is to be said of it.
pub(super) fn judge(answers: &HaproxyAnswers) -> Vec<Finding> {
    let haproxy = Subject::new("haproxy");
    let (version, read) = version(&haproxy, answers);
    let mut findings = vec![version];
    findings.extend(socket(&haproxy, answers, read));
    let (directory, writable) = &answers.directory;
    let shown = directory.display();
    findings.push(match writable {
        Ok(()) => haproxy.ok("directory", format!("{shown} can be written to")),
        Err(why) => haproxy.fail(
            "directory",
            format!("{shown}: {why}: the configuration file can't be written"),
            "give the agent's user the right to write there (StateDirectory=, ReadWritePaths=), or name another file \
             in SIDEKICK_HAPROXY_CONFIG; run doctor as that user",
        ),
    });
    findings.extend(
        answers
            .ports
            .iter()
            .map(|port| judge_port(&haproxy, answers, port)),
    );
    findings
}

fn version(haproxy: &Subject, answers: &HaproxyAnswers) -> (Finding, Option<Release>) {
    let program = answers.program.display();
    let line = match &answers.version {
        Ok(line) => line,
        Err(why) => {
            let advice =
                "install HAProxy (Debian: apt install haproxy), or name it in SIDEKICK_HAPROXY";
            return (
                haproxy.fail("version", format!("{program}: {why}"), advice),
                None,
            );
        }
    };
    let read = line
        .split_once("version ")
        .and_then(|(_, rest)| release(rest));
    let finding = match read {
        Some(read) if read >= OLDEST => haproxy.ok("version", line),
        _ => haproxy.fail(
            "version",
            format!("{line:?} is not HAProxy 2.6 or later, whose runtime API adds servers"),
            "install HAProxy 2.6 or later",
        ),
    };
    (finding, read)
}

fn socket(haproxy: &Subject, answers: &HaproxyAnswers, program: Option<Release>) -> Vec<Finding> {
    const CHECK: &str = "master socket";
    let socket = answers.socket.display();
    let running = match &answers.running {
        Ok(running) => running,
        Err(fault) => return vec![no_socket(haproxy, answers, fault)],
    };
    let (major, minor) = running.version;
    let mut findings = vec![haproxy.ok(
        CHECK,
        format!("HAProxy {major}.{minor} answers at {socket}"),
    )];
    if program.is_some_and(|program| program != running.version) {
        findings.push(haproxy.warn(
            "running",
            format!("HAProxy {major}.{minor} runs, which is not the version of the program that checks its files"),
            "restart HAProxy after an upgrade, or name the program that runs in SIDEKICK_HAPROXY",
        ));
    }
    if running.failed_reloads > 0 {
        findings.push(haproxy.warn(
            "running",
            "its last reload failed: it runs with an older configuration than its file's",
            "see why in HAProxy's and the agent's log",
        ));
    }
    findings
}

fn no_socket(haproxy: &Subject, answers: &HaproxyAnswers, fault: &SocketFault) -> Finding {
    const CHECK: &str = "master socket";
    let socket = answers.socket.display();
    let text = match fault {
        SocketFault::Absent => format!("there is no {socket}"),
        SocketFault::NoRight => format!("this user may not open {socket}"),
        SocketFault::NotListening => format!("nothing listens at {socket}"),
        SocketFault::NoMaster(why) => {
            format!("{socket} is no socket of a HAProxy master with a worker: {why}")
        }
    };
    match (answers.is_supervised, fault) {
        (true, SocketFault::Absent | SocketFault::NotListening) => {
            haproxy.ok(CHECK, format!("{text}: the agent starts a HAProxy there"))
        }
        (true, SocketFault::NoRight) => haproxy.warn(
            CHECK,
            text,
            "run doctor as the agent's user: a HAProxy may run there",
        ),
        (false, SocketFault::NoRight) => haproxy.fail(
            CHECK,
            text,
            "run the agent as a user who may (Debian's socket is root's; haproxy -S takes mode, user and group)",
        ),
        (false, SocketFault::Absent | SocketFault::NotListening) => haproxy.fail(
            CHECK,
            text,
            "start HAProxy as haproxy -Ws -S SOCKET, and name that socket in SIDEKICK_HAPROXY_MASTER",
        ),
        (_, SocketFault::NoMaster(_)) => haproxy.fail(
            CHECK,
            text,
            "name the socket of HAProxy's option -S in SIDEKICK_HAPROXY_MASTER: one of `stats socket` is a worker's",
        ),
    }
}

fn judge_port(haproxy: &Subject, answers: &HaproxyAnswers, port: &Port) -> Finding {
    let number = port.number;
    let bad = |text: String, advice: &str| match port.is_named {
        true => haproxy.fail("port", text, advice),
        false => haproxy.warn(
            "port",
            format!("{text} (if a service is bound there)"),
            advice,
        ),
    };
    let running = answers.running.as_ref().ok();
    let listeners = listeners(&answers.tcp, number);
    let sockets = running.and_then(|running| running.sockets.as_ref());
    if sockets.is_some_and(|sockets| !sockets.is_disjoint(&listeners)) {
        return haproxy.ok("port", format!("{number}: HAProxy listens there"));
    }
    let status = match (answers.is_supervised, running) {
        (true, _) => &answers.own_status,
        (false, Some(running)) if !running.status.is_empty() => &running.status,
        (false, _) => return haproxy.ok("port", format!("{number}: not known without HAProxy")),
    };
    let first = answers.unprivileged.trim().parse().unwrap_or(UNPRIVILEGED);
    if number < first && !may_bind(status, answers.is_supervised) {
        let advice = "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, --cap-add NET_BIND_SERVICE in a container, \
                      or a port from 1024 on (--bind)";
        return bad(format!("{number}: HAProxy has no right to bind it"), advice);
    }
    match &port.obstacle {
        // Whose listener it is can't be seen.
        Some(_) if running.is_some() && sockets.is_none() => {
            haproxy.ok("port", format!("{number}: taken, perhaps by this HAProxy"))
        }
        Some(why) => bad(
            format!("{number}: {why}"),
            &format!(
                "stop what listens there (ss -ltnp 'sport = :{number}'), or bind the service elsewhere (--bind)"
            ),
        ),
        None => haproxy.ok("port", format!("{number} can be bound")),
    }
}

/// Whether a process may bind the lower ports; `for_child`: whether the program that it starts may. Of a user's process
/// a child has the ambient capabilities alone, root's child has all that are left to it (capabilities(7)).
fn may_bind(status: &str, for_child: bool) -> bool {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let has = |name: &str| {
        let mask = line(name).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & NET_BIND_SERVICE != 0)
    };
    let uid = line("Uid:").and_then(|uids| uids.split_whitespace().nth(1));
    match for_child && uid != Some("0") {
        true => has("CapAmb:"),
        false => has("CapEff:"),
    }
}

/// The inodes of the sockets that listen on the port, by `/proc/net/tcp` and `/proc/net/tcp6` (proc(5)).
fn listeners(tcp: &str, port: u16) -> BTreeSet<u64> {
    let wanted = format!(":{port:04X}");
    let rows = tcp
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&wanted) && row[3] == LISTEN)
        .filter_map(|row| row[9].parse().ok())
        .collect()
}

/// The directory to be looked at for a file: its own, or the one in which that is made.
fn directory_of<'a>(file: &'a Path, made: &Path, exists: impl Fn(&Path) -> bool) -> &'a Path {
    let parent = file.parent().filter(|it| !it.as_os_str().is_empty());
    match parent {
        Some(own) if own == made && !exists(own) => own.parent().unwrap_or(own),
        Some(own) => own,
        None => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
