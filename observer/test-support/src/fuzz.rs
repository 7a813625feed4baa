//! Runs the bodies of fuzz targets on their seeds, without libFuzzer.

use std::{fs, path::Path};

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Runs each body on the seeds of its target below `seeds`, and on their beginnings.
///
/// # Panics
///
/// When a body does, or a target has no seeds.
pub fn run_seeds(seeds: &Path, targets: &[Target]) {
    for (name, body) in targets {
        let mut count = 0;
        for entry in fs::read_dir(seeds.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            // A failure does not name the seed; the captured output does.
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

/// Asserts that the fuzz crate's `manifest` declares a binary for each target, and no other.
pub fn assert_binaries(manifest: &str, targets: &[Target]) {
    let declared = manifest.matches("[[bin]]").count();
    assert_eq!(declared, targets.len());
    for (name, _) in targets {
        assert!(
            manifest.contains(&format!("fuzz_targets/{name}.rs")),
            "{name}"
        );
    }
}
