//! Types that are read from maps and the ring buffer as plain bytes.

/// Types whose every bit pattern is valid and that have no padding, so that they can
/// be read from a map or a ring buffer as plain bytes.
///
/// # Safety
///
/// The implementor is `repr(C)`, consists of integers and arrays of integers only, and
/// has no padding bytes.
pub unsafe trait Pod: Copy + 'static {
    /// Reads a value from the start of `bytes`; `None` if there are too few. More bytes are accepted,
    /// because newer programs may append fields.
    fn read_from(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and every bit pattern
        // is a valid value by the contract of this trait.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

/// Asserts the size, and that it is the sum of the fields' sizes, so that there is no padding.
macro_rules! assert_layout {
    ($type:ident, $size:expr, [$($field:ident : $field_type:ty),+ $(,)?]) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(0 $(+ size_of::<$field_type>())+ == $size);
            // Naming each field here breaks the build when one is added or renamed.
            #[expect(dead_code, reason = "compiled for its type check only")]
            fn fields(value: $type) {
                let $type { $($field: _),+ } = value;
            }
        };
        // SAFETY: integers only, and the assertions above rule out padding.
        unsafe impl $crate::Pod for $type {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use assert_layout;
