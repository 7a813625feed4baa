//! Runs the bodies of the fuzz targets on their seeds, so that a body that no longer
//! builds, or a seed that once crashed a parser, is noticed without nightly and libFuzzer.

use std::path::Path;

use observer_test_support::fuzz;

#[path = "../fuzz/src/lib.rs"]
mod targets;

#[test]
fn every_seed_passes_its_target() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    fuzz::run_seeds(&seeds, &targets::TARGETS);
}

#[test]
fn every_target_is_a_binary() {
    fuzz::assert_binaries(include_str!("../fuzz/Cargo.toml"), &targets::TARGETS);
}
