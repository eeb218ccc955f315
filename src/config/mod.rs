//! Raw input → what the jobs take. Everything that can be wrong before anything runs is found here.

mod agent;
mod announce;
mod etcd;
mod ignored;

pub use agent::{AgentConfig, HaproxyMode};
pub use announce::{AnnounceConfig, ExplainConfig};
pub use ignored::ignored_variables;

use crate::cli::ListArgs;
use crate::endpoint::check_part;
use crate::etcd::EtcdConfig;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where an agent's HAProxy has its master socket: under our unit, started by hand, and Debian's own.
const MASTERS: [&str; 3] = [
    "/run/sidekick/haproxy-master.sock",
    "/var/lib/sidekick/haproxy-master.sock",
    "/run/haproxy-master.sock",
];

/// `sidekick list`, checked.
#[derive(Debug, Clone)]
pub struct ListConfig {
    /// Below which keys are services; no slash at its end.
    pub prefix: String,
    /// That service alone.
    pub service: Option<String>,
    /// One array instead of a table.
    pub json: bool,
    /// Go on and print again whenever it changes.
    pub watch: bool,
    /// Master sockets of a HAProxy on this machine; the first that answers is asked.
    pub haproxy: Vec<PathBuf>,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl ListConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: ListArgs) -> Checked<Self> {
        if let Some(service) = &args.service {
            check_part(service).map_err(|e| wrong("SERVICE", format!("{service:?} {e}")))?;
        }
        Ok(Self {
            prefix: prefix(&args.prefix)?,
            service: args.service,
            json: args.output == crate::cli::Output::Json,
            watch: args.watch,
            haproxy: match args.haproxy_master {
                Some(socket) => vec![socket.into()],
                None => MASTERS.map(PathBuf::from).to_vec(),
            },
            etcd: etcd::etcd(&args.etcd)?,
        })
    }
}

/// An option and what is wrong with it, in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {problem}")]
pub struct ConfigError {
    option: &'static str,
    problem: String,
    may_pass: bool,
}

impl ConfigError {
    /// Whether the same command line may be right later: a file that it names can't be used now, for it isn't
    /// mounted yet, or is being replaced. A service manager is to try that again, and wrong usage not.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        self.may_pass
    }
}

fn wrong(option: &'static str, problem: impl fmt::Display) -> ConfigError {
    // One line, whatever the input holds.
    let problem = problem.to_string().replace(['\n', '\r'], " ");
    ConfigError {
        option,
        problem,
        may_pass: false,
    }
}

fn unusable_file(option: &'static str, problem: impl fmt::Display) -> ConfigError {
    ConfigError {
        may_pass: true,
        ..wrong(option, problem)
    }
}

type Checked<T> = Result<T, ConfigError>;

/// The longest duration, in seconds: 136 years, and sums of a few of them overflow nowhere. (etcd takes
/// a TTL of 9,000,000,000 s.)
const LONGEST: u32 = u32::MAX;

/// `60`, `60s`, `1m30s`.
fn duration(option: &'static str, text: &str) -> Checked<Duration> {
    let too_long = || {
        wrong(
            option,
            format!("{text:?} is too long; the longest is {LONGEST} s"),
        )
    };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let read = if digits {
        let seconds = text.parse().map_err(|_| too_long())?;
        Duration::from_secs(seconds)
    } else {
        humantime::parse_duration(text).map_err(|error| match error {
            humantime::DurationError::NumberOverflow => too_long(),
            _ => wrong(
                option,
                format!("{text:?} is no duration; write 60, 60s or 1m30s"),
            ),
        })?
    };
    if read > Duration::from_secs(LONGEST.into()) {
        return Err(too_long());
    }
    Ok(read)
}

/// `/services` without a slash at its end.
fn prefix(text: &str) -> Checked<String> {
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let parts = trimmed.strip_prefix('/').ok_or_else(|| {
        wrong(
            "--prefix",
            format!("{text:?} must begin with '/', like /services"),
        )
    })?;
    for part in parts.split('/') {
        check_part(part).map_err(|e| wrong("--prefix", format!("{text:?} {e}")))?;
    }
    Ok(trimmed.to_owned())
}

/// The authority of `scheme://host[:port]`, with the default port where none is named.
fn check_url(option: &'static str, url: &str, default_port: Option<u16>) -> Checked<String> {
    let no_url = |why: &str| {
        wrong(
            option,
            format!("{url:?} is no URL of the form http://HOST:PORT: {why}"),
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| no_url("no scheme"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(path) = authority.find(['/', '?', '#']) {
        let path = &authority[path..];
        return Err(no_url(&format!("a path is not taken, leave out {path:?}")));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let harmless = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            !host.is_empty() && host.bytes().all(harmless)
        }
    };
    if !host_ok {
        return Err(no_url("the host can't be read"));
    }
    let port = match port {
        Some(text) => text.parse::<u16>().ok().filter(|p| *p > 0),
        None => default_port,
    };
    let port = port.ok_or_else(|| no_url("the port is not from 1 to 65535"))?;
    Ok(format!("{scheme}://{host}:{port}"))
}
