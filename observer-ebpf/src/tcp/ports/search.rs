//! Failed searches for a local port: `__inet_hash_connect` for connect(), `inet_csk_get_port` for
//! bind() to port 0.
//!
//! The errno is ambiguous. connect() also returns EADDRNOTAVAIL if a bound socket would have the
//! four-tuple of another one, and if there is no source address; bind() returns EADDRNOTAVAIL for an
//! address that is not local, and EADDRINUSE for a given port that is in use.

use aya_ebpf::{
    helpers::bpf_probe_read_user,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use observer_common::{IPPROTO_TCP, PORT_SEARCH_BIND, PORT_SEARCH_CONNECT, SIGNAL_PORTS};

use crate::{
    core::{
        call_args::{self, INET_CSK_GET_PORT, INET_HASH_CONNECT},
        counters::{self, add},
        fd_lookup,
        fields::{HAS_FUNC_RET, at},
        outcome::{count_outcome, seen},
        read::{Memory, Probe},
        regs, socket,
    },
    tcp::ownership,
};

pub const EADDRINUSE: i64 = 98;
pub const EADDRNOTAVAIL: i32 = 99;

#[fexit(function = "__inet_hash_connect")]
pub fn hash_connect_fexit(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(1);
    // It has a fifth argument since 6.15.
    if HAS_FUNC_RET.load() != 0 {
        if let Ok(ret) = ctx.ret() {
            on_connect(sk, ret);
        }
    } else {
        on_connect(sk, ctx.arg(4));
    }
    0
}

#[kprobe]
pub fn hash_connect_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<u64>(1) {
        call_args::save(INET_HASH_CONNECT, [sk, 0]);
    }
    0
}

#[kretprobe]
pub fn hash_connect_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some([sk, _]) = call_args::take(INET_HASH_CONNECT) {
        on_connect(sk as *const u8, ctx.ret());
    }
    0
}

#[fexit(function = "inet_csk_get_port")]
pub fn get_port_fexit(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let port: u16 = ctx.arg(1);
    let ret: i32 = ctx.arg(2);
    on_bind(sk, port, ret);
    0
}

#[kprobe]
pub fn get_port_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(port)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        call_args::save(INET_CSK_GET_PORT, [sk, port]);
    }
    0
}

#[kretprobe]
pub fn get_port_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some([sk, port]) = call_args::take(INET_CSK_GET_PORT) {
        on_bind(sk as *const u8, port as u16, ctx.ret());
    }
    0
}

#[inline(always)]
fn on_connect(sk: *const u8, ret: i32) {
    if ret != -EADDRNOTAVAIL {
        return;
    }
    // SAFETY: a full socket, offsets from BTF.
    let (protocol, port) = unsafe {
        (
            Probe::read::<u16>(sk, at::OFF_SK_PROTOCOL()),
            Probe::read::<u16>(sk, at::OFF_SKC_NUM()),
        )
    };
    // With a port, the socket was bound to it, and the four-tuple was in use.
    if protocol == IPPROTO_TCP && port == 0 {
        exhausted(sk, PORT_SEARCH_CONNECT);
    }
}

#[inline(always)]
fn on_bind(sk: *const u8, port: u16, ret: i32) {
    // 1 before 5.19, which the callers convert to EADDRINUSE.
    if port != 0 || !(ret == 1 || i64::from(ret) == -EADDRINUSE) {
        return;
    }
    // SAFETY: a full socket, offset from BTF.
    if unsafe { Probe::read::<u16>(sk, at::OFF_SK_PROTOCOL()) } == IPPROTO_TCP {
        exhausted(sk, PORT_SEARCH_BIND);
    }
}

/// bind() returned EADDRINUSE. Counts it if the call was for any port.
#[inline(always)]
pub fn on_bind_call() {
    let address = regs::argument(1) as *const u8;
    // `sin_port` and `sin6_port`.
    // SAFETY: the helper refuses bad addresses.
    let port = unsafe { bpf_probe_read_user(address.wrapping_add(2).cast::<u16>()) };
    if port != Ok(0) {
        return;
    }
    let Some(sk) = fd_lookup::current_socket(regs::argument(0) as u32) else {
        return;
    };
    if socket::tcp_protocol(sk).is_some() {
        exhausted(sk, PORT_SEARCH_BIND);
    }
}

/// listen() returned EADDRINUSE. Counts it if the socket had no port.
#[inline(always)]
pub fn on_listen_call() {
    let Some(sk) = fd_lookup::current_socket(regs::argument(0) as u32) else {
        return;
    };
    // SAFETY: a socket from the kernel, offset from BTF.
    let port = unsafe { Probe::read::<u16>(sk, at::OFF_SKC_NUM()) };
    if port == 0 && socket::tcp_protocol(sk).is_some() {
        exhausted(sk, PORT_SEARCH_BIND);
    }
}

/// Counts the failure for the running process, which is in the call that searches.
#[inline(always)]
pub fn exhausted(sk: *const u8, search: usize) {
    seen(SIGNAL_PORTS);
    let slot = ownership::current_or_parent(sk);
    count_outcome(SIGNAL_PORTS, slot);
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map; the index is one of the `PORT_SEARCH_` constants.
        unsafe {
            add(
                (&raw mut (*counters).ports.exhausted)
                    .cast::<u64>()
                    .add(search),
                1,
            )
        };
    }
}
