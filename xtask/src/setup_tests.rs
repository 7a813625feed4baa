use super::*;
use crate::toolchain::RustcVersion;

fn compiler(origin: Origin, llvm: u32) -> Compiler {
    Compiler {
        origin,
        rustc: "/bin/rustc".into(),
        cargo: "/bin/cargo".into(),
        version: RustcVersion {
            release: "1.96.0".to_owned(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
            llvm,
        },
    }
}

fn facts(compilers: &[Compiler]) -> Facts {
    let find = |origin| {
        let found = compilers.iter().find(|compiler| compiler.origin == origin);
        found.cloned().ok_or_else(|| "absent".to_owned())
    };
    Facts {
        nightly: find(Origin::Nightly),
        system: find(Origin::System),
        linker: Err("absent".to_owned()),
    }
}

/// An apt that has these packages, `name=version`.
fn apt(packages: &[&'static str]) -> impl Fn(&str) -> Option<String> {
    let packages: Vec<_> = packages
        .iter()
        .filter_map(|package| package.split_once('='))
        .collect();
    move |name| {
        let found = packages.iter().find(|(package, _)| *package == name);
        found.map(|(_, version)| (*version).to_owned())
    }
}

#[test]
fn debian_brings_its_own_compiler() {
    let apt = apt(&["rustc-web=1.96.0+dfsg1-1~deb12u2", "llvm-22-dev=1:22.1.8"]);
    assert_eq!(
        route(&facts(&[]), true, Some(&apt)).unwrap(),
        Route::DebianCompiler
    );
}

#[test]
fn an_old_packaged_compiler_gives_way_to_nightly() {
    let apt = apt(&["rustc-web=1.85.0+dfsg3-1~deb12u3"]);
    assert_eq!(
        route(&facts(&[]), true, Some(&apt)).unwrap(),
        Route::Nightly
    );
}

#[test]
fn a_compiler_that_apt_has_an_llvm_for_only_lacks_the_linker() {
    let apt = apt(&["rustc-web=1.96.0", "llvm-22-dev=1:22.1.8"]);
    let system = facts(&[compiler(Origin::System, 22)]);
    assert_eq!(
        route(&system, true, Some(&apt)).unwrap(),
        Route::Linker(Origin::System)
    );
    let both = facts(&[compiler(Origin::Nightly, 22), compiler(Origin::System, 22)]);
    assert_eq!(
        route(&both, true, Some(&apt)).unwrap(),
        Route::Linker(Origin::Nightly)
    );
}

#[test]
fn a_nightly_ahead_of_apts_llvm_gives_way_to_the_packages() {
    let apt = apt(&["rustc-web=1.96.0", "llvm-22-dev=1:22.1.8"]);
    let nightly = compiler(Origin::Nightly, 23);
    let facts_nightly = facts(std::slice::from_ref(&nightly));
    assert_eq!(
        route(&facts_nightly, true, Some(&apt)).unwrap(),
        Route::DebianCompiler
    );
    let both = facts(&[nightly, compiler(Origin::System, 22)]);
    assert_eq!(
        route(&both, true, Some(&apt)).unwrap(),
        Route::Linker(Origin::System)
    );
}

#[test]
fn without_apt_rustup_serves() {
    assert_eq!(route(&facts(&[]), true, None).unwrap(), Route::Nightly);
    let nightly = facts(&[compiler(Origin::Nightly, 23)]);
    assert_eq!(
        route(&nightly, true, None).unwrap(),
        Route::Linker(Origin::Nightly)
    );
}

#[test]
fn with_neither_the_error_says_what_to_do() {
    let error = route(&facts(&[]), false, None).unwrap_err().to_string();
    assert!(error.contains("https://rustup.rs"), "{error}");
    let error = route(&facts(&[]), false, Some(&apt(&[])))
        .unwrap_err()
        .to_string();
    assert!(error.contains("https://rustup.rs"), "{error}");
}
