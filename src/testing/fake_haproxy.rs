//! A fake HAProxy: its servers with as much of its rules as the commands depend on, and failures of every
//! kind.

pub(crate) use super::fake_servers::FakeServers;
use super::fake_sessions::FakeSessions;
use crate::agent::haproxy::api::{HaproxyApi, HaproxyEvent, ProxyError, ReloadOutcome, Worker};
use crate::agent::haproxy::file_content::FileContent;
use crate::agent::haproxy::last_speaker::LastSpeaker;
use crate::agent::haproxy::parse::{fingerprint_of, parse};
use crate::agent::haproxy::runtime::{ServerAction, ServerCommand, diff};
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::haproxy::server_state::{RunningServers, parse_state};
use crate::agent::haproxy::session_list::{Session, WorkerSessions};
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::Model;
use crate::testing::config_grammar::tokenize_strictly;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

pub(crate) const HEADER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";

/// The differences of all listeners.
pub(crate) fn diff_all(model: &Model, running: &RunningServers) -> Vec<ServerCommand> {
    diff(model.listeners.iter(), running)
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
    pub(crate) sessions: FakeSessions,
    pub(crate) saving: Option<FileContent>,
    /// Batches of commands that were cut off half-way, with or without an error.
    pub(crate) torn: u32,
}

impl FakeWorld {
    fn fails(&mut self) -> bool {
        self.rng.u8(0..100) < self.failing
    }

    /// Runs one line at the socket.
    fn run(&mut self, line: &str) {
        let _ = self.servers.command(line);
        let target = line.strip_prefix("shutdown sessions server ");
        if let Some((target, (pid, _))) = target.zip(self.worker.as_ref()) {
            self.sessions.end(*pid, |it| {
                let server = it.server.as_deref().unwrap_or_default();
                target == format!("{}/{server}", it.backend)
            });
        }
    }

    fn older_workers(&self, current: u32) -> Vec<u32> {
        let workers = self.older.keys().copied().chain(self.sessions.workers());
        let older: BTreeSet<_> = workers.filter(|pid| *pid != current).collect();
        older.into_iter().collect()
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
        self.sessions.clear();
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
            older: world.older_workers(pid),
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
                    world.run(&line);
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
            world.sessions.end(*pid, |it| {
                let server = it.server.as_deref().unwrap_or_default();
                is_removed(&it.backend, server)
            });
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

    async fn sessions(&self, pid: u32) -> Result<WorkerSessions, ProxyError> {
        let mut world = self.0.borrow_mut();
        if world.fails() {
            return Err(ProxyError::Unreachable("no answer".to_owned()));
        }
        Ok(world.sessions.of(pid))
    }

    fn last_speaker(&self, session: &Session) -> LastSpeaker {
        FakeSessions::last_speaker(session)
    }

    async fn end_sessions(&self, pid: u32, sessions: &[Session]) -> Result<(), ProxyError> {
        let mut world = self.0.borrow_mut();
        if world.fails() {
            return Err(ProxyError::Unreachable("no answer".to_owned()));
        }
        world.sessions.end(pid, |it| sessions.contains(it));
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
        let sessions = std::mem::take(&mut world.sessions);
        let booted = world.boot();
        world.sessions = sessions;
        Ok(match booted {
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
