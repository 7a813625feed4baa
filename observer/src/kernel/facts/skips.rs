//! Whether the kernel skips programs that are running on the CPU already.

/// Whether the kernel of this release is known to skip a program that is running on the CPU
/// already (`__bpf_trace_run`, since 6.1; BTF does not show it). Then a timer that interrupts
/// the program on transitions hides all transitions of the sockets whose timers are due: twenty
/// delayed ACKs at once, say. Since 7.0 tasks preempt each other there as well: on 7.3, one
/// transition in 25 was skipped in an emulated guest.
#[must_use]
pub fn runs_are_skipped(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 1),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_since_6_1_skip_runs() {
        assert!(runs_are_skipped("7.3.4+deb13-cloud-amd64"));
        assert!(runs_are_skipped("7.0"));
        assert!(runs_are_skipped("6.18.44-fc"));
        assert!(runs_are_skipped("6.1.0-56-cloud-amd64"));
        assert!(!runs_are_skipped("5.10.0-46-cloud-amd64"));
        assert!(!runs_are_skipped("6"));
        assert!(!runs_are_skipped(""));
        assert!(!runs_are_skipped("next-20261121"));
    }
}
