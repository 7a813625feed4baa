//! Calls that pass no system call tracepoint, because io_uring makes them: on the real kernel,
//! from this process.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrLike as _, socket};
use observer_test_support::{Daemon, Metrics};

/// A ring. Says so where there is none.
fn ring() -> Option<IoUring> {
    match IoUring::new(4) {
        Ok(ring) => Some(ring),
        Err(error) => skip!("no io_uring on this kernel: {error}"),
    }
}

/// Makes one call and returns its result.
pub fn call(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
    // SAFETY: what the entry points to lives until the call has completed, below.
    unsafe { ring.submission().push(entry).expect("room for one") };
    ring.submit_and_wait(1).expect("the call completes");
    let completion = ring.completion().next().expect("its completion");
    completion.result()
}

fn tcp_socket() -> OwnedFd {
    let flags = SockFlag::empty();
    socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket")
}

fn of(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> f64 {
    metrics.of(std::process::id(), name, labels)
}

pub fn accepts_of_io_uring_are_counted(daemon: &Daemon) {
    let Some(mut ring) = ring() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("an address");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(OwnedFd::from(
            TcpStream::connect(address).expect("it listens"),
        ));
        let accept = opcode::Accept::new(
            Fd(listener.as_raw_fd()),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
        let fd = call(&mut ring, &accept.build());
        assert!(fd >= 0, "{}", io::Error::from_raw_os_error(-fd));
        // SAFETY: just accepted, and nobody else's.
        held.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let metrics = daemon.scrape();
    let expected = if metrics.by_function("accept") {
        3.0
    } else {
        println!("accept through io_uring is not seen with these hooks before the end");
        0.0
    };
    assert_eq!(of(&metrics, "socket_accepts_total", &[]), expected);
    // Whoever counts them, they are this process's.
    let established = of(&metrics, "socket_connections", &[("state", "ESTABLISHED")]);
    assert!(established >= 6.0, "{}", metrics.shown());
    metrics.assert_complete();
    // A program has closed them, so one has accepted them.
    drop(held);
    let metrics = daemon.until("accepts", |metrics| {
        of(metrics, "socket_accepts_total", &[]) >= 3.0
    });
    assert_eq!(of(&metrics, "socket_accepts_total", &[]), 3.0);
    metrics.assert_complete();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_connect_that_fails_is_counted() {
    let Some(mut ring) = ring() else { return };
    let daemon = Daemon::shared();
    // Bound and not listening.
    let deaf = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = deaf.local_addr().expect("an address").port();
    drop(deaf);
    let client = tcp_socket();
    let target = SockaddrIn::new(127, 0, 0, 1, port);
    let connect = opcode::Connect::new(Fd(client.as_raw_fd()), target.as_ptr(), target.len());
    assert_eq!(call(&mut ring, &connect.build()), -libc::ECONNREFUSED);
    let metrics = daemon.scrape();
    let refused = |metrics| {
        of(
            metrics,
            "socket_connects_total",
            &[("result", "ECONNREFUSED")],
        )
    };
    assert_eq!(refused(&metrics) - refused(&daemon.before), 1.0);
    metrics.assert_complete();
}

/// Refused before a SYN, which only the call's result shows.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_connect_without_a_route_is_counted_where_the_function_is_hooked() {
    let Some(mut ring) = ring() else { return };
    let daemon = Daemon::shared();
    let client = tcp_socket();
    // Not an address to connect to (`ip_route_connect`).
    let target = SockaddrIn::new(224, 0, 0, 1, 80);
    let connect = opcode::Connect::new(Fd(client.as_raw_fd()), target.as_ptr(), target.len());
    let connect = connect.build();
    assert_eq!(call(&mut ring, &connect), -libc::ENETUNREACH);
    let metrics = daemon.scrape();
    let hook = [("hook", "io_connect"), ("signal", "connect")];
    let expected = metrics.sum("observer_hook_attached", &hook);
    if expected == 0.0 {
        println!("io_connect is not hooked");
    }
    let failed = |metrics| {
        of(
            metrics,
            "socket_connects_total",
            &[("result", "ENETUNREACH")],
        )
    };
    let seen = failed(&metrics) - failed(&daemon.before);
    assert_eq!(seen, expected, "{}", metrics.shown());
    metrics.assert_complete();
}
