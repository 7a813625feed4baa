//! The reading end of the ring of records.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use observer_common::{Pod as _, Record};

use super::take;

const MAP: &str = "RECORDS";

/// The reading end of the stream.
pub struct Stream(RingBuf<MapData>);

/// Maximum number of records per call. Without a limit, a reader that is slower than the kernel programs would never return.
const BATCH: usize = 4096;

impl Stream {
    /// Takes the ring out of `ebpf`.
    pub(in crate::kernel) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let ring = RingBuf::try_from(take(ebpf, MAP)?);
        ring.map(Self)
            .with_context(|| format!("cannot use the map {MAP}"))
    }

    /// Calls `each` with the available records, up to a limit. Returns whether the limit was reached, so that there may be
    /// more.
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
