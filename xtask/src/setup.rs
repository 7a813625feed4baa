//! Finds the eBPF toolchain and the tools of the tests, and installs what is missing.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    apt, consent, shell,
    toolchain::{self, Compiler, Facts, Origin, Toolchain},
};

/// Finds or installs what compiles the kernel programs.
#[derive(clap::Args)]
pub struct Args {
    /// Only report the tools; fail if one is missing.
    #[arg(long)]
    check: bool,
    /// Also install the tools that `cargo xtask test` uses.
    #[arg(long)]
    tests: bool,
}

/// Programs that the tests on a real kernel run, and their Debian packages; grouped by package.
const TEST_TOOLS: &[(&str, &str)] = &[
    ("python3", "python3"),
    ("ip", "iproute2"),
    ("strace", "strace"),
    ("curl", "curl"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("amtool", "prometheus-alertmanager"),
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    ("ps", "procps"),
    ("openssl", "openssl"),
    ("gnutls-serv", "gnutls-bin"),
    ("caddy", "caddy"),
    ("haproxy", "haproxy"),
    // The server itself is not on PATH.
    ("pg_ctlcluster", "postgresql"),
    ("node", "nodejs"),
    ("gccgo", "gccgo"),
    ("nmap", "nmap"),
    ("ab", "apache2-utils"),
    ("wrk", "wrk"),
    ("gunicorn", "gunicorn"),
    ("chromium-headless-shell", "chromium-headless-shell"),
    ("git", "git"),
    ("systemd-analyze", "systemd"),
    ("systemd-socket-activate", "systemd"),
    ("kubectl", "kubernetes-client"),
];

/// Debian's compiler for building browsers: the newest in a stable release, with the
/// sources of `core` beside it.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

const LINKER_VERSION: &str = "0.13.0";
/// The LLVM releases that this bpf-linker can be built on.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Programs that boot other kernels, and Debian's packages of them.
const GUEST_TOOLS: [(&str, &str); 5] = [
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
];

/// Programs that test packages.
const PACKAGE_TOOLS: [(&str, &str); 3] = [
    ("mmdebstrap", "mmdebstrap"),
    ("lintian", "lintian"),
    ("rpm", "rpm"),
];

/// The tools that a command needs in addition to the toolchain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// The tools of the tests on the running kernel.
    pub tests: bool,
    /// The tools that boot other kernels.
    pub guests: bool,
    /// The tools that test packages.
    pub packages: bool,
    /// Programs from PyPI.
    pub pip: bool,
    /// rustfmt and clippy.
    pub components: bool,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let Args { check, tests } = *args;
    if check {
        return Ok(report(tests));
    }
    let facts = ensure(Needs {
        tests,
        packages: tests,
        pip: tests,
        ..Needs::default()
    })?;
    let toolchain = facts.choose().map_err(|missing| anyhow!("{missing}"))?;
    println!("ready: {toolchain}\nwhy: {}", reason(&facts, &toolchain));
    Ok(ExitCode::SUCCESS)
}

/// Installs missing tools after asking, and returns the toolchain.
pub fn ensure(needs: Needs) -> Result<Facts> {
    let Needs {
        tests,
        guests,
        packages,
        pip,
        components,
    } = needs;
    let mut facts = Facts::gather();
    let mut tools = Vec::new();
    if tests {
        tools.extend(missing_tools(TEST_TOOLS));
    }
    if guests {
        tools.extend(missing_tools(&GUEST_TOOLS));
    }
    if packages {
        tools.extend(missing_tools(&PACKAGE_TOOLS));
    }
    let components = if components {
        missing_components()
    } else {
        Vec::new()
    };
    let (programs, mut packages): (Vec<_>, Vec<_>) = tools.into_iter().unzip();
    packages.dedup();
    let programs_of_pip = if pip { crate::pip::missing()? } else { None };
    if programs_of_pip.is_some() && apt::available() {
        packages.extend(crate::pip::missing_package());
    }
    if !packages.is_empty() && !apt::available() {
        bail!(
            "the tests use {}, not found here\n  what you can do: install them with your package \
             manager, or run `cargo xtask test --unit-only`",
            programs.join(" ")
        );
    }
    let mut items = Vec::new();
    if facts.choose().is_err() {
        items.push(
            "what compiles the kernel programs: by apt Debian's rustc-web and LLVM, or by rustup a \
             nightly; then bpf-linker, built by cargo, which takes minutes"
                .to_owned(),
        );
    }
    if !packages.is_empty() {
        let packages = packages.join(" ");
        items.push(format!("by apt, without starting services: {packages}"));
    }
    if !components.is_empty() {
        items.push(format!("by rustup: {}", components.join(" ")));
    }
    let by_pip = programs_of_pip.is_some();
    items.extend(programs_of_pip);
    if items.is_empty() {
        return Ok(facts);
    }
    if let Err(missing) = facts.choose() {
        eprintln!("{missing}");
    }
    consent::ask(&items)?;
    if facts.choose().is_err() {
        install_toolchain(&facts)?;
        facts = Facts::gather();
        facts
            .choose()
            .map_err(|missing| anyhow!("everything was installed, and yet {missing}"))?;
    }
    if !packages.is_empty() {
        apt::update()?;
        apt::install(&packages)?;
    }
    if by_pip {
        crate::pip::install()?;
    }
    if !components.is_empty() {
        let rustup = toolchain::find_program("rustup").with_context(|| {
            let names = components.join(" and ");
            format!("cargo has no {names}; install them with your compiler")
        })?;
        let mut add = std::process::Command::new(rustup);
        add.args(["component", "add"]).args(components);
        shell::persist(&mut add, "check the network")?;
    }
    Ok(facts)
}

fn report(tests: bool) -> ExitCode {
    let facts = Facts::gather();
    let mut ready = true;
    match facts.choose() {
        Ok(toolchain) => println!("ready: {toolchain}\nwhy: {}", reason(&facts, &toolchain)),
        Err(missing) => {
            println!("{missing}");
            ready = false;
        }
    }
    if tests {
        let tools = [TEST_TOOLS, &PACKAGE_TOOLS].concat();
        let missing = missing_tools(&tools);
        let mut names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
        if !matches!(crate::pip::missing(), Ok(None)) {
            names.push("those of PyPI");
        }
        if names.is_empty() {
            println!("ready: tools of the tests");
        } else {
            println!("missing tools of the tests: {}", names.join(" "));
            ready = false;
        }
    }
    if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn reason(facts: &Facts, toolchain: &Toolchain) -> String {
    match toolchain.compiler.origin {
        Origin::Nightly => "a nightly with rust-src is taken first".to_owned(),
        Origin::System => match &facts.nightly {
            Ok(_) => "it fits this bpf-linker, which is too old for rustup's nightly".to_owned(),
            Err(problem) => format!("it has the sources of core and nightly is out: {problem}"),
        },
    }
}

/// What to install.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// A compiler is installed, but no linker for its LLVM.
    Linker(Origin),
    DebianCompiler,
    Nightly,
}

/// Gives the version of a package that apt can install.
type Candidate<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Chooses what to install. Without apt there is no `candidate`.
fn route(facts: &Facts, rustup: bool, candidate: Option<&Candidate<'_>>) -> Result<Route> {
    let compilers = || [&facts.nightly, &facts.system].into_iter().flatten();
    let Some(candidate) = candidate else {
        return match compilers().next() {
            Some(compiler) => Ok(Route::Linker(compiler.origin)),
            None if rustup => Ok(Route::Nightly),
            None => bail!(
                "there is neither apt nor rustup to install a compiler with\n  what you can do: \
                 install rustup from https://rustup.rs and run `cargo xtask setup` again"
            ),
        };
    };
    let has_llvm =
        |compiler: &&Compiler| candidate(&llvm_packages(compiler.version.llvm)[0]).is_some();
    if let Some(compiler) = compilers().find(has_llvm) {
        return Ok(Route::Linker(compiler.origin));
    }
    let recent = |version: String| !toolchain::older(&version, env!("CARGO_PKG_RUST_VERSION"));
    if candidate(DEBIAN_COMPILER[0]).is_some_and(recent) {
        return Ok(Route::DebianCompiler);
    }
    // apt has neither a suitable compiler nor a suitable LLVM.
    route(facts, rustup, None)
}

fn install_toolchain(facts: &Facts) -> Result<()> {
    let rustup = toolchain::find_program("rustup");
    let apt = apt::available();
    if apt {
        apt::update()?;
    }
    let candidate = |package: &str| apt::candidates(&[package]).remove(package);
    let route = route(facts, rustup.is_some(), apt.then_some(&candidate as _))?;
    let compiler = match route {
        Route::Linker(Origin::Nightly) => facts.nightly.clone(),
        Route::Linker(Origin::System) => facts.system.clone(),
        Route::DebianCompiler => {
            eprintln!("installing Debian's rustc-web: apt has it, with the sources of core");
            apt::install(&DEBIAN_COMPILER)?;
            Facts::gather().system
        }
        Route::Nightly => {
            eprintln!("installing rustup's nightly: no packaged compiler fits");
            let rustup = rustup.context("there is no rustup")?;
            let mut install = std::process::Command::new(rustup);
            install.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
            install.args(["--component", "rust-src", "--no-self-update"]);
            shell::persist(
                &mut install,
                "check the network; rustup's message above says more",
            )?;
            Facts::gather().nightly
        }
    };
    let compiler =
        compiler.map_err(|problem| anyhow!("no compiler after its installation: {problem}"))?;
    install_linker(compiler.version.llvm, apt)
}

/// libpolly: llvm-config names it among the libraries to link, and llvm-dev only
/// recommends it.
fn llvm_packages(llvm: u32) -> [String; 2] {
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]
}

fn install_linker(llvm: u32, apt: bool) -> Result<()> {
    let from_apt = apt && apt::candidates(&llvm_packages(llvm)).len() == 2;
    if !from_apt && let Some(binstall) = toolchain::find_program("cargo-binstall") {
        let mut install = std::process::Command::new(binstall);
        install.args(["--no-confirm", &format!("bpf-linker@{LINKER_VERSION}")]);
        return shell::persist(
            &mut install,
            "check the network, or build bpf-linker by hand",
        );
    }
    if !LINKER_LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {LINKER_VERSION} can be built on LLVM {LINKER_LLVM:?}, and this compiler \
             uses LLVM {llvm}\n  what you can do: install a bpf-linker for LLVM {llvm} from \
             https://github.com/aya-rs/bpf-linker/releases somewhere on PATH"
        );
    }
    if from_apt {
        apt::install(&llvm_packages(llvm).each_ref().map(String::as_str))?;
    }
    let mut install = shell::cargo();
    install.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--force",
    ]);
    install.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{llvm}"),
    ]);
    install.env_remove("CARGO_BUILD_TARGET");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if Path::new(&prefix).is_dir() {
        // llvm-sys reads the second, and bpf-linker's own build script the first.
        install
            .env("LLVM_PREFIX", &prefix)
            .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix);
    }
    eprintln!(
        "building bpf-linker on LLVM {llvm}, the release that the compiler uses; this takes minutes"
    );
    shell::run(
        &mut install,
        &format!(
            "see that LLVM {llvm} and its headers are installed, or put a released bpf-linker from \
             https://github.com/aya-rs/bpf-linker/releases on PATH (`cargo binstall bpf-linker`)"
        ),
    )
}

/// rustfmt and clippy are left out by rustup's minimal profile.
fn missing_components() -> Vec<&'static str> {
    let missing = |(command, _): &(&str, &str)| {
        shell::output(shell::cargo().args([command, "--version"])).is_none()
    };
    let components = [("fmt", "rustfmt"), ("clippy", "clippy")];
    let components = components.into_iter().filter(missing);
    components.map(|(_, component)| component).collect()
}

fn missing_tools(tools: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    tools
        .iter()
        .copied()
        .filter(|(program, _)| toolchain::find_program(program).is_none())
        .collect()
}

#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
