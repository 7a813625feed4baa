//! A private apt: packages of several Debian releases from the mirror of this machine, without changing the machine's apt.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Suites with kernels, by whether they are on the mirror of security updates.
const SUITES: [(&str, bool); 5] = [
    ("bullseye-security", true),
    ("bookworm-security", true),
    ("trixie-security", true),
    ("trixie-backports", false),
    // The guest's programs.
    (GUEST_SUITE, false),
];

/// The release that the guest's programs are from. Fixed, so that every machine tests with
/// the same ones.
pub const GUEST_SUITE: &str = "bookworm";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Environment variable with another mirror: the URI before `/dists`.
pub const MIRROR: &str = "OBSERVER_VM_MIRROR";

/// Package lists are fetched anew when they are older.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// apt with a state of its own below a directory.
pub struct Mirror {
    dir: PathBuf,
}

impl Mirror {
    /// Prepares the state below `dir` and fetches the package lists when they are old.
    pub fn open(dir: &Path, update: bool) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let this = Self {
            dir: dir.to_owned(),
        };
        // An empty list of installed packages, so that apt lists every dependency.
        fs::write(dir.join("status"), "")?;
        fs::write(dir.join("apt.conf"), settings(dir))?;
        let list = sources(&main()?, Path::new(KEYRING).exists());
        let path = dir.join("sources.list");
        let changed = fs::read_to_string(&path).ok().as_deref() != Some(list.as_str());
        fs::write(&path, list)?;
        if update || changed || !this.fresh() {
            this.update()?;
        }
        Ok(this)
    }

    fn fresh(&self) -> bool {
        let stamp = fs::metadata(self.dir.join("updated")).and_then(|file| file.modified());
        stamp.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH))
    }

    /// Fetches the package lists.
    pub fn update(&self) -> Result<()> {
        let stamp = self.dir.join("updated");
        if stamp.exists() {
            fs::remove_file(&stamp)?;
        }
        let advice = "check the network and apt's sources";
        let mut update = self.command("apt-get");
        // Without it, apt ignores errors in updating lists.
        update.args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"]);
        shell::persist(&mut update, advice)?;
        fs::write(stamp, "")?;
        Ok(())
    }

    /// Names of packages that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let output = shell::output(self.command("apt-cache").args(["pkgnames", prefix]))
            .context("apt-cache pkgnames failed")?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    /// A package's newest version and what it depends on.
    pub fn show(&self, package: &str) -> Result<(String, Vec<String>)> {
        let output =
            shell::output(
                self.command("apt-cache")
                    .args(["show", "--no-all-versions", package]),
            )
            .with_context(|| format!("apt-cache knows no {package}"))?;
        let field = |name: &str| {
            output.lines().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                (key == name).then(|| value.to_owned())
            })
        };
        let version = field("Version").with_context(|| format!("{package} has no version"))?;
        let depends = field("Depends").unwrap_or_default();
        // `a (>= 1) | b, c`
        let names = depends
            .split([',', '|'])
            .filter_map(|text| text.split_whitespace().next())
            .map(str::to_owned);
        Ok((version, names.collect()))
    }

    /// Downloads packages (`name=version`) into `dir`. Resumes partial downloads.
    pub fn download(&self, packages: &[String], dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        let mut command = self.command("apt-get");
        command
            .args(["download", "-q=1"])
            .args(packages)
            .current_dir(dir);
        shell::persist(
            &mut command,
            "check the network; `cargo xtask vm --update` looks for newer packages",
        )
    }

    /// Downloads packages and all that they depend on, and returns the files.
    pub fn closure(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut status = OsString::from("Dir::State::status=");
        status.push(self.dir.join("status"));
        let install = |extra: &[&str]| {
            let mut command = self.command("apt-get");
            // There are no concurrent runs: the whole cache is locked.
            command
                .arg("-o")
                .arg(&status)
                .args(["-o", "Debug::NoLocking=true"])
                .args(["install", "-y", "-qq", "--download-only"])
                .args(extra)
                .args(packages);
            command
        };
        let advice = "check the network; `cargo xtask vm --update` looks for newer packages";
        let archives = self.dir.join("cache/archives");
        // The files to download, without those in the cache.
        shell::persist(&mut install(&[]), advice)?;
        let empty = self.dir.join("none");
        fs::create_dir_all(empty.join("partial"))?;
        let mut elsewhere = OsString::from("Dir::Cache::archives=");
        elsewhere.push(&empty);
        let mut list = install(&["--print-uris"]);
        list.arg("-o").arg(&elsewhere);
        let uris = shell::output(&mut list).context("apt-get --print-uris failed")?;
        let files: Vec<_> = parse_uris(&uris).map(|file| archives.join(file)).collect();
        if files.is_empty() {
            bail!("apt-get names no packages for {packages:?}");
        }
        Ok(files)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// Settings that keep apt to `dir`; the machine's own, such as proxies, stay in force. Expired
/// lists are accepted: a suite at its end of life is not signed again.
fn settings(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::State::Lists \"{dir}/lists\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         // The directories belong to the invoking user, not to apt's user.\n\
         APT::Sandbox::User \"root\";\n\
         APT::Default-Release \"{GUEST_SUITE}\";\n\
         APT::Install-Recommends \"false\";\n\
         Acquire::Check-Valid-Until \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::Languages \"none\";\n"
    )
}

/// File names in the output of `apt-get --print-uris`: `'URI' NAME SIZE HASH`.
fn parse_uris(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(1))
}

/// The text of a source list for all suites, given the address of the main mirror.
fn sources(main: &str, keyring: bool) -> String {
    let main = main.trim_end_matches('/');
    let option = if keyring {
        format!("[arch=amd64 signed-by={KEYRING}]")
    } else {
        "[arch=amd64]".to_owned()
    };
    SUITES
        .map(|(suite, security)| {
            let tail = if security { "-security" } else { "" };
            format!("deb {option} {main}{tail} {suite} main\n")
        })
        .concat()
}

/// The main mirror: that of the variable [`MIRROR`], or the machine's own.
pub fn main() -> Result<String> {
    env::var(MIRROR).or_else(|_| {
        own_mirror().with_context(|| {
            format!(
                "this machine's apt has no source of Debian\n  what you can do: name a mirror \
                 in {MIRROR}, like the URIs in a debian.sources file"
            )
        })
    })
}

/// The Debian mirror in this machine's own sources.
fn own_mirror() -> Option<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    let files = parts.flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files.collect();
    files.push("/etc/apt/sources.list".into());
    files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| mirror_in(&text))
}

/// The first address that ends in `/debian`, in either format of source lists.
fn mirror_in(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_formats() {
        let deb822 = "Types: deb\n# URIs: http://old.example/debian\n\
                      URIs: http://mirror.example/debian/\nSuites: bookworm\n";
        assert_eq!(mirror_in(deb822).unwrap(), "http://mirror.example/debian");
        let list = "# deb http://old.example/debian bookworm main\n\
                    deb http://other.example/apt stable main\n\
                    deb [arch=amd64] https://mirror.example/debian bookworm main\n";
        assert_eq!(mirror_in(list).unwrap(), "https://mirror.example/debian");
        assert_eq!(mirror_in("URIs: http://mirror.example/ubuntu\n"), None);
    }

    #[test]
    fn security_suites_are_on_their_own_mirror() {
        let list = sources("http://mirror.example/debian/", false);
        assert!(list.contains("http://mirror.example/debian-security bullseye-security main\n"));
        assert!(list.contains("http://mirror.example/debian trixie-backports main\n"));
    }

    #[test]
    fn files_are_read_from_print_uris() {
        let text = "Reading package lists...\n\
                    'http://mirror.example/p/libc6_2.36_amd64.deb' libc6_2.36_amd64.deb 2759320 SHA256:0\n";
        assert_eq!(
            parse_uris(text).collect::<Vec<_>>(),
            ["libc6_2.36_amd64.deb"]
        );
    }
}
