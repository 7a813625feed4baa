//! The scenarios. Each has a network namespace and programs of its own.

/// What the finding is about: who is to blame is the process `NAME-ROLE`.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// The process with this role.
    Process(&'static str),
}

/// What is known of the first failure that the finding is to prevent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstError {
    /// It fails from the start, or not at all.
    None,
    /// It comes after the finding.
    Later,
}

/// What must be found.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub anomaly: &'static str,
    pub of: Of,
    /// The cause that explains most.
    pub cause: &'static str,
    /// The first of its hints, if it has any.
    pub hint: Option<&'static str>,
    pub first_error: FirstError,
    /// Maximum number of seconds from the start of the misbehaviour to the finding.
    pub within: f64,
    /// Findings that may be there as well: anomaly and role.
    pub also: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// At most eight characters, so that a role has room in a comm.
    pub name: &'static str,
    /// For docs/detectors.md.
    pub what: &'static str,
    /// A file of tests/scenarios, and its arguments.
    pub program: &'static [&'static str],
    /// Shell commands that prepare the network namespace.
    pub prepare: &'static str,
    pub expected: Expected,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "halfcls",
        what: "a client closes before it has read the answer, more and more often",
        program: &["resets.py", "half-close"],
        prepare: "",
        expected: Expected {
            anomaly: "rst_storm",
            of: Of::Process("client"),
            cause: "half_close",
            hint: Some("half-close"),
            first_error: FirstError::None,
            within: 15.0,
            also: &[("rst_storm", "server")],
        },
    },
    Scenario {
        name: "linger",
        what: "a server closes 100 connections/s with SO_LINGER {1, 0}",
        program: &["resets.py", "linger"],
        prepare: "",
        expected: Expected {
            anomaly: "rst_storm",
            of: Of::Process("server"),
            cause: "linger_zero",
            hint: Some("linger"),
            first_error: FirstError::None,
            within: 12.0,
            also: &[("rst_storm", "client")],
        },
    },
    Scenario {
        name: "dead",
        what: "nothing listens at the only backend",
        program: &["connects.py", "dead"],
        prepare: "",
        expected: Expected {
            anomaly: "connect_failures",
            of: Of::Process("client"),
            cause: "nothing_listens",
            hint: None,
            first_error: FirstError::None,
            within: 12.0,
            also: &[],
        },
    },
    Scenario {
        name: "dead2of3",
        what: "nothing listens at 2 of 3 backends",
        program: &["connects.py", "two-of-three"],
        prepare: "",
        expected: Expected {
            anomaly: "connect_failures",
            of: Of::Process("client"),
            cause: "nothing_listens",
            hint: None,
            first_error: FirstError::None,
            within: 12.0,
            also: &[],
        },
    },
    Scenario {
        name: "blackhol",
        what: "SYNs are dropped; the first connect() fails after 31 s",
        program: &["connects.py", "black-hole"],
        prepare: "ip link add v0 type veth peer name v1
            ip link set v0 up
            ip link set v1 up
            ip addr add 10.9.0.1/24 dev v0
            ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 dev v0
            echo 4 > /proc/sys/net/ipv4/tcp_syn_retries",
        expected: Expected {
            anomaly: "connect_failures",
            of: Of::Process("client"),
            cause: "syn_dropped",
            hint: Some("syn-timeout"),
            first_error: FirstError::Later,
            within: 12.0,
            also: &[],
        },
    },
];
