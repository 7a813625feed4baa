//! Resynchronisation: an iterator over the open files of all processes finds sockets older than the
//! daemon, and changes of owners that no hook saw. It also reads the drops of UDP sockets.

use std::{
    io::{self, Read as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::Iter,
};
use observer_common::{Pod as _, ProcessKey, ResyncControl, UdpSocket, UdpSocketKey};

use super::{lossy, take, take_hash};
use crate::kernel::hooks::open_files::ITER;

const MAP: &str = "RESYNC";
const UDP_MAP: &str = "UDP_SOCKETS";
/// A UDP socket counts as closed after this number of consecutive walks without it. A socket in
/// flight to another process (SCM_RIGHTS) is open although no process has it.
const MISSED_WALKS: u32 = 4;

/// The results of one resynchronisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resynced {
    /// Its number.
    pub epoch: u32,
    /// Sockets that processes hold.
    pub seen: u64,
    /// Sockets inserted by this one.
    pub seeded: u64,
    /// Sockets handed over to another process by this one.
    pub moved: u64,
    /// UDP sockets that have dropped datagrams.
    pub udp_sockets: u64,
    /// Its duration.
    pub took: Duration,
}

/// The control block of the iterator over open files, and the map that only it and the daemon use.
pub struct OpenFiles {
    control: Array<MapData, ResyncControl>,
    udp_sockets: HashMap<MapData, UdpSocketKey, UdpSocket>,
    /// Whether all UDP sockets with drops fitted into the map at the last complete walk.
    whole: bool,
}

impl OpenFiles {
    /// Takes the maps out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When the object has no such maps.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            control: Array::try_from(take(ebpf, MAP)?)
                .with_context(|| format!("cannot use the map {MAP}"))?,
            udp_sockets: take_hash(ebpf, UDP_MAP)?,
            whole: false,
        })
    }

    /// Walks once: confirms owners, then inserts and hands over sockets. Also returns the processes that have UDP sockets
    /// open.
    ///
    /// # Errors
    ///
    /// When the iterator cannot be read. Changes made until then remain.
    pub fn resync(&mut self, ebpf: &mut Ebpf) -> anyhow::Result<(Resynced, Vec<ProcessKey>)> {
        let started = Instant::now();
        let before = self
            .control
            .get(&0, 0)
            .context("cannot read the control block")?;
        let mut control = ResyncControl {
            epoch: before.epoch.wrapping_add(1).max(1),
            pass: 0,
            seen: 0,
            // Or a later incomplete walk could not insert a socket.
            baseline: u32::from(!self.whole || before.refused != 0),
            refused: 0,
            ..before
        };
        let mut udp_processes = Vec::new();
        for pass in 0..2 {
            control.pass = pass;
            control.udp_tgid = 0;
            control.udp_entries = 0;
            self.control
                .set(0, control, 0)
                .context("cannot write the control block")?;
            let written = walk(ebpf).context("cannot walk the open files")?;
            let processes = written.chunks_exact(size_of::<ProcessKey>());
            udp_processes.extend(processes.filter_map(ProcessKey::read_from));
            control = self
                .control
                .get(&0, 0)
                .context("cannot read the control block")?;
        }
        self.whole = control.refused == 0;
        let resynced = Resynced {
            epoch: control.epoch,
            seen: control.seen,
            seeded: control.seeded - before.seeded,
            moved: control.moved - before.moved,
            udp_sockets: self.forget_closed_udp_sockets(control.epoch),
            took: started.elapsed(),
        };
        Ok((resynced, udp_processes))
    }

    /// Removes the UDP sockets that are closed after walk `epoch`, and returns the number of the others.
    fn forget_closed_udp_sockets(&mut self, epoch: u32) -> u64 {
        let mut kept = 0;
        let mut closed = Vec::new();
        for (key, socket) in self.udp_sockets.iter().filter_map(Result::ok) {
            if is_closed(socket, epoch, self.whole) {
                closed.push(key);
            } else {
                kept += 1;
            }
        }
        for key in closed {
            let result = lossy::removed(self.udp_sockets.remove(&key));
            lossy::note(result, UDP_MAP, "a UDP socket that is closed stays in it");
        }
        kept
    }
}

/// Whether a UDP socket counts as closed after walk `epoch`. If the map was too small, sockets that
/// the walk did not visit are removed at once.
fn is_closed(socket: UdpSocket, epoch: u32, has_room: bool) -> bool {
    let missed = epoch.wrapping_sub(socket.epoch);
    missed >= if has_room { MISSED_WALKS } else { 1 }
}

/// Reads the iterator to its end, which runs the program, and returns its output.
fn walk(ebpf: &mut Ebpf) -> anyhow::Result<Vec<u8>> {
    let program = ebpf
        .program_mut(ITER.name)
        .with_context(|| format!("the object has no program {}", ITER.name))?;
    let program: &mut Iter = program.try_into()?;
    let link = program.attach()?;
    let link = program.take_link(link)?;
    let mut file = link.into_file()?;
    let mut buffer = [0; 4096];
    let mut written = Vec::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(written),
            Ok(read) => written.extend_from_slice(&buffer[..read]),
            // The kernel yields after a million objects without output
            // (`bpf_seq_read`), and continues at the next read.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_udp_socket_is_closed_after_four_walks_without_it_or_one_if_there_is_no_room() {
        let met_at = |epoch| UdpSocket { drops: 1, epoch };
        for epoch in [10, 1] {
            let at = |missed: u32| met_at(u32::wrapping_sub(epoch, missed));
            let closed = |has_room| [0, 1, 3, 4].map(|it| is_closed(at(it), epoch, has_room));
            assert_eq!(closed(true), [false, false, false, true]);
            assert_eq!(closed(false), [false, true, true, true]);
        }
    }
}
