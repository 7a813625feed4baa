//! Network namespaces, and the kernel's own counters in them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{BufRead as _, BufReader},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    counters::columns,
    program::{PRELUDE, Program, checked},
};

/// An unnamed network namespace, with loopback up. It is held by a file descriptor, so a killed
/// test leaves nothing behind, and only processes of the test are in it.
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one.
    #[expect(
        clippy::new_without_default,
        reason = "it runs a program, which may fail"
    )]
    pub fn new() -> Self {
        Self::set_up("").expect("a network namespace")
    }

    /// One in which a shell script was run.
    pub fn set_up(script: &str) -> Result<Self> {
        let script = format!("set -e\nip link set lo up\n{script}\necho ready\nread line");
        let mut shell = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (util-linux) does not start")?;
        let stdout = shell.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let file = File::open(format!("/proc/{}/ns/net", shell.id()));
        drop(shell.stdin.take());
        shell.wait()?;
        ensure!(
            line == "ready\n",
            "cannot make a network namespace\n  what you can do: run `unshare --net ip addr` by hand"
        );
        Ok(Self { file: file? })
    }

    /// A command that runs in it, as the process that is started.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let (pid, fd) = (std::process::id(), self.file.as_raw_fd());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/fd/{fd}"))
            .arg(program);
        command
    }

    /// Runs a command in it, which must succeed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        checked(self.command(program).args(args).output().unwrap(), program)
    }

    /// Runs a Python program in it, which must succeed.
    pub fn python(&self, source: &str, args: &[&str]) -> Program {
        Program::python_by(&mut self.command("python3"), source, args)
    }

    /// The same, after [`PRELUDE`].
    pub fn script(&self, source: &str, args: &[&str]) -> Program {
        self.python(&[PRELUDE, source].concat(), args)
    }

    /// Sets a sysctl of it. Written by a process inside, because `/proc/sys/net` shows the
    /// reader's own namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run("sh", &["-c", &format!("echo '{value}' > {path}")]);
    }

    /// Keeps sockets in TIME_WAIT even on a slow machine: they are neither reused after a second,
    /// nor ended by the RST that answers an ACK for a socket that no longer exists.
    pub fn keep_time_wait(&self) {
        self.sysctl("net.ipv4.tcp_tw_reuse", "0");
        self.sysctl("net.ipv4.tcp_rfc1337", "1");
    }

    /// A number of `/proc/net/sockstat`: `tw` of `TCP:`.
    pub fn sockstat(&self, name: &str) -> u64 {
        let text = self.run("cat", &["/proc/net/sockstat"]);
        let words = text.lines().find_map(|line| line.strip_prefix("TCP: "));
        let words: Vec<&str> = words.expect("a TCP line").split(' ').collect();
        let pair = words.chunks(2).find(|pair| pair[0] == name);
        pair.expect("the word")[1].parse().unwrap()
    }

    /// The kernel's counters in it: `/proc/net/snmp`, by `Tcp` column.
    pub fn snmp(&self) -> BTreeMap<String, i64> {
        columns(&self.run("cat", &["/proc/net/snmp"]), "Tcp").unwrap()
    }

    /// The same, by `Udp` column: IPv4.
    pub fn udp(&self) -> BTreeMap<String, i64> {
        columns(&self.run("cat", &["/proc/net/snmp"]), "Udp").unwrap()
    }

    /// `/proc/net/netstat`, by `TcpExt` column.
    pub fn netstat(&self) -> BTreeMap<String, i64> {
        columns(&self.run("cat", &["/proc/net/netstat"]), "TcpExt").unwrap()
    }

    /// Its inode number, as the label `netns` has it.
    pub fn inode(&self) -> String {
        self.file.metadata().unwrap().ino().to_string()
    }

    /// Sockets that `ss` shows in a state (`established`, `time-wait`...), IPv4 and IPv6.
    pub fn ss(&self, state: &str) -> usize {
        self.run("ss", &["-Htan", "state", state]).lines().count()
    }
}
