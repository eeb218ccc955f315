//! What labels and options say of a service's checks: what is asked, how often, and which answers count. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The least time between two answers, and for one.
const LEAST_TIME: Duration = Duration::from_millis(100);

/// The most time.
const MOST_TIME: Duration = Duration::from_secs(3_600);

/// The longest path, in bytes.
const MAX_PATH: usize = 1_024;

/// The most checks of one service: each is a task, and a connection for each interval.
const MAX_CHECKS: usize = 8;

/// The most answers in a row.
const MOST_ANSWERS: u32 = 100;

/// The word for no check, so that a label can say so where an option asks for one.
const NONE: &str = "none";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckKind {
    /// Whether a connection is accepted: `tcp`.
    Tcp,
    /// Whether a GET of this path is answered with a status from 200 to 399: `http:/PATH`.
    Http(String),
    /// Whether Redis answers a PING, be it by asking for a password: `redis`.
    Redis,
}

impl FromStr for CheckKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("tcp", "") if text == "tcp" => Ok(Self::Tcp),
            ("redis", "") if text == "redis" => Ok(Self::Redis),
            ("http", path) if is_path(path) => Ok(Self::Http(path.to_owned())),
            _ => Err(format!(
                "is no check: write tcp, redis, or http:/PATH, with a path of {MAX_PATH} visible ASCII characters at most"
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
            Self::Redis => f.write_str("redis"),
        }
    }
}

/// Which checks a service has, with blanks between them (a path may hold commas); or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckKinds(Vec<CheckKind>);

impl FromStr for CheckKinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        if words == [NONE] {
            return Ok(Self(Vec::new()));
        }
        if words.contains(&NONE) {
            return Err(format!(
                "{NONE:?} stands alone: write it without other checks"
            ));
        }
        if words.len() > MAX_CHECKS {
            let count = words.len();
            return Err(format!(
                "names {count} checks; a service has {MAX_CHECKS} at most"
            ));
        }
        // An empty text is wrong as a whole.
        let words = if words.is_empty() { vec![""] } else { words };
        let kind = |word: &&str| word.parse().map_err(|why| format!("{word:?} {why}"));
        let mut kinds = words.iter().map(kind).collect::<Result<Vec<_>, _>>()?;
        kinds.sort_unstable();
        kinds.dedup();
        Ok(Self(kinds))
    }
}

/// The time between two checks, or for the answer of one: 100 ms to 1 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckTime(Duration);

impl TryFrom<Duration> for CheckTime {
    type Error = String;

    fn try_from(time: Duration) -> Result<Self, String> {
        let fits = (LEAST_TIME..=MOST_TIME).contains(&time);
        fits.then_some(Self(time))
            .ok_or_else(|| "is no duration like 10s, from 100ms to 1h".to_owned())
    }
}

impl FromStr for CheckTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is no duration is as wrong as none.
        let time = humantime::parse_duration(text).unwrap_or_default();
        time.try_into()
    }
}

/// How many answers in a row count: 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckCount(u32);

impl FromStr for CheckCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let count = text.parse().ok().filter(|_| digits);
        let count = count.filter(|count| (1..=MOST_ANSWERS).contains(count));
        count
            .map(Self)
            .ok_or_else(|| format!("is no number from 1 to {MOST_ANSWERS}"))
    }
}

/// One check of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckSettings {
    /// What is asked.
    pub kind: CheckKind,
    /// From one answer to the next question.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many right answers in a row make it pass.
    pub rise: u32,
    /// So many wrong answers in a row make it fail.
    pub fall: u32,
}

impl CheckSettings {
    /// This check, as it is where nothing else is said. One wrong answer may be a lost packet.
    #[must_use]
    pub const fn of(kind: CheckKind) -> Self {
        Self {
            kind,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 3,
        }
    }
}

/// What the labels of one port, those of its container, or the options say of checks; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// What is asked.
    pub kinds: Option<CheckKinds>,
    /// From one answer to the next question.
    pub interval: Option<CheckTime>,
    /// How long an answer may take.
    pub timeout: Option<CheckTime>,
    /// So many right answers in a row make a check pass.
    pub rise: Option<CheckCount>,
    /// So many wrong answers in a row make a check fail.
    pub fall: Option<CheckCount>,
}

impl CheckOptions {
    /// These, and the other ones where these say nothing.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            kinds: self.kinds.clone().or_else(|| other.kinds.clone()),
            interval: self.interval.or(other.interval),
            timeout: self.timeout.or(other.timeout),
            rise: self.rise.or(other.rise),
            fall: self.fall.or(other.fall),
        }
    }

    /// The checks that they ask for, all of which have to pass.
    #[must_use]
    pub fn settings(&self) -> Vec<CheckSettings> {
        let kinds = self.kinds.iter().flat_map(|kinds| &kinds.0);
        let settings = kinds.map(|kind| {
            let default = CheckSettings::of(kind.clone());
            CheckSettings {
                interval: self.interval.map_or(default.interval, |time| time.0),
                timeout: self.timeout.map_or(default.timeout, |time| time.0),
                rise: self.rise.map_or(default.rise, |count| count.0),
                fall: self.fall.map_or(default.fall, |count| count.0),
                ..default
            }
        });
        settings.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_tcp_or_the_path_of_a_get() {
        for text in ["tcp", "redis", "http:/", "http:/health?deep=1"] {
            let kind: CheckKind = text.parse().unwrap();
            assert_eq!(kind.to_string(), text);
        }
        let long = format!("http:/{}", "x".repeat(MAX_PATH));
        let injection = "http:/ HTTP/1.1\r\nX: y";
        for text in [
            "",
            "tcp:",
            "TCP",
            "redis:6379",
            "none",
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

    #[test]
    fn several_checks_have_blanks_between_them_and_none_is_none() {
        let kinds = |text: &str| text.parse::<CheckKinds>();
        let asked = |text: &str| {
            let kinds = Some(kinds(text).unwrap());
            let options = CheckOptions {
                kinds,
                ..CheckOptions::default()
            };
            let settings = options.settings().into_iter();
            settings.map(|it| it.kind.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            asked(" redis tcp  http:/a,b redis"),
            ["tcp", "http:/a,b", "redis"]
        );
        assert_eq!(asked("none"), [""; 0]);
        for (text, why) in [
            (
                "tcp none",
                "\"none\" stands alone: write it without other checks",
            ),
            (
                "none none",
                "\"none\" stands alone: write it without other checks",
            ),
            ("", "\"\" is no check"),
            ("tcp,redis", "\"tcp,redis\" is no check"),
            (&"tcp ".repeat(9), "names 9 checks; a service has 8 at most"),
        ] {
            let told = kinds(text).unwrap_err();
            assert!(told.starts_with(why), "{told}");
        }
        let count = |text: &str| text.parse().ok().map(|CheckCount(count)| count);
        assert_eq!((count("1"), count("100")), (Some(1), Some(100)));
        for text in ["", "0", "101", "+1", "-1", "1.5", "99999999999"] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_said_first_counts_and_else_the_default() {
        let (tcp, redis) = ("tcp".parse().ok(), "redis".parse().ok());
        let of_a_port = CheckOptions {
            kinds: tcp,
            fall: "2".parse().ok(),
            ..CheckOptions::default()
        };
        let of_all = CheckOptions {
            kinds: redis,
            interval: "10s".parse().ok(),
            fall: "9".parse().ok(),
            ..CheckOptions::default()
        };
        let expected = CheckSettings {
            interval: Duration::from_secs(10),
            fall: 2,
            ..CheckSettings::of(CheckKind::Tcp)
        };
        assert_eq!(of_a_port.or(&of_all).settings(), [expected]);
        let default = (Duration::from_secs(2), Duration::from_secs(1), 1, 3);
        let settings = CheckSettings::of(CheckKind::Redis);
        let said = (
            settings.interval,
            settings.timeout,
            settings.rise,
            settings.fall,
        );
        assert_eq!(said, default);
        assert_eq!(CheckOptions::default().or(&of_all), of_all);
        assert_eq!(CheckOptions::default().settings(), []);
    }
}
