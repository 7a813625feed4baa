//! The guest's root file system: an initramfs of several archives one after the other, which
//! the kernel unpacks in order. The guest's programs are the same for all kernels and the
//! job for all of a run; only modules and the list of tests are packed for each guest.
//! Nothing is compressed: unpacking in an emulated machine takes longer than reading.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    build::{Binaries, Unit},
    outcome::AND,
    packages::{Kernel, with_suffix},
    suite,
};
use crate::shell;

const INIT: &str = include_str!("init.sh");

/// Modules of stock kernels that the tests use: veth, netem, and inet_diag for `ss`.
const MODULES: [&str; 7] = [
    "veth",
    "dummy",
    "inet_diag",
    "tcp_diag",
    "mptcp_diag",
    "sch_netem",
    "sch_tbf",
];

/// Packs the guest's programs, which change only with their packages.
pub fn programs(guest: &Path) -> Result<PathBuf> {
    let archive = with_suffix(guest, ".cpio");
    if !archive.exists() {
        let begun = with_suffix(guest, ".cpio.part");
        pack(guest, &begun)?;
        fs::rename(&begun, &archive)?;
    }
    Ok(archive)
}

/// The contents of each guest of a run.
pub struct Job<'a> {
    pub binaries: &'a Binaries,
    /// Options of each test program.
    pub options: &'a [&'a str],
    pub scale: f64,
    /// Whether the guest's clock counts instructions.
    pub counts_instructions: bool,
}

/// Packs `/init` and the binaries below `dir`.
pub fn job(job: &Job<'_>, dir: &Path) -> Result<PathBuf> {
    let Job {
        binaries,
        options,
        scale,
        counts_instructions,
    } = job;
    let root = dir.join("job");
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("job"))?;
    fs::create_dir_all(at("etc"))?;
    fs::create_dir_all(at("bin"))?;
    fs::write(at("init"), INIT)?;
    fs::set_permissions(at("init"), fs::Permissions::from_mode(0o755))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("busybox is not installed")?;
    fs::copy(busybox, at("bin/busybox"))?;
    std::os::unix::fs::symlink("dash", at("bin/sh"))?;
    let observer = binaries.observer.iter().map(|file| ("observer", file));
    let others = binaries.tests.iter().chain(&binaries.programs);
    for (name, file) in observer.chain(others.map(|(name, file)| (name.as_str(), file))) {
        fs::copy(file, at("job").join(name))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let options: Vec<_> = options.iter().map(|arg| arg.replace('\'', "")).collect();
    let mut environment = format!(
        "export TEST_ARGS='{}' OBSERVER_TEST_SCALE={scale}\n",
        options.join(" ")
    );
    if *counts_instructions {
        environment.push_str("export OBSERVER_COUNTS_INSTRUCTIONS=1\n");
    }
    fs::write(at("job/environment"), environment)?;
    for (file, text) in [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        ),
        (
            "group",
            "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n",
        ),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        ),
    ] {
        fs::write(at("etc").join(file), text)?;
    }
    let archive = dir.join("job.cpio");
    pack(&root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// The work of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Whether to run `observer check`.
    pub check: bool,
    /// The units to run, in order.
    pub units: Vec<Unit>,
    /// The fault to inject, by its name in `init.sh`.
    pub fault: &'static str,
    /// Additional test programs: name and text of a script.
    pub scripts: Vec<(&'static str, &'static str)>,
    /// 2 in a second run; scripts read it from OBSERVER_ATTEMPT.
    pub attempt: u32,
}

impl Part {
    /// The same guest with nothing to run.
    pub fn without_units(&self) -> Self {
        Self {
            check: false,
            units: Vec::new(),
            ..self.clone()
        }
    }

    /// Adds the units of another part.
    pub fn add(&mut self, other: Self) {
        self.check |= other.check;
        self.units.extend(other.units);
    }

    /// Its name in messages.
    pub fn names(&self) -> String {
        let check = self.check.then_some("check");
        let units = self.units.iter().map(|unit| unit.name.as_str());
        let names: Vec<_> = check.into_iter().chain(units).collect();
        if names.is_empty() {
            "the boot".to_owned()
        } else {
            names.join(", ")
        }
    }

    /// Its processes: units that may share one do.
    fn processes(&self) -> Vec<Vec<&Unit>> {
        let mut processes: Vec<Vec<&Unit>> = Vec::new();
        for unit in &self.units {
            let shares = |other: &Unit| {
                suite::share(&unit.name, &other.name)
                    && unit.program == other.program
                    && !unit.tests.is_empty()
                    && !other.tests.is_empty()
            };
            match processes.iter_mut().find(|units| shares(units[0])) {
                Some(units) => units.push(unit),
                None => processes.push(vec![unit]),
            }
        }
        for units in &mut processes {
            // The order in which libtest runs them.
            units.sort_by_key(|unit| &unit.name);
        }
        processes
    }

    /// Lines of the units of a process, the seconds it may take, its program and that program's arguments.
    fn list(&self, timeout: Duration) -> String {
        let line = |units: Vec<&Unit>| {
            let names: Vec<_> = units.iter().map(|unit| unit.name.as_str()).collect();
            let name = names.join(&AND.to_string());
            let seconds = timeout.as_secs() * units.len() as u64;
            let mut line = format!("{name} {seconds} {}", units[0].program);
            let tests: Vec<_> = units.iter().flat_map(|unit| &unit.tests).collect();
            if !tests.is_empty() {
                line.push_str(" --exact");
            }
            for test in tests {
                line.push(' ');
                line.push_str(test);
            }
            line + "\n"
        };
        self.processes().into_iter().map(line).collect()
    }
}

/// Packs the list of units to run, each for no longer than `timeout`.
pub fn part(part: &Part, timeout: Duration, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("part");
    fs::create_dir_all(root.join("job"))?;
    let text = format!(
        "CHECK={}\nFAULT={}\nexport OBSERVER_ATTEMPT={}\n",
        if part.check { "1" } else { "" },
        part.fault,
        part.attempt.max(1),
    );
    fs::write(root.join("job/part"), text)?;
    fs::write(root.join("job/list"), part.list(timeout))?;
    for (name, text) in &part.scripts {
        let file = root.join("job").join(name);
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    let archive = dir.join("part.cpio");
    pack(&root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// Packs a kernel's modules, uncompressed and numbered in the order of loading.
pub fn modules(kernel: &Kernel, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("modules");
    fs::create_dir_all(root.join("modules"))?;
    let mut known = BTreeSet::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe
            .arg("-d")
            .arg(&kernel.dir)
            .args(["-S", &kernel.release, "--show-depends", module]);
        // Ignore modules that the kernel does not have.
        let shown = shell::output(modprobe.stderr(Stdio::null())).unwrap_or_default();
        for file in dependencies(&shown) {
            if known.insert(file.to_owned()) {
                let number = known.len();
                add_module(Path::new(file), number, &root.join("modules"))?;
            }
        }
    }
    let archive = dir.join("modules.cpio");
    pack(&root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// Files in the output of `modprobe --show-depends`: `insmod FILE OPTIONS`.
fn dependencies(shown: &str) -> impl Iterator<Item = &str> {
    shown
        .lines()
        .filter_map(|line| line.strip_prefix("insmod ")?.split_whitespace().next())
}

fn add_module(file: &Path, number: usize, to: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if let Some(plain) = name.strip_suffix(".xz") {
        let output = File::create(to.join(format!("{number:02}-{plain}")))?;
        let status = Command::new("xz")
            .arg("-dc")
            .arg(file)
            .stdout(output)
            .status()?;
        if !status.success() {
            bail!("cannot unpack {}", file.display());
        }
    } else {
        fs::copy(file, to.join(format!("{number:02}-{name}")))?;
    }
    Ok(())
}

/// Packs a directory, every file as root's.
pub fn pack(root: &Path, archive: &Path) -> Result<()> {
    let script = "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0";
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(root)
        .stdout(File::create(archive)?)
        .status()?;
    if !status.success() {
        bail!("cpio failed on {}", root.display());
    }
    Ok(())
}

/// Writes the archives one after the other.
pub fn join(archives: &[&Path], to: &Path) -> Result<()> {
    let mut file = File::create(to)?;
    for archive in archives {
        let mut archive = File::open(archive)?;
        io::copy(&mut archive, &mut file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_share_a_daemon_share_a_process() {
        let unit = |name: &str| Unit {
            name: name.to_owned(),
            program: "kernel".to_owned(),
            tests: vec![format!("{name}::a"), format!("{name}::b")],
        };
        let part = Part {
            units: ["reset", "layout", "accept"].map(unit).into(),
            ..Part::default()
        };
        assert_eq!(
            part.list(Duration::from_secs(60)),
            "accept+reset 120 kernel --exact accept::a accept::b reset::a reset::b\n\
             layout 60 kernel --exact layout::a layout::b\n"
        );
    }

    #[test]
    fn dependencies_come_before_what_needs_them() {
        let shown = "builtin ipv6\n\
                     insmod /k/lib/modules/6.1/inet_diag.ko \n\
                     insmod /k/lib/modules/6.1/tcp_diag.ko.xz a=1\n";
        assert_eq!(
            dependencies(shown).collect::<Vec<_>>(),
            [
                "/k/lib/modules/6.1/inet_diag.ko",
                "/k/lib/modules/6.1/tcp_diag.ko.xz"
            ]
        );
    }
}
