//! Words to write the load table in.

use observer_common::SIGNAL_NAMES;

use crate::contract::Rung;
use crate::kernel::ladder::{Attach, Ladder, Needs, ProgramSpec, Step};

pub const SOCK: &str = "struct sock *";
pub const SKB: &str = "struct sk_buff *";
pub const DEATH_ROW: &str = "struct inet_timewait_death_row *";

pub const fn name_of(signal: u32) -> &'static str {
    SIGNAL_NAMES[signal as usize]
}

pub const fn tp_btf(
    name: &'static str,
    tracepoint: &'static str,
    args: &'static [&'static str],
) -> ProgramSpec {
    ProgramSpec {
        name,
        hook: tracepoint,
        attach: Attach::TpBtf { tracepoint, args },
    }
}

pub const fn syscall_exit(
    name: &'static str,
    hook: &'static str,
    event: &'static str,
) -> ProgramSpec {
    ProgramSpec {
        name,
        hook,
        attach: Attach::SyscallExit { event },
    }
}

pub const fn function(
    name: &'static str,
    rung: Rung,
    function: &'static str,
    args: &'static [&'static str],
) -> ProgramSpec {
    ProgramSpec {
        name,
        hook: function,
        attach: Attach::Function {
            rung,
            function,
            args,
        },
    }
}

pub const fn shared(program: &'static str, rung: Rung, hook: &'static str) -> ProgramSpec {
    ProgramSpec {
        name: program,
        hook,
        attach: Attach::Shared {
            rung,
            needs: Needs::Nothing,
        },
    }
}

pub const fn iter_map_elem(name: &'static str, needs: &'static [&'static str]) -> ProgramSpec {
    ProgramSpec {
        name,
        hook: "bpf_map_elem",
        attach: Attach::IterMapElem { needs },
    }
}

pub const fn step(programs: &'static [ProgramSpec], counts: &'static [u32]) -> Step {
    Step {
        programs,
        counts,
        remark: "",
    }
}

pub const fn remarked(
    programs: &'static [ProgramSpec],
    counts: &'static [u32],
    remark: &'static str,
) -> Step {
    Step {
        programs,
        counts,
        remark,
    }
}

pub const fn ladder(signal: &'static str, steps: &'static [Step]) -> Ladder {
    Ladder {
        signal,
        required: false,
        steps,
    }
}
