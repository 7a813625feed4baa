//! The kernel side of observer.
//!
//! One file per signal, each listing its hooks and what it counts; [`owner`] says whose a
//! socket is, [`counting`] is the only place where counters change, [`stream`] the only
//! one that writes records. Programs that serve the same signal through different kinds
//! of hook share one inlined body, generic over how kernel memory may be read there
//! ([`memory::Memory`]).

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "AtomicU64::fetch_add does not exist on the BPF target"
)]

mod accept;
mod bind;
mod birth;
mod calls;
mod connect;
mod connections;
mod counting;
mod files;
mod iter;
mod layout;
mod listen;
mod maps;
mod memory;
mod object;
mod owner;
mod port_search;
mod ports;
mod received;
mod reset;
mod resting;
mod resync;
mod retransmit;
mod socket;
mod sockopt;
mod state;
mod state_backup;
mod stream;
mod time_wait;
