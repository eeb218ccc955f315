//! The clock of a Docker Engine, which can be stepped without touching this machine's. Pure.
//!
//! A real engine stamps containers and events by its machine's clock; a stamp from before a step stays
//! what it is. [`super::Proxy::step_clock`] rewrites the stamps on their way to sidekick.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::wire::Direction;

const SECOND: i128 = 1_000_000_000;

/// Which stamps the engine's clock would have made: the true ones, off by whole seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineClock {
    /// Since when by the true clock it is off by how many seconds, the earliest first.
    steps: Vec<(Duration, i64)>,
}

/// How a stamp is written. Shifted by whole seconds it stays as long as it was, and so does the answer.
#[derive(Clone, Copy)]
enum Form {
    /// `2026-11-24T17:33:54.123Z` and a quotation mark.
    Date,
    /// Seconds since 1970.
    Seconds,
    /// Nanoseconds since 1970.
    Nanos,
}

impl Form {
    /// The stamp at the beginning of these bytes; `None` where its end is still to come.
    fn stamp(self, bytes: &[u8]) -> Option<&[u8]> {
        let length = match self {
            Form::Date => bytes.iter().position(|&byte| byte == b'"')?,
            Form::Seconds => 10,
            Form::Nanos => 19,
        };
        bytes.get(..length)
    }
}

/// What sidekick reads of the engine's clock, in inspects, in /info and in events.
const STAMPS: [(&[u8], Form); 5] = [
    (b"\"StartedAt\":\"", Form::Date),
    (b"\"FinishedAt\":\"", Form::Date),
    (b"\"SystemTime\":\"", Form::Date),
    (b"\"time\":", Form::Seconds),
    (b"\"timeNano\":", Form::Nanos),
];

/// What sidekick says of it: from when on it wants to hear events.
const SINCE: [(&[u8], Form); 1] = [(b"since=", Form::Seconds)];

impl EngineClock {
    /// It is stepped by so many seconds at `now`, the true time since 1970.
    pub(crate) fn step(&mut self, now: Duration, seconds: i64) {
        let before = self.steps.last().map_or(0, |(_, off)| *off);
        self.steps.push((now, before + seconds));
    }

    /// Rewrites what is on its way. Returns how many bytes are ready; the rest is the beginning of a stamp
    /// and waits for what follows.
    pub(crate) fn shift(&self, way: Direction, bytes: &mut [u8]) -> usize {
        let Some((_, off_now)) = self.steps.last() else {
            return bytes.len();
        };
        match way {
            // The engine compares it with its clock of now.
            Direction::Up => shift(bytes, &SINCE, |_| -off_now),
            Direction::Down => shift(bytes, &STAMPS, |at| {
                let made = |(from, _): &&(Duration, i64)| from.as_nanos() as i128 <= at;
                let step = self.steps.iter().rev().find(made);
                step.map_or(0, |(_, off)| *off)
            }),
        }
    }
}

fn shift(bytes: &mut [u8], stamps: &[(&[u8], Form)], off: impl Fn(i128) -> i64) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let found = stamps
            .iter()
            .find(|(key, _)| rest.starts_with(key) || key.starts_with(rest));
        let Some((key, form)) = found else {
            at += 1;
            continue;
        };
        let from = at + key.len();
        let Some(stamp) = rest.get(key.len()..).and_then(|rest| form.stamp(rest)) else {
            return at;
        };
        let (to, shifted) = (from + stamp.len(), shifted(stamp, *form, &off));
        if let Some(shifted) = shifted {
            bytes[from..from + shifted.len()].copy_from_slice(shifted.as_bytes());
        }
        at = to;
    }
    at
}

/// `None` for what isn't a stamp of these years: a container that never started has the year 1. Of a
/// date without its fraction, which stays what it is.
fn shifted(stamp: &[u8], form: Form, off: impl Fn(i128) -> i64) -> Option<String> {
    let text = std::str::from_utf8(stamp).ok()?;
    let true_nanos = match form {
        Form::Date => OffsetDateTime::parse(text, &Rfc3339)
            .ok()?
            .unix_timestamp_nanos(),
        Form::Seconds => text.parse::<i128>().ok()? * SECOND,
        Form::Nanos => text.parse().ok()?,
    };
    let nanos = true_nanos + i128::from(off(true_nanos)) * SECOND;
    match form {
        _ if true_nanos < SECOND => None,
        Form::Date => {
            let date = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
            let date = date.format(&Rfc3339).ok()?;
            date.get(.."2026-11-24T17:33:54".len()).map(str::to_owned)
        }
        Form::Seconds => Some((nanos / SECOND).to_string()),
        Form::Nanos => Some(nanos.to_string()),
    }
}
