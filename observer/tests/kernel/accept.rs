//! Accepted connections and descriptor exhaustion, on the real kernel: a connection
//! belongs to its listener's process until it is accepted, then to who accepted it.

use observer_test_support::{Daemon, Metrics, Netns, Program};

const ACCEPTS: &str = "socket_accepts_total";

/// Connects `count` times to each of the ports, and holds the connections.
const CLIENT: &str = r"
held = []
for (family, address), port in zip(FAMILIES, sys.argv[1].split()):
    for _ in range(int(sys.argv[2])):
        held.append(connect(family, (address, int(port))))
print('connected')
input()
for conn in held:
    conn.close()
print('closed')
input()
";

fn live(metrics: &Metrics, pid: u32, state: &str) -> f64 {
    metrics.of(pid, "socket_connections", &[("state", state)])
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn prefork_workers_own_what_they_accept() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut server = netns.script(
        r"
listeners = [listen(family, address) for family, address in FAMILIES]
down, up = os.pipe()
go, start = os.pipe()
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        os.close(up)
        os.read(go, 1)
        held = [listener.accept()[0] for listener in listeners for _ in range(5)]
        os.write(1, b'accepted\n')
        os.read(down, 1)
        os._exit(0)
    pids.append(pid)
print(*[listener.getsockname()[1] for listener in listeners])
print(*pids)
input()
os.write(start, b'123')
input()
os.close(up)
for pid in pids:
    os.waitpid(pid, 0)
print('gone')
input()
",
        &[],
    );
    let ports = server.line();
    let workers: Vec<u32> = server
        .line()
        .split(' ')
        .map(|pid| pid.parse().unwrap())
        .collect();
    let mut client = netns.script(CLIENT, &[&ports, "15"]);
    client.expect("connected");
    let parent = server.pid();
    let metrics = daemon.until(
        "unaccepted connections of the listener's process",
        |metrics| live(metrics, parent, "ESTABLISHED") == 30.0,
    );
    assert_eq!(metrics.of(parent, ACCEPTS, &[]), 0.0);
    server.go();
    for _ in &workers {
        server.expect("accepted");
    }
    let metrics = daemon.scrape();
    if metrics.observes("accept") && !daemon.skipped_twice("accept_again_fexit") {
        for &worker in &workers {
            metrics.assert_of(worker, ACCEPTS, &[], 10.0);
            assert_eq!(
                live(&metrics, worker, "ESTABLISHED"),
                10.0,
                "{}",
                metrics.shown()
            );
            assert_eq!(live(&metrics, worker, "LISTEN"), 0.0);
        }
        assert_eq!(metrics.of(parent, ACCEPTS, &[]), 0.0);
        assert_eq!(
            live(&metrics, parent, "ESTABLISHED"),
            0.0,
            "{}",
            metrics.shown()
        );
        // All of them have the same name.
        assert_eq!(metrics.by(&server.comm(), ACCEPTS, &[]), 30.0);
    }
    assert_eq!(live(&metrics, parent, "LISTEN"), 2.0);
    assert_eq!(live(&metrics, client.pid(), "ESTABLISHED"), 30.0);
    assert_eq!(netns.ss("established"), 60);
    metrics.assert_complete();
    server.go();
    server.expect("gone");
    client.go();
    client.expect("closed");
    daemon.until("no connection left", |metrics| {
        live(metrics, client.pid(), "ESTABLISHED") == 0.0
    });
    // The workers' series ended with them; their accepts remain in the series of their name.
    let metrics = daemon.until("the end of the workers' series", |metrics| {
        !workers.iter().any(|&worker| metrics.shows(worker))
    });
    if metrics.observes("accept") && !daemon.skipped_twice("accept_again_fexit") {
        assert_eq!(metrics.by(&server.comm(), ACCEPTS, &[]), 30.0);
        assert_eq!(metrics.of(parent, ACCEPTS, &[]), 0.0);
    }
    // Children belonged to the listener's process first; its gauges must not be below 0 now.
    assert_eq!(live(&metrics, parent, "LISTEN"), 2.0);
    assert_eq!(live(&metrics, parent, "ESTABLISHED"), 0.0);
    metrics.assert_complete();
    client.end();
    server.end();
}

/// Recv-Q of the listeners of a process, as `ss` reports it.
fn accept_queues(netns: &Netns, pid: u32) -> usize {
    let holder = format!("pid={pid},");
    netns
        .run("ss", &["-Htlnp"])
        .lines()
        .filter(|line| line.contains(&holder))
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<usize>()
                .unwrap()
        })
        .sum()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reuseport_queues_belong_to_their_own_process() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let source = r"
listeners = []
for family, address in FAMILIES:
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((address, 7000))
    listener.listen(200)
    listeners.append(listener)
print('listening')
held = [listener.accept()[0] for listener in listeners for _ in range(int(input()))]
print('accepted')
input()
";
    let mut servers = [netns.script(source, &[]), netns.script(source, &[])];
    for server in &mut servers {
        server.expect("listening");
    }
    let mut client = netns.script(CLIENT, &["7000 7000", "40"]);
    client.expect("connected");
    let pids = servers.each_ref().map(Program::pid);
    let metrics = daemon.until("80 children", |metrics| {
        pids.iter()
            .map(|pid| live(metrics, *pid, "ESTABLISHED"))
            .sum::<f64>()
            == 80.0
    });
    let queues = pids.map(|pid| accept_queues(&netns, pid));
    println!("accept queues {queues:?}");
    assert_eq!(queues.iter().sum::<usize>(), 80);
    assert!(
        queues.iter().all(|queue| *queue > 0),
        "one process got everything"
    );
    for (pid, queue) in pids.into_iter().zip(queues) {
        assert_eq!(
            live(&metrics, pid, "ESTABLISHED"),
            queue as f64,
            "{}",
            metrics.shown()
        );
        assert_eq!(metrics.of(pid, ACCEPTS, &[]), 0.0);
    }
    metrics.assert_complete();
    client.go();
    client.expect("closed");
    client.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn accept_and_accept4_are_counted() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
held = []
for family, address in FAMILIES:
    listener = listen(family, address)
    for i in range(10):
        held.append(connect(family, listener.getsockname()))
        if i % 2:
            held.append(listener.accept()[0])       # accept4
        else:
            number = LIBC.accept(listener.fileno(), None, None)
            assert number >= 0
            held.append(socket.socket(fileno=number))
    # Nothing to accept is no event.
    listener.setblocking(False)
    assert outcome(listener.accept) == 'EAGAIN'
local = socket.socket(socket.AF_UNIX)
local.bind('\0observer-' + str(os.getpid()))
local.listen()
held.append(socket.socket(socket.AF_UNIX))
held[-1].connect(local.getsockname())
local.accept()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let metrics = daemon.scrape();
    if metrics.observes("accept") {
        metrics.assert_of(program.pid(), ACCEPTS, &[], 20.0);
    }
    assert_eq!(live(&metrics, program.pid(), "ESTABLISHED"), 40.0);
    metrics.assert_complete();
    program.end();
}

/// accept4() through the 32-bit entry to the kernel, whose return no program on a tracepoint sees: the
/// walk over open files finds the connections, with the process that accepted them.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn accepts_that_no_program_saw_count_for_who_accepted() {
    if !cfg!(target_arch = "x86_64") {
        skip!("int 0x80 is an instruction of x86");
    }
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
import mmap
# push rbx; mov eax, 364 (accept4); mov ebx, edi; xor ecx, ecx; xor edx, edx; xor esi, esi; int 0x80;
# pop rbx; ret
code = bytes.fromhex('53 b8 6c010000 89fb 31c9 31d2 31f6 cd80 5b c3')
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
accept4 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(
    ctypes.addressof(ctypes.c_char.from_buffer(page)))
listeners = [listen(family, address) for family, address in FAMILIES]
done, told = os.pipe()
stop, end = os.pipe()
child = os.fork()
if child == 0:
    os.close(end)
    kept = [accept4(listener.fileno()) for listener in listeners for _ in range(5)]
    assert all(fd >= 0 for fd in kept), kept
    os.write(told, b'x')
    os.read(stop, 1)
    os._exit(0)
os.close(told)
clients = [connect(family, listener.getsockname())
           for (family, _), listener in zip(FAMILIES, listeners) for _ in range(5)]
# Empty if the child was killed, because the kernel has no 32-bit entry.
print(child if os.read(done, 1) else 'none')
input()
os.close(end)
os.waitpid(child, 0)
",
        &[],
    );
    let answer = program.line();
    let Ok(child) = answer.parse::<u32>() else {
        skip!("this kernel has no 32-bit system calls");
    };
    let parent = program.pid();
    let metrics = daemon.until("ten accepts", |metrics| {
        metrics.of(parent, ACCEPTS, &[]) + metrics.of(child, ACCEPTS, &[]) == 10.0
    });
    metrics.assert_of(child, ACCEPTS, &[], 10.0);
    assert_eq!(metrics.of(parent, ACCEPTS, &[]), 0.0);
    assert_eq!(live(&metrics, child, "ESTABLISHED"), 10.0);
    assert_eq!(live(&metrics, parent, "ESTABLISHED"), 10.0);
    metrics.assert_complete();
    program.end();
}

/// More threads wait in accept() than a kretprobe can follow calls.
pub fn waiting_threads_have_their_accepts_counted(daemon: &Daemon) {
    let netns = Netns::new();
    let mut program = netns.script(
        r"
threading.stack_size(65536)
listener = listen(*FAMILIES[0])
accepted = threading.Semaphore(0)
def serve():
    while True:
        conn, _ = listener.accept()
        accepted.release()
        conn.close()
def waits(thread):
    # accept or accept4, on x86-64 and arm64; 'running' if it does not sleep.
    with open(f'/proc/self/task/{thread.native_id}/syscall') as file:
        return file.read().split()[0] in ('43', '288', '202', '242')
threads = [threading.Thread(target=serve, daemon=True) for _ in range(64)]
for thread in threads:
    thread.start()
wait(lambda: all(waits(thread) for thread in threads))
for _ in range(200):
    client = connect(socket.AF_INET, listener.getsockname())
    accepted.acquire()
    client.close()
print('done', flush=True)
input()
os._exit(0)
",
        &[],
    );
    program.expect("done");
    let metrics = daemon.scrape();
    if metrics.observes("accept") {
        metrics.assert_of(program.pid(), ACCEPTS, &[], 200.0);
    }
    metrics.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn emfile_is_counted() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
listeners = [listen(family, address) for family, address in FAMILIES]
clients = [connect(*pair) for pair in
           [(family, listener.getsockname())
            for (family, _), listener in zip(FAMILIES, listeners)]]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
errno.errorcode[24]
spare = os.dup(0)
os.close(spare)
resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
for listener in listeners:
    for _ in range(3):
        assert outcome(listener.accept) == 'EMFILE'
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    for _ in range(4):
        assert outcome(lambda: socket.socket(family)) == 'EMFILE'
for call in (lambda: os.open('/', os.O_RDONLY), os.pipe, lambda: os.dup(0), lambda: os.eventfd(0)):
    assert outcome(call) == 'EMFILE'
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print('exhausted')
input()
held = [listener.accept()[0] for listener in listeners]
print('accepted')
input()
",
        &[],
    );
    program.expect("exhausted");
    let pid = program.pid();
    let metrics = daemon.scrape();
    let exhausted = "socket_fd_exhausted_total";
    if metrics.observes("fd") {
        let emfile = [("errno", "EMFILE")];
        // The tracepoints are those of accept() and socket() alone.
        let other_calls = if metrics.by_function("fd") { 4.0 } else { 0.0 };
        metrics.assert_of(pid, exhausted, &emfile, 18.0 + other_calls);
        metrics.assert_of(pid, exhausted, &[], 18.0 + other_calls);
    }
    assert_eq!(metrics.of(pid, ACCEPTS, &[]), 0.0);
    metrics.assert_complete();
    // The connections stayed in the queue.
    program.go();
    program.expect("accepted");
    let metrics = daemon.scrape();
    if metrics.observes("accept") {
        metrics.assert_of(pid, ACCEPTS, &[], 2.0);
    }
    assert_eq!(live(&metrics, pid, "ESTABLISHED"), 4.0);
    metrics.assert_complete();
    program.end();
}

/// The host's limit on open files, which does not hold for root. Where functions are hooked, a seccomp
/// filter that answers with this errno is not taken for it.
pub fn without_files_in_the_system_enfile_is_counted(daemon: &Daemon) {
    let netns = Netns::new();
    let mut program = netns.script(
            r"
limit = open('/proc/sys/fs/file-max', 'r+')
before = limit.read()
def set_limit(value):
    limit.seek(0)
    limit.write(value)
    limit.flush()
# A process in its own session, which Ctrl-C does not reach, restores the limit when this one closes its end
# or is killed.
end, guards_end = socket.socketpair()
guard = os.fork()
if guard == 0:
    try:
        os.setsid()
        end.close()
        if guards_end.recv(1):
            set_limit('1')
            guards_end.send(b'x')
            guards_end.recv(1)
    finally:
        set_limit(before)
        os._exit(0)
guards_end.close()
listener = listen(*FAMILIES[0])
client = connect(socket.AF_INET, listener.getsockname())
wait(lambda: queued(listener) == 1)
end.send(b'x')
assert end.recv(1)
os.setresuid(65534, 65534, 0)
told = [outcome(lambda: socket.socket(family)) for family, _ in FAMILIES]
told.append(outcome(listener.accept))
os.setresuid(0, 0, 0)
end.close()
os.waitpid(guard, 0)
refuse('socket', errno.ENFILE)
told += [outcome(socket.socket) for _ in range(4)]
assert told == ['ENFILE'] * 7, told
print('exhausted')
input()
",
            &[],
        );
    program.expect("exhausted");
    let metrics = daemon.scrape();
    let exhausted = "socket_fd_exhausted_total";
    if metrics.observes("fd") {
        let forged = if metrics.by_function("fd") { 0.0 } else { 4.0 };
        metrics.assert_of(
            program.pid(),
            exhausted,
            &[("errno", "ENFILE")],
            3.0 + forged,
        );
        metrics.assert_of(program.pid(), exhausted, &[], 3.0 + forged);
    }
    metrics.assert_complete();
    program.end();
}

/// nginx with two workers: the master listens, the workers accept.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nginx_workers_own_what_they_accept() {
    needs_programs!("nginx", "curl");
    let netns = Netns::new();
    let dir = std::env::temp_dir().join(format!("observer-nginx-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let config = dir.join("nginx.conf");
    let text = format!(
        "daemon off; master_process on; worker_processes 2; pid {0}/pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b;\n\
         fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n\
         server {{ listen 127.0.0.1:8080; listen [::1]:8080; return 200 ok; }} }}\n",
        dir.display()
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::shared();
    let nginx = Program::spawn(netns.command("nginx").arg("-c").arg(&config));
    let master = nginx.pid();
    daemon.until("nginx listens", |metrics| {
        live(metrics, master, "LISTEN") == 2.0
    });
    for _ in 0..20 {
        for url in ["http://127.0.0.1:8080/", "http://[::1]:8080/"] {
            assert_eq!(netns.run("curl", &["-sg", "--noproxy", "*", url]), "ok");
        }
    }
    let children = format!("/proc/{master}/task/{master}/children");
    let children = std::fs::read_to_string(children).unwrap();
    let workers: Vec<u32> = children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(workers.len(), 2);
    let of_workers = |metrics: &Metrics, name: &str| -> f64 {
        workers.iter().map(|pid| metrics.of(*pid, name, &[])).sum()
    };
    let metrics = daemon.scrape();
    if metrics.observes("accept") {
        assert_eq!(of_workers(&metrics, ACCEPTS), 40.0, "{}", metrics.shown());
        // This host may have another nginx.
        assert!(metrics.by("nginx", ACCEPTS, &[]) >= 40.0);
        assert_eq!(metrics.of(master, ACCEPTS, &[]), 0.0);
        assert_eq!(live(&metrics, master, "ESTABLISHED"), 0.0);
    }
    metrics.assert_complete();
    observer_test_support::run("kill", &["-s", "TERM", &master.to_string()]);
    nginx.finish();
    std::fs::remove_dir_all(&dir).unwrap();
}
