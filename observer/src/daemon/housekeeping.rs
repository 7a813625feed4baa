//! The daemon's pulse: the table's housekeeping, descriptors, resynchronisation and
//! reconciliation, each at its own pace.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use observer_common::ProcessKey;
use observer_core::{
    config::Settings, contract::KernelSource as _, export::Health, host::HostFacts,
    process::resources::ScanLimits, sync::lock, table::Table,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{STEP_SEED, reconcile::Reconciler, sockets::Sockets};
use crate::{heap, kernel::Live};

/// Everything that housekeeping works on.
pub struct Housekeeping {
    pub live: Arc<Live>,
    pub facts: Arc<HostFacts>,
    pub table: Arc<Mutex<Table>>,
    pub sockets: Mutex<Sockets>,
    pub reconciler: Reconciler,
    pub health: Arc<Health>,
}

/// How long a round may take in coming: a tick that takes long is no reason to be restarted.
pub fn stale_after(tick: Duration) -> Duration {
    tick * 10 + Duration::from_secs(20)
}

/// When something is next to be done.
struct Due(Instant);

impl Due {
    fn take(&mut self, now: Instant, every: Duration) -> bool {
        let due = now >= self.0;
        if due {
            self.0 = now + every;
        }
        due
    }

    /// Sees that it is done within an interval that may be shorter than the one before.
    fn hasten(&mut self, now: Instant, every: Duration) {
        self.0 = self.0.min(now + every);
    }
}

impl Housekeeping {
    /// Goes round until `stop`.
    pub async fn run(
        self,
        mut settings: watch::Receiver<Settings>,
        mut stop: watch::Receiver<bool>,
    ) {
        let this = Arc::new(self);
        let start = Instant::now();
        let mut resync = Due(start + settings.borrow().resync_interval);
        let mut reconcile = Due(start);
        loop {
            let (tick, do_resync, do_reconcile, ports) = {
                let settings = settings.borrow_and_update();
                let now = Instant::now();
                if settings.has_changed() {
                    resync.hasten(now, settings.resync_interval);
                    reconcile.hasten(now, settings.reconcile_interval);
                    let selection = settings.selection();
                    lock(&this.table)
                        .set_filter(Box::new(move |comm, unit| selection.selects(comm, unit)));
                    this.facts.set_limits(ScanLimits {
                        batch: settings.fd_batch as usize,
                        interval: settings.fd_interval,
                    });
                    info!("processes are selected by the new settings");
                }
                (
                    settings.tick_interval,
                    resync.take(now, settings.resync_interval),
                    reconcile.take(now, settings.reconcile_interval),
                    (settings.top_destinations as usize, settings.resync_interval),
                )
            };
            let round = Arc::clone(&this);
            // Reads /proc and maps: not for the threads that serve scrapes.
            let done =
                tokio::task::spawn_blocking(move || round.once(do_resync, do_reconcile, ports))
                    .await;
            match done {
                Ok(()) => this.health.beat(stale_after(tick)),
                Err(error) => warn!(%error, "a round of housekeeping panicked"),
            }
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                // Settings hold at once, however long the tick was. The next round takes them in.
                Ok(()) = settings.changed() => settings.mark_changed(),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Looks for forgotten sockets now and then: it reads the whole map of connections.
    fn sweep(&self, epoch: u32) {
        const EVERY: u32 = 20;
        if !epoch.is_multiple_of(EVERY) {
            return;
        }
        let swept = self.live.sweep(epoch);
        if swept > 0 {
            debug!(swept, "removed entries of sockets whose end was missed");
        }
    }

    /// Reads listening sockets and ports in use: of so many destinations, and no later than
    /// that after the last time.
    fn read_sockets(&self, (top, longest): (usize, Duration)) {
        let mut sockets = lock(&self.sockets);
        if let Err(error) = sockets.read_listeners(&self.table) {
            warn!(
                error = format!("{error:#}"),
                "cannot read listening sockets"
            );
            // What was last read would stand there as if it were still so.
            lock(&self.table).forget_listeners();
        }
        if let Err(error) = sockets.read_ports(&self.table, top, longest) {
            warn!(error = format!("{error:#}"), "cannot read ports in use");
            lock(&self.table).forget_ports();
        }
    }

    fn once(&self, resync: bool, reconcile: bool, ports: (usize, Duration)) {
        if resync {
            let result = self.live.resync();
            self.reconciler.resynced(&result);
            match result {
                Ok(resynced) => {
                    debug!(?resynced, "resynchronised");
                    self.health.done(STEP_SEED);
                    self.sweep(resynced.epoch);
                }
                Err(error) => warn!(error = format!("{error:#}"), "cannot resynchronise owners"),
            }
        }
        let processes = {
            let mut table = lock(&self.table);
            table.tick(Instant::now(), &*self.live, &*self.facts);
            let slots = 0..self.live.slot_limit();
            slots
                .filter_map(|slot| table.process(slot).copied())
                .collect::<HashSet<ProcessKey>>()
        };
        self.facts.retain(&processes);
        self.facts.scan(processes);
        if reconcile
            && let Err(error) = self
                .reconciler
                .reconcile(&self.table, &self.live, &*self.facts)
        {
            warn!(
                error = format!("{error:#}"),
                "cannot compare with the kernel's counts"
            );
        }
        self.read_sockets(ports);
        if resync {
            heap::give_back();
        }
        self.live.make_up_for_missed_runs();
        self.live.flush_log();
    }
}
