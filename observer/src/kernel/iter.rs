//! Iterators over the elements of a map: when the iterator is read, the kernel runs the program for
//! each element and returns its output.
//!
//! aya attaches iterators that need no argument; this kind needs the map's descriptor, so the two
//! system calls are made here (`bpf_iter_link_attach`, `bpf_iter_new_fd` in kernel/bpf/bpf_iter.c;
//! iterators over maps exist since 5.9).

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapError},
    programs::ProgramError,
    sys::SyscallError,
};
use observer_common::Pod;

use crate::kernel::{
    bpf::{BPF_ITER_CREATE, BPF_LINK_CREATE, bpf},
    hooks::spec::{Attach, ProgramSpec},
};

/// `enum bpf_attach_type`.
const BPF_TRACE_ITER: u32 = 28;

/// Bytes per read: the size of the kernel's buffer (`bpf_seq_read`), so that the kernel fills it once per read.
const BUFFER: usize = 32 << 10;

/// The part of `union bpf_attr` that belongs to BPF_LINK_CREATE; the rest may be omitted.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// The same for BPF_ITER_CREATE.
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// A program attached to a map.
pub struct MapIter {
    link: OwnedFd,
}

impl MapIter {
    /// Attaches the loaded iterator `program` to its map.
    ///
    /// # Errors
    ///
    /// Those of [`Self::attach`], or `program` is another kind of program.
    pub fn of(ebpf: &Ebpf, program: &ProgramSpec) -> Result<Self, ProgramError> {
        match program.attach {
            Attach::IterMapElem { map, .. } => Self::attach(ebpf, program.name, map),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// Attaches the loaded iterator `program` to the hash map or array `map`.
    ///
    /// # Errors
    ///
    /// When the object has no such map or program, the program is not loaded, or the kernel
    /// refuses it.
    pub fn attach(ebpf: &Ebpf, program: &str, map: &str) -> Result<Self, ProgramError> {
        let data = match ebpf.map(map) {
            Some(Map::HashMap(data) | Map::LruHashMap(data) | Map::Array(data)) => data,
            _ => {
                let name = map.to_owned();
                return Err(MapError::InvalidName { name }.into());
            }
        };
        let loaded = ebpf.program(program).ok_or(ProgramError::NotLoaded)?;
        let link = Self::new(loaded.fd()?, data.fd()).map_err(|io_error| SyscallError {
            call: "bpf_link_create",
            io_error,
        })?;
        Ok(link)
    }

    /// Attaches `program`, a loaded `iter/bpf_map_elem` program, to `map`.
    ///
    /// # Errors
    ///
    /// EACCES when the program reads beyond the map's keys or values; EINVAL before 5.9.
    fn new(program: impl AsFd, map: impl AsFd) -> io::Result<Self> {
        // The first, and here only, member of `union bpf_iter_link_info`.
        let map_fd = map.as_fd().as_raw_fd() as u32;
        let attr = LinkCreate {
            prog_fd: program.as_fd().as_raw_fd() as u32,
            target_fd: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            iter_info: (&raw const map_fd) as u64,
            iter_info_len: size_of_val(&map_fd) as u32,
            padding: 0,
        };
        // SAFETY: the attributes of this command; the descriptors and `map_fd` outlive the
        // call.
        let link = unsafe { bpf(BPF_LINK_CREATE, &attr) }?;
        Ok(Self { link })
    }

    /// Walks over the map and passes every record that the program wrote to `visit`. Elements that
    /// are inserted or removed concurrently may be missing or occur twice.
    ///
    /// # Errors
    ///
    /// When the iterator cannot be made or read, or ends within a record.
    pub fn read<T: Pod>(&self, mut visit: impl FnMut(T)) -> io::Result<()> {
        let attr = IterCreate {
            link_fd: self.link.as_raw_fd() as u32,
            flags: 0,
        };
        // SAFETY: the attributes of this command.
        let mut file = File::from(unsafe { bpf(BPF_ITER_CREATE, &attr) }?);
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        loop {
            match file.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                // The kernel yields after a million elements without output; it continues there at the next read.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut records = buffer[..filled].chunks_exact(size_of::<T>());
            records
                .by_ref()
                .filter_map(T::read_from)
                .for_each(&mut visit);
            let rest = records.remainder().len();
            buffer.copy_within(filled - rest..filled, 0);
            filled = rest;
        }
    }
}
