//! The table of which tests run on which kernels.

use super::build::Unit;

/// Where a unit runs in `cargo xtask test`, in addition to the running kernel. `cargo xtask vm` runs all
/// units on all kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On each of [`ALL_KERNELS`].
    Every,
    /// On each of [`KERNELS`]: tests of signals whose hooks on a kernel in the middle differ from
    /// those on the oldest and the newest.
    Each,
    /// On the oldest and the newest: kernels between use the same hooks as one of these.
    Ends,
    /// On the newest only: tests of what the oldest lacks.
    Newest,
    /// On the running kernel only: tests of the daemon, and tests that do not depend on hooks.
    Here,
}

/// The kernels of `cargo xtask vm`: each long-term series of Debian, and the newest.
pub const ALL_KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3"];

/// The kernels whose tests `cargo xtask test` runs: those of [`ALL_KERNELS`] that differ in a hook
/// (see docs/attach-types.toml). On the others it runs the units of [`On::Every`], and `observer check`, which fails when
/// they begin to differ.
pub const KERNELS: [&str; 3] = ["5.10", "6.1", "7.3"];

/// Units and where they run. Tests of the daemon run only on the running kernel.
pub const UNITS: &[(&str, On)] = &[
    ("accept", On::Ends),
    ("binds", On::Ends),
    ("connection_errors", On::Ends),
    // Each kind of hook on functions: those of 6.1 are the same.
    ("functions", On::Ends),
    // MPTCP sockets take fewer options on 6.1.
    ("failed_options", On::Each),
    ("gave_up", On::Ends),
    ("io_uring", On::Ends),
    ("layout", On::Ends),
    // By kprobes on 6.1, whose trampolines take no function of seven arguments.
    ("listen", On::Each),
    // 5.10 has none.
    ("mptcp", On::Each),
    // 5.10 has no helper to find a socket by its file, and from 6.18 on UDP counts drops elsewhere.
    ("udp", On::Each),
    ("namespaces", On::Ends),
    ("ports", On::Ends),
    ("reset", On::Ends),
    ("reset_answer", On::Ends),
    ("setsockopt", On::Ends),
    ("sources", On::Ends),
    ("time_wait", On::Ends),
    // Reads fields whose meaning has changed between kernels.
    ("waiting", On::Every),
    ("walk", On::Ends),
    ("api", On::Here),
    ("benign", On::Here),
    ("connect", On::Here),
    ("connect_rare", On::Here),
    ("connect_strace", On::Here),
    ("corners", On::Here),
    ("daemon", On::Here),
    ("doctor", On::Here),
    ("errors", On::Here),
    ("exact", On::Here),
    ("field", On::Here),
    ("findings", On::Here),
    ("full_maps", On::Here),
    ("http2", On::Here),
    // In guests of `cargo xtask vm --instructions`.
    ("instructions", On::Here),
    ("ownership", On::Here),
    ("prometheus", On::Here),
    // Builds programs, which guests cannot.
    ("quic", On::Here),
    ("retransmit", On::Here),
    ("scenarios", On::Here),
    ("seed", On::Here),
    ("service", On::Here),
    ("state", On::Here),
    ("stream", On::Here),
    // Needs 6.6. On 7.3, threads are preempted within programs.
    ("tls", On::Newest),
    // Perf events in place of uprobe_multi links, on 5.15 to 6.5.
    ("tls_at_start", On::Each),
    ("tls_programs", On::Here),
    ("units", On::Here),
    ("web", On::Here),
];

/// Units most of whose tests use the daemon with default settings (`Daemon::shared()`): those of a guest run in one
/// process, so that it starts once for all of them.
const SHARING: &[&str] = &[
    "accept",
    "binds",
    "connect",
    "connect_strace",
    "connection_errors",
    "gave_up",
    "http2",
    "io_uring",
    "mptcp",
    "namespaces",
    "reset",
    "reset_answer",
    "retransmit",
    "setsockopt",
    "state",
    "time_wait",
    "udp",
    "walk",
];

/// Whether two units may run in one process.
pub fn share(one: &str, other: &str) -> bool {
    SHARING.contains(&one) && SHARING.contains(&other)
}

/// Approximate CPU seconds of a unit in an emulated guest with the newest kernel, to start the longest first and to
/// balance the guests: without the start of the daemon of [`SHARING`]. Each run prints new figures.
const SECONDS: [(&str, u32); 22] = [
    ("accept", 18),
    ("binds", 1),
    ("connection_errors", 22),
    ("failed_options", 44),
    // A daemon for each kind of hook.
    ("functions", 130),
    ("gave_up", 1),
    ("io_uring", 1),
    ("layout", 66),
    ("listen", 70),
    ("mptcp", 7),
    ("namespaces", 24),
    ("ports", 125),
    ("reset", 17),
    ("reset_answer", 4),
    ("setsockopt", 6),
    ("sources", 52),
    ("time_wait", 14),
    ("tls", 82),
    ("tls_at_start", 25),
    ("udp", 36),
    ("waiting", 82),
    ("walk", 35),
];

/// For units that are not in the table: one daemon, and a few tests of seconds each.
const UNKNOWN_SECONDS: u32 = 40;

pub fn seconds(unit: &str) -> u32 {
    let known = SECONDS.iter().find(|(name, _)| *name == unit);
    known.map_or(UNKNOWN_SECONDS, |(_, seconds)| *seconds)
}

/// The units that `cargo xtask test` runs on `kernel`, of those that were built.
pub fn units(kernel: &str, built: &[Unit]) -> Vec<Unit> {
    let is_tested = KERNELS.contains(&kernel);
    let newest = kernel == KERNELS[KERNELS.len() - 1];
    let end = kernel == KERNELS[0] || newest;
    let wanted = |unit: &&Unit| {
        let found = UNITS.iter().find(|(name, _)| *name == unit.name);
        found.is_some_and(|(_, on)| match on {
            On::Every => true,
            On::Each => is_tested,
            On::Ends => end,
            On::Newest => newest,
            On::Here => false,
        })
    };
    built.iter().filter(wanted).cloned().collect()
}

/// Names in the table that were not built (misspelt or removed), and units that were built and are missing in the table.
pub fn unknown(built: &[Unit]) -> Vec<&str> {
    let listed = UNITS.iter().map(|(name, _)| *name);
    let gone = listed
        .chain(SECONDS.iter().map(|(name, _)| *name))
        .chain(SHARING.iter().copied())
        .filter(|name| built.iter().all(|unit| unit.name != *name));
    let built = built.iter().map(|unit| unit.name.as_str());
    let new = built.filter(|name| UNITS.iter().all(|(listed, _)| listed != name));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_and_the_newest_kernel_run_more() {
        let built = ["accept", "daemon", "listen", "waiting"].map(Unit::named);
        let built: Vec<_> = built.into();
        let names = |kernel| {
            let units = units(kernel, &built);
            units.into_iter().map(|unit| unit.name).collect::<Vec<_>>()
        };
        assert_eq!(names("5.10"), ["accept", "listen", "waiting"]);
        assert_eq!(names("6.1"), ["listen", "waiting"]);
        assert_eq!(names("6.12"), ["waiting"]);
        assert_eq!(names("7.3"), ["accept", "listen", "waiting"]);
        assert!(!unknown(&built).contains(&"listen"));
        assert!(unknown(&built).contains(&"reset"));
        assert!(unknown(&[Unit::named("new")]).contains(&"new"));
    }
}
