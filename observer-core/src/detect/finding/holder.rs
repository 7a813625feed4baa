//! Whom findings are about, and their labels in JSON.

use std::sync::Arc;

use observer_common::ProcessKey;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::table::Labels;

/// A process or name and its share in something.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// The process, if it is one.
    pub process: Option<ProcessKey>,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Number of ports or sockets it has.
    pub count: u64,
}

impl Serialize for Holder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries(&mut map, &self.labels)?;
        map.serialize_entry("count", &self.count)?;
        map.end()
    }
}

pub(super) fn labels<S: Serializer>(
    labels: &Option<Arc<Labels>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(labels) = labels {
        entries(&mut map, labels)?;
    }
    map.end()
}

/// `pid` is a number here, as in subjects.
fn entries<M: SerializeMap>(map: &mut M, labels: &Labels) -> Result<(), M::Error> {
    if let Some(pid) = labels.pid() {
        map.serialize_entry("pid", &pid.parse::<u32>().ok())?;
    }
    map.serialize_entry("comm", labels.comm())?;
    map.serialize_entry("unit", labels.unit())
}
