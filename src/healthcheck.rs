//! `sidekick healthcheck`: asks a sidekick with `--listen` whether it is well. For images that have neither a shell nor
//! curl.

use crate::config::{Checked, duration, listen, wrong};
use crate::telemetry::LogArgs;
use anyhow::Context as _;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The path that is asked for where none is named.
const PATH: &str = "/healthz";

/// The most of an answer that is read: sidekick's is a line.
const ANSWER: usize = 64 * 1024;

/// `sidekick healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Whom to ask: the address that --listen has, or a URL like http://127.0.0.1:9469/readyz
    /// [default path: /healthz]
    #[arg(env = "SIDEKICK_LISTEN", value_name = "ADDRESS")]
    pub address: Option<String>,

    /// Exit with 0 where no address is given: nothing listens, and there is nothing to ask
    #[arg(long)]
    pub if_listening: bool,

    /// How long to wait for the answer
    #[arg(long, default_value = "3s", value_name = "DURATION")]
    pub timeout: String,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick healthcheck`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthcheckConfig {
    /// The address to ask; `None`: no sidekick listens.
    pub target: Option<HealthTarget>,
    /// How long the whole of it may take.
    pub timeout: Duration,
}

/// Whom to ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthTarget {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// With its slash.
    pub path: String,
}

impl HealthcheckConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: &HealthcheckArgs) -> Checked<Self> {
        let address = args.address.as_deref().filter(|text| !text.is_empty());
        let target = match address {
            Some(text) => Some(target(text)?),
            None if args.if_listening => None,
            None => {
                let problem = "whom to ask is not said; name the address that --listen has, or set SIDEKICK_LISTEN";
                return Err(wrong("ADDRESS", problem));
            }
        };
        Ok(Self {
            target,
            timeout: duration("--timeout", &args.timeout)?,
        })
    }
}

fn target(text: &str) -> Checked<HealthTarget> {
    if let Some(rest) = text.strip_prefix("http://") {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let port = port.parse().ok().filter(|port| *port > 0);
        let host = host.trim_matches(['[', ']']);
        let (Some(port), false) = (port, host.is_empty()) else {
            let problem = format!("{text:?} is no URL of the form http://HOST:PORT/PATH");
            return Err(wrong("ADDRESS", problem));
        };
        let path = if path.len() > 1 { path } else { PATH };
        return Ok(HealthTarget {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        });
    }
    let no_address = || {
        let problem = format!("{text:?} is neither an address like 127.0.0.1:9469 nor a URL");
        wrong("ADDRESS", problem)
    };
    let address = listen(Some(text)).ok().flatten().ok_or_else(no_address)?;
    // What listens on all addresses is asked on this machine's own.
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(HealthTarget {
        host: host.to_string(),
        port: address.port(),
        path: PATH.to_owned(),
    })
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthAnswer {
    /// Whether it is 200.
    pub well: bool,
    /// Its first line.
    pub line: String,
}

/// Asks once.
///
/// # Errors
/// No answer within the timeout.
pub async fn run(config: &HealthcheckConfig) -> anyhow::Result<HealthAnswer> {
    let Some(target) = &config.target else {
        return Ok(HealthAnswer {
            well: true,
            line: "SIDEKICK_LISTEN is not set: nothing is asked".to_owned(),
        });
    };
    let HealthTarget { host, port, path } = target;
    let what = || format!("cannot ask {host}, port {port}, for {path}");
    let seconds = config.timeout.as_secs_f32();
    let answer = timeout(config.timeout, ask(target)).await;
    let answer = answer.with_context(|| format!("no answer within {seconds} s"));
    answer.and_then(|answer| answer).with_context(what)
}

async fn ask(target: &HealthTarget) -> anyhow::Result<HealthAnswer> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(&target.path)
        .header(HOST, format!("{}:{}", target.host, target.port))
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        let line = text.lines().next().unwrap_or_default();
        let line = line.replace(char::is_control, " ");
        Ok(HealthAnswer {
            well: status == StatusCode::OK,
            line: match status {
                StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => line,
                other => format!("{other}: {line}"),
            },
        })
    };
    // The connection's end is of no interest: what matters is whether the answer came.
    let (answer, _) = tokio::join!(exchange, async { connection.await.ok() });
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_listen_and_a_url_are_targets() {
        for (text, host, port, path) in [
            ("127.0.0.1:9469", "127.0.0.1", 9469, "/healthz"),
            ("0.0.0.0:9469", "127.0.0.1", 9469, "/healthz"),
            (":9469", "::1", 9469, "/healthz"),
            ("[fd00::1]:9469", "fd00::1", 9469, "/healthz"),
            ("http://sidekick:9469/readyz", "sidekick", 9469, "/readyz"),
            ("http://[::1]:9469", "::1", 9469, "/healthz"),
            ("http://sidekick/", "sidekick", 80, "/healthz"),
        ] {
            let expected = HealthTarget {
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            };
            assert_eq!(target(text), Ok(expected), "{text}");
        }
        for text in [
            "9469",
            "sidekick",
            "https://sidekick:9469",
            "http://:1/",
            "http://a:0/",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
