//! The ring of records, seen from its reading end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use observer_common::{Pod as _, Record};

/// The reading end of the stream.
pub struct Stream(pub(in crate::kernel) RingBuf<MapData>);

/// Records that are read in one go. Without a limit, a reader that is slower than the kernel side
/// would never come to look at anything else.
const BATCH: usize = 4096;

impl Stream {
    /// Calls `each` with the records that are there, up to a limit. Returns whether that was
    /// reached, and more may be there.
    pub fn drain(&mut self, mut each: impl FnMut(&Record)) -> bool {
        for _ in 0..BATCH {
            let Some(item) = self.0.next() else {
                return false;
            };
            if let Some(record) = Record::read_from(&item) {
                each(&record);
            }
        }
        true
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring holds the descriptor open for as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}
