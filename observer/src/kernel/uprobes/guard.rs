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

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use observer_core::sync::lock;
use tracing::{error, info};

use super::link::Links;

/// A file that is watched. Dropping it detaches what was attached to the file, and ends the watch.
pub struct Watch {
    guard: Arc<Guard>,
    descriptor: WatchDescriptor,
}

impl Watch {
    /// Keeps what was attached to the file. If it has been written to since it was watched, that is detached.
    pub fn keep(&self, links: Vec<Links>) {
        if let Some(kept) = lock(&self.guard.links).get_mut(&self.descriptor.as_raw()) {
            *kept = links;
        }
    }

    /// Whether something is attached to the file.
    pub fn holds(&self) -> bool {
        let links = lock(&self.guard.links);
        links
            .get(&self.descriptor.as_raw())
            .is_some_and(|it| !it.is_empty())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let links = lock(&self.guard.links).remove(&self.descriptor.as_raw());
        // Without the lock: to detach takes some milliseconds.
        drop(links);
        // An error means that the file is gone, and its watch with it.
        let _ = self.guard.inotify.rm_watch(self.descriptor);
    }
}

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
    /// When the kernel has no inotify, or the user has all instances that it may have. Without it nothing may be probed.
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
    pub fn watch(self: &Arc<Self>, file: &File) -> io::Result<Watch> {
        // The lock comes first: an event must not be handled before the file has its place.
        let mut links = lock(&self.links);
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let descriptor = self.inotify.add_watch(&path, AddWatchFlags::IN_MODIFY)?;
        links.insert(descriptor.as_raw(), Vec::new());
        Ok(Watch {
            guard: Arc::clone(self),
            descriptor,
        })
    }

    /// Detaches whatever is written to, until the kernel refuses to say what is.
    pub fn run(self: Arc<Self>) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
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
            it.keep(vec![Links::new(Vec::new())]);
            assert!(it.holds());
        }
        written.write_all(b"x").unwrap();
        while watch.holds() {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(same.holds());
        // What was read before that is not attached any more.
        watch.keep(vec![Links::new(Vec::new())]);
        assert!(!watch.holds());
        drop(same);
        assert_eq!(lock(&guard.links).len(), 0);
    }
}
