//! Listening sockets that systemd opened (socket activation, sd_listen_fds(3)).

use std::{
    io,
    net::TcpListener,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
};

use socket2::{Domain, Socket, Type};
use thiserror::Error;

/// Errors of sockets passed by systemd.
#[derive(Debug, Error)]
pub enum InheritedError {
    /// The environment is wrong, or a descriptor is no socket.
    #[error("cannot use the sockets that systemd passes (LISTEN_FDS)")]
    Io(#[from] io::Error),
    /// The socket does not listen, has an unsupported type, or is the second of its type.
    #[error(
        "descriptor {0} that systemd passes (LISTEN_FDS) cannot be used: only one TCP and one \
         Unix socket are allowed, both ListenStream="
    )]
    Unexpected(i32),
}

/// What systemd passed.
#[derive(Debug, Default)]
pub struct Inherited {
    /// To serve on instead of the setting `listen`.
    pub tcp: Option<TcpListener>,
    /// Instead of the setting `api-socket`.
    pub unix: Option<UnixListener>,
}

impl Inherited {
    /// Takes the sockets. They are distinguished by their address family, not by FileDescriptorName=. Call it once.
    ///
    /// # Errors
    ///
    /// When a socket cannot be used.
    pub fn take() -> Result<Self, InheritedError> {
        let mut inherited = Self::default();
        for fd in sd_notify::listen_fds()? {
            // SAFETY: systemd opened it for this process, and nothing else here knows its number.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            let listens = socket.is_listener()? && socket.r#type()? == Type::STREAM;
            let unexpected = InheritedError::Unexpected(fd);
            match socket.domain()? {
                Domain::IPV4 | Domain::IPV6 if listens && inherited.tcp.is_none() => {
                    inherited.tcp = Some(socket.into());
                }
                Domain::UNIX if listens && inherited.unix.is_none() => {
                    inherited.unix = Some(socket.into());
                }
                _ => return Err(unexpected),
            }
        }
        Ok(inherited)
    }
}
