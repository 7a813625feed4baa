//! The container image of deploy/kubernetes, built and run by podman on this host.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use observer_test_support::documents;

use crate::{host, shell, toolchain};

const DOCUMENT: &str = include_str!("../../../../docs/kubernetes.md");

const NAME: &str = "observer-trial";

/// How long the daemon may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// Its own storage, so that nothing is left on the host.
struct Podman<'a>(&'a Path);

impl Podman<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut podman = Command::new("podman");
        podman.args(["--storage-driver", "vfs", "--root"]);
        podman.arg(self.0.join("storage"));
        podman.arg("--runroot").arg(self.0.join("run"));
        podman.args(words);
        podman
    }

    /// The standard output of a command.
    fn output(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {words:?}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the daemon has logged, to its standard error.
    fn log(&self) -> Result<String> {
        let output = self.command(&["logs", NAME]).output()?;
        let [out, error] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        Ok(format!("{out}{error}"))
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // What failed was reported.
        let _ = self.command(&["rm", "--force", NAME]).output();
        let _ = self.command(&["rmi", "--all", "--force"]).output();
        let _ = fs::remove_dir_all(self.0);
    }
}

/// Builds the image from the files of a package below `root`, and runs it as the manifest says. `dir` is removed again.
pub fn run(root: &Path, dir: &Path) -> Result<()> {
    if toolchain::find_program("podman").is_none() {
        println!("container: not built: podman is not installed");
        return Ok(());
    }
    let kubernetes = host::root().join("deploy/kubernetes");
    fs::create_dir_all(dir)?;
    let podman = Podman(dir);
    let build = documents::command(DOCUMENT, "podman build");
    let words = Vec::from_iter(build.split(' ').skip(1));
    // The last are the name of the image and the folder.
    let [words @ .., _, _] = words.as_slice() else {
        bail!("{build} is too short")
    };
    let mut build = podman.command(words);
    build
        .args([NAME, "--quiet", "--isolation=chroot"])
        .arg(root);
    shell::run(build.current_dir(host::root()), "see the message above")?;

    let manifest = fs::read_to_string(kubernetes.join("base/daemonset.yaml"))?;
    let added = manifest.lines().skip_while(|line| line.trim() != "add:");
    let added = added
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "));
    let capabilities = Vec::from_iter(added).join(",");
    podman.output(&[
        "run",
        "--detach",
        "--name",
        NAME,
        "--pid=host",
        "--network=host",
        "--cap-drop=all",
        &format!("--cap-add={capabilities}"),
        "--security-opt=no-new-privileges",
        "--security-opt=apparmor=unconfined",
        // The profile of podman 4.3 (Debian 12) allows bpf() with CAP_SYS_ADMIN only.
        "--security-opt=seccomp=unconfined",
        // Podman would raise them, which a host may forbid.
        "--ulimit=nofile=4096:4096",
        "--ulimit=nproc=1024:1024",
        "--read-only",
        "--read-only-tmpfs=false",
        "--volume=/sys/kernel/tracing:/sys/kernel/tracing:ro",
        "--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro",
        "--tmpfs=/run/observer",
        NAME,
        "run",
        "--listen=127.0.0.1:0",
    ])?;
    let begun = Instant::now();
    let port = loop {
        let log = podman.log()?;
        let is_ready =
            |port: &u16| get(*port, "/readyz").is_ok_and(|answer| answer.contains(" 200 "));
        if let Some(port) = port(&log).filter(is_ready) {
            break port;
        }
        let running = podman.output(&["ps", "--quiet"])?;
        let waits = !running.is_empty() && begun.elapsed() < PATIENCE;
        ensure!(waits, "it is not ready:\n{log}");
        thread::sleep(Duration::from_millis(200));
    };
    let metrics = get(port, "/metrics")?;
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")?;
    // Tracepoints then take CAP_SYS_ADMIN, which the container has not (docs/kubernetes.md).
    let is_excused = paranoid.trim().parse::<i32>()? > 2;
    let failed = failed(&metrics);
    ensure!(
        is_excused || failed.is_empty(),
        "signals fail: {failed:?}\n{}",
        podman.log()?
    );
    for signal in ["state", "accept", "reset_sent"] {
        let info = format!("observer_signal_info{{signal=\"{signal}\",");
        ensure!(metrics.contains(&info), "no {signal}:\n{}", podman.log()?);
    }
    println!("container: ready; signals that fail: {failed:?}");
    let mut doctor = podman.command(&["exec", NAME, "/usr/bin/observer", "doctor", "--json"]);
    let doctor = doctor.output()?;
    // 1 and 2 are findings.
    ensure!(doctor.status.code().is_some_and(|it| it < 3), "{doctor:?}");
    podman.output(&["stop", NAME])?;
    let code = podman.output(&["inspect", "--format", "{{.State.ExitCode}}", NAME])?;
    ensure!(code.trim() == "0", "it ended with {code}");
    Ok(())
}

/// The port on which the daemon says that it serves.
fn port(log: &str) -> Option<u16> {
    let (_, address) = log.split_once("http://127.0.0.1:")?;
    let (port, _) = address.split_once('/')?;
    port.parse().ok()
}

/// Signals without a hook for which an alert fires where nothing was changed.
fn failed(metrics: &str) -> Vec<&str> {
    let reasons = ["reason=\"refused\"", "reason=\"broken\""];
    let missing = metrics
        .lines()
        .filter(|it| it.starts_with("observer_signal_missing{"));
    let failed = missing.filter(|it| reasons.iter().any(|reason| it.contains(reason)));
    failed.collect()
}

/// The answer to a request, with its head.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_told_from_what_cannot_be() {
        let metrics = "# TYPE observer_signal_missing gauge\n\
            observer_signal_missing{signal=\"tls\",reason=\"unsupported\"} 1\n\
            observer_signal_missing{signal=\"accept\",reason=\"refused\"} 1\n";
        let expected = "observer_signal_missing{signal=\"accept\",reason=\"refused\"} 1";
        assert_eq!(failed(metrics), [expected]);
    }

    #[test]
    fn the_port_is_in_the_log() {
        let log =
            "INFO x: y\nINFO observer::daemon: serving metrics on http://127.0.0.1:39803/metrics\n";
        assert_eq!(port(log), Some(39803));
        assert_eq!(port("INFO x: y\n"), None);
    }
}
