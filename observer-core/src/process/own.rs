//! The observer's own process: the usual `process_` metrics.

use std::sync::OnceLock;

use procfs::{
    WithCurrentSystemInfo as _,
    process::{LimitValue, Process},
};

/// The observer's own resources. A value that cannot be read is `None`: a daemon that dropped its
/// privileges may not be able to read all of its own /proc directory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnProcess {
    /// User and system CPU time in seconds.
    pub cpu_seconds: Option<f64>,
    /// Virtual memory in bytes.
    pub virtual_memory: Option<u64>,
    /// Resident memory in bytes.
    pub resident_memory: Option<u64>,
    /// Number of threads.
    pub threads: Option<u64>,
    /// Start time in seconds since the epoch.
    pub start_seconds: Option<f64>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Soft limit on open descriptors; `u64::MAX` if unlimited.
    pub max_fds: Option<u64>,
}

impl OwnProcess {
    /// Reads /proc/self.
    #[must_use]
    pub fn read() -> Self {
        let mut this = Self::default();
        let Ok(process) = Process::myself() else {
            return this;
        };
        if let Ok(stat) = process.stat() {
            let hertz = procfs::ticks_per_second() as f64;
            this.cpu_seconds = Some((stat.utime + stat.stime) as f64 / hertz);
            this.virtual_memory = Some(stat.vsize);
            this.resident_memory = Some(stat.rss_bytes().get());
            this.threads = u64::try_from(stat.num_threads).ok();
            if let Ok(boot) = procfs::boot_time_secs() {
                // Computed once, because the kernel's boot time changes when the clock is set.
                static START: OnceLock<f64> = OnceLock::new();
                let start = || boot as f64 + stat.starttime as f64 / hertz;
                this.start_seconds = Some(*START.get_or_init(start));
            }
        }
        this.open_fds = process.fd_count().ok().map(|count| count as u64);
        this.max_fds = process
            .limits()
            .ok()
            .map(|limits| match limits.max_open_files.soft_limit {
                LimitValue::Unlimited => u64::MAX,
                LimitValue::Value(limit) => limit,
            });
        this
    }
}
