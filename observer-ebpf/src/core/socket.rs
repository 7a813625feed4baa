//! Fields of kernel sockets that several signals read.

use crate::core::{
    fields::{at, has},
    read::{Memory, Probe},
};

/// Inode number of a socket's network namespace, 0 when the kernel has only one.
#[inline(always)]
pub fn netns<M: Memory>(sk: *const u8) -> u32 {
    if !has::OFF_SKC_NET() || !has::OFF_NET_INUM() {
        return 0;
    }
    // SAFETY: a socket from the kernel, offsets from its BTF.
    unsafe {
        let net = M::read::<u64>(sk, at::OFF_SKC_NET()) as *const u8;
        M::read(net, at::OFF_NET_INUM())
    }
}

/// The parent of an MPTCP subflow, 0 when `sk` is no subflow.
#[inline(always)]
pub fn mptcp_parent(sk: *const u8) -> u64 {
    if !has::OFF_TP_IS_MPTCP() || !has::OFF_ICSK_ULP_DATA() || !has::OFF_SUBFLOW_CONN() {
        return 0;
    }
    // SAFETY: a tcp_sock from the kernel, offsets from its BTF.
    unsafe {
        if Probe::read::<u8>(sk, at::OFF_TP_IS_MPTCP()) == 0 {
            return 0;
        }
        let subflow = Probe::read::<u64>(sk, at::OFF_ICSK_ULP_DATA()) as *const u8;
        if subflow.is_null() {
            return 0;
        }
        Probe::read::<u64>(subflow, at::OFF_SUBFLOW_CONN())
    }
}

/// The first subflow of an MPTCP parent, 0 when there is none.
#[inline(always)]
pub fn first_subflow(parent: *const u8) -> u64 {
    if !has::OFF_MSK_FIRST() {
        return 0;
    }
    // SAFETY: an mptcp_sock from the kernel, offset from its BTF.
    unsafe { Probe::read::<u64>(parent, at::OFF_MSK_FIRST()) }
}
