//! `sidekick list --watch` in a terminal.

use nix::sys::signal::Signal;
use sidekick_harness::{Announce, Etcd, PATIENCE, PseudoTerminal, SOON, Sidekick, eventually};

const SERVING: &str = r#"{"host":"10.0.0.7","port":6379}"#;
const DRAINING: &str = r#"{"host":"10.0.0.7","port":6379,"status":"draining"}"#;

/// The numbers of the terminal's colours.
const RED: u8 = 1;
const GREEN: u8 = 2;
const YELLOW: u8 = 3;

fn watch(etcd: &Etcd) -> Announce {
    let list = Sidekick::list().etcd(etcd).flag("--watch");
    // No HAProxy of this machine's own is meant.
    list.option("--haproxy-master", "/nowhere/haproxy-master.sock")
}

async fn watched(etcd: &Etcd) -> PseudoTerminal {
    let terminal = watch(etcd).in_terminal(24, 100);
    terminal.shows("registered").await;
    terminal
}

/// Waits until the row with this instance begins with the sign, and returns its colour and whether it is bold.
async fn marked(terminal: &PseudoTerminal, instance: &str, sign: &str) -> (Option<u8>, bool) {
    let what = format!("{instance} is marked by {sign:?}");
    eventually(SOON, what, async || {
        let (row, colour, is_bold) = terminal.row(instance).ok_or("it is not shown")?;
        match row.starts_with(sign) {
            true => Ok((colour, is_bold)),
            false => Err(row),
        }
    })
    .await
}

#[tokio::test]
async fn an_instance_that_is_put_drained_and_deleted_is_marked_each_time() {
    let etcd = Etcd::start().await;
    let old = "/services/redis/redis@0";
    etcd.put(old, SERVING).await;
    let terminal = watched(&etcd).await;
    assert!(terminal.is_taken());
    let (row, colour, is_bold) = terminal.row("redis@0").expect("it is registered");
    assert!(row.starts_with("  redis "), "nothing changed: {row}");
    assert_eq!((colour, is_bold), (Some(GREEN), false));

    let key = "/services/redis/redis@1";
    etcd.put(key, SERVING).await;
    let put = marked(&terminal, "redis@1", "+ ").await;
    assert_eq!(put, (Some(GREEN), true));
    etcd.put(key, DRAINING).await;
    let drained = marked(&terminal, "redis@1", "~ ").await;
    assert_eq!(drained, (Some(YELLOW), true));
    terminal.shows("2 registered, 1 draining").await;
    etcd.delete(key).await;
    let (colour, _) = marked(&terminal, "redis@1", "- ").await;
    assert_eq!(colour, Some(RED));
    terminal.shows("1 registered, 0 draining").await;
    terminal.shows_no_more("redis@1").await;
    assert!(terminal.row("redis@0").is_some());
}

#[tokio::test]
async fn a_mark_goes_after_a_while() {
    let etcd = Etcd::start().await;
    let terminal = watched(&etcd).await;
    etcd.put("/services/redis/redis@1", SERVING).await;
    marked(&terminal, "redis@1", "+ ").await;
    eventually(PATIENCE, "the mark is gone", async || {
        let row = terminal.row("redis@1");
        row.is_some_and(|(row, _, is_bold)| row.starts_with("  redis") && !is_bold)
    })
    .await;
}

#[tokio::test]
async fn without_colours_the_signs_are_left() {
    let etcd = Etcd::start().await;
    let terminal = watch(&etcd)
        .environment("NO_COLOR", "1")
        .in_terminal(24, 100);
    terminal.shows("0 registered").await;
    etcd.put("/services/redis/redis@1", DRAINING).await;
    let put = marked(&terminal, "redis@1", "+ ").await;
    assert_eq!(put, (None, false));
    // SGR, the only sequence that ends with an m.
    let written = terminal.written();
    let sequences = written.split("\x1b[").skip(1);
    let ends = |it: &str| {
        it.find(|c: char| c.is_ascii_alphabetic())
            .map(|at| it[at..].to_owned())
    };
    let styles = sequences.filter(|it| ends(it).is_some_and(|end| end.starts_with('m')));
    assert_eq!(styles.count(), 0, "{written:?}");
    // An empty variable is none (no-color.org).
    let terminal = watch(&etcd)
        .environment("NO_COLOR", "")
        .in_terminal(24, 100);
    terminal.shows("redis@1").await;
    let (_, colour, _) = terminal.row("redis@1").expect("it is shown");
    assert_eq!(colour, Some(YELLOW));
}

#[tokio::test]
async fn a_terminal_that_changes_its_size_is_drawn_anew() {
    let etcd = Etcd::start().await;
    for n in 0..12 {
        etcd.put(&format!("/services/redis/redis@{n:02}"), SERVING)
            .await;
    }
    let terminal = watched(&etcd).await;
    terminal.shows("redis@11").await;
    terminal.resize(9, 60);
    terminal.shows("… and 7 more").await;
    assert!(terminal.row("redis@04").is_some() && terminal.row("redis@05").is_none());
    terminal.resize(24, 20);
    terminal.shows("  redis    redis@11").await;
    // What doesn't fit is cut, and doesn't go on in the next row.
    let rows = terminal.rows();
    assert!(
        rows[3..15]
            .iter()
            .all(|row| row.starts_with("  redis    redis@")),
        "{rows:#?}"
    );
    terminal.resize(40, 120);
    terminal.shows("10.0.0.7:6379").await;
    terminal.shows_no_more("more").await;
}

#[tokio::test]
async fn ctrl_c_and_sigterm_leave_the_terminal_as_it_was() {
    let etcd = Etcd::start().await;
    etcd.put("/services/redis/redis@1", SERVING).await;
    for by_key in [true, false] {
        let mut terminal = watched(&etcd).await;
        terminal.shows("redis@1").await;
        assert!(terminal.is_taken());
        match by_key {
            true => terminal.types("\x03"),
            false => terminal.signal(Signal::SIGTERM),
        }
        let status = terminal.wait_exit(SOON).await;
        assert_eq!(status.code(), Some(0));
        terminal.is_as_before();
    }
}

#[tokio::test]
async fn ctrl_z_gives_the_terminal_back_until_it_goes_on() {
    let etcd = Etcd::start().await;
    let mut terminal = watched(&etcd).await;
    terminal.types("\x1a");
    eventually(SOON, "the screen is given back", async || {
        !terminal.is_taken()
    })
    .await;
    terminal.is_as_before();
    etcd.put("/services/redis/redis@1", SERVING).await;
    terminal.signal(Signal::SIGCONT);
    terminal.shows("redis@1").await;
    assert!(terminal.is_taken());
    terminal.types("\x03");
    assert_eq!(terminal.wait_exit(SOON).await.code(), Some(0));
    terminal.is_as_before();
}

#[tokio::test]
async fn an_outage_of_etcd_is_told_and_what_was_read_stays() {
    let etcd = Etcd::start().await;
    etcd.put("/services/redis/redis@1", SERVING).await;
    let mut terminal = watched(&etcd).await;
    terminal.shows("redis@1").await;
    etcd.kill9().await;
    terminal.shows("etcd has not answered for").await;
    assert!(terminal.row("redis@1").is_some());
    let written = terminal.written();
    assert!(
        !written.contains("WARN"),
        "the log is no part of the table: {written}"
    );
    terminal.types("\x03");
    assert_eq!(terminal.wait_exit(SOON).await.code(), Some(0));
    terminal.is_as_before();
}

#[tokio::test]
async fn a_terminal_without_control_sequences_gets_plain_tables() {
    let etcd = Etcd::start().await;
    etcd.put("/services/redis/redis@1", SERVING).await;
    let terminal = watch(&etcd)
        .environment("TERM", "dumb")
        .in_terminal(24, 100);
    terminal.shows("redis    redis@1").await;
    assert!(!terminal.is_taken());
    assert!(
        !terminal.written().contains('\x1b'),
        "{:?}",
        terminal.written()
    );
}
