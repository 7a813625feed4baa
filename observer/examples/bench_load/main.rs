//! The load of `cargo xtask bench`: opens and closes connections to itself as fast as possible, and
//! reports its counts, to compare them with those of other programs.
//!
//! Each worker is client and server in one thread: over loopback the handshake is complete when
//! `connect` returns, so nothing waits and nothing is scheduled. This measures the kernel's code
//! path, which contains the cost of an observer.
//!
//! It writes `ready` once it listens and the live connections are open, starts at a line on
//! standard input, writes its result as a line of JSON, and keeps its connections until standard
//! input ends. It needs its own network namespace: see `xtask/src/bench/netns.rs`.

mod family;
mod processes;
mod work;

use std::{
    io::{self, BufRead as _, Write as _},
    process,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    time::TimeValLike as _,
};
use work::{Counts, Mix, Plan, Worker};

/// Opens and closes TCP connections to itself.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Number of connections, of all kinds together.
    #[arg(long, default_value_t = 10_000)]
    connections: u64,
    /// Stop after this many seconds at the latest.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Connections per second to keep to; 0 for as many as there can be.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Parts of connections that are closed in order, closed with an RST, and refused.
    #[arg(long, default_value = "7:2:1")]
    mix: Mix,
    /// Connections that are open during the whole run.
    #[arg(long, default_value_t = 0)]
    live: u64,
    /// Threads; 0 for as many as there are CPUs.
    #[arg(long, default_value_t = 0, conflicts_with = "processes")]
    threads: usize,
    /// Processes of one thread each, instead of threads.
    #[arg(long)]
    processes: Option<usize>,
    /// Names that the processes share out.
    #[arg(long, default_value_t = 1, requires = "processes")]
    names: usize,
    /// Listening sockets of each worker.
    #[arg(long, default_value_t = 16)]
    ports: u16,
}

impl Args {
    fn plan(&self, workers: usize) -> Plan {
        Plan {
            workers,
            connections: self.connections,
            live: self.live,
            ports: self.ports,
            mix: self.mix,
            limit: Duration::from_secs(self.seconds),
            pause: (self.rate > 0)
                .then(|| Duration::from_secs_f64(workers as f64 / self.rate as f64)),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(processes) = args.processes {
        let plan = args.plan(processes.max(1));
        // Each has its share.
        raise_descriptors(args.live.div_ceil(plan.workers as u64))?;
        return processes::run(&plan, args.names);
    }
    raise_descriptors(args.live)?;
    let cpus = || thread::available_parallelism().map_or(1, usize::from);
    let threads = if args.threads == 0 {
        cpus()
    } else {
        args.threads
    };
    in_threads(&args.plan(threads))
}

/// Raises the limit for the descriptors of `live` connections, both ends of each.
fn raise_descriptors(live: u64) -> anyhow::Result<()> {
    // Listening sockets, pipes and what comes and goes.
    let wanted = 2 * live + 2048;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = wanted.max(hard);
    // Raising the hard limit takes CAP_SYS_RESOURCE, which root in a container may lack.
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)
        .with_context(|| format!("{limit} descriptors are not to be had: use more processes"))
}

fn in_threads(plan: &Plan) -> anyhow::Result<()> {
    let barrier = Barrier::new(plan.workers + 1);
    let barrier = &barrier;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.workers)
            .map(|index| {
                scope.spawn(move || {
                    let worker = Worker::new(plan, index);
                    barrier.wait();
                    // All workers are ready: wait for the start.
                    barrier.wait();
                    let mut worker = worker?;
                    worker.run()?;
                    Ok::<_, anyhow::Error>(worker)
                })
            })
            .collect();
        barrier.wait();
        wait_for_start();
        let start = Instant::now();
        barrier.wait();
        let mut counts = Counts::default();
        let mut done = Vec::new();
        for worker in workers {
            let worker = worker.join().expect("a worker does not panic")?;
            counts.add(worker.counts());
            done.push(worker);
        }
        finish(&counts, start.elapsed())
    })
}

/// Prints `ready` and waits for a line. If the parent has ended, it exits at once, because its workers wait for each other.
fn wait_for_start() {
    let mut line = String::new();
    let said = writeln!(io::stdout(), "ready");
    let heard = said.and_then(|()| io::stdin().lock().read_line(&mut line));
    if !matches!(heard, Ok(1..)) {
        eprintln!("standard input ended before the start");
        process::exit(1);
    }
}

/// Writes the result and waits until standard input ends.
fn finish(counts: &Counts, elapsed: Duration) -> anyhow::Result<()> {
    println!("{}", counts.to_json(elapsed, cpu_time()?));
    io::stdout().flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

/// User and system time of this process.
fn cpu_time() -> anyhow::Result<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let spent = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(spent.num_microseconds() as u64))
}
