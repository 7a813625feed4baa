//! TLS handshakes.
//!
//! A handshake consists of several calls: a program with a non-blocking socket calls the library
//! repeatedly until the handshake is complete, and later the same function handles session tickets
//! and key updates. So the first call for an object starts a handshake, the return value shows when
//! it is complete, and the object is stored until it is freed.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{
    Histogram, MAP_TLS, SIGNAL_TLS, TLS_BOUNDS, TLS_FAILED, TLS_HANDSHAKES_SHARE, TLS_LIBRARIES,
    TLS_OK, TLS_OPENSSL, TLS_ROLES, TlsCall, TlsCookie, TlsHandshake, TlsKey, TlsSeen,
};

use crate::{
    core::{
        clock::now,
        counters,
        maps::{BPF_ANY, BPF_NOEXIST, TLS_CALLS, TLS_FINISHED, TLS_HANDSHAKES},
        outcome::{self, count_lost, count_outcome, seen},
        process, seq,
    },
    uprobes::regs,
};

/// `rwstate` of an OpenSSL connection that waits for nothing (`SSL_NOTHING`, include/openssl/ssl.h).
const SSL_NOTHING: i32 = 1;
/// `GNUTLS_E_AGAIN` and `GNUTLS_E_INTERRUPTED`: to be called again (gnutls.h).
const GNUTLS_AGAIN: [i32; 2] = [-28, -52];
/// Warnings during the handshake, after which it continues: `GNUTLS_E_WARNING_ALERT_RECEIVED`.
const GNUTLS_WARNING: i32 = -16;

/// The function that advances a handshake is called with its object: `ossl_statem_connect`,
/// `ossl_statem_accept`, `SSL_do_handshake`, `gnutls_handshake`.
#[uprobe]
pub fn tls_enter(ctx: ProbeContext) -> u32 {
    let cookie = TlsCookie::from_bits(regs::cookie(&ctx));
    let Some(object) = ctx.arg::<u64>(0) else {
        return 0;
    };
    let key = key(object, cookie.library);
    let call = TlsCall {
        stack: regs::stack_after_return(ctx.regs),
        tgid: key.tgid,
        reserved: 0,
    };
    if TLS_FINISHED.get_ptr(key).is_some() {
        // Left by a thread that ended in such a call, with the same key.
        let _ = TLS_CALLS.remove(call);
        return 0;
    }
    let _ = TLS_CALLS.insert(call, object, BPF_ANY);
    begin(&key, cookie.role);
    0
}

/// It returns.
#[uretprobe]
pub fn tls_leave(ctx: RetProbeContext) -> u32 {
    let call = TlsCall {
        stack: regs::stack(ctx.regs),
        tgid: tgid(),
        reserved: 0,
    };
    // Absent if a second probe on the same file removed it first: containers share layers.
    let Some(object) = TLS_CALLS.get_ptr(call) else {
        return 0;
    };
    // SAFETY: points into the map.
    let object = unsafe { *object };
    let _ = TLS_CALLS.remove(call);
    let cookie = TlsCookie::from_bits(regs::cookie(&ctx));
    let returned = ctx.ret::<i32>();
    let result = match cookie.library {
        TLS_OPENSSL => openssl_result(object, returned, cookie.rwstate),
        _ => gnutls_result(returned),
    };
    if let Some(result) = result {
        let key = key(object, cookie.library);
        end(&key, result);
        // Also where the map of handshakes was full.
        let _ = TLS_FINISHED.insert(key, 0, BPF_ANY);
    }
    0
}

/// The object is freed: `SSL_free`, `gnutls_deinit`.
#[uprobe]
pub fn tls_free(ctx: ProbeContext) -> u32 {
    let cookie = TlsCookie::from_bits(regs::cookie(&ctx));
    let Some(object) = ctx.arg::<u64>(0) else {
        return 0;
    };
    let key = key(object, cookie.library);
    if TLS_FINISHED.remove(key).is_err() {
        end(&key, TLS_FAILED);
    }
    0
}

/// The object is prepared for another handshake, usually its first: `SSL_clear`, `SSL_set_connect_state`,
/// `SSL_set_accept_state`.
#[uprobe]
pub fn tls_reset(ctx: ProbeContext) -> u32 {
    let cookie = TlsCookie::from_bits(regs::cookie(&ctx));
    if let Some(object) = ctx.arg::<u64>(0) {
        let _ = TLS_FINISHED.remove(key(object, cookie.library));
    }
    0
}

/// `crypto/tls.(*Conn).clientHandshake` or `.serverHandshake` is called. The goroutine identifies the handshake,
/// because the receiver is not in a register any more when they return.
#[uprobe]
pub fn tls_go_enter(ctx: ProbeContext) -> u32 {
    let cookie = TlsCookie::from_bits(regs::cookie(&ctx));
    begin(&key(regs::goroutine(&ctx), cookie.library), cookie.role);
    0
}

/// One of their RET instructions. A uretprobe would change the return address on the stack, which Go's runtime
/// reads and moves.
#[uprobe]
pub fn tls_go_leave(ctx: ProbeContext) -> u32 {
    let cookie = TlsCookie::from_bits(regs::cookie(&ctx));
    // The type of an `error`, null if there is none.
    let failed = regs::go_first(&ctx) != 0;
    let result = if failed { TLS_FAILED } else { TLS_OK };
    end(&key(regs::goroutine(&ctx), cookie.library), result);
    0
}

/// Handshakes in progress.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn tls_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of handshakes.
    let element = unsafe { seq::element::<TlsKey, TlsHandshake>(ctx) };
    if let Some((output, key, handshake)) = element {
        // SAFETY: the verifier checks both against the sizes in the map.
        let seen = unsafe {
            TlsSeen {
                key: *key,
                handshake: *handshake,
            }
        };
        output.write(&raw const seen);
    }
    0
}

/// The result of an OpenSSL handshake after this call; `None` if it is not finished. If the offset
/// of `rwstate` is unknown, a failure is counted when the object is freed.
#[inline(always)]
fn openssl_result(ssl: u64, returned: i32, rwstate: Option<u16>) -> Option<usize> {
    if returned == 1 {
        return Some(TLS_OK);
    }
    let state = (ssl + u64::from(rwstate?)) as *const i32;
    // SAFETY: the helper checks the address.
    let state = unsafe { bpf_probe_read_user(state) }.ok()?;
    (state == SSL_NOTHING).then_some(TLS_FAILED)
}

/// The same for GnuTLS.
#[inline(always)]
fn gnutls_result(returned: i32) -> Option<usize> {
    if returned == 0 {
        return Some(TLS_OK);
    }
    let goes_on = GNUTLS_AGAIN.contains(&returned) || returned == GNUTLS_WARNING || returned > 0;
    (!goes_on).then_some(TLS_FAILED)
}

#[inline(always)]
fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
fn key(object: u64, library: u32) -> TlsKey {
    TlsKey {
        object,
        tgid: tgid(),
        library,
    }
}

/// Stores the start time of a handshake, at its first call.
#[inline(always)]
fn begin(key: &TlsKey, role: u32) {
    if TLS_HANDSHAKES.get_ptr(key).is_some() {
        return;
    }
    let slot = process::current();
    let handshake = TlsHandshake {
        began_ns: now(),
        slot,
        generation: counters::generation(slot),
        role,
        reserved: 0,
    };
    if in_progress(slot) < TLS_HANDSHAKES_SHARE {
        // The file may be mapped twice, but an object belongs to one thread at a time: it is not there.
        if TLS_HANDSHAKES.insert(key, handshake, BPF_NOEXIST).is_ok() {
            adjust_in_progress(slot, 1);
            return;
        }
    }
    outcome::map_full(MAP_TLS);
    seen(SIGNAL_TLS);
    count_lost(SIGNAL_TLS);
}

/// Handshakes in progress of a process.
#[inline(always)]
fn in_progress(slot: u32) -> i64 {
    // SAFETY: points into the map.
    counters::slot(slot).map_or(0, |slot| unsafe { (*slot).tls_handshakes })
}

#[inline(always)]
fn adjust_in_progress(slot: u32, by: i64) {
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        counters::adjust(unsafe { &raw mut (*slot).tls_handshakes }, by);
    }
}

/// Counts a handshake that ended, if it was in progress.
#[inline(always)]
fn end(key: &TlsKey, result: usize) {
    let Some(handshake) = TLS_HANDSHAKES.get_ptr(key) else {
        return;
    };
    // SAFETY: points into the map.
    let TlsHandshake {
        began_ns,
        slot,
        generation,
        role,
        ..
    } = unsafe { *handshake };
    if TLS_HANDSHAKES.remove(key).is_err() {
        // A second probe on the same file was faster.
        return;
    }
    seen(SIGNAL_TLS);
    count_outcome(SIGNAL_TLS, slot);
    // Not in a slot that belongs to another process by now.
    if counters::generation(slot) == generation {
        adjust_in_progress(slot, -1);
    }
    let library = counters::bounded(key.library as usize, TLS_LIBRARIES.len());
    let role = counters::bounded(role as usize, TLS_ROLES.len());
    if let (Some(of_process), Some(library), Some(role)) = (counters::slot(slot), library, role) {
        // SAFETY: `of_process` points into the map, the indices were checked in a way that the verifier sees, and
        // the result is a constant.
        unsafe {
            let tls = &raw mut (*of_process).tls;
            let ended = (&raw mut (*tls).ended).cast::<[[u64; 2]; TLS_ROLES.len()]>();
            let ended = ended
                .add(library)
                .cast::<[u64; 2]>()
                .add(role)
                .cast::<u64>();
            counters::add(ended.add(result), 1);
            if result == TLS_OK {
                let seconds = (&raw mut (*tls).seconds).cast::<Histogram>();
                let took = now().saturating_sub(began_ns);
                counters::observe(seconds.add(role), &TLS_BOUNDS, took);
            }
        }
    }
}
