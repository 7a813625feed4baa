//! The messages of a socket dump: what is asked for and what comes back.

use std::{io, net::SocketAddr};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, Parseable as _,
};
use netlink_packet_sock_diag::{
    SOCK_DIAG_BY_FAMILY, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, Timer},
};
use observer_common::{AF_INET, AF_INET6, STATES};

/// `NLM_F_DUMP_INTR`: the kernel's table changed in a way that the dump noticed.
const DUMP_INTERRUPTED: u16 = 0x10;

/// A set of TCP states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateMask(u32);

impl StateMask {
    /// All states that a socket in the kernel's tables can have: 1 to 11, TIME_WAIT among
    /// them. Sockets that are bound and neither connected nor listening are in none.
    pub const ALL: Self = Self((1 << STATES) - 2);

    /// The given states, by their numbers. A number above 31 is no state and is left out.
    /// [`observer_common::SYN_RECV`] also means request sockets, and a timewait socket
    /// belongs to its substate, which is FIN_WAIT2 or TIME_WAIT (`inet_diag_dump_icsk`).
    #[must_use]
    pub const fn of(states: &[u8]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < states.len() {
            if states[i] < 32 {
                bits |= 1 << states[i];
            }
            i += 1;
        }
        Self(bits)
    }

    /// Whether `state` is in the set.
    #[must_use]
    pub const fn contains(self, state: u8) -> bool {
        state < 32 && self.0 & (1 << state) != 0
    }
}

/// One TCP socket, from `struct inet_diag_msg` (include/uapi/linux/inet_diag.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketEntry {
    /// AF_INET or AF_INET6. An IPv6 socket that speaks IPv4 is AF_INET6 with mapped
    /// addresses.
    pub family: u16,
    /// TCP state; that of a request socket is SYN_RECV, that of a timewait socket its
    /// substate.
    pub state: u8,
    /// Whether it is a timewait socket, also one in substate FIN_WAIT2: no process has it,
    /// and `inode`, `uid` and queues are 0.
    pub timewait: bool,
    /// Local address and port.
    pub local: SocketAddr,
    /// Remote address and port; unspecified and 0 for a listener.
    pub remote: SocketAddr,
    /// Inode number on sockfs, as in the link /proc/PID/fd/N; 0 for a socket that no
    /// process holds.
    pub inode: u32,
    /// Socket cookie, `SO_COOKIE` and `bpf_get_socket_cookie`. A timewait socket keeps that
    /// of the socket it replaces.
    pub cookie: u64,
    /// Effective user id of the owner.
    pub uid: u32,
    /// Bytes received and not read; for a listener the connections waiting for accept.
    pub receive_queue: u32,
    /// Bytes sent and not acknowledged; for a listener the most that may wait.
    pub send_queue: u32,
}

impl SocketEntry {
    fn parse(payload: &[u8]) -> Result<Self, DecodeError> {
        // The header only: attributes follow, and none was asked for.
        let InetResponseHeader {
            family,
            state,
            timer,
            socket_id,
            recv_queue,
            send_queue,
            uid,
            inode,
        } = InetResponseHeader::parse(payload)?;
        let SocketId {
            source_port,
            destination_port,
            source_address,
            destination_address,
            interface_id: _,
            cookie: [a, b, c, d, e, f, g, h],
        } = socket_id;
        // Two 32-bit words, the lower half first (`sock_diag_save_cookie`).
        let low = u32::from_ne_bytes([a, b, c, d]);
        let high = u32::from_ne_bytes([e, f, g, h]);
        Ok(Self {
            family: u16::from(family),
            state,
            timewait: timer == Some(Timer::TimeWait),
            local: SocketAddr::new(source_address, source_port),
            remote: SocketAddr::new(destination_address, destination_port),
            inode,
            cookie: u64::from(high) << 32 | u64::from(low),
            uid,
            receive_queue: recv_queue,
            send_queue,
        })
    }
}

/// Why a dump failed.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// The netlink socket could not be opened or set up.
    #[error("cannot open a sock_diag socket")]
    Open(#[source] io::Error),
    /// The request could not be sent.
    #[error("cannot send a sock_diag request")]
    Send(#[source] io::Error),
    /// The answer could not be received.
    #[error("cannot receive from the sock_diag socket")]
    Receive(#[source] io::Error),
    /// The kernel did not answer in time.
    #[error("the kernel did not answer the sock_diag request in time")]
    TimedOut,
    /// The kernel refused: ENOENT means that it was built without the module tcp_diag, or
    /// could not load it.
    #[error("the kernel refused the sock_diag request")]
    Refused(#[source] io::Error),
    /// Messages were lost or the dump is inconsistent; another attempt may do better.
    #[error("the sock_diag dump was interrupted")]
    Interrupted,
    /// A datagram is longer than the buffer; another attempt may do better.
    #[error("a sock_diag datagram of {length} bytes is too long")]
    Truncated {
        /// Its length.
        length: usize,
    },
    /// The kernel's answer could not be understood.
    #[error("malformed sock_diag message")]
    Malformed(#[source] DecodeError),
}

impl SockDiagError {
    /// Whether the same request may succeed when it is made again at once.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Truncated { .. })
    }
}

/// How far a dump has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last message was there.
    pub done: bool,
    /// Some message carried `NLM_F_DUMP_INTR`.
    pub interrupted: bool,
}

/// Hands the sockets in one datagram to `f`. Messages that do not carry `sequence` are
/// left-overs of an earlier dump and are stepped over.
///
/// # Errors
///
/// [`SockDiagError::Refused`], [`SockDiagError::Interrupted`] and
/// [`SockDiagError::Malformed`].
pub fn parse_datagram(
    mut bytes: &[u8],
    sequence: u32,
    mut f: impl FnMut(&SocketEntry),
) -> Result<Progress, SockDiagError> {
    let mut progress = Progress::default();
    while !bytes.is_empty() && !progress.done {
        let message = NetlinkBuffer::new_checked(bytes).map_err(SockDiagError::Malformed)?;
        let length = message.length() as usize;
        if message.sequence_number() == sequence {
            progress.interrupted |= message.flags() & DUMP_INTERRUPTED != 0;
            let payload = message.payload();
            match message.message_type() {
                SOCK_DIAG_BY_FAMILY => {
                    f(&SocketEntry::parse(payload).map_err(SockDiagError::Malformed)?);
                }
                // Both start with 0 or a negative errno; the dump's own errors come with
                // the last message.
                NLMSG_ERROR | NLMSG_DONE => {
                    progress.done = true;
                    if let Some(&[a, b, c, d]) = payload.first_chunk::<4>() {
                        let code = i32::from_ne_bytes([a, b, c, d]);
                        if code < 0 {
                            let error = io::Error::from_raw_os_error(code.saturating_neg());
                            return Err(SockDiagError::Refused(error));
                        }
                    }
                }
                NLMSG_OVERRUN => return Err(SockDiagError::Interrupted),
                NLMSG_NOOP => {}
                other => {
                    let error = DecodeError::from(format!("unexpected message type {other}"));
                    return Err(SockDiagError::Malformed(error));
                }
            }
        }
        let aligned = length.next_multiple_of(usize::from(NLMSG_ALIGNTO));
        bytes = bytes.get(aligned..).unwrap_or_default();
    }
    Ok(progress)
}

/// The request for all TCP sockets of `family` in the given states.
pub(super) fn request(family: u16, states: StateMask, sequence: u32) -> Vec<u8> {
    debug_assert!(family == AF_INET || family == AF_INET6);
    let (family, socket_id) = if family == AF_INET {
        (libc::AF_INET as u8, SocketId::new_v4())
    } else {
        (libc::AF_INET6 as u8, SocketId::new_v6())
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(
        header,
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: libc::IPPROTO_TCP as u8,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::from_bits_retain(states.0),
            socket_id,
        })
        .into(),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
#[path = "sockdiag_message_tests.rs"]
mod tests;
