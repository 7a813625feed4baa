//! The kernel's jiffies, the unit of times in sockets.

use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::core::clock::now;

/// Values of CONFIG_HZ that kernel/Kconfig.hz offers.
const RATES: [u64; 4] = [100, 250, 300, 1000];

/// The least of them.
pub const LEAST_RATE: u32 = 100;

/// Now, in jiffies.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_jiffies64() }
}

/// Jiffies since `stamp` (`tcp_jiffies32`).
#[inline(always)]
pub fn since(jiffies: u64, stamp: u32) -> u32 {
    let age = (jiffies as u32).wrapping_sub(stamp);
    // Less than ten seconds below 2^32: `stamp` was set after `jiffies` was read.
    if age > u32::MAX - 1000 { 0 } else { age }
}

/// A number of jiffies as milliseconds.
#[inline(always)]
pub fn milliseconds(jiffies: u32, rate: u64) -> u32 {
    let ms = u64::from(jiffies) * 1000 / rate;
    ms.min(u32::MAX.into()) as u32
}

/// CONFIG_HZ, which is not in BTF. Jiffies start five minutes below 2^32 (`INITIAL_JIFFIES`,
/// include/linux/jiffies.h) when CLOCK_MONOTONIC starts at 0, so only the correct rate converts one
/// to the other. 0 if none does.
#[inline(always)]
pub fn rate(jiffies: u64) -> u64 {
    let uptime = now() / 1_000_000;
    let (mut best, mut least) = (RATES[0], u64::MAX);
    for hz in RATES {
        let since_boot = jiffies.wrapping_sub((1 << 32) - 300 * hz);
        let difference = (since_boot.wrapping_mul(1000) / hz).abs_diff(uptime);
        if difference < least {
            (best, least) = (hz, difference);
        }
    }
    // Jiffies lag behind if a hypervisor does not schedule the CPU for long. The rates differ by at
    // least a sixth, except in the second in which jiffies pass 2^32.
    if least < 1000 + uptime / 32 { best } else { 0 }
}
