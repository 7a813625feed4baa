//! Defers Ctrl-C and SIGTERM during an installation, so that it is not interrupted half-way.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

struct State {
    /// Whether the signals end this program, as they do by default.
    default: Arc<AtomicBool>,
    seen: Arc<AtomicBool>,
}

static STATE: LazyLock<State> = LazyLock::new(|| {
    let state = State {
        default: Arc::new(AtomicBool::new(true)),
        seen: Arc::new(AtomicBool::new(false)),
    };
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let registered = flag::register_conditional_default(signal, Arc::clone(&state.default))
            .and_then(|_| flag::register(signal, Arc::clone(&state.seen)));
        if let Err(error) = registered {
            eprintln!("note: signal {signal} interrupts installations: {error}");
        }
    }
    state
});

/// Runs a function that a signal to this program does not interrupt. Its child processes still get
/// the terminal's Ctrl-C; apt ends at once while it downloads, and finishes an installation. Then
/// this returns an error.
pub fn deferred<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    STATE.default.store(false, Ordering::SeqCst);
    let result = work();
    STATE.default.store(true, Ordering::SeqCst);
    if STATE.seen.swap(false, Ordering::SeqCst) {
        bail!("interrupted");
    }
    result
}

/// Whether a signal has come since [`deferred`] began.
pub fn seen() -> bool {
    STATE.seen.load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    #[test]
    fn a_signal_during_the_work_ends_it_afterwards() {
        assert_eq!(deferred(|| Ok(3)).unwrap(), 3);
        let mut finished = false;
        let result = deferred(|| {
            let kill = Command::new("sh")
                .args(["-c", &format!("kill -TERM {}", id())])
                .status();
            assert!(kill.unwrap().success());
            while !seen() {
                std::thread::yield_now();
            }
            finished = true;
            Ok(())
        });
        assert!(finished);
        assert_eq!(result.unwrap_err().to_string(), "interrupted");
    }
}
