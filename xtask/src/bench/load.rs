//! Runs the load generator, observer/examples/bench_load.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, bail};
use observer_test_support::Netns;
use serde::{Deserialize, Serialize};

/// Name of the load's processes, or prefix of their names: at most 15 characters, the maximum of a comm.
pub const COMM: &str = "bench_load";

/// The load.
#[derive(Clone, Debug)]
pub struct Load {
    pub connections: u64,
    /// Connections that are open during the load; each is two sockets.
    pub live: u64,
    /// Connections per second, or without a limit.
    pub rate: Option<u64>,
    /// The most seconds that may pass.
    pub seconds: u64,
    /// Processes of one thread each, or one of many threads.
    pub processes: Option<u64>,
    /// Number of names of the processes.
    pub names: u64,
}

/// The load as reported by the generator.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Made {
    pub short: u64,
    pub reset: u64,
    pub refused: u64,
    pub live: u64,
    pub listeners: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
}

impl Made {
    /// Connections during the measured time.
    pub fn connections(&self) -> u64 {
        self.short + self.reset + self.refused
    }

    /// Changes of state of all its sockets so far, listeners included. Of a connection that
    /// both ends close in order, each end makes five; of one that is reset, three; a refused
    /// one goes to SYN_SENT and back; of a live one, both ends have made two.
    pub fn transitions(&self) -> u64 {
        self.listeners + 10 * self.short + 6 * self.reset + 2 * self.refused + 4 * self.live
    }

    pub fn per_second(&self) -> f64 {
        self.connections() as f64 / self.seconds
    }
}

/// A generator that is ready, or has finished and keeps its connections open.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    /// Starts the generator and waits until its live connections are open.
    pub fn prepare(&self, binary: &Path, netns: &Netns) -> Result<Running> {
        let Self {
            connections,
            live,
            rate,
            seconds,
            processes,
            names,
        } = self;
        // Limit its run time: opening 100,000 connections takes seconds.
        let mut command = netns.command("timeout");
        command
            .args(["--kill-after=5", &(seconds + 120).to_string()])
            .arg(binary)
            .arg(format!("--connections={connections}"))
            .arg(format!("--live={live}"))
            .arg(format!("--seconds={seconds}"))
            .arg(format!("--rate={}", rate.unwrap_or(0)));
        if let Some(processes) = processes {
            command.arg(format!("--processes={processes}"));
            command.arg(format!("--names={names}"));
            command.arg("--ports=1");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("nsenter (util-linux) does not start")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut running = Running {
            child,
            stdin,
            stdout,
        };
        let line = running.line()?;
        if line != "ready" {
            bail!("the load generator failed before it was ready: {line:?}");
        }
        Ok(running)
    }
}

impl Running {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Starts the load. Live connections stay open until this is dropped.
    pub fn go(&mut self) -> Result<Made> {
        let stdin = self.stdin.as_mut().context("no standard input")?;
        stdin.write_all(b"go\n")?;
        let line = self.line()?;
        serde_json::from_str(&line)
            .with_context(|| format!("the load generator failed; it said {line:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_follow_from_what_was_made() {
        let line = r#"{"cpu_seconds":3.1,"listeners":32,"live":10,"refused":3,"reset":5,"seconds":0.5,"short":7}"#;
        let made: Made = serde_json::from_str(line).unwrap();
        assert_eq!(made.connections(), 15);
        assert_eq!(made.transitions(), 32 + 70 + 30 + 6 + 40);
        assert!((made.per_second() - 30.0).abs() < 1e-9);
    }
}
