//! TLS handshakes of programs as people use them, each with its own way to call a library.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::{Pid, User},
};
use observer_test_support::{
    Daemon, Netns, Program, holds_in_time, needs_programs, packaged, skip, spawn,
};

use crate::tls::{Files, IN_PROGRESS, NO_LINKS, expect, observing, probed};

/// A server in a network namespace of its own, which ends with this.
struct Server<'a> {
    netns: &'a Netns,
    child: Child,
    port: u16,
}

impl<'a> Server<'a> {
    /// Starts `program`, and waits until it listens on `port`.
    fn start(netns: &'a Netns, program: &str, arguments: &[&str], port: u16) -> Self {
        let mut command = netns.command(program);
        command
            .args(arguments)
            // Some end with their standard input.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let child = spawn(&mut command).expect("the server can be started");
        let server = Self { netns, child, port };
        let at_port = format!("sport = :{port}");
        let listens = || !netns.run("ss", &["-Htln", &at_port]).is_empty();
        assert!(holds_in_time(listens), "{program} does not listen");
        server
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it end in order.
    fn end(mut self, by: Signal) {
        signal::kill(Pid::from_raw(self.pid().cast_signed()), by).expect("it runs");
        self.child.wait().expect("it is a child");
    }

    /// Fetches a page with curl; `certificate` is the authority that it trusts.
    fn curl(&self, path: &str, certificate: Option<&str>) -> Command {
        let url = format!("https://localhost:{}/{path}", self.port);
        let mut command = self.netns.command("curl");
        command.args(["--silent", "--fail", "--output", "/dev/null"]);
        command.args(["--max-time", "60"]);
        if let Some(certificate) = certificate {
            command.args(["--cacert", certificate]);
        }
        command.arg(url);
        command
    }

    /// Three that succeed, and one that does not trust the server.
    fn four_curls(&self, files: &Files) {
        for _ in 0..3 {
            assert!(succeeds(self.curl("", Some(&files.certificate()))));
        }
        assert!(!succeeds(self.curl("", None)));
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // With its workers.
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _ = signal::killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn succeeds(mut command: Command) -> bool {
    command.status().expect("it can be run").success()
}

/// A server of one connection: it says `answer` to the first eight bytes if there is one, and then nothing. Its first
/// line is the port.
const SILENT_SERVER: &str = "
answer = sys.argv[1].encode()
listener = listen(socket.AF_INET, '127.0.0.1')
print(listener.getsockname()[1])
plain, _ = listener.accept()
if answer:
    plain.recv(8)
    plain.sendall(answer)
input()
";

fn openssl_server<'a>(files: &Files, netns: &'a Netns) -> Server<'a> {
    let (certificate, key) = (files.certificate(), files.key());
    let arguments = [
        "s_server",
        "-accept",
        "4433",
        "-www",
        "-quiet",
        "-cert",
        &certificate,
        "-key",
        &key,
    ];
    Server::start(netns, "openssl", &arguments, 4433)
}

fn silent_server(netns: &Netns, answer: &str) -> (Program, String) {
    let mut program = netns.script(SILENT_SERVER, &[answer]);
    let port = program.line();
    (program, port)
}

/// A client that says nothing but `question`, and waits for `answer` if there is one.
const SILENT_CLIENT: &str = "
port, question, answer = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3].encode()
plain = connect(socket.AF_INET, ('127.0.0.1', port))
plain.sendall(question)
assert plain.recv(len(answer)) == answer
input()
";

/// A handshake that `program` begins or waits for is in progress until the other end is killed.
fn vanish_meanwhile(daemon: &Daemon, comm: &str, role: &str, program: Program) {
    let is_in_progress = |count: f64| {
        daemon.until(
            &format!("{count} handshakes of {comm} are in progress"),
            |it| it.by(comm, IN_PROGRESS, &[("role", role)]) == count,
        );
    };
    is_in_progress(1.0);
    program.kill();
    is_in_progress(0.0);
}

/// A client that `program` makes of a port, whose server is silent until it is killed.
fn silence_of_server(
    daemon: &Daemon,
    netns: &Netns,
    [comm, role]: [&str; 2],
    arguments: impl FnOnce(&str) -> Vec<String>,
) {
    let (silent, port) = silent_server(netns, "");
    let mut command = netns.command(comm);
    command.args(arguments(&port));
    // Some end with their standard input.
    command.stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = spawn(&mut command).expect("the client can be run");
    vanish_meanwhile(daemon, comm, role, silent);
    client.wait().expect("it is a child");
}

/// A server whose client falls silent, until that client is killed.
fn silence_of_client(daemon: &Daemon, server: &Server<'_>, comm: &str, role: &str) {
    let port = server.port.to_string();
    // The head of a ClientHello: before the first bytes, these servers do not begin a handshake.
    let client = server
        .netns
        .script(SILENT_CLIENT, &[&port, "1603010200", ""]);
    vanish_meanwhile(daemon, comm, role, client);
}

/// Another authority than the one of [`Files::certificate`].
fn other_authority(files: &Files) -> String {
    let path = files.path("other.pem");
    let arguments = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-noenc",
        "-subj",
        "/CN=other",
        "-keyout",
        "/dev/null",
        "-out",
        &path,
    ];
    observer_test_support::run("openssl", &arguments);
    path
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn openssl_and_curl() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let server = openssl_server(&files, &netns);
    probed(&daemon, server.pid(), "libssl");
    server.four_curls(&files);
    expect(&daemon, "openssl", "openssl", "server", [3, 1]);
    expect(&daemon, "curl", "openssl", "client", [3, 1]);
    silence_of_client(&daemon, &server, "openssl", "server");
    expect(&daemon, "openssl", "openssl", "server", [3, 2]);
    silence_of_server(&daemon, &netns, ["curl", "client"], |port| {
        vec!["--silent".to_owned(), format!("https://localhost:{port}")]
    });
    expect(&daemon, "curl", "openssl", "client", [3, 2]);
    silence_of_server(&daemon, &netns, ["openssl", "client"], |port| {
        ["s_client", "-connect", &format!("localhost:{port}")]
            .map(str::to_owned)
            .into()
    });
    expect(&daemon, "openssl", "openssl", "client", [0, 1]);
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nginx_with_workers() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let configuration = files.path("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 2; error_log /dev/null; pid {};
        events {{}}
        http {{
            access_log off;
            server {{
                listen 8443 ssl; ssl_certificate {}; ssl_certificate_key {};
                location / {{ return 200 \"hi\"; }}
            }}
        }}",
        files.path("nginx.pid"),
        files.certificate(),
        files.key()
    );
    fs::write(&configuration, text).expect("the folder can be written to");
    let server = Server::start(&netns, "nginx", &["-c", &configuration], 8443);
    probed(&daemon, server.pid(), "libssl");
    server.four_curls(&files);
    // A client that uses one connection object again and again, and sessions, too.
    let target = "localhost:8443";
    let certificate = files.certificate();
    let mut made = 0;
    for how in ["-new", "-reuse"] {
        let arguments = [
            "s_time",
            "-connect",
            target,
            "-CAfile",
            &certificate,
            "-time",
            "3",
            how,
        ];
        let output = netns.run("openssl", &arguments);
        // "N connections in 4 real seconds, 0 bytes read per connection"
        let line = output.lines().find(|line| line.contains("real seconds"));
        let count = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
        let count: u64 = count.unwrap_or_else(|| panic!("{output}"));
        assert!(count > 100, "{output}");
        // The session that is used again comes from a connection that is not counted.
        made += count + u64::from(how == "-reuse");
    }
    expect(&daemon, "openssl", "openssl", "client", [made, 0]);
    expect(&daemon, "nginx", "openssl", "server", [made + 3, 1]);
    silence_of_client(&daemon, &server, "nginx", "server");
    expect(&daemon, "nginx", "openssl", "server", [made + 3, 2]);
}

const NODE_SERVER: &str = "
const fs = require('fs'), tls = require('tls');
const [certificate, key] = process.argv.slice(1);
tls.createServer({cert: fs.readFileSync(certificate), key: fs.readFileSync(key)}, it => it.end('HTTP/1.0 200 OK\\r\\n\\r\\nhi'))
    .on('tlsClientError', () => {}).listen(9443);
";

const NODE_CLIENT: &str = "
const fs = require('fs'), tls = require('tls');
const [certificate] = process.argv.slice(1);
const fetch = (ca, left) => left && tls.connect({port: 9443, host: 'localhost', ca})
    .on('error', () => {}).on('data', () => {}).on('close', () => fetch(ca, left - 1));
fetch(fs.readFileSync(certificate), 3);
";

/// OpenSSL is linked into Node. A program of it judges the server's certificate after the handshake.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn node_server_and_client() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let certificate = files.certificate();
    let arguments = ["-e", NODE_SERVER, &certificate, &files.key()];
    let server = Server::start(&netns, "node", &arguments, 9443);
    let file = if maps(server.pid()).contains("libssl") {
        "libssl"
    } else {
        "node"
    };
    probed(&daemon, server.pid(), file);
    netns.run("node", &["-e", NODE_CLIENT, &certificate]);
    server.four_curls(&files);
    expect(&daemon, "node", "openssl", "client", [3, 0]);
    expect(&daemon, "node", "openssl", "server", [6, 1]);
    silence_of_client(&daemon, &server, "node", "server");
    expect(&daemon, "node", "openssl", "server", [6, 2]);
    silence_of_server(&daemon, &netns, ["node", "client"], |port| {
        let connect =
            format!("require('tls').connect({port}, 'localhost').on('error', () => {{}})");
        vec!["-e".to_owned(), connect]
    });
    expect(&daemon, "node", "openssl", "client", [3, 1]);
}

fn maps(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process runs")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn gnutls_server_and_client() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let (certificate, key) = (files.certificate(), files.key());
    let arguments = [
        "--http",
        "--port",
        "5556",
        "--x509certfile",
        &certificate,
        "--x509keyfile",
        &key,
    ];
    let server = Server::start(&netns, "gnutls-serv", &arguments, 5556);
    probed(&daemon, server.pid(), "libgnutls");
    let client = |arguments: &[&str]| {
        let mut command = netns.command("gnutls-cli");
        command
            .args(["--port", "5556"])
            .args(arguments)
            .arg("localhost");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().expect("gnutls-cli runs").success()
    };
    for _ in 0..3 {
        assert!(client(&["--x509cafile", &certificate]));
    }
    assert!(!client(&[]));
    expect(&daemon, "gnutls-cli", "gnutls", "unknown", [3, 1]);
    expect(&daemon, "gnutls-serv", "gnutls", "unknown", [3, 1]);
    silence_of_client(&daemon, &server, "gnutls-serv", "unknown");
    expect(&daemon, "gnutls-serv", "gnutls", "unknown", [3, 2]);
    silence_of_server(&daemon, &netns, ["gnutls-cli", "unknown"], |port| {
        ["--port", port, "localhost"].map(str::to_owned).into()
    });
    expect(&daemon, "gnutls-cli", "gnutls", "unknown", [3, 2]);
}

/// A server that has TLS towards its clients, and towards what it gets its pages from: by the path, `trusting` and
/// `doubting` are from a server whose certificate it takes and refuses, and `silent` from one that does not answer.
struct Proxy<'a> {
    files: &'a Files,
    netns: &'a Netns,
    backend: Server<'a>,
    silent: Program,
    silent_port: String,
    /// An authority that the certificate is not from.
    other: String,
}

impl<'a> Proxy<'a> {
    /// What is behind the proxy.
    fn prepare(files: &'a Files, netns: &'a Netns) -> Self {
        let backend = openssl_server(files, netns);
        let (silent, silent_port) = silent_server(netns, "");
        Self {
            files,
            netns,
            backend,
            silent,
            silent_port,
            other: other_authority(files),
        }
    }

    /// All that can become of a handshake, at both sides of `server`, which runs with this configuration.
    fn meet(self, daemon: &Daemon, server: &Server<'_>, [comm, library, file]: [&str; 3]) {
        probed(daemon, server.pid(), file);
        probed(daemon, self.backend.pid(), "libssl");
        let certificate = self.files.certificate();
        let get = |path| server.curl(path, Some(&certificate));
        for _ in 0..3 {
            assert!(succeeds(get("trusting")));
        }
        assert!(!succeeds(server.curl("trusting", None)));
        assert!(!succeeds(get("doubting")));
        expect(daemon, comm, library, "client", [3, 1]);
        expect(daemon, comm, library, "server", [4, 1]);
        let mut waiting = spawn(&mut get("silent")).expect("curl can be run");
        vanish_meanwhile(daemon, comm, "client", self.silent);
        let got = waiting.wait().expect("curl is a child");
        assert!(!got.success());
        expect(daemon, comm, library, "client", [3, 2]);
        let port = server.port.to_string();
        let client = self.netns.script(SILENT_CLIENT, &[&port, "", ""]);
        vanish_meanwhile(daemon, comm, "server", client);
        expect(daemon, comm, library, "server", [5, 2]);
        expect(daemon, "openssl", "openssl", "server", [3, 1]);
        expect(daemon, "curl", "openssl", "client", [5, 1]);
    }
}

/// It makes and ends TLS in several threads, with OpenSSL's objects of its own kind of input and output (BIO).
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn haproxy_at_both_ends() {
    needs_programs!("haproxy");
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let proxy = Proxy::prepare(&files, &netns);
    let (certificate, other, silent) = (files.certificate(), &proxy.other, &proxy.silent_port);
    let both = files.path("both.pem");
    let read = |path| fs::read_to_string(path).expect("it is there");
    let text = read(certificate.clone()) + &read(files.key());
    fs::write(&both, text).expect("the folder can be written to");
    let configuration = files.path("haproxy.cfg");
    let text = format!(
        "global
            nbthread 2
        defaults
            mode http
            retries 0
            timeout connect 60s
            timeout client 60s
            timeout server 60s
            # A connection to the backend for each request.
            http-reuse never
            option http-server-close
        frontend front
            bind 127.0.0.1:8443 ssl crt {both}
            use_backend doubting if {{ path /doubting }}
            use_backend silent if {{ path /silent }}
            default_backend trusting
        backend trusting
            server it 127.0.0.1:4433 ssl verify required verifyhost localhost ca-file {certificate}
        backend doubting
            server it 127.0.0.1:4433 ssl verify required verifyhost localhost ca-file {other}
        backend silent
            server it 127.0.0.1:{silent} ssl verify required verifyhost localhost ca-file {certificate}\n"
    );
    fs::write(&configuration, text).expect("the folder can be written to");
    let server = Server::start(&netns, "haproxy", &["-db", "-f", &configuration], 8443);
    proxy.meet(&daemon, &server, ["haproxy", "openssl", "libssl"]);
}

/// A stripped program in Go 1.19, loaded at a fixed address.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn caddy_at_both_ends() {
    needs_programs!("caddy");
    caddy("caddy");
}

/// The same in Go 1.26, which is linked with C code and loaded anywhere.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn caddy_with_cgo_at_both_ends() {
    let (folder, script, suite) = packaged::CADDY;
    match packaged::program(folder, script, suite) {
        Ok(program) => {
            // By the name that the process has by it.
            let folder = tempfile::tempdir().expect("a folder");
            let link = folder.path().join("caddy");
            std::os::unix::fs::symlink(program, &link).expect("the folder can be written to");
            caddy(link.to_str().expect("UTF-8"));
        }
        Err(why) => skip!("Caddy of {suite}: {why}"),
    }
}

fn caddy(program: &str) {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let proxy = Proxy::prepare(&files, &netns);
    let (certificate, key) = (files.certificate(), files.key());
    let (storage, silent) = (files.path("storage"), &proxy.silent_port);
    let page = |path: &str, port: &str, authority: &str| {
        format!(
            "handle /{path} {{
                reverse_proxy https://127.0.0.1:{port} {{
                    transport http {{
                        tls_trusted_ca_certs {authority}
                        tls_server_name localhost
                        # A connection for each request.
                        keepalive off
                    }}
                }}
            }}"
        )
    };
    let text = format!(
        "{{
            admin off
            auto_https off
            storage file_system {storage}
        }}
        https://localhost:7443 {{
            tls {certificate} {key}
            {}
            {}
            {}
        }}",
        page("trusting", "4433", &certificate),
        page("doubting", "4433", &proxy.other),
        page("silent", silent, &certificate),
    );
    let configuration = files.path("Caddyfile");
    fs::write(&configuration, text).expect("the folder can be written to");
    let arguments = ["run", "--config", &configuration, "--adapter", "caddyfile"];
    let server = Server::start(&netns, program, &arguments, 7443);
    proxy.meet(&daemon, &server, ["caddy", "go", "caddy"]);
}

/// A cluster of PostgreSQL in a folder of its user's.
struct Cluster {
    folder: tempfile::TempDir,
    programs: PathBuf,
}

impl Cluster {
    /// As a user, because it refuses to run as root.
    const AS_USER: [&'static str; 4] = [
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        // A change of user clears what ends it with the test.
        "--pdeathsig=KILL",
    ];

    fn new(files: &Files) -> Self {
        let versions = fs::read_dir("/usr/lib/postgresql").expect("a server is installed");
        let versions = versions.map(|it| it.expect("a folder").path().join("bin"));
        let programs = versions.max().expect("a server is installed");
        let folder = tempfile::tempdir().expect("a folder");
        let user = User::from_name("postgres").expect("users are known");
        let user = user.expect("the package has made the user");
        let own = |path: &Path| {
            let owned = nix::unistd::chown(path, Some(user.uid), Some(user.gid));
            owned.expect("root may give it away");
        };
        own(folder.path());
        for path in [files.certificate(), files.key()] {
            let copy = folder
                .path()
                .join(Path::new(&path).file_name().expect("a file"));
            fs::write(&copy, fs::read(&path).expect("it is there")).expect("a folder");
            // It refuses a key that others may read.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&copy, mode).expect("root may do so");
            own(&copy);
        }
        let this = Self { folder, programs };
        let (initdb, data) = (this.program("initdb"), this.path("data"));
        let mut command = Command::new("setpriv");
        command.args(Self::AS_USER).args([&initdb, "-D", &data]);
        command.args(["--auth=trust", "--no-sync", "--no-locale"]);
        command.stdout(Stdio::null());
        assert!(succeeds(command));
        this
    }

    fn program(&self, name: &str) -> String {
        let path = self.programs.join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    fn start<'a>(&self, netns: &'a Netns) -> Server<'a> {
        let (program, data, folder) = (self.program("postgres"), self.path("data"), self.path(""));
        let mut arguments = Self::AS_USER.to_vec();
        arguments.extend([&*program, "-D", &data, "-k", &folder]);
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", self.path("certificate.pem")),
            format!("ssl_key_file={}", self.path("key.pem")),
            "listen_addresses=127.0.0.1".to_owned(),
            "fsync=off".to_owned(),
        ];
        arguments.extend(settings.iter().flat_map(|it| ["-c", it]));
        Server::start(netns, "setpriv", &arguments, 5432)
    }
}

const DATABASE_CLIENT: &str = "
import psycopg2
trusted, other, silent = sys.argv[1:]
# What has no socket is not looked at.
standing = listen(socket.AF_INET, '127.0.0.1')
print('ready')
input()
def query(port, authority):
    server = {'host': 'localhost', 'hostaddr': '127.0.0.1', 'port': port}
    with_tls = {'sslmode': 'verify-full', 'sslrootcert': authority}
    connection = psycopg2.connect(user='postgres', dbname='postgres', **server, **with_tls)
    cursor = connection.cursor()
    cursor.execute('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')
    assert cursor.fetchone() == (True,)
    connection.close()
for _ in range(3):
    query(5432, trusted)
for port, authority in ((5432, other), (silent, trusted)):
    try:
        query(port, authority)
        assert False
    except psycopg2.OperationalError as error:
        print('refused' if 'certificate verify failed' in str(error) else 'lost')
input()
";

/// A server with a process for each connection, and a client whose OpenSSL came with a wheel.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn postgres_and_a_wheel() {
    needs_programs!("pg_ctlcluster");
    let Some(python) = packaged::python() else {
        skip!("what is from PyPI is not installed")
    };
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let cluster = Cluster::new(&files);
    let server = cluster.start(&netns);
    probed(&daemon, server.pid(), "libssl");
    // What PostgreSQL says to one that asks for TLS.
    let (silent, silent_port) = silent_server(&netns, "S");
    let arguments = [
        &*files.certificate(),
        &other_authority(&files),
        &silent_port,
    ];
    let source = [observer_test_support::PRELUDE, DATABASE_CLIENT].concat();
    let mut command = netns.command(python);
    let mut client = Program::python_by(&mut command, &source, &arguments);
    let comm = client.comm();
    client.expect("ready");
    probed(&daemon, client.pid(), "libssl-");
    client.go();
    client.expect("refused");
    vanish_meanwhile(&daemon, &comm, "client", silent);
    client.expect("lost");
    expect(&daemon, &comm, "openssl", "client", [3, 2]);
    expect(&daemon, "postgres", "openssl", "server", [3, 1]);
    client.end();
    // SSLRequest.
    let client = netns.script(SILENT_CLIENT, &["5432", "0000000804d2162f", "S"]);
    vanish_meanwhile(&daemon, "postgres", "server", client);
    expect(&daemon, "postgres", "openssl", "server", [3, 2]);
    server.end(Signal::SIGQUIT);
}
