//! Installs packages on Debian and its derivatives.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};

use crate::{interrupt, shell, toolchain, vm::workdir};

pub fn available() -> bool {
    ["apt-get", "apt-cache", "dpkg-query"]
        .iter()
        .all(|name| toolchain::find_program(name).is_some())
}

/// Updates the package lists, once per run.
pub fn update() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let advice = "check the network and /etc/apt/sources.list; an interrupted dpkg needs \
                  `dpkg --configure -a`";
    shell::persist(apt_get()?.arg("update").arg("-qq"), advice)
}

/// The version that an installation would choose, per package that has one.
pub fn candidates(packages: &[impl AsRef<OsStr>]) -> BTreeMap<String, String> {
    let mut policy = Command::new("apt-cache");
    policy.arg("policy").args(packages).env("LC_ALL", "C");
    parse_policy(&shell::output(&mut policy).unwrap_or_default())
}

/// The `packages` that are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // dpkg-query fails when one package is unknown to it, and still lists the
    // others.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .stderr(Stdio::null())
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let installed = |package: &str| {
        text.lines()
            .any(|line| line.split_once(' ') == Some((package, "installed")))
    };
    packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect()
}

/// Installs what is missing of `packages`, and neither starts nor enables a service.
pub fn install(packages: &[&str]) -> Result<()> {
    let packages = missing(packages);
    if packages.is_empty() {
        return Ok(());
    }
    let known = candidates(&packages);
    let unknown: Vec<_> = packages
        .iter()
        .filter(|package| !known.contains_key(**package))
        .collect();
    if !unknown.is_empty() {
        bail!(
            "no apt source has the packages {unknown:?}\n  what you can do: add the source that has them"
        );
    }
    let mut path = OsString::from("DPkg::Path=");
    path.push(without_starters()?);
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    let mut install = apt_get()?;
    // --no-remove: only the user may remove a conflicting package.
    install
        .arg("-o")
        .arg(path)
        .args([
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "--no-remove",
        ])
        .args(&packages);
    let advice =
        "read apt's message above; where dpkg was killed, `dpkg --configure -a` comes first";
    interrupt::deferred(|| {
        let installed = shell::persist(&mut install, advice);
        // Even after an interruption, because apt has finished its current step.
        disable_services(&packages).and(installed)
    })
}

/// Disables the services of `packages`, so that they do not start at the next boot. Only with a
/// running systemd; packages without a service of the same name are ignored.
fn disable_services(packages: &[&str]) -> Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    for package in packages {
        // nginx-light is one of several packages with the service of nginx.
        let service = format!("{}.service", package.trim_end_matches("-light"));
        if shell::output(Command::new("systemctl").args(["is-enabled", &service])).is_some() {
            let mut disable = shell::as_root("systemctl")?;
            let advice = "disable the service by hand, or leave it enabled";
            shell::run(disable.args(["disable", "--quiet", &service]), advice)?;
        }
    }
    Ok(())
}

fn apt_get() -> Result<Command> {
    // sudo drops the environment, so env sets it behind sudo.
    let mut command = shell::as_root("env")?;
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        // A machine that has just booted may be installing updates.
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .stdin(Stdio::null());
    Ok(command)
}

/// The programs by which packages start their services.
const STARTERS: [&str; 2] = ["invoke-rc.d", "deb-systemd-invoke"];

/// A directory with no-op versions of these programs, for the front of dpkg's PATH. Unlike a
/// policy-rc.d, it affects only processes with that PATH, however this program ends.
fn without_starters() -> Result<PathBuf> {
    let dir = workdir::target()?.join("no-services");
    fs::create_dir_all(&dir)?;
    for name in STARTERS {
        let link = dir.join(name);
        if !link.exists() {
            symlink("/bin/true", &link)
                .with_context(|| format!("cannot create {}", link.display()))?;
        }
    }
    Ok(dir)
}

/// Parses `apt-cache policy`, leaving out packages without a candidate.
fn parse_policy(text: &str) -> BTreeMap<String, String> {
    let mut candidates = BTreeMap::new();
    let mut package = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = Some(name);
        } else if let (Some(name), Some(version)) = (package, line.strip_prefix("  Candidate: "))
            && version != "(none)"
        {
            candidates.insert(name.to_owned(), version.to_owned());
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_gives_a_version_per_package_that_has_one() {
        let text = "\
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
        500 http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
nginx-light:
  Installed: (none)
  Candidate: (none)
  Version table:
redis-server:
  Installed: 5:7.0.15-1~deb12u7
  Candidate: 5:7.0.15-1~deb12u7
";
        let candidates = parse_policy(text);
        assert_eq!(candidates["rustc-web"], "1.96.0+dfsg1-1~deb12u2");
        assert_eq!(candidates["redis-server"], "5:7.0.15-1~deb12u7");
        assert_eq!(candidates.len(), 2);
    }
}
