//! What a TLS handshake costs with probes on its functions: between nginx and ab, which makes a new connection for each request.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use observer_test_support::{Netns, spawn, wait_for_tick};
use serde::{Deserialize, Serialize};

use super::{
    measure::Bench,
    proc::{self, Runs},
    scrape,
    statistics::Spread,
    subject::{Attached, Subject, wait},
};
use crate::{host, toolchain};

/// Server and client, and Debian's packages of them.
pub const TOOLS: [(&str, &str); 2] = [("nginx", "nginx-light"), ("ab", "apache2-utils")];

/// What the names of the programs begin with that probes run.
const PROGRAMS: &str = "tls_";
const PORT: u16 = 8443;

/// What runs beside the handshakes: the observer with this value of `--tls`, or nothing.
const BESIDE: [Option<&str>; 3] = [None, Some("never"), Some("auto")];
/// Which of these the others are compared with: it differs from the next in the probes alone.
const REFERENCE: usize = 1;

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handshakes {
    /// In each run.
    pub connections: u64,
    pub beside: Vec<Beside>,
    /// Kernel time in the programs that the probes run, for a connection, both ends of which are here; without the traps.
    pub programs_nanoseconds: Option<Spread>,
    pub wrong: Vec<String>,
}

/// Beside one of [`BESIDE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beside {
    pub name: String,
    pub per_second: Spread,
    /// CPU time of server and client for a connection, in microseconds.
    pub microseconds: Spread,
    /// Connections per second in percent of those without probes.
    pub left_percent: Option<Spread>,
    /// What is more than without probes.
    pub more_microseconds: Option<Spread>,
}

#[derive(Clone, Debug, Default)]
struct Run {
    per_second: f64,
    microseconds: f64,
    programs: Runs,
    wrong: Vec<String>,
}

/// nginx, as one process.
struct Server<'a> {
    child: Child,
    netns: &'a Netns,
}

/// Measures in turns; `None` where the tools are not installed, or handshakes are not observed.
pub fn measure(bench: &Bench, repetitions: usize, connections: u64) -> Result<Option<Handshakes>> {
    for (program, package) in TOOLS {
        if toolchain::find_program(program).is_none() {
            eprintln!("left out: TLS handshakes: {program} ({package}) is not installed");
            return Ok(None);
        }
    }
    let attached = Attached::start(Subject::Observer, &bench.binaries, &bench.hooks, &[])?;
    let address = attached.address.context("the observer has an address")?;
    if !scrape::scrape(address)?.metrics.observes("tls") {
        eprintln!("left out: TLS handshakes: `observer check` says why they are not observed");
        return Ok(None);
    }
    drop(attached);
    let mut runs: [Vec<Run>; BESIDE.len()] = Default::default();
    let mut measured = Vec::new();
    let mut order: Vec<usize> = (0..BESIDE.len()).collect();
    for repetition in 1..=repetitions {
        eprintln!("TLS handshakes: repetition {repetition} of {repetitions}");
        for &index in &order {
            runs[index].push(run(bench, BESIDE[index], connections, false)?);
        }
        measured.push(run(bench, BESIDE[2], connections, true)?);
        order.rotate_left(1);
    }
    let of = |index: usize, figure: fn(&Run) -> f64| -> Vec<f64> {
        runs[index].iter().map(figure).collect()
    };
    let rate = |run: &Run| run.per_second;
    let time = |run: &Run| run.microseconds;
    let beside = (0..BESIDE.len()).map(|index| {
        let more = of(index, time).into_iter().zip(of(REFERENCE, time));
        let more = more.map(|(time, reference)| time - reference);
        let is_compared = index != REFERENCE;
        Some(Beside {
            name: name(BESIDE[index]),
            per_second: Spread::of(of(index, rate))?,
            microseconds: Spread::of(of(index, time))?,
            left_percent: Spread::of_ratios(&of(index, rate), &of(REFERENCE, rate))
                .map(|ratio| ratio.scaled(100.0))
                .filter(|_| is_compared),
            more_microseconds: Spread::of(more).filter(|_| is_compared),
        })
    });
    let beside = beside.collect::<Option<_>>().context("no run")?;
    let programs = measured.iter().map(|run| run.programs.nanoseconds as f64);
    let wrong = runs.iter().flatten().chain(&measured);
    Ok(Some(Handshakes {
        connections,
        beside,
        programs_nanoseconds: Spread::of(programs.map(|it| it / connections as f64)),
        wrong: wrong.flat_map(|run| run.wrong.clone()).collect(),
    }))
}

fn name(tls: Option<&str>) -> String {
    tls.map_or_else(
        || Subject::Nothing.name().to_owned(),
        |tls| format!("{}, --tls={tls}", Subject::Observer.name()),
    )
}

fn run(bench: &Bench, tls: Option<&str>, connections: u64, statistics: bool) -> Result<Run> {
    let Bench { binaries, hooks } = bench;
    let _statistics = statistics
        .then(|| Attached::statistics(binaries))
        .transpose()?;
    let netns = Netns::new();
    let subject = tls.map_or(Subject::Nothing, |_| Subject::Observer);
    let extra = Vec::from_iter(tls.map(|tls| format!("--tls={tls}")));
    // First, because before 6.6 only what is mapped when the observer starts is probed.
    let server = Server::start(bench, &netns)?;
    let attached = Attached::start(subject, binaries, hooks, &extra)?;
    let probed = attached.address.filter(|_| tls == Some("auto"));
    if let Some(address) = probed {
        wait("nginx to be probed", || {
            server.load(1)?;
            Ok(counted(address)? != [0.0, 0.0])
        })?;
    } else {
        // So that none of them begins with what is done once.
        server.load(1)?;
    }
    let counts = || probed.map(counted).transpose();
    let (counts_before, before) = (counts()?, attached.programs()?);
    let cpu = || {
        Ok::<_, anyhow::Error>(proc::cpu_seconds(server.child.id())? + proc::children_seconds()?)
    };
    let cpu_before = cpu()?;
    let per_second = server.load(connections)?;
    let seconds = cpu()? - cpu_before;
    let mut run = Run {
        per_second,
        microseconds: 1e6 * seconds / connections as f64,
        ..Run::default()
    };
    if statistics {
        let difference = bench.difference(&before, &attached.programs()?);
        for (_, runs) in difference.iter().filter(|it| it.0.starts_with(PROGRAMS)) {
            run.programs.add(*runs);
        }
    }
    if let (Some(before), Some(after)) = (counts_before, counts()?) {
        for (end, made) in ["nginx", "ab"]
            .iter()
            .zip([0, 1].map(|it| after[it] - before[it]))
        {
            if made != connections as f64 {
                run.wrong.push(format!(
                    "TLS handshakes of {end}: {made}, expected {connections}"
                ));
            }
        }
    }
    Ok(run)
}

/// Handshakes that have succeeded, of server and client.
fn counted(address: SocketAddr) -> Result<[f64; 2]> {
    wait_for_tick(address)?;
    let metrics = scrape::scrape(address)?.metrics;
    let of = |comm, role| {
        let labels = [("comm", comm), ("role", role), ("result", "ok")];
        metrics.sum("socket_tls_handshakes_total", &labels)
    };
    Ok([of("nginx", "server"), of("ab", "client")])
}

impl<'a> Server<'a> {
    fn start(bench: &Bench, netns: &'a Netns) -> Result<Self> {
        let beside = |name| bench.binaries.observer.with_file_name(name);
        let (configuration, pid) = (beside("bench_nginx.conf"), beside("bench_nginx.pid"));
        let files = host::root().join("observer/tests/tls");
        let text = format!(
            "daemon off; master_process off; error_log /dev/null; pid {pid};
            events {{}}
            http {{
                access_log off;
                server {{
                    # The default depends on nginx's version.
                    listen 127.0.0.1:{PORT} ssl; ssl_protocols TLSv1.2; keepalive_timeout 0;
                    ssl_certificate {files}/certificate.pem; ssl_certificate_key {files}/key.pem;
                    location / {{ return 200 \"hi\"; }}
                }}
            }}",
            pid = pid.display(),
            files = files.display()
        );
        fs::write(&configuration, text).with_context(|| configuration.display().to_string())?;
        let mut command = netns.command("nginx");
        command.arg("-c").arg(&configuration);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = spawn(&mut command).context("nginx does not start")?;
        let mut server = Self { child, netns };
        wait("nginx to listen", || {
            if let Some(status) = server.child.try_wait()? {
                bail!("nginx ended with {status}");
            }
            Ok(netns.ss("listening") > 0)
        })?;
        Ok(server)
    }

    /// Makes this many connections one after the other, and returns how many there were in a second.
    fn load(&self, connections: u64) -> Result<f64> {
        let mut command = self.netns.command("ab");
        command
            .args(["-q", "-n", &connections.to_string()])
            // One after the other: of several it may begin more than it is told to.
            .args(["-c", "1"])
            .arg(format!("https://127.0.0.1:{PORT}/"));
        let output = command.output().context("ab does not start")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let [complete, failed, rate] = [
            "Complete requests:",
            "Failed requests:",
            "Requests per second:",
        ]
        .map(|name| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split_ascii_whitespace().next()?.parse::<f64>().ok()
        });
        ensure!(
            complete == Some(connections as f64) && failed == Some(0.0),
            "ab did not do what it should: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        rate.context("ab names no rate")
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
