//! TLS handshakes of programs as people use them, each with its own way to call a library.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
};

use observer_test_support::{Netns, holds_in_time, skip, spawn};

use crate::tls::{Files, NO_LINKS, expect, observing, probed};

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
        let listens = || server.netns.ss("listening") > 0;
        assert!(holds_in_time(listens), "{program} does not listen");
        server
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fetches the page with curl; `certificate` is the authority that it trusts.
    fn curl(&self, certificate: Option<&str>) -> bool {
        let url = format!("https://localhost:{}/", self.port);
        let mut command = self.netns.command("curl");
        command.args(["--silent", "--output", "/dev/null", "--max-time", "20"]);
        if let Some(certificate) = certificate {
            command.args(["--cacert", certificate]);
        }
        let status = command.arg(url).status().expect("curl runs");
        status.success()
    }

    /// Three that succeed, and one that does not trust the server.
    fn four_curls(&self, files: &Files) {
        for _ in 0..3 {
            assert!(self.curl(Some(&files.certificate())));
        }
        assert!(!self.curl(None));
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // With its workers.
        let group = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn openssl_and_curl() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
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
    let server = Server::start(&netns, "openssl", &arguments, 4433);
    probed(&daemon, server.pid(), "libssl");
    server.four_curls(&files);
    expect(&daemon, "openssl", "openssl", "server", [3, 1]);
    expect(&daemon, "curl", "openssl", "client", [3, 1]);
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
}

/// A stripped program in Go.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn caddy_serves() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let configuration = files.path("Caddyfile");
    let text = format!(
        "{{
            admin off
            auto_https off
            storage file_system {}
        }}
        https://localhost:7443 {{
            tls {} {}
            respond \"hi\"
        }}",
        files.path("storage"),
        files.certificate(),
        files.key()
    );
    fs::write(&configuration, text).expect("the folder can be written to");
    let arguments = ["run", "--config", &configuration, "--adapter", "caddyfile"];
    let server = Server::start(&netns, "caddy", &arguments, 7443);
    probed(&daemon, server.pid(), "caddy");
    server.four_curls(&files);
    expect(&daemon, "caddy", "go", "server", [3, 1]);
}
