//! The files of src.

use std::collections::BTreeMap;
use std::path::Path;
use syn::{Attribute, Item};

pub fn src() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// Every file of src by its path from there, with its text.
pub fn files() -> BTreeMap<String, String> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![src().to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|it| it != "rs") {
                continue;
            }
            let below = path
                .strip_prefix(src())
                .expect("below src")
                .to_string_lossy();
            let text = std::fs::read_to_string(&path).expect("a source file");
            files.insert(below.into_owned(), text);
        }
    }
    files
}

pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| {
        let syn::Meta::List(list) = &it.meta else {
            return false;
        };
        list.path.is_ident("cfg")
            && list
                .tokens
                .to_string()
                .split_whitespace()
                .any(|it| it == "test")
    })
}
