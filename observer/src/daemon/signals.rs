//! Signals: the end, and reloading the settings.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use observer_core::config::{RunArgs, Settings};
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};

use crate::{logging::LogHandle, service::Notifier};

/// Has the next SIGTERM or SIGINT end the process at once, with the status of a process that the signal has ended: what
/// is attached goes with its descriptors.
fn end_at_next_signal() {
    for signal in [SIGTERM, SIGINT] {
        let always = Arc::new(AtomicBool::new(true));
        let registered =
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, always);
        if let Err(error) = registered {
            warn!(%error, "a second signal will not end the process at once");
        }
    }
}

/// Handles signals until SIGTERM or SIGINT.
pub async fn handle(
    args: RunArgs,
    early_hangup: &AtomicBool,
    settings: &watch::Sender<Settings>,
    log: &LogHandle,
    notifier: &Notifier,
) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("cannot handle signals");
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let reload = || {
        notifier.reloading();
        notifier.reloaded(reload(&args, settings, log).err());
    };
    notifier.ready();
    if early_hangup.load(Ordering::Relaxed) {
        reload();
    }
    let mut stdin = pin!(end_of_stdin(args.exit_with_stdin));
    loop {
        tokio::select! {
            () = &mut stdin => {
                end_at_next_signal();
                info!("end of standard input: stopping");
                return Ok(());
            }
            _ = terminate.recv() => {
                end_at_next_signal();
                info!("SIGTERM: stopping");
                return Ok(());
            }
            _ = interrupt.recv() => {
                end_at_next_signal();
                info!("SIGINT: stopping");
                return Ok(());
            }
            _ = hangup.recv() => reload(),
        }
    }
}

/// Waits for the end of standard input, if `matters`.
async fn end_of_stdin(matters: bool) {
    if matters {
        let read = || std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // An error is an end, too.
        let _ = tokio::task::spawn_blocking(read).await;
    } else {
        std::future::pending().await
    }
}

/// Reloads the settings. Invalid settings change nothing and are returned as an error.
fn reload(
    args: &RunArgs,
    settings: &watch::Sender<Settings>,
    log: &LogHandle,
) -> Result<(), String> {
    let new = args.settings().map_err(|error| {
        let error = format!("{:#}", anyhow::Error::from(error));
        error!(error, "SIGHUP: keeping the settings");
        error
    })?;
    let diff = settings.borrow().reload_diff(&new);
    if let Err(error) = log.set(&diff.settings.log_level) {
        error!(%error, "SIGHUP: cannot change the log level");
    }
    info!(changed = ?diff.live, "SIGHUP: settings read");
    if !diff.needs_restart.is_empty() {
        warn!(settings = ?diff.needs_restart, "SIGHUP: changed settings that need a restart");
    }
    settings.send_replace(diff.settings);
    Ok(())
}
