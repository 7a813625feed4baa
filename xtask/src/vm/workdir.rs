//! Directories of runs: each run has its own, so that concurrent runs do not interfere.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

/// Logs of older runs are removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Locked as long as the run lasts.
const LOCK: &str = "lock";

/// The target directory of this program, which is `DIR/PROFILE/xtask`.
pub fn target() -> Result<PathBuf> {
    let exe = env::current_exe()?;
    let dir = exe
        .ancestors()
        .nth(2)
        .context("xtask stands in no target directory")?;
    Ok(dir.to_owned())
}

/// The lock for building and packing the guests' programs, held until the file is dropped.
pub fn lock(target: &Path) -> Result<File> {
    let dir = target.join("vm");
    fs::create_dir_all(&dir)?;
    let file = File::create(dir.join(LOCK))?;
    file.lock().context("cannot lock the build")?;
    Ok(file)
}

/// A run's directory. Its logs stay.
pub struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    pub fn new(target: &Path) -> Result<Self> {
        let runs = target.join("vm/runs");
        fs::create_dir_all(&runs)?;
        sweep(&runs);
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let path = runs.join(format!("{time}-{}", process::id()));
        fs::create_dir(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes files of earlier runs: all of old runs, and the guests' files of interrupted ones. Errors are ignored.
fn sweep(runs: &Path) {
    for run in entries(runs) {
        // A run that has not locked its directory yet has nothing in it.
        let ended = File::open(run.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if !ended {
            continue;
        }
        let age = fs::metadata(&run).and_then(|data| data.modified());
        if age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEPT)) {
            let _ = fs::remove_dir_all(&run);
            continue;
        }
        for file in entries(&run).chain(entries(&run).flat_map(|guest| entries(&guest))) {
            let name = file.file_name().unwrap_or_default();
            let packed = file
                .extension()
                .is_some_and(|extension| extension == "cpio");
            if packed || name == "initrd" {
                let _ = fs::remove_file(&file);
            }
        }
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_run_leaves_only_logs() {
        let target = env::temp_dir().join(format!("observer-runs-{}", process::id()));
        let run = WorkDir::new(&target).unwrap();
        let guest = run.path().join("6.1");
        fs::create_dir(&guest).unwrap();
        let files = ["job.cpio", "6.1/initrd", "6.1/console.log"].map(|file| run.path().join(file));
        for file in &files {
            fs::write(file, "").unwrap();
        }
        let there = || files.each_ref().map(|file| file.exists());
        sweep(&target.join("vm/runs"));
        assert_eq!(there(), [true; 3], "it still runs");
        drop(run);
        // A child of another test holds the inherited lock until exec().
        let begun = std::time::Instant::now();
        while there() != [false, false, true] {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", there());
            sweep(&target.join("vm/runs"));
        }
        fs::remove_dir_all(&target).unwrap();
    }
}
