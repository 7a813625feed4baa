//! This crate builds without the kernel side and without a network stack, and its modules import in
//! one direction.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn depends_on_no_bpf_library_and_no_async_runtime() {
    let cargo = std::env::var_os("CARGO").expect("run by cargo");
    let output = Command::new(cargo)
        .args(["tree", "--package", "observer-core", "--locked"])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{lib}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let tree = String::from_utf8(output.stdout).expect("UTF-8");
    let libraries: Vec<&str> = tree.lines().collect();
    assert!(libraries.contains(&"observer_common"), "{libraries:?}");
    for banned in ["aya", "btf_rs", "hyper", "tokio"] {
        assert!(!libraries.contains(&banned), "{banned} is back");
    }
}

/// The modules, each of which imports only those before it.
const LAYERS: [&str; 12] = [
    "sync", "text", "names", "contract", "process", "net", "ports", "table", "export", "config",
    "record", "host",
];

/// The first-level modules that a source text names after `crate::`, with or without braces.
fn imported(text: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let rest = text.trim_start().chars();
        rest.take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.push(name(rest));
            continue;
        }
        let mut depth = 0;
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => {}
                _ => continue,
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && c != '}' {
                found.push(name(&rest[at + 1..]));
            }
        }
    }
    // After a last comma there is none.
    found.retain(|name| !name.is_empty());
    found
}

/// Source files below `directory`, without those of tests.
fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("a directory entry").path();
        let name = path
            .file_stem()
            .and_then(|it| it.to_str())
            .unwrap_or_default();
        if name == "tests" || name == "testing" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[test]
fn modules_import_only_those_before_them() {
    assert_eq!(
        imported("use crate::{a::{b, c}, d}; crate::e::f()"),
        ["a", "d", "e"]
    );
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let rank = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    for file in files {
        let inner = file.strip_prefix(&src).expect("below src");
        let module = inner
            .iter()
            .next()
            .and_then(|it| it.to_str())
            .unwrap_or_default();
        let Some(own) = rank(module.trim_end_matches(".rs")) else {
            assert_eq!(module, "lib.rs", "not in LAYERS");
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file");
        // Tests at the end of a file may import anything.
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for other in imported(code) {
            let other_rank = rank(&other).unwrap_or_else(|| panic!("{other} is not in LAYERS"));
            assert!(other_rank <= own, "{} imports {other}", inner.display());
        }
    }
}
