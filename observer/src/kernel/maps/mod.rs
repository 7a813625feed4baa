//! The maps of the attached programs, as the daemon reads and writes them.

pub mod array;
pub mod listeners;
mod lossy;
pub mod open_files;
pub mod ports;
pub mod ring;
pub mod slots;
pub mod sockopt;
pub mod sources;
pub mod stats;
pub mod sweep;
pub mod time_wait;
pub mod tls;

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, Queue},
};

use self::array::MmapArray;

/// Takes a map out of the object.
fn take(ebpf: &mut Ebpf, name: &'static str) -> anyhow::Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no map {name}"))
}

fn take_hash<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> anyhow::Result<HashMap<MapData, K, V>> {
    HashMap::try_from(take(ebpf, name)?).with_context(|| format!("cannot use the map {name}"))
}

fn take_queue(ebpf: &mut Ebpf, name: &'static str) -> anyhow::Result<Queue<MapData, u32>> {
    Queue::try_from(take(ebpf, name)?).with_context(|| format!("cannot use the map {name}"))
}

/// Takes an array that is then read as memory.
fn take_array<T: observer_common::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> anyhow::Result<MmapArray<T>> {
    let Map::Array(map) = take(ebpf, name)? else {
        anyhow::bail!("the map {name} is no array");
    };
    MmapArray::new(&map).with_context(|| format!("cannot map {name} into memory"))
}
