//! Imports run down the house: no circle, and no arrow from a lower floor to a higher one.

use crate::source::{attributes, files, is_for_tests, src};
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::{self, Visit};
use syn::{Item, UseTree};

/// The floors of src from the top down, each a list of modules with all that is below them, unless a longer name
/// stands on a floor of its own. A module imports from its own floor's module, or from below.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &[
        "doctor",
        "drain",
        "explain",
        "export",
        "healthcheck",
        "list",
        "wait",
    ],
    &["announce", "agent"],
    &["agent::control_loop", "agent::dry_run"],
    &["agent::event_log", "agent::monitor"],
    &["agent::page"],
    &[
        "announce::lease",
        "announce::docker",
        "announce::health",
        "agent::reconcile",
        "agent::resolver",
    ],
    &[
        "announce::status",
        "agent::drain",
        "agent::schedule",
        "agent::status",
    ],
    &["announce::policy", "agent::machine"],
    &["agent::config"],
    &["agent::haproxy"],
    &[
        "announce::lease::ownership",
        "announce::lease::protocol",
        "agent::model",
    ],
    &["http"],
    &["etcd", "membership", "export::prometheus", "export::envoy"],
    &["catalog", "systemd"],
    &["config", "retry", "shutdown", "watchdog"],
    &["log_throttle", "telemetry"],
    &["clock", "endpoint", "file_replacement", "log_writer"],
];

/// Where a file imports what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    to: String,
    line: usize,
}

impl std::fmt::Display for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Import { from, to, line } = self;
        write!(f, "line {line} of {from} imports {to}")
    }
}

/// Every path that a file names, with its line; but for tests and what stands in a macro.
#[derive(Default)]
struct Paths(Vec<(Vec<String>, usize)>);

impl Paths {
    fn of(text: &str) -> Vec<(Vec<String>, usize)> {
        let mut paths = Paths::default();
        paths.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
        paths.0
    }

    fn used(&mut self, mut path: Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(it) => {
                path.push(it.ident.to_string());
                self.used(path, &it.tree);
            }
            UseTree::Group(it) => it
                .items
                .iter()
                .for_each(|tree| self.used(path.clone(), tree)),
            UseTree::Name(it) => self.found(path, &it.ident),
            UseTree::Rename(it) => self.found(path, &it.ident),
            UseTree::Glob(it) => self.0.push((path, it.star_token.spans[0].start().line)),
        }
    }

    fn found(&mut self, mut path: Vec<String>, last: &proc_macro2::Ident) {
        path.push(last.to_string());
        self.0.push((path, last.span().start().line));
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.used(Vec::new(), &item.tree);
    }

    // `pub(super)` takes nothing from there.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut names: Vec<_> = path.segments.iter().map(|it| it.ident.clone()).collect();
        let last = names.pop().expect("a path has a name");
        self.found(names.iter().map(ToString::to_string).collect(), &last);
        visit::visit_path(self, path);
    }
}

/// Each module of src, with its text; but for fakes, simulations and tests, which look wherever they have to.
fn modules() -> BTreeMap<Vec<String>, String> {
    let mut modules = BTreeMap::new();
    for (file, text) in files() {
        let mut name: Vec<_> = file
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        name.retain(|it| !matches!(it.as_str(), "mod" | "lib"));
        if !name
            .iter()
            .any(|it| matches!(it.as_str(), "testing" | "tests"))
        {
            modules.insert(name, text);
        }
    }
    modules
}

/// The module that owns it: itself, or the one that it is a part of.
fn room(name: &[String]) -> String {
    let owner = (1..name.len()).find(|&n| {
        src()
            .join(name[..n].join("/"))
            .with_extension("rs")
            .is_file()
    });
    name[..owner.unwrap_or(name.len())].join("::")
}

fn imports() -> BTreeSet<Import> {
    let modules = modules();
    let mut imports = BTreeSet::new();
    for (name, text) in &modules {
        for (path, line) in Paths::of(text) {
            let absolute = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "self" => [name, &path[1..]].concat(),
                "super" => {
                    let up = path.iter().take_while(|it| *it == "super").count();
                    [&name[..name.len() - up], &path[up..]].concat()
                }
                child if modules.contains_key(&[name.as_slice(), &[child.to_owned()]].concat()) => {
                    [name, path.as_slice()].concat()
                }
                // `main.rs` names the library by its name.
                "sidekick" => path[1..].to_vec(),
                _ => continue,
            };
            let known = (1..=absolute.len())
                .rev()
                .find(|&n| modules.contains_key(&absolute[..n]));
            let to = room(&absolute[..known.unwrap_or(0)]);
            let from = room(name);
            if from != to && !to.is_empty() && !from.is_empty() {
                imports.insert(Import { from, to, line });
            }
        }
    }
    imports
}

#[test]
fn no_import_runs_in_a_circle() {
    let imports = imports();
    let mut reach: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in &imports {
        reach.entry(&import.from).or_default().insert(&import.to);
    }
    loop {
        let before: usize = reach.values().map(BTreeSet::len).sum();
        for from in reach.keys().copied().collect::<Vec<_>>() {
            let next: BTreeSet<_> = reach[from]
                .iter()
                .filter_map(|to| reach.get(to))
                .flatten()
                .copied()
                .collect();
            reach.get_mut(from).expect("it is there").extend(next);
        }
        if before == reach.values().map(BTreeSet::len).sum() {
            break;
        }
    }
    let back = |it: &&Import| {
        reach
            .get(it.to.as_str())
            .is_some_and(|all| all.contains(it.from.as_str()))
    };
    let circles: Vec<String> = imports
        .iter()
        .filter(back)
        .map(ToString::to_string)
        .collect();
    assert!(
        circles.is_empty(),
        "move what one of these lines names:\n{}",
        circles.join("\n")
    );
}

fn floor(module: &str) -> Option<usize> {
    let fits = |name: &str| module == name || module.starts_with(&format!("{name}::"));
    let all = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, names)| names.iter().map(move |name| (floor, *name)));
    all.filter(|(_, name)| fits(name))
        .max_by_key(|(_, name)| name.len())
        .map(|(floor, _)| floor)
}

#[test]
fn imports_run_down() {
    let mut wrong = Vec::new();
    for import in imports() {
        let (Some(from), Some(to)) = (floor(&import.from), floor(&import.to)) else {
            wrong.push(format!("{import}: FLOORS lacks one of them"));
            continue;
        };
        let same = import.from.split("::").next() == import.to.split("::").next();
        if from > to || (from == to && !same) {
            wrong.push(format!(
                "{import}, which is no floor below: move what that line names down, or the file up"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
