use super::*;

#[test]
fn users_are_lines_of_passwd() {
    let parse =
        |line: &str| Account::parse("observer", line).map(|it| (it.uid.as_raw(), it.gid.as_raw()));
    assert_eq!(parse("observer:x:998:997::/:/bin/false"), Some((998, 997)));
    for other in [
        "observers:x:1:1::/:",
        "observer",
        "observer:x:one:1::/:",
        "",
    ] {
        assert_eq!(parse(other), None, "{other}");
    }
}

fn names(rows: &[CapabilityStatus]) -> Vec<(&str, bool)> {
    rows.iter().map(|row| (row.name, row.held)).collect()
}

#[test]
fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_proc() {
    let rows = assess(&HashSet::from([Capability::CAP_SYS_ADMIN]), true);
    let expected = [
        ("CAP_BPF", true),
        ("CAP_PERFMON", true),
        ("CAP_SYS_PTRACE", false),
        ("CAP_DAC_READ_SEARCH", false),
    ];
    assert_eq!(names(&rows), expected);
    assert!(require(&rows).is_ok());
    let rows = assess(&HashSet::new(), false);
    assert_eq!(names(&rows)[0], ("CAP_SYS_ADMIN", false));
}

#[test]
fn what_is_missing_is_named_with_three_ways_out() {
    let rows = assess(&HashSet::from([Capability::CAP_BPF]), true);
    let text = require(&rows).unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "missing capabilities: CAP_PERFMON");
    assert_eq!(lines[2], "  as root:     sudo observer ...");
    assert_eq!(
        lines[3],
        "  by systemd:  AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE \
         CAP_DAC_READ_SEARCH"
    );
    let setcap = "  by file:     setcap cap_bpf,cap_perfmon,cap_sys_ptrace,\
                  cap_dac_read_search+ep /";
    assert!(lines[4].starts_with(setcap), "{text}");
    let old = require(&assess(&HashSet::new(), false))
        .unwrap_err()
        .to_string();
    assert!(
        old.contains("AmbientCapabilities=CAP_SYS_ADMIN CAP_SYS_PTRACE"),
        "{old}"
    );
}

#[test]
fn status_masks_are_parsed() {
    let status = "Name:\tCapPrm: x\nCapPrm:\t000001fffeffffff\nCapEff:\tzz\n";
    assert_eq!(status_mask(status, "CapPrm"), Some(0x1ff_feff_ffff));
    assert_eq!(status_mask(status, "CapEff"), None);
    assert_eq!(status_mask(status, "CapBnd"), None);
}

#[test]
fn raising_memlock_never_fails() {
    raise_memlock();
}

fn own(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    status_mask(&status, field).unwrap()
}

#[test]
fn a_user_is_found_by_name_and_by_number() {
    let of = |setting| Account::find(Some(setting)).map(|account| account.unwrap().uid);
    assert_eq!(of("root").unwrap(), Uid::from_raw(0));
    assert_eq!(of("54321").unwrap(), Uid::from_raw(54321));
    let error = of("no-such-user").unwrap_err();
    assert_eq!(error.to_string(), "there is no user no-such-user");
    let error = of("4294967295").unwrap_err().to_string();
    assert!(error.starts_with("4294967295 cannot be a user"), "{error}");
    let in_database = Account::parse("it", "it:x:7:4294967295::/:/bin/sh").unwrap();
    assert!(matches!(
        in_database.checked(),
        Err(PrivilegesError::NoUser(_))
    ));
}

/// On a separate thread, so that the test runner keeps its capabilities.
#[test]
fn dropping_reaches_all_sets_and_new_threads_and_names_older_ones() {
    let before = own("CapPrm");
    if before & Capability::CAP_BPF.bitmask() == 0 {
        observer_test_support::skip!("needs CAP_BPF to see it survive");
    }
    std::thread::spawn(move || {
        let drop = || drop_capabilities(&[Capability::CAP_BPF], None);
        let Err(PrivilegesError::LeftOut(threads)) = drop() else {
            panic!("the main thread still has all");
        };
        let own_id = nix::unistd::gettid().as_raw();
        assert!(!threads.is_empty() && !threads.contains(&own_id));
        let cut = before & Capability::CAP_SETPCAP.bitmask() != 0;
        let check = move || {
            let kept = Capability::CAP_BPF.bitmask();
            assert_eq!(own("CapEff"), kept);
            assert_eq!(own("CapPrm"), kept);
            assert_eq!(own("CapInh"), 0);
            assert_eq!(own("CapAmb"), 0);
            assert_eq!(own("NoNewPrivs"), 1);
            if cut {
                assert_eq!(own("CapBnd"), kept);
            }
        };
        check();
        std::thread::spawn(check).join().unwrap();
        // Dropped capabilities cannot be regained.
        let all = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];
        assert!(drop_capabilities(&all, None).is_err());
        check();
    })
    .join()
    .unwrap();
    assert_eq!(own("CapPrm"), before);
}
