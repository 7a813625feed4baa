use clap::Parser as _;
use observer_common::{Pod as _, RECORD_CLOSE, RECORD_STATE, Record};
use observer_core::record::{Filter, Identity};

use super::Tally;
use crate::cli::{Cli, Command};

const NGINX: Identity<'_> = Identity {
    pid: 4321,
    comm: "nginx",
    unit: "web.service",
};

fn record(kind: u8) -> Record {
    Record {
        kind,
        tgid: 4321,
        local_port: 443,
        remote_port: 51_000,
        ..Record::read_from(&[0; size_of::<Record>()]).unwrap()
    }
}

fn filter(flags: &[&str]) -> Filter {
    let cli = Cli::try_parse_from([&["observer", "tail"], flags].concat()).unwrap();
    let Command::Tail(args) = cli.command else {
        panic!("not tail")
    };
    args.filter()
}

#[test]
fn filters_join_by_and() {
    let matches = |flags: &[&str]| filter(flags).matches(&record(RECORD_CLOSE), &NGINX);
    for yes in [
        &[][..],
        &["--pid", "1,4321"],
        &["--comm", "ng*"],
        &["--comm", "x", "--comm", "nginx"],
        &["--port", "443"],
        &["--port", "51000"],
        &["--kind", "close"],
        &["--kind", "reset-sent,close"],
        &[
            "--pid", "4321", "--comm", "nginx", "--port", "443", "--kind", "close",
        ],
    ] {
        assert!(matches(yes), "{yes:?}");
    }
    for no in [
        &["--pid", "1"][..],
        &["--comm", "ngin"],
        &["--port", "80"],
        &["--kind", "time_wait"],
        &["--pid", "4321", "--port", "80"],
    ] {
        assert!(!matches(no), "{no:?}");
    }
}

#[test]
fn transitions_are_shown_only_when_asked_for() {
    let shows = |flags: &[&str], kind| filter(flags).matches(&record(kind), &NGINX);
    assert!(!shows(&[], RECORD_STATE) && !wants(&[], RECORD_STATE));
    assert!(shows(&["--states"], RECORD_STATE) && shows(&["--states"], RECORD_CLOSE));
    assert!(shows(&["--kind", "state"], RECORD_STATE));
    assert!(!shows(&["--kind", "state"], RECORD_CLOSE));
    assert!(wants(&["--kind=close", "--states"], RECORD_STATE));
    assert!(shows(&[], 200) && !shows(&["--kind", "close"], 200));
}

#[test]
fn tally_speaks_up_when_more_was_lost() {
    let mut tally = Tally {
        shown: 1,
        ..Tally::default()
    };
    assert_eq!(tally.to_string(), "1 record shown, 0 missed (ring full)");
    assert!(!tally.update_missed(0));
    assert!(tally.update_missed(7));
    assert!(!tally.update_missed(7));
    tally.shown = 12;
    assert_eq!(tally.to_string(), "12 records shown, 7 missed (ring full)");
}

fn wants(args: &[&str], kind: u8) -> bool {
    filter(args).mask() & (1 << kind) != 0
}
