//! The agent's word about each instance that drains: looks at HAProxy in, words and sessions to end out. Pure.
//!
//! The word is given once no server with the instance's address takes new connections and no worker has a session with
//! that address, at two looks in a row. It is taken back when a look says otherwise. The last instance of a service that
//! is up is not drained, and the word about it is given at once.

use super::idle_sessions::IdleSessions;
use crate::agent::haproxy::last_speaker::LastSpeaker;
use crate::agent::haproxy::render::proxy_name;
use crate::agent::haproxy::server_state::{DRAIN, MAINTENANCE, RunningServers, ServerState};
use crate::agent::haproxy::session_list::{Session, WorkerSessions};
use crate::clock::Moment;
use crate::endpoint::control::{DrainWord, InstanceName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// So many looks in a row have to find nothing.
const LOOKS: u32 = 2;

/// Between two looks while an instance drains: two of them are what a session is idle for when it is ended.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(80);

/// The same once a drain takes longer than [`PROMPT`]: what is left is in flight, and may be for hours.
const LATER_INTERVAL: Duration = Duration::from_millis(500);
const PROMPT: Duration = Duration::from_secs(10);

/// The same once every word is given.
const SETTLED_INTERVAL: Duration = Duration::from_secs(1);

/// The pause is at least so many times what the last look took: HAProxy lists ten thousand sessions in some 50 ms.
const PAUSE_FACTOR: u32 = 4;

/// An instance that drains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DrainTarget {
    /// What the word says, when it is given.
    pub(crate) word: DrainWord,
    /// Where HAProxy dials it; `None`: it has no server for it.
    pub(crate) address: Option<SocketAddr>,
}

/// The instances that drain.
pub(crate) type DrainTargets = BTreeMap<InstanceName, DrainTarget>;

/// What HAProxy has, at one look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    /// The servers of the worker that takes new connections; at least those of the targets' services.
    pub(crate) running: RunningServers,
    /// The sessions of each living worker, by process id.
    pub(crate) workers: BTreeMap<u32, WorkerSessions>,
    /// The worker that takes new connections.
    pub(crate) current: u32,
}

/// Sessions to end, by the worker's process id.
pub(crate) type SessionsToEnd = BTreeMap<u32, Vec<Session>>;

/// An instance whose word was given or taken back at a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WordEvent {
    pub(crate) name: InstanceName,
    pub(crate) given: bool,
    /// How many idle sessions were ended for it.
    pub(crate) ended: usize,
}

/// All drains.
#[derive(Debug, Default)]
pub(crate) struct DrainState {
    drains: BTreeMap<InstanceName, DrainOfInstance>,
    idle: IdleSessions,
    looks: u64,
    last_took: Duration,
}

#[derive(Debug)]
struct DrainOfInstance {
    target: DrainTarget,
    began: Moment,
    /// Looks in a row that found nothing.
    clear: u32,
    given: bool,
    ended: usize,
    /// Its key says another address now, and until when its old sessions are waited for.
    overtaken_until: Option<Moment>,
}

impl DrainState {
    /// Follows the instances that drain at `now`. A word about another address, or one that is no longer alone, is taken
    /// back. `overtaken` says until when an instance is waited for whose key now says another address; `None`: it is
    /// gone, or serves again.
    pub(crate) fn follow(
        &mut self,
        targets: &DrainTargets,
        overtaken: impl Fn(&InstanceName, &DrainTarget) -> Option<Moment>,
        now: Moment,
    ) {
        self.drains.retain(|name, drain| {
            if targets.contains_key(name) {
                return true;
            }
            let until = || overtaken(name, &drain.target).filter(|_| !drain.target.word.alone);
            let until = drain.overtaken_until.or_else(until);
            drain.overtaken_until = until;
            until.is_some_and(|until| until > now)
        });
        for (name, target) in targets {
            let known = self.drains.get_mut(name);
            match known {
                Some(drain) if drain.target == *target && drain.overtaken_until.is_none() => {}
                _ => {
                    let drain = DrainOfInstance {
                        target: target.clone(),
                        began: now,
                        clear: 0,
                        given: target.word.alone,
                        ended: 0,
                        overtaken_until: None,
                    };
                    self.drains.insert(name.clone(), drain);
                }
            }
        }
        if self.drains.is_empty() {
            self.idle = IdleSessions::default();
        }
    }

    /// HAProxy could not be asked: a word that was given stands, and none is given.
    pub(crate) fn look_failed(&mut self) {
        for drain in self.drains.values_mut() {
            drain.clear = 0;
        }
    }

    /// Takes in a look that was begun at `now` and took so long. `ask` says who has spoken last on a session.
    pub(crate) fn look(
        &mut self,
        look: &Look,
        now: Moment,
        took: Duration,
        ask: impl Fn(&Session) -> LastSpeaker,
    ) -> (SessionsToEnd, Vec<WordEvent>) {
        self.looks += 1;
        self.last_took = took;
        let (mut to_end, mut events) = (SessionsToEnd::new(), Vec::new());
        // What is missing may be an instance's: no word is given for it, and none taken back.
        let has_gap = look.workers.values().any(|worker| worker.has_gap);
        for (name, drain) in &mut self.drains {
            if drain.target.word.alone {
                continue;
            }
            let mut clear = look.is_quiet(name, drain.target.address);
            for (pid, worker) in &look.workers {
                let is_current = *pid == look.current;
                let all = worker.sessions.iter();
                for session in all.filter(|it| concerns(it, name, &drain.target, is_current)) {
                    clear = false;
                    let is_ours = worker.ours && session.backend == proxy_name(&name.service);
                    let idle = self.idle.is_idle(*pid, session, self.looks, now, &ask);
                    if is_ours && idle && session.to_server.is_some() {
                        drain.ended += 1;
                        let sessions = to_end.entry(*pid).or_default();
                        sessions.push(session.clone());
                    }
                }
            }
            drain.clear = if clear && !has_gap {
                drain.clear + 1
            } else {
                0
            };
            let given = drain.clear >= LOOKS || (clear && drain.given);
            if given != drain.given {
                drain.given = given;
                events.push(WordEvent {
                    name: name.clone(),
                    given,
                    ended: drain.ended,
                });
            }
        }
        self.idle.forget_ended(self.looks);
        (to_end, events)
    }

    /// The words that are given now.
    pub(crate) fn words(&self) -> impl Iterator<Item = (&InstanceName, &DrainWord)> {
        let given = self.drains.iter().filter(|(_, drain)| drain.given);
        given.map(|(name, drain)| (name, &drain.target.word))
    }

    /// The services and addresses that the next look is about; empty: none is needed.
    pub(crate) fn subjects(&self) -> (BTreeSet<String>, BTreeSet<SocketAddr>) {
        let drained = || self.drains.iter().filter(|(_, it)| !it.target.word.alone);
        let services = drained().map(|(name, _)| name.service.clone());
        let addresses = drained().filter_map(|(_, drain)| drain.target.address);
        (services.collect(), addresses.collect())
    }

    /// How long after the last look the next one is due; `None`: never, for nothing drains.
    pub(crate) fn pause(&self, now: Moment) -> Option<Duration> {
        let drains = self.drains.values().filter(|it| !it.target.word.alone);
        let pause = drains.map(|it| match it.given {
            true => SETTLED_INTERVAL,
            false if now.saturating_sub(it.began) < PROMPT => LOOK_INTERVAL,
            false => LATER_INTERVAL,
        });
        Some(pause.min()?.max(self.last_took * PAUSE_FACTOR))
    }

    /// When [`DrainState::follow`] changes something although the same instances drain.
    pub(crate) fn next_change(&self) -> Option<Moment> {
        self.drains
            .values()
            .filter_map(|it| it.overtaken_until)
            .min()
    }
}

impl Look {
    /// Whether no server of that instance's service takes new connections for that address.
    fn is_quiet(&self, name: &InstanceName, address: Option<SocketAddr>) -> bool {
        let servers = self.running.get(&proxy_name(&name.service));
        let mut servers = servers.into_iter().flatten();
        servers.all(|(server, live)| {
            let is_it = match address {
                Some(address) => live.address == Some(address),
                None => *server == proxy_name(&name.instance),
            };
            !is_it || takes_none(live)
        })
    }
}

const fn takes_none(server: &ServerState) -> bool {
    server.weight == 0 || server.admin & (DRAIN | MAINTENANCE) != 0
}

/// Whether the session may be one with that instance. Sessions are counted by address: a name may have been another
/// instance's. One that has no connection to a server yet goes by the server's name; without a server it is none of a
/// worker that drains the instance, but an old worker may still choose it.
fn concerns(
    session: &Session,
    name: &InstanceName,
    target: &DrainTarget,
    is_current: bool,
) -> bool {
    if let Some(ends) = &session.to_server {
        return Some(ends.remote) == target.address;
    }
    session.backend == proxy_name(&name.service)
        && match &session.server {
            Some(server) => *server == proxy_name(&name.instance),
            None => !is_current,
        }
}
