//! A network namespace for one run, so that each run starts with the same empty tables and
//! disturbs nobody.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

/// As in observer/examples/bench_load/family.rs.
const ADDRESSES: usize = 64;

/// Run inside: it ends, and the namespace with it, when its standard input does. So nothing
/// is left behind, even by a benchmark that was killed.
const HOLDER: &str = "
    set -e
    ip link set lo up
    for address in $(seq 1 ADDRESSES); do
        printf 'addr add fd00::%x/128 dev lo nodad\n' $address
    done | ip -batch -
    # A minute of full load must fit, or the kernel leaves TIME_WAIT out.
    echo 4000000 >/proc/sys/net/ipv4/tcp_max_tw_buckets
    echo ready
    exec cat
";

/// An unnamed network namespace with loopback up and more IPv6 addresses on it.
pub struct Netns {
    holder: Child,
}

impl Netns {
    pub fn new() -> Result<Self> {
        let script = HOLDER.replace("ADDRESSES", &ADDRESSES.to_string());
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (util-linux) does not start")?;
        let stdout = holder.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let this = Self { holder };
        anyhow::ensure!(
            line == "ready\n",
            "cannot make a network namespace\n  what you can do: run `unshare --net ip addr` by hand"
        );
        Ok(this)
    }

    /// A command that runs in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.holder.id()))
            .arg(program);
        command
    }

    /// `/proc/net/snmp` of it, as text.
    pub fn snmp(&self) -> Result<String> {
        let path = format!("/proc/{}/net/snmp", self.holder.id());
        std::fs::read_to_string(&path).context(path)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
