//! Compiles the kernel programs of observer-ebpf to `$OUT_DIR/observer.o`, which the daemon
//! includes. `noop.o` and `minimal.o` are for the benchmark.
//!
//! The BPF target needs another compiler than user space, so an inner cargo runs with that compiler
//! and a separate target directory. aya-build does the same, but only through `rustup run`, which
//! does not work with a distribution's compiler.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
};

use object::build::elf::{Builder, Section, SectionData};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use toolchain::{Facts, Toolchain};

const PACKAGE: &str = "observer-ebpf";
/// observer-ebpf's binary targets, and so the names of the files cargo leaves.
const BINARIES: [&str; 3] = ["observer", "noop", "minimal"];
const TARGET: &str = "bpfel-unknown-none";

fn main() {
    if let Err(error) = build() {
        eprintln!("{error}");
        process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let root = manifest_dir
        .parent()
        .ok_or("the manifest directory has no parent")?;
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    if !matches!(arch.as_str(), "x86_64" | "aarch64") {
        return Err(format!(
            "the kernel programs do not know the registers of {arch}"
        ));
    }

    for input in [
        PACKAGE,
        "observer-common/src",
        "observer-common/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        rerun_if_changed(&root.join(input));
    }
    revision(root);
    let toolchain = Facts::gather().choose().map_err(|missing| {
        format!(
            "{missing}\n\n\
             Run `cargo xtask setup` in the repository: it installs what is missing and says\n\
             what it chose."
        )
    })?;
    rerun_if_changed(&toolchain.linker.path);
    rerun_if_changed(&toolchain.compiler.rustc);

    let target_dir = out_dir.join("ebpf");
    compile(&toolchain, root, &target_dir, &arch)?;

    for binary in BINARIES {
        let object = target_dir.join(TARGET).join("release").join(binary);
        let destination = out_dir.join(binary).with_extension("o");
        let text = fs::read(&object)
            .map_err(|error| format!("cannot read {}: {error}", object.display()))?;
        let text = without_dwarf(&text)
            .map_err(|error| format!("cannot strip {}: {error}", object.display()))?;
        fs::write(&destination, text)
            .map_err(|error| format!("cannot write {}: {error}", destination.display()))?;
    }
    Ok(())
}

/// Removes the debug information from which BTF was made, four fifths of the object, because the
/// loader reads the whole object at each start.
fn without_dwarf(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // bpf-linker keeps the names of sections among those of symbols, which the builder does not.
    let is_names = |section: &Section<'_>| matches!(section.data, SectionData::SectionString);
    if !builder.sections.iter().any(is_names) {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// Tells the program which commit it is, when this is a git checkout.
fn revision(root: &Path) {
    println!("cargo::rerun-if-env-changed=OBSERVER_REVISION");
    if env::var_os("OBSERVER_REVISION").is_some() {
        return;
    }
    let git = |args: &[&str]| {
        let output = process::Command::new("git")
            .arg("-C")
            .arg(root)
            .args(args)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // Moves with every commit, checkout and reset.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        rerun_if_changed(&root.join(log));
    }
    if let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=OBSERVER_REVISION={revision}");
    }
}

fn compile(
    toolchain: &Toolchain,
    root: &Path,
    target_dir: &Path,
    arch: &str,
) -> Result<(), String> {
    let compiler = &toolchain.compiler;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut cargo = toolchain::command(&compiler.cargo);
    cargo
        // The outer cargo has just brought Cargo.lock up to date, and two of them must
        // not write it.
        .args(["build", "--release", "--locked", "-Z", "build-std=core"])
        .args(["--target", TARGET, "--package", PACKAGE, "--target-dir"])
        .arg(target_dir)
        .current_dir(root)
        .env("RUSTC", &compiler.rustc)
        // The system's compiler is a stable release; nightly does not mind.
        .env("RUSTC_BOOTSTRAP", "1")
        // Empty turns off a wrapper that the user's cargo configuration names.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER",
            &toolchain.linker.path,
        )
        .stdin(Stdio::null());
    let output = cargo
        .output()
        .map_err(|error| format!("cannot start {}: {error}", compiler.cargo.display()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "{stderr}\nthe kernel programs do not build ({})\n  toolchain: {toolchain}\n  command: {cargo:?}",
            output.status,
        ));
    }
    // Cargo does not show a successful build script's stderr.
    for paragraph in stderr
        .split("\n\n")
        .filter(|text| text.starts_with("warning: "))
    {
        for line in paragraph.lines() {
            println!("cargo::warning={line}");
        }
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// Cargo takes a path that does not exist for one that has always just changed.
fn rerun_if_changed(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
