//! Finds the tools that compile the kernel programs: a rustc with the sources of `core`, its cargo,
//! and a bpf-linker whose LLVM can read the bitcode of that rustc.
//!
//! observer/build.rs includes this file by `#[path]`. A library target of xtask would be an alternative, but then each
//! build of the daemon would first compile clap and all other dependencies of xtask. For the same reason it uses `std`
//! only. This file installs nothing; `cargo xtask setup` does.

use std::{
    env, fmt, iter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The oldest compiler that is known to build the workspace, `rust-version` in Cargo.toml.
const MIN_RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// Where a compiler came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// rustup's nightly toolchain with its `rust-src` component.
    Nightly,
    /// The distribution's compiler in /usr/bin, such as Debian's rustc-web. It is a
    /// stable release, so unstable features need `RUSTC_BOOTSTRAP`.
    System,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup's nightly",
            Self::System => "the system's /usr/bin/rustc",
        })
    }
}

/// What `rustc -vV` says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustcVersion {
    pub release: String,
    pub host: String,
    /// LLVM's major version. Bitcode is stable within one.
    pub llvm: u32,
}

/// A compiler that can build `core` for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    pub origin: Origin,
    pub rustc: PathBuf,
    pub cargo: PathBuf,
    pub version: RustcVersion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    /// What `bpf-linker --version` prints.
    pub version: String,
    /// `None` when LLVM is linked statically, as in the released binaries: its version is then
    /// unknown, and a mismatch causes a link error.
    pub llvm: Option<u32>,
}

/// The tools of this machine; an `Err` is a sentence that names the missing ones.
#[derive(Clone, Debug)]
pub struct Facts {
    pub nightly: Result<Compiler, String>,
    pub system: Result<Compiler, String>,
    pub linker: Result<Linker, String>,
}

/// A compatible compiler and linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: Linker,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compiler, linker } = self;
        let RustcVersion {
            release,
            host: _,
            llvm,
        } = &compiler.version;
        let path = linker.path.display();
        write!(
            f,
            "{} (rustc {release}, LLVM {llvm}) with {path} ({}, ",
            compiler.origin, linker.version
        )?;
        match linker.llvm {
            Some(llvm) => write!(f, "LLVM {llvm})"),
            None => f.write_str("LLVM linked statically)"),
        }
    }
}

/// Why no toolchain was found: one sentence per tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no toolchain can build the kernel programs here")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl Facts {
    pub fn gather() -> Self {
        Self {
            nightly: find_nightly(),
            system: find_system(),
            linker: find_linker(),
        }
    }

    /// Prefers nightly to the system's compiler: a nightly with `rust-src` was installed for such a build.
    pub fn choose(&self) -> Result<Toolchain, Missing> {
        let Self {
            nightly,
            system,
            linker,
        } = self;
        let mut problems = Vec::new();
        for compiler in [nightly, system] {
            let fit = compiler.clone().and_then(|compiler| {
                let Ok(linker) = linker else { return Ok(None) };
                check_llvm(&compiler, linker)?;
                Ok(Some(Toolchain {
                    compiler,
                    linker: linker.clone(),
                }))
            });
            match fit {
                Ok(Some(toolchain)) => return Ok(toolchain),
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        problems.extend(linker.as_ref().err().cloned());
        Err(Missing(problems))
    }
}

/// LLVM reads the bitcode of older releases, never that of newer ones.
fn check_llvm(compiler: &Compiler, linker: &Linker) -> Result<(), String> {
    match linker.llvm {
        Some(llvm) if llvm < compiler.version.llvm => Err(format!(
            "{} is built on LLVM {llvm}, too old for the bitcode of {}, which uses LLVM {}",
            linker.path.display(),
            compiler.origin,
            compiler.version.llvm,
        )),
        _ => Ok(()),
    }
}

fn find_nightly() -> Result<Compiler, String> {
    let rustup = find_program("rustup").ok_or("rustup is not installed")?;
    // `which` resolves to the toolchain's own directory, so that the build can call
    // its cargo and rustc directly, exactly as it calls the system's.
    let mut which = command(&rustup);
    which
        .args(["which", "--toolchain", "nightly", "rustc"])
        .env("RUSTUP_AUTO_INSTALL", "0");
    let rustc = output(&mut which).map_err(|_| "rustup has no nightly toolchain")?;
    compiler(Origin::Nightly, Path::new(rustc.trim()))
}

fn find_system() -> Result<Compiler, String> {
    compiler(Origin::System, Path::new("/usr/bin/rustc"))
}

fn compiler(origin: Origin, rustc: &Path) -> Result<Compiler, String> {
    let (Some(bin), true) = (rustc.parent(), rustc.is_file()) else {
        return Err(format!("there is no {}", rustc.display()));
    };
    let text = output(command(rustc).arg("-vV"))?;
    let version = parse_rustc(&text)
        .ok_or_else(|| format!("{} -vV prints no LLVM version", rustc.display()))?;
    if older(&version.release, MIN_RUSTC) {
        return Err(format!(
            "{origin} is version {}, but {MIN_RUSTC} is needed",
            version.release
        ));
    }
    let sources = bin.with_file_name("lib/rustlib/src/rust/library/core");
    if !sources.is_dir() {
        return Err(format!("{origin} lacks the sources of core (rust-src)"));
    }
    let cargo = bin.join("cargo");
    if !cargo.is_file() {
        return Err(format!("{origin} has no cargo beside its rustc"));
    }
    Ok(Compiler {
        origin,
        rustc: rustc.to_owned(),
        cargo,
        version,
    })
}

fn find_linker() -> Result<Linker, String> {
    let path = find_program("bpf-linker")
        .ok_or("bpf-linker is neither on PATH nor among cargo's installed programs")?;
    let version = output(command(&path).arg("--version"))?.trim().to_owned();
    // ldd is absent or fails for a static binary: the version is unknown.
    let llvm = output(command(Path::new("ldd")).arg(&path))
        .ok()
        .and_then(|text| parse_ldd(&text));
    Ok(Linker {
        path,
        version,
        llvm,
    })
}

/// Looks on PATH, then where `cargo install` and rustup put programs, which a shell
/// started before their installation does not have on its PATH yet.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn cargo_home() -> Option<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// A command that does not inherit the compiler, flags and target of the user-space build from the outer cargo or rustup.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(misleads) {
            command.env_remove(name);
        }
    }
    command
}

fn misleads(name: &str) -> bool {
    // The settings of the jobserver, the network and the registries also apply to the inner cargo.
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    // LD_LIBRARY_PATH: cargo puts the outer toolchain's libraries first on it.
    const DROPPED: [&str; 5] = [
        "CARGO",
        "RUSTC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "LD_LIBRARY_PATH",
    ];
    let starts = |prefix: &&str| name.starts_with(*prefix);
    DROPPED.iter().any(starts) && !KEPT.iter().any(starts)
}

fn output(command: &mut Command) -> Result<String, String> {
    let shown = || {
        let words = iter::once(command.get_program()).chain(command.get_args());
        words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let shown = shown();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`{shown}` does not start: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = stderr.lines().next().unwrap_or_default();
        return Err(format!("`{shown}` fails with {}: {reason}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Parses the output of `rustc -vV`.
pub fn parse_rustc(text: &str) -> Option<RustcVersion> {
    let field = |name: &str| {
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        values.next().map(str::to_owned)
    };
    let llvm = field("LLVM version")?;
    Some(RustcVersion {
        release: field("release")?,
        host: field("host")?,
        llvm: llvm.split('.').next()?.parse().ok()?,
    })
}

/// Finds LLVM's major version in what `ldd bpf-linker` prints: distributions name the
/// library `libLLVM.so.22.1`, `libLLVM-22.so.1` or `libLLVM-17.so`.
fn parse_ldd(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("libLLVM")?;
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit() && !c.is_whitespace());
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Compares major and minor of two Rust releases; one that cannot be read is older.
pub fn older(release: &str, than: &str) -> bool {
    let parse = |text: &str| {
        let mut parts = text.split('.').map_while(|part| part.parse::<u32>().ok());
        Some((parts.next()?, parts.next()?))
    };
    parse(release) < parse(than)
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
