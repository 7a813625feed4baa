//! Counters by errno.

/// Size of a table by errno. The highest errno that programs see is `EHWPOISON`, 133.
pub const ERRNOS: usize = 136;

/// Builds a table of indices by errno: from `first` on for the listed ones, `other` for the rest.
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

/// The index of an errno in `indices`, or `other` if the errno is out of range.
pub fn index_in(indices: &[u8; ERRNOS], errno: u32, other: usize) -> usize {
    let index = indices.get(errno as usize);
    index.map_or(other, |&index| index.into())
}
