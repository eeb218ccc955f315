//! A corpus, then random changes to it.
//!
//! `SIDEKICK_FUZZ_CASES=N` tries N changes (in place of 2,000) and `SIDEKICK_FUZZ_SEED=N` others
//! than those of every run.

use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};

const CASES: u64 = 2_000;

/// What decoders stumble over.
const NASTY: &[&str] = &[
    "",
    " ",
    "\n",
    "\0",
    "\"",
    "\\",
    "${HOME}",
    ";show version",
    "..",
    "/",
    "//",
    ":",
    "@",
    "-1",
    "0",
    "65535",
    "65536",
    "9223372036854775807",
    "1e999",
    "null",
    "[]",
    "{}",
    "[::1]",
    "10.0.0.7",
    "127.0.0.1",
    "localhost",
    "6379/tcp",
    "53/udp",
    "redis@1",
    "sidekick.",
    "# workers",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999-23:59",
    "\u{feff}",
    "ä",
    "\u{202e}",
];

/// Checks everything below `tests/corpus/TARGET`, then changes of it.
pub(crate) fn fuzz(target: &str, check: impl Fn(&[u8])) {
    let corpus = corpus(target);
    for (name, input) in &corpus {
        run(target, name, input, &check);
    }
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse().expect(name));
    let seed = number("SIDEKICK_FUZZ_SEED").unwrap_or(1);
    let cases = number("SIDEKICK_FUZZ_CASES").unwrap_or(CASES);
    let mut rng = fastrand::Rng::with_seed(seed);
    for case in 0..cases {
        let input = mutate(&corpus, &mut rng);
        run(target, &format!("seed {seed}, case {case}"), &input, &check);
    }
    println!(
        "{target}: {} inputs, {cases} changes, seed {seed}",
        corpus.len()
    );
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = format!("{}/tests/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{directory}: {e}"));
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.expect("a file").path();
        (
            path.display().to_string(),
            std::fs::read(path).expect("a file"),
        )
    };
    let mut corpus: Vec<_> = files.map(read).collect();
    // A directory has no order.
    corpus.sort();
    assert!(!corpus.is_empty(), "{directory} is empty");
    corpus
}

fn run(target: &str, name: &str, input: &[u8], check: impl Fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| check(input))).is_err() {
        panic!("{target}, {name}: b\"{}\"", input.escape_ascii());
    }
}

fn mutate(corpus: &[(String, Vec<u8>)], rng: &mut fastrand::Rng) -> Vec<u8> {
    let any = |rng: &mut fastrand::Rng| corpus[rng.usize(0..corpus.len())].1.clone();
    let mut input = any(rng);
    for _ in 0..rng.usize(1..5) {
        match serde_json::from_slice::<Value>(&input) {
            Ok(mut json) if rng.u8(0..4) > 0 => {
                twist(&mut json, rng);
                input = json.to_string().into_bytes();
            }
            _ => scratch(&mut input, &any(rng), rng),
        }
    }
    input
}

/// Changes one place of a JSON text, which stays one.
fn twist(json: &mut Value, rng: &mut fastrand::Rng) {
    let goes_on = rng.u8(0..8);
    match json {
        Value::Object(fields) if !fields.is_empty() && goes_on > 0 => {
            let which = rng.usize(0..fields.len());
            let name = fields.keys().nth(which).cloned().unwrap_or_default();
            match rng.u8(0..10) {
                0 => drop(fields.remove(&name)),
                1 => {
                    let value = fields.remove(&name).unwrap_or_default();
                    fields.insert(nasty(rng).to_owned(), value);
                }
                _ => fields
                    .values_mut()
                    .nth(which)
                    .into_iter()
                    .for_each(|v| twist(v, rng)),
            }
        }
        Value::Array(items) if !items.is_empty() && goes_on > 0 => {
            let which = rng.usize(0..items.len());
            match rng.u8(0..10) {
                0 => drop(items.remove(which)),
                1 => items.push(items[which].clone()),
                _ => twist(&mut items[which], rng),
            }
        }
        other => {
            *other = match rng.u8(0..6) {
                0 => Value::Null,
                1 => rng.bool().into(),
                2 => rng.i64(..).into(),
                3 => (rng.i64(-2..70_000)).into(),
                4 => serde_json::from_str(nasty(rng)).unwrap_or_default(),
                _ => nasty(rng).into(),
            }
        }
    }
}

/// Changes some bytes.
fn scratch(input: &mut Vec<u8>, other: &[u8], rng: &mut fastrand::Rng) {
    let at = rng.usize(0..=input.len());
    let end = (at + rng.usize(0..20)).min(input.len());
    match rng.u8(0..6) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        2 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        3 => {
            let from = rng.usize(0..=other.len());
            input.splice(at.., other[from..].iter().copied());
        }
        4 => drop(input.splice(at..end, nasty(rng).bytes())),
        _ => input
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte = rng.u8(..)),
    }
}

fn nasty(rng: &mut fastrand::Rng) -> &'static str {
    NASTY[rng.usize(0..NASTY.len())]
}
