//! The same load in processes: each makes its share and stays, so that there are many
//! owners.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::exit,
    time::Instant,
};

use anyhow::Context as _;
use nix::unistd::{ForkResult, fork, pipe};

use crate::{
    finish, wait_for_start,
    work::{Counts, Plan, Worker},
};

/// Forks the workers of `plan`, runs them all at once, and ends them with itself.
pub fn run(plan: &Plan) -> anyhow::Result<()> {
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
                let result = child(plan, index, ready_in, done_in, go_out, stop_out);
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
    drop(go_in);
    let mut done = File::from(done_out);
    let mut counts = Counts::default();
    for _ in 0..plan.workers {
        let mut bytes = [0; 40];
        done.read_exact(&mut bytes).context("a process failed")?;
        counts.add(&Counts::from_bytes(bytes));
    }
    finish(&counts, start.elapsed())?;
    drop(stop_in);
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
    // Both end when the parent drops its end, or dies.
    let mut nothing = Vec::new();
    File::from(go).read_to_end(&mut nothing)?;
    worker.run()?;
    File::from(done).write_all(&worker.counts().to_bytes())?;
    File::from(stop).read_to_end(&mut nothing)?;
    Ok(())
}
