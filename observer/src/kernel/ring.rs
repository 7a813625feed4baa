//! The ring of records, seen from its reading end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use observer_common::{Pod as _, Record};

/// The reading end of the stream.
pub struct Stream(pub(super) RingBuf<MapData>);

impl Stream {
    /// Calls `each` with every record that is there.
    pub fn drain(&mut self, mut each: impl FnMut(&Record)) {
        while let Some(item) = self.0.next() {
            if let Some(record) = Record::read_from(&item) {
                each(&record);
            }
        }
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
