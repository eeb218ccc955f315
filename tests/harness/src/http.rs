//! HTTP as its bytes: a client that can also be a bad one.

use crate::wait::{PATIENCE, eventually};
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The status line and the headers, in lower case.
    pub head: String,
    /// What follows.
    pub body: String,
}

/// What was answered to `GET path`; `None`: nobody answers. HTTP/1.0, so that bodies come as they are.
pub async fn get(address: SocketAddr, path: &str) -> Option<HttpAnswer> {
    ask_http(address, &format!("GET {path} HTTP/1.0\r\n\r\n")).await
}

/// What was answered to this text, until the connection's end.
pub async fn ask_http(address: SocketAddr, request: &str) -> Option<HttpAnswer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.ok()?;
        let text = String::from_utf8(bytes).expect("an answer is UTF-8");
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(HttpAnswer {
            status,
            head: head.to_lowercase(),
            body: body.to_owned(),
        })
    };
    let answer = timeout(PATIENCE, exchange).await;
    answer.unwrap_or_else(|_| panic!("{address} takes {request:?} and does not answer"))
}

/// Waits until that path answers with that status.
pub async fn answers(address: SocketAddr, path: &str, status: u16) -> HttpAnswer {
    let what = format!("{path} answers {status}");
    eventually(PATIENCE, &what, async || {
        get(address, path).await.filter(|it| it.status == status)
    })
    .await
}

/// `promtool check metrics`, of Debian's `prometheus`, which reads Prometheus' own text.
pub async fn promtool_takes(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can't be started; is Debian's prometheus installed?");
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).await.unwrap();
    drop(input);
    let said = promtool.wait_with_output().await.unwrap();
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.success() && words.is_empty(),
        "{words}\n{metrics}"
    );
}

/// Server-sent events.
pub struct EventStream(BufReader<TcpStream>);

impl EventStream {
    /// Follows that path.
    pub async fn of(address: SocketAddr, path: &str) -> EventStream {
        let mut stream = TcpStream::connect(address).await.expect("nobody listens");
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        EventStream(BufReader::new(stream))
    }

    /// The next event's data; `None` after the last one. Cancel-safe only between events.
    pub async fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim_end().to_owned());
            }
        }
    }

    /// Reads events until one's data fits.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let find = async {
            loop {
                let data = self.next().await.expect("the stream has ended");
                if fits(&data) {
                    return data;
                }
            }
        };
        let found = timeout(PATIENCE, find).await;
        found.unwrap_or_else(|_| panic!("no event shows: {what}"))
    }
}

/// Makes sure that each metric of this text stands in a page.
pub fn are_described(samples: &std::collections::BTreeMap<String, f64>, page: &str) {
    for name in samples.keys() {
        let name = name.split('{').next().unwrap();
        let suffixes = ["_bucket", "_sum", "_count"];
        let mut bare = suffixes.iter().filter_map(|it| name.strip_suffix(it));
        let name = bare.next().unwrap_or(name);
        assert!(
            page.contains(&format!("`{name}`")),
            "{name} is not described"
        );
    }
}

/// A strict look at OpenMetrics text: the samples, by name and labels.
///
/// <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>
#[must_use]
pub fn open_metrics(text: &str) -> std::collections::BTreeMap<String, f64> {
    let mut samples = std::collections::BTreeMap::new();
    let body = text.strip_suffix("# EOF\n").expect("# EOF is missing");
    let (mut family, mut kind, mut families) = ("", "", std::collections::BTreeSet::new());
    for line in body.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                assert!(families.insert(*name), "{name} comes twice");
                assert!(
                    name.starts_with("sidekick_") && help.ends_with('.'),
                    "{line}"
                );
                (family, kind) = (name, "");
            }
            ["#", "TYPE", name, its] => {
                assert_eq!(*name, family, "help and type are of one family");
                kind = its;
            }
            _ => {
                let (name, value) = line.rsplit_once(' ').expect(line);
                let bare = name.split('{').next().unwrap();
                let suffix = bare.strip_prefix(family).expect(line);
                let suffixes: &[&str] = match kind {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    other => panic!("{family} is a {other:?}"),
                };
                assert!(suffixes.contains(&suffix), "{line}");
                let value = value.parse().expect(line);
                assert!(samples.insert(name.to_owned(), value).is_none(), "{line}");
            }
        }
    }
    samples
}
