//! Facts about a host that can be read without loading programs.

use std::{fs, path::Path};

use nix::sys::statfs::{FsType, TRACEFS_MAGIC, statfs};

use super::{Probe, Report};
use crate::{namespaces, privileges};

/// Where to look; tests look elsewhere.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// `/sys`
    pub sys: &'a Path,
    /// `/proc`
    pub proc: &'a Path,
}

impl Default for Host<'_> {
    fn default() -> Self {
        Self {
            sys: Path::new("/sys"),
            proc: Path::new("/proc"),
        }
    }
}

/// A report without verdicts and absent fields, which the kernel side adds.
#[must_use]
pub fn gather(host: &Host<'_>) -> Report {
    let (kernel_release, arch) = nix::sys::utsname::uname().map_or_else(
        |_| ("unknown".to_owned(), std::env::consts::ARCH.to_owned()),
        |name| {
            let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
            (text(name.release()), text(name.machine()))
        },
    );
    let mut notes = Vec::new();
    let capabilities = privileges::capabilities().unwrap_or_else(|error| {
        notes.push(error.to_string());
        Vec::new()
    });
    notes.extend(user_namespace(host.proc));
    notes.extend(lockdown(host.sys));
    Report {
        kernel_release,
        arch,
        btf: btf(host.sys),
        tracefs: tracefs(host.sys),
        capabilities,
        verdicts: Vec::new(),
        absent_fields: Vec::new(),
        private_namespaces: namespaces::private(host.proc),
        notes,
    }
}

fn btf(sys: &Path) -> Probe {
    let path = sys.join("kernel/btf/vmlinux");
    match fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(meta) => Ok(format!("{}, {} KiB", path.display(), meta.len() >> 10)),
        Err(error) => Err(format!(
            "{}: {error}; the kernel must be built with CONFIG_DEBUG_INFO_BTF",
            path.display()
        )),
    }
}

fn tracefs(sys: &Path) -> Probe {
    // The second is where kernels before 4.1 had it, mounted with debugfs.
    let places = [sys.join("kernel/tracing"), sys.join("kernel/debug/tracing")];
    for place in &places {
        let mounted: Option<FsType> = statfs(place).ok().map(|stat| stat.filesystem_type());
        if mounted == Some(TRACEFS_MAGIC) {
            return match fs::read_dir(place.join("events")) {
                Ok(_) => Ok(place.display().to_string()),
                Err(error) => Err(format!("{}: {error}", place.join("events").display())),
            };
        }
    }
    Err(format!(
        "not mounted on {}",
        places.map(|p| p.display().to_string()).join(" or ")
    ))
}

/// The kernel checks capabilities in the initial user namespace (`capable()`), so those in another are
/// not sufficient.
fn user_namespace(proc: &Path) -> Option<String> {
    let map = fs::read_to_string(proc.join("self/uid_map")).ok()?;
    let first: Vec<&str> = map.split_whitespace().collect();
    (first != ["0", "0", "4294967295"]).then(|| {
        "this process is in a user namespace of its own; capabilities granted there do not \
         allow BPF"
            .to_owned()
    })
}

fn lockdown(sys: &Path) -> Option<String> {
    let text = fs::read_to_string(sys.join("kernel/security/lockdown")).ok()?;
    let mode = text.split_once('[')?.1.split_once(']')?.0;
    (mode == "confidentiality")
        .then(|| "kernel lockdown (confidentiality) forbids BPF to read kernel memory".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_kernel() {
        let report = gather(&Host::default());
        assert!(
            report.kernel_release.contains('.'),
            "{}",
            report.kernel_release
        );
        assert_eq!(report.capabilities[0].name.get(..4), Some("CAP_"));
        assert_eq!(report.exit_code(), 2, "no hook was tried");
    }

    #[test]
    fn a_bare_host_is_described_without_failing() {
        let root = tempfile::tempdir().unwrap();
        let (sys, proc) = (root.path().join("sys"), root.path().join("proc"));
        let report = gather(&Host {
            sys: &sys,
            proc: &proc,
        });
        let why = report.btf.unwrap_err();
        assert!(
            why.ends_with("the kernel must be built with CONFIG_DEBUG_INFO_BTF"),
            "{why}"
        );
        assert!(report.tracefs.unwrap_err().starts_with("not mounted on "));
        assert!(report.notes.is_empty());
    }

    #[test]
    fn namespaces_and_lockdown_are_noted() {
        let root = tempfile::tempdir().unwrap();
        let (sys, proc) = (root.path().join("sys"), root.path().join("proc"));
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::create_dir_all(sys.join("kernel/security")).unwrap();
        let lockdown_file = sys.join("kernel/security/lockdown");
        fs::write(
            proc.join("self/uid_map"),
            "         0       1000          1\n",
        )
        .unwrap();
        fs::write(&lockdown_file, "none integrity [confidentiality]\n").unwrap();
        assert!(user_namespace(&proc).unwrap().contains("user namespace"));
        assert!(lockdown(&sys).unwrap().contains("confidentiality"));
        fs::write(proc.join("self/uid_map"), "0 0 4294967295\n").unwrap();
        fs::write(&lockdown_file, "[none] integrity confidentiality\n").unwrap();
        assert_eq!(user_namespace(&proc), None);
        assert_eq!(lockdown(&sys), None);
    }
}
