//! Walking the open files of all processes, to take in sockets that are older than the
//! daemon and to find those that changed hands unseen.

use std::{
    io::{self, Read as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::Iter,
};
use observer_common::ResyncControl;

use crate::kernel::hooks::open_files::ITER;

/// What one resynchronisation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resynced {
    /// Its number.
    pub epoch: u32,
    /// Sockets that processes hold.
    pub seen: u64,
    /// Sockets taken in by this one.
    pub seeded: u64,
    /// Sockets given to another process by this one.
    pub moved: u64,
    /// How long it took.
    pub took: Duration,
}

/// The iterator and its control block.
pub struct Resync {
    control: Array<MapData, ResyncControl>,
}

impl Resync {
    /// Takes the control block out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When the object has no such map.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let map = ebpf
            .take_map("RESYNC")
            .context("the object has no map RESYNC")?;
        Ok(Self {
            control: Array::try_from(map).context("cannot use the map RESYNC")?,
        })
    }

    /// Walks once: confirms owners, then takes in and moves.
    ///
    /// # Errors
    ///
    /// When the iterator cannot be read; what it did until then stands.
    pub fn run(&mut self, ebpf: &mut Ebpf) -> anyhow::Result<Resynced> {
        let started = Instant::now();
        let before = self
            .control
            .get(&0, 0)
            .context("cannot read the control block")?;
        let mut control = ResyncControl {
            epoch: before.epoch.wrapping_add(1).max(1),
            pass: 0,
            seen: 0,
            ..before
        };
        for pass in 0..2 {
            control.pass = pass;
            self.control
                .set(0, control, 0)
                .context("cannot write the control block")?;
            walk(ebpf).context("cannot walk the open files")?;
            control = self
                .control
                .get(&0, 0)
                .context("cannot read the control block")?;
        }
        Ok(Resynced {
            epoch: control.epoch,
            seen: control.seen,
            seeded: control.seeded - before.seeded,
            moved: control.moved - before.moved,
            took: started.elapsed(),
        })
    }
}

/// Reads the iterator to its end; it writes nothing, being read is what makes it run.
fn walk(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let program = ebpf
        .program_mut(ITER.name)
        .with_context(|| format!("the object has no program {}", ITER.name))?;
    let program: &mut Iter = program.try_into()?;
    let link = program.attach()?;
    let link = program.take_link(link)?;
    let mut file = link.into_file()?;
    let mut buffer = [0; 4096];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The kernel yields after a million objects without output
            // (`bpf_seq_read`); it goes on where it was.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
