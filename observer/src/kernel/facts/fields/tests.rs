use observer_core::btf::fixture::Writer;

use super::*;

/// What a made-up kernel does with a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Has {
    /// Has it as expected.
    Expected,
    /// Lacks it.
    Nothing,
    /// Has it with another size.
    Size(u32),
    /// Has it as a bitfield of that width, one bit off a byte boundary.
    Bits(u32),
}

/// A kernel that has the fields of `specs`, one after the other with `gap` bytes between
/// them, each as `has` says.
fn kernel(specs: &[FieldSpec], gap: u32, has: impl Fn(&FieldSpec) -> Has) -> Writer {
    let mut writer = Writer::new();
    let mut structures: Vec<&str> = specs.iter().map(|spec| spec.structure).collect();
    structures.dedup();
    for structure in structures {
        let mut members = Vec::new();
        let mut offset = 0;
        for spec in specs.iter().filter(|spec| spec.structure == structure) {
            let (size, bits) = match has(spec) {
                Has::Expected => (spec.size, 0),
                Has::Nothing => continue,
                Has::Size(size) => (size, 0),
                Has::Bits(bits) => (spec.size, bits),
            };
            let mut id = writer.int("int", size);
            let mut segments = spec.path.split('.');
            let outer = segments.next().unwrap_or_default();
            for inner in segments.rev() {
                id = writer.structure("", size, &[(inner, id, 0)]);
            }
            offset += gap;
            members.push((outer, id, offset * 8 + u32::from(bits != 0), bits));
            offset += size;
        }
        writer.bitfields(structure, offset, &members);
    }
    writer
}

fn resolve(gap: u32, has: impl Fn(&FieldSpec) -> Has) -> Result<Layout, LayoutError> {
    let specs: Vec<_> = FIELDS.iter().chain(X86_64_REGISTERS).copied().collect();
    Layout::resolve_from(&kernel(&specs, gap, has).parse(), specs.iter())
}

#[test]
fn names_are_unique() {
    for registers in [X86_64_REGISTERS, AARCH64_REGISTERS] {
        let mut names: Vec<_> = FIELDS
            .iter()
            .chain(registers)
            .map(|spec| spec.global)
            .chain([PT_REGS_SIZE])
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

#[test]
fn follows_fields_wherever_they_move() {
    for gap in [0, 1, 24, 4_096] {
        let layout = resolve(gap, |_| Has::Expected).unwrap();
        assert_eq!(layout.absent(), []);
        assert_eq!(
            layout.globals().len(),
            FIELDS.len() + X86_64_REGISTERS.len() + 1
        );
        let gap = u64::from(gap);
        assert_eq!(layout.offset("OFF_SKC_FAMILY"), Some(gap));
        assert_eq!(layout.offset("OFF_SKC_STATE"), Some(2 * gap + 2));
        assert_eq!(layout.offset("OFF_SKC_NUM"), Some(3 * gap + 3));
        assert_eq!(layout.offset("OFF_NET_INUM"), Some(gap));
        assert_eq!(layout.offset("OFF_REGS_SYSCALL"), Some(4 * gap + 24));
        assert_eq!(layout.offset(PT_REGS_SIZE), Some(4 * gap + 32));
    }
}

#[test]
fn each_required_field_is_required() {
    for spec in FIELDS.iter().filter(|spec| spec.need == Need::Required) {
        for damage in [Has::Nothing, Has::Size(spec.size * 2), Has::Bits(3)] {
            let error = resolve(
                0,
                |other| if other == spec { damage } else { Has::Expected },
            )
            .unwrap_err();
            assert!(error.to_string().contains(spec.path), "{error}");
        }
    }
}

#[test]
fn each_optional_field_may_be_absent() {
    let optional = FIELDS
        .iter()
        .chain(X86_64_REGISTERS)
        .filter(|it| it.need == Need::Optional);
    for spec in optional {
        for damage in [Has::Nothing, Has::Size(spec.size * 2), Has::Bits(3)] {
            let layout = resolve(
                0,
                |other| if other == spec { damage } else { Has::Expected },
            )
            .unwrap();
            let [absent] = layout.absent() else {
                panic!("{:?}", layout.absent())
            };
            assert_eq!(absent.global, spec.global);
            assert_eq!(layout.offset(spec.global), None);
            assert!(layout.globals().contains(&(spec.global, ABSENT)));
        }
    }
}

/// Before 5.19 a request has no such member, and before 6.11 no program reads it.
#[test]
fn a_field_is_not_lacked_where_nothing_reads_it() {
    let specs: Vec<_> = FIELDS.iter().chain(X86_64_REGISTERS).copied().collect();
    for has_bind in [false, true] {
        let mut writer = kernel(&specs, 0, |spec| match spec.global {
            "OFF_IO_RESULT" => Has::Nothing,
            _ => Has::Expected,
        });
        if has_bind {
            let prototype = writer.prototype(&[]);
            writer.function("io_bind", prototype);
        }
        let layout = Layout::resolve(&writer.parse()).unwrap();
        assert_eq!(layout.offset("OFF_IO_RESULT"), None);
        assert!(layout.globals().contains(&("OFF_IO_RESULT", ABSENT)));
        let absent = layout.absent().iter();
        let lacked = absent.filter(|it| IO_REQUEST.contains(&it.global)).count();
        assert_eq!(lacked, usize::from(has_bind));
    }
}

#[test]
fn finds_the_registers_of_arm64() {
    // struct pt_regs as of 6.12, arch/arm64/include/asm/ptrace.h.
    let mut w = Writer::new();
    let u64_ = w.int("unsigned long long", 8);
    let s32 = w.int("int", 4);
    let regs = w.array(u64_, 31);
    let user = w.structure(
        "user_pt_regs",
        272,
        &[("regs", regs, 0), ("sp", u64_, 248 * 8)],
    );
    let own = w.structure("", 272, &[("regs", regs, 0), ("sp", u64_, 248 * 8)]);
    let both = w.union("", 272, &[("user_regs", user, 0), ("", own, 0)]);
    w.structure(
        "pt_regs",
        336,
        &[
            ("", both, 0),
            ("orig_x0", u64_, 272 * 8),
            ("syscallno", s32, 280 * 8),
        ],
    );
    let layout = Layout::resolve_from(&w.parse(), AARCH64_REGISTERS.iter()).unwrap();
    assert_eq!(layout.absent(), []);
    let offsets: Vec<_> = layout.globals().iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [272, 8, 16, 280, 336]);
}

#[test]
fn a_wrong_size_names_both() {
    let error = resolve(0, |spec| match spec.global {
        "OFF_SK_PROTOCOL" => Has::Size(1),
        _ => Has::Expected,
    });
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "sock.sk_protocol has 1 bytes where 2 were expected");
}

#[test]
fn finds_the_range_of_ports_in_both_forms() {
    for size in [4, 8, 2] {
        let mut w = Writer::new();
        let range = w.int("u32", size);
        let ports = w.structure("local_ports", size + 8, &[("range", range, 64)]);
        let ipv4 = w.structure("netns_ipv4", size + 8, &[("ip_local_ports", ports, 0)]);
        w.structure("net", size + 24, &[("ipv4", ipv4, 128)]);
        let mut layout = Layout::resolve_from(&w.parse(), [].iter()).unwrap();
        layout.absent.clear();
        layout.port_range(&w.parse());
        if size == 2 {
            assert_eq!(layout.offset(PORT_RANGE), None);
            let reason = layout.lacks(&["OFF_SK_DROPS", PORT_RANGE]).unwrap();
            assert_eq!(reason, "net.ipv4.ip_local_ports.range has 2 bytes");
        } else {
            assert_eq!(layout.offset(PORT_RANGE), Some(24));
            assert_eq!(layout.offset(PORT_RANGE_SIZE), Some(u64::from(size)));
            assert_eq!(layout.lacks(&[PORT_RANGE]), None);
        }
    }
}

/// As of 5.10, 6.12 and 6.18, and in a form that no kernel has.
#[test]
fn finds_when_a_port_in_time_wait_may_be_taken_again() {
    for (reuse_size, delay_size) in [(4, None), (1, None), (1, Some(4)), (2, Some(8))] {
        let mut w = Writer::new();
        let reuse = w.int("u8", reuse_size);
        let pointer = w.int("u64", 8);
        let row = w.structure("death_row", 16, &[("hashinfo", pointer, 64)]);
        let mut members = vec![
            ("sysctl_tcp_tw_reuse", reuse, 64),
            ("tcp_death_row", row, 192),
        ];
        let mut sock = Vec::new();
        if let Some(size) = delay_size {
            let delay = w.int("u32", size);
            members.push(("sysctl_tcp_tw_reuse_delay", delay, 128));
            sock.push(("tw_entry_stamp", delay, 256));
        }
        let ipv4 = w.structure("netns_ipv4", 40, &members);
        w.structure("net", 56, &[("ipv4", ipv4, 128)]);
        w.structure("inet_timewait_sock", 40, &sock);
        let mut layout = Layout::resolve_from(&w.parse(), [].iter()).unwrap();
        layout.absent.clear();
        layout.tw_reuse(&w.parse());
        let [delay, stamp] = TW_REUSE_DELAY.map(|(global, ..)| layout.offset(global));
        let reasons: Vec<_> = layout.absent().iter().map(|it| &*it.reason).collect();
        assert_eq!(layout.offset(HASHINFO), Some(16 + 24 + 8));
        if reuse_size == 2 {
            assert_eq!([layout.offset(TW_REUSE), delay, stamp], [None; 3]);
            let expected = [
                "net.ipv4.sysctl_tcp_tw_reuse has 2 bytes",
                "net.ipv4.sysctl_tcp_tw_reuse_delay has 8 bytes",
                "inet_timewait_sock.tw_entry_stamp has 8 bytes",
            ];
            assert_eq!(reasons, expected);
            continue;
        }
        assert_eq!(layout.offset(TW_REUSE), Some(24));
        assert_eq!([delay, stamp], [delay_size.map(|_| 32); 2]);
        // An older kernel lacks nothing.
        assert!(reasons.is_empty(), "{reasons:?}");
        for (global, ..) in TW_REUSE_DELAY {
            assert!(layout.globals().iter().any(|(name, _)| *name == global));
        }
    }
}

/// As of 6.12 and 6.18, and in a form that no kernel has.
#[test]
fn finds_where_udp_counts_its_drops() {
    for (pointer_size, counters) in [(None, false), (Some(8), true), (Some(8), false)] {
        let mut w = Writer::new();
        let number = w.int("u32", 4);
        let mut sock = vec![("sk_drops", number, 64)];
        if let Some(size) = pointer_size {
            let pointer = w.int("u64", size);
            sock.push(("sk_drop_counters", pointer, 128));
        }
        w.structure("sock", 32, &sock);
        if counters {
            let both = [("drops0", number, 0), ("drops1", number, 512)];
            w.structure("numa_drop_counters", 128, &both);
        }
        let mut layout = Layout::resolve_from(&w.parse(), [].iter()).unwrap();
        layout.absent.clear();
        layout.drop_counters(&w.parse());
        let found = DROP_COUNTERS.map(|(global, ..)| layout.offset(global));
        let lacks = layout.lacks(&DROPS);
        match (pointer_size, counters) {
            (None, _) => assert_eq!((found, lacks), ([None; 3], None)),
            (_, true) => assert_eq!((found, lacks), ([Some(16), Some(0), Some(64)], None)),
            _ => {
                assert_eq!(found, [Some(16), None, None]);
                assert!(lacks.unwrap().contains("numa_drop_counters"));
            }
        }
        for (global, ..) in DROP_COUNTERS {
            assert!(layout.globals().iter().any(|(name, _)| *name == global));
        }
    }
}

#[test]
fn a_table_of_connections_behind_a_pointer_is_not_looked_for() {
    let mut w = Writer::new();
    let pointer = w.int("u64", 8);
    let ipv4 = w.structure("netns_ipv4", 8, &[("tcp_death_row", pointer, 0)]);
    w.structure("net", 8, &[("ipv4", ipv4, 0)]);
    let mut layout = Layout::resolve_from(&w.parse(), [].iter()).unwrap();
    layout.tw_reuse(&w.parse());
    assert_eq!(layout.offset(HASHINFO), None);
    assert!(layout.lacks(&[HASHINFO]).is_some());
}

#[test]
fn copied_ranges_contain_their_fields() {
    let layout = resolve(3, |_| Has::Expected).unwrap();
    let copied = layout.copied();
    let value = |name| copied.iter().find(|it| it.0 == name).unwrap().1;
    for (globals, start, end) in [
        (&COPIED_COMMON[..], 0, "COMMON_END"),
        (&COPIED_COMMON, 0, "TIME_WAIT_END"),
        (&COPIED_TIME_WAIT, 0, "TIME_WAIT_END"),
        (&COPIED_TCP, value("TCP_START"), "TCP_END"),
    ] {
        for global in globals {
            if TW_REUSE_DELAY.iter().any(|it| it.0 == *global) {
                // Not in every kernel, so `FIELDS` does not have it.
                continue;
            }
            let field = FIELDS.iter().find(|it| it.global == *global);
            let field = field.unwrap_or_else(|| panic!("no field {global}"));
            let offset = layout.offset(global).unwrap();
            assert!(field.size <= LARGEST as u32, "{global}");
            assert!(start <= offset, "{global}");
            assert!(offset + u64::from(field.size) <= value(end), "{global}");
        }
    }
}

#[test]
fn absent_fields_are_not_copied() {
    let layout = resolve(3, |_| Has::Expected).unwrap();
    let [(_, end), ..] = layout.copied();
    let last = COPIED_COMMON
        .iter()
        .max_by_key(|global| layout.offset(global));
    let [(_, less), ..] = layout.without(last.unwrap()).copied();
    assert!(less < end, "{less} {end}");
}
