//! An idle client of HTTP/2: the limit that docs/limitations.md describes under "Waiting".

use std::{thread, time::Duration};

use observer_common::{SEEN_ASKED, SEEN_PASSIVE, SocketSeen};
use observer_core::walk::wait_name;
use observer_test_support::{Daemon, Netns, Program, new_comm, skip};

use crate::walk::attach;

/// Fetches so many bytes over a connection of their own for each argument, prints the connection's port, and closes
/// the connections without GOAWAY.
const CLIENT: &str = r"
const http2 = require('http2'), net = require('net'), readline = require('readline');
const [comm, ...sizes] = process.argv.slice(1);
process.title = comm;
const once = (emitter, event) => new Promise((done) => emitter.once(event, done));
const lines = readline.createInterface({ input: process.stdin });
const server = http2.createServer();
server.on('sessionError', () => {});
server.on('stream', (stream, headers) => {
  stream.respond({ ':status': 200 });
  stream.end(Buffer.alloc(Number(headers[':path'].slice(1))));
});
server.listen(0, '127.0.0.1', async () => {
  const sockets = [];
  for (const size of sizes) {
    const socket = net.connect(server.address().port, '127.0.0.1');
    const session = http2.connect('http://127.0.0.1', { createConnection: () => socket });
    session.on('error', () => {});
    await once(session, 'remoteSettings');
    const request = session.request({ ':path': '/' + size });
    let received = 0;
    request.on('data', (data) => { received += data.length; });
    await once(request, 'end');
    if (received !== Number(size)) throw new Error(`${received} bytes of ${size}`);
    sockets.push(socket);
    console.log(socket.localPort);
  }
  await once(lines, 'line');
  for (const socket of sockets) {
    const closed = once(socket, 'close');
    socket.destroy();
    await closed;
  }
  console.log('closed');
  await once(lines, 'close');
  process.exit(0);
});
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn an_idle_client_seems_to_wait_after_a_large_response() {
    needs_programs!("node");
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let attached = attach();
    let comm = new_comm();
    let mut node = netns.command("node");
    node.args(["-e", CLIENT, &comm, "18", "300000"]);
    let mut program = Program::spawn_as(&comm, &mut node);
    let [small, large] = [(); 2].map(|()| program.line().parse::<u16>().expect("a port"));
    let walk = || {
        let mut seen: Vec<SocketSeen> = Vec::new();
        let walked = attached.walk(|socket| seen.push(socket)).unwrap();
        walked.map(|_| seen)
    };
    if walk().is_none() {
        skip!("the kernel has no iterators over maps");
    }
    let client = |port| {
        let seen = walk().unwrap();
        let is_client = |it: &&SocketSeen| it.local_port == port && it.flags & SEEN_PASSIVE == 0;
        *seen
            .iter()
            .find(is_client)
            .unwrap_or_else(|| panic!("{port}: {seen:#?}"))
    };
    // From a second on, a wait is counted.
    while client(large).idle_ms < 1_100 {
        thread::sleep(Duration::from_millis(50));
    }
    let [after_small, after_large] = [small, large].map(client);
    assert_eq!(
        wait_name(after_small.waits_for),
        "nobody",
        "{after_small:?}"
    );
    // The frames that give the window back are the last data, and nothing answers them.
    assert_eq!(wait_name(after_large.waits_for), "peer", "{after_large:?}");
    // They were sent immediately after received data, so detectors do not count them as a request.
    assert_eq!(after_large.flags & SEEN_ASKED, 0, "{after_large:?}");
    program.go();
    program.expect("closed");
    let timeouts = daemon.until("a wait that ended", |metrics| {
        metrics.by(
            &comm,
            "socket_read_stall_seconds_count",
            &[("reason", "timeout")],
        ) >= 1.0
    });
    let [count, sum] = ["count", "sum"].map(|part| {
        let family = format!("socket_read_stall_seconds_{part}");
        timeouts.by(&comm, &family, &[("reason", "timeout")])
    });
    assert_eq!(count, 1.0, "that of the large response");
    assert!(sum >= 1.0, "{sum}");
    program.finish();
}
