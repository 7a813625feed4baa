//! `observer tail`: attaches its own hooks and prints records.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use observer_core::{
    config::{LogFilter, LogFormat, RunArgs},
    contract::KernelSource,
    host::HostFacts,
    process::resources::ScanLimits,
    record::{Clock, Identities, header, json, lines},
    table::{Table, TableConfig},
};

use super::{
    attach, give_up_privileges, load_options, require_initial_namespaces, walks_open_files,
};
use crate::{
    cli::{TailArgs, tail::Tally},
    heap,
    kernel::{Attached, LoadOptions},
    logging, output,
    privileges::{self, Account},
};
use tracing::warn;

/// Maximum time that a record waits in the ring, in milliseconds.
const PACE: u8 = 50;
const TICK: Duration = Duration::from_secs(1);

/// Prints until interrupted, or until --count or --duration is reached.
///
/// # Errors
///
/// Missing privileges, or hooks that cannot be attached.
pub fn run(args: &TailArgs) -> anyhow::Result<ExitCode> {
    let warnings: LogFilter = "warn".parse()?;
    logging::init(LogFormat::Text, &warnings)?;
    let settings = RunArgs::for_file(args.config.clone()).settings()?;
    privileges::is_root_or_capable()?;
    require_initial_namespaces(settings.allow_private_namespaces)?;
    let account = Account::find(settings.user.as_deref())?;
    privileges::raise_memlock();
    let filter = args.filter();
    let width = output::width();
    let (live, mut stream, reasons) = attach(&LoadOptions {
        ring_bytes: args.ring_bytes.get(),
        record_mask: filter.mask(),
        // It takes time; `observer check` runs it.
        self_test: false,
        hooks: args.hooks.unwrap_or(settings.hooks),
        ..load_options(&settings)
    })?;
    let walks = walks_open_files(&live);
    if walks {
        take_in(&live);
    }
    let mut last_walk = Instant::now();
    heap::give_back();
    if !settings.keep_capabilities {
        give_up_privileges(account.as_ref())?;
    }
    let facts = HostFacts::new(ScanLimits::default());
    let stop = stop_flag()?;
    let started = Instant::now();
    let mut table = Table::new(TableConfig::default());
    let mut last_tick = started;
    let mut identities = Identities::default();
    let mut tally = Tally::default();
    let mut out = io::BufWriter::new(io::stdout().lock());
    if !args.json {
        writeln!(out, "{}", header(width))?;
    }
    loop {
        let clock = Clock::now();
        let mut written = Ok(());
        let more = stream.drain(|record| {
            let enough = args.count.is_some_and(|count| tally.shown >= count);
            if enough || written.is_err() {
                return;
            }
            let identity = identities.of(record, &live, &facts);
            if filter.matches(record, &identity) {
                let text = if args.json {
                    json(record, &identity, &reasons, clock)
                } else {
                    lines(record, &identity, &reasons, clock, width)
                };
                written = writeln!(out, "{text}");
                tally.shown += 1;
            }
        });
        match written.and_then(|()| out.flush()) {
            Ok(()) => {}
            // `observer tail | head`
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error.into()),
        }
        let over = args
            .duration
            .is_some_and(|duration| started.elapsed() >= duration);
        let enough = args.count.is_some_and(|count| tally.shown >= count);
        if over || enough || stop.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
        if last_tick.elapsed() >= TICK {
            // Frees the slots of ended processes.
            last_tick = Instant::now();
            table.tick(last_tick, &live, &facts);
            live.make_up_for_missed_runs();
            if last_walk.elapsed() >= settings.resync_interval {
                if walks {
                    take_in(&live);
                }
                // Otherwise their map fills, and new sockets in TIME_WAIT have no owner.
                if let Err(error) = live.find_ended_time_waits() {
                    warn!("{error:#}");
                }
                last_walk = Instant::now();
            }
            if tally.update_missed(missed(&live)) {
                eprintln!("{tally}");
            }
        }
        if more {
            continue;
        }
        // Woken early when the ring is half full. An error is a signal: see `stop`.
        let mut ring = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ring, PollTimeout::from(PACE));
    }
    drop(out);
    tally.update_missed(missed(&live));
    eprintln!("{tally}");
    Ok(ExitCode::SUCCESS)
}

/// Finds the owners of sockets that are older than this program or that were passed to another process.
fn take_in(live: &Attached) {
    if let Err(error) = live.resync() {
        warn!(
            error = format!("{error:#}"),
            "sockets opened before the start, or passed on, may be shown without their owner"
        );
    }
}

fn missed(live: &Attached) -> u64 {
    live.stats().records_lost.iter().sum()
}

/// Becomes true on SIGINT or SIGTERM.
fn stop_flag() -> anyhow::Result<std::sync::Arc<std::sync::atomic::AtomicBool>> {
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, std::sync::Arc::clone(&flag))?;
    }
    Ok(flag)
}
