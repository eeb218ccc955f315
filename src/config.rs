//! Raw input → what the jobs take. Everything that can be wrong before anything runs is found here.

use crate::agent::layout::{self, Bind};
use crate::agent::presence;
use crate::agent::render::{self, BASE};
use crate::announce::docker::DockerHost;
use crate::announce::rules::Rules;
use crate::cli::{
    AgentArgs, AnnounceArgs, ContainerArgs, DEFAULT_DOCKER_HOST, DEFAULT_ENDPOINTS, EtcdArgs,
    ExplainArgs, ListArgs,
};
use crate::endpoint::{Key, check_part};
use crate::etcd::{EtcdConfig, Secret, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The least TTL. etcd's own minimum follows its election timeout (1.5 × 1 s by default, rounded up).
const MIN_TTL: Duration = Duration::from_secs(2);

/// The port that etcd listens on for clients, where an endpoint names none.
const ETCD_PORT: u16 = 2379;

/// `sidekick announce`, checked.
#[derive(Debug, Clone)]
pub struct AnnounceConfig {
    /// Its name, or 12 or more digits of its id.
    pub container: String,
    /// The key to keep.
    pub key: Key,
    /// Which address and port to announce.
    pub rules: Rules,
    /// The lease's time to live; whole seconds.
    pub ttl: Duration,
    /// Between two renewals; shorter than `ttl`.
    pub interval: Duration,
    /// How long the key is kept while Docker can't be asked; `None`: for ever.
    pub docker_grace: Option<Duration>,
    /// Where the Docker Engine listens.
    pub docker: DockerHost,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

/// `sidekick explain`, checked.
#[derive(Debug, Clone)]
pub struct ExplainConfig {
    /// As for announcing.
    pub container: String,
    /// The key to look at.
    pub key: Option<Key>,
    /// Where to look for keys if none is given.
    pub prefix: String,
    /// As for announcing.
    pub rules: Rules,
    /// Where the Docker Engine listens.
    pub docker: DockerHost,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

/// How HAProxy is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By us, with its master's socket there.
    Supervise(PathBuf),
    /// By somebody else, with its master's socket there.
    Attach(PathBuf),
}

/// `sidekick agent`, checked.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Below which keys are services; no slash at its end.
    pub prefix: String,
    /// Who listens where.
    pub rules: layout::Rules,
    /// The global and defaults sections.
    pub base: String,
    /// The program: to be run, or to check files with.
    pub haproxy: PathBuf,
    /// By whom it is run.
    pub way: Way,
    /// The file that HAProxy reads.
    pub file: PathBuf,
    /// How long things outlast their keys.
    pub keeping: presence::Settings,
    /// Print, and that's it.
    pub dry_run: bool,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

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
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

/// An option and what is wrong with it, in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {problem}")]
pub struct ConfigError {
    option: &'static str,
    problem: String,
}

fn wrong(option: &'static str, problem: impl fmt::Display) -> ConfigError {
    // One line, whatever the input holds.
    let problem = problem.to_string().replace(['\n', '\r'], " ");
    ConfigError { option, problem }
}

type Checked<T> = Result<T, ConfigError>;

impl AnnounceConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: AnnounceArgs) -> Checked<Self> {
        let ttl = duration("--ttl", &args.ttl)?;
        let interval = duration("--interval", &args.interval)?;
        if ttl < MIN_TTL || ttl.subsec_nanos() != 0 {
            let least = MIN_TTL.as_secs();
            return Err(wrong(
                "--ttl",
                format!(
                    "{} is not a whole number of seconds from {least} up",
                    args.ttl
                ),
            ));
        }
        if interval >= ttl || interval.is_zero() {
            return Err(wrong(
                "--interval",
                format!(
                    "{} is not between 0 and the TTL of {} s; the key would vanish between renewals",
                    args.interval,
                    ttl.as_secs()
                ),
            ));
        }
        let docker_grace = match args.docker_grace.as_deref() {
            None => Some(ttl),
            Some("forever") => None,
            Some(text) => Some(duration("--docker-grace", text)?),
        };
        Ok(Self {
            key: args
                .key
                .parse()
                .map_err(|e| wrong("--key", format!("{:?} {e}", args.key)))?,
            ttl,
            interval,
            docker_grace,
            rules: rules(&args.container)?,
            docker: docker(&args.container)?,
            container: container(args.container.container)?,
            etcd: etcd(&args.etcd)?,
        })
    }
}

impl ExplainConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: ExplainArgs) -> Checked<Self> {
        let key = args.key.map(|key| {
            key.parse()
                .map_err(|e| wrong("--key", format!("{key:?} {e}")))
        });
        Ok(Self {
            key: key.transpose()?,
            prefix: prefix(&args.prefix)?,
            rules: rules(&args.container)?,
            docker: docker(&args.container)?,
            container: container(args.container.container)?,
            etcd: etcd(&args.etcd)?,
        })
    }
}

/// Where Debian's package reads its configuration.
const DEBIANS_FILE: &str = "/etc/haproxy/haproxy.cfg";

/// Where ours is, unless systemd gives us a StateDirectory=.
const OUR_DIRECTORY: &str = "/var/lib/sidekick";

/// Where a HAProxy is looked for: Debian's package, and the official image.
const PROGRAMS: [&str; 2] = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];

/// Where the statistics page is unless told otherwise.
const STATS: &str = "127.0.0.1:1936";

/// unix(7) has 108 bytes, and HAProxy appends a dozen while it binds.
const LONGEST_SOCKET: usize = 90;

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
        let given = |option: Option<String>| option.filter(|text| !text.is_empty());
        let base = given(args.haproxy_base).map(|path| {
            std::fs::read_to_string(&path)
                .map_err(|e| wrong("--haproxy-base", format!("can't read {path}: {e}")))
        });
        let base = base.transpose()?;
        let stats = match (args.stats.as_deref(), &base) {
            (None, Some(_)) | (Some("off" | ""), _) => None,
            (text, _) => Some(
                text.unwrap_or(STATS)
                    .parse()
                    .map_err(|e: String| wrong("--stats", e))?,
            ),
        };
        let reserved = base
            .iter()
            .flat_map(|base| render::sections(base))
            .map(str::to_owned)
            .collect();
        let (way, file) = way(given(args.haproxy_master), given(args.haproxy_config))?;
        Ok(Self {
            prefix: prefix(&args.prefix)?,
            rules: layout::Rules {
                binds,
                stats,
                reserved,
            },
            base: base.unwrap_or_else(|| BASE.to_owned()),
            haproxy: program(given(args.haproxy), args.dry_run)?,
            way,
            file,
            keeping: presence::Settings {
                hold: duration("--hold", &args.hold)?,
                forget: duration("--forget", &args.forget)?,
            },
            dry_run: args.dry_run,
            etcd: etcd(&args.etcd)?,
        })
    }
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
            etcd: etcd(&args.etcd)?,
        })
    }
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

fn way(master: Option<String>, file: Option<String>) -> Checked<(Way, PathBuf)> {
    // What systemd made for us is a list, of which the first is meant.
    let given = |name: &str| {
        let list = std::env::var(name).ok()?;
        list.split(':')
            .next()
            .filter(|first| !first.is_empty())
            .map(PathBuf::from)
    };
    let (way, file) = match master {
        Some(socket) => (
            Way::Attach(socket.into()),
            file.map_or_else(|| DEBIANS_FILE.into(), PathBuf::from),
        ),
        None => {
            let state = || given("STATE_DIRECTORY").unwrap_or_else(|| OUR_DIRECTORY.into());
            let file = file.map_or_else(|| state().join("haproxy.cfg"), PathBuf::from);
            let directory =
                given("RUNTIME_DIRECTORY").or_else(|| file.parent().map(Path::to_owned));
            (
                Way::Supervise(directory.unwrap_or_default().join("haproxy-master.sock")),
                file,
            )
        }
    };
    let (Way::Supervise(socket) | Way::Attach(socket)) = &way;
    let text = socket.to_string_lossy();
    // It stands in an argument and in a file of HAProxy's, where other characters have a meaning.
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    if text.len() > LONGEST_SOCKET || !text.bytes().all(harmless) {
        let option = if matches!(way, Way::Attach(_)) {
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
    Ok((way, file))
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

/// `60`, `60s`, `1m30s`.
fn duration(option: &'static str, text: &str) -> Checked<Duration> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let longest = Duration::from_secs(u32::MAX.into());
    humantime::parse_duration(text)
        .ok()
        .filter(|d| *d <= longest)
        .ok_or_else(|| {
            wrong(
                option,
                format!("{text:?} is no duration; write 60, 60s or 1m30s"),
            )
        })
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

/// Docker's own rule for names; it also keeps the name from being anything else in a URL.
fn container(name: String) -> Checked<String> {
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits {
        Ok(name)
    } else {
        let rule = "letters, digits and _ . - after a letter or a digit";
        Err(wrong(
            "CONTAINER",
            format!("{name:?} is no container name ({rule})"),
        ))
    }
}

fn rules(args: &ContainerArgs) -> Checked<Rules> {
    let host = args.host.as_deref().map(str::parse).transpose();
    let port = args.port.as_deref().map(str::parse).transpose();
    Ok(Rules {
        host: host.map_err(|e| wrong("--host", e))?,
        port: port.map_err(|e: String| wrong("--port", e))?,
        hostname: hostname(),
    })
}

/// This machine's name. In a container it would be the container's id, which nobody can dial.
fn hostname() -> Option<String> {
    let contained = ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|file| Path::new(file).exists());
    if contained {
        return None;
    }
    hostname::get().ok()?.into_string().ok()
}

fn docker(args: &ContainerArgs) -> Checked<DockerHost> {
    // An empty variable is an unset one, as docker has it.
    let url = match args.docker_host.as_str() {
        "" => DEFAULT_DOCKER_HOST,
        url => url,
    };
    if let Some(path) = url.strip_prefix("unix://") {
        return match path {
            "" => Err(wrong("--docker-host", format!("{url:?} names no socket"))),
            path => Ok(DockerHost::Unix(path.to_owned())),
        };
    }
    let tls = args
        .docker_tls_verify
        .as_ref()
        .is_some_and(|v| !v.is_empty());
    if url.starts_with("https://") || tls {
        return Err(wrong(
            "DOCKER_TLS_VERIFY",
            "sidekick speaks no TLS to Docker, and won't fall back to plain text; use a unix:// socket on the Docker host",
        ));
    }
    if url.starts_with("tcp://") || url.starts_with("http://") {
        check_url("--docker-host", url, None)?;
        return Ok(DockerHost::Tcp(url.to_owned()));
    }
    Err(wrong(
        "--docker-host",
        format!("{url:?} is neither unix://PATH nor tcp://HOST:PORT"),
    ))
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

fn etcd(args: &EtcdArgs) -> Checked<EtcdConfig> {
    const OPTION: &str = "--etcd-endpoints";
    // An empty variable is an unset one, as etcdctl has it.
    let given = |option: &Option<String>| option.clone().filter(|text| !text.is_empty());
    let tls = tls(
        given(&args.etcd_cacert),
        given(&args.etcd_cert),
        given(&args.etcd_key),
    )?;
    let mut endpoints = Vec::new();
    let all = match args.etcd_endpoints.as_str() {
        "" => DEFAULT_ENDPOINTS,
        all => all,
    };
    for text in all.split(',').map(str::trim) {
        let url = match text.split_once("://") {
            Some(_) => text.to_owned(),
            None if tls.is_some() => format!("https://{text}"),
            None => format!("http://{text}"),
        };
        let url = check_url(OPTION, &url, Some(ETCD_PORT))?;
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(wrong(
                OPTION,
                format!("{text:?} is neither http:// nor https://"),
            ));
        }
        if url.starts_with("http://") && tls.is_some() {
            return Err(wrong(
                OPTION,
                format!(
                    "{text:?} is plain http, but --etcd-cacert or --etcd-cert is given; write https://"
                ),
            ));
        }
        endpoints.push(url);
    }
    let https = endpoints
        .iter()
        .filter(|url| url.starts_with("https://"))
        .count();
    if https > 0 && https < endpoints.len() {
        return Err(wrong(
            OPTION,
            "http:// and https:// are mixed; a password would go in the clear",
        ));
    }
    let tls = tls.or_else(|| (https > 0).then(Tls::default));
    Ok(EtcdConfig {
        endpoints,
        tls,
        user: user(args)?,
    })
}

fn user(args: &EtcdArgs) -> Checked<Option<(String, Secret)>> {
    let text = args.etcd_user.as_deref().unwrap_or_default();
    let file = args.etcd_password_file.as_deref().filter(|f| !f.is_empty());
    let (name, inline) = match text.split_once(':') {
        Some((name, password)) => (name, Some(password.to_owned())),
        None => (text, None),
    };
    let from_file = match file {
        Some(path) => {
            let all = std::fs::read_to_string(path)
                .map_err(|e| wrong("--etcd-password-file", format!("can't read {path}: {e}")))?;
            Some(all.lines().next().unwrap_or_default().to_owned())
        }
        None => None,
    };
    let password = from_file.or(inline).or_else(|| args.etcd_password.clone());
    match (name, password) {
        ("", None) => Ok(None),
        ("", Some(_)) if file.is_some() => Err(wrong(
            "--etcd-user",
            "is missing, though there is a password file",
        )),
        // A stray ETCDCTL_PASSWORD alone is nothing, as etcdctl has it.
        ("", Some(_)) => Ok(None),
        (name, None) => Err(wrong(
            "--etcd-user",
            format!("no password for {name}; give --etcd-password-file or ETCDCTL_PASSWORD"),
        )),
        (name, Some(password)) => Ok(Some((name.to_owned(), Secret(password.into_bytes())))),
    }
}

fn tls(ca: Option<String>, cert: Option<String>, key: Option<String>) -> Checked<Option<Tls>> {
    let read = |option, path: &str| {
        std::fs::read(path).map_err(|e| wrong(option, format!("can't read {path}: {e}")))
    };
    let certificates = |option, path: String| {
        let pem = read(option, &path)?;
        let mut all = CertificateDer::pem_slice_iter(&pem);
        match all.next() {
            Some(Ok(_)) if all.all(|c| c.is_ok()) => Ok(pem),
            _ => Err(wrong(option, format!("{path} holds no PEM certificate"))),
        }
    };
    let ca = ca
        .map(|path| certificates("--etcd-cacert", path))
        .transpose()?;
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            let cert = certificates("--etcd-cert", cert)?;
            let pem = read("--etcd-key", &key)?;
            if PrivateKeyDer::from_pem_slice(&pem).is_err() {
                return Err(wrong(
                    "--etcd-key",
                    format!("{key} holds no PEM private key"),
                ));
            }
            Some((cert, Secret(pem)))
        }
        (Some(_), None) => {
            return Err(wrong(
                "--etcd-key",
                "is missing, though there is --etcd-cert",
            ));
        }
        (None, Some(_)) => {
            return Err(wrong(
                "--etcd-cert",
                "is missing, though there is --etcd-key",
            ));
        }
    };
    Ok((ca.is_some() || identity.is_some()).then_some(Tls { ca, identity }))
}
