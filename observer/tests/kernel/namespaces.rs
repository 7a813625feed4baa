//! What is read of each network namespace, on the real kernel.

use std::time::Instant;

use observer_core::{
    net::{counters::NamespaceCounters, netns::Representatives},
    process::ProcRoot,
};
use observer_test_support::Netns;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn overflows_of_time_wait_and_syn_cookies_are_read() {
    let netns = Netns::new();
    netns.keep_time_wait();
    netns.sysctl("net.ipv4.tcp_max_tw_buckets", "5");
    netns.sysctl("net.ipv4.tcp_syncookies", "2");
    let mut program = netns.script(
        r"
listener = listen(socket.AF_INET, '127.0.0.1')
for _ in range(20):
    client = connect(socket.AF_INET, listener.getsockname())
    server, _ = listener.accept()
    client.close()
    assert server.recv(1) == b''
    server.close()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let mut processes = Representatives::new(ProcRoot::default());
    let inode = netns.inode().parse().unwrap();
    let mut read = || NamespaceCounters::read(inode, &mut processes, Instant::now()).unwrap();
    let counters = read().expect("the program is in it");
    let kernel = netns.netstat();
    assert_eq!(counters.netns, inode);
    assert_eq!(
        counters.time_wait_overflows as i64,
        kernel["TCPTimeWaitOverflow"]
    );
    assert_eq!(counters.syncookies_sent as i64, kernel["SyncookiesSent"]);
    assert!(counters.time_wait_overflows >= 10, "{counters:?}");
    assert!(counters.syncookies_sent >= 20, "{counters:?}");
    program.end();
    assert_eq!(read(), None);
}
