//! License and panic handler, which every object of kernel programs needs.

/// Several helpers (`bpf_probe_read_kernel`, `bpf_get_current_task`...) are offered to
/// GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could loop here.
    loop {}
}
