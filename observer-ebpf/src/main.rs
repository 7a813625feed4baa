//! The kernel side of observer.
//!
//! One file or folder per signal in `tcp` and `process`, each listing its hooks and what it
//! counts. `core` is what they share and knows no signal; `scan` walks over what exists already, and
//! `uprobes` is on functions of user space.
//! Imports point one way: `scan` to `process` to `tcp` to `core`, and `uprobes` to `core`. Programs that serve the same
//! signal through different kinds of hook share one inlined body, generic over how kernel memory
//! may be read there (`core::read::Memory`).

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "AtomicU64::fetch_add does not exist on the BPF target"
)]

mod core;
mod license;
mod process;
mod scan;
mod tcp;
mod uprobes;
