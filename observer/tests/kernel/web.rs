//! The HTTP server: TLS and passwords that change at run time, and sockets passed by systemd.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use ::observer::client;
use observer_test_support::{Daemon, Metrics};

/// Of the password `first`: `htpasswd -nbBC 4 prom first`.
const FIRST: &str = "$2y$04$3KWF8iABb93QBVcbWrfrr.VkKEsgQXYwByqJiaw30mN6r5manvjWC";

/// Makes a certificate for 127.0.0.1, and its key, which is for root alone.
fn certificate(directory: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=observer \
                     -addext subjectAltName=IP:127.0.0.1 -keyout new.key -out new.crt";
    let mut openssl = Command::new("openssl");
    let openssl = openssl.args(arguments.split_whitespace());
    let made = openssl.current_dir(directory).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let file = |name: &str| directory.join(name);
    fs::set_permissions(file("new.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(file("new.key"), file("tls.key")).unwrap();
    fs::rename(file("new.crt"), file("tls.crt")).unwrap();
}

/// The response to curl, which trusts the current certificate.
fn curl(daemon: &Daemon, directory: &Path, user: &str, path: &str) -> Option<String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "30"]);
    curl.args(["--cacert", "tls.crt", "--user", user]);
    curl.arg(format!("https://{}{path}", daemon.address));
    let output = curl.current_dir(directory).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then_some(text)
}

/// Of a daemon that has become another user, with seccomp and Landlock.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_confined_daemon_reads_new_certificates_and_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    let file = directory.join("web.yml");
    let write = |text: &str| {
        fs::write(directory.join("new.yml"), text).unwrap();
        fs::rename(directory.join("new.yml"), &file).unwrap();
    };
    write("# Nothing yet.\n");
    let setting = format!("--web.config.file={}", file.display());
    let daemon = Daemon::start(&[&setting, "--user=65534"]);

    let tls = "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n";
    certificate(directory);
    write(&format!("{tls}basic_auth_users: {{prom: {FIRST}}}\n"));
    daemon.wait("TLS", |daemon| {
        curl(daemon, directory, "prom:first", "/metrics").is_some()
    });
    assert!(curl(&daemon, directory, "prom:second", "/metrics").is_none());
    certificate(directory);
    daemon.wait("the new certificate", |daemon| {
        curl(daemon, directory, "prom:first", "/metrics").is_some()
    });

    write("tls_server_confg: {}\n");
    let failures = |daemon: &Daemon| {
        let text = curl(daemon, directory, "prom:first", "/metrics").expect("the old one stays");
        let metrics = Metrics::parse_strictly(&text).unwrap();
        metrics.sum("observer_job_failures_total", &[("task", "web_config")])
    };
    daemon.wait("two failures", |daemon| failures(daemon) >= 2.0);
    let log = daemon.log();
    let lines = log.lines().filter(|it| it.contains("`tls_server_confg`"));
    assert_eq!(lines.count(), 1, "{log}");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn systemd_passes_its_sockets() {
    needs_programs!("systemd-socket-activate");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let daemon = Daemon::start_with(&["--api-socket=none"], |command| {
        let mut activate = Command::new("systemd-socket-activate");
        activate.arg(format!("--listen={address}"));
        activate.arg(format!("--listen={}", path.display()));
        activate.arg(command.get_program()).args(command.get_args());
        activate.stdin(Stdio::null()).stdout(Stdio::null());
        activate.stderr(Stdio::piped());
        *command = activate;
        // It starts the daemon for the first connection.
        thread::spawn(move || {
            while TcpStream::connect(address).is_err() {
                thread::sleep(Duration::from_millis(20));
            }
        });
    });
    assert_eq!(daemon.address, address);
    let answer = client::get(&path, "/api/v1/processes").unwrap();
    assert!(answer["running"].as_u64().unwrap() > 0, "{answer}");
    assert!(daemon.stop().success());
    // systemd removes it.
    assert!(path.exists());
}
