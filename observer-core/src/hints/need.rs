//! Conditions of hints on the host: its kernel, its sysctls, and what else is wrong.

use std::fmt;

use crate::net::sysctls::Sysctls;

/// Version of a kernel: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl Kernel {
    /// From a release as `uname -r` shows it; `None` if it does not begin with two numbers.
    #[must_use]
    pub fn of_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(['.', '-', '+']).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// A condition. A failed call or a cause that a hint belongs to is none: see [`super::Shown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A kernel before this one.
    Before(Kernel),
    /// This kernel or a later one.
    From(Kernel),
    /// The sysctl of the network namespace has this value.
    Is(&'static str, u64),
    /// It has another value.
    IsNot(&'static str, u64),
    /// It lacks these bits.
    Lacks(&'static str, u64),
    /// Connection tracking of the host is nearly full.
    ConntrackFull,
    /// Accept queues of the program overflow.
    QueuesOverflow,
}

/// What is known where a hint may be shown.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The running kernel.
    pub kernel: Option<Kernel>,
    /// Sysctls, as they were last read.
    pub sysctls: &'a Sysctls,
    /// The network namespace that it is about.
    pub netns: Option<u32>,
    /// Whether accept queues of the program overflow.
    pub queues_overflow: bool,
}

impl Known<'_> {
    /// The value of a sysctl of the network namespace, or of all if that is unknown and all have the same.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctls.of_namespace(self.netns, name)
    }
}

impl Need {
    /// Whether it holds; `None` if that is unknown.
    #[must_use]
    pub fn holds(&self, known: &Known<'_>) -> Option<bool> {
        match *self {
            Self::Before(kernel) => known.kernel.map(|it| it < kernel),
            Self::From(kernel) => known.kernel.map(|it| it >= kernel),
            Self::Is(name, value) => known.sysctl(name).map(|it| it == value),
            Self::IsNot(name, value) => known.sysctl(name).map(|it| it != value),
            Self::Lacks(name, bits) => known.sysctl(name).map(|it| it & bits == 0),
            Self::ConntrackFull => Some(known.sysctls.conntrack_is_full()),
            Self::QueuesOverflow => Some(known.queues_overflow),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(Kernel(major, minor)) => write!(f, "the kernel is before {major}.{minor}"),
            Self::From(Kernel(major, minor)) => write!(f, "the kernel is {major}.{minor} or later"),
            Self::Is(name, value) => write!(f, "{name} is {value}"),
            Self::IsNot(name, value) => write!(f, "{name} is not {value}"),
            Self::Lacks(name, bits) => write!(f, "{name} is without bit {bits:#x}"),
            Self::ConntrackFull => f.write_str("connection tracking is over 90 % full"),
            Self::QueuesOverflow => f.write_str("its accept queues overflow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        let of = Kernel::of_release;
        assert_eq!(of("7.3.4+deb13-cloud-amd64"), Some(Kernel(7, 3)));
        assert_eq!(of("6.18"), Some(Kernel(6, 18)));
        for unknown in ["6", "", "next-20261121"] {
            assert_eq!(of(unknown), None);
        }
        assert!(Kernel(5, 15) < Kernel(6, 2) && Kernel(6, 2) < Kernel(6, 12));
    }

    #[test]
    fn what_is_not_known_is_neither_true_nor_false() {
        const REUSE: &str = "net.ipv4.tcp_tw_reuse";
        let mut sysctls = Sysctls::default();
        let need = Need::IsNot(REUSE, 1);
        let holds = |sysctls: &Sysctls, netns| {
            need.holds(&Known {
                kernel: None,
                sysctls,
                netns,
                queues_overflow: false,
            })
        };
        assert_eq!(holds(&sysctls, Some(1)), None);
        sysctls.namespaces = [(1, [(REUSE, 1)].into()), (2, [(REUSE, 2)].into())].into();
        assert_eq!(holds(&sysctls, Some(1)), Some(false));
        assert_eq!(holds(&sysctls, Some(2)), Some(true));
        assert_eq!(holds(&sysctls, Some(3)), None);
        assert_eq!(holds(&sysctls, None), None);
        sysctls.namespaces.remove(&1);
        assert_eq!(holds(&sysctls, None), Some(true));
    }
}
