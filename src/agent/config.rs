//! What `agent` takes.

use crate::agent::haproxy::base_config::{occupied, sections};
use crate::agent::haproxy::render::DEFAULT_BASE;
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::model::allow::Allow;
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners;
use crate::config::{
    Checked, DEFAULT_PREFIX, control_prefix, duration, listen, prefix, unusable_file, wrong,
};
use crate::endpoint::check_part;
use crate::endpoint::control::ControlPrefix;
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::membership;
use crate::telemetry::LogArgs;
use clap::Args;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// How long instances are kept that disappear at once, by default.
pub const DEFAULT_HOLD: &str = "30s";
/// How long the connections of an instance last after its key is gone, by default.
pub const DEFAULT_DRAIN_TIMEOUT: &str = "30s";
/// How long a service without instances is remembered, by default.
pub const DEFAULT_FORGET: &str = "1h";

/// Where Debian's package reads its configuration.
const DEBIANS_FILE: &str = "/etc/haproxy/haproxy.cfg";

/// Where ours is, unless systemd gives us a StateDirectory=.
pub(crate) const OUR_DIRECTORY: &str = "/var/lib/sidekick";

/// Where a HAProxy is looked for: Debian's package, and the official image.
const PROGRAMS: [&str; 2] = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];

/// Where the statistics page is unless told otherwise.
const STATS: &str = "127.0.0.1:1936";

/// unix(7) has 108 bytes, and HAProxy appends a dozen while it binds.
const LONGEST_SOCKET: usize = 90;

/// How HAProxy is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HaproxyMode {
    /// The agent starts HAProxy, with the master socket at this path.
    Supervise(PathBuf),
    /// Another service manager runs HAProxy, whose master socket is at this path.
    Attach(PathBuf),
}

impl HaproxyMode {
    /// The path of HAProxy's master socket.
    pub fn socket(&self) -> &Path {
        let (Self::Supervise(socket) | Self::Attach(socket)) = self;
        socket
    }
}

/// `sidekick agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The prefix of the keys, which are PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// The prefix of the keys by which agents tell announcers what is drained [default: /sidekick before the prefix
    /// of the keys]
    #[arg(long, env = "SIDEKICK_CONTROL_PREFIX", value_name = "PREFIX")]
    pub control_prefix: Option<String>,

    /// Where clients dial a service, like redis=:80 or redis=127.0.0.1:80; repeatable [default: the
    /// port of its instances (the lowest, when it is first seen) on all addresses, IPv4 and IPv6]
    #[arg(
        long,
        env = "SIDEKICK_BIND",
        value_name = "SERVICE=ADDRESS",
        value_delimiter = ','
    )]
    pub bind: Vec<String>,

    /// Serve only instances in this network, like 10.0.0.0/8; repeatable [default: every address that
    /// another machine can reach; never loopback or link-local]
    #[arg(
        long,
        env = "SIDEKICK_ALLOW",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub allow: Vec<String>,

    /// The HAProxy to run, or to check files with [default: /usr/sbin/haproxy]
    #[arg(long, env = "SIDEKICK_HAPROXY", value_name = "PATH")]
    pub haproxy: Option<String>,

    /// Run no HAProxy; use the running one with this master socket (haproxy -Ws -S SOCKET)
    #[arg(long, env = "SIDEKICK_HAPROXY_MASTER", value_name = "SOCKET")]
    pub haproxy_master: Option<String>,

    /// The file to write [default: /etc/haproxy/haproxy.cfg with --haproxy-master, else
    /// /var/lib/sidekick/haproxy.cfg]
    #[arg(long, env = "SIDEKICK_HAPROXY_CONFIG", value_name = "FILE")]
    pub haproxy_config: Option<String>,

    /// A file with your own global and defaults sections (and any others), instead of the built-in ones
    #[arg(long, env = "SIDEKICK_HAPROXY_BASE", value_name = "FILE")]
    pub haproxy_base: Option<String>,

    /// The address of HAProxy's statistics page, or `off` [default: 127.0.0.1:1936; off with --haproxy-base]
    #[arg(long, env = "SIDEKICK_STATS", value_name = "ADDRESS")]
    pub stats: Option<String>,

    /// How long instances are kept that disappear from etcd at once (over half of a service of 4 or more,
    /// or all of 2 services or more, within 2 s); 0: not at all
    #[arg(
        long,
        env = "SIDEKICK_HOLD",
        default_value = DEFAULT_HOLD,
        value_name = "DURATION"
    )]
    pub hold: String,

    /// How long the listener of a service without instances stays bound; it refuses connections
    #[arg(
        long,
        env = "SIDEKICK_FORGET",
        default_value = DEFAULT_FORGET,
        value_name = "DURATION"
    )]
    pub forget: String,

    /// How long the open connections of an instance last after its key is gone; it gets no new ones, and they
    /// end sooner where HAProxy's check finds it down; 0: they end with its key
    #[arg(
        long,
        env = "SIDEKICK_DRAIN_TIMEOUT",
        default_value = DEFAULT_DRAIN_TIMEOUT,
        value_name = "DURATION"
    )]
    pub drain_timeout: String,

    /// Print the configuration that would be written, and on stderr what it omits; change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Serve metrics, health, readiness and a page over HTTP there, like 127.0.0.1:9469, or :9469 for all addresses
    /// [default: not at all]
    #[arg(long, env = "SIDEKICK_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick agent`, checked.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Below which keys are services; no slash at its end.
    pub prefix: String,
    /// Below which keys the agent says what is drained.
    pub control: ControlPrefix,
    /// Who listens where.
    pub rules: listeners::ListenerRules,
    /// The global and defaults sections.
    pub base: String,
    /// What they say of each server.
    pub server_defaults: ServerDefaults,
    /// The program: to be run, or to check files with.
    pub haproxy: PathBuf,
    /// Who starts HAProxy, and the path of its master socket.
    pub haproxy_mode: HaproxyMode,
    /// The file that HAProxy reads.
    pub file: PathBuf,
    /// How long things outlast their keys.
    pub retention: membership::Retention,
    /// Which addresses instances may have.
    pub allow: Allow,
    /// Where metrics, health, readiness and the page are served; `None`: not at all.
    pub listen: Option<SocketAddr>,
    /// Print, and that's it.
    pub dry_run: bool,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl AgentConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: AgentArgs) -> Checked<Self> {
        let mut binds = BTreeMap::new();
        for text in args.bind.iter().filter(|text| !text.is_empty()) {
            let (service, bind) = bind(text)?;
            if binds.insert(service, bind).is_some() {
                return Err(wrong(
                    "--bind",
                    format!("{text:?}: that service has a bind already"),
                ));
            }
        }
        let base = args.haproxy_base.map(|path| {
            std::fs::read_to_string(&path)
                .map_err(|e| unusable_file("--haproxy-base", format!("can't read {path}: {e}")))
        });
        let base = base.transpose()?;
        let server_defaults = ServerDefaults::of(base.as_deref().unwrap_or(DEFAULT_BASE))
            .map_err(|why| unusable_file("--haproxy-base", why))?;
        let stats = match (args.stats.as_deref(), &base) {
            (None, Some(_)) | (Some("off"), _) => None,
            (text, _) => Some(
                text.unwrap_or(STATS)
                    .parse()
                    .map_err(|e: String| wrong("--stats", e))?,
            ),
        };
        let reserved = base
            .iter()
            .flat_map(|base| sections(base))
            .map(str::to_owned)
            .collect();
        let occupied = base.iter().flat_map(|base| occupied(base)).collect();
        let (haproxy_mode, file) = haproxy_mode(args.haproxy_master, args.haproxy_config)?;
        if !args.dry_run {
            directory(&file)?;
        }
        let prefix = prefix(&args.prefix)?;
        Ok(Self {
            control: control_prefix(args.control_prefix.as_deref(), &prefix)?,
            prefix,
            rules: listeners::ListenerRules {
                binds,
                stats,
                reserved,
                occupied,
            },
            base: base.unwrap_or_else(|| DEFAULT_BASE.to_owned()),
            server_defaults,
            haproxy: program(args.haproxy, args.dry_run)?,
            haproxy_mode,
            file,
            retention: membership::Retention {
                hold: duration("--hold", &args.hold)?,
                forget: duration("--forget", &args.forget)?,
                drain: duration("--drain-timeout", &args.drain_timeout)?,
            },
            allow: allow(&args.allow)?,
            listen: listen(args.listen.as_deref())?,
            dry_run: args.dry_run,
            etcd: etcd(&args.etcd)?,
        })
    }
}

fn allow(texts: &[String]) -> Checked<Allow> {
    let texts = texts.iter().map(|text| text.trim());
    let networks = texts.filter(|text| !text.is_empty()).map(str::parse);
    let networks: Result<_, String> = networks.collect();
    Ok(Allow(networks.map_err(|e| wrong("--allow", e))?))
}

/// `redis=:80`.
fn bind(text: &str) -> Checked<(String, Bind)> {
    let (service, bind) = text.split_once('=').ok_or_else(|| {
        wrong(
            "--bind",
            format!("{text:?} is not of the form SERVICE=ADDRESS, like redis=:80"),
        )
    })?;
    check_part(service).map_err(|e| wrong("--bind", format!("the service {service:?} {e}")))?;
    Ok((
        service.to_owned(),
        bind.parse().map_err(|e: String| wrong("--bind", e))?,
    ))
}

fn haproxy_mode(master: Option<String>, file: Option<String>) -> Checked<(HaproxyMode, PathBuf)> {
    // What systemd made for us is a list, of which the first is meant.
    let given = |name: &str| {
        let list = std::env::var(name).ok()?;
        list.split(':')
            .next()
            .filter(|first| !first.is_empty())
            .map(PathBuf::from)
    };
    let (mode, file) = match master {
        Some(socket) => (
            HaproxyMode::Attach(socket.into()),
            file.map_or_else(|| DEBIANS_FILE.into(), PathBuf::from),
        ),
        None => {
            let state = || given("STATE_DIRECTORY").unwrap_or_else(|| OUR_DIRECTORY.into());
            let file = file.map_or_else(|| state().join("haproxy.cfg"), PathBuf::from);
            let directory =
                given("RUNTIME_DIRECTORY").or_else(|| file.parent().map(Path::to_owned));
            (
                HaproxyMode::Supervise(directory.unwrap_or_default().join("haproxy-master.sock")),
                file,
            )
        }
    };
    let text = mode.socket().to_string_lossy();
    // It stands in an argument and in a file of HAProxy's, where other characters have a meaning.
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    if text.len() > LONGEST_SOCKET || !text.bytes().all(harmless) {
        let option = if matches!(mode, HaproxyMode::Attach(_)) {
            "--haproxy-master"
        } else {
            "--haproxy-config"
        };
        let rule = format!("at most {LONGEST_SOCKET} letters, digits and / . _ -");
        return Err(wrong(
            option,
            format!("{text:?} is no path for HAProxy's socket ({rule})"),
        ));
    }
    Ok((mode, file))
}

/// Our own is made when it is needed. Any other may be a slip of the pen.
fn directory(file: &Path) -> Checked<()> {
    let directory = file.parent().filter(|it| !it.as_os_str().is_empty());
    match directory {
        Some(it) if !it.is_dir() && it != Path::new(OUR_DIRECTORY) => Err(wrong(
            "--haproxy-config",
            format!(
                "there is no directory {}; make it, or name a file elsewhere",
                it.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// A dry run needs none.
fn program(given: Option<String>, dry_run: bool) -> Checked<PathBuf> {
    let candidates: Vec<PathBuf> = match given {
        Some(path) => vec![path.into()],
        None => PROGRAMS.map(PathBuf::from).to_vec(),
    };
    let found = candidates.iter().find(|path| path.is_file() || dry_run);
    found.cloned().ok_or_else(|| {
        wrong(
            "--haproxy",
            format!("there is no {}", candidates[0].display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn config(options: &[&str]) -> Checked<AgentConfig> {
        let words = ["sidekick", "--haproxy=/bin/sh"].iter().chain(options);
        AgentConfig::new(Line::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn networks_are_allowed_one_by_one_or_by_commas() {
        let both = config(&["--allow=10.0.0.0/8,fd00::/8", "--allow", "192.0.2.7"]).unwrap();
        let networks: Vec<_> = both.allow.0.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]);
        assert_eq!(
            config(&["--allow=10.0.0.0/33"]).unwrap_err().to_string(),
            "--allow: \"10.0.0.0/33\" is no network; write 10.0.0.0/8, fd00::/8 or 10.0.0.7"
        );
    }

    #[test]
    fn a_directory_that_is_missing_is_named_and_ours_is_made() {
        let wrong = config(&["--haproxy-config=/nowhere/at-all/haproxy.cfg"]);
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "--haproxy-config: there is no directory /nowhere/at-all; make it, or name a file elsewhere"
        );
        assert!(config(&["--haproxy-config=/nowhere/haproxy.cfg", "--dry-run"]).is_ok());
        assert!(config(&["--haproxy-config=/var/lib/sidekick/haproxy.cfg"]).is_ok());
        assert!(config(&["--haproxy-config=haproxy.cfg"]).is_ok());
    }
}
