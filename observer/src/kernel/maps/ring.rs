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

/// Records that are read in one go. Without a limit, a reader that is slower than the kernel side
/// would never return.
const BATCH: usize = 4096;

impl Stream {
    /// Takes the ring out of `ebpf`.
    pub(in crate::kernel) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let ring = RingBuf::try_from(take(ebpf, MAP)?);
        ring.map(Self)
            .with_context(|| format!("cannot use the map {MAP}"))
    }

    /// Calls `each` with the records that are there, up to a limit. Returns whether the limit was
    /// reached, so that more may be there.
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
