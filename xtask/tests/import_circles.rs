//! Tests that no file of the workspace imports, directly or indirectly, from a file that imports
//! from it, and that folders import only in the allowed order.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use import_graph::Graph;

mod import_graph;

/// Below a folder, its files and folders in the order in which they import: each imports only those
/// before it.
const ORDER: &[(&str, &[&str])] = &[
    (
        "observer-common/src",
        &["signals", "slot", "record", "outcome"],
    ),
    (
        "observer-ebpf/src",
        &["core", "tcp", "process", "scan", "uprobes"],
    ),
    (
        "observer-core/src",
        &[
            "sync", "text", "heaviest", "names", "btf", "binaries", "contract", "process", "net",
            "hints", "walk", "table", "detect", "doctor", "export", "config", "record", "host",
        ],
    ),
    (
        "observer/src/kernel",
        &["facts", "hooks", "uprobes", "loader", "maps", "attached"],
    ),
];

/// The index of `file` in `order`, if it is below one of its names.
fn place(file: &Path, base: &str, order: &[&str]) -> Option<usize> {
    let inner = file.strip_prefix(base).ok()?;
    let first = Path::new(inner.iter().next()?).with_extension("");
    order.iter().position(|name| first == Path::new(name))
}

/// The edges of every library and program of the workspace, with paths relative to its root.
fn workspace() -> Graph {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {output:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut graph = Graph::new();
    for package in metadata["packages"].as_array().unwrap() {
        for target in package["targets"].as_array().unwrap() {
            let kind = target["kind"][0].as_str().unwrap();
            if !matches!(kind, "lib" | "bin") {
                continue;
            }
            let file = Path::new(target["src_path"].as_str().unwrap());
            let file = file.strip_prefix(root).unwrap();
            let read = |file: &Path| fs::read_to_string(root.join(file)).ok();
            for (file, arrows) in import_graph::of_target(file, &read) {
                graph.entry(file).or_default().extend(arrows);
            }
        }
    }
    graph
}

/// A cycle with its edges, for the message.
fn describe(graph: &Graph, circle: &BTreeSet<PathBuf>) -> String {
    let mut text = String::new();
    for file in circle {
        for (other, path) in graph[file]
            .iter()
            .filter(|(other, _)| circle.contains(*other))
        {
            text += &format!("  {} uses {path} of {}\n", file.display(), other.display());
        }
    }
    text
}

#[test]
fn no_files_import_from_each_other() {
    let graph = workspace();
    assert!(graph.len() > 50, "only {} files were read", graph.len());
    let circles = import_graph::circles(&graph);
    let circles: String = circles
        .iter()
        .map(|circle| format!("circle:\n{}", describe(&graph, circle)))
        .collect();
    assert!(circles.is_empty(), "{circles}");
}

#[test]
fn folders_import_only_those_before_them() {
    let mut wrong = String::new();
    let graph = workspace();
    for (base, order) in ORDER {
        for (at, name) in order.iter().enumerate() {
            let mut files = graph
                .iter()
                .filter(|(file, _)| place(file, base, order) == Some(at))
                .peekable();
            assert!(files.peek().is_some(), "{base}/{name} is not there");
            for (file, arrows) in files {
                for (other, path) in arrows {
                    if place(other, base, order).is_some_and(|other| other > at) {
                        let (file, other) = (file.display(), other.display());
                        wrong += &format!("{file} uses {path} of {other}\n");
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The cycles of a crate that is given as text by file.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let files: BTreeMap<_, &str> = files
        .iter()
        .map(|(name, text)| (Path::new(name), *text))
        .collect();
    let read = |file: &Path| files.get(file).map(|text| (*text).to_string());
    let graph = import_graph::of_target(Path::new("src/lib.rs"), &read);
    let name = |file: &PathBuf| file.strip_prefix("src").unwrap().display().to_string();
    let circles = import_graph::circles(&graph);
    circles
        .iter()
        .map(|circle| circle.iter().map(name).collect())
        .collect()
}

#[test]
fn a_circle_is_found_through_reexports_aliases_and_macros() {
    let found = circles_of(&[
        ("src/lib.rs", "mod a; mod b; mod c; mod d; pub use a::*;"),
        ("src/a.rs", "use crate::b; pub struct A; fn f() { b::f() }"),
        (
            "src/b.rs",
            "use crate::c::Renamed as Other; pub fn f(_: Other) {}",
        ),
        ("src/c.rs", "pub struct Renamed; fn f() { vec![crate::A] }"),
        ("src/d.rs", "use crate::{A, b}; fn f(_: A) { b::f() }"),
    ]);
    assert_eq!(found, [["a.rs", "b.rs", "c.rs"]]);
}

#[test]
fn a_parent_that_uses_its_child_is_a_circle_only_if_the_child_uses_it() {
    let parent = "mod child; pub struct Shared; fn f() { child::f() }";
    let files = |child| {
        [
            ("src/lib.rs", "mod parent;"),
            ("src/parent/mod.rs", parent),
            ("src/parent/child.rs", child),
        ]
    };
    let back = circles_of(&files("use super::Shared; pub fn f() -> Shared { Shared }"));
    assert_eq!(back, [["parent/child.rs", "parent/mod.rs"]]);
    assert!(circles_of(&files("pub fn f() {}")).is_empty());
    let test = "pub fn f() {} #[cfg(test)] mod tests { use super::super::Shared; }";
    assert!(circles_of(&files(test)).is_empty());
}

#[test]
fn declaring_and_reexporting_make_no_circle() {
    let found = circles_of(&[
        (
            "src/lib.rs",
            "mod a; mod b; pub use {a::A, b::*}; pub(crate) const N: u8 = 1;",
        ),
        (
            "src/a.rs",
            "use crate::{B, N}; pub struct A(B, [u8; N as usize]);",
        ),
        ("src/b.rs", "pub struct B([u8; crate::N as usize]);"),
    ]);
    assert!(found.is_empty(), "{found:?}");
}
