//! Flags of connection attempts whose sockets have no entry, because the map of connections is full.
//!
//! The map is an LRU map, because the end of an attempt can be missed. It is not that of
//! [`crate::core::call_args`], where many attempts would evict calls.

use crate::core::maps::ATTEMPTS;

/// Saves `CONN_` flags of an attempt of `sk`, which has no entry.
#[inline(always)]
pub fn save(sk: *const u8, flags: u16) {
    let _ = ATTEMPTS.insert(sk as u64, u32::from(flags), 0);
}

/// Removes and returns the flags of the last attempt of `sk`.
#[inline(always)]
pub fn take(sk: *const u8) -> Option<u16> {
    let flags = ATTEMPTS.get_ptr(sk as u64)?;
    // SAFETY: points into the map.
    let flags = unsafe { *flags };
    let _ = ATTEMPTS.remove(sk as u64);
    Some(flags as u16)
}
