//! Gets the programs of [`packaged`] before the tests, which would get them one after the other.

use std::path::Path;

use crate::{packaged, quic};

/// Gets all of them, for the tests below a target folder. One that cannot be had is reported by its test.
pub fn get_programs(target: &Path) {
    let quic = quic::VERSIONS.map(|version| ("quic", "build.sh", version));
    for program in quic.into_iter().chain([packaged::CADDY]) {
        packaged::run(target, program);
    }
}
