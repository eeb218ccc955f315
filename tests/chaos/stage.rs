//! Everything that takes part: three etcd members, an engine, four containers, seven sidekicks, an
//! agent with its HAProxy, clients, a wire between each and each, and those who look.

use crate::agent::Agent;
use crate::clock::Clock;
use crate::excuses::{INTERVAL, TTL};
use crate::logs;
use crate::record::{Claim, Event, Life, Log, Record, SERVICES, Turn, What};
use crate::schedule::{AGENT, CONTAINERS, EVERY, MEMBERS, SIDEKICKS};
use crate::spans::{Ms, Span};
use crate::tls::Tls;
use crate::watchers::{Seen, client, history, leaders, serving, stalls};
use etcd_client::{Permission, PermissionType};
use sidekick_harness::{
    Container, Engine, EtcdCluster, Login, NameServer, Proxy, Sidekick, free_port,
};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Who announces which container where. 0 and 1 are rivals for one key with two containers, 2 and 3
/// with one; 4 and 5 are alone; 6 goes by the labels of the first container and the last.
pub const CLAIMS: [(usize, usize, &str); 8] = [
    (0, 0, "/services/redis/redis@1"),
    (1, 1, "/services/redis/redis@1"),
    (2, 2, "/services/redis/redis@2"),
    (3, 2, "/services/redis/redis@2"),
    (4, 1, "/services/redis/redis@3"),
    (5, 3, "/services/alone/alone@1"),
    (EVERY, 0, "/services/every/every@0"),
    (EVERY, 3, "/services/every/every@3"),
];

/// Those that run in the engine's pid namespace and hold pidfds, of the claimants of each container one; the others see the
/// engine's processes from a namespace above, where its pids are other processes' or nobody's, and go by its events.
pub const BY_KERNEL: [usize; 3] = [1, 2, EVERY];

/// What a sidekick says of a container on whose first process it can hold no pidfd.
const NO_PIDFD: &str = "no pidfd: ";

/// The word by which this program is asked to be no run, but the listener of a wire.
pub const LISTEN: &str = "--listen";

/// In seconds: between two renewals of an idle sidekick, and far below what a watch lasts.
const TOKEN_LIFE: u32 = 1;

/// See the module's text.
pub struct Stage<'e> {
    pub engine: &'e Engine,
    pub cluster: EtcdCluster,
    pub containers: Vec<Container<'e>>,
    /// Nothing where one was killed.
    pub sidekicks: Vec<Option<Sidekick>>,
    /// By client, and then by member.
    pub etcd_wires: Vec<Vec<Proxy>>,
    pub docker_wires: Vec<Proxy>,
    /// Before the sidekicks' wires to etcd.
    pub tls: Tls,
    /// What each sidekick dials, by client.
    endpoints: Vec<String>,
    /// By client.
    pub clocks: Vec<Clock>,
    /// By sidekick: who tells it where the members are.
    pub names: Vec<NameServer>,
    /// The login's, as it is now.
    pub password: String,
    pub agent: Agent,
    pub seen: Seen,
    pub record: Record,
    /// etcd's own ids of the members.
    pub member_ids: Vec<u64>,
    /// The logs of sidekicks that are gone, and how many processes there were; the agent's is in a
    /// file of its own.
    pub logs: Vec<Log>,
    _published: Vec<Proxy>,
    _watchers: JoinSet<()>,
    directory: TempDir,
}

impl<'e> Stage<'e> {
    /// Sets everything up; all of it goes when the stage goes.
    pub async fn set(engine: &'e Engine) -> Stage<'e> {
        let cluster = EtcdCluster::start_with_wires_and_login(MEMBERS, TOKEN_LIFE).await;
        let control = Permission::new(PermissionType::Readwrite, "/sidekick/services/");
        let mut auth = cluster.members[0].client().auth_client();
        let granted = auth.role_grant_permission(Login::ROLE, control.with_prefix());
        granted.await.expect("root may grant");
        let mut member_ids = Vec::new();
        for member in &cluster.members {
            let status = member.client().maintenance_client().status().await;
            let status = status.expect("a member tells its status");
            member_ids.push(status.header().expect("a header").member_id());
        }
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let password = directory.path().join("password");
        std::fs::write(&password, Login::PASSWORD).expect("no password can be written");
        let ports: Vec<u16> = (0..CONTAINERS).map(|_| free_port()).collect();
        let mut published = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let socket = directory.path().join(number.to_string()).join("redis.sock");
            published.push(Proxy::published(*port, socket));
        }
        let (mut etcd_wires, mut docker_wires) = (Vec::new(), Vec::new());
        for number in 0..=AGENT {
            let mut wires = Vec::new();
            for member in &cluster.members {
                wires.push(Proxy::before(member.url()).await);
            }
            etcd_wires.push(wires);
            if number < SIDEKICKS {
                let listener = listener(engine, number);
                docker_wires.push(Proxy::before_engine_as(&engine.host(), &listener).await);
            }
        }
        let (mut tls, mut endpoints) = (Tls::new(), Vec::new());
        for wires in &etcd_wires[..SIDEKICKS] {
            let mut urls = Vec::new();
            for wire in wires {
                urls.push(tls.before(&wire.url()).await);
            }
            endpoints.push(urls.join(","));
        }
        let clocks: Vec<Clock> = (0..=AGENT).map(|_| Clock::new()).collect();
        let listeners = SERVICES.map(|service| (service, free_port()));
        let members = urls(&etcd_wires[AGENT]);
        let agent = Agent::start(
            &listeners,
            &members,
            &password,
            clocks[AGENT].surroundings(),
        );

        let seen = Seen::new();
        let mut watchers = JoinSet::new();
        for member in &cluster.members {
            watchers.spawn(history(seen.clone(), member.client().clone()));
        }
        let members = cluster.members.iter().map(|it| it.client().clone());
        watchers.spawn(leaders(seen.clone(), members.collect()));
        watchers.spawn(stalls(seen.clone()));
        watchers.spawn(serving(seen.clone(), agent.socket(), agent.file()));
        for (service, port) in listeners.into_iter().chain(listeners) {
            watchers.spawn(client(seen.clone(), service, port));
        }
        let claims = CLAIMS.map(|(client, container, key)| Claim {
            client,
            container,
            key: key.to_owned(),
        });
        let mut stage = Stage {
            engine,
            cluster,
            containers: Vec::new(),
            sidekicks: Vec::new(),
            etcd_wires,
            docker_wires,
            tls,
            endpoints,
            clocks,
            names: (0..SIDEKICKS).map(|_| NameServer::start()).collect(),
            password: Login::PASSWORD.to_owned(),
            agent,
            seen,
            record: Record {
                sidekicks: SIDEKICKS,
                by_kernel: BY_KERNEL.into(),
                password: Login::PASSWORD.to_owned(),
                claims: claims.into(),
                ports,
                ..Record::default()
            },
            member_ids,
            logs: (0..=AGENT).map(log_of).collect(),
            _published: published,
            _watchers: watchers,
            directory,
        };
        for number in 0..CONTAINERS {
            let container = stage.run_container(number).await;
            stage.containers.push(container);
            stage.turned(number, 0).await;
        }
        for number in 0..SIDEKICKS {
            let unborn = stage.seen.trouble(What::Client(number), 0);
            let sidekick = stage.sidekick(number);
            stage.sidekicks.push(Some(sidekick));
            stage.seen.over(unborn);
        }
        let haproxy_starts = stage.seen.trouble(What::Haproxy, 0);
        stage.seen.over(haproxy_starts);
        stage
    }

    /// Creates and starts a container. Redis listens on a socket as well, for clients are in
    /// another network than the engine.
    pub async fn run_container(&self, number: usize) -> Container<'e> {
        let directory = self.directory.path().join(number.to_string());
        std::fs::create_dir_all(&directory).expect("no directory can be made");
        let mut run = self.engine.container(&name(number));
        let labelled = |claim: &(usize, usize, _)| (claim.0, claim.1) == (EVERY, number);
        if CLAIMS.iter().any(labelled) {
            run = run.label("sidekick.service=every");
            run = run.label(&format!("sidekick.instance=every@{number}"));
        }
        run.publish(&format!("{}:6379", self.record.ports[number]))
            .option(&format!("--volume={}:/run/redis", directory.display()))
            .redis_arguments(&["--save", "", "--protected-mode", "no"])
            .redis_arguments(&["--unixsocket", "/run/redis/redis.sock"])
            .redis_arguments(&["--pidfile", &format!("/c{number}.pid")])
            .run()
            .await
    }

    /// Starts a sidekick.
    pub fn sidekick(&mut self, number: usize) -> Sidekick {
        self.logs[number].starts += 1;
        let claims = CLAIMS.iter().find(|(client, ..)| *client == number);
        let (_, container, key) = claims.expect("each announces something");
        let announce = if number == EVERY {
            Sidekick::announce_all()
        } else {
            Sidekick::announce(&name(*container), key)
        };
        let host = hostname::get().expect("this machine has a name");
        let tls = self.tls.options().into_iter();
        let announce = tls.fold(announce, |it, (name, file)| it.file(name, &file));
        let clock = self.clocks[number].surroundings();
        let names = self.names[number].surroundings();
        let (announce, place) = match BY_KERNEL.contains(&number) {
            // What the log must say of pidfds it says at this level.
            true => (
                announce.option("--log-level", "debug"),
                self.engine.beside(),
            ),
            false => (announce, Vec::new()),
        };
        let surroundings = [place, clock, names].concat();
        announce
            .option("--etcd-endpoints", &self.endpoints[number])
            .option("--etcd-user", Login::NAME)
            .file("--etcd-password-file", &self.password_file())
            .option("--docker-host", &self.docker_wires[number].url())
            .host(&host.to_string_lossy())
            .option("--drain", "2s")
            // What the log has to say of pidfds it says at this level.
            .option("--log-level", "debug")
            .times((TTL / 1000) as u32, (INTERVAL / 1000) as u32)
            .within(&surroundings)
            .spawn()
    }

    fn password_file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    /// As a tool that rotates it does: a new file in the place of the old one.
    pub fn write_password(&self) {
        let draft = self.directory.path().join("password.new");
        let written = std::fs::write(&draft, &self.password);
        let renamed = written.and_then(|()| std::fs::rename(&draft, self.password_file()));
        renamed.expect("no password can be written");
    }

    /// Or nobody would notice that the run has lost one of the two.
    pub fn everybody_goes_by_its_own_source(&self) {
        for (number, sidekick) in self.sidekicks.iter().enumerate() {
            let sidekick = sidekick.as_ref().expect("nothing has happened to it yet");
            if BY_KERNEL.contains(&number) {
                let own = CLAIMS.iter().filter(|(client, ..)| *client == number);
                sidekick.logged_times(logs::BY_KERNEL, own.count());
                sidekick.never_logs(NO_PIDFD);
            } else {
                sidekick.never_logs(logs::BY_KERNEL);
                let refused = sidekick.times_logged(NO_PIDFD);
                assert!(refused > 0, "sidekick {number}: {:#?}", sidekick.log());
            }
        }
    }

    /// Notes what a container is now, after a command that began at `from` and ended no process.
    pub async fn turned(&mut self, container: usize, from: Ms) {
        let up = self.life(container).await;
        self.turn(container, from, up, false);
    }

    /// The same after a command that ended the process that there was.
    pub async fn died(&mut self, container: usize, from: Ms) {
        let up = self.life(container).await;
        self.turn(container, from, up, true);
    }

    /// Notes that.
    pub fn turn(&mut self, container: usize, from: Ms, up: Option<Life>, died: bool) {
        let span = Span::new(from, self.seen.now());
        let turn = Turn {
            container,
            span,
            up,
            died,
        };
        self.record.turns.push(turn);
    }

    /// What a container is, as it is to be announced.
    pub async fn life(&self, container: usize) -> Option<Life> {
        let inspected = self.containers[container].inspect().await;
        let state = &inspected["State"];
        let up = state["Running"] == true && state["Paused"] == false;
        let named = inspected["Name"] == format!("/{}", name(container));
        let id = self.containers[container].short_id();
        (up && named).then(|| Life::new(id, state["StartedAt"].as_str().unwrap_or_default()))
    }

    /// Everything that was seen and done.
    pub fn record(&self) -> Record {
        self.seen.with(|seen| Record {
            events: seen
                .events
                .values()
                .map(|it| self.by_the_true_clock(it))
                .collect(),
            troubles: seen.troubles.clone(),
            samples: seen.samples.clone(),
            dials: seen.dials.clone(),
            cuts: seen.cuts.clone(),
            refused: seen.refused.clone(),
            logs: self.everybodys_logs(),
            end: self.seen.now(),
            ..self.record.clone()
        })
    }

    /// As the engine's own clock has it.
    fn by_the_true_clock(&self, event: &Event) -> Event {
        let mut event = event.clone();
        if let Some(put) = &mut event.put
            && let Some(told) = Life::of(&put.value)
        {
            let mut lives = self.record.turns.iter().filter_map(|turn| turn.up.as_ref());
            if let Some(life) = lives.find(|life| is_shifted(life, &told)) {
                let second =
                    |life: &Life| life.since.split('.').next().unwrap_or_default().to_owned();
                put.value = put.value.replace(&second(&told), &second(life));
            }
        }
        event
    }

    /// What everybody has said so far.
    pub fn everybodys_logs(&self) -> Vec<Log> {
        let mut logs = self.logs.clone();
        for (log, sidekick) in logs.iter_mut().zip(&self.sidekicks) {
            log.lines.extend(sidekick.iter().flat_map(Sidekick::log));
        }
        logs[AGENT].lines = self.agent.log().lines().map(str::to_owned).collect();
        logs
    }

    /// The logs of everybody, where the run went wrong.
    pub fn write_logs(&self, directory: &Path) {
        for log in self.everybodys_logs() {
            let file = directory.join(format!("{}.log", log.name));
            let _ = std::fs::write(file, log.lines.join("\n"));
        }
        let _ = std::fs::write(directory.join("record"), format!("{:#?}", self.record()));
    }
}

/// What makes SO_PEERCRED of a sidekick's wire to the engine name a process of the engine's pid namespace, where it is to.
fn listener(engine: &Engine, sidekick: usize) -> Vec<String> {
    if !BY_KERNEL.contains(&sidekick) {
        return Vec::new();
    }
    let own = std::env::current_exe().expect("this program has a path");
    let own = own.display().to_string();
    [engine.beside(), vec![own, LISTEN.to_owned()]].concat()
}

fn log_of(client: usize) -> Log {
    let name = match client {
        AGENT => "agent".to_owned(),
        number => format!("sidekick{number}"),
    };
    Log {
        name,
        starts: usize::from(client == AGENT),
        lines: Vec::new(),
    }
}

/// A container's name.
pub fn name(container: usize) -> String {
    format!("c{container}")
}

fn urls(wires: &[Proxy]) -> String {
    let urls: Vec<String> = wires.iter().map(Proxy::url).collect();
    urls.join(",")
}

/// Whether both are one life, told by clocks that differ by whole seconds.
fn is_shifted(one: &Life, other: &Life) -> bool {
    let fraction = |life: &Life| life.since.split_once('.').map(|(_, it)| it.to_owned());
    one.id == other.id && fraction(one) == fraction(other)
}
