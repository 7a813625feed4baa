//! TLS and passwords, with clients of other makes: curl and Prometheus.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use observer_test_support::{needs_programs, spawn};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

use super::{
    App, WebConfigFile,
    config::{WebConfig, WebConfigError},
    tests::{PROBE, Running, app, run, start_with},
};

/// The lowest cost, so that tests are quick.
const COST: u32 = 4;
const DOCUMENT: &str = include_str!("../../../docs/http.md");

/// A directory with what openssl makes, and the file.
struct Files(TempDir);

impl Files {
    /// A certificate authority `ca`, a `server` for 127.0.0.1 and a `client`.
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.authority("ca");
        files.certificate("ca", "server");
        files.certificate("ca", "client");
        files
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(self.path());
        let output = output.output().expect("openssl is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
    }

    fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -keyout {name}.key -out {name}.crt"
        ));
    }

    fn certificate(&self, authority: &str, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -CA {authority}.crt -CAkey {authority}.key -addext basicConstraints=critical,CA:FALSE \
             -addext subjectAltName=IP:127.0.0.1 -keyout {name}.key -out {name}.crt"
        ));
    }

    /// Replaces a file as tools do that renew certificates.
    fn write(&self, name: &str, text: &str) {
        let new = self.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path().join(name)).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path().join(from), self.path().join(to)).unwrap();
    }

    /// Writes web.yml and reads it.
    fn open(&self, text: &str) -> Result<WebConfigFile, WebConfigError> {
        self.write("web.yml", text);
        WebConfigFile::open(&self.path().join("web.yml"))
    }

    /// What is wrong with it.
    fn error(&self, text: &str) -> String {
        let error = self.open(text).err().expect(text);
        format!("{:#}", anyhow::Error::from(error))
    }

    /// curl, in the directory.
    async fn curl(&self, server: &Running, arguments: &str, path: &str) -> Output {
        let mut command = Command::new("curl");
        command.args(["-sS", "-i", "--noproxy", "*", "--max-time", "30"]);
        command.args(arguments.split_whitespace());
        command.arg(format!("https://{}{path}", server.address));
        command.current_dir(self.path());
        let output = tokio::task::spawn_blocking(move || command.output());
        output.await.unwrap().expect("curl is installed")
    }

    /// The status that curl gets, or its own if the connection fails.
    async fn status(&self, server: &Running, arguments: &str, path: &str) -> String {
        let output = self.curl(server, arguments, path).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.split(' ').nth(1) {
            Some(status) => status.to_owned(),
            None => format!("curl {}", output.status.code().unwrap()),
        }
    }
}

const TLS: &str = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n";

/// TLS, and a user `prom` with the password `secret`.
fn protected() -> String {
    let hash = bcrypt::hash("secret", COST).unwrap();
    format!("{TLS}basic_auth_users: {{prom: {hash}}}\n")
}

async fn serve(web: watch::Receiver<std::sync::Arc<WebConfig>>) -> Running {
    start_with(App {
        web,
        ..app(Duration::from_secs(60))
    })
    .await
}

#[test]
fn pages_are_for_those_with_a_password() {
    run(async {
        let files = Files::new();
        let headers = "http_server_config: {headers: {X-Frame-Options: deny}}\n";
        let file = files.open(&(protected() + headers)).unwrap();
        let server = serve(file.subscribe()).await;
        let right = "--cacert ca.crt --user prom:secret";
        let answer = files.curl(&server, right, "/metrics").await;
        let answer = String::from_utf8(answer.stdout).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("x-frame-options: deny"), "{answer}");
        assert!(answer.contains("\nsocket_connections{"));
        for (user, expected) in [
            ("", "401"),
            ("--user prom:secret2", "401"),
            ("--user prom:", "401"),
            ("--user nobody:secret", "401"),
            ("--header Authorization:Basic", "401"),
            ("--header Authorization:Bearer%20secret", "401"),
            // Once more, from memory.
            ("--user prom:secret", "200"),
            ("--user prom:secret2", "401"),
        ] {
            let arguments = format!("--cacert ca.crt {user}");
            let status = files.status(&server, &arguments, "/metrics").await;
            assert_eq!(status, expected, "{user}");
        }
        for path in ["/", "/healthz", "/readyz", "/api/v1/anomalies", "/nothing"] {
            let answer = files.curl(&server, "--cacert ca.crt", path).await;
            let answer = String::from_utf8(answer.stdout).unwrap();
            assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
            assert!(answer.contains("www-authenticate: Basic"), "{answer}");
            assert!(answer.contains("x-frame-options: deny"), "{answer}");
        }
        // The server's certificate is not trusted; an older TLS; no TLS.
        assert_eq!(files.status(&server, "", "/").await, "curl 60");
        let old = "--cacert ca.crt --tls-max 1.1";
        assert_eq!(files.status(&server, old, "/").await, "curl 35");
        let mut plain = TcpStream::connect(server.address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    });
}

#[test]
fn clients_show_certificates() {
    run(async {
        let files = Files::new();
        files.authority("other");
        files.certificate("other", "stranger");
        for (mode, without) in [
            ("RequireAndVerifyClientCert", "curl"),
            ("VerifyClientCertIfGiven", "200"),
        ] {
            let text = format!(
                "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  \
                 client_ca_file: ca.crt\n  client_auth_type: {mode}\n"
            );
            let mut file = files.open(&text).unwrap();
            let server = serve(file.subscribe()).await;
            if mode == "RequireAndVerifyClientCert" {
                // An editor has not written the rest yet.
                files.write("web.yml", TLS);
                let error = file.refresh().unwrap_err().to_string();
                assert!(error.contains("client_auth_type"), "{error}");
            }
            for (client, expected) in [
                ("--cert client.crt --key client.key", "200"),
                ("--cert stranger.crt --key stranger.key", "curl"),
                ("", without),
            ] {
                let arguments = format!("--cacert ca.crt {client}");
                let status = files.status(&server, &arguments, "/healthz").await;
                assert!(status.starts_with(expected), "{mode}: {client}: {status}");
            }
        }
    });
}

#[test]
fn versions_suites_and_curves_can_be_limited() {
    run(async {
        let files = Files::new();
        let text = "tls_server_config: {cert_file: server.crt, key_file: server.key, max_version: TLS12, \
             cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384], curve_preferences: [CurveP384]}";
        let file = files.open(text).unwrap();
        let server = serve(file.subscribe()).await;
        for (client, expected) in [
            ("--ciphers ECDHE-ECDSA-AES256-GCM-SHA384", "200"),
            ("--ciphers ECDHE-ECDSA-AES128-GCM-SHA256", "curl"),
            ("--tlsv1.3", "curl"),
            ("--curves P-384:P-256", "200"),
            ("--curves X25519:P-256", "curl"),
        ] {
            let arguments = format!("--cacert ca.crt {client}");
            let status = files.status(&server, &arguments, "/healthz").await;
            assert!(status.starts_with(expected), "{client}: {status}");
        }
    });
}

#[test]
fn changes_take_effect_and_bad_ones_do_not() {
    run(async {
        let files = Files::new();
        let mut file = files.open(&protected()).unwrap();
        let server = serve(file.subscribe()).await;
        assert!(!file.refresh().unwrap());
        let asked = async |arguments: &str| files.status(&server, arguments, "/healthz").await;
        let (old, new) = (
            "--cacert ca.crt --user prom:secret",
            "--cacert new.crt --user prom:secret",
        );
        assert_eq!(asked(old).await, "200");

        // A new certificate, of another authority, and its key a moment later.
        files.authority("new");
        files.certificate("new", "next");
        files.rename("next.crt", "server.crt");
        let error = file.refresh().unwrap_err().to_string();
        assert!(error.contains("another key"), "{error}");
        assert_eq!(asked(old).await, "200");
        files.rename("next.key", "server.key");
        assert!(file.refresh().unwrap());
        assert_eq!(
            (asked(old).await.as_str(), asked(new).await.as_str()),
            ("curl 60", "200")
        );

        // Another password; nothing of the old one is remembered.
        let hash = bcrypt::hash("changed", COST).unwrap();
        files.write(
            "web.yml",
            &format!("{TLS}basic_auth_users: {{prom: {hash}}}\n"),
        );
        assert!(file.refresh().unwrap());
        assert_eq!(asked(new).await, "401");
        let changed = "--cacert new.crt --user prom:changed";
        assert_eq!(asked(changed).await, "200");

        // As an editor leaves it for a moment, and with what nobody wants by mistake.
        for bad in ["", TLS, "basic_auth_users: {prom: x}", "no: [yaml"] {
            files.write("web.yml", bad);
            assert!(file.refresh().is_err(), "{bad}");
            assert_eq!(asked(changed).await, "200");
            assert_eq!(asked("--cacert new.crt").await, "401");
        }
    });
}

#[test]
fn errors_name_the_key() {
    let files = Files::new();
    for (name, label) in [
        ("encrypted.key", "ENCRYPTED PRIVATE"),
        ("broken.key", "PRIVATE"),
    ] {
        let text = format!("-----BEGIN {label} KEY-----\nAAAA\n-----END {label} KEY-----\n");
        files.write(name, &text);
    }
    let tls = |more: &str| {
        format!("tls_server_config: {{cert_file: server.crt, key_file: server.key, {more}}}")
    };
    for (text, expected) in [
        ("rate_limit: {burst: 1}", "`rate_limit`"),
        ("tls_server_config: {cert_fil: x}", "`cert_fil`"),
        (
            "tls_server_config: {cert_file: server.crt}",
            "key_file is missing",
        ),
        (
            "tls_server_config: {client_auth_type: NoClientCert}",
            "cert_file is missing",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: none.key}",
            "none.key",
        ),
        (
            "tls_server_config: {cert_file: server.key, key_file: server.key}",
            "cert_file: ",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: client.key}",
            "client.key",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: server.crt}",
            "server.crt: no private key in PEM",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: encrypted.key}",
            "encrypted.key: the private key is encrypted",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: broken.key}",
            "broken.key: ",
        ),
        (
            &tls("min_version: TLS10"),
            "min_version: TLS10 is not supported",
        ),
        (
            &tls("min_version: TLS13, max_version: TLS12"),
            "min_version is above",
        ),
        (
            &tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"),
            "TLS_RSA_WITH_AES_128_CBC_SHA is not",
        ),
        (
            &tls("curve_preferences: [CurveP521]"),
            "CurveP521 is not supported",
        ),
        (
            &tls("client_auth_type: RequireAnyClientCert"),
            "RequireAnyClientCert is not supported",
        ),
        (
            &tls("client_auth_type: RequireAndVerifyClientCert"),
            "client_ca_file is missing",
        ),
        (&tls("client_ca_file: ca.crt"), "client_auth_type"),
        (&tls("client_allowed_sans: [x]"), "`client_allowed_sans`"),
        ("basic_auth_users: {prom: secret}", "the hash of prom"),
        (
            "http_server_config: {headers: {Server: x}}",
            "Server cannot be set",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: no}}",
            "deny or sameorigin",
        ),
    ] {
        let error = files.error(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let hash = bcrypt::hash("secret", COST).unwrap();
    let error = files.error(&format!("basic_auth_users: {{prom: {hash}}}\nx: 1"));
    assert!(!error.contains(&hash), "a hash would be logged: {error}");
    for nothing in [
        "",
        "# nothing",
        "tls_server_config:\nbasic_auth_users:\nhttp_server_config: {http2: true}",
    ] {
        let file = files.open(nothing).unwrap();
        assert_eq!(file.subscribe().borrow().scheme(), "http");
    }
}

#[test]
fn handshakes_that_do_not_end_take_no_answers_away() {
    run(async {
        let files = Files::new();
        let file = files.open(&protected()).unwrap();
        let server = serve(file.subscribe()).await;
        let mut slow = Vec::new();
        for _ in 0..300 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            // The beginning of a ClientHello. Those before have been replaced.
            let _ = stream.write_all(b"\x16\x03\x01\x02\x00\x01").await;
            slow.push(stream);
        }
        let arguments = "--cacert ca.crt --user prom:secret";
        let answer = timeout(PROBE, files.status(&server, arguments, "/metrics"));
        assert_eq!(answer.await.expect("it answers soon"), "200");
    });
}

#[test]
#[ignore = "takes ten seconds"]
fn silent_handshakes_are_hung_up_on() {
    run(async {
        let files = Files::new();
        let file = files.open(TLS).unwrap();
        let server = serve(file.subscribe()).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = timeout(Duration::from_secs(12), read)
            .await
            .expect("still open");
    });
}

#[test]
fn prometheus_scrapes_over_tls_with_a_password() {
    needs_programs!("prometheus");
    run(async {
        let files = Files::new();
        let file = files.open(&protected()).unwrap();
        let server = serve(file.subscribe()).await;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n\
             - job_name: observer\n  \
               scheme: https\n  \
               tls_config: {{ca_file: ca.crt}}\n  \
               basic_auth: {{username: prom, password: secret}}\n  \
               static_configs: [{{targets: ['{}']}}]\n",
            server.address
        );
        files.write("prometheus.yml", &config);
        // A port that is free now.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut prometheus = Command::new("prometheus");
        prometheus
            .current_dir(files.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let mut prometheus = spawn(&mut prometheus).expect("prometheus can be started");
        let started = Instant::now();
        let url = format!("http://{address}/api/v1/query?query=up");
        let mut answer = String::new();
        while started.elapsed() < Duration::from_secs(40) && !answer.contains(r#","1"]"#) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--noproxy", "*", &url]);
            let output = tokio::task::spawn_blocking(move || curl.output());
            answer = String::from_utf8(output.await.unwrap().unwrap().stdout).unwrap();
        }
        let _ = prometheus.kill();
        let _ = prometheus.wait();
        assert!(answer.contains(r#","1"]"#), "{answer}");
    });
}

/// The example of the documentation is what exporters take, too.
#[test]
fn the_documented_file_is_right() {
    let lines = DOCUMENT
        .lines()
        .skip_while(|line| *line != "    tls_server_config:");
    let example: String = lines
        .map_while(|line| line.strip_prefix("    "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let files = Files::new();
    files.rename("server.crt", "tls.crt");
    files.rename("server.key", "tls.key");
    let file = files.open(&example).unwrap();
    let config = file.subscribe();
    let config = config.borrow();
    assert!(
        config.tls.is_some() && !config.users.is_empty(),
        "{example}"
    );
    needs_programs!("promtool");
    let mut promtool = Command::new("promtool");
    let check = promtool.args(["check", "web-config", "web.yml"]);
    let output = check.current_dir(files.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}
