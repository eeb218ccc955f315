//! What a service's labels say of its check. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The least time between two answers, and for one.
const LEAST_TIME: Duration = Duration::from_millis(100);

/// The most time.
const MOST_TIME: Duration = Duration::from_secs(3_600);

/// The longest path, in bytes.
const MAX_PATH: usize = 1_024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckKind {
    /// Whether a connection is accepted: `tcp`.
    Tcp,
    /// Whether a GET of this path is answered with a status from 200 to 399: `http:/PATH`.
    Http(String),
}

impl FromStr for CheckKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("tcp", "") if text == "tcp" => Ok(Self::Tcp),
            ("http", path) if is_path(path) => Ok(Self::Http(path.to_owned())),
            _ => Err(format!(
                "is no check: write tcp, or http:/PATH, with a path of {MAX_PATH} visible ASCII characters at most"
            )),
        }
    }
}

fn is_path(text: &str) -> bool {
    let visible = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    text.starts_with('/') && visible && text.len() <= MAX_PATH
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Http(path) => write!(f, "http:{path}"),
        }
    }
}

/// The time between two checks, or for the answer of one: 100 ms to 1 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckTime(pub Duration);

impl FromStr for CheckTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = humantime::parse_duration(text).ok();
        let time = time.filter(|time| (LEAST_TIME..=MOST_TIME).contains(time));
        time.map(Self)
            .ok_or_else(|| "is no duration like 10s, from 100ms to 1h".to_owned())
    }
}

/// What a service's labels say of its check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckSettings {
    /// What is asked.
    pub kind: CheckKind,
    /// From one answer to the next question.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl CheckSettings {
    /// The interval where no label says one.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// The timeout where no label says one.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_tcp_or_the_path_of_a_get() {
        for text in ["tcp", "http:/", "http:/health?deep=1"] {
            let kind: CheckKind = text.parse().unwrap();
            assert_eq!(kind.to_string(), text);
        }
        let long = format!("http:/{}", "x".repeat(MAX_PATH));
        let injection = "http:/ HTTP/1.1\r\nX: y";
        for text in [
            "",
            "tcp:",
            "TCP",
            "http:",
            "http",
            "http:health",
            injection,
            "http:/#a",
            &long,
        ] {
            assert!(text.parse::<CheckKind>().is_err(), "{text}");
        }
        let time = |text: &str| text.parse().ok().map(|CheckTime(time)| time);
        assert_eq!(time("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(time("100ms"), Some(LEAST_TIME));
        for text in ["", "99ms", "0s", "61m", "10", "-1s"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
