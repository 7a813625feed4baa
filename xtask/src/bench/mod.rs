//! Measures the cost of observing: the same load with nothing attached, with an empty program on
//! each hook, with the observer and with other tools, in turns. See docs/benchmark.md.

mod check;
mod growth;
mod load;
mod measure;
mod plot;
mod proc;
mod results;
mod scrape;
mod statistics;
mod subject;
mod tls;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use self::{
    check::Baseline,
    load::Load,
    measure::{Bench, Run},
    results::{Figures, Paced, Results, Runs},
    statistics::Spread,
    subject::{Binaries, Subject},
};
use crate::{apt, consent, host, setup, shell, toolchain, tracefs};

/// Directory of results.
const DIRECTORY: &str = "docs/benchmark";
/// Programs to compare with, and Debian's packages of them.
const TOOLS: [&str; 2] = ["libbpf-tools", "bpftrace"];
/// The load for which there is a goal of CPU time.
const PACE: u64 = 1000;

/// Measures the cost of observing, compared with other tools.
#[derive(Clone, clap::Args)]
pub struct Args {
    /// What to measure.
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// A short run to test the benchmark; its figures are not meaningful.
    #[arg(long)]
    quick: bool,
    /// How often each subject is measured.
    #[arg(long)]
    repetitions: Option<usize>,
    /// Connections in each run.
    #[arg(long)]
    connections: Option<u64>,
    /// Measure only these, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Compare with the committed baseline, and fail when an event is more than 15 % more expensive.
    #[arg(long, conflicts_with_all = ["only", "write"])]
    check: bool,
    /// Write results, plot and baseline to docs/benchmark.
    #[arg(long)]
    write: bool,
    /// Directory of programs already built: set by the command when it restarts as root.
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Parts of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Everything.
    All,
    /// Throughput and cost of an event, compared with other tools.
    Events,
    /// CPU time at a steady 1,000 connections per second.
    Paced,
    /// Cost with many connections and processes, and of scrapes.
    Growth,
    /// Cost of a TLS handshake, with probes and without.
    Tls,
}

impl Part {
    fn includes(self, part: Self) -> bool {
        self == part || self == Self::All
    }

    /// A part that is measured alone leaves the file with everything as it is.
    fn file(self) -> &'static str {
        match self {
            Self::All => "results.json",
            Self::Events => "events.json",
            Self::Paced => "paced.json",
            Self::Growth => "growth.json",
            Self::Tls => "tls.json",
        }
    }
}

impl Args {
    fn repetitions(&self) -> usize {
        let default = if self.quick { 3 } else { 9 };
        self.repetitions.unwrap_or(default).max(1)
    }

    fn connections(&self) -> u64 {
        let default = if self.quick { 10_000 } else { 60_000 };
        self.connections.unwrap_or(default)
    }

    fn load(&self) -> Load {
        Load {
            connections: self.connections(),
            live: 500,
            rate: None,
            seconds: 120,
            processes: None,
            names: 1,
        }
    }

    fn subjects(&self) -> Vec<Subject> {
        if self.check {
            return vec![Subject::Noop, Subject::Observer];
        }
        let chosen = |subject: &Subject| self.only.is_empty() || self.only.contains(subject);
        Subject::ALL.into_iter().filter(chosen).collect()
    }
}

fn install_tools() -> Result<()> {
    let mut missing = apt::missing(&TOOLS);
    // Several packages have these programs.
    let others = tls::TOOLS.iter();
    let others = others.filter(|(program, _)| toolchain::find_program(program).is_none());
    missing.extend(others.map(|(_, package)| package));
    if missing.is_empty() {
        return Ok(());
    }
    consent::ask(&[format!(
        "by apt, to measure or to compare with: {}",
        missing.join(" ")
    )])?;
    apt::install(&missing)
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let directory = match &args.built {
        Some(directory) => directory.clone(),
        None => {
            setup::ensure(setup::Needs::default())?;
            if !args.check && apt::available() {
                // What needs one that is not there is left out.
                if let Err(error) = install_tools() {
                    eprintln!("note: {error:#}");
                }
            }
            build()?
        }
    };
    if !host::is_root() {
        return as_root(&directory);
    }
    tracefs::ensure();
    let binaries = Binaries {
        observer: directory.join("observer"),
        load: directory.join("examples/bench_load"),
        noop: directory.join("examples/bench_noop"),
        maps: directory.join("examples/bench_maps"),
    };
    let hooks = subject::hooks(&binaries.observer)?;
    measure(args, &Bench { binaries, hooks })
}

/// Builds the programs as the invoking user, and returns their directory.
fn build() -> Result<PathBuf> {
    let mut build = shell::cargo();
    build
        .args(["build", "--release", "--package", "observer"])
        .args(["--bin", "observer", "--example", "bench_*"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = build.output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("`{}` failed with {}", shell::show(&build), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let is_observer = |path: &PathBuf| path.ends_with("release/observer");
    let observer = shell::executables(&messages)
        .find(is_observer)
        .context("cargo names no binary")?;
    Ok(observer.parent().context("it has a directory")?.to_owned())
}

/// Restarts this command as root.
fn as_root(directory: &Path) -> Result<ExitCode> {
    let this = std::env::current_exe()?;
    let mut command = Command::new(shell::sudo()?);
    command
        .arg(this)
        .args(std::env::args_os().skip(1))
        .arg("--built")
        .arg(directory);
    eprintln!("$ {}", shell::show(&command));
    Err(command.exec()).context("sudo does not start")
}

fn measure(args: &Args, bench: &Bench) -> Result<ExitCode> {
    let machine = subject::machine();
    let mut results = Results {
        machine: machine
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        connections: args.connections(),
        live_connections: args.load().live * 2,
        repetitions: args.repetitions(),
        ..Results::default()
    };
    if args.check || args.part.includes(Part::Events) {
        events(args, bench, &mut results)?;
    }
    if !args.check && args.part.includes(Part::Paced) {
        results.paced = Some(paced(args, bench)?);
    }
    if !args.check && args.part.includes(Part::Growth) {
        results.growth = growth::measure(bench, args.connections().min(20_000))?;
    }
    if !args.check && args.part.includes(Part::Tls) {
        results.tls = tls::measure(bench, args.repetitions(), args.connections().min(5_000))?;
    }
    print!("{}", results.to_text());
    if args.write {
        write(args.part, &results)?;
    }
    if args.check {
        return compare(&results);
    }
    Ok(ExitCode::SUCCESS)
}

/// Each subject in turn, repeatedly; each repetition starts with another one.
fn events(args: &Args, bench: &Bench, results: &mut Results) -> Result<()> {
    let is_there = |subject: &Subject| {
        let obstacle = match subject {
            Subject::Tcplife | Subject::Tcpstates | Subject::Bpftrace => {
                let missing = subject.tool().is_none();
                missing.then(|| "it is not installed".to_owned())
            }
            // Not available on all kernels that the observer supports.
            Subject::MinimalStorage => bench.try_out(*subject).err().map(|e| format!("{e:#}")),
            _ => None,
        };
        if let Some(obstacle) = &obstacle {
            eprintln!("left out: {}: {obstacle}", subject.name());
        }
        obstacle.is_none()
    };
    let mut subjects: Vec<Subject> = args.subjects().into_iter().filter(is_there).collect();
    let in_order = subjects.clone();
    let mut runs: BTreeMap<Subject, Runs> = BTreeMap::new();
    let load = args.load();
    for repetition in 1..=args.repetitions() {
        eprintln!("repetition {repetition} of {}", args.repetitions());
        // Statistics cost time themselves, so throughput is measured without them.
        for statistics in [false, true] {
            for &subject in &subjects {
                let is_measured = statistics && subject != Subject::Nothing;
                if is_measured || (!statistics && !args.check) {
                    let run = bench.run(subject, &load, statistics, &[])?;
                    let runs = runs.entry(subject).or_default();
                    let which = if statistics {
                        &mut runs.measured
                    } else {
                        &mut runs.plain
                    };
                    which.push(run);
                }
            }
        }
        subjects.rotate_left(1);
    }
    let nothing = runs.get(&Subject::Nothing);
    results.subjects = in_order
        .iter()
        .filter_map(|subject| Some(Figures::new(*subject, runs.get(subject)?, nothing)))
        .collect();
    let measured = |subject| -> Vec<_> {
        let runs = runs.get(&subject).map(|runs| runs.measured.as_slice());
        let programs = |run: &Run| run.programs.clone();
        runs.unwrap_or_default().iter().map(programs).collect()
    };
    results.event_cost = check::costs(&measured(Subject::Observer), &measured(Subject::Noop));
    Ok(())
}

fn paced(args: &Args, bench: &Bench) -> Result<Paced> {
    let seconds = if args.quick { 5 } else { 30 };
    let runs = (0..args.repetitions().min(3))
        .map(|_| {
            eprintln!("paced: {seconds} seconds of {PACE} connections per second");
            bench.paced(PACE, seconds)
        })
        .collect::<Result<Vec<_>>>()?;
    let spread = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure)).context("no run");
    Ok(Paced {
        connections_per_second: spread(|run| run.made.per_second())?.median,
        cpu_percent: spread(|run| 100.0 * run.cpu_seconds / run.made.seconds)?,
    })
}

fn baseline_path() -> PathBuf {
    host::root().join(DIRECTORY).join("baseline.json")
}

fn write(part: Part, results: &Results) -> Result<()> {
    let directory = host::root().join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    let save = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("wrote {}", path.display());
        anyhow::Ok(())
    };
    save(part.file(), serde_json::to_string_pretty(results)? + "\n")?;
    if !results.subjects.is_empty() {
        save("events.svg", plot::svg(results))?;
    }
    if !results.event_cost.is_empty() {
        let baseline = Baseline {
            machine: results.machine.clone(),
            event_cost: results.event_cost.clone(),
        };
        save(
            "baseline.json",
            serde_json::to_string_pretty(&baseline)? + "\n",
        )?;
    }
    Ok(())
}

fn compare(results: &Results) -> Result<ExitCode> {
    let path = baseline_path();
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}\n  what you can do: `cargo xtask bench --write`",
            path.display()
        )
    })?;
    let baseline: Baseline = serde_json::from_str(&text)?;
    let overall = check::overall(&results.event_cost).context("nothing was measured")?;
    check::overall(&baseline.event_cost).context("the baseline has nothing to compare with")?;
    let regressions = check::compare(&baseline.event_cost, &results.event_cost);
    for regression in &regressions {
        println!(
            "REGRESSION: {}: {:.2} times a no-op program, {:.2} in the baseline",
            regression.hook, regression.now, regression.baseline
        );
    }
    if regressions.is_empty() {
        println!(
            "\nok: an event costs {overall} times a no-op program, no more than in the baseline"
        );
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
