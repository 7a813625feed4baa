//! Known reasons why a program cannot be attached, determined before loading.

use std::{fs, io, path::Path};

use observer_core::contract::Status;

use crate::kernel::{
    facts::{Facts, fields::IO_REQUEST, tracefs::field_offset},
    hooks::spec::{Attach, AttachType, ProgramSpec, check_args},
};

/// Directory of the PMU of kprobes for `perf_event_open` (`CONFIG_KPROBE_EVENTS`).
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// Why `program` cannot be attached, if that is known. The reason is without full stop.
pub fn obstacle(facts: &Facts, program: &ProgramSpec) -> Option<(Status, String)> {
    let detail = match program.attach {
        Attach::TpBtf { tracepoint, args } => match facts.signatures.get(tracepoint) {
            None => Some(format!("this kernel has no tracepoint {tracepoint}")),
            Some(found) => check_args(found, args).err(),
        },
        Attach::Function {
            attach_type,
            function,
            args,
        } => {
            let by_name = matches!(attach_type, AttachType::Kprobe | AttachType::Kretprobe);
            if by_name && !Path::new(KPROBES).exists() {
                let detail = "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)";
                return Some((Status::Unsupported, detail.to_owned()));
            }
            match facts.signatures.get(function) {
                // Static functions are not in the BTF of every kernel.
                None if by_name && is_symbol(function) => None,
                None => Some(format!("this kernel has no function {function}")),
                Some(found) => check_args(found, args)
                    .err()
                    .or_else(|| unreadable_request(facts, args)),
            }
        }
        Attach::Tracepoint {
            category,
            event,
            fields,
            ..
        } => match format(facts, category, event) {
            Ok(format) => {
                let moved =
                    |(name, offset): &&(&str, u64)| field_offset(&format, name) != Some(*offset);
                let (name, offset) = fields.iter().find(moved)?;
                Some(format!("its field {name} is not at {offset}"))
            }
            Err(obstacle) => return Some(obstacle),
        },
        Attach::SyscallExit { event } => return format(facts, "syscalls", event).err(),
        Attach::IterMapElem { needs, .. } => facts.fields.lacks(needs),
        Attach::IterTaskFile | Attach::Shared { .. } => None,
    };
    Some((Status::Unsupported, detail?))
}

/// Why the result of an io_uring request cannot be read, if the function has one as argument.
/// Before 6.0 the kernel does not keep it in the request.
fn unreadable_request(facts: &Facts, args: &[&str]) -> Option<String> {
    let takes_request = args.first() == Some(&"struct io_kiocb *");
    let lacks = |global: &&str| facts.fields.offset(global).is_none();
    (takes_request && IO_REQUEST.iter().any(lacks))
        .then(|| "this kernel does not keep the result in the request (6.0)".to_owned())
}

/// The format of an event, or why it cannot be read.
fn format(facts: &Facts, category: &str, event: &str) -> Result<String, (Status, String)> {
    let Some(tracefs) = &facts.tracefs else {
        let detail = "tracefs is not mounted; mount -t tracefs tracefs /sys/kernel/tracing";
        return Err((Status::Refused, detail.to_owned()));
    };
    let path = tracefs
        .join("events")
        .join(category)
        .join(event)
        .join("format");
    fs::read_to_string(&path).map_err(|error| match (error.kind(), category) {
        (io::ErrorKind::NotFound, "syscalls") => (
            Status::Unsupported,
            format!("this kernel has no event syscalls:{event} (CONFIG_FTRACE_SYSCALLS)"),
        ),
        (io::ErrorKind::NotFound, _) => (
            Status::Unsupported,
            format!("this kernel has no event {category}:{event}"),
        ),
        _ => (
            Status::Refused,
            format!("cannot read {}: {error}", path.display()),
        ),
    })
}

/// Whether the kernel has a function of that name, in its BTF or not.
fn is_symbol(function: &str) -> bool {
    let Ok(symbols) = fs::read("/proc/kallsyms") else {
        // Attaching will show it.
        return true;
    };
    symbols
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(u8::is_ascii_whitespace).nth(2))
        .any(|name| name == function.as_bytes())
}
