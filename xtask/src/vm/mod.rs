//! Tests on other kernels: stock Debian kernels, each booted in QEMU with only the test programs,
//! `observer` and the programs that they run.

mod boot;
pub mod build;
mod fault;
mod guests;
mod image;
pub mod mirror;
mod names;
mod outcome;
mod packages;
mod qemu;
mod suite;
mod table;
pub mod workdir;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

#[cfg(test)]
pub use self::suite::ALL_KERNELS;
pub use self::{
    boot::{Boot, End},
    names::Wanted,
};

use self::{
    boot::Machine,
    build::{Binaries, Unit},
    guests::{Attempt, Shared},
    packages::{Cache, Kernel},
    qemu::Qemu,
    table::Row,
    workdir::WorkDir,
};
use crate::{
    apt,
    attach_types::AttachTypes,
    host, report,
    report::Report,
    setup::{self, Needs},
    shell,
};

/// Runs `observer check` and the kernel tests on other kernels, in QEMU.
#[derive(clap::Args)]
pub struct Args {
    /// Kernels such as 6.12, 6.1-rt (real-time) or 6.1-full (not the small cloud build). If the
    /// mirror no longer has a series, the next newer one is used.
    #[arg(value_name = "KERNEL", default_values = suite::ALL_KERNELS)]
    kernels: Vec<Wanted>,
    /// List the available kernels.
    #[arg(long)]
    list: bool,
    /// Look for newer packages.
    #[arg(long)]
    update: bool,
    /// Only run `observer check`.
    #[arg(long)]
    check_only: bool,
    /// Run the tests of this file or module only, such as reset; can be given several times.
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
    /// Write the tables to docs/kernels.md.
    #[arg(long, conflicts_with_all = ["args", "faults"])]
    write_table: bool,
    /// Write the hooks of each signal on these kernels to docs/attach-types.toml, instead of comparing them with that file.
    #[arg(long, conflicts_with = "faults")]
    write_attach_types: bool,
    /// Test the runner: boot guests that panic, lock up, stop printing, run an endless test, one
    /// that always fails and one that fails once, and check that each is reported correctly.
    #[arg(long)]
    faults: bool,
    /// Measure instructions instead of time: the guest's clock advances by a nanosecond with each instruction. Runs the
    /// module `instructions`.
    #[arg(long, conflicts_with_all = ["test", "args", "faults", "write_table", "check_only"])]
    instructions: bool,
    /// Guests to run at once; by default one for each processor, as far as there is memory.
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<NonZeroUsize>,
    /// Seconds that the tests of one file or module may take.
    #[arg(long, default_value_t = 1200, value_name = "SECONDS")]
    test_timeout: u64,
    /// Scale of the load that tests make; emulated machines are slow.
    #[arg(long, default_value_t = SCALE)]
    scale: f64,
    /// Directory of downloads.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Parts of names of tests to run, and libtest's options.
    #[arg(last = true)]
    args: Vec<String>,
}

const SCALE: f64 = 0.05;

/// Why guests cannot be booted on this machine, if they cannot.
pub fn obstacle() -> Option<&'static str> {
    if !cfg!(target_arch = "x86_64") {
        Some("the guests are x86_64 machines, and so are the test programs that run in them")
    } else if !apt::available() {
        Some("the kernels are Debian packages, and apt is not here")
    } else {
        None
    }
}

pub fn main(args: &Args) -> Result<ExitCode> {
    if let Some(obstacle) = obstacle() {
        bail!(obstacle);
    }
    let start = Instant::now();
    let dir = match &args.cache {
        Some(dir) => std::path::absolute(dir)?,
        None => packages::default_dir()?,
    };
    if args.list {
        for (name, release) in Cache::open(&dir, args.update)?.kernels()? {
            println!("{:<10} {release}", name.to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(Needs {
        guests: true,
        ..Needs::default()
    })?;
    let downloads = Downloads::fetch(&dir, args.update, &args.kernels)?;
    let fetched = start.elapsed();
    let target = workdir::target()?;
    let binaries = if args.faults {
        Binaries::default()
    } else {
        build_static(&target)?
    };
    let built = start.elapsed();
    let (options, words): (Vec<_>, Vec<_>) = args
        .args
        .iter()
        .map(String::as_str)
        .partition(|arg| arg.starts_with('-'));
    let settings = Settings {
        options: &options,
        scale: args.scale,
        at_once: args.jobs.map_or_else(guests::at_once, NonZeroUsize::get),
        test_timeout: Duration::from_secs(args.test_timeout),
        idle: false,
        counts_instructions: args.instructions,
    };
    let work = WorkDir::new(&target)?;
    let ok = if args.faults {
        let settings = Settings {
            test_timeout: PATIENCE_OF_FAULTS,
            ..settings
        };
        let prepared = Prepared::new(&downloads, &binaries, &settings, work.path())?;
        fault::check(
            &downloads.kernels[0],
            &prepared.shared(&settings, &AttachTypes::default()),
            settings.at_once,
        )?;
        true
    } else {
        let units = chosen(args, build::units(&binaries.tests, &words)?)?;
        let kernels = downloads.kernels.iter().cloned();
        let plan: Vec<_> = kernels.map(|kernel| (kernel, units.clone())).collect();
        let expected = if args.write_attach_types {
            None
        } else {
            Some(AttachTypes::read()?)
        };
        let (rows, report) = run(
            &downloads,
            &binaries,
            &plan,
            &settings,
            expected.as_ref(),
            work.path(),
        )?;
        if args.write_table {
            write_table(&rows, &downloads.qemu)?;
        }
        if args.write_attach_types {
            write_attach_types(&plan, &rows)?;
        }
        println!();
        for note in &report.notes {
            println!("{note}");
        }
        print!("{report}");
        report.ok()
    };
    let seconds = |time: Duration| time.as_secs();
    println!(
        "\nlogs: {}\ntime: {} s to fetch, {} s to build, {} s in guests, {} at once",
        work.path().display(),
        seconds(fetched),
        seconds(built - fetched),
        seconds(start.elapsed() - built),
        settings.at_once,
    );
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Timeout of a test program in guests with injected faults.
const PATIENCE_OF_FAULTS: Duration = Duration::from_secs(10);

/// The part of `cargo xtask test` on other kernels.
pub struct Suite {
    downloads: Downloads,
    target: PathBuf,
}

impl Suite {
    /// Downloads kernels and programs of the guests.
    pub fn fetch() -> Result<Self> {
        let names = suite::ALL_KERNELS.map(str::parse::<Wanted>);
        let names: Result<Vec<_>, _> = names.into_iter().collect();
        let names = names.map_err(anyhow::Error::msg)?;
        Ok(Self {
            downloads: Downloads::fetch(&packages::default_dir()?, false, &names)?,
            target: workdir::target()?,
        })
    }

    /// Runs it with static binaries, at the lowest priority.
    pub fn run(&self, binaries: &Binaries) -> Result<Report> {
        let units = build::units(&binaries.tests, &[])?;
        let unknown = suite::unknown(&units);
        if !unknown.is_empty() {
            bail!("xtask/src/vm/suite.rs and the tests that were built differ in {unknown:?}");
        }
        let settings = Settings {
            options: &[],
            scale: SCALE,
            at_once: guests::at_once(),
            test_timeout: Duration::from_secs(1200),
            idle: true,
            counts_instructions: false,
        };
        let plan = |kernel: &Kernel| {
            let units = suite::units(&kernel.name.to_string(), &units);
            (kernel.clone(), units)
        };
        let plan: Vec<_> = self.downloads.kernels.iter().map(plan).collect();
        let work = WorkDir::new(&self.target)?;
        let expected = AttachTypes::read()?;
        let (_, report) = run(
            &self.downloads,
            binaries,
            &plan,
            &settings,
            Some(&expected),
            work.path(),
        )?;
        Ok(report)
    }
}

/// Builds static test programs and the daemon.
pub fn build_static(target: &Path) -> Result<Binaries> {
    // Concurrent runs would overwrite each other's binaries.
    let _lock = workdir::lock(target)?;
    build::build(build::What::KernelTests, Some(&build::dir(target)))
}

#[derive(Clone, Copy)]
struct Settings<'a> {
    /// libtest's options.
    options: &'a [&'a str],
    scale: f64,
    at_once: usize,
    test_timeout: Duration,
    /// Whether guests run at the lowest priority.
    idle: bool,
    /// Whether their clocks count instructions.
    counts_instructions: bool,
}

/// Archives of one run.
struct Prepared<'a> {
    downloads: &'a Downloads,
    job: PathBuf,
    work: &'a Path,
}

impl<'a> Prepared<'a> {
    fn new(
        downloads: &'a Downloads,
        binaries: &Binaries,
        settings: &Settings<'_>,
        work: &'a Path,
    ) -> Result<Self> {
        let job = image::Job {
            binaries,
            options: settings.options,
            scale: settings.scale,
            counts_instructions: settings.counts_instructions,
        };
        Ok(Self {
            downloads,
            job: image::job(&job, work)?,
            work,
        })
    }

    fn shared<'b>(&'b self, settings: &Settings<'_>, expected: &'b AttachTypes) -> Shared<'b> {
        Shared {
            qemu: &self.downloads.qemu,
            programs: &self.downloads.programs,
            job: &self.job,
            work: self.work,
            test_timeout: settings.test_timeout,
            expected,
            idle: settings.idle,
            counts_instructions: settings.counts_instructions,
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // The logs stay.
        let _ = fs::remove_file(&self.job);
    }
}

/// Runs units on kernels, repeats failed ones, and shows the results.
fn run(
    downloads: &Downloads,
    binaries: &Binaries,
    plan: &[(Kernel, Vec<Unit>)],
    settings: &Settings<'_>,
    expected: Option<&AttachTypes>,
    work: &Path,
) -> Result<(Vec<Row>, Report)> {
    let binaries = binaries.for_guests(plan.iter().flat_map(|(_, units)| units))?;
    let prepared = {
        // Lock, because another run must not change the programs while they are packed.
        let _lock = workdir::lock(&workdir::target()?)?;
        Prepared::new(downloads, &binaries, settings, work)?
    };
    let none = AttachTypes::default();
    let shared = prepared.shared(settings, expected.unwrap_or(&none));
    let guests = guests::plan(plan, settings.at_once);
    let (attempts, mut report) = guests::run(guests, settings.at_once, &shared)?;
    let rows = rows(plan, attempts, &report);
    let programs = rows.iter().flat_map(|row| row.outcome.programs.values());
    report.counts = report::count(programs.flat_map(|program| &program.tests));
    println!();
    for row in &rows {
        let report = row.outcome.report.as_ref();
        let conclusion = report.and_then(|report| report["conclusion"].as_str());
        println!("{:<8} {}", row.name, conclusion.unwrap_or("no report"));
    }
    print!("\n{}", table::text(&rows));
    for (kernel, _) in plan {
        let note = expected.and_then(|types| types.note(&kernel.name.into()));
        report.notes.extend(note);
    }
    for row in &rows {
        let trouble = row.trouble.as_deref().unwrap_or("ok");
        report
            .notes
            .push(format!("guest {:<8} {trouble}", row.name));
    }
    Ok((rows, report))
}

/// Combines the results of the guests of each kernel.
fn rows(plan: &[(Kernel, Vec<Unit>)], attempts: Vec<Attempt<'_>>, report: &Report) -> Vec<Row> {
    let mut rows: Vec<_> = plan.iter().map(|(kernel, _)| Row::new(kernel)).collect();
    for attempt in attempts {
        let name = attempt.guest.kernel.name.to_string();
        let Some(row) = rows.iter_mut().find(|row| row.name == name) else {
            continue;
        };
        row.took += attempt.boot.took;
        row.outcome.merge(attempt.outcome);
    }
    for row in &mut rows {
        let of = |list: &[report::Failure], word: &str| {
            let own = |failure: &report::Failure| {
                let (kernel, name) = failure.name.split_once(' ')?;
                (kernel == row.name).then(|| name.to_owned())
            };
            let names: Vec<_> = list.iter().filter_map(own).collect();
            (!names.is_empty()).then(|| format!("{word} {}", names.join(", ")))
        };
        let parts = [of(&report.failed, "FAILED"), of(&report.flaky, "flaky")];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        row.trouble = (!parts.is_empty()).then(|| parts.join("; "));
    }
    rows
}

fn write_table(rows: &[Row], qemu: &Qemu) -> Result<()> {
    let date = shell::output(Command::new("date").args(["-u", "+%F"])).unwrap_or_default();
    let document = table::markdown(rows, date.trim(), &qemu.accelerator());
    let path = host::root().join("docs/kernels.md");
    fs::write(&path, document)?;
    println!("written: {}", path.display());
    Ok(())
}

fn write_attach_types(plan: &[(Kernel, Vec<Unit>)], rows: &[Row]) -> Result<()> {
    let mut types = AttachTypes::read().unwrap_or_default();
    for ((kernel, _), row) in plan.iter().zip(rows) {
        if let Some(report) = &row.outcome.report {
            types.set(kernel.name.into(), report);
        }
    }
    println!("written: {}", types.write()?.display());
    Ok(())
}

/// Boots a kernel with a directory as its root file system. Logs are written to `dir`.
pub fn boot_tree(root: &Path, kernel: &str, dir: &Path, patience: Duration) -> Result<Boot> {
    setup::ensure(Needs {
        guests: true,
        ..Needs::default()
    })?;
    let wanted: Wanted = kernel.parse().map_err(anyhow::Error::msg)?;
    let downloads = Downloads::fetch(&packages::default_dir()?, false, &[wanted])?;
    let initrd = dir.join("initrd");
    image::pack(root, &initrd)?;
    let boot = Machine {
        name: kernel,
        qemu: &downloads.qemu,
        kernel: &downloads.kernels[0].image,
        initrd: &initrd,
        dir,
        boot_patience: patience,
        patience,
        idle: false,
        counts_instructions: false,
    }
    .boot();
    fs::remove_file(&initrd)?;
    boot
}

/// What comes from the mirror.
struct Downloads {
    kernels: Vec<Kernel>,
    programs: PathBuf,
    qemu: Qemu,
}

impl Downloads {
    /// Downloads missing packages. The cache is locked only during the download.
    fn fetch(dir: &Path, update: bool, names: &[Wanted]) -> Result<Self> {
        let cache = Cache::open(dir, update)?;
        let mut kernels: Vec<Kernel> = Vec::new();
        for wanted in names {
            let kernel = cache.kernel(*wanted)?;
            if kernels.iter().all(|other| other.name != kernel.name) {
                kernels.push(kernel);
            }
        }
        Ok(Self {
            kernels,
            programs: image::programs(&cache.guest()?)?,
            qemu: Qemu::new(&cache.qemu()?)?,
        })
    }
}

/// The units to run.
fn chosen(args: &Args, all: Vec<Unit>) -> Result<Vec<Unit>> {
    if args.check_only {
        return Ok(Vec::new());
    }
    let name = |name: &String| name.strip_prefix("kernel_").unwrap_or(name).to_owned();
    let wanted: Vec<_> = if args.instructions {
        vec!["instructions".to_owned()]
    } else {
        args.test.iter().map(name).collect()
    };
    let known = |name: &&String| all.iter().any(|unit| unit.name == **name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<_> = all.iter().map(|unit| unit.name.as_str()).collect();
        bail!(
            "there are no tests {unknown}; there are {}",
            names.join(", ")
        );
    }
    let chosen = |unit: &Unit| wanted.is_empty() || wanted.contains(&unit.name);
    Ok(all.into_iter().filter(chosen).collect())
}
