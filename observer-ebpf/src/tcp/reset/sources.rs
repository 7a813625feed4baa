//! Sources of segments for closed ports: `iter/bpf_map_elem` over the map of sources.

use core::ffi::c_void;

use observer_common::{SOURCE_WINDOW_NS, SourceKey, SourceSample, SourceSegments};

use crate::core::{
    clock::now,
    counters::{add, bounded},
    maps::{BPF_NOEXIST, SOURCES},
    read::Memory,
    segment, seq,
};

/// The flag ACK in a TCP header.
const TCP_ACK: u8 = 0x10;

/// Words in the bitmap of ports.
const WORDS: usize = 4;

/// A segment without a socket is answered with an RST. Stores its source address and destination
/// port, unless it has the flag ACK: then it may belong to a former connection of this host, and
/// the source did not choose the port. Every segment after the first SYN of a connection has this
/// flag (RFC 9293, section 3.10.7.4), and no segment of a SYN, FIN, null or Xmas scan.
#[inline(always)]
pub fn note<M: Memory>(skb: *const u8) {
    let Some(segment) = segment::of::<M>(skb) else {
        return;
    };
    if segment.flags() & TCP_ACK != 0 {
        return;
    }
    let port = segment.destination_port();
    let key = SourceKey {
        address: segment.source(),
        netns: segment::netns::<M>(skb),
    };
    let now = now();
    let source = match SOURCES.get_ptr_mut(key) {
        Some(source) => source,
        None => {
            let first = SourceSegments {
                began_ns: now,
                ..SourceSegments::default()
            };
            // Fails if another CPU inserted it first.
            let _ = SOURCES.insert(key, first, BPF_NOEXIST);
            let Some(source) = SOURCES.get_ptr_mut(key) else {
                return;
            };
            source
        }
    };
    let Some(word) = bounded(usize::from(port as u8) / 64, WORDS) else {
        return;
    };
    let bit = 1 << (port % 64);
    // SAFETY: points into the map; the index was checked.
    unsafe {
        if now.saturating_sub((*source).began_ns) > SOURCE_WINDOW_NS {
            (*source).ports = [0; WORDS];
            (*source).segments = 0;
            (*source).began_ns = now;
        }
        let ports = (&raw mut (*source).ports).cast::<u64>().add(word);
        // Two CPUs may do this for the same word at the same time. Then a port is missing until its
        // next segment. An atomic OR needs 5.12.
        if *ports & bit == 0 {
            *ports |= bit;
        }
        add(&raw mut (*source).segments, 1);
        (*source).last_ns = now;
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn sources_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of sources.
    let Some((output, key, segments)) = (unsafe { seq::element::<SourceKey, SourceSegments>(ctx) })
    else {
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let sample = unsafe {
        SourceSample {
            segments: *segments,
            key: *key,
            padding: 0,
        }
    };
    if now().saturating_sub(sample.segments.last_ns) <= SOURCE_WINDOW_NS {
        output.write(&raw const sample);
    }
    0
}
