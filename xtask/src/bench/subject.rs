//! The subjects: nothing, no-op programs, the observer, and other tools.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use observer_test_support::{http, wait_for_tick};

use super::{
    proc::{self, Runs},
    scrape,
};
use crate::toolchain;

/// How long a tool may take to attach. bpftrace compiles first.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same tracepoint as tcpstates, one line for each event.
const BPFTRACE: &str = "tracepoint:sock:inet_sock_set_state \
    { printf(\"%s %d %d\\n\", comm, args->oldstate, args->newstate); }";

/// A program that runs during the load, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Subject {
    /// Nothing attached.
    Nothing,
    /// An empty program on each of the observer's hooks.
    Noop,
    /// The same, with the minimum of work to attribute sockets to processes.
    Minimal,
    /// The same, with BPF socket storage.
    MinimalStorage,
    /// `observer run`.
    Observer,
    /// libbpf-tools tcplife.
    Tcplife,
    /// libbpf-tools tcpstates.
    Tcpstates,
    /// A bpftrace line on inet_sock_set_state.
    Bpftrace,
}

impl Subject {
    pub const ALL: [Self; 8] = [
        Self::Nothing,
        Self::Noop,
        Self::Minimal,
        Self::MinimalStorage,
        Self::Observer,
        Self::Tcplife,
        Self::Tcpstates,
        Self::Bpftrace,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Noop => "noop",
            Self::Minimal => "minimal",
            Self::MinimalStorage => "minimal-storage",
            Self::Observer => "observer",
            Self::Tcplife => "tcplife",
            Self::Tcpstates => "tcpstates",
            Self::Bpftrace => "bpftrace",
        }
    }

    /// The tool's file, for those that are not ours.
    pub fn tool(self) -> Option<PathBuf> {
        match self {
            Self::Tcplife | Self::Tcpstates | Self::Bpftrace => {
                toolchain::find_program(self.name())
            }
            _ => None,
        }
    }
}

/// Our own programs, built in release mode.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub observer: PathBuf,
    pub load: PathBuf,
    pub noop: PathBuf,
    pub maps: PathBuf,
}

/// A hook of the observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `tp_btf:inet_sock_set_state`.
    pub name: String,
    /// The observer's program there.
    pub program: String,
}

/// The hooks that `observer check --json` reports as attached, without iterators, which the daemon runs, and without
/// probes on functions of user space, which run only in programs that call these.
pub fn hooks(observer: &PathBuf) -> Result<Vec<Hook>> {
    let output = Command::new(observer)
        .args(["check", "--json"])
        .output()
        .with_context(|| format!("{} does not start", observer.display()))?;
    let hooks = parse_hooks(&output.stdout)?;
    ensure!(
        !hooks.is_empty(),
        "no hook can be attached here: see `cargo xtask run -- check`"
    );
    Ok(hooks)
}

fn parse_hooks(json: &[u8]) -> Result<Vec<Hook>> {
    let report: serde_json::Value =
        serde_json::from_slice(json).context("`observer check --json` is no JSON")?;
    let verdicts = report["verdicts"].as_array().context("no verdicts")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    // A program that is used by several signals occurs several times.
    let mut programs = BTreeSet::new();
    Ok(verdicts
        .iter()
        .filter(|verdict| verdict["status"] == "attached")
        .filter(|verdict| {
            !["iter", "uprobe", "uprobe_multi"].contains(&&*text(&verdict["attach_type"]))
        })
        .filter(|verdict| programs.insert(text(&verdict["program"])))
        .map(|verdict| Hook {
            name: format!(
                "{}:{}",
                text(&verdict["attach_type"]),
                text(&verdict["hook"])
            ),
            program: text(&verdict["program"]),
        })
        .collect())
}

/// A subject that is attached. Dropping it ends it.
pub struct Attached {
    child: Option<Child>,
    /// Of the observer.
    pub address: Option<SocketAddr>,
    /// The no-op programs: hook by program id.
    noop: BTreeMap<u64, String>,
}

impl Attached {
    /// Starts `subject` and waits until it watches. `extra` goes to the observer.
    pub fn start(
        subject: Subject,
        binaries: &Binaries,
        hooks: &[Hook],
        extra: &[String],
    ) -> Result<Self> {
        match subject {
            Subject::Nothing => Ok(Self::of(None)),
            Subject::Noop => Self::noop(binaries, hooks.iter().map(|hook| hook.name.as_str())),
            Subject::Minimal | Subject::MinimalStorage => {
                let option = format!("--{}", subject.name());
                let hooks = hooks.iter().map(|hook| hook.name.as_str());
                Self::noop(binaries, [option.as_str()].into_iter().chain(hooks))
            }
            Subject::Observer => Self::observer(binaries, extra),
            Subject::Tcplife | Subject::Tcpstates => {
                let tool = subject.tool().context("not installed")?;
                Self::foreign(&mut Command::new(tool))
            }
            Subject::Bpftrace => {
                let tool = subject.tool().context("not installed")?;
                Self::foreign(Command::new(tool).args(["-e", BPFTRACE]))
            }
        }
    }

    /// Enables the kernel's run-time statistics while it exists.
    pub fn statistics(binaries: &Binaries) -> Result<Self> {
        Self::noop(binaries, ["--statistics"].into_iter())
    }

    fn of(child: Option<Child>) -> Self {
        Self {
            child,
            address: None,
            noop: BTreeMap::new(),
        }
    }

    fn noop<'a>(binaries: &Binaries, hooks: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut child = Command::new(&binaries.noop)
            .args(hooks)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the no-op programs do not start")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut this = Self::of(Some(child));
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if line == "ready" {
                return Ok(this);
            }
            let attached = line.split_once(' ');
            let attached = attached.and_then(|(id, hook)| Some((id.parse().ok()?, hook)));
            let (id, hook) = attached.with_context(|| format!("bench_noop said {line:?}"))?;
            this.noop.insert(id, hook.to_owned());
        }
        bail!("the no-op programs cannot be attached")
    }

    fn observer(binaries: &Binaries, extra: &[String]) -> Result<Self> {
        let mut child = Command::new(&binaries.observer)
            .args(["run", "--listen", "127.0.0.1:0"])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the observer does not start")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut this = Self::of(Some(child));
        let mut log = String::new();
        let mut lines = BufReader::new(stderr);
        while this.address.is_none() {
            let start = log.len();
            ensure!(
                lines.read_line(&mut log)? > 0,
                "the observer ended early; it said:\n{log}"
            );
            this.address = address(&log[start..]);
        }
        // A full pipe would block it.
        thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        let address = this.address.context("no address")?;
        wait("the observer to be ready", || {
            Ok(http::get(address, "/readyz").is_ok_and(|reply| reply.status == 200))
        })?;
        Ok(this)
    }

    /// A third-party tool is ready once its programs are loaded and their number is stable.
    fn foreign(command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the tool does not start")?;
        let mut this = Self::of(Some(child));
        let mut before = 0;
        wait("the tool to attach", || {
            if let Some(child) = &mut this.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the tool ended with {status}");
            }
            let pid = this.pid().context("no process")?;
            let attached = proc::attachments(pid)?;
            let settled = attached > 0 && attached == before;
            before = attached;
            Ok(settled)
        })?;
        Ok(this)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Run-time statistics of what it attached, by program: the observer's own names, hooks
    /// for no-op programs, ids for others.
    pub fn programs(&self) -> Result<BTreeMap<String, Runs>> {
        if let Some(address) = self.address {
            // The daemon reads them at each tick.
            wait_for_tick(address)?;
            return Ok(scrape::programs(&scrape::scrape(address)?.metrics));
        }
        let Some(pid) = self.pid() else {
            return Ok(BTreeMap::new());
        };
        let name = |id| {
            let known = self.noop.get(&id).cloned();
            known.unwrap_or_else(|| format!("program {id}"))
        };
        let programs = proc::programs(pid)?;
        Ok(programs
            .into_iter()
            .map(|(id, runs)| (name(id), runs))
            .collect())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The address in the observer's log.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    let (address, _) = rest.split_once("/metrics")?;
    address.parse().ok()
}

/// Waits until a condition holds, for a minute at most.
pub fn wait(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        ensure!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// Versions of kernel and tools for the report.
pub fn machine() -> BTreeMap<&'static str, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model.to_owned());
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    BTreeMap::from([
        (
            "kernel",
            read("/proc/sys/kernel/osrelease").trim().to_owned(),
        ),
        ("cpu", model.unwrap_or_default()),
        ("cpus", cpus.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_hooks_are_taken_and_others_left() {
        let json = br#"{"verdicts":[
            {"attach_type":"tp_btf","hook":"inet_sock_set_state","program":"state_tp_btf","status":"attached"},
            {"attach_type":"tp_btf","hook":"inet_sock_set_state","program":"state_tp_btf","status":"attached"},
            {"attach_type":"tracepoint","hook":"syscalls:sys_exit_connect","program":"c","status":"refused"},
            {"attach_type":"iter","hook":"task_file","program":"resync_iter","status":"attached"},
            {"attach_type":"uprobe_multi","hook":"free","program":"tls_free","status":"attached"}]}"#;
        assert_eq!(
            parse_hooks(json).unwrap(),
            [Hook {
                name: "tp_btf:inet_sock_set_state".to_owned(),
                program: "state_tp_btf".to_owned(),
            }]
        );
        assert!(parse_hooks(b"{}").is_err());
    }

    #[test]
    fn the_address_is_in_the_log() {
        let line = "INFO serving metrics on http://127.0.0.1:4321/metrics\n";
        assert_eq!(address(line), "127.0.0.1:4321".parse().ok());
        assert_eq!(address("INFO stopped"), None);
    }
}
