//! The fake HAProxy's servers, with as much of its rules as the commands depend on.

use super::fake_haproxy::HEADER;
use crate::agent::haproxy::render::{CHECK, proxy_name};
use crate::agent::haproxy::server_state::{CHECKED, DRAIN, RunningServers, ServerState};
use crate::agent::model::listeners::Model;
use std::net::SocketAddr;

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
