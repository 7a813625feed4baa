//! Builds the static binaries for a guest, which has no libraries of this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use observer_test_support::ahead;

use super::workdir;
use crate::shell;

pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Only these tests depend on the kernel.
const TESTS: &str = "kernel*";
const TESTS_PREFIX: &str = "kernel";

/// The test program whose modules are separate units.
const OF_MODULES: &str = "kernel";

/// Executables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binaries {
    pub observer: Option<PathBuf>,
    /// Name and file of each test program, by name.
    pub tests: Vec<(String, PathBuf)>,
    /// The same of what these run and guests cannot get.
    pub programs: Vec<(String, PathBuf)>,
}

impl Binaries {
    /// With the programs that these units run in guests.
    pub fn for_guests<'a>(&self, units: impl Iterator<Item = &'a Unit> + Clone) -> Result<Self> {
        let runs = |module: &str| units.clone().any(|unit| unit.name == module);
        Ok(Self {
            programs: ahead::for_guests(&dir(&workdir::target()?).join(TARGET), runs),
            ..self.clone()
        })
    }
}

/// The unit of work of a guest: a test program (`kernel_reset` is the unit `reset`), or a module of the program `kernel`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    /// Name of the program's file.
    pub program: String,
    /// The tests to run, all of the program's if empty.
    pub tests: Vec<String>,
}

impl Unit {
    /// A program that consists of this unit.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            program: name.to_owned(),
            tests: Vec::new(),
        }
    }
}

/// The target directory of builds with [`flags`].
pub fn dir(target: &Path) -> PathBuf {
    target.join("vm/build")
}

/// Makes a cargo command build static executables below `dir`. All builds with these flags share their dependencies.
pub fn flags(cargo: &mut Command, dir: &Path) {
    cargo
        .env("CARGO_BUILD_TARGET", TARGET)
        .env("CARGO_TARGET_DIR", dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Without debug information the binaries are a quarter of their size, and somewhat
        // optimised they start in an emulated machine in half the time.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
}

/// What to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The daemon and its kernel tests.
    KernelTests,
    /// Also all other tests, built together: `cargo build` and the tests of one package use
    /// different features of some dependencies, and would compile them twice.
    Everything,
}

/// Builds tests and the daemon, static for guests if there is a directory for that. Cargo builds
/// nothing when nothing has changed.
pub fn build(what: What, for_guests: Option<&Path>) -> Result<Binaries> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--no-run"]);
    if what == What::KernelTests {
        cargo.args([
            "--package",
            "observer",
            "--bin",
            "observer",
            "--test",
            TESTS,
        ]);
    }
    cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    if let Some(dir) = for_guests {
        flags(&mut cargo, dir);
    }
    eprintln!("$ {}", shell::show(&cargo));
    let output = cargo.output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("the tests do not build\n  what you can do: see cargo's messages above");
    }
    binaries(&String::from_utf8_lossy(&output.stdout)).context("cargo names no observer binary")
}

/// Reads cargo's messages.
fn binaries(messages: &str) -> Option<Binaries> {
    let mut found = Binaries::default();
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else {
            continue;
        };
        let kind = message["target"]["kind"][0].as_str();
        let name = message["target"]["name"].as_str().unwrap_or_default();
        match (kind, message["profile"]["test"].as_bool()) {
            (Some("bin"), Some(false)) if name == "observer" => found.observer = Some(executable),
            (Some("test"), Some(true)) if name.starts_with(TESTS_PREFIX) => {
                found.tests.push((name.to_owned(), executable));
            }
            // Unit tests and other programs.
            _ => {}
        }
    }
    found.tests.sort();
    found.observer.is_some().then_some(found)
}

/// The units of test programs, each with the tests whose names contain one of `words`.
pub fn units(tests: &[(String, PathBuf)], words: &[&str]) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for (program, file) in tests {
        let list = shell::output(Command::new(file).args(["--list", "--format", "terse"]))
            .with_context(|| format!("{} does not list its tests", file.display()))?;
        units.extend(parse_list(program, &list, words));
    }
    Ok(units)
}

fn parse_list(program: &str, list: &str, words: &[&str]) -> Vec<Unit> {
    let mut units: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for test in list.lines().filter_map(|line| line.strip_suffix(": test")) {
        let name = match test.split_once("::") {
            Some((module, _)) if program == OF_MODULES => module,
            _ => program.strip_prefix("kernel_").unwrap_or(program),
        };
        if words.is_empty() || words.iter().any(|word| test.contains(word)) {
            units.entry(name).or_default().push(test.to_owned());
        }
    }
    let unit = |(name, tests): (&str, _)| Unit {
        name: name.to_owned(),
        program: program.to_owned(),
        tests,
    };
    units.into_iter().map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_read_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"observer"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel_reset"},"profile":{"test":true},"executable":"/t/deps/kernel_reset-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"observer"},"profile":{"test":true},"executable":"/t/deps/observer-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"cli_errors"},"profile":{"test":true},"executable":"/t/deps/cli_errors-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"xtask"},"profile":{"test":false},"executable":"/t/xtask"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"observer"},"profile":{"test":false},"executable":"/t/observer"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            binaries(messages).unwrap(),
            Binaries {
                observer: Some("/t/observer".into()),
                tests: vec![("kernel_reset".to_owned(), "/t/deps/kernel_reset-1".into())],
                programs: Vec::new(),
            }
        );
        assert_eq!(binaries(""), None);
    }

    #[test]
    fn units_are_programs_and_modules_of_one() {
        let list = "connection_errors::a: test\nerrors::a: test\nerrors::b: test\n";
        let of = |program, words: &[&str]| {
            let units = parse_list(program, list, words);
            let unit = |unit: Unit| (unit.name, unit.tests.join(" "));
            units.into_iter().map(unit).collect::<Vec<_>>()
        };
        let pair = |name: &str, tests: &str| (name.to_owned(), tests.to_owned());
        assert_eq!(
            of("kernel", &[]),
            [
                pair("connection_errors", "connection_errors::a"),
                pair("errors", "errors::a errors::b"),
            ]
        );
        let all = "connection_errors::a errors::a errors::b";
        assert_eq!(of("kernel_x", &[]), [pair("x", all)]);
        assert_eq!(of("kernel", &["::b"]), [pair("errors", "errors::b")]);
        assert!(of("kernel", &["none"]).is_empty());
    }
}
