//! What sidekick is built from: under which licences, from where, how often, and why.
//!
//! cargo-deny knows more (`make deny`: advisories, yanked versions) and takes minutes to install.

// A scene that can't be set is a failed test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs
)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// Where it runs. Other systems' crates stand in Cargo.lock and are never built.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The packages of this workspace.
const OURS: [&str; 2] = ["sidekick", "sidekick-harness"];

/// The same list stands in deny.toml.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// These alone, and why stands in docs/adr/0018: their own files stay under their licence, and a binary with
/// them may be given away under any.
const WEAK_COPYLEFT: [(&str, &str); 2] = [("imbl", "MPL-2.0+"), ("imbl-sized-chunks", "MPL-2.0+")];

fn root(file: &str) -> String {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// `--locked`: fails where Cargo.lock isn't there, or isn't what Cargo.toml asks for.
fn cargo(words: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(words).arg("--locked");
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("cargo can't be run");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {words:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn packages() -> Vec<Value> {
    let text = cargo(&[
        "metadata",
        "--format-version=1",
        "--filter-platform",
        TARGET,
    ]);
    let metadata: Value = serde_json::from_str(&text).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Whether one of its alternatives asks for nothing but licences of the list. (SPDX; some crates
/// still write a slash for OR.)
fn is_free(licence: &str) -> bool {
    let licence = licence.replace('/', " OR ");
    // (A OR B) AND C
    if let Some((either, and)) = licence.split_once(") AND ") {
        return is_free(either.trim_start_matches('(')) && is_free(and);
    }
    let all_of = |alternative: &str| {
        let mut parts = alternative.split(" AND ").map(str::trim);
        parts.all(|part| LICENCES.contains(&part))
    };
    licence.split(" OR ").any(all_of)
}

#[test]
fn every_licence_is_a_permissive_one() {
    let mut unfree = Vec::new();
    let packages = packages();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_free(licence) && !WEAK_COPYLEFT.contains(&(name, licence)) {
            unfree.push(format!("{}: {}", package["name"], package["license"]));
        }
    }
    assert_eq!(unfree, Vec::<String>::new());
    println!(
        "{} packages, all of them under {LICENCES:?}",
        packages.len()
    );
    for (licence, free) in [
        ("MIT", true),
        ("Unlicense OR MIT", true),
        ("Apache-2.0/MIT", true),
        ("Apache-2.0 / MIT", true),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("(LGPL-3.0 OR GPL-3.0) AND MIT", false),
        ("MIT AND GPL-3.0", false),
        ("none", false),
    ] {
        assert_eq!(is_free(licence), free, "{licence}");
    }
    for licence in LICENCES {
        assert!(root("deny.toml").contains(&format!("\"{licence}\",")));
    }
}

#[test]
fn everything_comes_from_crates_io() {
    for package in packages() {
        let source = package["source"].as_str();
        let known = OURS.iter().any(|name| package["name"] == *name)
            || source == Some("registry+https://github.com/rust-lang/crates.io-index");
        assert!(known, "{} is from {source:?}", package["name"]);
    }
}

#[test]
fn nothing_is_in_the_binary_twice() {
    let edges = ["--edges", "normal,no-proc-macro", "--target", TARGET];
    let tree = cargo(&[&["tree", "--duplicates"][..], &edges].concat());
    assert_eq!(tree.trim(), "");
}

#[test]
fn every_dependency_is_justified_in_contributing() {
    let packages = packages();
    let names = |ours: &str, kind: Value| -> BTreeSet<String> {
        let us = packages.iter().find(|p| p["name"] == ours).unwrap();
        let all = us["dependencies"].as_array().unwrap().iter();
        let of_kind = all.filter(|dependency| dependency["kind"] == kind);
        of_kind
            .map(|d| d["name"].as_str().unwrap().to_owned())
            .filter(|name| !OURS.contains(&name.as_str()))
            .collect()
    };
    let [sidekick, harness] = OURS;
    let normal = names(sidekick, Value::Null);
    // The harness is for tests, with all that it is built from.
    let dev = &names(sidekick, "dev".into()) | &names(harness, Value::Null);
    let contributing = root("CONTRIBUTING.md");
    let (_, section) = contributing.split_once("## Dependencies").unwrap();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let rows = rows.filter(|(names, _)| *names != "crate");
    let justified: BTreeSet<String> = rows
        .flat_map(|(names, _)| names.split(", ").map(str::to_owned))
        .collect();
    assert_eq!(justified, normal);
    let line = section
        .split_once("For tests only: ")
        .unwrap()
        .1
        .split('\n')
        .next()
        .unwrap();
    let words = line.trim_end_matches('.').split(", ");
    let for_tests: BTreeSet<String> = words
        .map(|word| word.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(for_tests, &dev - &normal);
}
