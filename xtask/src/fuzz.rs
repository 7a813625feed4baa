//! Fuzzes the parsers of external input. The targets are in observer-core/fuzz and observer/fuzz;
//! their seeds are also run by the unit tests, on the stable compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{host, shell, toolchain};

/// Fuzzes one parser with cargo-fuzz, or lists what can be fuzzed.
#[derive(clap::Args)]
pub struct Args {
    /// What to fuzz; without it, the targets are listed.
    target: Option<String>,
    /// How long.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// The crates with fuzz targets: one without and one with the kernel programs.
const CRATES: [&str; 2] = ["observer-core/fuzz", "observer/fuzz"];

pub fn main(args: &Args) -> Result<ExitCode> {
    let Args { target, seconds } = args;
    let targets = targets()?;
    let Some(target) = target else {
        for (_, target) in targets {
            println!("{target}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some((crate_dir, _)) = targets.iter().find(|(_, name)| name == target) else {
        let names: Vec<_> = targets.into_iter().map(|(_, name)| name).collect();
        bail!(
            "there is no fuzz target {target}; there are {}",
            names.join(", ")
        );
    };
    ensure_tools()?;
    // Fuzz with the same dependency versions as in the release. Cargo adds libFuzzer to the copy.
    fs::copy(
        host::root().join("Cargo.lock"),
        crate_dir.join("Cargo.lock"),
    )
    .with_context(|| format!("cannot copy Cargo.lock to {}", crate_dir.display()))?;
    // Found inputs go to the first directory, which has to exist.
    let corpus = crate_dir.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let advice = format!(
        "the crashing input is in {0}/artifacts; fix the parser and add the input to {0}/seeds",
        crate_dir.display()
    );
    shell::run(&mut command(crate_dir, target, *seconds), &advice)?;
    Ok(ExitCode::SUCCESS)
}

fn command(crate_dir: &Path, target: &str, seconds: u64) -> Command {
    // Through rustup, because the outer cargo is of the stable toolchain.
    let mut fuzz = Command::new("rustup");
    fuzz.args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir"])
        .arg(crate_dir)
        .arg(target)
        .arg(crate_dir.join("corpus").join(target))
        .arg(crate_dir.join("seeds").join(target))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        // Excessive time and memory are failures, like panics.
        .args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=16384"])
        // Cargo's own variables would send rustup's proxy back to the stable toolchain.
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .current_dir(crate_dir);
    fuzz
}

/// The names of the files in fuzz_targets, each with its crate.
fn targets() -> Result<Vec<(PathBuf, String)>> {
    let mut targets = Vec::new();
    for directory in CRATES {
        let crate_dir = host::root().join(directory);
        let entries = fs::read_dir(crate_dir.join("fuzz_targets"))
            .with_context(|| format!("cannot read {directory}/fuzz_targets"))?;
        targets.extend(entries.filter_map(|entry| {
            let name = entry.ok()?.path().file_stem()?.to_str()?.to_owned();
            Some((crate_dir.clone(), name))
        }));
    }
    targets.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
    Ok(targets)
}

fn ensure_tools() -> Result<()> {
    let nightly = || {
        let mut which = Command::new("rustup");
        which
            .args(["which", "--toolchain", "nightly", "cargo"])
            .env("RUSTUP_AUTO_INSTALL", "0");
        shell::output(&mut which)
    };
    let mut missing = Vec::new();
    if toolchain::find_program("cargo-fuzz").is_none() {
        missing.push("cargo-fuzz is not installed: cargo install cargo-fuzz");
    }
    if nightly().is_none() {
        missing.push("rustup has no nightly toolchain: rustup toolchain install nightly");
    }
    if !missing.is_empty() {
        bail!("cannot fuzz here\n  - {}", missing.join("\n  - "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds() {
        let targets = targets().unwrap();
        for expected in ["btf", "cgroup"] {
            assert!(targets.iter().any(|(_, it)| it == expected), "{targets:?}");
        }
        for (crate_dir, target) in targets {
            let seeds = crate_dir.join("seeds").join(&target);
            assert!(seeds.is_dir(), "{}", seeds.display());
        }
    }

    #[test]
    fn the_corpus_comes_before_the_seeds() {
        let shown = shell::show(&command(Path::new("f"), "btf", 5));
        assert!(
            shown.starts_with("rustup run nightly cargo fuzz run --fuzz-dir f btf f/corpus/btf f/seeds/btf -- -max_total_time=5 "),
            "{shown}"
        );
    }
}
