//! What changed from one view of the page to the next. Pure.

use super::page::{InstanceState, InstanceView, PageChange, PageView};
use itertools::{EitherOrBoth, Itertools};
use std::collections::VecDeque;

/// How many changes are remembered.
pub(super) const REMEMBERED: usize = 50;

/// Puts what differs between the views before what is remembered, the latest change first.
pub(super) fn remember(
    changes: &mut VecDeque<PageChange>,
    before: &PageView,
    after: &PageView,
    at: &str,
) {
    let pairs =
        rows(before).merge_join_by(rows(after), |a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    for pair in pairs {
        let (service, name) = match &pair {
            EitherOrBoth::Left((service, it))
            | EitherOrBoth::Right((service, it))
            | EitherOrBoth::Both(_, (service, it)) => (*service, &it.name),
        };
        let what = match pair {
            EitherOrBoth::Left(_) => Some("is gone".to_owned()),
            EitherOrBoth::Right((_, it)) => Some(format!("is new at {}{}", it.address, but(it))),
            EitherOrBoth::Both((_, old), (_, new)) => difference(old, new),
        };
        let Some(what) = what else { continue };
        let (at, place) = (at.to_owned(), format!("{service}/{name}"));
        changes.push_front(PageChange { at, place, what });
        changes.truncate(REMEMBERED);
    }
}

fn rows(view: &PageView) -> impl Iterator<Item = (&str, &InstanceView)> {
    let services = view.services.iter();
    services.flat_map(|it| {
        it.instances
            .iter()
            .map(|instance| (it.name.as_str(), instance))
    })
}

/// What is told of a new instance that does not serve.
fn but(it: &InstanceView) -> String {
    match it.state {
        InstanceState::Serving => String::new(),
        state => format!(", {}", state.word()),
    }
}

fn difference(old: &InstanceView, new: &InstanceView) -> Option<String> {
    if old.address != new.address {
        return Some(format!(
            "moved from {} to {}{}",
            old.address,
            new.address,
            but(new)
        ));
    }
    if old.state != new.state {
        let words = match new.state {
            InstanceState::Serving => "serves".to_owned(),
            InstanceState::Held => "is held: its key is gone".to_owned(),
            InstanceState::Leaving => "leaves: its key is gone".to_owned(),
            InstanceState::Draining => "drains".to_owned(),
            state => format!("is {}", state.word()),
        };
        return Some(words);
    }
    (old.since != new.since).then(|| "was started again".to_owned())
}
