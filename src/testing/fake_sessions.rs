//! The fake HAProxy's sessions: in the worker that takes connections, and in those of before a reload.

use crate::agent::haproxy::last_speaker::LastSpeaker;
use crate::agent::haproxy::server_state::{DRAIN, MAINTENANCE};
use crate::agent::haproxy::session_list::{Endpoints, Session, WorkerSessions};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// All sessions, by the process id of their worker.
#[derive(Debug, Default)]
pub(crate) struct FakeSessions {
    all: BTreeMap<u32, Vec<Session>>,
    opened: u64,
}

impl FakeSessions {
    /// A client connects to that server; its request is under way, or answered.
    pub(crate) fn open(&mut self, pid: u32, target: &str, address: SocketAddr, in_flight: bool) {
        let (backend, server) = target.split_once('/').unwrap();
        self.opened += 1;
        let ends = Endpoints {
            local: "10.0.0.3:1".parse().unwrap(),
            remote: address,
        };
        self.all.entry(pid).or_default().push(Session {
            pointer: format!("0x{}", self.opened),
            id: self.opened,
            backend: backend.to_owned(),
            server: Some(server.to_owned()),
            to_server: Some(ends),
            to_client: None,
            from_client: if in_flight { 2 } else { 1 },
            from_server: 1,
        });
    }

    /// Every request is answered.
    pub(crate) fn answer_all(&mut self) {
        for session in self.all.values_mut().flatten() {
            session.from_server = session.from_client;
        }
    }

    pub(crate) fn of(&self, pid: u32) -> WorkerSessions {
        WorkerSessions {
            ours: true,
            sessions: self.all.get(&pid).cloned().unwrap_or_default(),
            has_gap: false,
        }
    }

    pub(crate) fn last_speaker(session: &Session) -> LastSpeaker {
        match session.from_client.cmp(&session.from_server) {
            std::cmp::Ordering::Greater => LastSpeaker::Client,
            _ => LastSpeaker::Server,
        }
    }

    /// Ends those for which `ends` holds; a worker without sessions ends, unless it is `current`.
    pub(crate) fn end(&mut self, pid: u32, ends: impl Fn(&Session) -> bool) {
        if let Some(sessions) = self.all.get_mut(&pid) {
            sessions.retain(|it| !ends(it));
        }
        self.all.retain(|_, sessions| !sessions.is_empty());
    }

    /// The workers that have sessions.
    pub(crate) fn workers(&self) -> impl Iterator<Item = u32> {
        self.all.keys().copied()
    }

    /// How many sessions any worker has with that address.
    pub(crate) fn with(&self, address: SocketAddr) -> usize {
        let all = self.all.values().flatten();
        all.filter(|it| it.to_server.map(|ends| ends.remote) == Some(address))
            .count()
    }

    /// HAProxy died, and its sessions with it.
    pub(crate) fn clear(&mut self) {
        self.all.clear();
    }
}

impl super::fake_haproxy::FakeWorld {
    /// A client is given to one of the servers that take connections.
    pub(crate) fn a_client_comes(&mut self) {
        let Some((pid, _)) = self.worker else {
            return;
        };
        let backends = self.servers.0.iter();
        let takes = backends.flat_map(|(backend, servers)| {
            let takes = servers.iter().filter(|(_, live)| {
                live.weight > 0 && live.admin & (DRAIN | MAINTENANCE) == 0 && !live.down
            });
            takes.filter_map(move |(name, live)| Some((format!("{backend}/{name}"), live.address?)))
        });
        let takes: Vec<_> = takes.collect();
        if !takes.is_empty() {
            let (target, address) = &takes[self.rng.usize(0..takes.len())];
            let in_flight = self.rng.bool();
            self.sessions.open(pid, target, *address, in_flight);
        }
    }
}
