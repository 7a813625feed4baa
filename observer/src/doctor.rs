//! `observer doctor`: requests the report of the running daemon, or starts a temporary daemon.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use observer_core::{
    config::DEFAULT_API_SOCKET,
    doctor::{Report, render},
    text::harden_json,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    cli::DoctorArgs,
    client::{self, ClientError},
    output,
};

/// Path of the report in the daemon's API.
const PATH: &str = "/api/v1/doctor";

/// The exit status if this host could not be observed.
const COULD_NOT_LOOK: u8 = 3;

/// Timeout for the start of a daemon.
const START: Duration = Duration::from_secs(60);

/// Timeout for its end.
const STOP: Duration = Duration::from_secs(10);

/// Prints the report. The exit status is its severity.
///
/// # Errors
///
/// None: errors are printed, and the exit status is 3.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    match report(args).and_then(|report| print(&report, args.json).map(|()| report)) {
        Ok(report) => Ok(report.exit_status().into()),
        Err(error) => {
            eprintln!("observer: {error:#}");
            Ok(COULD_NOT_LOOK.into())
        }
    }
}

fn report(args: &DoctorArgs) -> anyhow::Result<Report> {
    let socket = args.api_socket.as_deref();
    match ask(socket.unwrap_or(Path::new(DEFAULT_API_SOCKET))) {
        // With an explicit socket, only that daemon is asked.
        Err(ClientError::NoDaemon(_)) if socket.is_none() => {
            eprintln!(
                "no daemon is running, so this looks for {:?}",
                args.look_for
            );
            look(args.look_for)
        }
        answer => Ok(answer?),
    }
}

fn ask(socket: &Path) -> Result<Report, ClientError> {
    let answer = client::get(socket, PATH)?;
    serde_json::from_value(answer).map_err(|_| ClientError::Strange)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = match json {
        true => harden_json(&serde_json::to_string(report)?) + "\n",
        false => render(report, output::width()),
    };
    output::print(&text).context("cannot print the report")
}

/// Runs a temporary daemon with its API on a private socket, and requests its report.
fn look(time: Duration) -> anyhow::Result<Report> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // To remove the temporary directory as well.
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .context("cannot handle signals")?;
    }
    let directory = tempfile::Builder::new()
        .prefix("observer-doctor-")
        .tempdir()
        .context("cannot make a directory")?;
    let socket = directory.path().join("observer.sock");
    let log = directory.path().join("log");
    let mut daemon = Daemon::start(&socket, &log)?;
    let asked = daemon
        .wait_for(&socket, &interrupted)
        .and_then(|()| pause(time, &interrupted))
        .and_then(|()| Ok(ask(&socket)?));
    asked.map_err(|error| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        match last {
            Some(last) => error.context(format!("the observer says: {last}")),
            None => error,
        }
    })
}

/// Sleeps, unless this is interrupted.
fn pause(time: Duration, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let started = Instant::now();
    while let Some(left) = time.checked_sub(started.elapsed()) {
        anyhow::ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

/// A daemon, which ends with this.
struct Daemon(Child);

impl Daemon {
    fn start(socket: &Path, log: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command
            .args(["run", "--listen=127.0.0.1:0", "--self-test=no"])
            .args(["--exit-with-stdin", "--api-socket"])
            .arg(socket)
            // The pipe closes when this program ends, for whatever reason.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(log).context("cannot make a log")?);
        let child = command.spawn().context("cannot start the observer")?;
        Ok(Self(child))
    }

    /// Waits until it answers, up to the timeout.
    fn wait_for(&mut self, socket: &Path, interrupted: &AtomicBool) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let answer = ask(socket);
            if let Some(status) = self.0.try_wait().context("cannot wait for the observer")? {
                anyhow::bail!("it cannot run here ({status})");
            }
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() >= START => {
                    return Err(anyhow::Error::from(error).context("it did not start in time"));
                }
                Err(_) => pause(Duration::from_millis(50), interrupted)?,
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It stops then.
        drop(self.0.stdin.take());
        let asked = Instant::now();
        while asked.elapsed() < STOP {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
