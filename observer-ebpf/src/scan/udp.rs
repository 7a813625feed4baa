//! Datagrams that UDP sockets dropped: the sockets' own counts, read by the walk over open files. No
//! hook runs when a datagram is dropped.
//!
//! Only sockets with drops have an entry. All drops of a socket without an entry are new, because
//! it had none at the previous walk, or did not exist; except at the first walk, or if the map was
//! too small for all sockets at the last one.

use observer_common::{MAP_UDP_SOCKETS, ResyncControl, SIGNAL_UDP_DROPS, UdpSocket, UdpSocketKey};

use crate::core::{
    counters::{self, add},
    fields::{UDP_SOCKETS_SHARE, at, has},
    maps::{BPF_NOEXIST, UDP_SOCKETS},
    outcome::{self, count_outcomes, seen_many},
    process,
    read::{Memory, Probe},
    seq::Output,
    socket,
};

/// Handles the UDP socket `sk` behind `file`, which `task` has open, and writes each process that
/// has UDP sockets. A socket of several processes counts for the first process of the walk. The
/// walk is in the order of pids (`task_seq_get_next`, `kernel/bpf/task_iter.c`), usually parents
/// before children. pid 1 is handled last, in the second pass, because systemd keeps the sockets
/// that it has opened for services.
///
/// # Safety
///
/// `control` points into the map; the others are a task, a file and its socket.
#[inline(always)]
pub unsafe fn visit(
    control: *mut ResyncControl,
    output: Output,
    task: *const u8,
    file: *const u8,
    sk: *const u8,
) {
    // SAFETY: by the contract of this function; offsets from BTF.
    unsafe {
        let tgid = Probe::read::<u32>(task, at::OFF_TASK_TGID());
        if (tgid == 1) != ((*control).pass == 1) {
            return;
        }
        if (*control).udp_tgid != tgid {
            (*control).udp_tgid = tgid;
            (*control).udp_entries = 0;
            let process = process::key_of(task);
            output.write(&raw const process);
        }
        let drops = socket::drops(sk);
        if drops == 0 || !has::OFF_INODE_INO() {
            return;
        }
        let inode = Probe::read::<u64>(file, at::OFF_FILE_INODE()) as *const u8;
        let key = UdpSocketKey {
            socket: sk as u64,
            inode: Probe::read(inode, at::OFF_INODE_INO()),
        };
        let epoch = (*control).epoch;
        let new = match UDP_SOCKETS.get_ptr_mut(key) {
            Some(entry) => {
                if (*entry).epoch == epoch {
                    return;
                }
                let new = (*entry).new_drops(drops);
                *entry = UdpSocket { drops, epoch };
                new
            }
            None => {
                if (*control).udp_entries >= UDP_SOCKETS_SHARE.load()
                    || UDP_SOCKETS
                        .insert(key, UdpSocket { drops, epoch }, BPF_NOEXIST)
                        .is_err()
                {
                    (*control).refused = 1;
                    outcome::map_full(MAP_UDP_SOCKETS);
                    return;
                }
                if (*control).baseline != 0 || (*control).refused != 0 {
                    0
                } else {
                    drops
                }
            }
        };
        (*control).udp_entries += 1;
        if new != 0 {
            count(process::of_task(task), u64::from(new));
        }
    }
}

#[inline(always)]
fn count(slot: u32, datagrams: u64) {
    seen_many(SIGNAL_UDP_DROPS, datagrams);
    count_outcomes(SIGNAL_UDP_DROPS, slot, datagrams);
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*counters).udp.receive_drops }, datagrams);
    }
}
