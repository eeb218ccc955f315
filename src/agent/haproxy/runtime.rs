//! The runtime API: the differences between desired and running servers, as commands. Pure.
//!
//! Replies to commands are free text and differ between versions, so they prove nothing: after the commands
//! `show servers state` is compared with the desired state, by the same function that made the commands.

use crate::agent::haproxy::parse::original_name;
use crate::agent::haproxy::render::{CHECK, proxy_name};
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::haproxy::server_state::{
    CHECKED, DRAIN, MAINTENANCE, RunningServers, ServerState,
};
use crate::agent::model::backends::{Server, Servers};
use crate::agent::model::listeners::Listener;
use imbl::ordmap::DiffItem;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// One change at one server. Names are HAProxy's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCommand {
    /// `backend/server`.
    pub target: String,
    /// What to do with it.
    pub action: ServerAction,
}

/// What to do with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAction {
    /// It is missing.
    Add(SocketAddr, Traffic),
    /// Its address differs.
    Move(SocketAddr),
    /// Its health check is off.
    EnableCheck,
    /// It takes new connections and should not, or the other way round.
    SetTraffic(Traffic),
    /// It is not desired: it is deleted, with its connections. Its drain time is over, or it is down.
    Remove,
}

/// Whether a server takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// It takes new connections.
    Ready,
    /// It takes none; old connections may finish.
    Drain,
}

impl ServerCommand {
    /// The lines for HAProxy's socket. `can_wait`: it knows `wait … srv-removable` (3.0 and later).
    #[must_use]
    pub fn lines(&self, defaults: &ServerDefaults, can_wait: bool) -> Vec<String> {
        let (it, more) = (&self.target, defaults.words());
        match self.action {
            // Arrives in maintenance and unchecked. Enabled, it takes connections at once, and the
            // first failed check takes it out. Weight 0: not even for the moment before it drains.
            ServerAction::Add(address, Traffic::Ready) => vec![
                format!("add server {it} {address} {more}{CHECK}"),
                format!("enable health {it}"),
                format!("enable server {it}"),
            ],
            ServerAction::Add(address, Traffic::Drain) => vec![
                format!("add server {it} {address} {more}{CHECK} weight 0"),
                format!("enable health {it}"),
                format!("enable server {it}"),
                format!("set server {it} state drain"),
            ],
            // The health check's result was about the old address.
            ServerAction::Move(address) => vec![
                format!(
                    "set server {it} addr {} port {}",
                    address.ip(),
                    address.port()
                ),
                format!("set server {it} health up"),
            ],
            ServerAction::EnableCheck => vec![format!("enable health {it}")],
            ServerAction::SetTraffic(Traffic::Ready) => {
                vec![
                    format!("set server {it} weight {}", defaults.weight()),
                    format!("set server {it} state ready"),
                ]
            }
            // From maintenance there is no way to drain but through ready.
            ServerAction::SetTraffic(Traffic::Drain) => vec![
                format!("set server {it} weight 0"),
                format!("set server {it} state ready"),
                format!("set server {it} state drain"),
            ],
            ServerAction::Remove => {
                let mut lines = vec![
                    format!("set server {it} state maint"),
                    format!("shutdown sessions server {it}"),
                ];
                // The sessions end a moment later; earlier versions are asked again instead.
                lines.extend(can_wait.then(|| format!("wait 100ms srv-removable {it}")));
                lines.push(format!("del server {it}"));
                lines
            }
        }
    }
}

/// The commands that bring the servers of those services to the desired state, in their order; none if they
/// are there. Backends that are not in `listeners` may be the operator's, and are left alone.
#[must_use]
pub fn diff<'a>(
    listeners: impl Iterator<Item = (&'a String, &'a Listener)>,
    running: &RunningServers,
) -> Vec<ServerCommand> {
    let commands = listeners.flat_map(|(service, it)| diff_backend(service, &it.servers, running));
    ordered(commands)
}

/// The commands that bring one backend's servers to the desired state.
#[must_use]
pub fn diff_backend(
    service: &str,
    servers: &Servers,
    running: &RunningServers,
) -> Vec<ServerCommand> {
    let backend = proxy_name(service);
    let none = BTreeMap::new();
    let running = running.get(&backend).unwrap_or(&none);
    let mut commands = Vec::new();
    for (instance, server) in servers {
        let name = proxy_name(instance);
        let actions = change(server, running.get(&name));
        commands.extend(command(&backend, &name, actions));
    }
    for name in running.keys() {
        let is_desired = original_name(name).is_some_and(|it| servers.contains_key(&it));
        if !is_desired {
            commands.extend(command(&backend, name, [ServerAction::Remove]));
        }
    }
    commands
}

/// The commands that bring a backend's servers from one desired state to another.
#[must_use]
pub fn diff_between(service: &str, before: &Servers, now: &Servers) -> Vec<ServerCommand> {
    let backend = proxy_name(service);
    let commands = before.diff(now).flat_map(|change| {
        let (instance, actions) = match change {
            DiffItem::Add(instance, server) => (instance, self::change(server, None)),
            DiffItem::Update {
                old: (instance, old),
                new: (_, new),
            } => (instance, self::change(new, Some(&state_in_sync(old)))),
            DiffItem::Remove(instance, _) => (instance, vec![ServerAction::Remove]),
        };
        command(&backend, &proxy_name(instance), actions).collect::<Vec<_>>()
    });
    commands.collect()
}

fn command(
    backend: &str,
    server: &str,
    actions: impl IntoIterator<Item = ServerAction>,
) -> impl Iterator<Item = ServerCommand> {
    actions.into_iter().map(move |action| ServerCommand {
        target: format!("{backend}/{server}"),
        action,
    })
}

/// Servers are added before others are drained or removed, so that a service whose servers are all replaced
/// is never empty. What is done to one server stays in its order.
#[must_use]
pub fn ordered(commands: impl Iterator<Item = ServerCommand>) -> Vec<ServerCommand> {
    let mut commands: Vec<_> = commands.collect();
    commands.sort_by_key(|command| match command.action {
        ServerAction::SetTraffic(Traffic::Drain) => 1,
        ServerAction::Remove => 2,
        _ => 0,
    });
    commands
}

/// A server as [`diff`] has nothing to do for.
#[must_use]
pub fn state_in_sync(server: &Server) -> ServerState {
    ServerState {
        address: Some(server.address),
        admin: if server.draining { DRAIN } else { 0 },
        weight: u32::from(!server.draining),
        check: CHECKED,
        down: false,
        since: 0,
    }
}

fn change(server: &Server, live: Option<&ServerState>) -> Vec<ServerAction> {
    let traffic = if server.draining {
        Traffic::Drain
    } else {
        Traffic::Ready
    };
    let Some(live) = live else {
        return vec![ServerAction::Add(server.address, traffic)];
    };
    let mut actions = Vec::new();
    if live.address != Some(server.address) {
        actions.push(ServerAction::Move(server.address));
    }
    if live.check & CHECKED == 0 {
        actions.push(ServerAction::EnableCheck);
    }
    let fits = match traffic {
        Traffic::Ready => live.admin & (MAINTENANCE | DRAIN) == 0 && live.weight > 0,
        Traffic::Drain => {
            live.admin & MAINTENANCE == 0 && live.admin & DRAIN != 0 && live.weight == 0
        }
    };
    if !fits {
        actions.push(ServerAction::SetTraffic(traffic));
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::haproxy::server_state::parse_state;
    use crate::agent::model::listeners::{Listeners, Model};
    use crate::testing::config_grammar::models;
    use crate::testing::fake_haproxy::{FakeServers, diff_all};
    use proptest::prelude::*;

    #[test]
    fn who_comes_precedes_who_goes() {
        let server = |at: &str| Server {
            address: at.parse().unwrap(),
            draining: false,
            host: None,
        };
        let model = |name: &str| {
            let servers = Servers::unit(name.to_owned(), server("10.0.0.1:80"));
            let listener = Listener {
                bind: ":80".parse().unwrap(),
                servers,
            };
            Model {
                stats: None,
                listeners: Listeners::unit("web".to_owned(), listener),
            }
        };
        let running = FakeServers::boot(&model("a@1")).0;
        let commands = diff_all(&model("b@1"), &running);
        let none = ServerDefaults::default();
        let lines: Vec<_> = commands.iter().flat_map(|c| c.lines(&none, true)).collect();
        let expected = [
            "add server web/b::1 10.0.0.1:80 check inter 1s fastinter 500ms downinter 1s rise 3 fall 2",
            "enable health web/b::1",
            "enable server web/b::1",
            "set server web/a::1 state maint",
            "shutdown sessions server web/a::1",
            "wait 100ms srv-removable web/a::1",
            "del server web/a::1",
        ];
        assert_eq!(lines, expected);
        assert_eq!(commands[1].lines(&none, false).len(), 3);
    }

    proptest! {
        #[test]
        fn the_commands_lead_from_any_state_to_the_wanted_one(
            from in models(), to in models(), meddled in prop::collection::vec((any::<prop::sample::Index>(), 0u32..16, 0u32..2, 2u32..7), 0..6)
        ) {
            let mut servers = FakeServers::boot(&to);
            let mut old = FakeServers::boot(&from).0.into_values();
            for backend in servers.0.values_mut() {
                // The same listeners with other servers, as after a change that needs no reload.
                *backend = old.next().unwrap_or_default();
            }
            for (index, admin, weight, check) in meddled {
                let mut all: Vec<_> = servers.0.values_mut().flat_map(BTreeMap::values_mut).collect();
                if !all.is_empty() {
                    let index = index.index(all.len());
                    let address = all[index].address;
                    let (down, since) = (false, 0);
                    *all[index] = ServerState { address, admin, weight, check, down, since };
                }
            }
            let running = parse_state(&servers.state()).unwrap();
            for line in diff_all(&to, &running).iter().flat_map(|c| c.lines(&ServerDefaults::default(), false)) {
                prop_assert!(!line.contains([';', '\n', '"', '$', '\\', '|', '<']), "{}", line);
                prop_assert_eq!(servers.command(&line), Ok(()), "{}", line);
            }
            let running = parse_state(&servers.state()).unwrap();
            prop_assert_eq!(diff_all(&to, &running), vec![]);
        }

        #[test]
        fn what_agrees_needs_no_command(model in models()) {
            let in_sync = |listener: &Listener| listener.servers.iter().map(|(name, server)| (proxy_name(name), state_in_sync(server))).collect();
            let running = model.listeners.iter().map(|(name, listener)| (proxy_name(name), in_sync(listener)));
            prop_assert_eq!(diff_all(&model, &running.collect()), vec![]);
        }
    }
}
