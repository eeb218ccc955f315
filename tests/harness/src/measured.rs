//! What the tests measured of the promises in docs/guarantees.md: cargo hides what a passing test prints, so it goes
//! into a list, which `make test` shows at its end.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::sidekick::binary;

/// `target/tmp/promises`, emptied by `make test`.
fn list() -> PathBuf {
    let target = binary().ancestors().nth(2).map(|target| target.join("tmp"));
    let directory = target.expect("sidekick is in target/debug");
    std::fs::create_dir_all(&directory).expect("target/ is ours");
    directory.join("promises")
}

/// Writes down how long something took, and fails the test where that is longer than promised.
///
/// `promise 2: key back after etcd was frozen: 0.412 s (limit 2 s)`
#[track_caller]
pub fn took(promise: u8, what: impl Display, took: Duration, limit: Duration) {
    let seconds = limit.as_secs_f32();
    note(&format!(
        "promise {promise}: {what}: {:.3} s (limit {seconds} s)",
        took.as_secs_f32()
    ));
    assert!(took <= limit, "{what} took {took:?}, promised is {limit:?}");
}

/// Writes down how often something happened, and fails the test where that is more often than promised.
#[track_caller]
pub fn counted(promise: u8, what: impl Display, count: usize, limit: usize) {
    note(&format!(
        "promise {promise}: {what}: {count} (limit {limit})"
    ));
    assert!(count <= limit, "{what}: {count}, promised is {limit}");
}

/// One write, so that tests beside each other don't mix their lines.
fn note(line: &str) {
    println!("{line}");
    let path = list();
    let list = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&path);
    let written = list.and_then(|mut list| list.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
