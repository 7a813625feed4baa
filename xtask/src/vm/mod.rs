//! Tests on other kernels: stock Debian kernels, each booted in QEMU with nothing but the
//! test programs, `observer` and what they run.

mod boot;
mod build;
mod fault;
mod guests;
mod image;
mod mirror;
mod names;
mod outcome;
mod packages;
mod qemu;
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

pub use self::names::OLDEST_AND_NEWEST;

use self::{
    guests::Ground,
    names::Wanted,
    packages::{Cache, Kernel},
    qemu::Qemu,
    workdir::WorkDir,
};
use crate::{apt, host, setup, shell};

/// Runs `observer check` and the kernel tests on other kernels, in QEMU.
#[derive(clap::Args)]
pub struct Args {
    /// Kernels such as 6.12, 6.1-rt (real-time) or 6.1-full (not the small cloud build).
    /// A series that the mirror no longer has gives the next newer one.
    #[arg(value_name = "KERNEL", default_values = names::DEFAULT)]
    kernels: Vec<Wanted>,
    /// List the kernels that can be had.
    #[arg(long)]
    list: bool,
    /// Look for newer packages.
    #[arg(long)]
    update: bool,
    /// Only run `observer check`.
    #[arg(long)]
    check_only: bool,
    /// Only run this test file, such as kernel_reset; can be given several times.
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
    /// Write the tables to docs/kernels.md.
    #[arg(long, conflicts_with_all = ["args", "faults"])]
    write_table: bool,
    /// Boot guests that panic, lock up, fall silent or run an endless test, and see that each
    /// is told for what it is.
    #[arg(long)]
    faults: bool,
    /// Guests to run at once; by default one for each processor, as far as there is memory.
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<NonZeroUsize>,
    /// Seconds that one test file may take.
    #[arg(long, default_value_t = 1200, value_name = "SECONDS")]
    test_timeout: u64,
    /// Scale of the load that tests make; emulated machines are slow.
    #[arg(long, default_value_t = 0.05)]
    scale: f64,
    /// Where downloads are kept.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Given to each test program: names of tests to run, or libtest's options.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Why guests cannot be booted on this machine, if so.
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
    setup::ensure(setup::Needs {
        guests: true,
        ..setup::Needs::default()
    })?;
    let (kernels, programs, qemu) = fetch(args, &dir)?;
    let fetched = start.elapsed();
    let target = workdir::target()?;
    let work = WorkDir::new(&target)?;
    let tests;
    let job = {
        // Another run must not change the programs while they are packed.
        let _lock = workdir::lock(&target)?;
        let binaries = build::build(&target.join("vm/build"))?;
        tests = chosen(args, &binaries)?;
        let job = image::Job {
            binaries: &binaries,
            tests: &tests,
            args: &args.args,
            scale: args.scale,
        };
        image::job(&job, work.path())?
    };
    let built = start.elapsed();
    let at_once = args.jobs.map_or_else(guests::at_once, NonZeroUsize::get);
    let code = if args.faults {
        fault::check(&qemu, &kernels[0], &programs, &job, work.path(), at_once)?;
        0
    } else {
        let ground = Ground {
            qemu: &qemu,
            programs: &programs,
            job: &job,
            work: work.path(),
            test_timeout: Duration::from_secs(args.test_timeout),
        };
        run(args, &kernels, &tests, at_once, &ground)?
    };
    fs::remove_file(&job)?;
    let seconds = |time: Duration| time.as_secs();
    println!(
        "\nlogs: {}\ntime: {} s to fetch, {} s to build, {} s in guests, {at_once} at once",
        work.path().display(),
        seconds(fetched),
        seconds(built - fetched),
        seconds(start.elapsed() - built),
    );
    Ok(ExitCode::from(code))
}

/// Runs all guests, and shows what came of them.
fn run(
    args: &Args,
    kernels: &[Kernel],
    tests: &[String],
    at_once: usize,
    ground: &Ground<'_>,
) -> Result<u8> {
    let guests = guests::plan(kernels, tests, at_once);
    let results = guests::run_all(&guests, at_once, ground)?;
    let (rows, code) = guests::rows(kernels, &guests, results);
    println!();
    for row in &rows {
        let report = row.outcome.report.as_ref();
        let conclusion = report.and_then(|report| report["conclusion"].as_str());
        println!("{:<8} {}", row.name, conclusion.unwrap_or("no report"));
    }
    print!("\n{}", table::text(&rows));
    for row in &rows {
        let trouble = row.trouble.as_deref().unwrap_or("ok");
        println!("guest {:<8} {trouble}", row.name);
    }
    if args.write_table {
        let date = shell::output(Command::new("date").args(["-u", "+%F"])).unwrap_or_default();
        let document = table::markdown(&rows, date.trim(), &ground.qemu.accelerator());
        let path = host::root().join("docs/kernels.md");
        fs::write(&path, document)?;
        println!("written: {}", path.display());
    }
    Ok(code)
}

/// Downloads what is missing. The cache is locked only meanwhile.
fn fetch(args: &Args, dir: &Path) -> Result<(Vec<Kernel>, PathBuf, Qemu)> {
    let cache = Cache::open(dir, args.update)?;
    let mut kernels: Vec<Kernel> = Vec::new();
    for wanted in &args.kernels {
        let kernel = cache.kernel(*wanted)?;
        if kernels.iter().all(|other| other.name != kernel.name) {
            kernels.push(kernel);
        }
    }
    let programs = image::programs(&cache.guest()?)?;
    let qemu = Qemu::new(&cache.qemu()?)?;
    Ok((kernels, programs, qemu))
}

/// The test programs to run.
fn chosen(args: &Args, binaries: &build::Binaries) -> Result<Vec<String>> {
    let all: Vec<_> = binaries
        .tests
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    if args.check_only {
        return Ok(Vec::new());
    }
    if let Some(unknown) = args.test.iter().find(|name| !all.contains(name)) {
        bail!(
            "there is no test file {unknown}; there are {}",
            all.join(", ")
        );
    }
    let wanted = |name: &String| args.test.is_empty() || args.test.contains(name);
    Ok(all.into_iter().filter(wanted).collect())
}
