//! Measures how the cost grows with live connections and processes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use observer_test_support::Sample;

use super::{
    load::Load,
    measure::Bench,
    results::Point,
    scrape::{self, Scrape},
    subject::Subject,
};

/// Live connections (sockets: each connection of the load has both its ends here), processes
/// and names of processes.
const POINTS: [(u64, u64, u64); 6] = [
    (2, 1, 1),
    (1000, 1, 1),
    // In several, because one may not have so many descriptors.
    (100_000, 10, 1),
    (2, 1000, 100),
    (2, 10_000, 100),
    (100_000, 1000, 100),
];
/// Maximum duration of a scrape, by number of processes.
const GOALS: [Goal; 2] = [
    Goal {
        processes: 1000,
        seconds: 3e-3,
        bytes: Some(1 << 20),
    },
    Goal {
        processes: 10_000,
        seconds: 20e-3,
        bytes: None,
    },
];
/// Maximum CPU time of jobs, in percent of one CPU, with up to this number of processes.
const JOB_GOALS: [(&str, u64, f64); 2] = [("detect", 1000, 0.3), ("ports", u64::MAX, 0.2)];
/// For how long the jobs are measured.
const MEANWHILE: Duration = Duration::from_secs(30);
/// Scrapes of which the median counts.
const SCRAPES: usize = 9;
/// The observer's default maximum of tracked processes.
const DEFAULT_TRACKED: u64 = 4096;
/// Room for the other processes of the host.
const OTHERS: u64 = 100;

struct Goal {
    processes: u64,
    seconds: f64,
    bytes: Option<u64>,
}

impl Goal {
    /// The exceeded limits of a scrape.
    fn missed(&self, scrape: &Scrape) -> Vec<String> {
        let Self {
            processes,
            seconds,
            bytes,
        } = self;
        let took = scrape.took.as_secs_f64();
        let size = scrape.metrics.text.len() as u64;
        let mut missed = Vec::new();
        if took > *seconds {
            missed.push(format!(
                "a scrape of {processes} processes takes {:.2} ms, the goal is {:.0}",
                took * 1e3,
                seconds * 1e3
            ));
        }
        if let Some(bytes) = bytes.filter(|bytes| size > *bytes) {
            missed.push(format!(
                "a scrape of {processes} processes has {} KiB, the goal is {}",
                size / 1024,
                bytes / 1024
            ));
        }
        missed
    }
}

/// Measures all points; `connections` are made at each, and at least two for each process.
pub fn measure(bench: &Bench, connections: u64) -> Result<Vec<Point>> {
    POINTS
        .into_iter()
        .map(|(live, processes, names)| {
            let what =
                format!("{live} live connections, {processes} processes under {names} names");
            eprintln!("growth: {what}");
            point(bench, connections, live, processes, names).context(what)
        })
        .collect()
}

fn point(bench: &Bench, connections: u64, live: u64, processes: u64, names: u64) -> Result<Point> {
    let load = Load {
        // Ten, so that each process meets each kind of connection.
        connections: connections.max(10 * processes),
        live: live / 2,
        rate: None,
        seconds: 120,
        processes: Some(processes),
        names,
    };
    // All processes are tracked, and the default number is shown.
    let tracked = processes + OTHERS;
    let extra = (tracked > DEFAULT_TRACKED).then(|| format!("--max-tracked-processes={tracked}"));
    let extra = Vec::from_iter(extra);
    let noop = bench.run(Subject::Noop, &load, true, &[])?;
    let mut scrapes: Vec<Scrape> = Vec::new();
    let mut job_percent = BTreeMap::new();
    let mut walk_interval_seconds = 0.0;
    let run = bench.run_and(Subject::Observer, &load, true, &extra, |attached| {
        let address = attached.address.context("the observer has an address")?;
        for _ in 0..SCRAPES {
            scrapes.push(scrape::scrape(address)?);
        }
        (job_percent, walk_interval_seconds) = jobs(address)?;
        Ok(())
    })?;
    scrapes.sort_by_key(|scrape| scrape.took);
    let scrape = scrapes.get(SCRAPES / 2).context("no scrape")?;
    let nanoseconds_per_event = run.all().each();
    let mut over: Vec<_> = GOALS
        .iter()
        .filter(|goal| goal.processes == processes)
        .flat_map(|goal| goal.missed(scrape))
        .collect();
    for (job, most, goal) in JOB_GOALS {
        if let Some(percent) = job_percent.get(job).filter(|it| **it > goal)
            && processes <= most
        {
            over.push(format!(
                "{job} takes {percent:.2} % of a CPU, the goal is {goal}"
            ));
        }
    }
    Ok(Point {
        live_connections: live,
        processes,
        names,
        nanoseconds_per_event,
        event_cost: nanoseconds_per_event / noop.all().each(),
        scrape_seconds: scrape.took.as_secs_f64(),
        collect_seconds: scrape.metrics.sum("observer_scrape_duration_seconds", &[]),
        scrape_bytes: scrape.metrics.text.len() as u64,
        memory: run.memory,
        job_percent,
        walk_interval_seconds,
        over,
        wrong: run.wrong,
    })
}

/// CPU time of each job during [`MEANWHILE`], in percent of one CPU, and the seconds between the last two walks.
fn jobs(address: SocketAddr) -> Result<(BTreeMap<String, f64>, f64)> {
    const METRIC: &str = "observer_job_cpu_seconds_total";
    let before = scrape::scrape(address)?.metrics;
    let began = Instant::now();
    thread::sleep(MEANWHILE);
    let after = scrape::scrape(address)?.metrics;
    let took = began.elapsed().as_secs_f64();
    let of = |sample: &Sample| {
        let job = sample.labels["task"].clone();
        let seconds = sample.value - before.sum(METRIC, &[("task", &job)]);
        (job, 100.0 * seconds / took)
    };
    let interval = after.sum("observer_walk_interval_seconds", &[]);
    Ok((after.select(METRIC, &[]).map(of).collect(), interval))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use observer_test_support::Metrics;

    use super::*;

    #[test]
    fn goals_are_missed_by_time_and_by_size() {
        let scrape = |milliseconds, bytes| Scrape {
            metrics: Metrics {
                text: "#".repeat(bytes),
                ..Metrics::default()
            },
            took: Duration::from_millis(milliseconds),
        };
        let missed = |goal: &Goal, milliseconds, bytes| goal.missed(&scrape(milliseconds, bytes));
        let [few, many] = &GOALS;
        assert!(missed(few, 3, 1 << 20).is_empty());
        assert_eq!(missed(few, 4, 1 << 20).len(), 1);
        assert_eq!(missed(few, 4, (1 << 20) + 1).len(), 2);
        assert!(missed(many, 20, 9 << 20).is_empty());
        assert_eq!(
            missed(many, 21, 1),
            ["a scrape of 10000 processes takes 21.00 ms, the goal is 20"]
        );
    }
}
