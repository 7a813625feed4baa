//! Offsets of kernel structure members, and settings, as read-only globals. The daemon looks up
//! each member in the kernel's BTF, checks its size and sets the offset before it loads the
//! programs. The verifier sees constants and removes the branches of absent members.

use aya_ebpf::Global;

/// Value for a member that the running kernel does not have.
pub const ABSENT: u64 = u64::MAX;

macro_rules! offsets {
    ($($name:ident),+ $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            static $name: Global<u64> = Global::new(ABSENT);
        )+

        /// Reads the offsets; each is one load of a constant.
        #[expect(non_snake_case, reason = "the functions are named after the constants they read")]
        pub mod at {
            $(
                #[inline(always)]
                pub fn $name() -> usize {
                    super::$name.load() as usize
                }
            )+
        }

        /// Whether the running kernel has the member.
        #[expect(non_snake_case, reason = "the functions are named after the constants they read")]
        #[expect(dead_code, reason = "one function per member; required members need no question")]
        pub mod has {
            $(
                #[inline(always)]
                pub fn $name() -> bool {
                    super::$name.load() != super::ABSENT
                }
            )+
        }
    };
}

offsets![
    OFF_SKC_FAMILY,
    OFF_SKC_STATE,
    OFF_SKC_NUM,
    OFF_SKC_DPORT,
    OFF_SKC_DADDR,
    OFF_SKC_RCV_SADDR,
    OFF_SKC_V6_DADDR,
    OFF_SKC_V6_RCV_SADDR,
    OFF_SKC_NET,
    OFF_SKC_FLAGS,
    OFF_NET_INUM,
    OFF_SK_PROTOCOL,
    OFF_SK_TYPE,
    OFF_SK_UID,
    OFF_SK_ERR,
    OFF_SK_ERR_SOFT,
    OFF_SK_ERROR_QUEUE,
    OFF_SKB_CB,
    OFF_EXTERR,
    OFF_SK_SHUTDOWN,
    OFF_SK_LINGERTIME,
    OFF_SK_SOCKET,
    OFF_INET_SPORT,
    OFF_TP_RCV_NXT,
    OFF_TP_COPIED_SEQ,
    OFF_TP_TSORTED,
    OFF_TP_TOTAL_RETRANS,
    OFF_TP_SEGS_OUT,
    OFF_TP_IS_MPTCP,
    OFF_TP_LSNDTIME,
    OFF_TP_WRITE_SEQ,
    OFF_TP_SND_UNA,
    OFF_TP_SND_WND,
    OFF_TP_SND_WL1,
    OFF_TP_PACKETS_OUT,
    OFF_TP_RCV_TSTAMP,
    OFF_TP_BYTES_RECEIVED,
    OFF_TP_BYTES_SENT,
    OFF_TP_CHRONO_START,
    OFF_TP_DELIVERED_MSTAMP,
    OFF_TP_RETRANS_STAMP,
    OFF_ICSK_PENDING,
    OFF_ICSK_LRCVTIME,
    OFF_ICSK_USER_TIMEOUT,
    OFF_ICSK_ULP_DATA,
    OFF_ICSK_RETRANSMITS,
    OFF_SUBFLOW_CONN,
    OFF_MSK_FIRST,
    OFF_SOCKET_SK,
    OFF_FILE_PRIVATE,
    OFF_FILES_FDT,
    OFF_FDT_FD,
    OFF_FDT_MAX,
    OFF_TASK_FILES,
    OFF_TASK_TGID,
    OFF_TASK_LEADER,
    OFF_TASK_START,
    OFF_TASK_COMM,
    OFF_TASK_FLAGS,
    OFF_TW_SUBSTATE,
    OFF_REQ_LISTENER,
    OFF_FILE_INODE,
    OFF_INODE_MODE,
    OFF_IO_FILE,
    OFF_IO_RESULT,
    OFF_ACCEPT_HEAD,
    OFF_REQ_SK,
    OFF_REQ_NEXT,
    OFF_SKB_HEAD,
    OFF_SKB_NETWORK,
    OFF_SKB_TRANSPORT,
    OFF_SKB_PROTOCOL,
    OFF_SKB_DEV,
    OFF_DEV_NET,
    OFF_SK_DROPS,
    OFF_SK_DROP_COUNTERS,
    OFF_DROPS0,
    OFF_DROPS1,
    OFF_INODE_INO,
    OFF_SK_BACKLOG,
    OFF_SK_MAX_BACKLOG,
    OFF_RSKQ_HEAD,
    OFF_RSKQ_FASTOPEN,
    OFF_ICSK_BIND_HASH,
    OFF_TB_FASTREUSE,
    OFF_TB_FASTREUSEPORT,
    OFF_NET_RESERVED_PORTS,
    OFF_NET_PORT_RANGE,
    PORT_RANGE_SIZE,
    OFF_NET_TW_REUSE,
    OFF_NET_TW_REUSE_DELAY,
    OFF_NET_HASHINFO,
    OFF_HASHINFO_EHASH,
    OFF_HASHINFO_MASK,
    OFF_SKC_HASH,
    OFF_SKC_NODE,
    OFF_SKC_BOUND_IF,
    OFF_TW_TS_STAMP,
    OFF_TW_ENTRY_STAMP,
    OFF_TW_BIND_HASH,
    OFF_REGS_ARG0,
    OFF_REGS_ARG1,
    OFF_REGS_ARG2,
    OFF_REGS_SYSCALL,
    OFF_TASK_STACK,
    PT_REGS_SIZE,
];

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)+) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            pub static $name: Global<$type> = Global::new($default);
        )+
    };
}

settings! {
    /// Kinds of record to write, one bit per `RECORD_` number.
    RECORD_MASK: u32 = 0;
    /// Bytes of unread records from which on the reader is woken before its timer expires.
    WAKEUP_BYTES: u64 = 0;
    /// 1 when `tcp_send_reset` has a reason argument (6.10 and later).
    RESET_HAS_REASON: u32 = 0;
    /// 1 when `bpf_task_pt_regs` does not exist (before 5.15).
    REGS_FROM_STACK: u32 = 0;
    /// 1 when `bpf_sock_from_file` exists (5.11 and later).
    HAS_SOCK_FROM_FILE: u32 = 1;
    /// 1 when `bpf_get_current_task_btf` exists (5.11 and later).
    HAS_TASK_BTF: u32 = 1;
    /// Programs may get a stack for each CPU (6.13 and later); see `uprobes::stack`.
    HAS_PRIVATE_STACKS: u32 = 1;
    /// The kernel's number for `SK_RST_REASON_NOT_SPECIFIED`.
    REASON_NOT_SPECIFIED: u32 = 0;
    /// The kernel's number for `SK_RST_REASON_TCP_STATE`. Many causes share it, so the cause is
    /// determined from the socket's fields instead.
    REASON_TCP_STATE: u32 = 0;
    /// 1 when the return of connect() is hooked.
    CONNECT_EXIT_SEEN: u32 = 0;
    /// System call number of connect(), as in `pt_regs`.
    CONNECT_NR: u64 = 0;
    /// 1 when the functions at the start and the end of TIME_WAIT are not hooked, and timewait
    /// sockets are looked up.
    TIME_WAIT_LOOKUP: u32 = 0;
    /// 1 when `inet_csk_accept` is hooked, so that returns of accept() are not counted.
    ACCEPT_BY_FUNCTION: u32 = 0;
    /// 1 when the functions that allocate descriptors are hooked, so that returns of accept() are not
    /// counted.
    FD_BY_FUNCTION: u32 = 0;
    /// 1 when `bpf_get_func_ret` exists (5.17 and later). Without it, the return value follows
    /// the arguments in the context, whose number must be known.
    HAS_FUNC_RET: u32 = 1;
    /// 1 when the search of connect() for a local port is hooked.
    PORTS_BY_FUNCTION: u32 = 0;
    /// 1 when the search of bind() for a local port is hooked.
    PORTS_BIND_BY_FUNCTION: u32 = 0;
    /// 1 when `__sys_bind` is hooked, so that returns of bind() are not counted.
    BIND_BY_FUNCTION: u32 = 0;
    /// 1 when `__sys_listen` is hooked, so that returns of listen() are not counted.
    LISTEN_BY_FUNCTION: u32 = 0;
    /// Maximum number of entries in the map of connections that belong to one process.
    CONNECTIONS_SHARE: u64 = i64::MAX as u64;
    /// Maximum number of entries in the map of connections without a known owner.
    UNATTRIBUTED_SHARE: u64 = i64::MAX as u64;
    /// Maximum number of entries in the map of listeners that belong to one process.
    LISTENERS_SHARE: u64 = i64::MAX as u64;
    /// Maximum number of entries in the map of UDP sockets that belong to one process.
    UDP_SOCKETS_SHARE: u32 = u32::MAX;
    /// Offset of the first sysctl in `struct net`.
    NET_SETTINGS_START: u64 = 0;
    /// Bytes up to the end of the last one.
    NET_SETTINGS_LENGTH: u64 = 0;
    /// End of the fields of `struct sock_common` that the iterator over connections reads.
    COMMON_END: u64 = 0;
    /// Start of those of `struct inet_connection_sock` and `struct tcp_sock`.
    TCP_START: u64 = 0;
    /// End of those.
    TCP_END: u64 = 0;
    /// End of the fields of `struct tcp_timewait_sock` that the iterator over sockets in TIME_WAIT reads.
    TIME_WAIT_END: u64 = 0;
    /// Offset of the return value in the `syscalls:sys_exit_*` tracepoints.
    SYSCALL_RET: u64 = 16;
}
