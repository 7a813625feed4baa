//! The licences of the binary's dependencies, and its bill of materials (SBOM).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{host, shell};

/// The part of `cargo metadata` that is read.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
    authors: Vec<String>,
}

impl Package {
    /// The expression of its licences. Some manifests still separate them by a slash.
    fn license(&self) -> Option<String> {
        let parts = self.license.as_deref()?.split('/').map(str::trim);
        Some(Vec::from_iter(parts).join(" OR "))
    }

    /// The texts of its licences and notices: those in its directory, or the standard text.
    fn texts(&self) -> Result<Vec<String>> {
        let directory = self.manifest_path.parent().unwrap_or(Path::new("."));
        let texts = texts_in(directory)?;
        if !texts.is_empty() {
            return Ok(texts);
        }
        let license = self.license().unwrap_or_default();
        let text = self.standard_text(directory).with_context(|| {
            format!(
                "{} {} ({license}) has no text of its licence",
                self.name, self.version
            )
        })?;
        Ok(vec![text])
    }

    /// The text of MIT, the only licence offered by packages without a text, with their copyright notice.
    fn standard_text(&self, directory: &Path) -> Option<String> {
        let license = self.license()?;
        // With `AND`, one text would not be enough.
        let offers_mit = !license.contains("AND") && license.split(" OR ").any(|it| it == "MIT");
        let terms = MIT.find("Permission is hereby granted")?;
        let notice = if self.authors.is_empty() {
            let source = fs::read_to_string(directory.join("src/lib.rs")).ok()?;
            let notice = source.lines().find(|line| line.contains("Copyright ("))?;
            notice.trim_start_matches(['/', '*', '!', ' ']).to_owned()
        } else {
            format!("Copyright (c) {}", self.authors.join(", "))
        };
        offers_mit.then(|| format!("{notice}\n\n{}", &MIT[terms..]))
    }
}

/// MIT with this project's copyright notice.
const MIT: &str = include_str!("../../../LICENSE-MIT");

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// Packages that are linked into the binary, without build and test dependencies.
pub struct Dependencies(Vec<Package>);

impl Dependencies {
    /// Those on a target.
    pub fn read(target: &str) -> Result<Self> {
        let mut cargo = shell::cargo();
        cargo.args(["metadata", "--format-version=1", "--locked"]);
        cargo.args(["--filter-platform", target]);
        let text = shell::output(&mut cargo).context("`cargo metadata` failed")?;
        Ok(Self::of(serde_json::from_str(&text)?))
    }

    fn of(metadata: Metadata) -> Self {
        let Metadata { packages, resolve } = metadata;
        let edges: BTreeMap<_, _> = resolve.nodes.iter().map(|it| (&it.id, &it.deps)).collect();
        let mut found = BTreeSet::new();
        // The kernel programs are in the binary, too.
        let roots = ["observer", "observer-ebpf"];
        let of_workspace = packages.iter().filter(|it| it.source.is_none());
        let roots = of_workspace.filter(|it| roots.contains(&it.name.as_str()));
        let mut open: Vec<_> = roots.map(|it| &it.id).collect();
        while let Some(id) = open.pop() {
            if !found.insert(id.clone()) {
                continue;
            }
            let normal = |edge: &&Edge| edge.dep_kinds.iter().any(|it| it.kind.is_none());
            let edges = edges.get(id).into_iter().flat_map(|it| it.iter());
            open.extend(edges.filter(normal).map(|it| &it.pkg));
        }
        let mut found: Vec<_> = packages
            .into_iter()
            .filter(|it| found.contains(&it.id) && it.source.is_some())
            .collect();
        found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Self(found)
    }

    /// Name, version and licence of each, then the texts, each once.
    pub fn licences(&self) -> Result<String> {
        let mut list = "Libraries in the binary, and their licences.\n\n".to_owned();
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for package in &self.0 {
            let Package { name, version, .. } = package;
            let license = package.license();
            let license = license.as_deref().unwrap_or("see below");
            writeln!(list, "{name} {version}: {license}")?;
            for text in package.texts()? {
                texts
                    .entry(text)
                    .or_default()
                    .push(format!("{name} {version}"));
            }
        }
        list += "the Rust standard library: MIT OR Apache-2.0";
        match of_standard_library(&sysroot()?)? {
            Some(text) => {
                let user = "the Rust standard library".to_owned();
                texts.entry(text).or_default().push(user);
            }
            None => {
                list += " (the toolchain that built the binary has no file with its copyright notices; \
                         they are in https://github.com/rust-lang/rust)";
            }
        }
        list += "\nthe GNU C library: LGPL-2.1-or-later\n";
        for (text, users) in texts {
            let rule = "-".repeat(80);
            write!(
                list,
                "\n{rule}\n{}:\n\n{}\n",
                users.join(", "),
                text.trim_end()
            )?;
        }
        Ok(list)
    }

    /// A bill of materials in the format CycloneDX 1.5. `glibc` is the version of the C library.
    pub fn sbom(&self, glibc: &str) -> Value {
        let checksums = checksums();
        let component = |package: &Package| {
            let Package { name, version, .. } = package;
            let purl = format!("pkg:cargo/{name}@{version}");
            let mut component = json!({
                "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            });
            if let Some(expression) = package.license() {
                component["licenses"] = json!([{ "expression": expression }]);
            }
            if let Some(hash) = checksums.get(&(name.clone(), version.clone())) {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
            }
            if let Some(url) = &package.repository {
                component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
            }
            component
        };
        let c_library = json!({
            "type": "library", "bom-ref": "glibc", "name": "glibc", "version": glibc,
            "licenses": [{ "expression": "LGPL-2.1-or-later" }],
        });
        let version = env!("CARGO_PKG_VERSION");
        json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": { "component": {
                "type": "application", "bom-ref": "observer", "name": "observer", "version": version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
            } },
            "components": self.0.iter().map(component).chain([c_library]).collect::<Vec<_>>(),
        })
    }
}

/// Where the toolchain is that builds the binary.
fn sysroot() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "sysroot"]).current_dir(host::root());
    let sysroot = shell::output(&mut rustc).context("`rustc --print sysroot` failed")?;
    Ok(sysroot.trim().into())
}

/// The copyright notices of the standard library and of what it contains, in a toolchain of the Rust project (in `COPYRIGHT`
/// of older ones) or of Debian.
fn of_standard_library(sysroot: &Path) -> Result<Option<String>> {
    let files = [
        "rust/COPYRIGHT-library.html",
        "rust/COPYRIGHT",
        "libstd-rust-dev/copyright",
        "libstd-rust-web-dev/copyright",
    ];
    let mut files = files.iter().map(|it| sysroot.join("share/doc").join(it));
    let text = files.find(|it| it.is_file()).map(fs::read_to_string);
    Ok(text.transpose()?)
}

/// Licences, copyrights and notices in a package's directory.
fn texts_in(directory: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let starts = [
            "LICENSE",
            "LICENCE",
            "COPYING",
            "COPYRIGHT",
            "NOTICE",
            "UNLICENSE",
        ];
        if starts.iter().any(|start| name.starts_with(start)) && entry.path().is_file() {
            texts.push(fs::read_to_string(entry.path())?);
        }
    }
    texts.sort();
    Ok(texts)
}

/// SHA-256 of packages by name and version, from Cargo.lock.
fn checksums() -> BTreeMap<(String, String), String> {
    let lock = fs::read_to_string(host::root().join("Cargo.lock")).unwrap_or_default();
    let field = |block: &str, name: &str| {
        let start = format!("{name} = \"");
        let line = block.lines().find_map(|line| line.strip_prefix(&start));
        line.map(|line| line.trim_end_matches('"').to_owned())
    };
    let of = |block: &str| {
        let key = (field(block, "name")?, field(block, "version")?);
        Some((key, field(block, "checksum")?))
    };
    lock.split("[[package]]").filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_text_gets_that_of_mit_or_is_an_error() {
        let directory = std::env::temp_dir().join(format!("observer-texts-{}", std::process::id()));
        fs::create_dir_all(directory.join("src")).unwrap();
        let package = |license: &str, authors: &[&str]| Package {
            id: String::new(),
            name: "x".to_owned(),
            version: "1".to_owned(),
            license: Some(license.to_owned()),
            repository: None,
            source: None,
            manifest_path: directory.join("Cargo.toml"),
            authors: authors.iter().map(ToString::to_string).collect(),
        };
        let texts = package("MIT OR Apache-2.0", &["A", "B"]).texts().unwrap();
        assert!(texts[0].starts_with("Copyright (c) A, B\n\nPermission is hereby granted"));
        assert!(!texts[0].contains("observer"), "{texts:?}");
        assert!(package("MIT/Apache-2.0", &["A"]).texts().is_ok());
        for license in ["ISC", "MIT AND ISC", "Apache-2.0"] {
            let error = package(license, &["A"]).texts().unwrap_err().to_string();
            assert!(error.contains(license) && error.contains("x 1"), "{error}");
        }
        assert!(package("MIT", &[]).texts().is_err());
        let source = "// x\n// Copyright (C) 2018 C\n";
        fs::write(directory.join("src/lib.rs"), source).unwrap();
        let texts = package("MIT", &[]).texts().unwrap();
        assert!(texts[0].starts_with("Copyright (C) 2018 C\n"), "{texts:?}");
        fs::write(directory.join("LICENCE"), "own").unwrap();
        assert_eq!(package("ISC", &[]).texts().unwrap(), ["own"]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn notices_of_the_standard_library_are_those_of_the_toolchain() {
        let sysroot = std::env::temp_dir().join(format!("observer-sysroot-{}", std::process::id()));
        assert_eq!(of_standard_library(&sysroot).unwrap(), None);
        for file in ["libstd-rust-dev/copyright", "rust/COPYRIGHT-library.html"] {
            let path = sysroot.join("share/doc").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
            let text = of_standard_library(&sysroot).unwrap();
            assert_eq!(text.as_deref(), Some(file));
        }
        fs::remove_dir_all(&sysroot).unwrap();
    }

    #[test]
    fn what_builds_or_tests_the_binary_is_not_in_it() {
        let package = |name: &str, source: Option<&str>| {
            json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                "source": source, "repository": null, "manifest_path": "/x/Cargo.toml", "authors": [] })
        };
        let edge = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let registry = Some("registry");
        let metadata = json!({
            "packages": [
                package("observer", None), package("observer-core", None), package("xtask", None),
                package("aya", registry), package("cc", registry), package("proptest", registry),
                package("signal", registry),
            ],
            "resolve": { "nodes": [
                { "id": "observer", "deps": [edge("observer-core", None), edge("cc", Some("build")), edge("proptest", Some("dev"))] },
                { "id": "observer-core", "deps": [edge("aya", None)] },
                { "id": "xtask", "deps": [edge("signal", None)] },
                { "id": "aya", "deps": [] },
            ] },
        });
        let found = Dependencies::of(serde_json::from_value(metadata).unwrap());
        let names: Vec<_> = found.0.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["aya"]);
        let sbom = found.sbom("2.36");
        assert_eq!(sbom["components"][0]["purl"], "pkg:cargo/aya@1.0.0");
        assert_eq!(
            sbom["components"][0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(sbom["components"][1]["name"], "glibc");
    }

    #[test]
    fn every_dependency_of_the_binary_is_listed_with_the_text_of_its_licence() {
        let dependencies = Dependencies::read("x86_64-unknown-linux-gnu").unwrap();
        let list = dependencies.licences().unwrap();
        assert!(list.contains("\ntokio 1."), "{list}");
        assert!(list.contains("\naya-ebpf 0."), "{list}");
        assert!(!list.contains("\nproptest "), "{list}");
        assert!(list.contains("Apache License") && list.contains("Permission is hereby granted"));
        match of_standard_library(&sysroot().unwrap()).unwrap() {
            Some(text) => assert!(list.contains(text.trim_end())),
            None => assert!(list.contains("has no file with its copyright notices")),
        }
        let texts: Vec<_> = list.split(&"-".repeat(80)).skip(1).collect();
        let users = texts
            .iter()
            .filter_map(|it| it.trim_start().split(":\n").next());
        let users: BTreeSet<_> = users.flat_map(|it| it.split(", ")).collect();
        for Package { name, version, .. } in &dependencies.0 {
            assert!(users.contains(&*format!("{name} {version}")), "{name}");
        }
        let locked = checksums();
        let name = |it: &Package| (it.name.clone(), it.version.clone());
        assert!(
            dependencies
                .0
                .iter()
                .all(|it| locked.contains_key(&name(it)))
        );
    }
}
