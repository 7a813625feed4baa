//! The licences of the binary's dependencies, and its bill of materials (SBOM).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
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
}

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
            let license = package.license.as_deref().unwrap_or("see below");
            writeln!(list, "{name} {version}: {license}")?;
            let directory = package.manifest_path.parent().unwrap_or(Path::new("."));
            for text in texts_in(directory)? {
                texts
                    .entry(text)
                    .or_default()
                    .push(format!("{name} {version}"));
            }
        }
        list += "the Rust standard library: MIT OR Apache-2.0\n\
                 the GNU C library: LGPL-2.1-or-later\n";
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
            if let Some(license) = &package.license {
                // Some manifests still separate licences by a slash.
                let expression = license.replace('/', " OR ");
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
    fn what_builds_or_tests_the_binary_is_not_in_it() {
        let package = |name: &str, source: Option<&str>| {
            json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                "source": source, "repository": null, "manifest_path": "/x/Cargo.toml" })
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
