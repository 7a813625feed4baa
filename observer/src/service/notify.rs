//! The notification protocol of systemd, sd_notify(3).
//!
//! Crates for it open a socket for each message, which the seccomp filter forbids; this one is
//! connected at the start.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Mutex,
    time::Duration,
};

use observer_core::sync::lock;
use tracing::{debug, warn};

use crate::kernel::monotonic_ns;

/// How long a message may wait for systemd to read earlier ones.
const PATIENCE: Duration = Duration::from_secs(10);

/// Notifies the service manager. Does nothing without a service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
    not_reloaded: Mutex<Option<String>>,
}

impl Notifier {
    /// Connects to `NOTIFY_SOCKET`, if it is set. To be called before the process restricts itself.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| env::var(name).ok();
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|address| {
            connect(&address)
                .inspect_err(|error| warn!(?address, %error, "cannot notify the service manager"))
                .ok()
        });
        Self {
            watchdog: watchdog(
                variable("WATCHDOG_USEC").as_deref(),
                variable("WATCHDOG_PID").as_deref(),
                std::process::id(),
            ),
            socket,
            not_reloaded: Mutex::default(),
        }
    }

    /// Whether there is a service manager.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// The time without a notification after which systemd restarts the daemon, if configured
    /// (`WatchdogSec=`).
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The start is finished.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The settings are being read again.
    pub fn reloading(&self) {
        let now = monotonic_ns() / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The reload is finished. If it failed, the status says why, until one succeeds.
    pub fn reloaded(&self, error: Option<String>) {
        *lock(&self.not_reloaded) = error;
        self.send("READY=1");
    }

    /// Why the last reload failed, if it did.
    pub(super) fn not_reloaded(&self) -> Option<String> {
        lock(&self.not_reloaded).clone()
    }

    /// The daemon is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Stopping");
    }

    /// For the watchdog.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The line that `systemctl status` shows. A message has an assignment per line, so control characters are removed.
    pub(super) fn status(&self, text: &str) {
        let line = text.replace(char::is_control, " ");
        self.send(&format!("STATUS={line}"));
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            debug!(%error, message, "cannot notify the service manager");
        }
    }
}

/// Connects to a path, or to an abstract name, which begins with `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The time of the watchdog, if it is meant for the process `own`.
fn watchdog(microseconds: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let microseconds = microseconds?.parse().ok().filter(|time| *time > 0)?;
    let is_own = pid.is_none_or(|pid| pid.parse() == Ok(own));
    is_own.then(|| Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{sandbox, service::State};

    fn pair(address: &SocketAddr, named: &OsStr) -> (UnixDatagram, Notifier) {
        let manager = UnixDatagram::bind_addr(address).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let notifier = Notifier {
            socket: Some(connect(named).unwrap()),
            watchdog: None,
            not_reloaded: Mutex::default(),
        };
        (manager, notifier)
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_of_a_confined_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let (manager, notifier) =
            pair(&SocketAddr::from_pathname(&path).unwrap(), path.as_os_str());
        thread::spawn(move || {
            if let Err(error) = sandbox::install_seccomp() {
                println!("not tested under seccomp: {error}");
            }
            notifier.ready();
            notifier.alive();
            notifier.reloading();
            // The name of a program must not become an assignment.
            notifier.status("a\nMAINPID=1");
            notifier.stopping();
        })
        .join()
        .unwrap();
        assert_eq!(heard(&manager), "READY=1");
        assert_eq!(heard(&manager), "WATCHDOG=1");
        let reloading = heard(&manager);
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let time: u64 = time.expect(&reloading).parse().unwrap();
        assert!(time <= monotonic_ns() / 1_000);
        assert_eq!(heard(&manager), "STATUS=a MAINPID=1");
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=Stopping");
    }

    #[test]
    fn an_abstract_name_begins_with_an_at_sign() {
        let name = format!("observer-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let (manager, notifier) = pair(&address, OsStr::new(&format!("@{name}")));
        notifier.ready();
        assert_eq!(heard(&manager), "READY=1");
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let time = Some(Duration::from_secs(60));
        assert_eq!(watchdog(Some("60000000"), None, 7), time);
        assert_eq!(watchdog(Some("60000000"), Some("7"), 7), time);
        assert_eq!(watchdog(Some("60000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(Some("soon"), None, 7), None);
        assert_eq!(watchdog(None, Some("7"), 7), None);
    }

    #[test]
    fn the_watchdog_hears_nothing_while_a_job_is_stuck() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let (manager, mut notifier) =
            pair(&SocketAddr::from_pathname(&path).unwrap(), path.as_os_str());
        // Few enough messages for the queue of the socket (net.unix.max_dgram_qlen).
        notifier.watchdog = Some(Duration::from_millis(200));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let report = |stuck, time| {
            let state = move || State {
                stuck,
                ..State::default()
            };
            let report = super::super::report(&notifier, state);
            let ended = runtime.block_on(async { tokio::time::timeout(time, report).await });
            assert!(ended.is_err());
        };
        report(None, Duration::from_millis(150));
        assert_eq!(heard(&manager), "WATCHDOG=1");
        assert_eq!(heard(&manager), "STATUS=Nothing is wrong");
        assert_eq!(heard(&manager), "WATCHDOG=1");
        manager.set_nonblocking(true).unwrap();
        while manager.recv(&mut [0; 64]).is_ok() {}
        report(
            Some(("tick", Duration::from_secs(31))),
            Duration::from_millis(150),
        );
        assert_eq!(
            heard(&manager),
            "STATUS=The job tick has not finished for 31 s; nothing is wrong"
        );
        assert!(manager.recv(&mut [0; 64]).is_err());
    }
}
