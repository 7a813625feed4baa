//! Map operations that lose data when they fail.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapError;
use tracing::warn;

/// Number of failures since the start.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Counts and logs a failed operation on `map`. `lost` describes the lost data.
pub fn note(result: Result<(), MapError>, map: &'static str, lost: &'static str) {
    if let Err(error) = result {
        let failed = FAILED.fetch_add(1, Ordering::Relaxed) + 1;
        warn!(map, %error, failed, "map operation failed: {lost}");
    }
}

/// The result of removing an entry; a missing entry counts as removed.
pub fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::sys::SyscallError;

    use super::*;

    fn failed(errno: i32) -> Result<(), MapError> {
        Err(MapError::SyscallError(SyscallError {
            call: "bpf_map_delete_elem",
            io_error: io::Error::from_raw_os_error(errno),
        }))
    }

    #[test]
    fn an_entry_that_is_not_there_is_removed() {
        assert!(removed(failed(libc::ENOENT)).is_ok());
        assert!(removed(failed(libc::EBUSY)).is_err());
    }
}
