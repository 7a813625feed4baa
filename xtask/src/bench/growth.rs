//! Whether cost grows with what there is: live connections and processes.

use anyhow::{Context as _, Result};

use super::{
    load::Load,
    measure::Bench,
    results::Point,
    scrape::{self, Scrape},
    subject::Subject,
};

/// Live connections (sockets: each connection of the load has both its ends here) and
/// processes.
const POINTS: [(u64, u64); 6] = [
    (2, 1),
    (1000, 1),
    // In several, because one may not have so many descriptors.
    (100_000, 10),
    (2, 1000),
    (2, 10_000),
    (100_000, 1000),
];
/// Scrapes of which the median counts.
const SCRAPES: usize = 9;
/// The observer shows this many processes unless told otherwise.
const DEFAULT_PROCESSES: u64 = 1000;

/// Measures all points; `connections` are made at each, and at least two for each process.
pub fn measure(bench: &Bench, connections: u64) -> Result<Vec<Point>> {
    POINTS
        .into_iter()
        .map(|(live, processes)| {
            eprintln!("growth: {live} live connections, {processes} processes");
            point(bench, connections, live, processes)
                .with_context(|| format!("{live} live connections, {processes} processes"))
        })
        .collect()
}

fn point(bench: &Bench, connections: u64, live: u64, processes: u64) -> Result<Point> {
    let load = Load {
        // Ten, so that each process meets each kind of connection.
        connections: connections.max(10 * processes),
        live: live / 2,
        rate: None,
        seconds: 120,
        processes: Some(processes),
    };
    // Room for the other processes of the host. The default as long as it is enough.
    let extra = if processes >= DEFAULT_PROCESSES {
        vec![format!("--max-processes={}", processes + 100)]
    } else {
        Vec::new()
    };
    let floor = bench.run(Subject::Floor, &load, true, &[])?;
    let mut scrapes: Vec<Scrape> = Vec::new();
    let run = bench.run_and(Subject::Observer, &load, true, &extra, |attached| {
        let address = attached.address.context("the observer has an address")?;
        for _ in 0..SCRAPES {
            scrapes.push(scrape::get(address, "/metrics")?);
        }
        Ok(())
    })?;
    scrapes.sort_by_key(|scrape| scrape.took);
    let scrape = scrapes.get(SCRAPES / 2).context("no scrape")?;
    let nanoseconds_per_event = run.all().each();
    Ok(Point {
        live_connections: live,
        processes,
        nanoseconds_per_event,
        event_cost: nanoseconds_per_event / floor.all().each(),
        scrape_seconds: scrape.took.as_secs_f64(),
        collect_seconds: scrape.sum("observer_scrape_duration_seconds", &[]),
        scrape_bytes: scrape.text.len() as u64,
        memory: run.memory,
        wrong: run.wrong,
    })
}
