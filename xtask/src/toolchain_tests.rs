use super::*;

const RUSTC: &str = "\
rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)
binary: rustc
commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96
commit-date: 2026-05-25
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";

fn compiler(origin: Origin, llvm: u32) -> Result<Compiler, String> {
    Ok(Compiler {
        origin,
        rustc: "/bin/rustc".into(),
        cargo: "/bin/cargo".into(),
        version: RustcVersion {
            release: "1.96.0".to_owned(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
            llvm,
        },
    })
}

fn linker(llvm: Option<u32>) -> Result<Linker, String> {
    Ok(Linker {
        path: "/bin/bpf-linker".into(),
        version: "bpf-linker 0.13.0".to_owned(),
        llvm,
    })
}

fn absent<T>(what: &str) -> Result<T, String> {
    Err(format!("no {what}"))
}

fn chosen(facts: &Facts) -> Result<Origin, Vec<String>> {
    facts
        .choose()
        .map(|toolchain| toolchain.compiler.origin)
        .map_err(|missing| missing.0)
}

#[test]
fn rustc_version_is_parsed() {
    let version = parse_rustc(RUSTC).unwrap();
    assert_eq!(version.release, "1.96.0");
    assert_eq!(version.host, "x86_64-unknown-linux-gnu");
    assert_eq!(version.llvm, 22);
}

#[test]
fn rustc_without_llvm_is_refused() {
    assert_eq!(parse_rustc("release: 1.96.0\nhost: x\n"), None);
    assert_eq!(parse_rustc(""), None);
}

#[test]
fn releases_compare_by_number() {
    assert!(older("1.85.0", "1.95"));
    assert!(older("1.9.0", "1.95"));
    assert!(!older("1.95.0", "1.95"));
    assert!(!older("1.100.0-nightly", "1.95"));
    assert!(!older("2.0.0", "1.95"));
    assert!(older("unknown", "1.95"));
}

#[test]
fn llvm_is_read_from_every_library_name() {
    for (line, llvm) in [
        (
            "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)",
            Some(22),
        ),
        ("\tlibLLVM-17.so => not found", Some(17)),
        (
            "\tlibLLVM-18.so.1 => /usr/lib/x86_64-linux-gnu/libLLVM-18.so.1 (0x7f)",
            Some(18),
        ),
        ("\tlibLLVM.so => not found 9", None),
        (
            "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)",
            None,
        ),
        ("\tstatically linked", None),
    ] {
        assert_eq!(parse_ldd(line), llvm, "{line}");
    }
}

#[test]
fn nightly_comes_first() {
    let facts = Facts {
        nightly: compiler(Origin::Nightly, 22),
        system: compiler(Origin::System, 22),
        linker: linker(Some(22)),
    };
    assert_eq!(chosen(&facts), Ok(Origin::Nightly));
}

#[test]
fn a_linker_too_old_for_nightly_may_fit_the_system() {
    let facts = Facts {
        nightly: compiler(Origin::Nightly, 23),
        system: compiler(Origin::System, 22),
        linker: linker(Some(22)),
    };
    assert_eq!(chosen(&facts), Ok(Origin::System));
}

#[test]
fn a_newer_or_unknown_linker_fits() {
    for llvm in [Some(23), None] {
        let facts = Facts {
            nightly: absent("nightly"),
            system: compiler(Origin::System, 22),
            linker: linker(llvm),
        };
        assert_eq!(chosen(&facts), Ok(Origin::System));
    }
}

#[test]
fn each_missing_part_is_named() {
    let facts = Facts {
        nightly: absent("nightly"),
        system: compiler(Origin::System, 22),
        linker: absent("linker"),
    };
    assert_eq!(
        chosen(&facts),
        Err(vec!["no nightly".to_owned(), "no linker".to_owned()])
    );
    let facts = Facts {
        linker: linker(Some(21)),
        ..facts
    };
    let problems = chosen(&facts).unwrap_err();
    assert!(problems[1].contains("LLVM 21, too old"), "{problems:?}");
}

#[test]
fn the_outer_build_does_not_leak_into_the_inner_one() {
    for name in [
        "CARGO",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_PROFILE_RELEASE_LTO",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "LD_LIBRARY_PATH",
    ] {
        assert!(misleads(name), "{name}");
    }
    for name in [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_OFFLINE",
        "RUSTUP_HOME",
        "PATH",
    ] {
        assert!(!misleads(name), "{name}");
    }
}
