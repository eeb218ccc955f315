//! What the text of an option means: durations, prefixes and URLs, and the error that names the option. Pure.

use crate::endpoint::check_part;
use crate::endpoint::control::ControlPrefix;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The default prefix of the keys.
pub const DEFAULT_PREFIX: &str = "/services";
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

pub(crate) fn wrong(option: &'static str, problem: impl fmt::Display) -> ConfigError {
    // One line, whatever the input holds.
    let problem = problem.to_string().replace(['\n', '\r'], " ");
    ConfigError {
        option,
        problem,
        may_pass: false,
    }
}

pub(crate) fn unusable_file(option: &'static str, problem: impl fmt::Display) -> ConfigError {
    ConfigError {
        may_pass: true,
        ..wrong(option, problem)
    }
}

pub(crate) type Checked<T> = Result<T, ConfigError>;

/// The longest duration, in seconds: 136 years, and sums of a few of them overflow nowhere. (etcd takes
/// a TTL of 9,000,000,000 s.)
const LONGEST: u32 = u32::MAX;

/// `60`, `60s`, `1m30s`.
pub(crate) fn duration(option: &'static str, text: &str) -> Checked<Duration> {
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

/// `--listen`: `127.0.0.1:9469`, `[::1]:9469`, or `:9469` for all addresses, IPv4 and IPv6. `None`: not at all.
pub(crate) fn listen(text: Option<&str>) -> Checked<Option<SocketAddr>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let everywhere = text.strip_prefix(':').map(|port| format!("[::]:{port}"));
    let address: Result<SocketAddr, _> = everywhere.as_deref().unwrap_or(text).parse();
    let address = address.ok().filter(|address| address.port() > 0);
    address.map(Some).ok_or_else(|| {
        wrong(
            "--listen",
            format!("{text:?} is no address with a port; write 127.0.0.1:9469, [::1]:9469, or :9469 for all addresses"),
        )
    })
}

/// `/services` without a slash at its end.
pub(crate) fn prefix(text: &str) -> Checked<String> {
    path("--prefix", text)
}

/// The prefix of the control keys: the one that is given, else the one that belongs to the keys below `prefix`.
pub(crate) fn control_prefix(text: Option<&str>, prefix: &str) -> Checked<ControlPrefix> {
    Ok(match text {
        None => ControlPrefix::of(prefix),
        Some(text) => ControlPrefix::new(&path("--control-prefix", text)?),
    })
}

/// A prefix of keys, without a slash at its end.
fn path(option: &'static str, text: &str) -> Checked<String> {
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let parts = trimmed.strip_prefix('/').ok_or_else(|| {
        wrong(
            option,
            format!("{text:?} must begin with '/', like /services"),
        )
    })?;
    for part in parts.split('/') {
        check_part(part).map_err(|e| wrong(option, format!("{text:?} {e}")))?;
    }
    Ok(trimmed.to_owned())
}

/// The authority of `scheme://host[:port]`, with the default port where none is named.
pub(crate) fn check_url(
    option: &'static str,
    url: &str,
    default_port: Option<u16>,
) -> Checked<String> {
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
