//! Runs the bodies of the fuzz targets on their seeds, so that a body that no longer
//! builds, or a seed that once crashed a parser, is noticed without nightly and libFuzzer.

use std::{fs, path::Path};

#[path = "../fuzz/src/lib.rs"]
mod targets;

#[test]
fn every_seed_passes_its_target() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, body) in targets::TARGETS {
        let mut count = 0;
        for entry in fs::read_dir(seeds.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            // A failure does not say which seed; captured output is shown with it.
            println!("{}", path.display());
            body(&bytes);
            for length in 0..bytes.len().min(2048) {
                body(&bytes[..length]);
            }
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}

#[test]
fn every_target_is_a_binary() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    let declared = manifest.matches("[[bin]]").count();
    assert_eq!(declared, targets::TARGETS.len());
    for (name, _) in targets::TARGETS {
        assert!(
            manifest.contains(&format!("fuzz_targets/{name}.rs")),
            "{name}"
        );
    }
}
