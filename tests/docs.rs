//! The pages: each relative link leads somewhere, each option of `--help` is described, each file that a page
//! names exists, and the README is short enough to be read.

// A page that can't be read is a failed test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README_WORDS: usize = 1_200;
const COMMANDS: [&str; 10] = [
    "announce",
    "explain",
    "agent",
    "list",
    "export",
    "drain",
    "undrain",
    "wait",
    "healthcheck",
    "doctor",
];

/// Below these folders a path in a page is one of this repository.
const FOLDERS: [&str; 10] = [
    "src", "tests", "docs", "deploy", "systemd", "scripts", "demo", "benches", "fuzz", "examples",
];

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// README, CONTRIBUTING and their like, and all below docs/.
fn pages() -> Vec<PathBuf> {
    let (mut pages, mut folders) = (Vec::new(), vec![Path::new(ROOT).join("docs")]);
    for name in ["README", "CONTRIBUTING", "CHANGELOG", "SECURITY"] {
        pages.push(Path::new(ROOT).join(name).with_extension("md"));
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The page without its code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// What stands between backticks: every second piece.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Targets of `[text](target)`, `![text](target)` and `[name]: target`.
fn links(page: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(page) {
        let text: String = line.split('`').step_by(2).collect();
        if let Some((_, target)) = text.split_once("]: ").filter(|_| text.starts_with('[')) {
            links.push(target.trim().to_owned());
        }
        let targets = text.split("](").skip(1);
        links.extend(targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    links
}

/// The anchors of a page's headings, by GitHub's rule: in lower case, blanks as hyphens, without punctuation.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page).filter_map(|line| Some(line.strip_prefix('#')?.trim_matches('#')));
    let anchor = |heading: &str| {
        let heading = heading.trim().to_lowercase();
        let kept = heading.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || "-_".contains(c) => Some(c),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

/// Why a link of the page at `from` leads nowhere.
fn broken(from: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let to = match file {
        "" => from.to_owned(),
        file => from.parent()?.join(file),
    };
    let of = from.strip_prefix(ROOT).unwrap_or(from).display();
    if !to.exists() {
        return Some(format!("{of}: {link}: there is no such file"));
    }
    let found = anchor.is_empty() || anchors(&read(&to)).contains(anchor);
    (!found).then(|| format!("{of}: {link}: there is no such heading"))
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut problems = Vec::new();
    for page in pages() {
        let links = links(&read(&page));
        problems.extend(links.iter().filter_map(|link| broken(&page, link)));
    }
    assert_eq!(problems, [""; 0]);
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = "# A page: `--all`\n[a](docs/none.md) ![b](README.md#none), [c][d]\n`[e](none)`\n\
                ```\n# [f](none)\n```\n[d]: none.md\n[g](https://example.org/none) [h](README.md#more)";
    let links = links(page);
    let from = Path::new(ROOT).join("README.md");
    let broken: Vec<_> = links
        .iter()
        .filter(|l| broken(&from, l).is_some())
        .collect();
    assert_eq!(broken, ["docs/none.md", "README.md#none", "none.md"]);
    assert_eq!(anchors(page), BTreeSet::from(["a-page---all".to_owned()]));
}

#[test]
fn the_readme_is_short() {
    let words = read(&Path::new(ROOT).join("README.md"))
        .split_whitespace()
        .count();
    assert!(words <= README_WORDS, "the README has {words} words");
}

/// Options (`--ttl`, `-o`) and environment variables in a text.
fn options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)));
    let option = |word: &&str| {
        let long = word.starts_with("--") && word.len() > 3;
        let short = word.len() == 2 && word.starts_with('-') && word != &"--";
        let known = ["SIDEKICK_", "ETCDCTL_", "DOCKER_"];
        long || short || known.iter().any(|prefix| word.starts_with(prefix))
    };
    words.filter(option).map(str::to_owned).collect()
}

/// What `--help` of a command offers: the lines that begin with an option, and each `[env: NAME=]`.
fn help(command: &str) -> BTreeSet<String> {
    let mut sidekick = Command::new(env!("CARGO_BIN_EXE_sidekick"));
    let output = sidekick.args([command, "--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(str::trim_start);
    let lines = lines.filter(|line| line.starts_with('-') || line.starts_with("[env: "));
    let help: BTreeSet<String> = lines.flat_map(options).collect();
    // It asks a sidekick, and no etcd.
    let asks_etcd = command != "healthcheck";
    assert_eq!(help.contains("--etcd-endpoints"), asks_etcd);
    assert_eq!(help.contains("ETCDCTL_ENDPOINTS"), asks_etcd);
    &help - &BTreeSet::from(["-h", "--help"].map(str::to_owned))
}

#[test]
fn every_option_of_help_stands_in_the_docs_and_the_other_way_round() {
    let page = read(&Path::new(ROOT).join("docs/command-line.md"));
    let described = options(&page);
    let mut offered = BTreeSet::new();
    for command in COMMANDS {
        let help = help(command);
        let missing: Vec<_> = help.difference(&described).collect();
        assert_eq!(
            missing, [""; 0],
            "of {command}, missing in docs/command-line.md"
        );
        offered.extend(help);
    }
    // The first cell of each row.
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `-"));
    let cells = rows.map(|row| format!("-{}", row.split_once('|').unwrap().0));
    let named: BTreeSet<String> = cells.flat_map(|cell| options(&cell)).collect();
    let gone: Vec<_> = named.difference(&offered).collect();
    assert_eq!(gone, [""; 0], "in docs/command-line.md, and no option");
}

/// Paths of this repository that stand in backticks, up to what is a pattern or a function.
fn files(line: &str) -> Vec<String> {
    let paths = code_spans(line).flat_map(str::split_whitespace);
    let ours = paths.filter(|path| {
        let folder = path.split_once('/').map(|(folder, _)| folder);
        let plain = path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-@".contains(c));
        plain && folder.is_some_and(|folder| FOLDERS.contains(&folder))
    });
    ours.map(str::to_owned).collect()
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut missing = Vec::new();
    for page in pages() {
        let text = read(&page);
        let named = prose(&text).flat_map(files);
        let gone = named.filter(|file| !Path::new(ROOT).join(file).exists());
        let of = page.strip_prefix(ROOT).unwrap().display().to_string();
        missing.extend(gone.map(|file| format!("{of}: {file}")));
    }
    assert_eq!(missing, [""; 0]);
    assert_eq!(files("`src/none.rs`, `src/*.rs`, `etc/x`"), ["src/none.rs"]);
}

/// The names of metrics in a text, without the suffixes of a histogram's samples.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    let names = words.filter(|word| word.starts_with("sidekick_") && !word.ends_with('_'));
    let bare = |name: &str| {
        let suffixes = ["_bucket", "_sum", "_count"];
        let mut bare = suffixes.iter().filter_map(|it| name.strip_suffix(it));
        bare.next().unwrap_or(name).to_owned()
    };
    names.map(bare).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_are_described() {
    let file = |name: &str| read(&Path::new(ROOT).join(name));
    let described = metrics(&file("docs/observing.md"));
    for name in ["deploy/alerts.yml", "deploy/grafana.json"] {
        let asked = metrics(&file(name));
        let unknown: Vec<_> = asked.difference(&described).collect();
        assert_eq!(unknown, [""; 0], "{name}");
        assert!(asked.len() > 10, "{name}: {asked:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&file("deploy/grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}
