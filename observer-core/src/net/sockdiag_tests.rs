use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
};

use observer_common::{ESTABLISHED, LISTEN, SYN_SENT, TIME_WAIT};

use super::*;

fn listen(address: &str) -> Option<(TcpListener, SocketAddr)> {
    match TcpListener::bind(address) {
        Ok(listener) => {
            let address = listener.local_addr().unwrap();
            Some((listener, address))
        }
        Err(error) => {
            eprintln!("skipped: cannot listen on {address}: {error}");
            None
        }
    }
}

/// The inode number of a socket, from the link `socket:[N]`.
fn inode(listener: &TcpListener) -> u32 {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    let link = link.to_str().unwrap();
    link.trim_start_matches("socket:[")
        .trim_end_matches(']')
        .parse()
        .unwrap()
}

#[test]
fn listeners_are_found() {
    let mut diag = SockDiag::open().unwrap();
    for (address, family) in [("127.0.0.1:0", AF_INET), ("[::1]:0", AF_INET6)] {
        let Some((listener, address)) = listen(address) else {
            continue;
        };
        let listeners = diag.dump(StateMask::of(&[LISTEN])).unwrap();
        let entry = listeners
            .iter()
            .find(|entry| entry.local == address)
            .unwrap();
        assert_eq!(
            (entry.family, entry.state, entry.timewait),
            (family, LISTEN, false)
        );
        assert_eq!(entry.remote.port(), 0);
        assert_eq!(entry.inode, inode(&listener));
        assert_eq!(entry.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(entry.receive_queue, 0);
        assert!(entry.send_queue > 0, "the backlog");
        assert_ne!(entry.cookie, 0);
        assert!(listeners.iter().all(|entry| entry.state == LISTEN));

        let others = diag.dump(StateMask::of(&[SYN_SENT])).unwrap();
        assert!(others.iter().all(|entry| entry.local != address));
        let counts = diag.counts(StateMask::ALL).unwrap();
        assert!(counts.by_state[usize::from(LISTEN)] >= 1);
        assert_eq!(counts.by_state[0], 0);
    }
}

#[test]
fn a_timewait_socket_keeps_its_cookie() {
    let mut diag = SockDiag::open().unwrap();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Some((listener, address)) = listen(address) else {
            continue;
        };
        let client = TcpStream::connect(address).unwrap();
        let local = client.local_addr().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let find = |diag: &mut SockDiag, state: u8| {
            let entries = diag.dump(StateMask::of(&[state])).unwrap();
            entries
                .into_iter()
                .find(|entry| (entry.local, entry.remote) == (local, address))
        };
        let open = find(&mut diag, ESTABLISHED).unwrap();
        assert!(!open.timewait && open.inode != 0);

        // Who closes first is the one to wait.
        drop(client);
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
        drop(server);
        let timewait = (0..4000).find_map(|_| {
            thread::sleep(Duration::from_millis(5));
            find(&mut diag, TIME_WAIT)
        });
        let timewait = timewait.expect("a socket in TIME_WAIT");
        assert_eq!(timewait.cookie, open.cookie);
        assert!(timewait.timewait);
        assert_eq!((timewait.inode, timewait.uid), (0, 0));
    }
}

#[test]
fn a_dump_that_was_left_is_drained() {
    // Enough sockets for more than one datagram.
    let Some(_listeners) = (0..400)
        .map(|_| listen("127.0.0.1:0"))
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let mut diag = SockDiag::open().unwrap();
    let listeners = diag.counts(StateMask::of(&[LISTEN])).unwrap().by_state[usize::from(LISTEN)];
    assert!(listeners >= 400);

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        diag.for_each(StateMask::of(&[LISTEN]), |_| panic!("left in the middle"))
    }));
    assert!(panicked.is_err());
    assert!(diag.unfinished);
    let again = diag.dump(StateMask::of(&[LISTEN])).unwrap();
    assert!(again.len() >= 400);
}

#[test]
fn transient_errors_are_retried_once() {
    let mut diag = SockDiag::open().unwrap();
    // A buffer that no datagram fits into.
    diag.buffer.truncate(8);
    let Some(_listener) = listen("127.0.0.1:0") else {
        return;
    };
    let error = diag.dump(StateMask::ALL).unwrap_err();
    assert!(
        matches!(error, SockDiagError::Truncated { .. }),
        "{error:?}"
    );
    assert_eq!(diag.sequence, 2, "two attempts");
    diag.buffer.resize(BUFFER, 0);
    assert!(!diag.dump(StateMask::ALL).unwrap().is_empty());
}
