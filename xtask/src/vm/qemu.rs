//! The emulator: Debian's package with all that it depends on, unpacked into the cache. It is not
//! installed, because apt would have to remove other versions of its packages first (qemu-utils
//! from backports).

use std::{
    env,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell;

/// Debian's package.
pub const PACKAGE: &str = "qemu-system-x86";

/// Forces the accelerator: `kvm` or `tcg`.
const ACCELERATOR: &str = "OBSERVER_VM_ACCEL";

/// An unpacked emulator.
pub struct Qemu {
    root: PathBuf,
    loader: PathBuf,
}

impl Qemu {
    /// The emulator below `root`.
    pub fn new(root: &Path) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            loader: loader(root).context("no loader among QEMU's packages")?,
        })
    }

    /// The program and its first arguments. It runs with its own dynamic loader and libraries,
    /// independent of those of the machine.
    pub fn words(&self) -> Result<Vec<OsString>> {
        let share = self.root.join("usr/share");
        let mut words = vec![self.loader.clone().into()];
        words.push("--library-path".into());
        words.push(library_path(&self.root)?);
        words.push(self.root.join("usr/bin/qemu-system-x86_64").into());
        for firmware in [share.join("qemu"), share.join("seabios")] {
            words.extend(["-L".into(), firmware.into()]);
        }
        Ok(words)
    }

    /// Directory of its modules; by default QEMU looks next to its program, which is the loader here.
    pub fn modules(&self) -> (&'static str, PathBuf) {
        let modules = self.root.join("usr/lib/x86_64-linux-gnu/qemu");
        ("QEMU_MODULE_DIR", modules)
    }

    fn version(&self) -> Option<(u32, u32)> {
        let words = self.words().ok()?;
        let (program, args) = words.split_first()?;
        let text = shell::output(Command::new(program).args(args).arg("--version"))?;
        major_minor(&text)
    }

    /// Chooses the accelerator. Asking QEMU for KVM and then TCG does not work where KVM opens
    /// and guests die in it, as under PVM.
    pub fn accelerator(&self) -> String {
        if let Ok(chosen) = env::var(ACCELERATOR) {
            return chosen;
        }
        let usable = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        if usable && !Path::new("/sys/module/kvm_pvm").is_dir() {
            return "kvm".to_owned();
        }
        if self.version() >= Some((8, 1)) {
            "tcg".to_owned()
        } else {
            // Before 8.1, guests with several threads oops at random: a race with the patching
            // of int3.
            "tcg,thread=single".to_owned()
        }
    }
}

/// Where unpacked packages have libraries.
fn libraries(root: &Path) -> [PathBuf; 2] {
    ["lib", "usr/lib"].map(|dir| root.join(dir).join("x86_64-linux-gnu"))
}

/// The dynamic loader among unpacked packages.
pub fn loader(root: &Path) -> Option<PathBuf> {
    let loaders = libraries(root).map(|dir| dir.join("ld-linux-x86-64.so.2"));
    loaders.into_iter().find(|loader| loader.is_file())
}

/// For the loader's `--library-path`.
pub fn library_path(root: &Path) -> Result<OsString> {
    Ok(env::join_paths(libraries(root))?)
}

fn major_minor(text: &str) -> Option<(u32, u32)> {
    let version = text.split("version ").nth(1)?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_version_is_read() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(major_minor(text), Some((7, 2)));
        assert!(major_minor("QEMU emulator version 10.0.2") >= Some((8, 1)));
        assert_eq!(major_minor("nothing"), None);
    }
}
