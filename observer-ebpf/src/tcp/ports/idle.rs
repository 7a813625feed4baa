//! For how long a connection has carried no data: `lsndtime` and `icsk_ack.lrcvtime`, which keepalive
//! probes, window probes and ACKs do not move (`tcp_event_data_sent`, `tcp_event_data_recv`).

use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::core::{
    clock::now,
    fields::{at, has},
    read::{Memory, Probe},
};

/// Values of CONFIG_HZ that kernel/Kconfig.hz offers.
const RATES: [u64; 4] = [100, 250, 300, 1000];

/// Milliseconds since the socket sent or received data, or was connected; 0 if unknown.
#[inline(always)]
pub fn milliseconds(sk: *const u8) -> u32 {
    if !has::OFF_TP_LSNDTIME() || !has::OFF_ICSK_LRCVTIME() {
        return 0;
    }
    // SAFETY: a `struct tcp_sock`, offsets from BTF; the helper takes no arguments.
    let (sent, received, jiffies) = unsafe {
        (
            Probe::read::<u32>(sk, at::OFF_TP_LSNDTIME()),
            Probe::read::<u32>(sk, at::OFF_ICSK_LRCVTIME()),
            bpf_jiffies64(),
        )
    };
    let hz = rate(jiffies);
    if hz == 0 {
        return 0;
    }
    let age = |since: u32| {
        let age = u64::from((jiffies as u32).wrapping_sub(since));
        // Less than a second below 2^32: from after `jiffies` was read.
        if age + hz > u64::from(u32::MAX) {
            0
        } else {
            age
        }
    };
    let ms = age(sent).min(age(received)) * 1000 / hz;
    ms.min(u32::MAX.into()) as u32
}

/// CONFIG_HZ, which is in no type information. Jiffies began five minutes below 2^32 (`INITIAL_JIFFIES`,
/// include/linux/jiffies.h) when CLOCK_MONOTONIC began at 0, so only the right rate gives the same time. 0 if
/// none does.
#[inline(always)]
fn rate(jiffies: u64) -> u64 {
    let uptime = now() / 1_000_000;
    let (mut best, mut least) = (RATES[0], u64::MAX);
    for hz in RATES {
        let since_boot = jiffies.wrapping_sub((1 << 32) - 300 * hz);
        let difference = (since_boot.wrapping_mul(1000) / hz).abs_diff(uptime);
        if difference < least {
            (best, least) = (hz, difference);
        }
    }
    // Jiffies fall behind where a hypervisor takes the CPU away for long. The rates differ by a sixth at least.
    if least < 1000 + uptime / 32 { best } else { 0 }
}
