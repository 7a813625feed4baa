//! Counters by errno.

/// Above every errno that programs know (the highest is `EHWPOISON`, 133).
pub const ERRNOS: usize = 136;

/// The index of each errno: from `first` on for those that are listed, else `other`.
pub const fn errno_indices<const N: usize>(
    errnos: &[u8; N],
    first: usize,
    other: usize,
) -> [u8; ERRNOS] {
    let mut indices = [other as u8; ERRNOS];
    let mut i = 0;
    while i < N {
        indices[errnos[i] as usize] = (first + i) as u8;
        i += 1;
    }
    indices
}

/// The index that `indices` has for an errno, or `other` for a number that it does not reach.
pub fn index_in(indices: &[u8; ERRNOS], errno: u32, other: usize) -> usize {
    let index = indices.get(errno as usize);
    index.map_or(other, |&index| index.into())
}
