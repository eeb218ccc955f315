//! Screens, as lines of text.

use super::*;
use crate::endpoint::Endpoint;
use crate::endpoint::control::DrainWish;
use crate::list::gather::row;

const fn at(seconds: u64) -> Moment {
    Duration::from_secs(1_000 + seconds)
}

fn instance(instance: &str, value: &str) -> Row {
    let endpoint = Endpoint::decode(value.as_bytes()).unwrap();
    row("redis", instance, &endpoint, Some(60))
}

fn serving(name: &str) -> Row {
    instance(name, r#"{"host":"10.0.0.7","port":6379}"#)
}

fn draining(name: &str) -> Row {
    instance(
        name,
        r#"{"host":"10.0.0.7","port":6379,"status":"draining"}"#,
    )
}

fn read(rows: &[Row]) -> Gathered {
    Gathered {
        rows: rows.to_vec(),
        messages: Vec::new(),
    }
}

fn view() -> View {
    View {
        columns: 100,
        rows: 24,
        has_colour: false,
        title: "/services".to_owned(),
        etcd_lost: None,
    }
}

/// The signs and names of the rows.
fn marks(screen: &Screen, now: Moment) -> Vec<String> {
    let lines = screen.lines(&view(), now).into_iter();
    let rows = lines.skip(3);
    let sign = |line: String| {
        let name = line.split_whitespace().find(|it| it.contains('@'));
        format!("{} {}", &line[..1], name.unwrap_or_default())
    };
    rows.map(sign).collect()
}

#[test]
fn a_screen_has_a_title_a_head_and_a_line_for_each_instance() {
    let mut screen = Screen::default();
    assert_eq!(screen.lines(&view(), at(0))[0], "/services: reading etcd");
    screen.show(read(&[serving("r@1"), draining("r@2")]), at(0));
    let expected = [
        "/services: 2 registered, 1 draining",
        "",
        "  SERVICE  INSTANCE  ADDRESS        CONTAINER  UP SINCE  STATUS    TTL",
        "  redis    r@1       10.0.0.7:6379  -          -         serving   57s",
        "  redis    r@2       10.0.0.7:6379  -          -         draining  57s",
    ];
    assert_eq!(screen.lines(&view(), at(3)), expected);
    screen.show(
        Gathered {
            messages: vec!["nothing is registered below /services".to_owned()],
            ..Gathered::default()
        },
        at(10),
    );
    let lines = screen.lines(&view(), at(15));
    let expected = [
        "/services: 0 registered, 0 draining",
        "",
        "",
        "nothing is registered below /services",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_changed_is_marked_for_five_seconds() {
    let mut screen = Screen::default();
    screen.show(
        read(&[serving("r@1"), serving("r@2"), serving("r@3")]),
        at(0),
    );
    assert_eq!(marks(&screen, at(0)), ["  r@1", "  r@2", "  r@3"]);
    screen.show(
        read(&[serving("r@1"), draining("r@2"), serving("r@4")]),
        at(1),
    );
    let marked = ["  r@1", "~ r@2", "- r@3", "+ r@4"];
    assert_eq!(marks(&screen, at(1)), marked);
    // A screen that is read again keeps its marks.
    screen.show(
        read(&[serving("r@1"), draining("r@2"), serving("r@4")]),
        at(5),
    );
    assert_eq!(marks(&screen, at(5)), marked);
    assert_eq!(marks(&screen, at(6)), ["  r@1", "  r@2", "  r@4"]);
    // What was gone is new when it comes back.
    screen.show(read(&[]), at(7));
    screen.show(read(&[serving("r@1")]), at(8));
    assert_eq!(marks(&screen, at(8)), ["+ r@1", "- r@2", "- r@4"]);
}

#[test]
fn time_alone_is_no_change() {
    let mut screen = Screen::default();
    screen.show(read(&[serving("r@1")]), at(0));
    let mut later = serving("r@1");
    later.ttl = Some(41);
    screen.show(read(&[later]), at(1));
    assert_eq!(marks(&screen, at(1)), ["  r@1"]);
    assert!(!screen.is_older_than(Duration::from_secs(5), at(5)));
    assert!(screen.is_older_than(Duration::from_secs(5), at(6)));
}

#[test]
fn states_have_colours_and_without_colours_no_byte_of_an_escape() {
    let mut wished = serving("r@3");
    wished.wish = Some(DrainWish::default());
    let mut screen = Screen::default();
    screen.show(read(&[serving("r@1"), draining("r@2"), wished]), at(0));
    let colourful = View {
        has_colour: true,
        ..view()
    };
    let lines = screen.lines(&colourful, at(0));
    assert!(lines[0].starts_with("\x1b[1m/services"), "{lines:?}");
    for (line, colour) in lines[3..].iter().zip(["\x1b[32m", "\x1b[33m", "\x1b[33m"]) {
        assert!(
            line.starts_with(colour) && line.ends_with("\x1b[0m"),
            "{line:?}"
        );
    }
    screen.show(read(&[draining("r@2")]), at(1));
    let lines = screen.lines(&colourful, at(1));
    assert!(lines[3].contains("\x1b[31m"), "{lines:?}");
    let plain = screen.lines(&view(), at(1)).concat();
    assert!(!plain.contains('\x1b'), "{plain:?}");
}

#[test]
fn a_small_terminal_shows_what_fits_and_says_how_much_is_missing() {
    let rows: Vec<_> = (0..40).map(|n| serving(&format!("r@{n:02}"))).collect();
    let mut screen = Screen::default();
    screen.show(
        Gathered {
            rows,
            messages: vec!["m".to_owned(); 9],
        },
        at(0),
    );
    for (columns, rows) in [(100, 24), (20, 10), (1, 4), (80, 3), (80, 1), (0, 0)] {
        let small = View {
            columns,
            rows,
            ..view()
        };
        let lines = screen.lines(&small, at(0));
        assert!(lines.len() <= rows, "{columns} x {rows}: {lines:?}");
        let wide = lines.iter().find(|line| line.chars().count() > columns);
        assert_eq!(wide, None, "{columns} x {rows}");
    }
    let lines = screen.lines(&view(), at(0));
    // 24 lines: 3 above, 5 messages below a gap, and one that says what is left out.
    assert_eq!(lines[17], "  … and 26 more");
    assert!(lines[16].contains("r@13"));
}

#[test]
fn what_stands_in_etcd_moves_no_cursor() {
    let mut hostile = serving("r@1");
    hostile.container = Some("\x1b[2J\r\n".to_owned());
    let mut screen = Screen::default();
    screen.show(read(&[hostile]), at(0));
    let lines = screen.lines(&view(), at(0));
    assert!(lines[3].contains("?[2J??"), "{lines:?}");
}

#[test]
fn an_outage_of_etcd_stands_in_the_title() {
    let mut screen = Screen::default();
    screen.show(read(&[serving("r@1")]), at(0));
    let lost = View {
        etcd_lost: Some(Duration::from_secs(12)),
        ..view()
    };
    let title = &screen.lines(&lost, at(12))[0];
    let expected = "/services: 1 registered, 0 draining; etcd has not answered for 12 s";
    assert_eq!(title, expected);
}
