//! Reads statistics of a process and its BPF objects from /proc.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::shell;

/// Runs of one program while statistics were on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    pub runs: u64,
    pub nanoseconds: u64,
}

impl Runs {
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.nanoseconds += other.nanoseconds;
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            runs: self.runs.saturating_sub(before.runs),
            nanoseconds: self.nanoseconds.saturating_sub(before.nanoseconds),
        }
    }

    /// Nanoseconds per run.
    pub fn each(self) -> f64 {
        self.nanoseconds as f64 / self.runs as f64
    }
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, without maps that are in its address space.
    pub resident: u64,
    /// Memory of the maps of its BPF programs, as the kernel reports it.
    pub maps: u64,
}

impl Memory {
    pub fn total(self) -> u64 {
        self.resident + self.maps
    }
}

/// The fdinfo of each program that a process holds, by the program's id.
fn fdinfos(pid: u32) -> Result<BTreeMap<u64, BTreeMap<String, String>>> {
    let dir = format!("/proc/{pid}/fdinfo");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&dir).context(dir)? {
        // The descriptor may have been closed.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let fields = fields(&text);
        // A link's fdinfo also has the program's id, but no statistics.
        if fields.contains_key("link_id") {
            continue;
        }
        if let Some(id) = fields.get("prog_id").and_then(|id| id.parse().ok()) {
            found.insert(id, fields);
        }
    }
    Ok(found)
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn number(fields: &BTreeMap<String, String>, name: &str) -> u64 {
    fields
        .get(name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

/// Run-time statistics of the BPF programs that a process holds, by their id.
pub fn programs(pid: u32) -> Result<BTreeMap<u64, Runs>> {
    let programs = fdinfos(pid)?;
    Ok(programs
        .into_iter()
        .map(|(id, fields)| {
            let runs = Runs {
                runs: number(&fields, "run_cnt"),
                nanoseconds: number(&fields, "run_time_ns"),
            };
            (id, runs)
        })
        .collect())
}

/// How many programs, links and perf events a process holds open.
pub fn attachments(pid: u32) -> Result<usize> {
    let dir = format!("/proc/{pid}/fd");
    let links = fs::read_dir(&dir).context(dir)?;
    Ok(links
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| {
            let target = target.to_string_lossy();
            ["bpf-prog", "bpf_link", "bpf-link", "[perf_event]"]
                .iter()
                .any(|kind| target.ends_with(kind))
        })
        .count())
}

/// Memory of a process and of the maps of its programs, which `bench_maps` finds. Pages of
/// a map that it has mapped are resident too: they count once, as the map's.
pub fn memory(pid: u32, bench_maps: &Path) -> Result<Memory> {
    let programs = programs(pid)?;
    let mut command = Command::new(bench_maps);
    command.args(programs.keys().map(u64::to_string));
    let maps = shell::output(&mut command).and_then(|bytes| bytes.trim().parse().ok());
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).context(path)?;
    Ok(Memory {
        resident: resident(&smaps),
        maps: maps.context("cannot read the size of the maps")?,
    })
}

/// Resident bytes in `smaps`, without BPF maps.
fn resident(smaps: &str) -> u64 {
    let mut total = 0;
    let mut is_map = false;
    for line in smaps.lines() {
        if let Some(kib) = line.strip_prefix("Rss:") {
            let kib: u64 = kib.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            total += if is_map { 0 } else { kib * 1024 };
        } else if line
            .split(' ')
            .next()
            .is_some_and(|word| word.contains('-'))
        {
            is_map = line.contains("anon_inode:bpf-map");
        }
    }
    total
}

/// User and system time of a process, its finished threads included, in seconds. In ticks
/// of 10 ms, as a rule.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    seconds(&pid.to_string(), 14)
}

/// The same of those children of this process that have ended and been waited for.
pub fn children_seconds() -> Result<f64> {
    seconds("self", 16)
}

fn seconds(process: &str, field: usize) -> Result<f64> {
    // USER_HZ, which is 100 on every architecture that Rust's Linux targets cover here.
    const HERTZ: f64 = 100.0;
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).context(path)?;
    let ticks = cpu_ticks(&stat, field).context("an unknown format of /proc/PID/stat")?;
    Ok(ticks as f64 / HERTZ)
}

/// User time is this field of proc_pid_stat(5), and system time the next.
fn cpu_ticks(stat: &str, user: usize) -> Option<u64> {
    // A comm may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The state after the comm is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(field(user)? + field(user + 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_survives_a_strange_comm() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 31 7 2 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat, 14), Some(281));
        assert_eq!(cpu_ticks(stat, 16), Some(9));
        assert_eq!(cpu_ticks("7 (a", 14), None);
    }

    #[test]
    fn mapped_maps_are_not_resident() {
        let smaps = "\
55a0-55b0 r--p 00000000 fe:00 1 /usr/bin/observer
Rss:                 100 kB
Pss:                  50 kB
7f00-7f10 rw-s 00000000 00:0e 9 anon_inode:bpf-map
Rss:                9000 kB
7fff-8000 rw-p 00000000 00:00 0 [stack]
Rss:                   8 kB
";
        assert_eq!(resident(smaps), 108 * 1024);
    }

    #[test]
    fn fdinfo_is_read_by_field() {
        let text = "pos:\t0\nprog_type:\t26\nprog_id:\t77\nrun_time_ns:\t500\nrun_cnt:\t10\n";
        let fields = fields(text);
        assert_eq!(number(&fields, "run_time_ns"), 500);
        assert_eq!(number(&fields, "absent"), 0);
    }

    #[test]
    fn runs_are_differences() {
        let before = Runs {
            runs: 10,
            nanoseconds: 1000,
        };
        let after = Runs {
            runs: 30,
            nanoseconds: 3000,
        };
        assert!((after.since(before).each() - 100.0).abs() < 1e-9);
    }
}
