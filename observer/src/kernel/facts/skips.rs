//! Whether the kernel skips programs that are already running on the CPU.

use observer_core::hints::Kernel;

/// Which runs of `tp_btf` programs the kernel skips (`__bpf_trace_run`; BTF does not show it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skips {
    /// None, before 6.1.
    Nothing,
    /// Since 6.1, those that interrupt the program on the same CPU. A timer interrupt hides all
    /// transitions of sockets with expired timers, for example twenty delayed ACKs at once.
    Interrupts,
    /// Since 7.0, where programs can be preempted, those of other tasks, too: on 7.3, one transition
    /// in 25 was skipped in an emulated guest, and a backup program on the same hook helps little,
    /// because it can be preempted as well. Programs on classic tracepoints still run without
    /// preemption.
    Tasks,
}

impl Skips {
    /// What the kernel of this release is known to skip.
    #[must_use]
    pub fn of(release: &str) -> Self {
        match Kernel::of_release(release) {
            Some(kernel) if kernel >= Kernel(7, 0) => Self::Tasks,
            Some(kernel) if kernel >= Kernel(6, 1) => Self::Interrupts,
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_depends_on_the_release() {
        assert_eq!(Skips::of("7.3.4+deb13-cloud-amd64"), Skips::Tasks);
        assert_eq!(Skips::of("7.0"), Skips::Tasks);
        assert_eq!(Skips::of("6.18.44-fc"), Skips::Interrupts);
        assert_eq!(Skips::of("6.1.0-56-cloud-amd64"), Skips::Interrupts);
        assert_eq!(Skips::of("5.10.0-46-cloud-amd64"), Skips::Nothing);
        for unknown in ["6", "", "next-20261121"] {
            assert_eq!(Skips::of(unknown), Skips::Nothing);
        }
    }
}
