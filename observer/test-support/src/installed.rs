//! A package that `cargo xtask package` has installed into a root file system.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Names that file system.
const ROOT: &str = "OBSERVER_INSTALLED";

/// What systemd does before it starts the unit: /run is not part of the file system, and belongs to the unit.
const PREPARE: &str = r#"set -e
root=$1 user=$2 group=$3 directory=$4
shift 4
for it in proc sys; do mount --rbind "/$it" "$root/$it"; done
mount -t tmpfs tmpfs "$root/run"
chroot "$root" install -d -o "$user" -g "$group" "/run/$directory"
exec chroot "$root" "$@""#;

/// The root file system with the package.
pub struct Installed(PathBuf);

impl Installed {
    /// The one that `OBSERVER_INSTALLED` names, if it is set.
    pub fn from_env() -> Option<Self> {
        env::var_os(ROOT).map(|root| Self(root.into()))
    }

    /// Where a file of the package is, given its absolute path in it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The daemon as the unit starts it: as its user, with its capabilities and configuration. The rest of the unit's
    /// sandbox takes systemd.
    pub fn daemon(&self) -> Command {
        let unit = self.path("/usr/lib/systemd/system/observer.service");
        let unit = fs::read_to_string(&unit).expect("the package has its unit");
        let setting = |key: &str| {
            let mut values = unit.lines().filter_map(|line| line.split_once('='));
            let found = values.find(|(name, _)| *name == key);
            found.unwrap_or_else(|| panic!("the unit has no {key}")).1
        };
        // For example `CAP_BPF CAP_PERFMON`.
        let capabilities = |key| {
            let names = setting(key).split_whitespace();
            let names = names.map(|it| format!(",+{}", it.trim_start_matches("CAP_")));
            format!("-all{}", names.collect::<String>().to_lowercase())
        };
        let [user, group] = ["User", "Group"].map(setting);
        let ambient = capabilities("AmbientCapabilities");
        let bounding = capabilities("CapabilityBoundingSet");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", PREPARE, "sh"])
            .arg(&self.0)
            .args([user, group, setting("RuntimeDirectory")])
            .args(["setpriv", "--reuid", user, "--regid", group])
            .args(["--init-groups", "--no-new-privs"])
            .arg(format!("--bounding-set={bounding}"))
            .arg(format!("--inh-caps={ambient}"))
            .arg(format!("--ambient-caps={ambient}"))
            .args(setting("ExecStart").split_whitespace())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// A command where the daemon with this pid runs, as root.
    pub fn beside(pid: u32, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--root", "--wd=/", "--target"])
            .arg(pid.to_string())
            .args(words);
        command
    }
}

/// Where a file of the packages is that documents and alerts name by its absolute path: installed if there is a package,
/// else in this repository.
pub fn shipped(path: &str) -> PathBuf {
    if let Some(installed) = Installed::from_env() {
        return installed.path(path);
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match path.strip_prefix("/usr/share/doc/observer/") {
        Some(document) => repository.join(document),
        None => {
            let file = path.strip_prefix("/usr/share/observer/");
            let file = file.unwrap_or_else(|| panic!("{path} is not packaged"));
            repository.join("deploy").join(file)
        }
    }
}
