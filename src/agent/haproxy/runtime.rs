//! The runtime API: the differences between desired and running servers, as commands. Pure.
//!
//! Replies to commands are free text and differ between versions, so they prove nothing: after the commands
//! `show servers state` is compared with the desired state, by the same function that made the commands.

use crate::agent::haproxy::render::{CHECK, proxy_name};
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::model::backends::{Server, Servers};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A server as `show servers state` has it (HAProxy's management guide, version 1 of the format).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// `None` if HAProxy has none, as for a name that was never resolved.
    pub address: Option<SocketAddr>,
    /// `srv_admin_state`, a mask.
    pub admin: u32,
    /// `srv_uweight`; 0 takes no new connections.
    pub weight: u32,
    /// `srv_check_state`, a mask.
    pub check: u32,
    /// HAProxy's health check has it down: `srv_op_state` is "stopped", and not for maintenance.
    pub down: bool,
    /// For how many seconds it has been up or down: `srv_time_since_last_change`, which grows each second.
    pub since: u64,
}

/// `srv_op_state` of a server that takes no connections.
const STOPPED: u32 = 0;

/// Forced or inherited maintenance, by whatever cause: FMAINT, IMAINT, CMAINT, RMAINT.
pub(crate) const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20;
/// Forced drain.
pub(crate) const DRAIN: u32 = 0x08;
/// The health check is on.
pub(crate) const CHECKED: u32 = 0x04;

/// All servers, by backend and name as HAProxy has them.
pub type RunningServers = BTreeMap<String, BTreeMap<String, ServerState>>;

/// `show servers state` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("HAProxy's list of servers can't be read: {0}")]
pub struct UnreadableState(String);

/// Reads `show servers state`. Columns are found by their names: versions add some.
///
/// # Errors
/// It isn't version 1, or it is cut off.
pub fn parse_state(text: &str) -> Result<RunningServers, UnreadableState> {
    // Every reply ends with an empty line; half a list would look like servers that are missing.
    if !text.ends_with("\n\n") {
        return Err(UnreadableState("it is cut off".to_owned()));
    }
    let mut lines = text.lines().filter(|line| !line.is_empty());
    match lines.next() {
        Some("1") => {}
        other => {
            return Err(UnreadableState(format!(
                "it begins with {:?}",
                other.unwrap_or_default()
            )));
        }
    }
    let header = lines.next().and_then(|line| line.strip_prefix("# "));
    let header: Vec<_> = header.unwrap_or_default().split(' ').collect();
    let column = |name: &str| {
        let found = header.iter().position(|column| *column == name);
        found.ok_or_else(|| UnreadableState(format!("it has no column {name}")))
    };
    let (backend, name) = (column("be_name")?, column("srv_name")?);
    let (address, port) = (column("srv_addr")?, column("srv_port")?);
    let (admin, weight, check) = (
        column("srv_admin_state")?,
        column("srv_uweight")?,
        column("srv_check_state")?,
    );
    let (operational, since) = (
        column("srv_op_state")?,
        column("srv_time_since_last_change")?,
    );
    let mut running = RunningServers::new();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split(' ').collect();
        let text = |index: usize| {
            let cut = || UnreadableState(format!("it is cut off at {line:?}"));
            columns.get(index).copied().ok_or_else(cut)
        };
        let number = |index| {
            let text = text(index)?;
            let unreadable = |_| UnreadableState(format!("{text:?} is no number in {line:?}"));
            text.parse::<u32>().map_err(unreadable)
        };
        let admin = number(admin)?;
        let ip = text(address)?.parse::<IpAddr>().ok();
        let live = ServerState {
            address: ip.zip(text(port)?.parse().ok()).map(SocketAddr::from),
            admin,
            weight: number(weight)?,
            check: number(check)?,
            down: number(operational)? == STOPPED && admin & MAINTENANCE == 0,
            since: number(since)?.into(),
        };
        running
            .entry(text(backend)?.to_owned())
            .or_default()
            .insert(text(name)?.to_owned(), live);
    }
    Ok(running)
}

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

/// The commands that bring the servers of those services to the desired state; none if they are. Servers are
/// added before others are drained or removed, so that a service that changes altogether is never empty.
/// Backends that are not in `listeners` may be the operator's, and are left alone.
#[must_use]
pub fn diff<'a>(
    listeners: impl Iterator<Item = (&'a str, &'a Servers)>,
    running: &RunningServers,
) -> Vec<ServerCommand> {
    let (mut coming, mut going) = (Vec::new(), Vec::new());
    let none = BTreeMap::new();
    for (service, servers) in listeners {
        let backend = proxy_name(service);
        let mut rest: BTreeMap<&str, &ServerState> = running
            .get(&backend)
            .unwrap_or(&none)
            .iter()
            .map(|(n, l)| (n.as_str(), l))
            .collect();
        for (instance, server) in servers {
            let name = proxy_name(instance);
            let live = rest.remove(name.as_str());
            let actions = change(server, live);
            coming.extend(actions.into_iter().map(|action| ServerCommand {
                target: format!("{backend}/{name}"),
                action,
            }));
        }
        going.extend(rest.into_keys().map(|name| ServerCommand {
            target: format!("{backend}/{name}"),
            action: ServerAction::Remove,
        }));
    }
    // A stable sort: what is done to one server stays in its order.
    coming.sort_by_key(|command| command.action == ServerAction::SetTraffic(Traffic::Drain));
    coming.extend(going);
    coming
}

/// A backend's servers as [`diff`] has nothing to do for.
#[must_use]
pub fn state_in_sync(servers: &Servers) -> BTreeMap<String, ServerState> {
    let live = |server: &Server| ServerState {
        address: Some(server.address),
        admin: if server.draining { DRAIN } else { 0 },
        weight: u32::from(!server.draining),
        check: CHECKED,
        down: false,
        since: 0,
    };
    let servers = servers.iter();
    let servers = servers.map(|(name, server)| (proxy_name(name), live(server)));
    servers.collect()
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
    use crate::agent::model::listeners::{Listener, Model};
    use crate::testing::config_grammar::models;
    use crate::testing::fake_haproxy::{FakeServers, HEADER, diff_all};
    use proptest::prelude::*;

    #[test]
    fn a_real_reply_is_read() {
        let text = format!(
            "{HEADER}3 good 2 x 127.0.0.1 2 8 0 1 0 1 0 3 6 0 0 0 - 7001 - 0 0 - - 0\n3 good 3 n - 0 32 1 1 0 1 0 3 6 0 0 0 db1 0 - 0 0 - - 0\n3 good 4 out 127.0.0.1 0 0 1 1 7 8 2 0 6 0 0 0 - 7002 - 0 0 - - 0\n\n"
        );
        let running = parse_state(&text).unwrap();
        let expected = ServerState {
            address: "127.0.0.1:7001".parse().ok(),
            admin: 8,
            weight: 0,
            check: 6,
            down: false,
            since: 0,
        };
        assert_eq!(running["good"]["x"], expected);
        assert_eq!(running["good"]["n"].address, None);
        assert!(!running["good"]["n"].down, "maintenance is no failed check");
        assert!(running["good"]["out"].down);
        assert_eq!(running["good"]["out"].since, 7);
        for cut in [
            &text[..text.len() - 60],
            "",
            "2\n\n",
            "Unknown command\n\n",
            "1\n# be_id be_name\n\n",
        ] {
            assert!(parse_state(cut).is_err(), "{cut}");
        }
    }

    #[test]
    fn who_comes_precedes_who_goes() {
        let server = |at: &str| Server {
            address: at.parse().unwrap(),
            draining: false,
            host: None,
        };
        let model = |name: &str| {
            let servers = BTreeMap::from([(name.to_owned(), server("10.0.0.1:80"))]);
            let listener = Listener {
                bind: ":80".parse().unwrap(),
                servers: servers.into(),
            };
            Model {
                stats: None,
                listeners: BTreeMap::from([("web".to_owned(), listener)]),
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
            let running = model.listeners.iter().map(|(name, listener)| (proxy_name(name), state_in_sync(&listener.servers)));
            prop_assert_eq!(diff_all(&model, &running.collect()), vec![]);
        }

        #[test]
        fn arbitrary_replies_never_panic(text in "\\PC*") {
            let _ = parse_state(&text);
            let _ = parse_state(&format!("{HEADER}{text}"));
        }
    }
}
