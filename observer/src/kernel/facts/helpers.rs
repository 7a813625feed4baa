//! BPF helpers and types of links that the oldest supported kernels lack.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use observer_core::btf::KernelBtf;

/// Which of the helpers the kernel has.
#[derive(Clone, Copy, Debug)]
pub struct Helpers {
    /// `bpf_task_pt_regs`, since 5.15.
    pub task_pt_regs: bool,
    /// `bpf_sock_from_file`, since 5.11.
    pub sock_from_file: bool,
    /// `bpf_get_current_task_btf`, since 5.11.
    pub task_btf: bool,
    /// `bpf_get_func_ret`, since 5.17.
    pub func_ret: bool,
    /// `bpf_get_attach_cookie`, since 5.15.
    pub attach_cookie: bool,
    /// Programs may have a stack for each CPU (`enum priv_stack_mode`), since 6.13.
    pub private_stacks: bool,
    /// `BPF_TRACE_UPROBE_MULTI` of `bpf_attach_type`, since 6.6.
    pub uprobe_multi: bool,
}

impl Helpers {
    /// Asks the kernel and its BTF.
    pub fn find(kernel: &KernelBtf) -> Self {
        // The kernel does not say which helpers tracing programs may call
        // (`is_helper_supported` cannot probe them). Its list of helpers in BTF does: a kernel
        // that lists a helper of some release has all helpers of that release.
        let listed = kernel.enumerators("bpf_func_id");
        let has = |helper: &str| {
            listed
                .as_ref()
                .is_none_or(|list| list.iter().any(|(name, _)| name == helper))
        };
        Self {
            // If the probe fails (missing privileges), loading will report the reason.
            task_pt_regs: is_helper_supported(
                ProgramType::TracePoint,
                BpfHelper::BPF_FUNC_task_pt_regs,
            )
            .unwrap_or(true),
            sock_from_file: has("BPF_FUNC_sock_from_file"),
            task_btf: has("BPF_FUNC_get_current_task_btf"),
            func_ret: has("BPF_FUNC_get_func_ret"),
            attach_cookie: has("BPF_FUNC_get_attach_cookie"),
            private_stacks: kernel.enumerators("priv_stack_mode").is_some(),
            uprobe_multi: kernel.enumerators("bpf_attach_type").is_some_and(|list| {
                list.iter()
                    .any(|(name, _)| name == "BPF_TRACE_UPROBE_MULTI")
            }),
        }
    }
}
