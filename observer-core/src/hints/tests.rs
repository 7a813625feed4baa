use std::collections::BTreeSet;

use super::*;
use crate::net::sysctls::Sysctls;

const FAST_OPEN: &str = "net.ipv4.tcp_fastopen";
const REUSE: &str = "net.ipv4.tcp_tw_reuse";
const TIMESTAMPS: &str = "net.ipv4.tcp_timestamps";
const ABORT: &str = "net.ipv4.tcp_abort_on_overflow";

fn sysctls(values: &[(&'static str, u64)]) -> Sysctls {
    Sysctls {
        host: [].into(),
        namespaces: [(1, values.iter().copied().collect())].into(),
    }
}

fn known(kernel: Kernel, sysctls: &Sysctls) -> Known<'_> {
    Known {
        kernel: Some(kernel),
        sysctls,
        netns: Some(1),
        queues_overflow: false,
    }
}

fn ids_on(known: &Known<'_>, [family, protocol, option, errno]: [&str; 4]) -> Vec<&'static str> {
    let failed = FailedOption {
        family,
        protocol,
        option,
        errno,
    };
    let advice = for_option(&failed, known).into_iter();
    advice.map(|it| it.hint.id).collect()
}

fn ids(family: &str, protocol: &str, option: &str, errno: &str) -> Vec<&'static str> {
    let sysctls = sysctls(&[(FAST_OPEN, 2)]);
    let known = known(Kernel(6, 1), &sysctls);
    ids_on(&known, [family, protocol, option, errno])
}

#[test]
fn a_hint_is_for_the_kernels_that_it_names() {
    let nothing = Sysctls::default();
    let on = |major, minor, option, errno| {
        let call = ["inet", "mptcp", option, errno];
        ids_on(&known(Kernel(major, minor), &nothing), call)
    };
    let fast_open = |major, minor| on(major, minor, "TCP_FASTOPEN", "ENOPROTOOPT");
    assert_eq!(fast_open(6, 1), ["fastopen-mptcp"]);
    assert_eq!(fast_open(6, 2), [""; 0]);
    let nodelay = |major, minor| on(major, minor, "TCP_NODELAY", "EOPNOTSUPP");
    assert_eq!(nodelay(5, 10), ["tcp-options-mptcp-5.10"]);
    assert_eq!(nodelay(6, 18), [""; 0]);
    let reuse = ["unix", "stream", "SO_REUSEPORT", "EOPNOTSUPP"];
    assert_eq!(ids_on(&known(Kernel(5, 10), &nothing), reuse), [""; 0]);
}

/// The hints of these that apply, an unknown condition in brackets.
fn shown(hints: &[&str], known: &Known<'_>) -> Vec<String> {
    let hints = HINTS.iter().filter(|it| hints.contains(&it.id));
    let advice = hints.filter_map(|it| Advice::new(it, known));
    let text = |it: Advice| match it.unknown.as_slice() {
        [] => it.hint.id.to_owned(),
        unknown => format!("{} ({})", it.hint.id, unknown.join(" and ")),
    };
    advice.map(text).collect()
}

#[test]
fn a_hint_about_a_sysctl_is_shown_where_its_value_is_the_reason() {
    let kernel = Kernel(6, 18);
    let reuse = |values: &[(&'static str, u64)]| {
        let hints = ["tw-reuse", "tw-timestamps"];
        shown(&hints, &known(kernel, &sysctls(values))).join(", ")
    };
    assert_eq!(reuse(&[(REUSE, 2), (TIMESTAMPS, 1)]), "tw-reuse");
    assert_eq!(reuse(&[(REUSE, 1), (TIMESTAMPS, 1)]), "");
    assert_eq!(reuse(&[(REUSE, 1), (TIMESTAMPS, 0)]), "tw-timestamps");
    assert_eq!(
        reuse(&[(TIMESTAMPS, 1)]),
        "tw-reuse (net.ipv4.tcp_tw_reuse is not 1)"
    );
    let abort = |values: &[(&'static str, u64)], queues_overflow| {
        let sysctls = sysctls(values);
        let known = Known {
            queues_overflow,
            ..known(kernel, &sysctls)
        };
        shown(&["abort-on-overflow"], &known).join(", ")
    };
    assert_eq!(abort(&[(ABORT, 1)], true), "abort-on-overflow");
    assert_eq!(abort(&[(ABORT, 0)], true), "");
    assert_eq!(abort(&[(ABORT, 1)], false), "");
    assert!(abort(&[], true).contains("tcp_abort_on_overflow is not 0"));
    let bits = |value| {
        let sysctls = sysctls(&[(FAST_OPEN, value)]);
        let call = ["inet", "tcp", "TCP_FASTOPEN_CONNECT", "EOPNOTSUPP"];
        ids_on(&known(kernel, &sysctls), call)
    };
    assert_eq!(bits(2), ["fastopen-connect"]);
    assert_eq!(bits(3), [""; 0]);
}

#[test]
fn conntrack_is_named_where_it_is_full() {
    let of = |host: &[(&'static str, u64)]| {
        let sysctls = Sysctls {
            host: host.iter().copied().collect(),
            ..Sysctls::default()
        };
        shown(&["conntrack"], &known(Kernel(6, 18), &sysctls)).len()
    };
    let most = ("net.netfilter.nf_conntrack_max", 1_000);
    assert_eq!(of(&[]), 0);
    assert_eq!(of(&[most, ("net.netfilter.nf_conntrack_count", 10)]), 0);
    assert_eq!(of(&[most, ("net.netfilter.nf_conntrack_count", 950)]), 1);
}

#[test]
fn each_id_is_there_once() {
    let ids: BTreeSet<_> = HINTS.iter().map(|hint| hint.id).collect();
    assert_eq!(ids.len(), HINTS.len());
}

#[test]
fn each_says_what_to_do_and_how_to_check_it() {
    for hint in &HINTS {
        for part in [hint.fact, hint.kernels, hint.fix, hint.check] {
            assert!(!part.is_empty(), "{}", hint.id);
        }
    }
}

#[test]
fn a_hint_is_for_its_option_errno_and_socket_only() {
    let fastopen = ids("inet", "mptcp", "TCP_FASTOPEN", "ENOPROTOOPT");
    assert_eq!(fastopen, ["fastopen-mptcp"]);
    assert_eq!(ids("inet", "tcp", "TCP_FASTOPEN", "ENOPROTOOPT"), [""; 0]);
    assert_eq!(ids("inet", "mptcp", "TCP_FASTOPEN", "EINVAL"), [""; 0]);
    let unix = ids("unix", "stream", "SO_REUSEPORT", "EOPNOTSUPP");
    assert_eq!(unix, ["reuseport-not-internet"]);
    assert_eq!(ids("inet6", "tcp", "SO_REUSEPORT", "EOPNOTSUPP"), [""; 0]);
    let nodelay = ids("unix", "stream", "TCP_NODELAY", "EOPNOTSUPP");
    assert_eq!(nodelay, ["tcp-options-unix"]);
}

#[test]
fn options_and_errnos_have_names_that_are_shown() {
    use crate::names::{errno_name, option_name};
    let options: BTreeSet<String> = [0, 1, 6, 41]
        .into_iter()
        .flat_map(|level| (0..200).map(move |option| option_name(level, option).into_owned()))
        .collect();
    let errnos: BTreeSet<String> = (1..600)
        .map(|errno| errno_name(errno).into_owned())
        .collect();
    for hint in &HINTS {
        if let Shown::BySetsockopt {
            options: named,
            prefixes,
            errnos: of,
            ..
        } = hint.shown
        {
            assert!(
                named.iter().all(|name| options.contains(*name)),
                "{}",
                hint.id
            );
            assert!(of.iter().all(|name| errnos.contains(*name)), "{}", hint.id);
            for prefix in prefixes {
                assert!(options.iter().any(|name| name.starts_with(prefix)));
            }
        }
    }
}

#[test]
fn no_folklore() {
    for hint in &HINTS {
        let text = [hint.fact, hint.fix, hint.check].join(" ").to_lowercase();
        // Of these, the facts say what they do not do; no fix may name them.
        for folklore in [
            "so_reuseaddr",
            "tcp_fin_timeout",
            "tcp_max_syn_backlog",
            "{1,0}",
            "{0,0}",
        ] {
            assert!(!hint.fix.to_lowercase().contains(folklore), "{}", hint.id);
        }
        assert!(!text.contains("tcp_tw_recycle=1"), "{}", hint.id);
    }
}
