//! Records in the ring buffer. A full ring costs records, never counts; lost records are counted
//! by kind.

use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use observer_common::{
    AF_INET, AF_INET6, Conn, IPPROTO_MPTCP, RECORD_KINDS, Record, SLOT_UNATTRIBUTED, TIMED_STATES,
};

use crate::core::{
    clock::now,
    counters::{self, add},
    fields::{RECORD_MASK, WAKEUP_BYTES, at, has},
    maps::RECORDS,
    read::{Memory, Probe},
    segment,
    socket::{self, netns},
};

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;

/// Whether the daemon may ask for records of `kind`: a constant to the verifier.
#[inline(always)]
pub fn wanted(kind: u8) -> bool {
    RECORD_MASK.load() & (1 << kind) != 0
}

/// Writes one record of `kind` about the socket `sk` (null for none) of `slot`, with flags and
/// durations from `conn` (null for none). `fill` sets the fields of the kind.
#[inline(always)]
pub fn write(
    kind: u8,
    sk: *const u8,
    conn: *const Conn,
    slot: u32,
    fill: impl FnOnce(&mut Record),
) {
    if !wanted(kind) || usize::from(kind) >= RECORD_KINDS {
        return;
    }
    let Some(stats) = counters::stats() else {
        return;
    };
    // SAFETY: points into the map.
    if unsafe { (*stats).record_mask } & (1 << kind) == 0 {
        // The daemon does not read this kind at the moment.
        return;
    }
    let Some(mut entry) = RECORDS.reserve(0) else {
        // SAFETY: points into the map; `kind` was checked.
        add(
            unsafe {
                (&raw mut (*stats).records_lost)
                    .cast::<u64>()
                    .add(usize::from(kind))
            },
            1,
        );
        return;
    };
    // SAFETY: all zero is a valid record, and every byte is written here, so no data of an older
    // record is left.
    let record = unsafe {
        let record = entry.as_mut_ptr();
        record
            .cast::<[u64; size_of::<Record>() / 8]>()
            .write([0; size_of::<Record>() / 8]);
        &mut *record
    };
    record.time_ns = now();
    record.kind = kind;
    record.slot = slot;
    if slot != SLOT_UNATTRIBUTED {
        if let Some(slot) = counters::slot(slot) {
            // SAFETY: points into the map.
            unsafe {
                record.generation = (*slot).generation;
                record.tgid = (*slot).key.tgid;
            }
        }
    }
    if !sk.is_null() {
        address(sk, record);
    }
    if !conn.is_null() {
        history(conn, record);
    }
    fill(record);
    // SAFETY: points into the map; `kind` was checked.
    add(
        unsafe {
            (&raw mut (*stats).records)
                .cast::<u64>()
                .add(usize::from(kind))
        },
        1,
    );
    // The reader polls on a timer, because a wake-up for each record would cost more than all
    // other work here. It is woken only when the ring fills up.
    // SAFETY: the map exists; the flag is one the helper knows.
    let unread =
        unsafe { bpf_ringbuf_query((&raw const RECORDS).cast_mut().cast(), BPF_RB_AVAIL_DATA) };
    entry.submit(if unread >= WAKEUP_BYTES.load() {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    });
}

#[inline(always)]
fn history(conn: *const Conn, record: &mut Record) {
    // SAFETY: points into the map.
    unsafe {
        record.flags = (*conn).flags;
        record.retransmits = (*conn).retransmits;
        record.waited_for = (*conn).waited_for;
        record.waited_ms = (*conn).waited_ms;
        if (*conn).flags & observer_common::CONN_SEEDED == 0 {
            record.age_ns = record.time_ns.saturating_sub((*conn).born_ns);
        }
        let mut index = 0;
        while index < TIMED_STATES.len() {
            record.spent[usize::from(TIMED_STATES[index])] = (*conn).spent[index];
            index += 1;
        }
    }
}

/// Fills in the addresses of a full socket.
#[inline(always)]
fn address(sk: *const u8, record: &mut Record) {
    // SAFETY: a full socket from the kernel, offsets from its BTF.
    unsafe {
        record.protocol = Probe::read(sk, at::OFF_SK_PROTOCOL());
        record.mptcp = u8::from(record.protocol == IPPROTO_MPTCP || socket::mptcp_parent(sk) != 0);
        // When an auto-bound socket closes, skc_num is already 0 and inet_sport is still set.
        record.local_port = u16::from_be(Probe::read(sk, at::OFF_INET_SPORT()));
    }
    common_address(sk, record);
}

/// Fills in the addresses of a full, timewait or request socket: all begin with a
/// `struct sock_common`.
#[inline(always)]
pub fn common_address(sk: *const u8, record: &mut Record) {
    // SAFETY: a socket from the kernel, offsets from its BTF.
    unsafe {
        record.family = Probe::read(sk, at::OFF_SKC_FAMILY());
        if record.local_port == 0 {
            record.local_port = Probe::read(sk, at::OFF_SKC_NUM());
        }
        record.remote_port = u16::from_be(Probe::read(sk, at::OFF_SKC_DPORT()));
        if record.family == AF_INET6 && has::OFF_SKC_V6_DADDR() && has::OFF_SKC_V6_RCV_SADDR() {
            record.local = Probe::read(sk, at::OFF_SKC_V6_RCV_SADDR());
            record.remote = Probe::read(sk, at::OFF_SKC_V6_DADDR());
        } else {
            let local: [u8; 4] = Probe::read(sk, at::OFF_SKC_RCV_SADDR());
            let remote: [u8; 4] = Probe::read(sk, at::OFF_SKC_DADDR());
            record.local[..4].copy_from_slice(&local);
            record.remote[..4].copy_from_slice(&remote);
        }
        record.netns = netns::<Probe>(sk);
    }
}

/// Fills in the addresses of a received segment, from the receiver's side: for RSTs without a
/// socket.
#[inline(always)]
pub fn segment_address<M: Memory>(skb: *const u8, record: &mut Record) {
    let Some(segment) = segment::of::<M>(skb) else {
        return;
    };
    record.netns = segment::netns::<M>(skb);
    record.remote_port = segment.source_port();
    record.local_port = segment.destination_port();
    match segment.version() {
        4 => {
            record.family = AF_INET;
            let remote: [u8; 4] = segment.ip(12);
            let local: [u8; 4] = segment.ip(16);
            record.remote[..4].copy_from_slice(&remote);
            record.local[..4].copy_from_slice(&local);
        }
        6 => {
            record.family = AF_INET6;
            record.remote = segment.ip(8);
            record.local = segment.ip(24);
        }
        _ => {}
    }
}
