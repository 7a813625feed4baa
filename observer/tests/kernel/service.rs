//! The daemon's messages to the service manager, here a socket of the test.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use observer_test_support::{Daemon, PATIENCE};

/// The messages that a service manager gets.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Reads until a message has `text`, and returns that message.
    fn hear(&mut self, text: &str) -> String {
        let started = Instant::now();
        while started.elapsed() < 3 * PATIENCE {
            let mut buffer = [0; 4096];
            let Ok(length) = self.socket.recv(&mut buffer) else {
                continue;
            };
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.heard.push(message.clone());
            if message.contains(text) {
                return message;
            }
        }
        panic!("no {text} among {:?}", self.heard);
    }
}

/// All of it comes from a daemon that is another user by then and has a seccomp filter.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_service_manager_hears_of_start_reload_watchdog_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let file = directory.path().join("observer.toml");
    fs::write(&file, "fd-batch = 10\n").unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    let timeout = Some(Duration::from_millis(100));
    socket.set_read_timeout(timeout).unwrap();
    let mut manager = Manager {
        socket,
        heard: Vec::new(),
    };
    let arguments = ["--config", file.to_str().unwrap(), "--user=65534"];
    // The daemon's socket can only wait a while for this one to be read, which the start does not fill.
    let daemon = Daemon::start_with(&arguments, |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "1200000")
            .env_remove("WATCHDOG_PID");
    });
    manager.hear("READY=1");
    manager.hear("WATCHDOG=1");
    manager.hear("WATCHDOG=1");
    assert!(
        manager.heard.iter().any(|it| it.starts_with("STATUS=")),
        "{:?}",
        manager.heard
    );

    let mut reload = |text: &str, status: &str| {
        fs::write(&file, text).unwrap();
        daemon.signal("HUP");
        let reloading = manager.hear("RELOADING=1");
        assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
        manager.hear("READY=1");
        manager.hear(status)
    };
    let failed = reload("fd-batch = 0\n", "STATUS=The last reload failed: ");
    assert!(failed.contains("observer.toml"), "{failed}");
    assert_eq!(daemon.get("/healthz").0, 200);
    let status = reload("fd-batch = 11\n", "STATUS=");
    assert!(!status.contains("reload"), "{status}");

    // The daemon is stopped, so it sends nothing; systemd would end it now.
    daemon.signal("STOP");
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    std::thread::sleep(Duration::from_millis(1500));
    assert!(manager.socket.recv(&mut [0; 4096]).is_err());
    daemon.signal("CONT");
    manager.hear("WATCHDOG=1");

    assert!(daemon.stop().success());
    manager.hear("STOPPING=1");
}
