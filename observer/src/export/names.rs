//! Label values for numbers.

use std::collections::BTreeMap;

use observer_common::{
    CONNECT_RESULTS, FD_ERRNOS, RESETS_RECEIVED, RESETS_SENT, reset_received_name,
};

use crate::kernel::source::KernelSource;

/// Names for the numbers of failed calls.
pub trait Names: Send + Sync {
    /// `ECONNREFUSED` for 111. Not empty for a number without a name.
    fn errno(&self, errno: u16) -> String;
    /// `IPPROTO_TCP` for 6.
    fn level(&self, level: i32) -> String;
    /// `TCP_NODELAY` for 6, 1.
    fn option(&self, level: i32, option: i32) -> String;
    /// `AF_INET` for 2.
    fn family(&self, family: u16) -> String;
    /// `tcp` for 2, 6, 1.
    fn protocol(&self, family: u16, protocol: u16, socket_type: u16) -> String;
}

/// Indices of an array, by the name they share.
pub(super) type Index = Vec<(String, Vec<usize>)>;

/// Names of the indices of a slot's arrays, looked up once.
pub(super) struct Tables {
    pub connects: Index,
    pub fd_errnos: Index,
    pub resets_sent: Index,
    pub resets_received: Index,
}

impl Tables {
    pub fn new(names: &dyn Names, source: &dyn KernelSource) -> Self {
        let errno = |errno: usize| match errno {
            0 => "ok".to_owned(),
            errno => names.errno(errno as u16),
        };
        Self {
            connects: index((0..CONNECT_RESULTS).map(errno)),
            fd_errnos: index(FD_ERRNOS.iter().map(|&e| names.errno(e as u16))),
            // The kernel's own reason and our class for it have one name.
            resets_sent: index((0..RESETS_SENT as u32).map(|i| source.reset_reason(i))),
            resets_received: index((0..RESETS_RECEIVED).map(|state| {
                reset_received_name(state as u8)
                    .map_or_else(|| format!("IN_{state}"), str::to_owned)
            })),
        }
    }
}

fn index(names: impl Iterator<Item = String>) -> Index {
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, name) in names.enumerate() {
        by_name.entry(name).or_default().push(index);
    }
    by_name.into_iter().collect()
}
