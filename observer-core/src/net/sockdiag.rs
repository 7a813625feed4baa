//! Dumping the TCP sockets of a network namespace: sock_diag(7), what ss(8) uses.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use observer_common::{AF_INET, AF_INET6, STATES};

use super::sockdiag_message::{Progress, parse_datagram, request};
pub use super::sockdiag_message::{SockDiagError, SocketEntry, StateMask};

/// How long to wait for one datagram.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The kernel fills datagrams of up to 32 KiB (`netlink_dump`).
const BUFFER: usize = 64 << 10;

/// The most datagrams of an abandoned dump that are thrown away before giving up on it.
const DRAIN: usize = 1 << 16;

/// Sockets by TCP state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// All sockets, by state number, as ss(8) counts them.
    pub by_state: [u64; STATES],
    /// Of those in FIN_WAIT2, the timewait sockets. The `tw` of /proc/net/sockstat is this
    /// plus those in TIME_WAIT.
    pub timewait_in_fin_wait2: u64,
}

impl StateCounts {
    fn add(&mut self, entry: &SocketEntry) {
        if let Some(count) = self.by_state.get_mut(usize::from(entry.state)) {
            *count += 1;
        }
        if entry.timewait && entry.state == observer_common::FIN_WAIT2 {
            self.timewait_in_fin_wait2 += 1;
        }
    }
}

/// A connection to the kernel's sock_diag, bound to the network namespace that the thread
/// which opened it was in. Needs no privileges; without CAP_NET_ADMIN nothing that is read
/// here is missing.
///
/// A dump is no snapshot: sockets come, go and change state while it runs, so one that
/// changes its hash bucket may be missed or be seen twice.
pub struct SockDiag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// A dump was begun and not read to its end.
    unfinished: bool,
}

impl SockDiag {
    /// Opens it in the calling thread's network namespace. For another one, call this by
    /// [`super::netns::in_netns`] and keep the result.
    ///
    /// # Errors
    ///
    /// [`SockDiagError::Open`].
    pub fn open() -> Result<Self, SockDiagError> {
        let socket = Socket::new(NETLINK_SOCK_DIAG).map_err(SockDiagError::Open)?;
        // Only the kernel may answer then.
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(SockDiagError::Open)?;
        let timeout = TimeVal::new(TIMEOUT.as_secs().cast_signed(), 0);
        setsockopt(&socket, ReceiveTimeout, &timeout)
            .map_err(|errno| SockDiagError::Open(errno.into()))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
            unfinished: false,
        })
    }

    /// Calls `f` for each TCP socket, IPv4 and IPv6, in one of `states`. MPTCP sockets are
    /// not among them, their subflows are.
    ///
    /// # Errors
    ///
    /// [`SockDiagError`]. `f` has been called for some of the sockets then, so this is not
    /// tried again; [`Self::dump`] and [`Self::counts`] do that.
    pub fn for_each(
        &mut self,
        states: StateMask,
        mut f: impl FnMut(&SocketEntry),
    ) -> Result<(), SockDiagError> {
        for family in [AF_INET, AF_INET6] {
            self.dump_family(family, states, &mut f)?;
        }
        Ok(())
    }

    /// All TCP sockets in one of `states`. Tried once more after a transient error.
    ///
    /// # Errors
    ///
    /// [`SockDiagError`].
    pub fn dump(&mut self, states: StateMask) -> Result<Vec<SocketEntry>, SockDiagError> {
        self.gather(states, |entries: &mut Vec<_>, entry| entries.push(*entry))
    }

    /// How many TCP sockets in one of `states` there are, by state. Tried once more after a
    /// transient error.
    ///
    /// # Errors
    ///
    /// [`SockDiagError`].
    pub fn counts(&mut self, states: StateMask) -> Result<StateCounts, SockDiagError> {
        self.gather(states, StateCounts::add)
    }

    fn gather<T: Default>(
        &mut self,
        states: StateMask,
        add: impl Fn(&mut T, &SocketEntry),
    ) -> Result<T, SockDiagError> {
        let mut attempt = || {
            let mut gathered = T::default();
            self.for_each(states, |entry| add(&mut gathered, entry))
                .map(|()| gathered)
        };
        match attempt() {
            Err(error) if error.is_transient() => attempt(),
            result => result,
        }
    }

    fn dump_family(
        &mut self,
        family: u16,
        states: StateMask,
        f: &mut impl FnMut(&SocketEntry),
    ) -> Result<(), SockDiagError> {
        if self.unfinished {
            self.drain()?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(family, states, self.sequence);
        self.socket.send(&request, 0).map_err(SockDiagError::Send)?;
        self.unfinished = true;
        let mut interrupted = false;
        loop {
            let length = self.receive(0)?;
            let progress = parse_datagram(&self.buffer[..length], self.sequence, &mut *f);
            if let Ok(Progress { done: true, .. }) | Err(SockDiagError::Refused(_)) = progress {
                self.unfinished = false;
            }
            let progress = progress?;
            interrupted |= progress.interrupted;
            if progress.done {
                break;
            }
        }
        if interrupted {
            Err(SockDiagError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Reads one datagram into the buffer and returns its length.
    fn receive(&mut self, flags: i32) -> Result<usize, SockDiagError> {
        loop {
            // With MSG_TRUNC the return value is the real length of the datagram.
            let result = self
                .socket
                .recv(&mut &mut self.buffer[..], flags | libc::MSG_TRUNC);
            match result {
                Ok(length) if length > self.buffer.len() => {
                    return Err(SockDiagError::Truncated { length });
                }
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(SockDiagError::TimedOut);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Err(SockDiagError::Interrupted);
                }
                Err(error) => return Err(SockDiagError::Receive(error)),
            }
        }
    }

    /// Throws away what is left of an earlier dump: the kernel answers EBUSY to a new one
    /// as long as one is running, and it runs on as its datagrams are received.
    fn drain(&mut self) -> Result<(), SockDiagError> {
        for _ in 0..DRAIN {
            match self.receive(libc::MSG_DONTWAIT) {
                Err(SockDiagError::TimedOut) => {
                    self.unfinished = false;
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        Err(SockDiagError::Interrupted)
    }
}

#[cfg(test)]
#[path = "sockdiag_tests.rs"]
mod tests;
