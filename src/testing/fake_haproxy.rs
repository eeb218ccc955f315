//! A fake HAProxy: its servers with as much of its rules as the commands depend on, and failures of every
//! kind.

use crate::agent::haproxy::api::{HaproxyApi, HaproxyEvent, ProxyError, ReloadOutcome, Worker};
use crate::agent::haproxy::file_content::FileContent;
use crate::agent::haproxy::parse::{fingerprint_of, parse};
use crate::agent::haproxy::render::{CHECK, proxy_name};
use crate::agent::haproxy::runtime::{ServerAction, ServerCommand, diff};
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::haproxy::server_state::{
    CHECKED, DRAIN, RunningServers, ServerState, parse_state,
};
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::Model;
use crate::testing::config_grammar::tokenize_strictly;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

pub(crate) const HEADER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";

/// The differences of all listeners.
pub(crate) fn diff_all(model: &Model, running: &RunningServers) -> Vec<ServerCommand> {
    diff(model.listeners.iter(), running)
}

/// A HAProxy's servers, with as much of its rules as the commands depend on.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeServers(pub(crate) RunningServers);

impl FakeServers {
    /// One line at the socket.
    pub(crate) fn command(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<_> = line.split(' ').collect();
        let target = match words.as_slice() {
            ["add" | "del" | "set", "server", target, ..] => target,
            ["enable", "health" | "server", target] => target,
            ["shutdown", "sessions", "server", target] => target,
            ["wait", "100ms", "srv-removable", target] => target,
            _ => return Err(format!("Unknown command: {line}")),
        };
        let (backend, name) = target.split_once('/').ok_or("no target")?;
        let servers = self.0.get_mut(backend).ok_or("No such backend.")?;
        let address = |ip: &str, port: &str| {
            Some(SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap()))
        };
        if let ["add", _, _, at, rest @ ..] = words.as_slice() {
            if servers.contains_key(name) {
                return Err("Already exists a server with the same name in backend.".to_owned());
            }
            let weight = match rest.join(" ").strip_prefix(CHECK) {
                Some("") => 1,
                Some(" weight 0") => 0,
                _ => return Err("unknown keyword".to_owned()),
            };
            servers.insert(
                name.to_owned(),
                ServerState {
                    address: at.parse().ok(),
                    admin: 1,
                    weight,
                    check: 2,
                    down: false,
                    since: 0,
                },
            );
            return Ok(());
        }
        let live = servers.get_mut(name).ok_or("No such server.")?;
        match words.as_slice() {
            ["del", ..] if live.admin & 1 == 0 => {
                return Err("Only servers in maintenance mode can be deleted.".to_owned());
            }
            ["del", ..] => drop(servers.remove(name)),
            ["enable", "health", _] => live.check |= CHECKED,
            ["enable", "server", _] | ["set", _, _, "state", "ready"] => live.admin = 0,
            ["set", _, _, "state", "drain"] => live.admin |= DRAIN,
            ["set", _, _, "state", "maint"] => live.admin = 1,
            ["set", _, _, "weight", weight] => live.weight = weight.parse().unwrap(),
            ["set", _, _, "addr", ip, "port", port] => live.address = address(ip, port),
            ["set", _, _, "health", "up"] | ["shutdown", ..] | ["wait", ..] => {}
            _ => return Err(format!("Unknown command: {line}")),
        }
        Ok(())
    }

    /// As HAProxy boots from the model's file.
    pub(crate) fn boot(model: &Model) -> Self {
        let listeners = model.listeners.iter().map(|(service, listener)| {
            let servers = listener.servers.iter().map(|(name, server)| {
                let weight = u32::from(!server.draining);
                (
                    proxy_name(name),
                    ServerState {
                        address: Some(server.address),
                        admin: 0,
                        weight,
                        check: 6,
                        down: false,
                        since: 0,
                    },
                )
            });
            (proxy_name(service), servers.collect())
        });
        Self(listeners.collect())
    }

    /// `show servers state`.
    pub(crate) fn state(&self) -> String {
        let mut text = HEADER.to_owned();
        for (backend, servers) in &self.0 {
            for (name, live) in servers {
                let at = live.address.unwrap();
                let (admin, weight, check) = (live.admin, live.weight, live.check);
                let (state, since) = (if live.down { 0 } else { 2 }, live.since);
                text.push_str(&format!("2 {backend} 1 {name} {} {state} {admin} {weight} 1 {since} 1 0 3 {check} 0 0 0 - {} - 0 0 - - 0\n", at.ip(), at.port()));
            }
        }
        text + "\n"
    }
}

/// Every future of the fake is ready at once.
pub(crate) fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the fake never waits"),
    }
}

/// What the worker listens on, by service; empty if there is none; and what led to it.
#[derive(Debug)]
pub(crate) struct ListeningState {
    pub(crate) binds: BTreeMap<String, Bind>,
    pub(crate) reloads: u32,
    /// Workers that were started, by a reload or by another.
    pub(crate) starts: u32,
}

#[derive(Debug, Default)]
pub(crate) struct FakeWorld {
    pub(crate) rng: fastrand::Rng,
    /// Of 100 calls so many fail.
    pub(crate) failing: u8,
    pub(crate) file: String,
    /// Process id, and the fingerprint of what it was started from.
    pub(crate) worker: Option<(u32, String)>,
    pub(crate) servers: FakeServers,
    /// What the worker that was started last listens on.
    pub(crate) binds: BTreeMap<String, Bind>,
    pub(crate) pids: u32,
    pub(crate) reloads: u32,
    pub(crate) failed_reloads: u32,
    /// Ports that another process uses.
    pub(crate) busy: BTreeSet<u16>,
    /// Whether `bind_obstacle` sees them.
    pub(crate) sees: bool,
    /// Whether a failed reload says which listener failed.
    pub(crate) talks: bool,
    pub(crate) removed: Vec<String>,
    /// The disk is full: no file can be written.
    pub(crate) full: bool,
    /// Commands are taken without an error, and do nothing.
    pub(crate) deaf: bool,
    /// How often the servers were listed.
    pub(crate) lists: u32,
    /// No reload succeeds, whatever the file says.
    pub(crate) stuck: bool,
    /// Whether clients hold a connection to each server when a reload comes.
    pub(crate) held: bool,
    /// Workers of before a reload, and the servers to which they have connections.
    pub(crate) older: BTreeMap<u32, BTreeSet<String>>,
    pub(crate) saving: Option<FileContent>,
    /// Batches of commands that were cut off half-way, with or without an error.
    pub(crate) torn: u32,
}

impl FakeWorld {
    fn fails(&mut self) -> bool {
        self.rng.u8(0..100) < self.failing
    }

    /// Another process changes a server.
    pub(crate) fn meddle(&mut self) {
        let servers = self.servers.0.values_mut().flatten();
        let servers: Vec<_> = servers.collect();
        let count = servers.len();
        if count > 0 {
            let which = self.rng.usize(0..count);
            if let Some((_, live)) = servers.into_iter().nth(which) {
                live.admin = 1;
            }
        }
    }

    /// A server's health check changes. Returns which server, and whether it is down.
    pub(crate) fn check_turns(&mut self) -> Option<(String, bool)> {
        let targets: Vec<_> = self.targets().into_iter().collect();
        let target = targets.get(self.rng.usize(0..targets.len().max(1)))?;
        let (backend, name) = target.split_once('/')?;
        let live = self.servers.0.get_mut(backend)?.get_mut(name)?;
        live.down ^= true;
        Some((target.clone(), live.down))
    }

    pub(crate) fn targets(&self) -> BTreeSet<String> {
        let backends = self.servers.0.iter();
        let targets = backends.flat_map(|(backend, servers)| {
            servers.keys().map(move |name| format!("{backend}/{name}"))
        });
        targets.collect()
    }

    pub(crate) fn listening(&self) -> ListeningState {
        let binds = self.worker.as_ref().map(|_| self.binds.clone());
        ListeningState {
            binds: binds.unwrap_or_default(),
            reloads: self.reloads,
            starts: self.pids,
        }
    }

    /// Starts from the file.
    pub(crate) fn boot(&mut self) -> Result<(), String> {
        let listeners = parse(&self.file).ok_or("no file of ours")?;
        let model = Model {
            stats: None,
            listeners,
        };
        let blocked = model
            .binds()
            .find(|(_, bind)| self.busy.contains(&bind.port()));
        if let Some((name, bind)) = blocked {
            self.failed_reloads += 1;
            return Err(format!(
                "[ALERT] Binding [f:1] for proxy {name}: cannot bind socket (Address already in use) for [{bind}]"
            ));
        }
        self.pids += 1;
        self.older.clear();
        self.worker = Some((self.pids, fingerprint_of(&self.file).unwrap().to_owned()));
        self.servers = FakeServers::boot(&model);
        let binds = model.binds();
        self.binds = binds.map(|(name, bind)| (name.to_owned(), bind)).collect();
        Ok(())
    }
}

pub(crate) struct FakeHaproxy(pub(crate) RefCell<FakeWorld>);

impl HaproxyApi for FakeHaproxy {
    async fn write(&mut self, content: &FileContent) -> Result<(), ProxyError> {
        let mut world = self.0.borrow_mut();
        world.saving = None;
        if world.full || world.fails() {
            return Err(ProxyError::File("no space left".to_owned()));
        }
        world.file = content.text().into_owned();
        tokenize_strictly(&world.file).unwrap();
        Ok(())
    }

    fn save(&mut self, content: FileContent) {
        self.0.get_mut().saving = Some(content);
    }

    async fn next_event(&mut self) -> HaproxyEvent {
        let content = self
            .0
            .get_mut()
            .saving
            .take()
            .expect("a save is awaited that was never begun");
        let result = self.write(&content).await;
        HaproxyEvent::FileSaved(content, result)
    }

    async fn worker(&self) -> Result<Worker, ProxyError> {
        let mut world = self.0.borrow_mut();
        if world.fails() {
            return Err(ProxyError::Unreachable("no answer".to_owned()));
        }
        let (pid, fingerprint) = world
            .worker
            .clone()
            .ok_or_else(|| ProxyError::Unreachable("no worker".to_owned()))?;
        Ok(Worker {
            pid,
            fingerprint: Some(fingerprint),
            can_wait: false,
            older: world.older.keys().copied().collect(),
        })
    }

    async fn state(
        &self,
        _: &Worker,
        backends: Option<&BTreeSet<String>>,
    ) -> Result<RunningServers, ProxyError> {
        let mut world = self.0.borrow_mut();
        world.lists += 1;
        let text = world.servers.state();
        let cut = if world.fails() {
            world.rng.usize(0..text.len())
        } else {
            text.len()
        };
        let mut running = parse_state(&text[..cut])?;
        running.retain(|name, _| backends.is_none_or(|wanted| wanted.contains(name)));
        Ok(running)
    }

    async fn run_commands(
        &self,
        _: &Worker,
        commands: &[ServerCommand],
    ) -> Result<String, ProxyError> {
        let mut world = self.0.borrow_mut();
        for (done, command) in commands.iter().enumerate() {
            if command.action == ServerAction::Remove {
                world.removed.push(command.target.clone());
            }
            for line in command.lines(&ServerDefaults::default(), false) {
                if world.fails() {
                    world.torn += u32::from(done > 0);
                    // Or HAProxy dies, and another one is started.
                    if world.rng.bool() {
                        let _ = world.boot();
                    }
                    return Err(ProxyError::Unreachable("cut off".to_owned()));
                }
                // Some lines are lost without an error.
                if !world.fails() && !world.deaf {
                    let _ = world.servers.command(&line);
                }
            }
        }
        // All commands ran, and the answer is lost.
        if world.fails() {
            return Err(ProxyError::Unreachable("no answer".to_owned()));
        }
        Ok(String::new())
    }

    async fn end_connections(
        &self,
        pids: &[u32],
        is_removed: impl Fn(&str, &str) -> bool,
    ) -> Result<(), ProxyError> {
        let mut world = self.0.borrow_mut();
        for pid in pids {
            if world.fails() {
                return Err(ProxyError::Unreachable("no answer".to_owned()));
            }
            let Some(all) = world.older.remove(pid) else {
                continue;
            };
            let is_removed = |target: &String| {
                let (backend, server) = target.split_once('/').unwrap();
                is_removed(backend, server)
            };
            let (ended, left): (_, BTreeSet<_>) = all.into_iter().partition(is_removed);
            let ended: BTreeSet<String> = ended;
            world.removed.extend(ended);
            // One without connections ends.
            if !left.is_empty() {
                world.older.insert(*pid, left);
            }
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<ReloadOutcome, ProxyError> {
        // Perhaps it was just slow to answer.
        if self.0.borrow().worker.is_some() {
            return Err(ProxyError::Unreachable("busy".to_owned()));
        }
        self.reload().await
    }

    async fn reload(&mut self) -> Result<ReloadOutcome, ProxyError> {
        let mut world = self.0.borrow_mut();
        world.reloads += 1;
        if world.fails() {
            return Err(ProxyError::Unreachable("no answer to reload".to_owned()));
        }
        if world.stuck && world.worker.is_some() {
            world.failed_reloads += 1;
            return Ok(ReloadOutcome::Failed("Cannot raise FD limit".to_owned()));
        }
        let talks = world.talks;
        let mut older = world.older.clone();
        if let Some((pid, _)) = world.worker.clone().filter(|_| world.held) {
            older.insert(pid, world.targets());
        }
        older.retain(|_, targets| !targets.is_empty());
        Ok(match world.boot() {
            Ok(()) => {
                world.older = older;
                ReloadOutcome::Done
            }
            Err(log) => ReloadOutcome::Failed(if talks { log } else { String::new() }),
        })
    }

    async fn bind_obstacle(&self, bind: Bind) -> Option<String> {
        let world = self.0.borrow();
        (world.sees && world.busy.contains(&bind.port())).then(|| "in use".to_owned())
    }
}
