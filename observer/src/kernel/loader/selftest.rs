//! The self-test: does every program on a function run? A program can be attached to a function
//! that the compiler has inlined into its callers, and then never runs.
//!
//! A thread enters a new network namespace and makes a few connections over loopback in it, so that
//! the host is not affected; the kernel's run-time statistics show which programs ran. The programs
//! are attached for the self-test only, so that its connections are not counted.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use aya::{Ebpf, sys::Stats};
use nix::{
    cmsg_space,
    sched::{CloneFlags, unshare},
    sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg},
};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::info;

use crate::kernel::hooks::spec::ProgramSpec;

/// Timeout of each call. All calls are fast, unless a packet is lost.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Makes the functions fire that `programs` are attached to, and returns the programs that did not
/// run.
///
/// # Errors
///
/// When the self-test could not run: no CAP_SYS_ADMIN, no network namespaces.
pub fn silent(
    ebpf: &Ebpf,
    programs: &[&'static ProgramSpec],
) -> io::Result<Vec<&'static ProgramSpec>> {
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    // The kernel keeps statistics while this descriptor is open. Needs CAP_SYS_ADMIN.
    let _statistics = aya::sys::enable_stats(Stats::RunTime).map_err(io::Error::other)?;
    let ipv6 = thread::Builder::new()
        .name("self-test".to_owned())
        .spawn(exercise)?
        .join()
        .map_err(|_| io::Error::other("the self-test panicked"))??;
    let mut silent = Vec::new();
    for program in programs {
        let exercised = program.self_tested && (ipv6 || !program.hook.contains("_v6_"));
        if exercised && runs(ebpf, program.name)? == 0 {
            silent.push(*program);
        }
    }
    Ok(silent)
}

fn runs(ebpf: &Ebpf, program: &str) -> io::Result<u64> {
    let program = ebpf
        .program(program)
        .ok_or_else(|| io::Error::other(format!("the object has no program {program}")))?;
    let info = program.info().map_err(io::Error::other)?;
    Ok(info.run_count())
}

/// Makes each hook fire once. Returns whether there is IPv6.
fn exercise() -> io::Result<bool> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    bring_loopback_up()?;
    connections(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let ipv6 = Socket::new(Domain::IPV6, Type::STREAM, None)
        .and_then(|socket| socket.bind(&SockAddr::from(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))))
        .is_ok();
    Ok(ipv6
        && connections(IpAddr::V6(Ipv6Addr::LOCALHOST))
            .inspect_err(|error| info!(%error, "no self-test over IPv6"))
            .is_ok())
}

fn bring_loopback_up() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all zero is a valid `ifreq`; the name is shorter than its field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is of the type that the call takes.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    nix::errno::Errno::result(ret)?;
    Ok(())
}

fn stream(address: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address((address, 0).into()), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("a socket without an internet address"))
}

fn connections(address: IpAddr) -> io::Result<()> {
    let listener = stream(address)?;
    listener.bind(&SocketAddr::new(address, 0).into())?;
    listener.listen(4)?;
    let server = local(&listener)?;

    // The server closes first and keeps the connection in TIME_WAIT.
    let client = stream(address)?;
    client.connect(&server.into())?;
    let from = local(&client)?;
    let accepted = listener.accept()?.0;
    accepted.shutdown(Shutdown::Both)?;
    drop(accepted);
    (&client).read_to_end(&mut Vec::new())?;
    drop(client);

    // The same ports again: the SYN ends the TIME_WAIT.
    let client = stream(address)?;
    client.bind(&from.into())?;
    connect_again(&client, server)?;
    let accepted = accept(&listener)?;
    (&client).write_all(b"x")?;

    pass(&client)?;
    // Fails: the descriptor is no socket option's value.
    let _ = client.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(Duration::ZERO));
    // Closed with unread data: an RST, received by the client.
    drop(accepted);
    let _ = (&client).read(&mut [0]);
    drop(client);
    refused(address)
}

/// Connects from the port of a connection whose last ACK a busy kernel may deliver late; until
/// then, connect() fails with EADDRNOTAVAIL.
fn connect_again(socket: &Socket, server: SocketAddr) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match socket.connect(&server.into()) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable
                    && started.elapsed() < TIMEOUT =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// accept(2), where the standard library uses accept4(2).
fn accept(listener: &Socket) -> io::Result<OwnedFd> {
    // SAFETY: a listening socket, and null for an address that is not wanted.
    let fd = unsafe {
        libc::accept(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    let fd = nix::errno::Errno::result(fd)?;
    // SAFETY: the descriptor has just been opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Passes a socket over another one, with SCM_RIGHTS.
fn pass(socket: &Socket) -> io::Result<()> {
    let (one, other) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
    let fds = [socket.as_raw_fd()];
    sendmsg::<()>(
        one.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )?;
    let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        other.as_raw_fd(),
        &mut data,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let nix::sys::socket::ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the descriptor has just been received and belongs to nobody else.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok(())
}

/// A connection to a closed port: an RST in each direction.
fn refused(address: IpAddr) -> io::Result<()> {
    let closed = stream(address)?;
    closed.bind(&SocketAddr::new(address, 0).into())?;
    let target = local(&closed)?;
    let client = stream(address)?;
    match client.connect(&target.into()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(io::Error::other(
            "somebody listens in the self-test's namespace",
        )),
    }
}
