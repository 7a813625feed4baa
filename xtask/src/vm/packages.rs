//! Kernels and guest programs, downloaded and unpacked once, below the cache directory.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    mirror::Mirror,
    names::{self, Wanted},
    qemu,
};
use crate::shell;

/// Programs that the kernel tests run; busybox provides the others. dash, because busybox's shell
/// prefers its built-in commands to those in PATH.
const GUEST_PACKAGES: [&str; 9] = [
    "dash",
    "python3-minimal",
    "libpython3-stdlib",
    "iproute2",
    "strace",
    "curl",
    "nginx-light",
    "util-linux",
    "procps",
];

/// Dependencies that are needed only to install packages, including Perl.
const NOT_UNPACKED: [&str; 6] = [
    "debconf",
    "dpkg",
    "gcc-12-base",
    "libperl5.36",
    "perl-base",
    "perl-modules-5.36",
];

/// Parts of packages that no test uses.
const REMOVED: [&str; 6] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/bash-completion",
    "usr/share/lintian",
    "usr/lib/x86_64-linux-gnu/gconv",
];

/// Incremented when the processing of the guest's unpacked programs changes.
const PREPARED: u32 = 2;

/// The locked cache directory.
pub struct Cache {
    dir: PathBuf,
    mirror: Mirror,
    /// Held while downloading and unpacking: another run waits.
    _lock: File,
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its series and flavour.
    pub name: Wanted,
    /// As `uname -r` says it.
    pub release: String,
    /// Version of the package.
    pub version: String,
    /// Where it is unpacked.
    pub dir: PathBuf,
    pub image: PathBuf,
}

pub fn default_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        _ => Path::new(&env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("observer/vm"))
}

impl Cache {
    pub fn open(dir: &Path, update: bool) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let lock = File::create(dir.join("lock"))?;
        lock.lock().context("cannot lock the cache")?;
        Ok(Self {
            mirror: Mirror::open(&dir.join("apt"), update)?,
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// Every available kernel, with its release.
    pub fn kernels(&self) -> Result<Vec<(Wanted, String)>> {
        let images = self.mirror.names("linux-image-")?;
        let modules = self.mirror.names("linux-modules-")?;
        Ok(names::available(&images, &modules).into_iter().collect())
    }

    /// Downloads and unpacks a kernel.
    pub fn kernel(&self, wanted: Wanted) -> Result<Kernel> {
        self.find(wanted).or_else(|error| {
            // Old point versions vanish from mirrors.
            eprintln!("note: {error:#}; looking for newer packages");
            self.mirror.update()?;
            self.find(wanted)
        })
    }

    fn find(&self, wanted: Wanted) -> Result<Kernel> {
        let available = self.kernels()?.into_iter().collect();
        let (name, release) = names::nearest(&available, wanted)
            .with_context(|| format!("the mirror has no kernel of the kind of {wanted}"))?;
        if name != wanted {
            eprintln!("note: the mirror has no {wanted}; taking {name}");
        }
        self.unpacked(name, release)
    }

    fn unpacked(&self, name: Wanted, release: &str) -> Result<Kernel> {
        let image = format!("linux-image-{release}");
        let (version, _) = self.mirror.show(&image)?;
        let dir = self
            .dir
            .join("kernels")
            .join(format!("{release}_{}", file_name(&version)));
        if !dir.is_dir() {
            let packages = self.parts(&image, release)?;
            let debs = self.dir.join("packages");
            self.mirror.download(&packages, &debs)?;
            let files = packages.iter().map(|package| deb_of(&debs, package));
            unpack(&files.collect::<Result<Vec<_>>>()?, &dir, |root| {
                // Packages since trixie have usr/lib/modules only, and depmod and modprobe
                // look in lib/modules.
                if !root.join("lib").exists() {
                    std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
                }
                let mut depmod = Command::new("depmod");
                depmod.arg("-b").arg(root).arg(release);
                shell::run(&mut depmod, "install kmod")
            })?;
        }
        let places = [
            dir.join("boot").join(format!("vmlinuz-{release}")),
            dir.join("usr/lib/modules").join(release).join("vmlinuz"),
        ];
        let image = places
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| format!("{} has no vmlinuz", dir.display()))?;
        Ok(Kernel {
            name,
            release: release.to_owned(),
            version,
            dir,
            image,
        })
    }

    /// The packages that a kernel consists of, as `name=version`. Since 6.19 linux-image is
    /// empty and depends on linux-binary, -base and -modules of the same release.
    fn parts(&self, image: &str, release: &str) -> Result<Vec<String>> {
        let mut parts = Vec::new();
        let mut open = vec![image.to_owned()];
        let suffix = format!("-{release}");
        while let Some(package) = open.pop() {
            let (version, depends) = match self.mirror.show(&package) {
                Ok(shown) => shown,
                // A name that another package provides.
                Err(_) if package.starts_with("linux-base-") => continue,
                Err(error) => return Err(error),
            };
            parts.push(format!("{package}={version}"));
            for next in depends {
                let known = parts
                    .iter()
                    .any(|part| part.starts_with(&format!("{next}=")));
                if next.ends_with(&suffix) && !known && !open.contains(&next) {
                    open.push(next);
                }
            }
        }
        Ok(parts)
    }

    /// Packages with all they depend on, as files.
    fn closure(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        self.mirror.closure(packages).or_else(|error| {
            eprintln!("note: {error:#}; looking for newer packages");
            self.mirror.update()?;
            self.mirror.closure(packages)
        })
    }

    /// The emulator with all it depends on, unpacked.
    pub fn qemu(&self) -> Result<PathBuf> {
        let files = self.closure(&[qemu::PACKAGE])?;
        let dir = self.dir.join("qemu").join(fingerprint(&files));
        if !dir.is_dir() {
            unpack(&files, &dir, |_| Ok(()))?;
        }
        Ok(dir)
    }

    /// The guest's programs with all they depend on, unpacked.
    pub fn guest(&self) -> Result<PathBuf> {
        let files = self.closure(&GUEST_PACKAGES)?;
        let wanted = files.iter().filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            !NOT_UNPACKED
                .iter()
                .any(|unused| name.split('_').next() == Some(unused))
        });
        let wanted: Vec<_> = wanted.cloned().collect();
        let name = format!("{}-{PREPARED}", fingerprint(&wanted));
        let dir = self.dir.join("guests").join(name);
        if !dir.is_dir() {
            unpack(&wanted, &dir, |root| {
                for part in REMOVED {
                    let _ = fs::remove_dir_all(root.join(part));
                }
                if let Err(error) = compile_python(root) {
                    eprintln!("note: guests will start Python slowly: {error:#}");
                }
                Ok(())
            })?;
        }
        Ok(dir)
    }
}

/// Compiles Python's library to byte code, as the installation of the package does. Otherwise each
/// guest would need half a minute for it. Uses the guest's Python with the guest's libraries.
fn compile_python(root: &Path) -> Result<()> {
    let python = fs::read_dir(root.join("usr/bin"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix("python3.")
                .is_some_and(|minor| minor.bytes().all(|c| c.is_ascii_digit()))
        })
        .context("no Python among the guest's programs")?;
    let library = root
        .join("usr/lib")
        .join(python.file_name().unwrap_or_default());
    let loader = qemu::loader(root).context("no loader among the guest's programs")?;
    let mut compile = Command::new(loader);
    compile
        .arg("--library-path")
        .arg(qemu::library_path(root)?)
        .arg(&python)
        .args(["-S", "-m", "compileall", "-q"])
        // Packing may change the times of files.
        .args(["--invalidation-mode", "unchecked-hash", "-p", "/", "-s"])
        .arg(root)
        .arg(&library)
        .env("PYTHONHOME", root.join("usr"))
        .env_remove("PYTHONPATH")
        .stdout(Stdio::null());
    shell::run(&mut compile, "nothing")
}

/// Unpacks packages below `dir`, which is created only if all succeed.
fn unpack(debs: &[PathBuf], dir: &Path, finish: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let begun = with_suffix(dir, ".part");
    if begun.exists() {
        fs::remove_dir_all(&begun)?;
    }
    fs::create_dir_all(&begun)?;
    eprintln!("unpacking {} packages to {}", debs.len(), dir.display());
    for deb in debs {
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("-x").arg(deb).arg(&begun);
        let output = dpkg.output().context("dpkg-deb does not start")?;
        if !output.status.success() {
            // Otherwise a damaged download would stay in the cache.
            let _ = fs::remove_file(deb);
            bail!(
                "cannot unpack {}: {}",
                deb.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    finish(&begun)?;
    fs::rename(&begun, dir)?;
    Ok(())
}

/// `Path::with_extension` would cut a version at its last dot.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The file that `apt-get download` leaves for `name=version`.
fn deb_of(dir: &Path, package: &str) -> Result<PathBuf> {
    let (name, version) = package.split_once('=').unwrap_or((package, ""));
    let stem = format!("{name}_{}_", file_name(version));
    let entries = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    entries
        .into_iter()
        .find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&stem) && file.ends_with(".deb")
        })
        .ok_or_else(|| anyhow!("apt-get left no file for {package}"))
}

/// apt writes the colon of an epoch as `%3a` in file names.
fn file_name(version: &str) -> String {
    version.replace(':', "%3a")
}

/// A name that changes when a package does (FNV-1a over the file names).
fn fingerprint(files: &[PathBuf]) -> String {
    let mut names: Vec<_> = files.iter().filter_map(|file| file.file_name()).collect();
    names.sort_unstable();
    let bytes = names.iter().flat_map(|name| name.as_encoded_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_another_guest() {
        let of = |names: &[&str]| fingerprint(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(
            of(&["a/x_1.deb", "a/y_1.deb"]),
            of(&["b/y_1.deb", "b/x_1.deb"])
        );
        assert_ne!(of(&["x_1.deb"]), of(&["x_2.deb"]));
    }

    #[test]
    fn a_download_is_found_by_name_and_version() {
        let dir = env::temp_dir().join(format!("observer-vm-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("iproute2_1%3a6.1.0-3_amd64.deb");
        fs::write(&file, "").unwrap();
        assert_eq!(deb_of(&dir, "iproute2=1:6.1.0-3").unwrap(), file);
        assert!(deb_of(&dir, "iproute2=6.2").is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
