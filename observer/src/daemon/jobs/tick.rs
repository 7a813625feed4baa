//! The table's housekeeping: new and exited processes, names, and which ones are shown.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_core::{
    config::Settings,
    export::Exporter,
    sync::{read, write},
    table::Labels,
};
use tracing::info;

use crate::{
    daemon::{scheduler::Job, shared::Shared},
    kernel::monotonic_ns,
};

pub struct Tick {
    shared: Shared,
    exporter: Exporter,
    has_run: bool,
    /// Time of the last walk over connections, and [`Snapshot::ended`](observer_core::table::Snapshot).
    walked_at: Duration,
    ended: Arc<HashMap<(u32, u32), Arc<Labels>>>,
}

impl Tick {
    pub fn new(shared: Shared, exporter: Exporter) -> Self {
        Self {
            shared,
            exporter,
            has_run: false,
            walked_at: Duration::ZERO,
            ended: Arc::default(),
        }
    }
}

impl Job for Tick {
    fn name(&self) -> &'static str {
        "tick"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval
    }

    fn configure(&mut self, settings: &Settings) {
        let selection = settings.selection();
        write(&self.shared.table)
            .set_filter(Box::new(move |comm, unit| selection.selects(comm, unit)));
        if self.has_run {
            info!("applied the new settings");
        }
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let Shared {
            live,
            facts,
            table,
            snapshot,
            walk,
            recorded_peers,
            recorded_binds,
            ..
        } = &self.shared;
        let began_ns = monotonic_ns();
        // Taken before the table finds new processes, whose calls may be among them.
        let failed_binds = write(recorded_binds).take();
        {
            let mut table = write(table);
            table.tick(Instant::now(), &**live, &**facts);
            table.add_failed_binds(&failed_binds);
        }
        let processes: HashSet<_> = read(table).keys().copied().collect();
        facts.retain(&processes);
        facts.measure_own();
        live.make_up_for_missed_runs();
        live.flush_log();
        self.exporter.note_losses(Duration::from_nanos(began_ns));
        // Published last, so that tests that wait for it see all other results of this tick.
        let mut now = read(table).snapshot(began_ns, &**live, &**facts);
        now.walk = Arc::clone(&walk.borrow());
        now.handshakes = read(table).handshakes_of_processes();
        let recorded: Vec<_> = read(recorded_peers).owners().collect();
        if now.walk.walked_at != self.walked_at || !recorded.is_empty() {
            self.walked_at = now.walk.walked_at;
            self.ended = Arc::new(read(table).ended_owners(&now.walk, recorded));
        }
        now.ended = Arc::clone(&self.ended);
        snapshot.send_replace(Arc::new(now));
        self.has_run = true;
        Ok(())
    }
}
