//! How long a scrape takes: `cargo test --release -p observer-core cost -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use prometheus::{Encoder as _, Registry, TextEncoder};

use super::{busy, exporter, text};
use crate::table::{TableConfig, fake::FakeKernel};

fn best_of(n: u32, mut work: impl FnMut() -> usize) -> (Duration, usize) {
    let mut size = 0;
    let times = (0..n).map(|_| {
        let start = Instant::now();
        size = work();
        start.elapsed()
    });
    (times.min().unwrap(), size)
}

#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_a_scrape() {
    for (processes, max_processes) in [(100, 1000), (1000, 1000), (10_000, 1000), (10_000, 10_000)]
    {
        let kernel = FakeKernel::new(processes + 3);
        for pid in 1..=processes as u32 {
            let slot = kernel.spawn(pid, 1, b"some-daemon").unwrap();
            kernel.change(slot, busy);
        }
        let config = TableConfig {
            max_processes,
            ..TableConfig::default()
        };
        let exporter = exporter(kernel, config);
        let (direct, size) = best_of(5, || text(&exporter).len());
        let registry = Registry::new();
        registry.register(Box::new(exporter.clone())).unwrap();
        let (library, _) = best_of(3, || {
            let mut text = Vec::new();
            let families = registry.gather();
            TextEncoder::new().encode(&families, &mut text).unwrap();
            text.len()
        });
        println!(
            "{processes} processes, {max_processes} shown: text {direct:?} \
             ({size} bytes), client library {library:?}"
        );
    }
}
