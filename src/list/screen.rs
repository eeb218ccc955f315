//! `sidekick list --watch` in a terminal: what changed in the last seconds, and the lines of one screen. Pure.

use super::Row;
use super::gather::Gathered;
use super::table;
use crate::agent::haproxy::health::ServerHealth;
use crate::clock::Moment;
use anstyle::{AnsiColor, Style};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a change is marked: long enough for a person who looks away to see it.
const MARKED: Duration = Duration::from_secs(5);

/// The title, and an empty line below it.
const ABOVE: usize = 2;

/// What has happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Changed,
    /// It is shown for a while although it is not registered any more.
    Gone,
}

impl Mark {
    const fn sign(self) -> &'static str {
        match self {
            Self::New => "+ ",
            Self::Changed => "~ ",
            Self::Gone => "- ",
        }
    }
}

#[derive(Debug, Clone)]
struct Shown {
    row: Row,
    mark: Option<(Mark, Moment)>,
}

impl Shown {
    fn mark(&self, now: Moment) -> Option<Mark> {
        let (mark, at) = self.mark?;
        (now.saturating_sub(at) < MARKED).then_some(mark)
    }

    fn is_gone(&self) -> bool {
        self.mark.is_some_and(|(mark, _)| mark == Mark::Gone)
    }
}

/// What is known of the instances, and since when.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// By service and instance.
    shown: BTreeMap<(String, String), Shown>,
    messages: Vec<String>,
    /// When the rows were read; `None`: not yet.
    read_at: Option<Moment>,
}

/// What the lines are made for.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// The terminal's width and height, in characters.
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Whether SGR sequences may be used.
    pub(super) has_colour: bool,
    pub(super) title: String,
    /// How long etcd hasn't answered; `None` while it does.
    pub(super) etcd_lost: Option<Duration>,
}

impl Screen {
    /// Takes what was read at `now`, and marks what is different from before; nothing at the first time.
    pub(super) fn show(&mut self, gathered: Gathered, now: Moment) {
        let is_first = self.read_at.is_none();
        let mut before = std::mem::take(&mut self.shown);
        for row in gathered.rows {
            let name = (row.service.clone(), row.instance.clone());
            let mark = match before.remove(&name) {
                None => (!is_first).then_some((Mark::New, now)),
                Some(old) if old.is_gone() => Some((Mark::New, now)),
                Some(old) if differs(&old.row, &row) => Some((Mark::Changed, now)),
                Some(old) => old.mark,
            };
            self.shown.insert(name, Shown { row, mark });
        }
        for (name, mut old) in before {
            if !old.is_gone() {
                old.mark = Some((Mark::Gone, now));
            }
            if old.mark(now).is_some() {
                self.shown.insert(name, old);
            }
        }
        self.messages = gathered.messages;
        self.read_at = Some(now);
    }

    /// Whether TTLs and HAProxy's states were read longer ago than that.
    pub(super) fn is_older_than(&self, age: Duration, now: Moment) -> bool {
        self.read_at.is_some_and(|at| now.saturating_sub(at) >= age)
    }

    /// The lines of one screen, as many as fit and no wider than it.
    pub(super) fn lines(&self, view: &View, now: Moment) -> Vec<String> {
        let visible = |shown: &&Shown| !shown.is_gone() || shown.mark(now).is_some();
        let shown: Vec<_> = self.shown.values().filter(visible).collect();
        let style = |text: &str, style: Style| styled(view, text, style);
        let mut lines = vec![self.title(view, &shown), String::new()];
        let age = self
            .read_at
            .map_or(Duration::ZERO, |at| now.saturating_sub(at));
        let rows: Vec<_> = shown.iter().map(|it| aged(&it.row, age)).collect();
        let mut table = table::lines(&rows).into_iter();
        let head = table.next();
        let head = head.map(|head| style(&format!("  {head}"), Style::new().bold()));
        let rows = table.zip(&shown).map(|(line, shown)| {
            let mark = shown.mark(now);
            let sign = mark.map_or("  ", Mark::sign);
            style(&format!("{sign}{line}"), style_of(&shown.row, mark))
        });
        let rows: Vec<_> = rows.collect();
        let messages = self.messages.iter();
        let mut messages: Vec<_> = messages
            .map(|it| style(it, Style::new().dimmed()))
            .collect();
        let room = view
            .rows
            .saturating_sub(ABOVE + usize::from(head.is_some()));
        let needed = |messages: &[String]| messages.len() + usize::from(!messages.is_empty());
        if rows.len() + needed(&messages) > room {
            messages.truncate(room / 4);
        }
        let fits = room.saturating_sub(needed(&messages));
        let left_out = rows.len().saturating_sub(fits);
        let fits = if left_out > 0 {
            fits.saturating_sub(1)
        } else {
            fits
        };
        let all = rows.len();
        lines.extend(head);
        lines.extend(rows.into_iter().take(fits));
        if left_out > 0 {
            lines.push(style(
                &format!("  … and {} more", all - fits.min(all)),
                Style::new(),
            ));
        }
        if !messages.is_empty() {
            lines.push(String::new());
            lines.extend(messages);
        }
        lines.truncate(view.rows);
        lines
    }

    fn title(&self, view: &View, shown: &[&Shown]) -> String {
        let there = shown.iter().filter(|it| !it.is_gone());
        let draining = there.clone().filter(|it| it.row.status == "draining");
        let (count, draining) = (there.count(), draining.count());
        let title = &view.title;
        let mut text = match self.read_at {
            None => format!("{title}: reading etcd"),
            Some(_) => format!("{title}: {count} registered, {draining} draining"),
        };
        match view.etcd_lost {
            Some(lost) => {
                text += &format!("; etcd has not answered for {} s", lost.as_secs());
                styled(view, &text, AnsiColor::Red.on_default().bold())
            }
            None => styled(view, &text, Style::new().bold()),
        }
    }
}

/// Whether anything but the time is different.
fn differs(old: &Row, new: &Row) -> bool {
    let timeless = |row: &Row| Row {
        ttl: None,
        haproxy: None,
        ..row.clone()
    };
    timeless(old) != timeless(new) || state(old) != state(new)
}

/// The server's state in HAProxy, without its time.
fn state(row: &Row) -> Option<String> {
    let text = row.haproxy.as_ref().map(ServerHealth::to_string)?;
    text.split(' ').next().map(str::to_owned)
}

/// The row after so long.
fn aged(row: &Row, age: Duration) -> Row {
    let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    Row {
        ttl: row.ttl.map(|ttl| ttl.saturating_sub(seconds).max(0)),
        ..row.clone()
    }
}

fn style_of(row: &Row, mark: Option<Mark>) -> Style {
    let colour = match mark {
        Some(Mark::Gone) => AnsiColor::Red,
        _ if state(row).as_deref() == Some("down") => AnsiColor::Red,
        _ if row.status == "draining" || row.wish.is_some() => AnsiColor::Yellow,
        _ => AnsiColor::Green,
    };
    match mark {
        None => colour.on_default(),
        Some(Mark::Gone) => colour.on_default().dimmed(),
        Some(Mark::New | Mark::Changed) => colour.on_default().bold(),
    }
}

/// Cut to the terminal's width, and then styled.
fn styled(view: &View, text: &str, style: Style) -> String {
    let mut width = 0;
    let fits = text.chars().map_while(|c| {
        // Wide characters take two columns; which ones are need not be known.
        width += if c.is_ascii() { 1 } else { 2 };
        (width <= view.columns).then_some(c)
    });
    // What stands in etcd must not move the cursor.
    let text: String = fits.map(|c| if c.is_control() { '?' } else { c }).collect();
    match view.has_colour {
        true => format!("{style}{text}{style:#}"),
        false => text,
    }
}

#[cfg(test)]
mod tests;
