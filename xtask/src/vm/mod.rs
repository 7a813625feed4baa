//! Tests on other kernels: stock Debian kernels, each booted in QEMU with nothing but the
//! test programs, `observer` and what they run.

mod boot;
mod build;
mod image;
mod mirror;
mod names;
mod outcome;
mod packages;
mod table;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, ExitCode},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};

use self::{
    boot::{Boot, End},
    names::Wanted,
    packages::{Cache, Kernel},
    table::Row,
};
use crate::{apt, host, setup, shell, toolchain};

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
    #[arg(long)]
    write_table: bool,
    /// Seconds that one test file may take.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
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

/// Programs that this uses, and Debian's packages of them.
const TOOLS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
];

/// Exit codes of a guest that ended before its tests.
const HUNG: u8 = 124;
const PANICKED: u8 = 125;

/// Time to boot and to run `observer check`, beyond that of the tests.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

pub fn main(args: &Args) -> Result<ExitCode> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the guests are x86_64 machines, and so are the test programs that run in them");
    }
    if !apt::available() {
        bail!("the kernels are Debian packages, and apt is not here");
    }
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
    install_tools()?;
    setup::ensure(false)?;
    let (kernels, guest) = fetch(args, &dir)?;
    let target = target_dir()?;
    let binaries = build::build(&target.join("vm/build"))?;
    let tests = chosen(args, &binaries)?;

    let work = work_dir(&target)?;
    let job = image::job(
        &image::Job {
            binaries: &binaries,
            tests: &tests,
            args: &args.args,
            test_timeout: Duration::from_secs(args.test_timeout),
            scale: args.scale,
        },
        &work,
    )?;
    let limit = BOOT_LIMIT + Duration::from_secs(args.test_timeout) * tests.len() as u32;
    let mut rows = Vec::new();
    let mut code = 0;
    for kernel in &kernels {
        let (row, result) = run(kernel, &guest, &job, &work, limit)?;
        code = if code == 0 { result } else { code };
        rows.push(row);
    }
    fs::remove_file(&job)?;
    print!("\n{}", table::text(&rows));
    println!("\nlogs: {}", work.display());
    if args.write_table {
        let date = shell::output(Command::new("date").args(["-u", "+%F"])).unwrap_or_default();
        let document = table::markdown(&rows, date.trim(), &boot::accelerator());
        let path = host::root().join("docs/kernels.md");
        fs::write(&path, document)?;
        println!("written: {}", path.display());
    }
    Ok(ExitCode::from(code))
}

fn install_tools() -> Result<()> {
    let missing = TOOLS
        .into_iter()
        .filter(|(program, _)| toolchain::find_program(program).is_none());
    let packages: Vec<_> = missing.map(|(_, package)| package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!(
        "installing what boots other kernels: {}",
        packages.join(" ")
    );
    apt::update()?;
    apt::install(&packages)
}

/// Downloads what is missing. The cache is locked only meanwhile.
fn fetch(args: &Args, dir: &Path) -> Result<(Vec<Kernel>, PathBuf)> {
    let cache = Cache::open(dir, args.update)?;
    let mut kernels: Vec<Kernel> = Vec::new();
    for wanted in &args.kernels {
        let kernel = cache.kernel(*wanted)?;
        if kernels.iter().all(|other| other.name != kernel.name) {
            kernels.push(kernel);
        }
    }
    let guest = image::programs(&cache.guest()?)?;
    Ok((kernels, guest))
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

/// The directory that this program was built in; it stands in `DIR/PROFILE/xtask`.
fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe()?;
    let dir = exe
        .ancestors()
        .nth(2)
        .context("xtask stands in no target directory")?;
    Ok(dir.to_owned())
}

/// A new directory, so that two runs do not meet.
fn work_dir(target: &Path) -> Result<PathBuf> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let dir = target.join(format!("vm/runs/{time}-{}", process::id()));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Boots one kernel, twice if it panics, and judges what came of it.
fn run(
    kernel: &Kernel,
    guest: &Path,
    job: &Path,
    work: &Path,
    limit: Duration,
) -> Result<(Row, u8)> {
    eprintln!(
        "\n== {} ({}, {})",
        kernel.name, kernel.release, kernel.version
    );
    let dir = work.join(kernel.name.to_string());
    fs::create_dir_all(&dir)?;
    let modules = image::modules(kernel, &dir)?;
    let initrd = dir.join("initrd");
    image::join(&[guest, job, &modules], &initrd)?;
    let mut result = boot::boot(&kernel.image, &initrd, &dir, limit)?;
    if matches!(result.end, End::Panicked) {
        eprintln!(
            "the guest panicked, and gets a second try:\n{}",
            result.console_tail()
        );
        fs::rename(&result.console, dir.join("console-1.log"))?;
        fs::rename(dir.join("output.log"), dir.join("output-1.log"))?;
        result = boot::boot(&kernel.image, &initrd, &dir, limit)?;
    }
    fs::remove_file(&initrd)?;
    fs::remove_file(&modules)?;
    let outcome = outcome::parse(&result.output);
    print!("{}", outcome.check);
    if let Some(report) = &outcome.report {
        fs::write(dir.join("check.json"), report.to_string())?;
    }
    for (name, program) in outcome.programs.iter().filter(|(_, program)| !program.ok()) {
        println!("---- {name} on {}\n{}", kernel.name, program.output);
    }
    let (code, trouble) = judge(&result, &outcome);
    if let Some(trouble) = &trouble {
        eprintln!("{}: {trouble}", kernel.name);
        if !matches!(result.end, End::Finished) {
            let (log, tail) = (result.console.display(), result.console_tail());
            eprintln!("the end of {log}:\n{tail}");
        }
    }
    let row = Row {
        name: kernel.name.to_string(),
        release: kernel.release.clone(),
        version: kernel.version.clone(),
        took: result.took,
        trouble,
        outcome,
    };
    Ok((row, code))
}

/// The exit code, and what went wrong.
fn judge(result: &Boot, outcome: &outcome::Outcome) -> (u8, Option<String>) {
    match &result.end {
        End::Hung => return (HUNG, Some("the guest did not end in time".to_owned())),
        End::Panicked => return (PANICKED, Some("the kernel panicked".to_owned())),
        End::Broken(said) => return (1, Some(format!("the guest broke off: {said}"))),
        End::Finished => {}
    }
    let failed = outcome.programs.iter().find(|(_, program)| !program.ok());
    if let Some((name, program)) = failed {
        let code = if program.hung() {
            Some(i32::from(HUNG))
        } else {
            program.code
        };
        let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        return (code, Some(format!("{name}: {}", program.cell())));
    }
    let Some(report) = &outcome.report else {
        return (1, Some("`observer check` gave no report".to_owned()));
    };
    let refused = report["verdicts"].as_array().into_iter().flatten();
    let refused = refused
        .filter(|verdict| verdict["status"] == "refused")
        .count();
    if refused > 0 {
        return (1, Some(format!("the kernel refused {refused} programs")));
    }
    if report["exit_code"] == 2 {
        return (1, Some("the observer cannot run".to_owned()));
    }
    (0, None)
}
