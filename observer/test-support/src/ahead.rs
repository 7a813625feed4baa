//! Gets the programs of [`packaged`] before the tests, which would get them one after the other.

use std::path::{Path, PathBuf};

use crate::{packaged, quic};

/// Gets all of them, for the tests below a target folder. One that cannot be had is reported by its test.
pub fn get_programs(target: &Path) {
    let quic = quic::VERSIONS.map(|version| ("quic", "build.sh", version));
    let others = [packaged::GO_LISTENER, packaged::CADDY];
    for program in others.into_iter().chain(quic) {
        packaged::run(target, program);
    }
}

/// Modules of tests that run in guests, which cannot get programs themselves, and what they need.
const OF_GUESTS: [(&str, packaged::Wanted); 1] = [("failed_options", packaged::GO_LISTENER)];

/// The programs for modules that run in guests, each with the name that it has there beside the tests. One that cannot be
/// had is reported by its test.
pub fn for_guests(target: &Path, runs: impl Fn(&str) -> bool) -> Vec<(String, PathBuf)> {
    let wanted = OF_GUESTS.into_iter().filter(|(module, _)| runs(module));
    let program = |(_, wanted): (_, packaged::Wanted)| {
        let (folder, _, version) = wanted;
        let file = packaged::path_of(packaged::run(target, wanted)?).ok()?;
        Some((packaged::packed_name(folder, version), file))
    };
    wanted.filter_map(program).collect()
}
