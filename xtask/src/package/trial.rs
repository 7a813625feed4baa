//! Tests packages: installs, upgrades and removes the .deb in Debian 12 and 13, and boots both with it.

mod container;
mod guest;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use observer_test_support::documents;

use super::make::{CONFIGURATION, Packages};
use crate::{
    host, pip, shell,
    vm::{self, mirror, workdir},
};

/// Releases, and the kernels that they are booted with, their own first.
const SUITES: [(&str, &[&str]); 2] = [("bookworm", &["6.1", "5.10"]), ("trixie", &["6.12", "7.3"])];

/// The version to which guests upgrade.
const NEWER: &str = "99.0.0";

/// Files that changes of users and packages leave on every Debian.
const LEFT: [&str; 7] = [
    "./etc/.pwd.lock",
    "./etc/group-",
    "./etc/gshadow-",
    "./etc/passwd-",
    "./etc/shadow-",
    "./etc/subgid-",
    "./etc/subuid-",
];

const OPERATIONS: &str = "usr/share/doc/observer/docs/operations.md";

/// The beginnings of commands of docs/operations.md that install a package and upgrade to another one.
const INSTALL: &str = "dpkg -i observer_VERSION";
const UPGRADE: &str = "dpkg -i observer_NEWER";
const UNATTENDED: &str = "dpkg --force-confold";

/// What every package has: what the licence of the C library asks for, and what alerts link to.
const IN_EACH: [&str; 3] = [
    "usr/share/doc/observer/docs/runbooks/README.md",
    "usr/share/doc/observer/LGPL-2.1",
    "usr/share/doc/observer/linking.txt",
];

/// With which kernels each release is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boots {
    None,
    /// Its own.
    OfRelease,
    /// Also the oldest and the newest supported kernel.
    All,
}

/// Leaves the package installed, for the tests that run it.
pub fn run(packages: &Packages, dir: &Path, boots: Boots) -> Result<Installed> {
    ensure!(host::is_root(), "the trial of packages needs root");
    let mut list = Command::new("tar");
    let list = shell::output(list.arg("-tf").arg(&packages.tarball));
    let list = list.context("tar does not list the tarball")?;
    for file in IN_EACH {
        let there = list.lines().any(|line| line.ends_with(file));
        ensure!(there, "the tarball has no {file}");
    }
    validate(&packages.root().join(SBOM))?;
    if boots != Boots::None {
        container::run(&packages.root(), &dir.join("container"))?;
    }
    let old = dir.join("older.deb");
    packages.pack_older("0.0.1", &old)?;
    let newer = dir.join("newer.deb");
    packages.pack(NEWER, &newer)?;
    for (suite, kernels) in SUITES {
        let tree = Tree::unpack(suite, dir)?;
        tree.install_upgrade_remove(&old, &packages.deb)?;
        tree.verify(packages)?;
        tree.has_rpm(&packages.rpm)?;
        println!("{suite}: installed, upgraded, removed and purged");
        if boots == Boots::None {
            fs::remove_dir_all(&tree.0)?;
            continue;
        }
        tree.install(&packages.deb, INSTALL)?;
        let kernels = match boots {
            Boots::All => kernels,
            _ => &kernels[..1],
        };
        if let Some(obstacle) = vm::obstacle() {
            println!("{suite}: not booted: {obstacle}");
            continue;
        }
        for kernel in kernels {
            guest::boot(
                &tree.0,
                (NEWER, &newer, &packages.tarball),
                kernel,
                &dir.join(format!("{suite}-{kernel}")),
            )
            .with_context(|| format!("{suite} with Linux {kernel}"))?;
            println!("{suite} with Linux {kernel}: every step passed");
        }
        fs::remove_dir_all(&tree.0)?;
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning,info"]);
    shell::run(
        lintian.arg(&packages.deb),
        "see deploy/package/lintian-overrides",
    )?;
    let [.., (suite, _)] = SUITES;
    let tree = Tree::unpack(suite, dir)?;
    let before = tree.state()?;
    tree.install(&packages.deb, INSTALL)?;
    Ok(Installed {
        tree,
        before,
        newer,
    })
}

/// The package in a Debian, in which tests run the daemon.
pub struct Installed {
    tree: Tree,
    before: State,
    newer: PathBuf,
}

impl Installed {
    /// The variable that tests read, and its value.
    pub fn env(&self) -> Result<(&str, &str)> {
        let root = self.tree.0.to_str();
        Ok(("OBSERVER_INSTALLED", root.context("a path is not UTF-8")?))
    }

    /// Upgrades the package after it was used, and purges it.
    pub fn upgrade_and_purge(&self) -> Result<()> {
        self.tree.install(&self.newer, UPGRADE)?;
        self.tree.purge(&self.before)?;
        fs::remove_dir_all(&self.tree.0)?;
        Ok(())
    }
}

/// The bill of materials, in each package.
const SBOM: &str = "usr/share/doc/observer/observer.cdx.json";

/// Validates a bill of materials by the schema of CycloneDX.
fn validate(sbom: &Path) -> Result<()> {
    let script = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(error and f'{error.data.message} in {error.data.json_path}')";
    let mut python = Command::new(pip::ensure()?.join("python3"));
    python.args(["-c", script]).arg(sbom);
    shell::run(&mut python, "see xtask/src/package/dependencies.rs")
}

/// Creates the missing archives from which the root file systems are unpacked.
pub fn fetch() -> Result<()> {
    for (suite, _) in SUITES {
        archive(suite)?;
    }
    Ok(())
}

/// Packages that a tree has besides the essential ones.
const INCLUDED: &str = "apt,systemd-sysv,dbus,passwd,procps,init-system-helpers";

/// The archive of a release.
fn archive(suite: &str) -> Result<PathBuf> {
    let dir = workdir::target()?.join("package");
    fs::create_dir_all(&dir)?;
    // Another list of packages makes another archive.
    let archive = dir.join(format!("{suite}-essential,{INCLUDED}.tar"));
    if !archive.exists() {
        let begun = dir.join(format!("{suite}.part.tar"));
        let mut make = Command::new("mmdebstrap");
        make.args(["--mode=root", "--variant=essential"])
            .arg(format!("--include={INCLUDED}"))
            .arg(suite)
            .arg(&begun)
            .arg(mirror::main()?);
        shell::persist(&mut make, "check the network")?;
        fs::rename(&begun, &archive)?;
    }
    Ok(archive)
}

/// The command of docs/operations.md that begins with these words.
fn documented(words: &str) -> &'static str {
    documents::command(DOCUMENT, words)
}

/// What the packages have as [`OPERATIONS`].
const DOCUMENT: &str = include_str!("../../../docs/operations.md");

/// A Debian with nothing but what it boots with.
struct Tree(PathBuf);

/// Files, and the users and groups of a tree.
type State = (BTreeSet<String>, [Option<String>; 2]);

impl Tree {
    /// Unpacks a fresh one.
    fn unpack(suite: &str, dir: &Path) -> Result<Self> {
        let archive = archive(suite)?;
        let root = dir.join("tree");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir(&root)?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-xf").arg(&archive);
        shell::run(&mut tar, "remove the archive, so that it is made again")?;
        Ok(Self(root))
    }

    /// A command inside, with /proc.
    fn command(&self, words: &[&str]) -> Command {
        let script = r#"mount -t proc proc "$0/proc" && exec chroot "$0" "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command.arg(&self.0).args(words);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        shell::run(&mut self.command(words), "see the message above")
    }

    /// Installs a package by the command of docs/operations.md that begins with these words, and names a file.
    fn install(&self, deb: &Path, words: &str) -> Result<()> {
        let command = documented(words);
        let file = command.split(' ').next_back().unwrap_or_default();
        fs::copy(deb, self.0.join(file))?;
        let mut install = self.command(&["sh", "-c", command]);
        // It need not outlive a crash, and downgrades are allowed as usual. If dpkg asks, it gets no answer and fails.
        install.env("DPKG_FORCE", "unsafe-io,downgrade");
        install.stdin(Stdio::null());
        let installed = shell::run(&mut install, "see above");
        fs::remove_file(self.0.join(file))?;
        installed
    }

    /// Compares a package with the checksums of a release.
    fn verify(&self, packages: &Packages) -> Result<()> {
        let dir = packages.deb.parent().context("a package has a folder")?;
        let sums = self.0.join("SHA256SUMS");
        let release = fs::read_to_string(host::root().join(".github/workflows/release.yml"))?;
        let (_, sum) = release
            .split_once("cd target/package && ")
            .context("no sums")?;
        let sum = sum.split('>').next().unwrap_or_default();
        let mut sh = Command::new("sh");
        let text = shell::output(sh.current_dir(dir).args(["-c", sum]));
        fs::write(&sums, text.context("no sums")?)?;
        let name = packages.deb.file_name().context("a package has a name")?;
        let deb = self.0.join(name);
        let verify = || self.run(&["sh", "-c", documented("sha256sum")]);
        fs::copy(&packages.deb, &deb)?;
        verify()?;
        fs::write(&deb, "another")?;
        ensure!(verify().is_err(), "another package has the same checksum");
        fs::remove_file(deb)?;
        fs::remove_file(sums)?;
        Ok(())
    }

    fn install_upgrade_remove(&self, old: &Path, new: &Path) -> Result<()> {
        let before = self.state()?;
        self.install(old, INSTALL)?;
        for file in IN_EACH {
            ensure!(self.0.join(file).is_file(), "there is no {file}");
        }
        self.has_documented_files()?;
        self.run(&["observer", "--version"])?;
        self.run(&["systemctl", "is-enabled", "observer"])?;
        self.run(&["getent", "passwd", "observer"])?;
        let configuration = self.0.join(CONFIGURATION);
        let older = fs::read_to_string(&configuration)?;
        self.install(new, UPGRADE)?;
        let shipped = fs::read_to_string(&configuration)?;
        ensure!(
            shipped != older,
            "the upgrade left the older {CONFIGURATION}"
        );

        // Changed by the administrator and in the package.
        self.install(old, INSTALL)?;
        let own = "fd-batch = 7\n";
        fs::write(&configuration, own)?;
        self.install(new, UNATTENDED)?;
        let beside = configuration.with_extension("toml.dpkg-dist");
        ensure!(
            fs::read_to_string(&configuration)? == own && fs::read_to_string(beside)? == shipped,
            "the upgrade changed {CONFIGURATION}, or did not lay the new one beside it"
        );
        // Changed by the administrator only: dpkg does not ask.
        self.install(new, UPGRADE)?;
        ensure!(
            fs::read_to_string(&configuration)? == own,
            "the upgrade changed {CONFIGURATION}"
        );
        // An administrator's decision outlives upgrades.
        self.run(&["systemctl", "disable", "observer"])?;
        self.install(new, UPGRADE)?;
        ensure!(
            self.run(&["systemctl", "is-enabled", "observer"]).is_err(),
            "the upgrade enabled the unit again"
        );
        self.run(&["dpkg", "-r", "observer"])?;
        ensure!(configuration.exists(), "the removal took {CONFIGURATION}");
        self.purge(&before)
    }

    /// Purges the package, after which the tree must be as it was.
    fn purge(&self, before: &State) -> Result<()> {
        self.run(&["dpkg", "-P", "observer"])?;
        let after = self.state()?;
        let left: Vec<_> = after.0.difference(&before.0).collect();
        ensure!(left.is_empty(), "the purge left {left:?}");
        let taken: Vec<_> = before.0.difference(&after.0).collect();
        ensure!(taken.is_empty(), "the purge took {taken:?}");
        ensure!(before.1 == after.1, "the purge left a user: {:?}", after.1);
        Ok(())
    }

    /// Whether each file that docs/operations.md tells an operator to use is where it says.
    fn has_documented_files(&self) -> Result<()> {
        let text = fs::read_to_string(self.0.join(OPERATIONS))?;
        let paths = text.split(|it: char| !it.is_ascii_alphanumeric() && !"/._-".contains(it));
        let ours = |it: &&str| it.starts_with("/usr/share/") || it.starts_with("/etc/observer");
        let mut found = 0;
        for path in paths.filter(ours).filter(|it| !it.ends_with(".dpkg-dist")) {
            let file = self.0.join(path.trim_start_matches('/'));
            ensure!(
                file.exists(),
                "{OPERATIONS} names {path}, which is not there"
            );
            found += 1;
        }
        ensure!(found > 5, "{OPERATIONS} names only {found} files");
        Ok(())
    }

    fn state(&self) -> Result<State> {
        let users = |it| fs::read_to_string(self.0.join("etc").join(it)).ok();
        Ok((self.files()?, ["passwd", "group"].map(users)))
    }

    /// Whether rpm installs the package: its files exist then.
    fn has_rpm(&self, rpm: &Path) -> Result<()> {
        let mut install = Command::new("rpm");
        let root = self.0.with_extension("rpm");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir(&root)?;
        // The root has neither its dependencies nor the programs of its scripts.
        install.args(["--install", "--nodeps", "--noscripts", "--root"]);
        shell::run(install.arg(&root).arg(rpm), "see the message above")?;
        let files = [
            "usr/bin/observer",
            "usr/lib/systemd/system/observer.service",
            CONFIGURATION,
        ];
        for file in files.into_iter().chain(IN_EACH) {
            ensure!(root.join(file).is_file(), "{} has no {file}", rpm.display());
        }
        fs::remove_dir_all(&root)?;
        Ok(())
    }

    /// Every file but those that record what happened.
    fn files(&self) -> Result<BTreeSet<String>> {
        let mut find = Command::new("find");
        find.current_dir(&self.0)
            .args([".", "-path", "./proc", "-prune", "-o"])
            .args(["-path", "./var/lib/dpkg", "-prune", "-o"])
            .args(["-path", "./var/log", "-prune", "-o", "-print"]);
        let text = shell::output(&mut find).context("`find` failed")?;
        let files = text.lines().filter(|file| !LEFT.contains(file));
        Ok(files.map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that nothing runs, and why.
    const NOT_RUN: [(&str, &str); 5] = [
        ("gh attestation", "there is no release"),
        ("systemctl stop prometheus", "neither runs as a service"),
        ("editor", "it asks"),
        ("cp -r /usr/share/observer/grafana", "Debian has no Grafana"),
        ("systemctl restart grafana-server", "the same"),
    ];

    /// Where the others are run.
    const RUN: [&str; 3] = [
        include_str!("trial.rs"),
        include_str!("trial/trial.sh"),
        include_str!("../../../observer/tests/chain/documented.rs"),
    ];

    /// The first argument of each call of a function: a string, or a word of a shell script.
    fn arguments(function: &str) -> impl Iterator<Item = &'static str> {
        let calls = RUN.iter().flat_map(move |it| it.split(function).skip(1));
        let first = calls.map(|it| {
            let it = it.trim_start_matches(['(', ' ']);
            let end = |it: &'static str, is_end: fn(char) -> bool| it.split(is_end).next();
            match it.strip_prefix('"') {
                Some(it) => end(it, |c| c == '"'),
                None => end(it, char::is_whitespace),
            }
        });
        first.flatten().filter(|it| !it.is_empty())
    }

    #[test]
    fn every_command_for_operators_is_run() {
        let mut run: Vec<_> = arguments("documented").collect();
        run.extend([INSTALL, UPGRADE, UNATTENDED]);
        let all = NOT_RUN.iter().map(|(words, _)| words).chain(&run);
        let (mut settings, mut commands) = (0, 0);
        for block in DOCUMENT.split("\n\n") {
            if block.starts_with("    [") {
                let in_block = |it: &str| it.contains('=') && block.contains(it);
                let mut lines = arguments("drop_in observer").chain(arguments("drop_in check"));
                assert!(lines.any(in_block), "nothing uses {block}");
                settings += 1;
                continue;
            }
            for command in documents::commands(block) {
                let mut all = all.clone();
                assert!(
                    all.any(|words| command.starts_with(words)),
                    "nothing runs {command:?} of docs/operations.md"
                );
                commands += 1;
            }
        }
        assert!(settings == 2 && commands > 25, "{settings} {commands}");
        for (words, _) in NOT_RUN {
            documented(words);
        }
    }
}
