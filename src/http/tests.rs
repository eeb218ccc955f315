//! The page: what it shows, and that a hostile value is a text on it.

use super::page::{InstanceState, InstanceView, MAX_ROWS, PageView, ServiceView, content, whole};
use super::page_changes::{REMEMBERED, remember};
use proptest::prelude::*;
use std::collections::VecDeque;

fn instance(name: &str, address: &str, state: InstanceState) -> InstanceView {
    InstanceView {
        name: name.to_owned(),
        address: address.to_owned(),
        resolved: None,
        since: Some("2026-11-23T05:06:06.123456789Z".to_owned()),
        state,
        why: None,
    }
}

fn view(instances: Vec<InstanceView>) -> PageView {
    let redis = ServiceView {
        name: "redis".to_owned(),
        listens: Some(":80".to_owned()),
        refused: None,
        instances,
    };
    PageView {
        status: "serving".to_owned(),
        services: vec![redis],
        ..PageView::default()
    }
}

fn told(before: &PageView, after: &PageView) -> Vec<String> {
    let mut changes = VecDeque::new();
    remember(&mut changes, before, after, "2026-11-23T05:06:06Z");
    let told = changes.iter().rev();
    told.map(|it| format!("{} {}", it.place, it.what)).collect()
}

#[test]
fn the_page_shows_where_an_instance_runs_since_when_and_what_becomes_of_it() {
    let mut held = instance("b", "10.0.0.8:6379", InstanceState::Held);
    (held.since, held.why) = (None, Some("its key is gone".to_owned()));
    let serving = instance("redis@1", "10.0.0.7:6379", InstanceState::Serving);
    let html = content(&view(vec![held, serving]), &VecDeque::new());
    for part in [
        "<h2>redis <small>at :80</small></h2>",
        "<tr class=\"serving\"><td data-title=\"Instance\">redis@1<td data-title=\"Runs at\">10.0.0.7:6379",
        "<time datetime=\"2026-11-23T05:06:06Z\">",
        "<b>held</b> <small>its key is gone</small>",
        "None since the agent started.",
    ] {
        assert!(html.contains(part), "{part} in {html}");
    }
    let page = whole(&html);
    assert!(page.contains(&html) && page.starts_with("<!DOCTYPE html>"));
    // Nothing is loaded from elsewhere.
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("src="));
}

#[test]
fn changes_are_told_in_words() {
    use InstanceState::{Draining, Held, Leaving, Serving};
    let at = |address, state| view(vec![instance("a", address, state)]);
    let (none, a) = (view(Vec::new()), at("h:1", Serving));
    for (before, after, words) in [
        (&none, &a, "redis/a is new at h:1"),
        (
            &none,
            &at("h:1", Draining),
            "redis/a is new at h:1, draining",
        ),
        (&a, &at("h:2", Serving), "redis/a moved from h:1 to h:2"),
        (&a, &at("h:1", Draining), "redis/a drains"),
        (&at("h:1", Draining), &a, "redis/a serves"),
        (&a, &at("h:1", Held), "redis/a is held: its key is gone"),
        (&a, &at("h:1", Leaving), "redis/a leaves: its key is gone"),
        (&a, &none, "redis/a is gone"),
        (&a, &PageView::default(), "redis/a is gone"),
    ] {
        assert_eq!(told(before, after), [words]);
    }
    assert_eq!(told(&a, &a), [""; 0]);
    let many = (0..2 * REMEMBERED).map(|n| instance(&format!("{n:04}"), "h:1", Serving));
    assert_eq!(told(&none, &view(many.collect())).len(), REMEMBERED);
}

#[test]
fn a_crowd_is_cut_and_counted() {
    let all =
        (0..MAX_ROWS + 7).map(|n| instance(&format!("{n:05}"), "h:1", InstanceState::Serving));
    let html = content(&view(all.collect()), &VecDeque::new());
    assert_eq!(html.matches("<tr class").count(), MAX_ROWS);
    assert!(
        html.contains("<p>7 more instances are not shown;"),
        "{}",
        &html[html.len() - 500..]
    );
    assert!(html.len() < 1_000_000, "{}", html.len());
}

proptest! {
    #[test]
    fn a_hostile_value_is_text(hostile in "[<>&\"'\\n\\r\\x00a-z/=\u{2028}é-]{1,40}") {
        let mut it = instance(&hostile, &hostile, InstanceState::Refused);
        it.since = Some(hostile.clone());
        it.resolved = Some(hostile.clone());
        it.why = Some(hostile.clone());
        let mut page = view(vec![it]);
        page.status = hostile.clone();
        page.services[0].name = hostile.clone();
        page.services[0].listens = Some(hostile.clone());
        page.services[0].refused = Some(hostile.clone());
        page.quarantined = vec![(hostile.clone(), hostile.clone())];
        let mut changes = VecDeque::new();
        remember(&mut changes, &PageView::default(), &page, &hostile);
        let html = content(&page, &changes);
        // One line, as an event wants it.
        prop_assert!(!html.contains(['\n', '\r']), "{}", html);
        // The tags are those of a page with harmless values.
        let mut harmless = page.clone();
        let x = || "x".to_owned();
        harmless.status = x();
        let service = &mut harmless.services[0];
        (service.name, service.listens, service.refused) = (x(), Some(x()), Some(x()));
        let it = &mut service.instances[0];
        (it.name, it.address) = (x(), x());
        (it.since, it.resolved, it.why) = (Some(x()), Some(x()), Some(x()));
        harmless.quarantined = vec![(x(), x())];
        let mut changes = VecDeque::new();
        remember(&mut changes, &PageView::default(), &harmless, "x");
        let plain = content(&harmless, &changes);
        for mark in ['<', '>', '"', '\''] {
            prop_assert_eq!(html.matches(mark).count(), plain.matches(mark).count(), "{} in {}", mark, html);
        }
    }
}
