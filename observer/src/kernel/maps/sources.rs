//! Sources of segments for closed ports, read through an iterator.

use std::{io, time::Duration};

use anyhow::Context as _;
use aya::Ebpf;
use observer_common::SourceSample;
use observer_core::{detect::Source, walk::address};

use crate::kernel::{hooks::reset::SOURCES_ITER, iter::MapIter};

/// The map of sources.
pub struct Sources(MapIter);

impl Sources {
    /// Attaches the iterator of `ebpf`, which is loaded.
    ///
    /// # Errors
    ///
    /// When the object lacks the map or the program, or it cannot be attached.
    pub fn new(ebpf: &Ebpf) -> anyhow::Result<Self> {
        MapIter::of(ebpf, &SOURCES_ITER)
            .map(Self)
            .context("cannot attach the iterator over sources")
    }

    /// Those that sent a segment within the last minute.
    ///
    /// # Errors
    ///
    /// When the iterator cannot be read.
    pub fn read(&self) -> io::Result<Vec<Source>> {
        let mut sources = Vec::new();
        self.0.read(|sample: SourceSample| {
            let SourceSample {
                segments,
                key,
                padding: _,
            } = sample;
            sources.push(Source {
                netns: key.netns,
                address: address(key.address),
                ports: segments.ports,
                segments: segments.segments,
                last_at: Duration::from_nanos(segments.last_ns),
            });
        })?;
        // A source that moved within the map during the reading occurs twice.
        sources.sort_by_key(|source| (source.netns, source.address));
        sources.dedup_by_key(|source| (source.netns, source.address));
        Ok(sources)
    }
}
