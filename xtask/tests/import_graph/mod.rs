//! Reads which file of a crate uses items of which other file.
//!
//! A `use` of an item and a path to one are an arrow to the file that defines the item, whatever
//! it is re-exported through. No arrow: a declaration (`mod x;`), a re-export (`pub use`), the
//! name of a module by itself, and whatever is compiled for tests only. Names that macros generate
//! are attributed to the module they are looked up in. Calls of methods are not seen: an `impl`
//! block in another file than its type is an arrow to the type only.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{
    Attribute, Item, UseTree, Visibility,
    visit::{self, Visit},
};

/// A path of names, as written.
type Names = Vec<String>;

/// Arrows between files, each with a path that makes it.
pub type Graph = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// The graph of the target whose root is `root`. `read` returns a file's text, or `None` where
/// there is no such file.
pub fn of_target(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Graph {
    let mut target = Target {
        modules: Vec::new(),
        read,
    };
    let directory = root.parent().expect("a root has a directory");
    let text = read(root).unwrap_or_else(|| panic!("no {}", root.display()));
    let items = parse(root, &text);
    target.add(None, root, directory, &items);
    target.graph()
}

/// Sets of files that reach each other.
pub fn circles(graph: &Graph) -> BTreeSet<BTreeSet<PathBuf>> {
    let reach: BTreeMap<&Path, BTreeSet<&Path>> = graph
        .keys()
        .map(|file| (file.as_path(), reachable(graph, file)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, reached) in &reach {
        let circle: BTreeSet<PathBuf> = reached
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
            .map(|other| other.to_path_buf())
            .collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles
}

fn reachable<'a>(graph: &'a Graph, from: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&Path> = graph[from].keys().map(PathBuf::as_path).collect();
    while let Some(file) = left.pop() {
        if reached.insert(file)
            && let Some(arrows) = graph.get(file)
        {
            left.extend(arrows.keys().map(PathBuf::as_path));
        }
    }
    reached
}

/// A module, in a file of its own or within another.
struct Module {
    file: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    paths: BTreeSet<Names>,
}

/// One leaf of a `use`.
struct Import {
    /// The name that it has here; `None` for a glob.
    name: Option<String>,
    path: Names,
    is_private: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Module(usize),
    /// An item, defined in this module.
    Item(usize),
    /// Another crate's, a local variable's, or the language's.
    Foreign,
}

struct Target<'a> {
    modules: Vec<Module>,
    read: &'a dyn Fn(&Path) -> Option<String>,
}

impl Target<'_> {
    /// Adds the module of these items, and those below it. Files of its children are in
    /// `directory`.
    fn add(
        &mut self,
        parent: Option<usize>,
        file: &Path,
        directory: &Path,
        items: &[Item],
    ) -> usize {
        let this = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            imports: Vec::new(),
            paths: BTreeSet::new(),
        });
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            if let Item::Mod(module) = item {
                let name = module.ident.to_string();
                let below = directory.join(&name);
                let child = if let Some((_, items)) = &module.content {
                    self.add(Some(this), file, &below, items)
                } else {
                    let (file, text) = self.file_of(file, directory, &name, &module.attrs);
                    let items = parse(&file, &text);
                    self.add(Some(this), &file, &below, &items)
                };
                self.modules[this].children.insert(name, child);
                continue;
            }
            let module = &mut self.modules[this];
            module.items.extend(name_of(item));
            Reader { module }.visit_item(item);
        }
        this
    }

    /// File and text of `mod name;`.
    fn file_of(
        &self,
        parent: &Path,
        directory: &Path,
        name: &str,
        attributes: &[Attribute],
    ) -> (PathBuf, String) {
        let given = attributes.iter().find_map(|attribute| {
            let syn::Meta::NameValue(meta) = &attribute.meta else {
                return None;
            };
            let syn::Expr::Lit(literal) = &meta.value else {
                return None;
            };
            match &literal.lit {
                syn::Lit::Str(path) if meta.path.is_ident("path") => Some(path.value()),
                _ => None,
            }
        });
        let candidates = match given {
            Some(path) => vec![parent.with_file_name(path)],
            None => vec![
                directory.join(format!("{name}.rs")),
                directory.join(name).join("mod.rs"),
            ],
        };
        candidates
            .into_iter()
            .find_map(|file| (self.read)(&file).map(|text| (file, text)))
            .unwrap_or_else(|| panic!("{}: no file of mod {name}", parent.display()))
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (this, module) in self.modules.iter().enumerate() {
            let arrows = graph.entry(module.file.clone()).or_default();
            let imports = module.imports.iter().filter(|import| import.is_private);
            let imports = imports.filter(|import| import.name.is_some());
            for path in module
                .paths
                .iter()
                .chain(imports.map(|import| &import.path))
            {
                if let Meaning::Item(owner) = self.resolve(this, path, &mut Vec::new()) {
                    let file = &self.modules[owner].file;
                    if *file != module.file {
                        arrows
                            .entry(file.clone())
                            .or_insert_with(|| path.join("::"));
                    }
                }
            }
        }
        graph
    }

    /// What `path` stands for in module `this`. `seen` guards against globs that lead in a circle.
    fn resolve(&self, this: usize, path: &[String], seen: &mut Vec<(usize, String)>) -> Meaning {
        let mut at = this;
        let mut is_rooted = false;
        for (index, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" => at = 0,
                "self" => {}
                "super" => at = self.modules[at].parent.unwrap_or(0),
                "Self" => return Meaning::Foreign,
                name => {
                    let is_last = index + 1 == path.len();
                    match self.look_up(at, name, is_last, seen) {
                        Some(Meaning::Module(child)) => at = child,
                        Some(meaning) => return meaning,
                        None if is_rooted => return Meaning::Item(at),
                        None => return Meaning::Foreign,
                    }
                }
            }
            is_rooted = true;
        }
        Meaning::Module(at)
    }

    fn look_up(
        &self,
        at: usize,
        name: &str,
        is_last: bool,
        seen: &mut Vec<(usize, String)>,
    ) -> Option<Meaning> {
        let module = &self.modules[at];
        let item = module.items.contains(name).then_some(Meaning::Item(at));
        let child = module.children.get(name).copied().map(Meaning::Module);
        // A function may have the name of a module: with more to come it is the module.
        let here = if is_last {
            item.or(child)
        } else {
            child.or(item)
        };
        if here.is_some() {
            return here;
        }
        let key = (at, name.to_owned());
        if seen.contains(&key) {
            return None;
        }
        seen.push(key);
        let named = module
            .imports
            .iter()
            .find(|it| it.name.as_deref() == Some(name));
        let found = match named {
            Some(import) => Some(self.resolve(at, &import.path, seen)),
            None => module
                .imports
                .iter()
                .filter(|import| import.name.is_none())
                .find_map(|glob| match self.resolve(at, &glob.path, seen) {
                    Meaning::Module(from) => self.look_up(from, name, is_last, seen),
                    _ => None,
                }),
        };
        seen.pop();
        found
    }
}

/// Collects the imports and paths of an item.
struct Reader<'a> {
    module: &'a mut Module,
}

impl Reader<'_> {
    fn import(&mut self, tree: &UseTree, mut path: Names, is_private: bool) {
        let (name, last) = match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                return self.import(&tree.tree, path, is_private);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path.clone(), is_private);
                }
                return;
            }
            UseTree::Glob(_) => (None, None),
            UseTree::Name(tree) => (Some(tree.ident.to_string()), Some(tree.ident.to_string())),
            UseTree::Rename(tree) => (Some(tree.rename.to_string()), Some(tree.ident.to_string())),
        };
        let name = match name {
            // `use a::{self}` is named `a`.
            Some(name) if name == "self" => path.last().cloned(),
            name => name,
        };
        path.extend(last.filter(|last| last != "self"));
        self.module.imports.push(Import {
            name,
            path,
            is_private,
        });
    }

    /// Paths within the arguments of a macro or its definition, which are not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    // `a::{b, c}` in a macro: `a` is enough.
                    self.end(&mut path);
                    colons = 0;
                    if group.delimiter() != Delimiter::None || !group.stream().is_empty() {
                        self.tokens(group.stream());
                    }
                }
                _ => {
                    self.end(&mut path);
                    colons = 0;
                }
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Names) {
        if !path.is_empty() {
            self.module.paths.insert(std::mem::take(path));
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_private = matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, Names::new(), is_private);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.module.paths.insert(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        self.visit_path(&it.path);
        self.tokens(it.tokens.clone());
    }
}

fn parse(file: &Path, text: &str) -> Vec<Item> {
    syn::parse_file(text)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .items
}

/// Whether an item is under `#[cfg(test)]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.path().is_ident("cfg").then_some(&attribute.meta);
        condition.is_some_and(
            |meta| matches!(meta, syn::Meta::List(list) if list.tokens.to_string() == "test"),
        )
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Union(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Macro(it) => it.ident.as_ref()?,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::Type(it) => &it.ident,
        Item::Union(it) => &it.ident,
        _ => return None,
    };
    Some(name.to_string())
}
