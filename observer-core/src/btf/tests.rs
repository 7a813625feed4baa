use proptest::prelude::*;

use super::{fixture::*, *};

/// Something of everything, laid out like the structures of a kernel.
fn sample() -> Writer {
    let mut w = Writer::new();
    let u8_ = w.int("unsigned char", 1);
    let u16_ = w.int("unsigned short", 2);
    let u32_ = w.int("unsigned int", 4);
    let be32 = w.typedef("__be32", u32_);
    let net = w.forward("net");
    let net_pointer = w.pointer(net);
    let possible_net = w.structure("", 8, &[("net", net_pointer, 0)]);
    let possible_net_t = w.typedef("possible_net_t", possible_net);
    let addresses = w.structure(
        "",
        8,
        &[("skc_daddr", be32, 0), ("skc_rcv_saddr", be32, 32)],
    );
    let pair = w.union("", 8, &[("skc_addrpair", u32_, 0), ("", addresses, 0)]);
    let state = w.volatile(u8_);
    let common = w.structure(
        "sock_common",
        24,
        &[
            ("", pair, 0),
            ("skc_family", u16_, 64),
            ("skc_state", state, 80),
            ("skc_net", possible_net_t, 128),
        ],
    );
    let char_ = w.int("char", 1);
    let comm = w.array(char_, 16);
    let row = w.array(u32_, 3);
    let table = w.array(row, 4);
    let sock = w.bitfields(
        "sock",
        120,
        &[
            ("__sk_common", common, 0, 0),
            ("sk_padding", u32_, 192, 1),
            ("sk_userlocks", u32_, 195, 4),
            ("sk_protocol", u32_, 200, 8),
            ("sk_comm", comm, 256, 0),
            ("sk_table", table, 384, 0),
        ],
    );
    let constant = w.constant(sock);
    let sock_pointer = w.pointer(constant);
    let tagged = w.type_tag("user", char_);
    let user_pointer = w.pointer(tagged);
    let pointers = w.pointer(user_pointer);
    let reason = w.enumeration("sk_rst_reason", &[("A", 0), ("B", 7)], false);
    w.enumeration("signed", &[("MINUS", -1)], true);
    w.enumeration64("wide", &[("TOP", 1 << 40)]);
    w.tracepoint(
        "tcp_send_reset",
        &[("sk", sock_pointer), ("reason", reason)],
    );
    let empty = w.prototype(&[]);
    let callback = w.pointer(empty);
    let proto = w.prototype(&[
        ("sk", sock_pointer),
        ("p", pointers),
        ("n", be32),
        ("f", callback),
        ("", 0),
    ]);
    w.function("tcp_close", proto);
    w.function("twice", proto);
    w.function("twice", empty);
    w
}

fn field(offset: u32, size: u32) -> Result<Field, LayoutError> {
    Ok(Field { offset, size })
}

#[test]
fn finds_members_through_anonymous_and_embedded_structures() {
    let btf = sample().parse();
    assert_eq!(btf.member("sock_common", "skc_rcv_saddr"), field(4, 4));
    assert_eq!(btf.member("sock_common", "skc_state"), field(10, 1));
    assert_eq!(btf.member("sock_common", "skc_net.net"), field(16, 8));
    assert_eq!(btf.member("sock", "__sk_common.skc_net.net"), field(16, 8));
    assert_eq!(btf.member("sock", "__sk_common"), field(0, 24));
    assert_eq!(btf.size("sock"), Some(120));
}

#[test]
fn sizes_and_indexes_arrays() {
    let btf = sample().parse();
    assert_eq!(btf.member("sock", "sk_comm"), field(32, 16));
    assert_eq!(btf.member("sock", "sk_comm[3]"), field(35, 1));
    assert_eq!(btf.member("sock", "sk_table"), field(48, 48));
    assert_eq!(btf.member("sock", "sk_table[2]"), field(72, 12));
    for path in [
        "sk_comm[16]",
        "sk_comm[x]",
        "sk_comm[",
        "__sk_common[0]",
        "",
    ] {
        let error = btf.member("sock", path).unwrap_err();
        assert!(
            matches!(error, LayoutError::NoMember { .. }),
            "{path}: {error}"
        );
    }
}

#[test]
fn tells_bitfields_from_whole_bytes() {
    let btf = sample().parse();
    // A bitfield that fills a byte can be read like any other field.
    assert_eq!(btf.member("sock", "sk_protocol"), field(25, 1));
    let place = Bits {
        byte_offset: 24,
        bit_offset: 3,
        bits: 4,
    };
    assert_eq!(btf.bitfield("sock", "sk_userlocks"), Ok(place));
    let error = btf.member("sock", "sk_userlocks").unwrap_err();
    assert_eq!(
        error.to_string(),
        "sock.sk_userlocks is a bitfield of 4 bits"
    );
    let error = btf.member("sock", "sk_padding").unwrap_err();
    assert!(matches!(error, LayoutError::Bitfield { .. }));
}

#[test]
fn says_what_is_missing() {
    let btf = sample().parse();
    let error = btf.member("mptcp_sock", "first").unwrap_err();
    assert_eq!(error.to_string(), "the kernel has no struct mptcp_sock");
    let error = btf.member("sock", "sk_gone").unwrap_err();
    assert_eq!(error.to_string(), "struct sock has no member sk_gone");
    // A declaration without a body.
    let error = btf.member("net", "ns.inum").unwrap_err();
    assert_eq!(error.to_string(), "the kernel has no struct net");
}

#[test]
fn accepts_copies_and_rejects_contradictions() {
    let mut w = Writer::new();
    let int = w.int("int", 4);
    w.structure("one", 8, &[("a", int, 0), ("b", int, 32)]);
    w.structure("one", 8, &[("a", int, 0), ("b", int, 0)]);
    let btf = w.parse();
    assert_eq!(btf.member("one", "a"), field(0, 4));
    assert!(matches!(
        btf.member("one", "b"),
        Err(LayoutError::Ambiguous { .. })
    ));
}

#[test]
fn reads_enums() {
    let btf = sample().parse();
    let reasons = vec![("A".to_owned(), 0), ("B".to_owned(), 7)];
    assert_eq!(btf.enumerators("sk_rst_reason"), Some(reasons));
    assert_eq!(
        btf.enumerators("signed"),
        Some(vec![("MINUS".to_owned(), u64::MAX)])
    );
    assert_eq!(
        btf.enumerators("wide"),
        Some(vec![("TOP".to_owned(), 1 << 40)])
    );
    assert_eq!(btf.enumerators("sock"), None);
    assert_eq!(btf.enumerators(""), None);
}

#[test]
fn renders_signatures() {
    let btf = sample().parse();
    let args = btf.tracepoint_args("tcp_send_reset").unwrap();
    assert_eq!(args, ["struct sock *", "enum sk_rst_reason"]);
    assert_eq!(btf.tracepoint_args("tcp_close"), None);
    let args = btf.func_args("tcp_close").unwrap();
    assert_eq!(
        args,
        ["struct sock *", "char **", "__be32", "function *", "..."]
    );
    assert_eq!(btf.func_args("twice"), None);
    assert!(btf.has_func("twice"));
    assert!(!btf.has_func("sock"));
    assert!(!btf.has_func(""));
}

#[test]
fn circles_end_in_an_error() {
    let mut w = Writer::new();
    let typedef = w.typedef("round", w.next());
    w.structure("a", 8, &[("b", typedef, 0)]);
    // An anonymous member that is the structure itself, twice: 2^depth paths.
    let own = w.next();
    w.structure("self", 8, &[("", own, 0), ("", own, 0)]);
    let own = w.next();
    let array = w.array(own, u32::MAX);
    w.structure("c", 8, &[("array", array, 0), ("dangling", 999, 0)]);
    w.function("round_function", typedef);
    // A pointer to itself.
    let pointer = w.pointer(w.next());
    let proto = w.prototype(&[("p", pointer)]);
    w.function("f", proto);
    let btf = w.parse();
    for (structure, path) in [
        ("a", "b"),
        ("self", "x"),
        ("c", "array"),
        ("c", "dangling"),
        ("a", "b.c"),
    ] {
        let error = btf.member(structure, path).unwrap_err();
        assert!(
            matches!(error, LayoutError::Inconsistent { .. }),
            "{structure}.{path}: {error}"
        );
    }
    assert_eq!(btf.func_args("round_function"), None);
    assert_eq!(btf.func_args("f"), None);
}

#[test]
fn unreadable_files_are_named() {
    let error = KernelBtf::from_file("/nonexistent/vmlinux").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read BTF from /nonexistent/vmlinux"
    );
    assert!(matches!(error, BtfError::Unreadable { .. }));
    assert!(matches!(
        KernelBtf::from_bytes(b"no BTF"),
        Err(BtfError::Malformed(_))
    ));
}

#[test]
fn longer_headers_are_accepted_and_unknown_kinds_are_named() {
    let mut longer = sample().bytes();
    longer[4] = 32;
    longer.splice(24..24, [0; 8]);
    let btf = KernelBtf::from_bytes(longer).unwrap();
    assert_eq!(btf.size("sock"), Some(120));

    let mut unknown = Writer::new();
    unknown.int("int", 4);
    let mut unknown = unknown.bytes();
    unknown[24 + 7] = 31;
    let error = KernelBtf::from_bytes(unknown).unwrap_err();
    assert!(
        matches!(error, BtfError::Malformed(Malformed::Type(1))),
        "{error}"
    );
}

/// Calls all functions, which must not panic for any BTF.
fn exercise(bytes: &[u8]) {
    let Ok(btf) = KernelBtf::from_bytes(bytes) else {
        return;
    };
    for (structure, path) in [
        ("sock", "__sk_common.skc_net.net"),
        ("sock", "sk_table[2]"),
        ("sock", "sk_userlocks"),
        ("sock_common", "skc_rcv_saddr"),
        ("sock_common", "absent"),
    ] {
        let _ = btf.member(structure, path);
        let _ = btf.bitfield(structure, path);
        let _ = btf.size(structure);
    }
    for name in [
        "sk_rst_reason",
        "signed",
        "wide",
        "tcp_send_reset",
        "tcp_close",
        "twice",
    ] {
        let _ = btf.enumerators(name);
        let _ = btf.tracepoint_args(name);
        let _ = btf.func_args(name);
        let _ = btf.has_func(name);
    }
}

#[test]
fn truncation_never_panics() {
    let bytes = sample().bytes();
    for length in 0..bytes.len() {
        exercise(&bytes[..length]);
    }
}

#[test]
fn single_damaged_words_never_panic() {
    let bytes = sample().bytes();
    for at in (0..bytes.len() - 4).step_by(2) {
        for value in [
            0_u32,
            1,
            2,
            24,
            0xffff,
            0x0400_0001,
            0x8400_0002,
            0x7fff_ffff,
            u32::MAX,
        ] {
            let mut damaged = bytes.clone();
            damaged[at..at + 4].copy_from_slice(&value.to_le_bytes());
            exercise(&damaged);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..12)) {
        let mut bytes = sample().bytes();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        exercise(&bytes);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        bytes.extend(noise);
        exercise(&bytes);
    }
}
