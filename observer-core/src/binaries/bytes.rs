//! The bytes of a file, of which only those that matter are read.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    fs::File,
    os::unix::fs::FileExt as _,
};

use memchr::memmem;
use object::{ReadCache, ReadRef};

/// Reads of single numbers and instructions are of blocks of this size.
const BLOCK: u64 = 4096;
/// How much of a file is searched at once.
const WINDOW: usize = 1 << 20;

/// A file.
pub trait Bytes {
    /// Its length.
    fn length(&self) -> u64;
    /// A part of it; `None` if it is not in the file, or cannot be read.
    fn range(&self, offset: u64, length: u64) -> Option<&[u8]>;
    /// Where `needle`, which is shorter than a window, occurs first, and up to `more` bytes from its end on.
    fn find(&self, needle: &[u8], more: usize) -> Option<Vec<u8>>;
}

/// In memory.
impl<T: AsRef<[u8]>> Bytes for T {
    fn length(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn range(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let rest = self.as_ref().get(usize::try_from(offset).ok()?..)?;
        rest.get(..usize::try_from(length).ok()?)
    }

    fn find(&self, needle: &[u8], more: usize) -> Option<Vec<u8>> {
        let whole = self.as_ref();
        let rest = &whole[memmem::find(whole, needle)? + needle.len()..];
        Some(rest[..rest.len().min(more)].to_vec())
    }
}

/// A file on disk. What was read of it is kept until this is dropped.
pub struct OnDisk<'a> {
    file: &'a File,
    length: u64,
    cache: ReadCache<&'a File>,
    known: RefCell<HashSet<(u64, u64)>>,
    /// How many bytes may still be read.
    left: Cell<u64>,
}

impl<'a> OnDisk<'a> {
    /// A file of `length` bytes, of which at most `limit` are kept in memory.
    #[must_use]
    pub fn new(file: &'a File, length: u64, limit: u64) -> Self {
        Self {
            file,
            length,
            cache: ReadCache::new(file),
            known: RefCell::default(),
            left: Cell::new(limit),
        }
    }

    /// Whether something was not read because of the limit.
    #[must_use]
    pub fn is_beyond_limit(&self) -> bool {
        self.left.get() == 0
    }
}

impl Bytes for OnDisk<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn range(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let end = offset.checked_add(length)?;
        if end > self.length {
            return None;
        }
        let first = offset - offset % BLOCK;
        let (first, last) = match end - first <= BLOCK {
            true => (first, self.length.min(first + BLOCK)),
            false => (offset, end),
        };
        if self.known.borrow_mut().insert((first, last)) {
            let Some(left) = self.left.get().checked_sub(last - first) else {
                self.left.set(0);
                return None;
            };
            self.left.set(left);
        } else if self.is_beyond_limit() {
            return None;
        }
        let read = (&self.cache).read_bytes_at(first, last - first).ok()?;
        let from = usize::try_from(offset - first).ok()?;
        read.get(from..)?.get(..usize::try_from(length).ok()?)
    }

    fn find(&self, needle: &[u8], more: usize) -> Option<Vec<u8>> {
        let mut window = vec![0; WINDOW];
        let mut start = 0;
        while start < self.length {
            let length = usize::try_from(self.length - start).map_or(WINDOW, |it| it.min(WINDOW));
            let bytes = window.get_mut(..length)?;
            self.file.read_exact_at(bytes, start).ok()?;
            if let Some(at) = memmem::find(bytes, needle) {
                let from = start + (at + needle.len()) as u64;
                let more = usize::try_from(self.length - from).map_or(more, |it| it.min(more));
                let mut found = vec![0; more];
                self.file.read_exact_at(&mut found, from).ok()?;
                return Some(found);
            }
            if length < WINDOW {
                break;
            }
            // It may begin at the end of this one.
            start += (WINDOW - needle.len()) as u64;
        }
        None
    }
}

/// As the crate `object` reads it.
#[derive(Clone, Copy)]
pub struct Reference<'a>(pub &'a dyn Bytes);

impl<'a> ReadRef<'a> for Reference<'a> {
    fn len(self) -> Result<u64, ()> {
        Ok(self.0.length())
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.0.range(offset, size).ok_or(())
    }

    /// Only used for notes and the like.
    fn read_bytes_at_until(self, _: std::ops::Range<u64>, _: u8) -> Result<&'a [u8], ()> {
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_on_disk_has_the_bytes_that_it_has_in_memory() {
        let mut all: Vec<u8> = (0..3_000_000_u32).map(|it| (it / 7) as u8).collect();
        let needle = b"a needle in it";
        // Across the end of a window.
        all[WINDOW - 5..][..needle.len()].copy_from_slice(needle);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&all).unwrap();
        let length = all.len() as u64;
        let on_disk = OnDisk::new(&file, length, 4 << 20);
        for (offset, size) in [
            (0, 64),
            (4_090, 20),
            (4_096, 4_096),
            (5_000, 1_000_000),
            (length - 8, 8),
            (length - 8, 9),
            (length, 0),
            (u64::MAX, 8),
        ] {
            assert_eq!(
                on_disk.range(offset, size),
                all.range(offset, size),
                "{offset} {size}"
            );
        }
        for more in [0, 10, 4_000_000] {
            assert_eq!(on_disk.find(needle, more), all.find(needle, more));
        }
        assert_eq!(on_disk.find(b"not in it", 1), None);
        assert!(!on_disk.is_beyond_limit());
    }

    #[test]
    fn what_is_read_is_bounded() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        let on_disk = OnDisk::new(&file, 1 << 30, 1 << 20);
        // The same bytes again cost nothing.
        for _ in 0..1_000 {
            assert!(on_disk.range(0, 512 << 10).is_some());
        }
        assert!(on_disk.range(1 << 29, 768 << 10).is_none() && on_disk.is_beyond_limit());
        assert!(on_disk.range(0, 8).is_none());
    }
}
