//! TCP states as the kernel numbers them (`include/net/tcp_states.h`, stable since 2.6).

/// Number of slots in an array indexed by state. States 1 to 11 are in use; 12
/// (`TCP_NEW_SYN_RECV`) and above belong to request sockets and `ss` and never appear in
/// `inet_sock_set_state`.
pub const STATES: usize = 12;

/// `TCP_ESTABLISHED`.
pub const ESTABLISHED: u8 = 1;
/// `TCP_SYN_SENT`.
pub const SYN_SENT: u8 = 2;
/// `TCP_SYN_RECV`.
pub const SYN_RECV: u8 = 3;
/// `TCP_FIN_WAIT1`.
pub const FIN_WAIT1: u8 = 4;
/// `TCP_FIN_WAIT2`.
pub const FIN_WAIT2: u8 = 5;
/// `TCP_TIME_WAIT`: a mini-socket's state, never that of a full socket.
pub const TIME_WAIT: u8 = 6;
/// `TCP_CLOSE`.
pub const CLOSE: u8 = 7;
/// `TCP_CLOSE_WAIT`.
pub const CLOSE_WAIT: u8 = 8;
/// `TCP_LAST_ACK`.
pub const LAST_ACK: u8 = 9;
/// `TCP_LISTEN`.
pub const LISTEN: u8 = 10;
/// `TCP_CLOSING`.
pub const CLOSING: u8 = 11;
/// `TCP_NEW_SYN_RECV`: the state of a request mini-socket.
pub const NEW_SYN_RECV: u8 = 12;

/// The state's name in the kernel's and RFC 9293's spelling, or `None` for a number that
/// is no TCP state.
#[must_use]
pub const fn state_name(state: u8) -> Option<&'static str> {
    Some(match state {
        ESTABLISHED => "ESTABLISHED",
        SYN_SENT => "SYN_SENT",
        SYN_RECV => "SYN_RECV",
        FIN_WAIT1 => "FIN_WAIT1",
        FIN_WAIT2 => "FIN_WAIT2",
        TIME_WAIT => "TIME_WAIT",
        CLOSE => "CLOSE",
        CLOSE_WAIT => "CLOSE_WAIT",
        LAST_ACK => "LAST_ACK",
        LISTEN => "LISTEN",
        CLOSING => "CLOSING",
        _ => return None,
    })
}

/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u16 = 6;
/// `IPPROTO_MPTCP`: the parent socket of an MPTCP connection; its subflows are
/// [`IPPROTO_TCP`].
pub const IPPROTO_MPTCP: u16 = 262;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;
