//! The container image of deploy/kubernetes, built and run by podman on this host.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{host, shell, toolchain};

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

    fn output(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output()?;
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {words:?}: {said}");
        Ok(said.into_owned())
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
    let mut build = podman.command(&["build", "--quiet", "--isolation", "chroot", "--tag", NAME]);
    build.arg("--file").arg(kubernetes.join("Containerfile"));
    shell::run(build.arg(root), "see the message above")?;

    let manifest = fs::read_to_string(kubernetes.join("base/daemonset.yaml"))?;
    let added = manifest.lines().skip_while(|line| line.trim() != "add:");
    let added = added
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "));
    let capabilities = Vec::from_iter(added).join(",");
    // Free a moment ago.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
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
        &format!("--listen=127.0.0.1:{port}"),
    ])?;
    let begun = Instant::now();
    while !get(port, "/readyz").is_ok_and(|answer| answer.contains(" 200 ")) {
        let running = podman.output(&["ps", "--quiet"])?;
        let waits = !running.is_empty() && begun.elapsed() < PATIENCE;
        ensure!(
            waits,
            "it is not ready:\n{}",
            podman.output(&["logs", NAME])?
        );
        thread::sleep(Duration::from_millis(200));
    }
    let metrics = get(port, "/metrics")?;
    for signal in ["state", "accept", "reset_sent"] {
        let info = format!("observer_signal_info{{signal=\"{signal}\",");
        ensure!(
            metrics.contains(&info),
            "no {signal}:\n{}",
            podman.output(&["logs", NAME])?
        );
    }
    let missing = metrics
        .lines()
        .filter(|it| it.starts_with("observer_signal_missing"));
    println!("container: ready; missing: {:?}", Vec::from_iter(missing));
    let mut doctor = podman.command(&["exec", NAME, "/usr/bin/observer", "doctor", "--json"]);
    let doctor = doctor.output()?;
    // 1 and 2 are findings.
    ensure!(doctor.status.code().is_some_and(|it| it < 3), "{doctor:?}");
    podman.output(&["stop", NAME])?;
    let code = podman.output(&["inspect", "--format", "{{.State.ExitCode}}", NAME])?;
    ensure!(code.trim() == "0", "it ended with {code}");
    Ok(())
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
