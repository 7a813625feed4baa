use std::collections::BTreeSet;

use super::*;

fn ids(family: &str, protocol: &str, option: &str, errno: &str) -> Vec<&'static str> {
    let failed = FailedOption {
        family,
        protocol,
        option,
        errno,
    };
    for_option(&failed).map(|hint| hint.id).collect()
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
