//! Prints the memory of the maps of some BPF programs, as the kernel reports it. The programs are given by id.
//!
//! `cargo xtask bench` cannot ask the process that loaded them: the observer maps some of
//! its arrays into its memory and then closes them.

use std::{collections::BTreeSet, env, fs, os::fd::AsRawFd as _};

use anyhow::Context as _;
use aya::{maps::loaded_maps, programs::loaded_programs};

fn main() -> anyhow::Result<()> {
    let wanted: Result<BTreeSet<u32>, _> = env::args().skip(1).map(|id| id.parse()).collect();
    let wanted = wanted.context("a program's id is a number")?;
    let mut ids = BTreeSet::new();
    for program in loaded_programs() {
        let program = program?;
        if wanted.contains(&program.id()) {
            ids.extend(program.map_ids()?.context("the kernel tells no maps")?);
        }
    }
    let mut bytes = 0;
    for map in loaded_maps() {
        let map = map?;
        if ids.contains(&map.id()) {
            let fd = map.fd()?;
            let path = format!(
                "/proc/self/fdinfo/{}",
                std::os::fd::AsFd::as_fd(&fd).as_raw_fd()
            );
            bytes += memlock(&fs::read_to_string(&path)?).context("the kernel tells no size")?;
        }
    }
    println!("{bytes}");
    Ok(())
}

fn memlock(fdinfo: &str) -> Option<u64> {
    let lines = fdinfo.lines();
    let mut values = lines.filter_map(|line| line.strip_prefix("memlock:"));
    values.next()?.trim().parse().ok()
}
