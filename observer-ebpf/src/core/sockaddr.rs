//! The `struct sockaddr` that programs pass to connect() and bind().

use observer_common::{AF_INET, AF_INET6};

use crate::core::read::Memory;

/// `sizeof(struct sockaddr_in)`.
const LENGTH_V4: u32 = 16;
/// `SIN6_LEN_RFC2133`: what the kernel requires of a `struct sockaddr_in6`.
const LENGTH_V6: u32 = 24;

/// An address of IPv4 or IPv6.
#[derive(Clone, Copy, Default)]
pub struct SockAddr {
    pub family: u16,
    /// Host order.
    pub port: u16,
    /// The first four bytes for IPv4.
    pub address: [u8; 16],
}

impl SockAddr {
    /// The address in `length` bytes at `from`; `None` if it is of another family or too short.
    #[inline(always)]
    pub fn read<M: Memory>(from: *const u8, length: u32) -> Option<Self> {
        // SAFETY: the caller's address, in memory that `M` reads; every bit pattern is valid.
        unsafe {
            let family = M::read::<u16>(from, 0);
            let address = match family {
                AF_INET if length >= LENGTH_V4 => {
                    let mut address = [0; 16];
                    address[..4].copy_from_slice(&M::read::<[u8; 4]>(from, 4));
                    address
                }
                AF_INET6 if length >= LENGTH_V6 => M::read(from, 8),
                _ => return None,
            };
            Some(Self {
                family,
                port: u16::from_be(M::read(from, 2)),
                address,
            })
        }
    }
}
