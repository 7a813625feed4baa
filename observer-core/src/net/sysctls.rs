//! Sysctls that decide when a connection is refused, dropped or reset.

use std::{collections::BTreeMap, fs, path::Path};

/// Values by name, as sysctl(8) shows them. A name that the kernel does not have is absent.
pub type Values = BTreeMap<&'static str, u64>;

/// Those of the whole host; the kernel shows the last two for the reader's network namespace.
const HOST: [&str; 5] = [
    "fs.file-max",
    "fs.nr_open",
    "net.ipv4.tcp_max_orphans",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
];

/// Sysctls of the host and of its network namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// Of the whole host.
    pub host: Values,
    /// Of each network namespace with sockets, by inode number.
    pub namespaces: BTreeMap<u32, Values>,
}

/// Reads those of the whole host below `root`, which is /proc/sys.
#[must_use]
pub fn read_host(root: &Path) -> Values {
    let value = |name: &&'static str| {
        let text = fs::read_to_string(root.join(name.replace('.', "/"))).ok()?;
        Some((*name, text.trim().parse().ok()?))
    };
    HOST.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_absent() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("fs")).unwrap();
        fs::write(root.path().join("fs/file-max"), "9223372036854775807\n").unwrap();
        fs::write(root.path().join("fs/nr_open"), "many\n").unwrap();
        let expected = [("fs.file-max", i64::MAX as u64)];
        assert_eq!(read_host(root.path()), expected.into());
        assert!(read_host(Path::new("/proc/sys")).contains_key("fs.nr_open"));
    }
}
