//! Reads the ring: logs failures if the setting `log-events` is on, and passes records to the detectors while they
//! request them, and those of failed calls of bind() and listen() to the table.

use std::time::Duration;

use observer_common::Record;
use observer_core::{
    config::{LogFormat, Settings},
    names::ResetReasons,
    record::{Clock, Identities, failure_kinds, is_failure, json, line},
    sync::{read as lock, write},
};
use tokio::{io::unix::AsyncFd, sync::watch};
use tracing::{error, info};

use crate::{daemon::shared::Shared, kernel::Stream};

/// Maximum time that a record waits in the ring. The kernel programs wake the reader only when it is
/// half full.
const PACE: Duration = Duration::from_millis(100);

/// Reads until `stop`.
pub async fn read(
    stream: Stream,
    reasons: ResetReasons,
    shared: Shared,
    settings: watch::Receiver<Settings>,
    mut stop: watch::Receiver<bool>,
) {
    // SAFETY: a `Stream` has one descriptor, which it keeps open until it is dropped.
    let registered = unsafe { AsyncFd::register(stream) };
    let mut stream = match registered {
        Ok(stream) => stream,
        Err(error) => {
            error!(%error, "cannot wait on the ring");
            return;
        }
    };
    let mut identities = Identities::default();
    let mut records = None;
    loop {
        let (log, format) = {
            let settings = settings.borrow();
            (settings.log_events, settings.log_format)
        };
        let peers = lock(&shared.recorded_peers).kinds();
        let kept = peers | lock(&shared.recorded_binds).kinds();
        let wanted = kept | if log { failure_kinds() } else { 0 };
        if records.replace(wanted) != Some(wanted) {
            shared.live.set_records(wanted);
        }
        let clock = Clock::now();
        let mut records_kept = Vec::new();
        let mut each = |record: &Record| {
            if kept & 1 << record.kind != 0 {
                records_kept.push(*record);
            }
            if !log || !is_failure(record) {
                return;
            }
            let identity = identities.of(record, &*shared.live, &*shared.facts);
            match format {
                LogFormat::Text => info!(
                    target: "observer::event",
                    "{}",
                    line(record, &identity, &reasons, clock).trim_end()
                ),
                LogFormat::Json => {
                    let record = json(record, &identity, &reasons, clock);
                    info!(target: "observer::event", record, "event");
                }
            }
        };
        let more = if log {
            // Writing to the log can block, and the runtime has two threads.
            tokio::task::block_in_place(|| stream.get_mut().drain(&mut each))
        } else {
            stream.get_mut().drain(&mut each)
        };
        // In one batch, because there may be thousands per second and the detectors read it.
        if !records_kept.is_empty() {
            write(&shared.recorded_binds).add(&records_kept);
            write(&shared.recorded_peers).add(&records_kept);
        }
        if more && !*stop.borrow() {
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            ready = stream.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
            }
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
