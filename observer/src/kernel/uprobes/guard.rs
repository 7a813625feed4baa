//! Takes the probes off a file when it is written to: what is written over an instruction would be executed wrongly
//! (the kernel writes a breakpoint there and keeps the old instruction, `install_breakpoint` in
//! kernel/events/uprobes.c). The kernel refuses to write to a program while it runs, not to a library, nor to a
//! program that has ended.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use observer_core::sync::lock;
use tracing::{error, info};

use super::Links;

/// Which file is watched.
#[derive(Debug)]
pub struct Watch(WatchDescriptor);

/// Watched files and what is attached to them.
pub struct Guard {
    inotify: Inotify,
    links: Mutex<HashMap<i32, Vec<Links>>>,
}

impl Guard {
    /// Watches nothing yet.
    ///
    /// # Errors
    ///
    /// When the kernel has no inotify, or the user has all instances that it may have.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC)?,
            links: Mutex::default(),
        })
    }

    /// Watches a file from now on: to be called before it is read.
    ///
    /// # Errors
    ///
    /// When the user watches as many files as it may.
    pub fn watch(&self, file: &File) -> io::Result<Watch> {
        // The lock comes first: an event must not be handled before the file has its place.
        let mut links = lock(&self.links);
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let watch = self.inotify.add_watch(&path, AddWatchFlags::IN_MODIFY)?;
        links.insert(watch.as_raw(), Vec::new());
        Ok(Watch(watch))
    }

    /// Keeps what was attached to a file. If it has been written to since it was watched, that is detached.
    pub fn keep(&self, watch: &Watch, links: Vec<Links>) {
        if let Some(kept) = lock(&self.links).get_mut(&watch.0.as_raw()) {
            *kept = links;
        }
    }

    /// Whether something is attached to a file.
    pub fn holds(&self, watch: &Watch) -> bool {
        let links = lock(&self.links);
        links
            .get(&watch.0.as_raw())
            .is_some_and(|it| !it.is_empty())
    }

    /// Detaches what was attached to a file, and watches it no longer.
    pub fn release(&self, watch: &Watch) {
        lock(&self.links).remove(&watch.0.as_raw());
        // An error means that the file is gone, and its watch with it.
        let _ = self.inotify.rm_watch(watch.0);
    }

    /// Detaches whatever is written to, until the kernel refuses to say what is.
    pub fn run(self: Arc<Self>) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    error!(%error, "cannot watch probed files: nothing is probed any more");
                    lock(&self.links).clear();
                    return;
                }
            };
            for event in events {
                // Events were lost.
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    lock(&self.links).clear();
                }
                // Dropped without the lock: to detach takes some milliseconds.
                let links = lock(&self.links).remove(&event.wd.as_raw());
                if links.is_some_and(|links| !links.is_empty()) {
                    info!("a probed file was written to: its probes are removed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread, time::Duration};

    use super::*;

    #[test]
    fn what_is_written_to_is_detached() {
        let guard = Arc::new(Guard::new().unwrap());
        thread::spawn({
            let guard = Arc::clone(&guard);
            move || guard.run()
        });
        let mut written = tempfile::tempfile().unwrap();
        let other = tempfile::tempfile().unwrap();
        let [watch, same] = [&written, &other].map(|file| guard.watch(file).unwrap());
        for it in [&watch, &same] {
            guard.keep(it, vec![Links(Vec::new())]);
            assert!(guard.holds(it));
        }
        written.write_all(b"x").unwrap();
        while guard.holds(&watch) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(guard.holds(&same));
        // What was read before that is not attached any more.
        guard.keep(&watch, vec![Links(Vec::new())]);
        assert!(!guard.holds(&watch));
        guard.release(&same);
        assert!(!guard.holds(&same));
    }
}
