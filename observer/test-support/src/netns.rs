//! Network namespaces, and the kernel's own counters in them.

use std::{collections::BTreeMap, process::Command};

use crate::{
    PRELUDE, Program,
    daemon::{checked, run, table},
};

/// A network namespace of its own, with loopback up; gone when dropped.
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(purpose: &str) -> Self {
        let name = format!("obs-{purpose}-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let this = Self { name };
        this.run("ip", &["link", "set", "lo", "up"]);
        this
    }

    /// A command that runs in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
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

    /// Has sockets stay in TIME_WAIT however slow the machine is: not taken again after a
    /// second, nor ended by the RST that answers an ACK which comes after its socket is gone.
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
        table(&self.run("cat", &["/proc/net/snmp"]), "Tcp")
    }

    /// `/proc/net/netstat`, by `TcpExt` column.
    pub fn netstat(&self) -> BTreeMap<String, i64> {
        table(&self.run("cat", &["/proc/net/netstat"]), "TcpExt")
    }

    /// Its inode number, as the label `netns` has it.
    pub fn inode(&self) -> String {
        let number = self.run("stat", &["-Lc", "%i", "/proc/self/ns/net"]);
        number.trim().to_owned()
    }

    /// Sockets that `ss` shows in a state (`established`, `time-wait`...), IPv4 and IPv6.
    pub fn ss(&self, state: &str) -> usize {
        self.run("ss", &["-Htan", "state", state]).lines().count()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}
