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

impl Sysctls {
    /// The value in a network namespace; if that one is not known, the value that all have in common.
    #[must_use]
    pub fn of_namespace(&self, netns: Option<u32>, name: &str) -> Option<u64> {
        if let Some(netns) = netns {
            return self.namespaces.get(&netns)?.get(name).copied();
        }
        let mut values = self.namespaces.values().map(|values| values.get(name));
        let first = values.next()??;
        values.all(|it| it == Some(first)).then_some(*first)
    }

    /// Whether over 90 % of the entries for connection tracking are taken. A kernel that does not track has none.
    #[must_use]
    pub fn conntrack_is_full(&self) -> bool {
        let value = |name| self.host.get(name).copied();
        let most = value("net.netfilter.nf_conntrack_max").unwrap_or_default();
        let count = value("net.netfilter.nf_conntrack_count").unwrap_or_default();
        // 0: no limit.
        most > 0 && count.saturating_mul(10) >= most.saturating_mul(9)
    }
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
