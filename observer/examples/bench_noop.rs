//! Attaches a no-op program to each given hook, prints `ready`, and waits until standard input
//! ends: the baseline of `cargo xtask bench`.
//!
//! Hooks are given as `TYPE:HOOK`, as `observer check --json` names them:
//! `tp_btf:inet_sock_set_state`, `tracepoint:syscalls:sys_exit_connect`,
//! `fexit:inet_csk_accept`. For each it writes the id of the program there, so that its
//! run-time statistics can be found. With `--statistics` the kernel keeps those, of all
//! programs, for as long as this one runs. With `--minimal` or `--minimal-storage`, the programs on
//! the state of sockets and their end are those that do what attributing sockets to processes takes at
//! least, with a hash map or with the sockets' own storage.

use std::{env, io};

use anyhow::{Context as _, bail};
use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, TracePoint},
};

/// Made by observer's build script from observer-ebpf/src/noop.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/noop.o"));
/// The same, of observer-ebpf/src/minimal.rs.
static MINIMAL: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/minimal.o"));
/// Its programs and their hooks, by the option that asks for them.
const MINIMAL_PROGRAMS: [(&str, &str, &str); 3] = [
    ("--minimal", "minimal_state", "tp_btf:inet_sock_set_state"),
    ("--minimal", "minimal_destroy", "tp_btf:tcp_destroy_sock"),
    (
        "--minimal-storage",
        "minimal_storage_state",
        "tp_btf:inet_sock_set_state",
    ),
];

fn main() -> anyhow::Result<()> {
    let btf = Btf::from_sys_fs().context("the kernel offers no BTF")?;
    // The target of a program is fixed when it is loaded, so each hook has its own object, which has no maps and so no cost.
    let mut attached = Vec::new();
    let mut statistics = Vec::new();
    let minimal = env::args().find(|argument| {
        let mut options = MINIMAL_PROGRAMS.iter().map(|(option, _, _)| option);
        options.any(|option| option == argument)
    });
    let mut shared = match &minimal {
        Some(_) => Some(Ebpf::load(MINIMAL)?),
        None => None,
    };
    for hook in env::args().skip(1) {
        if Some(&hook) == minimal.as_ref() {
            continue;
        }
        if hook == "--statistics" {
            let kept = aya::sys::enable_stats(aya::sys::Stats::RunTime);
            statistics.push(kept.context("the kernel keeps no run-time statistics")?);
            continue;
        }
        let known = MINIMAL_PROGRAMS
            .iter()
            .find(|(option, _, its)| Some(*option) == minimal.as_deref() && *its == hook);
        let id = if let (Some(shared), Some((_, name, _))) = (&mut shared, known) {
            attach(shared, &btf, &hook, name)
        } else {
            let mut object = Ebpf::load(OBJECT)?;
            let attach_type = hook.split(':').next().unwrap_or_default();
            let id = attach(&mut object, &btf, &hook, &format!("noop_{attach_type}"));
            attached.push(object);
            id
        };
        println!("{} {hook}", id.with_context(|| hook.clone())?);
    }
    println!("ready");
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

fn attach(object: &mut Ebpf, btf: &Btf, hook: &str, name: &str) -> anyhow::Result<u32> {
    let (attach_type, hook) = hook.split_once(':').context("not of the form TYPE:HOOK")?;
    let Some(program) = object.program_mut(name) else {
        bail!("no such attach type: {attach_type}");
    };
    match attach_type {
        "tp_btf" => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(hook, btf)?;
            program.attach()?;
        }
        "tracepoint" => {
            let (category, event) = hook.split_once(':').context("not CATEGORY:EVENT")?;
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            program.attach(category, event)?;
        }
        "fentry" => {
            let program: &mut FEntry = program.try_into()?;
            program.load(hook, btf)?;
            program.attach()?;
        }
        "fexit" => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook, btf)?;
            program.attach()?;
        }
        _ => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(hook, 0)?;
        }
    }
    let program = object.program(name).context("it was there before")?;
    Ok(program.info()?.id())
}
