//! `observer doctor`: asks a running daemon for its report, or starts one for as long as it takes.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::sys::{
    prctl,
    signal::{Signal, kill},
};
use observer_core::{
    config::DEFAULT_API_SOCKET,
    doctor::{Report, render},
    text::harden_json,
};

use crate::{
    cli::DoctorArgs,
    client::{self, ClientError},
};

/// Where the daemon serves the report.
const PATH: &str = "/api/v1/doctor";

/// The exit status if this host could not be looked at.
const COULD_NOT_LOOK: u8 = 3;

/// How long a daemon may take to start.
const START: Duration = Duration::from_secs(60);

/// How long it may take to end.
const STOP: Duration = Duration::from_secs(10);

/// Prints the report. The exit status says how bad it is.
///
/// # Errors
///
/// None: what goes wrong is printed, and the exit status is 3.
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
        // Whoever names a socket means that daemon.
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
        false => render(report),
    };
    match io::stdout().write_all(text.as_bytes()) {
        // As `observer doctor | head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot print the report"),
    }
}

/// Runs a daemon that nobody else can reach, and asks it.
fn look(time: Duration) -> anyhow::Result<Report> {
    let directory = tempfile::Builder::new()
        .prefix("observer-doctor-")
        .tempdir()
        .context("cannot make a directory")?;
    let socket = directory.path().join("observer.sock");
    let log = directory.path().join("log");
    let mut daemon = Daemon::start(&socket, &log)?;
    let said = |error: anyhow::Error| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        match last {
            Some(last) => error.context(format!("the observer says: {last}")),
            None => error,
        }
    };
    daemon.wait_for(&socket).map_err(said)?;
    sleep(time);
    ask(&socket).map_err(|error| said(error.into()))
}

/// A daemon, which ends with this.
struct Daemon(Child);

impl Daemon {
    fn start(socket: &Path, log: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command
            .args(["run", "--listen=127.0.0.1:0", "--self-test=no"])
            .arg("--api-socket")
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log).context("cannot make a log")?);
        // SAFETY: a system call, which is allowed between fork() and exec(). The daemon must not outlive
        // this program, whatever ends it.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
        }
        let child = command.spawn().context("cannot start the observer")?;
        Ok(Self(child))
    }

    /// Until it serves its API.
    fn wait_for(&mut self, socket: &Path) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            match ask(socket) {
                Ok(_) => return Ok(()),
                Err(ClientError::NoDaemon(_)) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.0.try_wait().context("cannot wait for the observer")? {
                anyhow::bail!("it cannot run here ({status})");
            }
            anyhow::ensure!(started.elapsed() < START, "it did not start in time");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        // It may have ended by itself.
        let _ = kill(pid, Signal::SIGTERM);
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
