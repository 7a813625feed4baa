//! The fields of kernel structures that the programs read, and their offsets in the running
//! kernel.
//!
//! Each offset is a read-only global of the programs. The verifier sees a constant, so code that
//! depends on an absent field is dead code.

use std::ops::Range;

use observer_core::btf::{KernelBtf, LayoutError};

/// The value of the global of a field that the kernel does not have.
pub const ABSENT: u64 = u64::MAX;

/// The global that holds the size of `struct pt_regs`, or [`ABSENT`]: a classic tracepoint
/// program reaches the registers of its system call below the top of the task's stack.
pub const PT_REGS_SIZE: &str = "PT_REGS_SIZE";

/// The global that holds where a network namespace keeps its range of local ports.
pub const PORT_RANGE: &str = "OFF_NET_PORT_RANGE";

/// The global that holds the size of that range: 8 for two ints, 4 for both in one (6.8 and
/// later).
pub const PORT_RANGE_SIZE: &str = "PORT_RANGE_SIZE";

/// The global that holds where a network namespace keeps `tcp_tw_reuse`: an int, and one byte
/// since 5.13. The programs read the byte, which is the lowest one.
pub const TW_REUSE: &str = "OFF_NET_TW_REUSE";

/// The globals that hold where a network namespace keeps `tcp_tw_reuse_delay`, and a timewait
/// socket the time from which it counts. Since 6.14.
const TW_REUSE_DELAY: [(&str, &str, &str); 2] = [
    (
        "OFF_NET_TW_REUSE_DELAY",
        "net",
        "ipv4.sysctl_tcp_tw_reuse_delay",
    ),
    ("OFF_TW_ENTRY_STAMP", "inet_timewait_sock", "tw_entry_stamp"),
];

/// The globals that hold where UDP sockets count their drops since 6.18: behind a pointer, for each of
/// two sets of NUMA nodes.
const DROP_COUNTERS: [(&str, &str, &str, u32); 3] = [
    ("OFF_SK_DROP_COUNTERS", "sock", "sk_drop_counters", 8),
    ("OFF_DROPS0", "numa_drop_counters", "drops0", 4),
    ("OFF_DROPS1", "numa_drop_counters", "drops1", 4),
];

/// The globals that drops of UDP sockets are read by.
pub const DROPS: [&str; 5] = [
    "OFF_SK_DROPS",
    "OFF_INODE_INO",
    DROP_COUNTERS[0].0,
    DROP_COUNTERS[1].0,
    DROP_COUNTERS[2].0,
];

/// The global that holds where a network namespace keeps its table of connections. From 5.18 to 6.0
/// it is behind one more pointer, and and is not supported.
pub const HASHINFO: &str = "OFF_NET_HASHINFO";

/// The globals that hold where a request of io_uring keeps its file and its result, for
/// `io_connect` (6.0 and later), `io_bind` and `io_listen` (6.11 and later).
pub const IO_REQUEST: [&str; 2] = ["OFF_IO_FILE", "OFF_IO_RESULT"];

/// The fields of `struct sock_common` that the iterator over connections copies; the one over sockets in TIME_WAIT copies
/// all up to the last of these and of [`COPIED_TIME_WAIT`].
const COPIED_COMMON: [&str; 13] = [
    "OFF_SKC_FAMILY",
    "OFF_SKC_STATE",
    "OFF_SKC_NUM",
    "OFF_SKC_DPORT",
    "OFF_SKC_DADDR",
    "OFF_SKC_RCV_SADDR",
    "OFF_SKC_V6_DADDR",
    "OFF_SKC_V6_RCV_SADDR",
    "OFF_SKC_NET",
    "OFF_SKC_FLAGS",
    "OFF_SKC_HASH",
    "OFF_SKC_BOUND_IF",
    "OFF_SKC_NODE",
];

/// Those of `struct inet_connection_sock` and `struct tcp_sock`.
const COPIED_TCP: [&str; 18] = [
    "OFF_ICSK_BIND_HASH",
    "OFF_ICSK_PENDING",
    "OFF_ICSK_LRCVTIME",
    "OFF_ICSK_USER_TIMEOUT",
    "OFF_ICSK_RETRANSMITS",
    "OFF_TP_RCV_NXT",
    "OFF_TP_COPIED_SEQ",
    "OFF_TP_LSNDTIME",
    "OFF_TP_WRITE_SEQ",
    "OFF_TP_SND_UNA",
    "OFF_TP_SND_WND",
    "OFF_TP_SND_WL1",
    "OFF_TP_PACKETS_OUT",
    "OFF_TP_RCV_TSTAMP",
    "OFF_TP_BYTES_RECEIVED",
    "OFF_TP_BYTES_SENT",
    "OFF_TP_CHRONO_START",
    "OFF_TP_DELIVERED_MSTAMP",
];

/// Size of the largest of them.
const LARGEST: u64 = 16;

/// Those of timewait sockets.
const COPIED_TIME_WAIT: [&str; 4] = [
    "OFF_TW_SUBSTATE",
    "OFF_TW_TS_STAMP",
    "OFF_TW_ENTRY_STAMP",
    "OFF_TW_BIND_HASH",
];

/// What happens when the kernel does not have a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The observer does not start without it.
    Required,
    /// The feature that depends on it is off.
    Optional,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSpec {
    /// The global of the programs that is to hold the offset.
    pub global: &'static str,
    /// The structure the offset counts from.
    pub structure: &'static str,
    /// Dotted path of the member.
    pub path: &'static str,
    /// Size in bytes that the programs read.
    pub size: u32,
    /// Whether it is required.
    pub need: Need,
}

const fn required(
    global: &'static str,
    structure: &'static str,
    path: &'static str,
    size: u32,
) -> FieldSpec {
    FieldSpec {
        global,
        structure,
        path,
        size,
        need: Need::Required,
    }
}

const fn optional(
    global: &'static str,
    structure: &'static str,
    path: &'static str,
    size: u32,
) -> FieldSpec {
    FieldSpec {
        global,
        structure,
        path,
        size,
        need: Need::Optional,
    }
}

/// Every field the programs read, registers excepted.
#[rustfmt::skip]
pub const FIELDS: &[FieldSpec] = &[
    required("OFF_SKC_FAMILY", "sock_common", "skc_family", 2),
    required("OFF_SKC_STATE", "sock_common", "skc_state", 1),
    required("OFF_SKC_NUM", "sock_common", "skc_num", 2),
    required("OFF_SKC_DPORT", "sock_common", "skc_dport", 2),
    required("OFF_SKC_DADDR", "sock_common", "skc_daddr", 4),
    required("OFF_SKC_RCV_SADDR", "sock_common", "skc_rcv_saddr", 4),
    // CONFIG_IPV6.
    optional("OFF_SKC_V6_DADDR", "sock_common", "skc_v6_daddr", 16),
    optional("OFF_SKC_V6_RCV_SADDR", "sock_common", "skc_v6_rcv_saddr", 16),
    // CONFIG_NET_NS: without it `possible_net_t` is empty.
    optional("OFF_SKC_NET", "sock_common", "skc_net.net", 8),
    optional("OFF_SKC_FLAGS", "sock_common", "skc_flags", 8),
    optional("OFF_NET_INUM", "net", "ns.inum", 4),
    // Before 5.6 `sk_protocol` is a bitfield of one byte, next to `sk_type`.
    required("OFF_SK_PROTOCOL", "sock", "sk_protocol", 2),
    required("OFF_SK_TYPE", "sock", "sk_type", 2),
    required("OFF_SK_UID", "sock", "sk_uid", 4),
    required("OFF_SK_ERR", "sock", "sk_err", 4),
    optional("OFF_SK_ERR_SOFT", "sock", "sk_err_soft", 4),
    optional("OFF_SK_ERROR_QUEUE", "sock", "sk_error_queue.next", 8),
    required("OFF_SK_SHUTDOWN", "sock", "sk_shutdown", 1),
    optional("OFF_SK_LINGERTIME", "sock", "sk_lingertime", 8),
    optional("OFF_SK_SOCKET", "sock", "sk_socket", 8),
    optional("OFF_SK_DROPS", "sock", "sk_drops", 4),
    optional("OFF_SK_BACKLOG", "sock", "sk_ack_backlog", 4),
    optional("OFF_SK_MAX_BACKLOG", "sock", "sk_max_ack_backlog", 4),
    required("OFF_INET_SPORT", "inet_sock", "inet_sport", 2),
    optional("OFF_TP_RCV_NXT", "tcp_sock", "rcv_nxt", 4),
    optional("OFF_TP_COPIED_SEQ", "tcp_sock", "copied_seq", 4),
    optional("OFF_TP_TSORTED", "tcp_sock", "tsorted_sent_queue", 16),
    optional("OFF_TP_TOTAL_RETRANS", "tcp_sock", "total_retrans", 4),
    optional("OFF_TP_SEGS_OUT", "tcp_sock", "segs_out", 4),
    optional("OFF_ICSK_RETRANSMITS", "inet_connection_sock", "icsk_retransmits", 1),
    // What a connection waits for, from here to OFF_ICSK_LRCVTIME. Jiffies are unsigned int here.
    optional("OFF_TP_LSNDTIME", "tcp_sock", "lsndtime", 4),
    optional("OFF_TP_WRITE_SEQ", "tcp_sock", "write_seq", 4),
    optional("OFF_TP_SND_UNA", "tcp_sock", "snd_una", 4),
    optional("OFF_TP_SND_WND", "tcp_sock", "snd_wnd", 4),
    optional("OFF_TP_SND_WL1", "tcp_sock", "snd_wl1", 4),
    optional("OFF_TP_PACKETS_OUT", "tcp_sock", "packets_out", 4),
    optional("OFF_TP_RCV_TSTAMP", "tcp_sock", "rcv_tstamp", 4),
    optional("OFF_TP_BYTES_RECEIVED", "tcp_sock", "bytes_received", 8),
    optional("OFF_TP_BYTES_SENT", "tcp_sock", "bytes_sent", 8),
    optional("OFF_TP_CHRONO_START", "tcp_sock", "chrono_start", 4),
    optional("OFF_TP_DELIVERED_MSTAMP", "tcp_sock", "delivered_mstamp", 8),
    optional("OFF_TP_RETRANS_STAMP", "tcp_sock", "retrans_stamp", 4),
    optional("OFF_ICSK_PENDING", "inet_connection_sock", "icsk_pending", 1),
    optional("OFF_ICSK_LRCVTIME", "inet_connection_sock", "icsk_ack.lrcvtime", 4),
    optional("OFF_ICSK_USER_TIMEOUT", "inet_connection_sock", "icsk_user_timeout", 4),
    // CONFIG_MPTCP, from here to OFF_MSK_FIRST.
    optional("OFF_TP_IS_MPTCP", "tcp_sock", "is_mptcp", 1),
    optional("OFF_ICSK_ULP_DATA", "inet_connection_sock", "icsk_ulp_data", 8),
    optional("OFF_SUBFLOW_CONN", "mptcp_subflow_context", "conn", 8),
    optional("OFF_MSK_FIRST", "mptcp_sock", "first", 8),
    required("OFF_SOCKET_SK", "socket", "sk", 8),
    required("OFF_FILE_PRIVATE", "file", "private_data", 8),
    required("OFF_FILES_FDT", "files_struct", "fdt", 8),
    required("OFF_FDT_FD", "fdtable", "fd", 8),
    required("OFF_FDT_MAX", "fdtable", "max_fds", 4),
    required("OFF_TASK_FILES", "task_struct", "files", 8),
    required("OFF_TASK_TGID", "task_struct", "tgid", 4),
    required("OFF_TASK_LEADER", "task_struct", "group_leader", 8),
    required("OFF_TASK_START", "task_struct", "start_boottime", 8),
    required("OFF_TASK_COMM", "task_struct", "comm", 16),
    required("OFF_TASK_FLAGS", "task_struct", "flags", 4),
    optional("OFF_TASK_STACK", "task_struct", "stack", 8),
    optional("OFF_TW_SUBSTATE", "inet_timewait_sock", "tw_substate", 1),
    optional("OFF_ACCEPT_HEAD", "inet_connection_sock", "icsk_accept_queue.rskq_accept_head", 8),
    optional("OFF_RSKQ_HEAD", "request_sock_queue", "rskq_accept_head", 8),
    optional("OFF_RSKQ_FASTOPEN", "request_sock_queue", "fastopenq.max_qlen", 4),
    optional("OFF_REQ_SK", "request_sock", "sk", 8),
    optional("OFF_REQ_NEXT", "request_sock", "dl_next", 8),
    optional("OFF_SKB_CB", "sk_buff", "cb", 48),
    // In `cb` of messages in an error queue.
    optional("OFF_EXTERR", "sock_exterr_skb", "ee", 16),
    optional("OFF_SKB_HEAD", "sk_buff", "head", 8),
    optional("OFF_SKB_NETWORK", "sk_buff", "network_header", 2),
    optional("OFF_SKB_TRANSPORT", "sk_buff", "transport_header", 2),
    optional("OFF_SKB_PROTOCOL", "sk_buff", "protocol", 2),
    optional("OFF_SKB_DEV", "sk_buff", "dev", 8),
    // CONFIG_NET_NS.
    optional("OFF_DEV_NET", "net_device", "nd_net.net", 8),
    // `rsk_listener` is a macro for this (include/net/request_sock.h).
    optional("OFF_REQ_LISTENER", "request_sock", "__req_common.skc_listener", 8),
    required("OFF_FILE_INODE", "file", "f_inode", 8),
    required("OFF_INODE_MODE", "inode", "i_mode", 2),
    optional("OFF_INODE_INO", "inode", "i_ino", 8),
    // CONFIG_IO_URING.
    optional(IO_REQUEST[0], "io_kiocb", "file", 8),
    // 5.19.
    optional(IO_REQUEST[1], "io_kiocb", "cqe.res", 4),
    optional("OFF_ICSK_BIND_HASH", "inet_connection_sock", "icsk_bind_hash", 8),
    optional("OFF_TB_FASTREUSE", "inet_bind_bucket", "fastreuse", 1),
    optional("OFF_TB_FASTREUSEPORT", "inet_bind_bucket", "fastreuseport", 1),
    // To find a socket in TIME_WAIT and read whether its port can be used again.
    optional("OFF_TW_TS_STAMP", "tcp_timewait_sock", "tw_ts_recent_stamp", 4),
    optional("OFF_TW_BIND_HASH", "inet_timewait_sock", "tw_tb", 8),
    optional("OFF_SKC_BOUND_IF", "sock_common", "skc_bound_dev_if", 4),
    optional("OFF_SKC_HASH", "sock_common", "skc_hash", 4),
    optional("OFF_SKC_NODE", "sock_common", "skc_nulls_node", 16),
    optional("OFF_HASHINFO_EHASH", "inet_hashinfo", "ehash", 8),
    optional("OFF_HASHINFO_MASK", "inet_hashinfo", "ehash_mask", 4),
    // CONFIG_SYSCTL.
    optional("OFF_NET_RESERVED_PORTS", "net", "ipv4.sysctl_local_reserved_ports", 8),
];

/// Where system calls pass their arguments on x86_64; the fourth is in r10, because the
/// `syscall` instruction overwrites rcx.
const X86_64_REGISTERS: &[FieldSpec] = &[
    optional("OFF_REGS_ARG0", "pt_regs", "di", 8),
    optional("OFF_REGS_ARG1", "pt_regs", "si", 8),
    optional("OFF_REGS_ARG2", "pt_regs", "dx", 8),
    optional("OFF_REGS_SYSCALL", "pt_regs", "orig_ax", 8),
];

/// The same on arm64. x0 holds the result once the call is over; the argument is kept in
/// `orig_x0`, which is set before any `sys_enter` hook runs (`invoke_syscall` and its
/// caller `el0_svc_common`).
const AARCH64_REGISTERS: &[FieldSpec] = &[
    optional("OFF_REGS_ARG0", "pt_regs", "orig_x0", 8),
    optional("OFF_REGS_ARG1", "pt_regs", "regs[1]", 8),
    optional("OFF_REGS_ARG2", "pt_regs", "regs[2]", 8),
    optional("OFF_REGS_SYSCALL", "pt_regs", "syscallno", 4),
];

/// The registers of the architecture this is built for.
pub const REGISTERS: &[FieldSpec] = if cfg!(target_arch = "aarch64") {
    AARCH64_REGISTERS
} else {
    X86_64_REGISTERS
};

/// A field that this kernel does not have in a usable form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The global that holds [`ABSENT`].
    pub global: &'static str,
    /// Why, for `observer check`. Without full stop.
    pub reason: String,
}

/// Where the running kernel has each field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    globals: Vec<(&'static str, u64)>,
    absent: Vec<Absent>,
}

impl Layout {
    /// Looks up all fields. The error is that of the first required field that is missing or has another size.
    pub fn resolve(btf: &KernelBtf) -> Result<Self, LayoutError> {
        let mut layout = Self::resolve_from(btf, FIELDS.iter().chain(REGISTERS))?;
        layout.port_range(btf);
        layout.tw_reuse(btf);
        layout.drop_counters(btf);
        if !btf.has_func("io_bind") {
            // No program reads them then.
            let unread = |it: &Absent| IO_REQUEST.contains(&it.global);
            layout.absent.retain(|it| !unread(it));
        }
        Ok(layout)
    }

    /// Finds the fields that decide when a port in TIME_WAIT may be used again.
    fn tw_reuse(&mut self, btf: &KernelBtf) {
        for (global, path, sizes) in [
            (TW_REUSE, "ipv4.sysctl_tcp_tw_reuse", [1, 4]),
            (HASHINFO, "ipv4.tcp_death_row.hashinfo", [8, 8]),
        ] {
            match btf.member("net", path) {
                Ok(field) if sizes.contains(&field.size) => {
                    self.globals.push((global, u64::from(field.offset)));
                }
                Ok(field) => {
                    let reason = format!("net.{path} has {} bytes", field.size);
                    self.leave_out(global, reason);
                }
                Err(error) => self.leave_out(global, error.to_string()),
            }
        }
        for (global, structure, path) in TW_REUSE_DELAY {
            match btf.member(structure, path) {
                Ok(field) if field.size == 4 => {
                    self.globals.push((global, u64::from(field.offset)));
                }
                Ok(field) => {
                    let reason = format!("{structure}.{path} has {} bytes", field.size);
                    self.leave_out(global, reason);
                }
                // An older kernel, where it is one second and counts from another field.
                Err(_) => self.globals.push((global, ABSENT)),
            }
        }
    }

    /// Finds where UDP sockets count their drops, if not in `sk_drops`.
    fn drop_counters(&mut self, btf: &KernelBtf) {
        let (_, structure, path, _) = DROP_COUNTERS[0];
        if btf.member(structure, path).is_err() {
            // An older kernel.
            let globals = DROP_COUNTERS.map(|(global, ..)| (global, ABSENT));
            self.globals.extend(globals);
            return;
        }
        for (global, structure, path, size) in DROP_COUNTERS {
            match offset(btf, &optional(global, structure, path, size)) {
                Ok(offset) => self.globals.push((global, offset)),
                Err(error) => self.leave_out(global, error.to_string()),
            }
        }
    }

    /// Finds the range of local ports, which is stored in one of two forms.
    fn port_range(&mut self, btf: &KernelBtf) {
        let path = "ipv4.ip_local_ports.range";
        let size = match btf.member("net", path) {
            Ok(field) if matches!(field.size, 4 | 8) => {
                self.globals.push((PORT_RANGE, u64::from(field.offset)));
                u64::from(field.size)
            }
            Ok(field) => {
                let reason = format!("net.{path} has {} bytes", field.size);
                self.leave_out(PORT_RANGE, reason);
                ABSENT
            }
            Err(error) => {
                self.leave_out(PORT_RANGE, error.to_string());
                ABSENT
            }
        };
        self.globals.push((PORT_RANGE_SIZE, size));
    }

    fn resolve_from<'a>(
        btf: &KernelBtf,
        specs: impl Iterator<Item = &'a FieldSpec>,
    ) -> Result<Self, LayoutError> {
        let mut layout = Self {
            globals: Vec::new(),
            absent: Vec::new(),
        };
        for spec in specs {
            match offset(btf, spec) {
                Ok(offset) => layout.globals.push((spec.global, offset)),
                Err(error) if spec.need == Need::Required => return Err(error),
                Err(error) => layout.leave_out(spec.global, error.to_string()),
            }
        }
        match btf.size("pt_regs") {
            Some(size) => layout.globals.push((PT_REGS_SIZE, u64::from(size))),
            None => layout.leave_out(PT_REGS_SIZE, "the kernel has no struct pt_regs".to_owned()),
        }
        Ok(layout)
    }

    fn leave_out(&mut self, global: &'static str, reason: String) {
        self.globals.push((global, ABSENT));
        self.absent.push(Absent { global, reason });
    }

    /// The same layout, but as if the kernel lacked the optional field behind `global`, for tests.
    #[must_use]
    pub fn without(mut self, global: &'static str) -> Self {
        self.globals.retain(|(name, _)| *name != global);
        self.leave_out(global, "left out on purpose".to_owned());
        self
    }

    /// Every global with its value, for `EbpfLoader::override_global`.
    #[must_use]
    pub fn globals(&self) -> &[(&'static str, u64)] {
        &self.globals
    }

    /// The offset behind a global, `None` when it is absent or there is no such global.
    #[must_use]
    pub fn offset(&self, global: &str) -> Option<u64> {
        let (_, offset) = self.globals.iter().find(|(name, _)| *name == global)?;
        (*offset != ABSENT).then_some(*offset)
    }

    /// The globals with the ranges of bytes that the iterators over sockets copy.
    #[must_use]
    pub fn copied(&self) -> [(&'static str, u64); 4] {
        let [common, tcp, time_wait] =
            [&COPIED_COMMON[..], &COPIED_TCP, &COPIED_TIME_WAIT].map(|globals| self.range(globals));
        [
            ("COMMON_END", common.end),
            ("TCP_START", tcp.start),
            ("TCP_END", tcp.end),
            ("TIME_WAIT_END", common.end.max(time_wait.end)),
        ]
    }

    /// The range of bytes from the first to the last of the fields behind `globals`.
    fn range(&self, globals: &[&str]) -> Range<u64> {
        let fields = globals.iter().filter_map(|global| {
            let start = self.offset(global)?;
            Some(start..start + LARGEST)
        });
        fields
            .reduce(|all, it| all.start.min(it.start)..all.end.max(it.end))
            .unwrap_or_default()
    }

    /// Why the first absent one of the fields behind `globals` is absent.
    #[must_use]
    pub fn lacks(&self, globals: &[&str]) -> Option<String> {
        let absent = |it: &&Absent| globals.contains(&it.global);
        self.absent.iter().find(absent).map(|it| it.reason.clone())
    }

    /// Fields that this kernel lacks.
    #[must_use]
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }
}

fn offset(btf: &KernelBtf, spec: &FieldSpec) -> Result<u64, LayoutError> {
    let field = btf.member(spec.structure, spec.path)?;
    if field.size != spec.size {
        return Err(LayoutError::Size {
            structure: spec.structure.to_owned(),
            path: spec.path.to_owned(),
            expected: spec.size,
            found: field.size,
        });
    }
    Ok(u64::from(field.offset))
}

#[cfg(test)]
mod tests;
