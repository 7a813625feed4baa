//! Loading programs with the expected attach type of uprobe_multi links, which aya 0.14 does not set. They are in
//! the object that aya has loaded, and use its maps.

use std::{
    collections::HashSet,
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
};

use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object,
    generated::{BPF_CALL, BPF_JMP, bpf_attr, bpf_insn},
};

use super::link::Way;
use crate::kernel::bpf::{BPF_PROG_LOAD, bpf};

/// `BPF_PROG_TYPE_KPROBE`, which uprobes share.
const BPF_PROG_TYPE_KPROBE: u32 = 2;
/// The tail call that keeps a program on the stack of its thread (`uprobes::stack` of observer-ebpf).
const BPF_FUNC_TAIL_CALL: i32 = 12;
/// Bytes for the verifier's log.
const LOG: usize = 1 << 16;

/// Loads the programs `names` of `object`, to be attached in this way.
///
/// # Errors
///
/// Why one could not be loaded, without full stop.
pub fn load<const N: usize>(
    object: &[u8],
    ebpf: &Ebpf,
    names: [&str; N],
    way: Way,
) -> Result<[OwnedFd; N], String> {
    let mut object = Object::parse(object).map_err(|error| error.to_string())?;
    let text: HashSet<_> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let known = object.maps.clone();
    let maps = ebpf.maps().filter_map(|(name, map)| {
        let declared = known.get(name)?;
        Some((name, descriptor(map)?, declared))
    });
    object
        .relocate_maps(maps, &text)
        .map_err(|error| error.to_string())?;
    object
        .relocate_calls(&text)
        .map_err(|error| error.to_string())?;
    let programs = names.map(|name| load_one(&object, name, way));
    let programs: Result<Vec<_>, _> = programs.into_iter().collect();
    programs?
        .try_into()
        .map_err(|_| "programs are missing".to_owned())
}

/// The descriptor of a map of the kinds that the kernel programs use.
fn descriptor(map: &Map) -> Option<RawFd> {
    let (Map::Array(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::ProgramArray(data)
    | Map::Queue(data)
    | Map::RingBuf(data)) = map
    else {
        return None;
    };
    Some(data.fd().as_fd().as_raw_fd())
}

fn load_one(object: &Object, name: &str, way: Way) -> Result<OwnedFd, String> {
    let missing = || format!("the object has no program {name}");
    let program = object.programs.get(name).ok_or_else(missing)?;
    let function = object.functions.get(&program.function_key());
    let instructions = &function.ok_or_else(missing)?.instructions;
    let is_tail_call = |it: &bpf_insn| {
        it.code == (BPF_JMP | BPF_CALL) as u8 && it.src_reg() == 0 && it.imm == BPF_FUNC_TAIL_CALL
    };
    if !instructions.iter().any(is_tail_call) {
        return Err(format!(
            "{name} has no tail call, so threads may share its stack"
        ));
    }
    let short = CString::new(&name[..name.len().min(15)]).map_err(|error| error.to_string())?;
    let mut log = vec![0_u8; LOG];
    // SAFETY: all zero is a valid value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the member that belongs to BPF_PROG_LOAD; what it points to outlives the call.
    let loaded = unsafe {
        let load = &mut attr.__bindgen_anon_3;
        load.prog_type = BPF_PROG_TYPE_KPROBE;
        load.expected_attach_type = way.expected_attach_type();
        load.insns = instructions.as_ptr() as u64;
        load.insn_cnt = instructions.len() as u32;
        load.license = program.license.as_ptr() as u64;
        for (to, from) in load.prog_name.iter_mut().zip(short.as_bytes()) {
            *to = from.cast_signed();
        }
        load.log_level = 1;
        load.log_size = log.len() as u32;
        load.log_buf = log.as_mut_ptr() as u64;
        bpf(BPF_PROG_LOAD, &attr)
    };
    loaded.map_err(|error| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]);
        tracing::debug!(%log, name, "verifier");
        let last = log
            .lines()
            .rfind(|line| !line.is_empty() && !line.starts_with("processed "));
        match last {
            Some(line) => format!("the kernel refused {name}: {error} ({line})"),
            None => format!("the kernel refused {name}: {error}"),
        }
    })
}
