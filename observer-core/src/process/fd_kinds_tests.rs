use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
};

use super::*;

fn kind(link: &str) -> FdKind {
    match target(link.as_bytes()) {
        Target::Kind(kind) => kind,
        Target::Socket(inode) => panic!("socket {inode}"),
    }
}

#[test]
fn links_are_classified() {
    let file = |directory: &str, deleted| FdKind::File {
        directory: directory.to_owned(),
        deleted,
    };
    assert_eq!(kind("/var/log/app.log"), file("/var/log", false));
    assert_eq!(kind("/tmp/x (deleted)"), file("/tmp", true));
    assert_eq!(kind("/x"), file("/", false));
    assert_eq!(
        kind("/memfd:cache (deleted)"),
        FdKind::Anonymous("memfd".to_owned())
    );
    assert_eq!(kind("pipe:[123]"), FdKind::Pipe);
    assert_eq!(
        kind("anon_inode:[eventfd]"),
        FdKind::Anonymous("eventfd".to_owned())
    );
    assert_eq!(
        kind("anon_inode:inotify"),
        FdKind::Anonymous("inotify".to_owned())
    );
    assert_eq!(
        kind("net:[4026531840]"),
        FdKind::Anonymous("net:[4026531840]".to_owned())
    );
    assert!(matches!(target(b"socket:[77]"), Target::Socket(77)));
    assert_eq!(kind("/\x1b[31m\n/x"), file("/\\x1b[31m\\x0a", false));
    let FdKind::File { directory, .. } = kind(&format!("/{}/x", "é".repeat(100))) else {
        panic!("a file");
    };
    assert_eq!(directory.chars().count(), DIRECTORY + 1);
    assert!(matches!(
        target(b"/\xff\xfe/x"),
        Target::Kind(FdKind::File { .. })
    ));
}

#[test]
fn ends_are_read() {
    let end = |text| end(text).map(|(address, port)| format!("{address} {port}"));
    // As a little-endian processor writes them.
    if cfg!(target_endian = "little") {
        assert_eq!(end("0100007F:0050").unwrap(), "127.0.0.1 80");
        let mapped = "0000000000000000FFFF00000100007F:C350";
        assert_eq!(end(mapped).unwrap(), "127.0.0.1 50000");
        let v6 = "B80D0120000000000000000001000000:01BB";
        assert_eq!(end(v6).unwrap(), "2001:db8::1 443");
    }
    for wrong in ["", "7F:50", "0100007F", "0100007G:0050", "0100007F:10000"] {
        assert_eq!(end(wrong), None, "{wrong}");
    }
}

/// A process with descriptors of each kind.
const PROGRAM: &str = r#"
import os, socket, sys, tempfile
host, port = sys.argv[1], int(sys.argv[2])
keep = [socket.create_connection((host, port)) for _ in range(5)]
keep[0].recv(1)
keep += [keep[1].dup() for _ in range(6)]
keep += [socket.socket() for _ in range(4)]
keep.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
keep[-1].bind((host, 0))
keep += socket.socketpair()
# Before bind().
keep += [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) for _ in range(3)]
keep.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
pipes = [os.pipe() for _ in range(3)]
directory = tempfile.mkdtemp(dir=sys.argv[3])
files = [open(os.path.join(directory, str(n)), "w") for n in range(7)]
for n in range(7):
    os.unlink(os.path.join(directory, str(n)))
print("ready", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_process_is_looked_at() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new("python3")
        .args(["-c", PROGRAM, "127.0.0.1", &address.port().to_string()])
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut accepted: Vec<TcpStream> = (0..5).map(|_| listener.accept().unwrap().0).collect();
    // The first one is closed: CLOSE_WAIT over there.
    let first = accepted.remove(0);
    (&first).write_all(b"x").unwrap();
    drop(first);
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let root = ProcRoot::default();
    let expected = [
        (FdKind::Tcp("CLOSE_WAIT"), 1),
        (FdKind::Tcp("ESTABLISHED"), 4),
        (FdKind::IdleSocket, 4),
        (FdKind::Duplicate, 6),
        (FdKind::Socket("udp"), 1),
        (FdKind::Socket("unix"), 3),
        (FdKind::Socket("netlink"), 3),
    ];
    let mut kinds = FdKinds::read(&root, child.id()).unwrap();
    for _ in 0..200 {
        // The FIN may be on its way.
        if kinds.counts.contains_key(&FdKind::Tcp("CLOSE_WAIT")) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        kinds = FdKinds::read(&root, child.id()).unwrap();
    }
    for (kind, count) in &expected {
        assert_eq!(
            kinds.count(|it| it == kind),
            *count,
            "{kind:?} in {kinds:?}"
        );
    }
    let deleted = kinds.count(|kind| {
        matches!(kind, FdKind::File { deleted: true, directory: at }
            if at.starts_with(directory.path().to_str().unwrap()))
    });
    assert_eq!(deleted, 7, "{kinds:?}");
    let peer = |is_client| FdPeer {
        address: address.ip(),
        port: address.port(),
        is_client,
    };
    assert_eq!(kinds.peers(), [(peer(false), 4)]);
    let own = FdKinds::read(&root, std::process::id()).unwrap();
    assert!(own.peers().contains(&(peer(true), 4)), "{own:?}");
    // Three of its own, and those for standard input and output.
    assert!(kinds.count(|kind| *kind == FdKind::Pipe) >= 6, "{kinds:?}");
    assert_eq!(
        kinds.most_first()[0].1,
        kinds.counts.values().copied().max().unwrap()
    );
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(FdKinds::read(&root, child.id()).is_err());
}

/// Go programs and thread pools may end their first thread; /proc/PID/fd is empty from then on.
#[test]
fn a_process_whose_first_thread_has_ended_is_looked_at() {
    const PROGRAM: &str = r#"
import ctypes, sys, threading
keep = [open("/dev/null") for _ in range(9)]
threading.Thread(target=lambda: print("ready", flush=True) or sys.stdin.read()).start()
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"#;
    let mut child = Command::new("python3")
        .args(["-c", PROGRAM, &libc::SYS_exit.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    let output = child.stdout.as_mut().unwrap();
    output.read_exact(&mut ready).unwrap();
    let root = ProcRoot::default();
    let own = format!("/proc/{}/fd", child.id());
    for _ in 0..200 {
        if std::fs::read_dir(&own).unwrap().next().is_none() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(std::fs::read_dir(&own).unwrap().next().is_none());
    let kinds = FdKinds::read(&root, child.id()).unwrap();
    let files =
        kinds.count(|kind| matches!(kind, FdKind::File { directory, .. } if directory == "/dev"));
    assert!(files >= 9, "{kinds:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}
