//! Files fit a look, functions fit a screen, and a type's name leads to one type.

use crate::source::{attributes, files, is_for_tests};
use std::collections::BTreeMap;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Ident, Item};

const LINES_OF_A_FILE: usize = 430;
const LINES_OF_A_FUNCTION: usize = 70;

/// The functions of a file that are too long, and the types that it defines; its tests are left out.
#[derive(Default)]
struct Shape {
    too_long: Vec<String>,
    types: Vec<String>,
}

impl Shape {
    fn of(text: &str) -> Shape {
        let mut shape = Shape::default();
        shape.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
        shape
    }

    fn function(&mut self, name: &Ident, body: &syn::Block) {
        let lines = body.span().end().line - name.span().start().line + 1;
        if lines > LINES_OF_A_FUNCTION {
            self.too_long.push(format!("{name} has {lines} lines"));
        }
    }
}

impl<'ast> Visit<'ast> for Shape {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        let name = match item {
            Item::Struct(it) => Some(&it.ident),
            Item::Enum(it) => Some(&it.ident),
            Item::Trait(it) => Some(&it.ident),
            Item::Type(it) => Some(&it.ident),
            _ => None,
        };
        self.types.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_fn(&mut self, it: &'ast syn::ItemFn) {
        self.function(&it.sig.ident, &it.block);
        visit::visit_item_fn(self, it);
    }

    fn visit_impl_item_fn(&mut self, it: &'ast syn::ImplItemFn) {
        self.function(&it.sig.ident, &it.block);
        visit::visit_impl_item_fn(self, it);
    }
}

#[test]
fn no_file_and_no_function_is_too_long() {
    let mut wrong = Vec::new();
    for (file, text) in files() {
        let lines = text.lines().count();
        if lines > LINES_OF_A_FILE {
            wrong.push(format!("{file} has {lines} lines"));
        }
        wrong.extend(
            Shape::of(&text)
                .too_long
                .iter()
                .map(|it| format!("{file}: {it}")),
        );
    }
    assert!(
        wrong.is_empty(),
        "cut them by concern:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_type_name_stands_twice() {
    let mut at: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in files()
        .into_iter()
        .filter(|(file, _)| !file.starts_with("testing/"))
    {
        for name in Shape::of(&text).types {
            at.entry(name).or_default().push(file.clone());
        }
    }
    at.retain(|_, files| files.len() > 1);
    assert!(at.is_empty(), "rename all but one of each: {at:#?}");
}
