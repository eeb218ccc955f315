//! Does what the schedule says, and undoes it. What it did is noted as trouble, when it did it.

use crate::agent::Agent;
use crate::record::What;
use crate::schedule::{AGENT, CONTAINERS, EVERY, Fault, MEMBERS, SIDEKICKS};
use crate::spans::{Ms, Span};
use crate::stage::{Stage, name};
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, AuthClient, Client, Error, RoleRevokePermissionOptions,
};
use nix::sys::signal::Signal;
use sidekick_harness::{Login, eventually, secs};
use std::future::Future;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A pause counts once it has lasted for so long.
const PAUSE_COUNTS_AFTER: Ms = 1000;

/// Of one container, one right after the other.
const LIVES: usize = 3;

/// A fault that was begun: what it takes to undo it.
#[derive(Debug, Default)]
pub struct Begun {
    /// The numbers of its troubles.
    troubles: Vec<usize>,
    /// The member that it hit.
    member: Option<usize>,
    /// Processes that it froze.
    pids: Vec<u32>,
}

impl Begun {
    /// The number of one of its troubles.
    fn note(&mut self, trouble: usize) {
        self.troubles.push(trouble);
    }
}

impl Stage<'_> {
    /// Begins a fault; `None` where it can't be done now.
    pub async fn begin(&mut self, fault: Fault) -> Option<Begun> {
        use Fault::*;
        let from = self.seen.now();
        let mut begun = Begun::default();
        match fault {
            SidekickKilled(s) | SidekickFrozen(s) | SidekickStopped(s) | SidekickHandsOver(s) => {
                let what = match fault {
                    SidekickHandsOver(_) => What::HandOver(s),
                    _ => What::Client(s),
                };
                begun.note(self.seen.trouble(what, from));
                let sidekick = self.sidekicks[s].as_mut()?;
                // Before its first word it has no handlers.
                let speaks = async || !sidekick.log().is_empty();
                eventually(secs(10), "it has begun", speaks).await;
                match fault {
                    SidekickKilled(_) => sidekick.kill9().await,
                    SidekickFrozen(_) => sidekick.freeze(),
                    _ => {
                        // As systemd does it: both at once.
                        if matches!(fault, SidekickHandsOver(_)) {
                            sidekick.hand_over();
                        }
                        sidekick.term();
                        // An etcd that doesn't confirm the drain is waited for, and so is one that doesn't answer the end.
                        let status = sidekick.wait_exit(secs(12)).await;
                        assert_eq!(status.code(), Some(0), "a sidekick was asked to stop");
                    }
                }
                if !matches!(fault, SidekickFrozen(_)) {
                    let gone = self.sidekicks[s].take().expect("it was there");
                    self.logs[s].lines.extend(gone.log());
                }
            }
            // No trouble: nothing but the log may show it.
            LogUnread(s) => self.sidekicks[s].as_ref()?.stop_reading_log(),
            DnsHangs(s) => {
                for member in 0..MEMBERS {
                    begun.note(self.seen.trouble(What::Wire(s, member), from));
                }
                self.names[s].hang(true);
            }
            AgentKilled | AgentFrozen => {
                begun.note(self.seen.trouble(What::Client(AGENT), from));
                let frozen = fault == AgentFrozen;
                let signal = if frozen {
                    Signal::SIGSTOP
                } else {
                    Signal::SIGKILL
                };
                self.agent.signal(signal);
            }
            MemberKilled(_) | MemberFrozen(_) | MemberCutOff(..) | LeaderKilled | LeaderFrozen
            | LeaderCutOff(_) => {
                let member = match fault {
                    MemberKilled(member) | MemberFrozen(member) | MemberCutOff(member, _) => member,
                    _ => self.leader().await?,
                };
                if self.is_troubled(What::Member(member)) {
                    return None;
                }
                begun.member = Some(member);
                begun.note(self.seen.trouble(What::Member(member), from));
                let frozen = matches!(fault, MemberFrozen(_) | LeaderFrozen);
                if frozen && self.leader().await == Some(member) {
                    begun.note(self.seen.trouble(What::FrozenLeader, from));
                }
                match fault {
                    MemberKilled(_) | LeaderKilled => self.cluster.members[member].kill9().await,
                    MemberCutOff(_, wire) | LeaderCutOff(wire) => self.peers(member, wire),
                    _ => self.cluster.members[member].freeze(),
                }
            }
            Wire(client, member, wire) => {
                begun.note(self.seen.trouble(What::Wire(client, member), from));
                self.etcd_wires[client][member].set(wire);
            }
            Wires(client, wire) => {
                for member in 0..MEMBERS {
                    begun.note(self.seen.trouble(What::Wire(client, member), from));
                    self.etcd_wires[client][member].set(wire);
                }
            }
            DockerWire(client, wire) => {
                // A strange event excuses nothing.
                if wire != sidekick_harness::Wire::StrangeEvent {
                    begun.note(self.seen.trouble(What::Docker(client), from));
                }
                self.docker_wires[client].set(wire);
            }
            EngineRestarted | EngineKilled | EngineFrozen => {
                begun.note(self.seen.trouble(What::Engine, from));
                match fault {
                    EngineFrozen => self.engine.freeze(),
                    EngineKilled => self.engine.kill9().await,
                    _ => self.engine.stop().await,
                }
                if fault != EngineFrozen {
                    // An engine that is killed ends its containers when it comes back.
                    let died = fault == EngineRestarted;
                    (0..CONTAINERS).for_each(|c| self.turn(c, from, None, died));
                }
            }
            ContainerKilled(c) => {
                self.containers[c].kill().await;
                self.died(c, from).await;
            }
            ContainerStopped(c) => {
                self.containers[c].stop().await;
                self.died(c, from).await;
            }
            ContainerKilledUnseen(c) => {
                let pid = self.containers[c].pid().await;
                begun.note(self.seen.trouble(What::Engine, from));
                self.engine.freeze();
                self.engine.kill_process(pid);
                self.turn(c, from, None, true);
            }
            ContainerFlickers(c) => {
                for _ in 0..LIVES {
                    let from = self.seen.now();
                    self.containers[c].kill().await;
                    self.died(c, from).await;
                    let from = self.seen.now();
                    self.containers[c].start().await;
                    self.turned(c, from).await;
                }
            }
            ContainerPaused(c) => {
                self.containers[c].pause().await;
                self.turned(c, from).await;
                // A pause that short changes nothing (the first promise).
                if let Some(turn) = self.record.turns.last_mut() {
                    turn.span = turn.span.and(PAUSE_COUNTS_AFTER);
                }
            }
            ContainerRenamed(c) => {
                self.containers[c].rename(&format!("away-{c}")).await;
                self.turned(c, from).await;
            }
            ContainerRestarted(c) => {
                self.containers[c].restart().await;
                self.died(c, from).await;
            }
            ContainerRecreated(c) => {
                self.containers[c].remove().await;
                self.turn(c, from, None, true);
                let from = self.seen.now();
                self.containers[c] = self.run_container(c).await;
                self.turned(c, from).await;
            }
            ClockStepped(client, seconds) => self.clocks[client].step(seconds),
            // No trouble: a key is right whatever the clock says.
            EngineClockStepped(seconds) => {
                self.docker_wires[EVERY].step_clock(seconds);
                self.record.engine_clock_stepped = true;
            }
            CertificatesRotated => {
                for wire in (0..SIDEKICKS * MEMBERS).map(|n| What::Wire(n / MEMBERS, n % MEMBERS)) {
                    begun.note(self.seen.trouble(wire, from));
                }
                self.tls.rotate();
            }
            DrainWished(_) | KeyDeleted(_) | KeyOverwritten(..) | Compacted | Defragmented(_)
            | NoSpace | TokensRevoked | PasswordChanged | PasswordRotated | RightsRevoked => {
                self.touch_store(fault, &mut begun).await?;
            }
            HaproxyKilled | HaproxyFrozen => {
                begun.pids = self.agent.haproxy().await;
                begun.note(self.seen.trouble(What::Haproxy, from));
                if fault == HaproxyKilled {
                    Agent::signal_haproxy(begun.pids.get(..1)?, Signal::SIGKILL);
                } else {
                    Agent::signal_haproxy(begun.pids.get(1..)?, Signal::SIGSTOP);
                }
            }
        }
        Some(begun)
    }

    /// What a person with etcdctl does. Not while a member is in trouble: then its outcome would be
    /// unknown.
    async fn touch_store(&mut self, fault: Fault, begun: &mut Begun) -> Option<()> {
        use Fault::*;
        if (0..MEMBERS).any(|member| self.is_troubled(What::Member(member))) {
            return None;
        }
        let client = self.cluster.members[0].client().clone();
        // Not every call renews a token that has died.
        done(client.refresh_token()).await;
        let from = self.seen.now();
        let keys: std::collections::BTreeSet<_> =
            self.record.claims.iter().map(|c| c.key.clone()).collect();
        let key = |k: usize| keys.iter().nth(k).cloned().unwrap_or_default();
        match fault {
            KeyDeleted(k) => {
                let deleted = done(client.kv_client().delete(key(k), None)).await;
                if deleted.deleted() == 0 {
                    return None;
                }
                self.record.by_hand.insert(deleted.header()?.revision());
            }
            DrainWished(k) => {
                let key = key(k);
                done(client.kv_client().put(wish_of(&key), "{}", None)).await;
                let span = Span::new(from, Ms::MAX / 2);
                self.record.wishes.push((key, span));
            }
            KeyOverwritten(k, text) => {
                let put = done(client.kv_client().put(key(k), text, None)).await;
                self.record.by_hand.insert(put.header()?.revision());
            }
            Compacted => {
                let now = done(client.kv_client().get("revision?", None)).await;
                let revision = now.header()?.revision();
                done(client.kv_client().compact(revision, None)).await;
            }
            Defragmented(member) => {
                let trouble = self.seen.trouble(What::Member(member), from);
                let client = self.cluster.members[member].client();
                done(client.refresh_token()).await;
                done(client.maintenance_client().defragment()).await;
                self.seen.over(trouble);
            }
            TokensRevoked | PasswordChanged | RightsRevoked => {
                begun.note(self.seen.trouble(What::Login, from));
                done(self.refuse(fault)).await;
            }
            PasswordRotated => {
                begun.note(self.seen.trouble(What::Login, from));
                let rotated = format!("{}-rotated", Login::PASSWORD);
                let first = self.password == rotated;
                self.password = if first {
                    Login::PASSWORD.to_owned()
                } else {
                    rotated
                };
                let auth = self.cluster.members[0].client().auth_client();
                done(change_password(auth, &self.password)).await;
                self.write_password();
            }
            _ => {
                begun.note(self.seen.trouble(What::NoSpace, from));
                done(alarm(client, AlarmAction::Activate, self.member_ids[0])).await;
            }
        }
        Some(())
    }

    /// Undoes it. A trouble is over when what was down answers again.
    pub async fn end(&mut self, fault: Fault, begun: Begun) {
        use Fault::*;
        let from = self.seen.now();
        match fault {
            SidekickKilled(s) | SidekickStopped(s) | SidekickHandsOver(s) => {
                self.sidekicks[s] = Some(self.sidekick(s));
            }
            SidekickFrozen(s) => {
                if let Some(sidekick) = &self.sidekicks[s] {
                    sidekick.thaw();
                }
            }
            LogUnread(s) => {
                if let Some(sidekick) = &self.sidekicks[s] {
                    sidekick.go_on_reading_log();
                }
            }
            DnsHangs(s) => self.names[s].hang(false),
            AgentKilled => self.agent.start_again(),
            AgentFrozen => self.agent.signal(Signal::SIGCONT),
            MemberKilled(_) | LeaderKilled | MemberFrozen(_) | LeaderFrozen | MemberCutOff(..)
            | LeaderCutOff(_) => {
                let Some(member) = begun.member else { return };
                match fault {
                    MemberKilled(_) | LeaderKilled => self.cluster.members[member].launch(),
                    MemberCutOff(..) | LeaderCutOff(_) => {
                        self.peers(member, sidekick_harness::Wire::Whole)
                    }
                    _ => self.cluster.members[member].thaw(),
                }
                // Another one may still be down, so this waits beside the schedule.
                let client = self.cluster.members[member].client().clone();
                let seen = self.seen.clone();
                tokio::spawn(async move {
                    while !answers(&client).await {
                        sleep(Duration::from_millis(20)).await;
                    }
                    begun.troubles.iter().for_each(|it| seen.over(*it));
                });
                return;
            }
            Wire(client, member, _) => self.etcd_wires[client][member].pass(),
            Wires(client, _) => self.etcd_wires[client].iter().for_each(|wire| wire.pass()),
            DockerWire(client, _) => self.docker_wires[client].pass(),
            EngineFrozen => self.engine.thaw(),
            EngineRestarted | EngineKilled => {
                self.engine.start_again().await;
                for container in 0..CONTAINERS {
                    self.turned(container, from).await;
                }
            }
            ContainerKilled(c) | ContainerStopped(c) => self.containers[c].start().await,
            ContainerKilledUnseen(c) => {
                self.engine.thaw();
                let dead = async || self.containers[c].inspect().await["State"]["Running"] == false;
                eventually(secs(20), "the engine knows it, too", dead).await;
                self.containers[c].start().await;
            }
            ContainerPaused(c) => self.containers[c].unpause().await,
            ContainerRenamed(c) => self.containers[c].rename(&name(c)).await,
            DrainWished(_) => self.take_wish_back().await,
            NoSpace => {
                let id = self.member_ids[0];
                let mut members = self.cluster.members.iter().cycle();
                eventually(secs(30), "the alarm is disarmed", async || {
                    let client = members.next().expect("it goes on for ever").client();
                    let disarm = alarm(client.clone(), AlarmAction::Deactivate, id);
                    matches!(timeout(secs(2), disarm).await, Ok(Ok(())))
                })
                .await;
            }
            ClockStepped(client, _) => self.clocks[client].step(0),
            EngineClockStepped(seconds) => self.docker_wires[EVERY].step_clock(-seconds),
            PasswordChanged | RightsRevoked => {
                let what = "the login is as it was";
                // One of them may be cut off by now.
                let mut members = self.cluster.members.iter().cycle();
                eventually(secs(30), what, async || {
                    let client = members.next().expect("it goes on for ever").client();
                    let restored = restore(client, fault, &self.password);
                    matches!(timeout(secs(2), restored).await, Ok(Ok(())))
                })
                .await;
            }
            HaproxyFrozen => Agent::signal_haproxy(&begun.pids[1..], Signal::SIGCONT),
            _ => {}
        }
        begun.troubles.iter().for_each(|it| self.seen.over(*it));
        match fault {
            ContainerKilled(c)
            | ContainerStopped(c)
            | ContainerKilledUnseen(c)
            | ContainerPaused(c)
            | ContainerRenamed(c) => self.turned(c, from).await,
            EngineRestarted | EngineKilled => {
                for container in 0..CONTAINERS {
                    if self.life(container).await.is_none() {
                        let from = self.seen.now();
                        self.containers[container].start().await;
                        self.turned(container, from).await;
                    }
                }
            }
            _ => {}
        }
    }

    /// The last wish is undone.
    async fn take_wish_back(&mut self) {
        let (key, span) = self.record.wishes.last_mut().expect("there was one");
        // One of them may be cut off by now.
        let mut members = self.cluster.members.iter().cycle();
        eventually(secs(30), "the wish is taken back", async || {
            let client = members.next().expect("it goes on for ever").client();
            let taken_back = async {
                client.refresh_token().await?;
                client.kv_client().delete(wish_of(key), None).await
            };
            matches!(timeout(secs(2), taken_back).await, Ok(Ok(_)))
        })
        .await;
        span.to = self.seen.now();
    }

    /// The wires between a member and the others are so from now on.
    fn peers(&self, member: usize, wire: sidekick_harness::Wire) {
        let peers = self.cluster.peers.as_ref();
        let peers = peers.expect("it was started with wires");
        peers.set(member, self.member_ids[member], wire);
    }

    /// All tokens are void; or the password is void as well, or the user has no rights. To set the same password
    /// again makes etcd forget all tokens.
    async fn refuse(&self, fault: Fault) -> Result<(), Error> {
        let mut auth = self.cluster.members[0].client().auth_client();
        match fault {
            Fault::RightsRevoked => {
                let below = RoleRevokePermissionOptions::new().with_prefix();
                let revoked = auth.role_revoke_permission(Login::ROLE, Login::PREFIX, Some(below));
                revoked.await.map(drop)
            }
            Fault::PasswordChanged => change_password(auth, "another").await,
            _ => change_password(auth, &self.password).await,
        }
    }

    fn is_troubled(&self, what: What) -> bool {
        let now = self.seen.now();
        self.seen.with(|seen| {
            let mut troubles = seen.troubles.iter();
            troubles.any(|trouble| trouble.what == what && trouble.span.to > now)
        })
    }

    /// The member that leads, if one of them answers and says so.
    async fn leader(&self) -> Option<usize> {
        for member in &self.cluster.members {
            let status = timeout(secs(1), member.client().maintenance_client().status()).await;
            if let Ok(Ok(status)) = status
                && let Some(leader) = self.member_ids.iter().position(|id| *id == status.leader())
            {
                return Some(leader);
            }
        }
        None
    }
}

/// Where the wish stands that the key's instance drains.
fn wish_of(key: &str) -> String {
    key.replace("/services/", "/sidekick/services/drain/")
}

async fn restore(client: &Client, fault: Fault, password: &str) -> Result<(), Error> {
    client.refresh_token().await?;
    let mut auth = client.auth_client();
    if fault == Fault::PasswordChanged {
        return change_password(auth, password).await;
    }
    let granted = auth.role_grant_permission(Login::ROLE, Login::rights());
    granted.await.map(drop)
}

async fn change_password(mut auth: AuthClient, password: &str) -> Result<(), Error> {
    let changed = auth.user_change_password(Login::NAME, password);
    changed.await.map(drop)
}

async fn answers(client: &Client) -> bool {
    let mut client = client.kv_client();
    let answer = timeout(secs(1), client.get("answers?", None)).await;
    matches!(answer, Ok(Ok(_)))
}

async fn done<T>(call: impl Future<Output = Result<T, Error>>) -> T {
    let answer = timeout(secs(10), call)
        .await
        .expect("a healthy etcd answers");
    answer.expect("a healthy etcd does as it is told")
}

async fn alarm(client: Client, action: AlarmAction, member: u64) -> Result<(), Error> {
    client.refresh_token().await?;
    let mut options = AlarmOptions::new();
    options.with_member(member);
    let mut client = client.maintenance_client();
    let done = client.alarm(action, AlarmType::Nospace, Some(options));
    done.await.map(drop)
}
