//! The model as HAProxy's configuration file. Pure.
//!
//! Nothing but checked names, numbers and addresses is ever written, so nothing needs quoting: a
//! quote or a `$` would be read by HAProxy even inside a name.

use crate::agent::haproxy::base_config::sets;
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::{Listener, Model, STATS};
use std::fmt::{self, Write as _};

/// The file's first line, by which sidekick recognises its own file.
pub const FIRST_LINE: &str = "# Written by sidekick agent, and written anew whenever etcd changes: edit --haproxy-base instead.";

/// Everything below this line is sidekick's; what is above may be the operator's.
pub(crate) const SERVICES_LINE: &str = "# The services that stand in etcd.";

/// How each server is checked: what the file and the `add server` command have in common.
///
/// A host that doesn't answer is down after 3.5 s at most, plus HAProxy's own delays: the next check
/// begins after up to `inter`, and waits for the connection as long as `inter` (or `timeout connect`,
/// where that is less); the second one begins after `fastinter`, and waits as long. `timeout check` changes
/// nothing of that (HAProxy's configuration manual, "timeout check", "inter"; seen with 2.6 and 3.0).
/// All three are written, so that no `default-server` of the operator's changes them.
pub const CHECK: &str = "check inter 1s fastinter 500ms downinter 1s rise 3 fall 2";

/// How each server was checked up to version 0.1: a file of such an agent is read too.
pub(crate) const FORMER_CHECK: &str = "check inter 2s rise 3 fall 2";

/// A client of a service that has no instance that it could be sent to is sent a RST, and not a FIN that looks
/// like an empty answer. HAProxy asks this at each connection, so that no reload is needed when instances come
/// and go (configuration manual, "nbsrv" and "tcp-request connection"). But a worker that stops counts no
/// server of a proxy that it has stopped already, and still takes what was accepted just before: some two of
/// three thousand connections around four reloads were refused (HAProxy 2.6), hence "stopping".
pub(crate) const REJECT_RULE: &str =
    "tcp-request connection reject if { nbsrv eq 0 } !{ stopping }";

/// HAProxy's exporter on the statistics page (its README in addons/promex).
const EXPORTER_RULE: &str = "http-request use-service prometheus-exporter if { path /metrics }";

/// The length of a server's line, about.
const BYTES_PER_SERVER: usize = 96;

/// The environment variable by which a running HAProxy tells which configuration it was started from.
pub const FINGERPRINT_VARIABLE: &str = "SIDEKICK_STRUCTURE";

/// The global and defaults sections if there is no base file.
///
/// fd-hard-limit: in containers the limit may be a thousand million, and HAProxy would make a table
/// of it. hard-stop-after: a connection that outlives a reload is served by the old worker, for so
/// long at most. redispatch: a server that refuses costs the client nothing while there is another, and
/// one that doesn't answer costs it `timeout connect`, in which one lost SYN is sent again (after 1 s).
pub const DEFAULT_BASE: &str = "\
global
    fd-hard-limit 100000
    hard-stop-after 1h

defaults
    mode tcp
    timeout connect 2s
    timeout client 50s
    timeout server 50s
    retries 3
    option redispatch 1
";

/// How many reloads an old worker may outlive. HAProxy's own default is 50 from 3.3 on, and then it ends
/// the worker with its connections; `hard-stop-after` is what ends them here.
const MAX_RELOADS: &str = "mworker-max-reloads";

/// What never changes while the agent runs.
#[derive(Debug, Clone)]
pub struct FixedConfig {
    /// The global and defaults sections.
    pub base: String,
    /// Whether the machine has IPv6 at all. (Without, the socket can't even be made.)
    pub ipv6: bool,
    /// The path where HAProxy listens while no service has a listener; without any special character.
    pub idle: String,
    /// How many connections each service's listener takes at once, so that one service can't take all
    /// that HAProxy may have; `None`: the base file says how many.
    pub listener_maxconn: Option<u32>,
    /// Whether HAProxy's own exporter for Prometheus is built in: then it answers at /metrics of the statistics page.
    pub exporter: bool,
}

/// The name of a service or an instance in HAProxy, which allows `[A-Za-z0-9_.:-]` and so no `@`.
///
/// `@` is written `::`, and `:` is written `:.`; a colon always begins a pair, so no two names
/// become one.
#[must_use]
pub fn proxy_name(name: &str) -> String {
    let mut proxy_name = String::with_capacity(name.len() + 1);
    for character in name.chars() {
        match character {
            ':' => proxy_name.push_str(":."),
            '@' => proxy_name.push_str("::"),
            other => proxy_name.push(other),
        }
    }
    proxy_name
}

/// The fingerprint of everything that takes a reload to change: the same for two models that differ only in
/// their servers. How servers are checked is part of it, for a running server's check cannot be changed.
/// (FNV-1a, 64 bits; <http://www.isthe.com/chongo/tech/comp/fnv/>)
#[must_use]
pub fn fingerprint(fixed_config: &FixedConfig, model: &Model) -> String {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    let _ = write!(
        hash,
        "{}{:?}{REJECT_RULE}{CHECK}",
        fixed_config.base, fixed_config.listener_maxconn
    );
    if fixed_config.exporter && model.stats.is_some() {
        let _ = hash.write_str(EXPORTER_RULE);
    }
    for (name, bind) in model.binds() {
        let _ = writeln!(hash, "{name} {}", BindSyntax(fixed_config, bind));
    }
    format!("{:016x}", hash.0)
}

struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Ok(())
    }
}

/// The whole file.
#[must_use]
pub fn render(fixed_config: &FixedConfig, model: &Model) -> String {
    let mut text = head(fixed_config, model);
    text.reserve(BYTES_PER_SERVER * model.servers());
    for (service, listener) in &model.listeners {
        listen(&mut text, fixed_config, service, listener);
    }
    text
}

/// Everything but the services.
fn head(fixed_config: &FixedConfig, model: &Model) -> String {
    let mut text = String::new();
    let fingerprint = fingerprint(fixed_config, model);
    let base = fixed_config.base.trim_end();
    let _ = write!(
        text,
        "{FIRST_LINE}\n\n{base}\n\nglobal\n    setenv {FINGERPRINT_VARIABLE} {fingerprint}\n"
    );
    if !sets(base, MAX_RELOADS) {
        let _ = writeln!(text, "    {MAX_RELOADS} {}", i32::MAX);
    }
    if let Some(bind) = model.stats {
        let bind = BindSyntax(fixed_config, bind);
        let _ = write!(
            text,
            "\nlisten {STATS}\n    bind {bind}\n    mode http\n    stats enable\n    stats uri /\n"
        );
        if fixed_config.exporter {
            let _ = writeln!(text, "    {EXPORTER_RULE}");
        }
    }
    if model.stats.is_none() && model.listeners.is_empty() {
        // HAProxy doesn't start without any listener. Not an abstract socket: those can't pause, and
        // with one of them a reload that fails ends the old worker too (seen with 2.6).
        let _ = write!(
            text,
            "\nlisten sidekick:idle\n    bind unix@{}\n    mode tcp\n",
            fixed_config.idle
        );
    }
    let _ = write!(text, "\n{SERVICES_LINE}\n");
    text
}

/// The `listen` section of one service.
fn listen(text: &mut String, fixed_config: &FixedConfig, service: &str, listener: &Listener) {
    let (service, bind) = (proxy_name(service), BindSyntax(fixed_config, listener.bind));
    let _ = write!(
        text,
        "\nlisten {service}\n    bind {bind}\n    mode tcp\n    balance roundrobin\n    {REJECT_RULE}\n"
    );
    if let Some(most) = fixed_config.listener_maxconn {
        let _ = writeln!(text, "    maxconn {most}");
    }
    for (instance, server) in &listener.servers {
        let _ = write!(
            text,
            "    server {} {} {CHECK}",
            proxy_name(instance),
            server.address
        );
        if server.draining {
            text.push_str(" weight 0");
        }
        if let Some(host) = &server.host {
            let _ = write!(text, " # {host}");
        }
        text.push('\n');
    }
}

/// An address in HAProxy's syntax.
struct BindSyntax<'a>(&'a FixedConfig, Bind);

impl fmt::Display for BindSyntax<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            // One socket for both; on a host without IPv6, `:::80` alone would keep HAProxy from
            // starting.
            Bind::Everywhere(port) if self.0.ipv6 => write!(f, ":::{port} v4v6"),
            Bind::Everywhere(port) => write!(f, "*:{port}"),
            Bind::At(address) if address.is_ipv6() && address.ip().is_unspecified() => {
                write!(f, ":::{} v6only", address.port())
            }
            Bind::At(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::backends::{Server, Servers};
    use crate::agent::model::listeners::Listeners;
    use crate::testing::config_grammar::{fixed_config, models};
    use proptest::prelude::*;

    #[test]
    fn the_file_to_the_letter() {
        let server = |address: &str, draining, host: Option<&str>| Server {
            address: address.parse().unwrap(),
            draining,
            host: host.map(str::to_owned),
        };
        let servers = Servers::from_iter([
            ("redis@1".to_owned(), server("10.0.0.7:6379", false, None)),
            (
                "redis@2".to_owned(),
                server("[fd00::8]:6379", true, Some("db2.example.com")),
            ),
        ]);
        let listener = Listener {
            bind: ":80".parse().unwrap(),
            servers,
        };
        let model = Model {
            stats: Some("127.0.0.1:1936".parse().unwrap()),
            listeners: Listeners::unit("redis".to_owned(), listener),
        };
        let fingerprint = fingerprint(&fixed_config(), &model);
        let expected = format!(
            "{FIRST_LINE}\n\n{DEFAULT_BASE}
global
    setenv SIDEKICK_STRUCTURE {fingerprint}
    mworker-max-reloads 2147483647

listen sidekick:stats
    bind 127.0.0.1:1936
    mode http
    stats enable
    stats uri /

# The services that stand in etcd.

listen redis
    bind :::80 v4v6
    mode tcp
    balance roundrobin
    tcp-request connection reject if {{ nbsrv eq 0 }} !{{ stopping }}
    maxconn 25000
    server redis::1 10.0.0.7:6379 check inter 1s fastinter 500ms downinter 1s rise 3 fall 2
    server redis::2 [fd00::8]:6379 check inter 1s fastinter 500ms downinter 1s rise 3 fall 2 weight 0 # db2.example.com
"
        );
        assert_eq!(render(&fixed_config(), &model), expected);
        let built_in = FixedConfig {
            exporter: true,
            ..fixed_config()
        };
        let rule = format!("    stats uri /\n    {EXPORTER_RULE}\n\n{SERVICES_LINE}\n");
        assert!(render(&built_in, &model).contains(&rule));
        assert_ne!(super::fingerprint(&built_in, &model), fingerprint);
    }

    proptest! {
        #[test]
        fn servers_are_no_part_of_the_structure(model in models(), other in models()) {
            let mut moved = model.clone();
            for ((name, listener), other) in model.listeners.iter().zip(other.listeners.values()) {
                let listener = Listener { servers: other.servers.clone(), ..listener.clone() };
                moved.listeners.insert(name.clone(), listener);
            }
            prop_assert_eq!(fingerprint(&fixed_config(), &model), fingerprint(&fixed_config(), &moved));
            prop_assert_eq!(fingerprint(&fixed_config(), &model) == fingerprint(&fixed_config(), &other),
                model.binds().eq(other.binds()));
        }

    }
}
