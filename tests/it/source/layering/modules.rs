//! The modules of the library and their dependencies, from the source; tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use quote::ToTokens as _;
use syn::visit::Visit;

/// The path of a module below the crate's root: `["runtime", "groups"]`. The root itself is empty.
pub(super) type Module = Vec<String>;

/// One file of the library.
pub(super) struct Source {
    /// Each path that the file names, with the module in which the path occurs.
    paths: Vec<(Module, Vec<String>)>,
    /// The re-exports of the file: the new name, and the path that the name stands for.
    exports: Vec<(String, Vec<String>)>,
    module: Module,
    /// The code without comments and tests.
    pub(super) code: String,
}

/// The files of a crate by their modules.
pub(super) struct Modules(BTreeMap<Module, Source>);

impl Modules {
    /// Reads a folder that has a `lib.rs`. Files below `bin` belong to another crate.
    pub(super) fn read(root: &Path) -> Modules {
        let mut modules = BTreeMap::new();
        for file in files(root) {
            let below = file.strip_prefix(root).expect("a file of this folder").with_extension("");
            let mut module: Module = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module[0] == "bin" || module.iter().any(|part| part.ends_with("tests")) {
                continue;
            }
            if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
                module.pop();
            }
            let text = fs::read_to_string(&file).expect("text");
            modules.insert(module.clone(), Source::parse(module, &text));
        }
        Modules(modules)
    }

    /// A crate of these modules, by name and code.
    pub(super) fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Modules {
        let module =
            |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect::<Module>();
        Modules(files.into_iter().map(|(name, text)| (module(name), Source::parse(module(name), text))).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Module, &Source)> {
        self.0.iter()
    }

    /// The modules on which this one depends. Re-exports do not count as dependencies of the module that makes them.
    pub(super) fn needed_by(&self, module: &Module) -> BTreeSet<Module> {
        let paths = &self.0[module].paths;
        let mut needed: BTreeSet<_> = paths.iter().filter_map(|(within, path)| self.find(within, path)).collect();
        needed.remove(module);
        needed
    }

    /// The module that defines this path, with all re-exports resolved; `None` for a path into another crate.
    fn find(&self, within: &Module, path: &[String]) -> Option<Module> {
        let (mut at, mut rest) = self.start(within, path)?;
        for _ in 0..10 {
            while let Some(next) = rest.first() {
                let deeper = [at.as_slice(), std::slice::from_ref(next)].concat();
                if !self.0.contains_key(&deeper) {
                    break;
                }
                (at, rest) = (deeper, rest[1..].to_vec());
            }
            let Some(name) = rest.first() else { break };
            let Some((_, stands_for)) = self.0.get(&at)?.exports.iter().find(|(export, _)| export == name) else {
                break;
            };
            let (start, more) = self.start(&at, stands_for)?;
            (at, rest) = (start, [more, rest[1..].to_vec()].concat());
        }
        Some(at)
    }

    /// The module in which a path begins, and the rest of the path.
    fn start(&self, within: &Module, path: &[String]) -> Option<(Module, Vec<String>)> {
        let known = |module: Module| -> Module {
            // An inline module is part of its file.
            let mut module = module;
            while !self.0.contains_key(&module) {
                module.pop();
            }
            module
        };
        let supers = path.iter().take_while(|part| *part == "super").count();
        match path.first()?.as_str() {
            "crate" => Some((Module::new(), path[1..].to_vec())),
            "self" => Some((known(within.clone()), path[1..].to_vec())),
            "super" => Some((known(within[..within.len() - supers].to_vec()), path[supers..].to_vec())),
            first => {
                let child = [within.as_slice(), &[first.to_owned()]].concat();
                self.0.contains_key(&child).then(|| (child, path[1..].to_vec()))
            }
        }
    }

    /// The cycles: sets of modules in which each depends on each other, directly or not.
    pub(super) fn circles(&self) -> Vec<BTreeSet<Module>> {
        let needs: BTreeMap<_, _> = self.0.keys().map(|module| (module, self.needed_by(module))).collect();
        let reached = |from: &Module| {
            let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(module) = next.pop() {
                // The crate's root only names the public items, so its dependencies do not count.
                next.extend(
                    needs[module].iter().filter(|module| !module.is_empty() && reached.insert((*module).clone())),
                );
            }
            reached
        };
        let all: BTreeMap<_, _> = needs.keys().map(|module| (*module, reached(module))).collect();
        let circle = |module: &Module| -> BTreeSet<Module> {
            all[module].iter().filter(|other| all[*other].contains(module)).cloned().collect()
        };
        let circles: BTreeSet<_> =
            needs.keys().map(|module| circle(module)).filter(|circle| !circle.is_empty()).collect();
        circles.into_iter().collect()
    }
}

impl Source {
    fn parse(module: Module, text: &str) -> Source {
        let mut file = syn::parse_file(text).expect("Rust");
        file.items.retain(|item| !is_test(attributes(item)));
        let mut reader = Reader { within: module.clone(), paths: Vec::new(), exports: Vec::new() };
        reader.visit_file(&file);
        let code = file.to_token_stream().to_string();
        Source { paths: reader.paths, exports: reader.exports, module, code }
    }

    /// The rows that the module names: the first part below the crate's root of each path from the root, re-exports
    /// included.
    pub(super) fn rows(&self) -> impl Iterator<Item = &str> {
        let exports = self.exports.iter().map(|(_, path)| (&self.module, path));
        self.paths.iter().map(|(within, path)| (within, path)).chain(exports).filter_map(|(within, path)| {
            let supers = path.iter().take_while(|part| *part == "super").count();
            match path[0] == "crate" {
                true => path.get(1),
                // This number of `super` leads to the root.
                false if supers > 0 && supers == within.len() => path.get(supers),
                false => None,
            }
            .map(String::as_str)
        })
    }
}

struct Reader {
    within: Module,
    paths: Vec<(Module, Vec<String>)>,
    exports: Vec<(String, Vec<String>)>,
}

impl Visit<'_> for Reader {
    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        let mut all = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut all);
        for (name, path) in all {
            match item.vis {
                syn::Visibility::Inherited => self.paths.push((self.within.clone(), path)),
                syn::Visibility::Public(_) | syn::Visibility::Restricted(_) => self.exports.push((name, path)),
            }
        }
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        if is_test(&item.attrs) {
            return;
        }
        self.within.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.within.pop();
    }

    fn visit_path(&mut self, path: &syn::Path) {
        // A single word is a variable, or a name from a `use`.
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            let parts = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.paths.push((self.within.clone(), parts));
        }
        syn::visit::visit_path(self, path);
    }

    /// `pub(super)` is no dependency on a parent.
    fn visit_vis_restricted(&mut self, _: &syn::VisRestricted) {}

    /// The arguments of a macro are not parsed: their text is searched for paths by `crate`, `super` and `self`.
    fn visit_macro(&mut self, item: &syn::Macro) {
        let text = item.tokens.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        for (at, word) in words.iter().enumerate() {
            if matches!(*word, "crate" | "super" | "self") && (at == 0 || words[at - 1] != "::") {
                let mut path = vec![(*word).to_owned()];
                let mut rest = words[at + 1..].chunks(2);
                while let Some(["::", name]) = rest.next() {
                    path.push((*name).to_owned());
                }
                if path.len() > 1 {
                    self.paths.push((self.within.clone(), path));
                }
            }
        }
        syn::visit::visit_macro(self, item);
    }
}

/// Each name of a `use`, and the path that the name stands for.
fn flatten(tree: &syn::UseTree, before: &mut Vec<String>, to: &mut Vec<(String, Vec<String>)>) {
    let with = |name: &syn::Ident, before: &[String]| match name.to_string().as_str() {
        "self" if !before.is_empty() => before.to_vec(),
        name => [before, &[name.to_owned()]].concat(),
    };
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, to);
            before.pop();
        }
        syn::UseTree::Name(name) => to.push((name.ident.to_string(), with(&name.ident, before))),
        syn::UseTree::Rename(rename) => to.push((rename.rename.to_string(), with(&rename.ident, before))),
        syn::UseTree::Glob(_) => to.push(("*".into(), before.clone())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, to)),
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.to_token_stream().to_string();
        text.contains("cfg (test") || text.contains("cfg (doctest")
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
