//! The page: services and their instances, as HTML. Pure.
//!
//! What is shown comes from etcd, where anybody may have written it: each text is escaped, also where it was checked
//! before.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// The most instances that the page shows, so that what a browser is sent stays below a megabyte.
pub const MAX_ROWS: usize = 2_000;

/// The most quarantined keys that the page shows.
pub const MAX_QUARANTINED: usize = 100;

/// Gives the page what it shows. Asked in the listener's thread, at most some times a second.
pub trait PageSource: Send + Sync {
    /// What is to be shown.
    fn view(&self) -> PageView;

    /// The instances as Prometheus' list of targets; `None` before etcd has told what is registered.
    fn targets(&self) -> Option<String>;
}

/// The latest state of a job, as the page's source.
pub type LatestPage = Arc<dyn PageSource>;

/// What the page shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageView {
    /// The agent in one line.
    pub status: String,
    /// By name.
    pub services: Vec<ServiceView>,
    /// The keys that are quarantined, and why; at most [`MAX_QUARANTINED`].
    pub quarantined: Vec<(String, String)>,
    /// How many keys are quarantined in all.
    pub quarantined_in_all: usize,
}

/// A service on the page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Where clients dial it; `None` where HAProxy does not listen for it.
    pub listens: Option<String>,
    /// Why HAProxy does not listen for it.
    pub refused: Option<String>,
    /// By name.
    pub instances: Vec<InstanceView>,
}

/// An instance on the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Its name.
    pub name: String,
    /// Where it runs: host and port as its key says.
    pub address: String,
    /// Where HAProxy dials it, where the key has a name.
    pub resolved: Option<String>,
    /// The start of its container (RFC 3339), if the key says it.
    pub since: Option<String>,
    /// What becomes of its connections.
    pub state: InstanceState,
    /// Why, where the state alone does not say it.
    pub why: Option<String>,
}

/// One change of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageChange {
    /// When it was seen (RFC 3339, UTC).
    pub at: String,
    /// The service and the instance, with a slash.
    pub place: String,
    /// In words.
    pub what: String,
}

/// What becomes of the connections to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// It gets new ones.
    Serving,
    /// It gets no new ones: its key says that it drains.
    Draining,
    /// It gets no new ones: its key is gone.
    Leaving,
    /// Its key is gone together with many others; it still gets new ones.
    Held,
    /// HAProxy's health check has it down.
    Down,
    /// HAProxy does not get it.
    Refused,
    /// Its host name has no address yet.
    Unresolved,
}

impl InstanceState {
    /// The state in a word, which is a class of the page's style as well.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Leaving => "leaving",
            Self::Held => "held",
            Self::Down => "down",
            Self::Refused => "refused",
            Self::Unresolved => "unresolved",
        }
    }
}

/// The file: style, script, and where the content goes.
const PAGE: &str = include_str!("page.html");

/// Where the content goes.
const CONTENT: &str = "<!-- content -->";

/// The whole page around that content.
#[must_use]
pub fn whole(content: &str) -> String {
    PAGE.replacen(CONTENT, content, 1)
}

/// What stands between those tags in the page's file: the text that its content security policy names by its hash.
pub(super) fn between(open: &str, close: &str) -> &'static str {
    let rest = PAGE.split_once(open).map_or("", |(_, rest)| rest);
    rest.split_once(close).map_or("", |(text, _)| text)
}

/// The content: all that changes. In one line, as a server-sent event wants it.
#[must_use]
pub fn content(view: &PageView, changes: &VecDeque<PageChange>) -> String {
    let mut html = String::new();
    let _ = write!(html, "<p class=\"status\">{}</p>", Escaped(&view.status));
    let mut left = MAX_ROWS;
    for service in &view.services {
        section(&mut html, service, &mut left);
    }
    let shown = MAX_ROWS - left;
    let all: usize = view.services.iter().map(|it| it.instances.len()).sum();
    if view.services.is_empty() {
        html.push_str("<p>Nothing is registered.</p>");
    }
    if all > shown {
        let more = all - shown;
        let _ = write!(
            html,
            "<p>{more} more instances are not shown; <code>sidekick list</code> shows all.</p>"
        );
    }
    quarantine(&mut html, view);
    log(&mut html, changes);
    html
}

fn section(html: &mut String, service: &ServiceView, left: &mut usize) {
    let ServiceView {
        name,
        listens,
        refused,
        instances,
    } = service;
    let _ = write!(html, "<section><h2>{}", Escaped(name));
    if let Some(listens) = listens {
        let _ = write!(html, " <small>at {}</small>", Escaped(listens));
    }
    html.push_str("</h2>");
    if let Some(why) = refused {
        let _ = write!(html, "<p class=\"refused\">refused: {}</p>", Escaped(why));
    }
    if instances.is_empty() {
        html.push_str("<p>No instance.</p></section>");
        return;
    }
    html.push_str(
        "<table><thead><tr><th>Instance<th>Runs at<th>Up since<th>State</tr></thead><tbody>",
    );
    for instance in instances.iter().take(*left) {
        row(html, instance);
    }
    *left -= instances.len().min(*left);
    html.push_str("</tbody></table></section>");
}

fn row(html: &mut String, instance: &InstanceView) {
    let state = instance.state.word();
    let (name, address) = (Escaped(&instance.name), Escaped(&instance.address));
    let _ = write!(
        html,
        "<tr class=\"{state}\"><td data-title=\"Instance\">{name}<td data-title=\"Runs at\">{address}"
    );
    if let Some(resolved) = &instance.resolved {
        let _ = write!(html, " <small>{}</small>", Escaped(resolved));
    }
    html.push_str("<td data-title=\"Up since\">");
    match &instance.since {
        // To the second: the day and the hour are what a person wants.
        Some(since) => {
            let since = since.get(..19).map_or(since.as_str(), |whole| whole);
            let since = Escaped(since);
            let _ = write!(html, "<time datetime=\"{since}Z\">{since}Z</time>");
        }
        None => html.push('–'),
    }
    let _ = write!(html, "<td data-title=\"State\"><b>{state}</b>");
    if let Some(why) = &instance.why {
        let _ = write!(html, " <small>{}</small>", Escaped(why));
    }
    html.push_str("</tr>");
}

fn quarantine(html: &mut String, view: &PageView) {
    if view.quarantined.is_empty() {
        return;
    }
    html.push_str(
        "<section><h2>Quarantined keys</h2><table><thead><tr><th>Key<th>Why</tr></thead><tbody>",
    );
    for (key, why) in view.quarantined.iter().take(MAX_QUARANTINED) {
        let (key, why) = (Escaped(key), Escaped(why));
        let _ = write!(
            html,
            "<tr class=\"quarantined\"><td data-title=\"Key\">{key}<td data-title=\"Why\">{why}</tr>"
        );
    }
    html.push_str("</tbody></table>");
    let shown = view.quarantined.len().min(MAX_QUARANTINED);
    if view.quarantined_in_all > shown {
        let more = view.quarantined_in_all - shown;
        let _ = write!(html, "<p>{more} more are not shown.</p>");
    }
    html.push_str("</section>");
}

fn log(html: &mut String, changes: &VecDeque<PageChange>) {
    html.push_str("<section><h2>Last changes</h2>");
    if changes.is_empty() {
        html.push_str("<p>None since the agent started.</p></section>");
        return;
    }
    html.push_str("<ol class=\"changes\">");
    for PageChange { at, place, what } in changes {
        let (at, place, what) = (Escaped(at), Escaped(place), Escaped(what));
        let _ = write!(
            html,
            "<li><time datetime=\"{at}\">{at}</time> <b>{place}</b> {what}</li>"
        );
    }
    html.push_str("</ol></section>");
}

/// A text between tags or in a quoted attribute. Line breaks and other control characters become spaces.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                it if it.is_control() => f.write_char(' ')?,
                it => f.write_char(it)?,
            }
        }
        Ok(())
    }
}
