//! The kernel side of observer.
//!
//! One file or folder per signal in `tcp` and `process`, each listing its hooks and what it counts. `core` is shared by
//! them and depends on no signal; `scan` walks over existing kernel objects, and `uprobes` has the programs on
//! functions of user space. Imports go one way: `scan` to `process` to `tcp` to `core`, and `uprobes` to `core`.
//! Programs that observe the same signal with different attach types share one inlined body, generic over the way to
//! read kernel memory (`core::read::Memory`).

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
