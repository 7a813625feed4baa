//! Array maps in this process's memory, so that reading them takes no system call.

use std::{
    io,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};
use observer_common::Pod;

/// A `BPF_F_MMAPABLE` array whose elements are `T`, shared with the kernel programs.
pub struct MmapArray<T> {
    memory: MmapRaw,
    len: u32,
    element: std::marker::PhantomData<T>,
}

impl<T: Pod> MmapArray<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8);
        size_of::<T>() / 8
    };

    /// Maps all elements of `map`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to map it, or the size of its values is not that of `T`.
    pub fn new(map: &MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(io::Error::other(format!(
                "the map's values have {} bytes, expected {}",
                info.value_size(),
                size_of::<T>()
            )));
        }
        let len = info.max_entries();
        let memory = MmapOptions::new()
            .len(len as usize * size_of::<T>())
            .map_raw(std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd())?;
        Ok(Self {
            memory,
            len,
            element: std::marker::PhantomData,
        })
    }

    /// Number of elements.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// The words of element `index`. The kernel changes them at any time, so they are accessed only as atomics.
    fn words(&self, index: u32) -> &[AtomicU64] {
        assert!(index < self.len, "element {index} of {}", self.len);
        let start = self.memory.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping holds `len` elements of `WORDS` words, lives as long as
        // `self`, and is accessed as atomics only.
        unsafe { std::slice::from_raw_parts(start.add(index as usize * Self::WORDS), Self::WORDS) }
    }

    /// Copies the first `bytes` of element `index`, a multiple of eight, into `into`; the rest of `into` is unchanged.
    pub fn read_prefix(&self, index: u32, bytes: usize, into: &mut T) {
        assert!(bytes <= size_of::<T>());
        let target = std::ptr::from_mut(into).cast::<u64>();
        for (at, word) in self.words(index)[..bytes / 8].iter().enumerate() {
            // SAFETY: `at` is below `WORDS`, and any bit pattern is a valid `T` (Pod).
            unsafe { target.add(at).write(word.load(Ordering::Relaxed)) };
        }
    }

    /// Copies element `index`.
    pub fn read(&self, index: u32, into: &mut T) {
        self.read_prefix(index, size_of::<T>(), into);
    }

    /// One word of element `index`, by byte offset.
    pub fn word(&self, index: u32, offset: usize) -> &AtomicU64 {
        &self.words(index)[offset / 8]
    }

    /// Sets all words of element `index` to zero.
    pub fn clear(&self, index: u32) {
        for word in self.words(index) {
            word.store(0, Ordering::Relaxed);
        }
    }
}
