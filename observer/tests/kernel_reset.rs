//! RSTs, on the real kernel.

mod common;

use common::{Daemon, Netns};

/// Half-close misused: shutdown(SHUT_WR), the peer answers, close() with the answer unread.
/// An RST, not an orderly end: nothing enters TIME_WAIT, although the connection was in
/// FIN_WAIT2.
#[test]
fn half_close_then_close_with_unread_data() {
    needs_kernel!();
    let netns = Netns::new("halfclose");
    let daemon = Daemon::start(&[]);
    let before = netns.snmp();
    let mut program = netns.python(
        r#"
import socket
for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
    for _ in range(10):
        listener = socket.socket(family)
        listener.bind((address, 0))
        listener.listen()
        client = socket.socket(family)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b''
        server.sendall(b'answer')
        assert client.recv(6, socket.MSG_PEEK) == b'answer'
        client.close()
        try:
            server.recv(1)
        except OSError:
            pass
        server.close()
        listener.close()
print('done')
input()
"#,
        &[],
    );
    program.expect("done");
    let pid = program.pid();
    let metrics = daemon.scrape();
    let sent = [("direction", "sent"), ("reason", "TCP_ABORT_ON_CLOSE")];
    assert_eq!(
        metrics.of(pid, "socket_resets_total", &sent),
        20.0,
        "{}",
        metrics.text
    );
    let received = [("direction", "received"), ("reason", "IN_CLOSE_WAIT")];
    assert_eq!(
        metrics.of(pid, "socket_resets_total", &received),
        20.0,
        "{}",
        metrics.text
    );
    assert_eq!(metrics.of(pid, "socket_time_wait_entered_total", &[]), 0.0);
    assert_eq!(netns.ss("time-wait"), 0);
    let after = netns.snmp();
    assert_eq!(after["OutRsts"] - before["OutRsts"], 20);
    metrics.assert_complete();
    program.go();
    program.finish();
}
