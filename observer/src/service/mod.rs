//! Messages to systemd: the daemon's state ([`notify`]) and its log as entries of the journal
//! ([`journal`]).

pub mod journal;
pub mod notify;
mod status;

pub use notify::Notifier;
pub use status::State;

use std::time::Duration;

/// Maximum interval between updates of the status.
const RENEWED: Duration = Duration::from_secs(5);

/// Notifies the watchdog and updates the status of the unit while it is polled. It does not notify
/// the watchdog while a job is stuck, so that systemd restarts the daemon.
pub async fn report(notifier: &Notifier, state: impl Fn() -> State) {
    if !notifier.is_heard() {
        return std::future::pending().await;
    }
    let watchdog = notifier.watchdog();
    // Twice per watchdog interval, because one message may be late.
    let pause = watchdog.map_or(RENEWED, |time| RENEWED.min(time / 4));
    let mut last = String::new();
    loop {
        let state = State {
            not_reloaded: notifier.not_reloaded(),
            ..state()
        };
        if watchdog.is_some() && state.stuck.is_none() {
            notifier.alive();
        }
        let status = state.to_string();
        if status != last {
            notifier.status(&status);
            last = status;
        }
        tokio::time::sleep(pause).await;
    }
}
