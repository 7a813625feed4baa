//! The same load in several processes: each makes its share and stays, so that there are many owners.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    process::exit,
    thread,
    time::Instant,
};

use anyhow::Context as _;
use nix::unistd::{ForkResult, fork, pipe};

use crate::{
    finish, wait_for_start,
    work::{Counts, Plan, Worker},
};

/// Forks the workers of `plan`, runs as many at a time as there are CPUs, and ends them with
/// itself. All of them live from the first connection to the last. They have `names` names: the
/// program's own, followed by a number if there is more than one.
pub fn run(plan: &Plan, names: usize) -> anyhow::Result<()> {
    // Each message is shorter than PIPE_BUF, so they do not mix.
    let (ready_out, ready_in) = pipe()?;
    let (done_out, done_in) = pipe()?;
    let (go_out, go_in) = pipe()?;
    let (stop_out, stop_in) = pipe()?;
    for index in 0..plan.workers {
        // SAFETY: this process has one thread, so the child may do anything.
        match unsafe { fork() }.with_context(|| format!("process {index}"))? {
            ForkResult::Parent { .. } => {}
            ForkResult::Child => {
                drop((ready_out, done_out, go_in, stop_in));
                let result = rename(index, names)
                    .and_then(|()| child(plan, index, ready_in, done_in, go_out, stop_out));
                if let Err(error) = &result {
                    eprintln!("process {index}: {error:#}");
                }
                exit(i32::from(result.is_err()));
            }
        }
    }
    drop((ready_in, done_in, go_out, stop_out));
    let mut ready = File::from(ready_out);
    let mut byte = [0; 1];
    for _ in 0..plan.workers {
        ready
            .read_exact(&mut byte)
            .context("a process failed before it was ready")?;
    }
    wait_for_start();
    let start = Instant::now();
    let mut go = File::from(go_in);
    // A byte for each process that may start, because starting all at once would overload the host.
    let first = thread::available_parallelism().map_or(1, usize::from);
    go.write_all(&vec![1; first.min(plan.workers)])?;
    let mut done = File::from(done_out);
    let mut counts = Counts::default();
    for finished in 0..plan.workers {
        let mut bytes = [0; 40];
        done.read_exact(&mut bytes).context("a process failed")?;
        if finished + first < plan.workers {
            go.write_all(&[1])?;
        }
        counts.add(&Counts::from_bytes(bytes));
    }
    finish(&counts, start.elapsed())?;
    drop(stop_in);
    Ok(())
}

/// Before it has a socket, because the name is taken then.
fn rename(index: usize, names: usize) -> anyhow::Result<()> {
    if names > 1 {
        let name = format!("{}{}", env!("CARGO_CRATE_NAME"), index % names);
        fs::write("/proc/self/comm", &name).context(name)?;
    }
    Ok(())
}

fn child(
    plan: &Plan,
    index: usize,
    ready: OwnedFd,
    done: OwnedFd,
    go: OwnedFd,
    stop: OwnedFd,
) -> anyhow::Result<()> {
    let mut worker = Worker::new(plan, index)?;
    File::from(ready).write_all(&[1])?;
    // An error means that the parent has ended.
    File::from(go).read_exact(&mut [0])?;
    worker.run()?;
    File::from(done).write_all(&worker.counts().to_bytes())?;
    // Ends when the parent drops its end.
    io::copy(&mut File::from(stop), &mut io::sink())?;
    Ok(())
}
