//! TLS handshakes, with real libraries on the real kernel.

use std::fs;

use observer_test_support::{Daemon, Metrics, Netns, PATIENCE, Program, scaled, skip};

const TOTAL: &str = "socket_tls_handshakes_total";
pub const IN_PROGRESS: &str = "socket_tls_handshakes_in_progress";
const OLDEST: &str = "socket_tls_handshake_oldest_seconds";

/// Why nothing is observed.
pub const NO_LINKS: &str = "this kernel has no uprobe_multi links";

/// The files of a server: a certificate for localhost, which is its own authority, and its key.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("certificate.pem", include_str!("../tls/certificate.pem")),
            ("key.pem", include_str!("../tls/key.pem")),
        ] {
            fs::write(folder.path().join(name), text).expect("the folder can be written to");
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    pub fn certificate(&self) -> String {
        self.path("certificate.pem")
    }

    pub fn key(&self) -> String {
        self.path("key.pem")
    }
}

/// A daemon; `None` where handshakes are not observed.
pub fn observing() -> Option<Daemon> {
    observing_with(&[])
}

fn observing_with(args: &[&str]) -> Option<Daemon> {
    // Files are found after capabilities were dropped.
    let daemon = Daemon::start(&[&["--user=nobody", "--tls=auto"], args].concat());
    let later = [("signal", "tls"), ("attach_type", "uprobe_multi")];
    let observes = daemon.scrape().has("observer_hook_attached", &later);
    observes.then_some(daemon)
}

/// The fields of the line of /proc/PID/maps with the code of the file whose name contains `name`.
fn mapping(pid: u32, name: &str) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process runs");
    let is_it = |line: &&str| {
        let file = line.rsplit('/').next();
        line.contains("r-xp") && file.is_some_and(|it| it.contains(name))
    };
    let line = maps.lines().find(is_it);
    let line = line.unwrap_or_else(|| panic!("{pid} has not mapped {name}:\n{maps}"));
    line.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The path of that file.
pub fn mapped(pid: u32, name: &str) -> String {
    mapping(pid, name).swap_remove(5)
}

/// Waits until that file is probed.
pub fn probed(daemon: &Daemon, pid: u32, name: &str) {
    probed_again(daemon, pid, name, 1);
}

/// Waits until it is probed for the so many'th time.
fn probed_again(daemon: &Daemon, pid: u32, name: &str, times: usize) {
    let inode = &mapping(pid, name)[4];
    // As text, and as JSON.
    let inodes = [format!("inode={inode}"), format!("\"inode\":{inode}")];
    let is_logged = |daemon: &Daemon| {
        let log = daemon.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("observing TLS handshakes"));
        let of_file = |line: &&str| {
            line.split([' ', ',', '}'])
                .any(|it| inodes.iter().any(|inode| it == inode))
        };
        lines.filter(of_file).count() >= times
    };
    daemon.wait("the file is probed", is_logged);
}

fn handshakes(metrics: &Metrics, comm: &str, library: &str, role: &str) -> [f64; 2] {
    ["ok", "failed"].map(|result| {
        let labels = [("library", library), ("role", role), ("result", result)];
        metrics.by(comm, TOTAL, &labels)
    })
}

/// Waits until this is what was counted.
pub fn expect(daemon: &Daemon, comm: &str, library: &str, role: &str, expected: [u64; 2]) {
    let expected = expected.map(|count| count as f64);
    let what = format!("{comm}: {library} {role} {expected:?}");
    daemon.until(&what, |metrics| {
        handshakes(metrics, comm, library, role) == expected
    });
}

/// What the Python programs below share. Their arguments are the certificate and the key.
pub const SHARED: &str = r"
import ssl
certificate, key = sys.argv[1:3]
serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
serving.load_cert_chain(certificate, key)
trusting = ssl.create_default_context(cafile=certificate)
doubting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
listener = listen(*FAMILIES[0])
target = listener.getsockname()
silent = listen(*FAMILIES[0])
def serve_one(plain):
    try:
        with serving.wrap_socket(plain, server_side=True) as secured:
            while secured.recv(100):
                secured.send(b'answer')
    except OSError:
        pass
def serve():
    while True:
        threading.Thread(target=serve_one, args=listener.accept()[:1], daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
def fetch(context):
    plain = connect(socket.AF_INET, target)
    try:
        with context.wrap_socket(plain, server_hostname='localhost') as secured:
            for _ in range(3):
                secured.send(b'question')
                assert secured.recv(100) == b'answer'
        return True
    except ssl.SSLError:
        return False
    finally:
        plain.close()
";

const OUTCOMES: &str = r"
print('ready')
input()
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    trusting.maximum_version = version
    for _ in range(5):
        assert fetch(trusting)
    for _ in range(2):
        assert not fetch(doubting)
# Not blocking: several calls for one handshake, of which the first comes before there is a server.
late = listen(*FAMILIES[0])
plain = connect(socket.AF_INET, late.getsockname())
plain.setblocking(False)
secured = trusting.wrap_socket(plain, server_hostname='localhost', do_handshake_on_connect=False)
calls = 0
while True:
    calls += 1
    try:
        secured.do_handshake()
        break
    except ssl.SSLWantReadError:
        if calls == 1:
            threading.Thread(target=serve_one, args=late.accept()[:1], daemon=True).start()
        select.select([secured], [], [])
    except ssl.SSLWantWriteError:
        select.select([], [secured], [])
assert calls > 1
secured.close()
# A client that vanishes.
plain = connect(socket.AF_INET, target)
plain.close()
# A server that does not answer.
plain = connect(socket.AF_INET, silent.getsockname())
plain.setblocking(False)
waiting = trusting.wrap_socket(plain, server_hostname='localhost', do_handshake_on_connect=False)
try:
    waiting.do_handshake()
except ssl.SSLWantReadError:
    pass
print('waiting')
input()
waiting.close()
del waiting, plain
# The same with a process that is killed meanwhile.
child = os.fork()
if child == 0:
    name(COMM + 'k')
    plain = connect(socket.AF_INET, silent.getsockname())
    trusting.wrap_socket(plain, server_hostname='localhost')
print('child')
input()
os.kill(child, 9)
os.waitpid(child, 0)
print('killed')
input()
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_handshake_counts_once_by_its_outcome() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let program = outcomes(&netns, &files);
    probed(&daemon, program.pid(), "libssl");
    outcomes_are_counted(&daemon, program);
}

/// A program that is about to make handshakes with each outcome.
pub fn outcomes(netns: &Netns, files: &Files) -> Program {
    let source = [SHARED, OUTCOMES].concat();
    let mut program = netns.script(&source, &[&files.certificate(), &files.key()]);
    program.expect("ready");
    program
}

/// Has it make them.
pub fn outcomes_are_counted(daemon: &Daemon, mut program: Program) {
    let comm = program.comm();
    program.go();
    program.expect("waiting");
    // Of the four clients that refuse, all have failed; the server that was told so, too. So has the server whose
    // client vanished.
    expect(daemon, &comm, "openssl", "client", [11, 4]);
    expect(daemon, &comm, "openssl", "server", [11, 5]);
    let labels = [("role", "client")];
    daemon.until("one handshake waits", |metrics| {
        metrics.by(&comm, IN_PROGRESS, &labels) == 1.0 && metrics.by(&comm, OLDEST, &labels) >= 2.0
    });
    program.go();
    program.expect("child");
    expect(daemon, &comm, "openssl", "client", [11, 5]);
    let child = program.comm_of_child('k');
    daemon.until("the child's handshake waits", |metrics| {
        metrics.by(&child, IN_PROGRESS, &labels) == 1.0
    });
    program.go();
    program.expect("killed");
    expect(daemon, &child, "openssl", "client", [0, 1]);
    let metrics = daemon.until("nothing waits", |metrics| {
        !metrics.has(IN_PROGRESS, &[("comm", &child)])
    });
    let seconds = "socket_tls_handshake_seconds";
    let count = format!("{seconds}_count");
    for role in ["client", "server"] {
        assert_eq!(metrics.by(&comm, &count, &[("role", role)]), 11.0);
    }
    metrics.assert_complete();
    program.end();
}

/// Handshakes one after the other by several threads.
const MANY: &str = r"
threads, each = map(int, sys.argv[3:5])
print('ready')
input()
def loop():
    for _ in range(each):
        plain = connect(socket.AF_INET, target)
        with trusting.wrap_socket(plain, server_hostname='localhost') as secured:
            secured.send(b'question')
            assert secured.recv(100) == b'answer'
threads = [threading.Thread(target=loop) for _ in range(threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print('done')
input()
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn many_handshakes_of_threads_are_as_many() {
    let Some(daemon) = observing_with(&["--bpf-stats"]) else {
        skip!("{NO_LINKS}")
    };
    let files = Files::new();
    let netns = Netns::new();
    let each = scaled(2_500, 25);
    let source = [SHARED, MANY].concat();
    let arguments = [&files.certificate(), &files.key(), "4", &each.to_string()];
    let mut program = netns.script(&source, &arguments);
    let comm = program.comm();
    program.expect("ready");
    probed(&daemon, program.pid(), "libssl");
    program.go();
    // They take 15 seconds where nothing else runs.
    assert_eq!(program.line_within(10 * PATIENCE), "done");
    expect(&daemon, &comm, "openssl", "client", [4 * each, 0]);
    expect(&daemon, &comm, "openssl", "server", [4 * each, 0]);
    // Each has one call at least.
    for name in ["tls_enter", "tls_leave"] {
        let labels = [("program", name)];
        daemon.until("the runs of the programs are counted", |metrics| {
            metrics.sum("observer_bpf_runs_total", &labels) >= (8 * each) as f64
                && metrics.sum("observer_bpf_run_seconds_total", &labels) > 0.0
        });
    }
    program.end();
}

pub const ONE: &str = r"
print('ready')
input()
assert fetch(trusting)
print('done')
input()
";

/// As by an upgrade while a program runs that has the old one mapped.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_library_that_is_replaced_or_written_to_is_met_again() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let files = Files::new();
    let netns = Netns::new();
    let source = [SHARED, ONE].concat();
    let arguments = [&*files.certificate(), &files.key()];
    let mut first = netns.script(&source, &arguments);
    first.expect("ready");
    let library = mapped(first.pid(), "libssl");
    let name = library.rsplit('/').next().expect("a path");
    let (copy, next) = (files.path(name), files.path("next"));
    let mut programs = Vec::new();
    let start = |times| {
        let mut command = netns.command("python3");
        command.env("LD_PRELOAD", &copy);
        let source = [observer_test_support::PRELUDE, &source].concat();
        let mut program = Program::python_by(&mut command, &source, &arguments);
        program.expect("ready");
        assert_eq!(mapped(program.pid(), "libssl"), copy);
        probed_again(&daemon, program.pid(), "libssl", times);
        program.go();
        program.expect("done");
        expect(&daemon, &program.comm(), "openssl", "client", [1, 0]);
        expect(&daemon, &program.comm(), "openssl", "server", [1, 0]);
        program
    };
    for _ in 0..2 {
        // Another inode each time.
        fs::copy(&library, &next).expect("the library can be copied");
        fs::rename(&next, &copy).expect("it can be replaced");
        programs.push(start(1));
    }
    for program in programs {
        program.end();
    }
    // The same inode, whose instructions may be others from now on.
    fs::copy(&library, &copy).expect("nobody has it mapped");
    daemon.wait("it is not probed any more", |daemon| {
        daemon.log().contains("a probed file was written to")
    });
    start(2).end();
    first.kill();
}

/// Containers of one image: overlayfs shows the same file of a layer in each, by another device. In one that may write, the
/// file is changed first: it is copied, and keeps its inode number.
const CONTAINER: &str = r#"
set -e
options="lowerdir=$1:$2"
library="$3/$4"
if [ -n "$5" ]; then
    mkdir -p "$5/upper" "$5/work"
    options="$options,upperdir=$5/upper,workdir=$5/work"
fi
mount -t overlay overlay -o "$options" "$3"
[ -z "$5" ] || chmod 700 "$library"
export LD_PRELOAD="$library"
shift 5
exec "$@"
"#;

/// Takes the build ID away, as Go's own linker writes none: the note is of an unknown kind from then on.
fn without_build_id(library: &str) -> Vec<u8> {
    let mut bytes = fs::read(library).expect("the library can be read");
    // Type NT_GNU_BUILD_ID, and the name.
    let note = b"\x03\0\0\0GNU\0";
    let at = bytes.windows(note.len()).position(|it| it == note);
    bytes[at.expect("it has a build ID")] = 99;
    bytes
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_layer_of_two_containers_counts_once() {
    let known = fs::read_to_string("/proc/filesystems").expect("procfs is mounted");
    if !known.contains("overlay") {
        skip!("this kernel has no overlayfs")
    }
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let files = Files::new();
    let netns = Netns::new();
    let arguments = [&*files.certificate(), &files.key()];
    let source = [observer_test_support::PRELUDE, SHARED, AT_EACH_LINE].concat();
    let mut system = netns.script(&[SHARED, AT_EACH_LINE].concat(), &arguments);
    system.expect("ready");
    let library = mapped(system.pid(), "libssl");
    system.kill();
    let name = library.rsplit('/').next().expect("a path");
    let folders = ["layer", "base", "root"].map(|it| files.path(it));
    for folder in &folders {
        fs::create_dir(folder).expect("the folder can be made");
    }
    let [layer, base, root] = &folders;
    fs::write(format!("{layer}/{name}"), without_build_id(&library)).expect("it can be written");
    let start = |writes: &str| {
        let mut command = netns.command("unshare");
        // A mount namespace for each, as for containers.
        command.args(["--mount", "sh", "-c", CONTAINER, "sh"]);
        command.args([layer, base, root, name, writes, "python3"]);
        let mut program = Program::python_by(&mut command, &source, &arguments);
        program.expect("ready");
        program
    };
    let fetches = |program: &mut Program, made: u64| {
        program.go();
        program.expect("done");
        for role in ["client", "server"] {
            expect(&daemon, &program.comm(), "openssl", role, [made, 0]);
        }
    };
    let [mut first, mut second] = [start(""), start("")];
    let [of_first, of_second] = [&first, &second].map(|it| mapping(it.pid(), "libssl"));
    assert_eq!(of_first[4], of_second[4], "the inode of the layer");
    assert_ne!(of_first[3], of_second[3], "the device of the mount");
    probed(&daemon, first.pid(), "libssl");
    for made in 1..=2 {
        fetches(&mut first, made);
        fetches(&mut second, made);
    }
    let inode = format!("inode={}", of_first[4]);
    assert_eq!(daemon.log().matches(&inode).count(), 1, "it is probed once");
    let mut third = start(&files.path("writes"));
    let is_same = mapping(third.pid(), "libssl")[4] == of_first[4];
    probed_again(&daemon, third.pid(), "libssl", 1 + usize::from(is_same));
    fetches(&mut third, 1);
    fetches(&mut first, 3);
    daemon.scrape().assert_complete();
    for program in [first, second, third] {
        program.kill();
    }
}

/// A handshake for each line on standard input.
const AT_EACH_LINE: &str = r"
print('ready')
while input() is not None:
    assert fetch(trusting)
    print('done')
";
