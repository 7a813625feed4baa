//! From a system call to the socket it was made on.

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs,
};

use crate::{
    layout::{REGS_FROM_STACK, THREAD_SIZE, at, has},
    memory::{Memory, Probe},
};

/// The user registers of the running thread as they were on entry to the system call. They
/// still hold the arguments on its return, so nothing has to be remembered from the entry.
#[inline(always)]
fn registers() -> *const u8 {
    if REGS_FROM_STACK.load() != 0 {
        // What `task_pt_regs` computes: they lie at the top of the task's kernel stack.
        // SAFETY: the running task, offset from BTF.
        let stack = unsafe {
            let task = bpf_get_current_task() as *const u8;
            Probe::read::<u64>(task, at::OFF_TASK_STACK())
        };
        return (stack + THREAD_SIZE.load() - at::PT_REGS_SIZE() as u64) as *const u8;
    }
    // SAFETY: the helpers take the running task; 5.15 and later.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8 }
}

/// Argument `n` (0 to 2) of the running system call.
#[inline(always)]
pub fn argument(n: u32) -> u64 {
    if !has::OFF_REGS_ARG0() || !has::OFF_REGS_ARG1() || !has::OFF_REGS_ARG2() {
        return 0;
    }
    let offset = match n {
        0 => at::OFF_REGS_ARG0(),
        1 => at::OFF_REGS_ARG1(),
        _ => at::OFF_REGS_ARG2(),
    };
    // SAFETY: `struct pt_regs` of the running thread, offsets from BTF.
    unsafe { Probe::read(registers(), offset) }
}

/// Number of the running system call.
#[inline(always)]
pub fn syscall_number() -> u64 {
    if !has::OFF_REGS_SYSCALL() {
        return u64::MAX;
    }
    // SAFETY: as in `argument`. The upper half is sign extension on x86 and another field
    // on arm64.
    u64::from(unsafe { Probe::read::<u32>(registers(), at::OFF_REGS_SYSCALL()) })
}

/// The kind of file in `i_mode` (`include/uapi/linux/stat.h`).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// The `struct socket` behind a `struct file`, null when it is no socket or when that cannot
/// be told.
#[inline(always)]
pub fn socket_by_inode(file: *const u8) -> *const u8 {
    if !has::OFF_FILE_INODE() || !has::OFF_INODE_MODE() {
        return core::ptr::null();
    }
    // SAFETY: a struct file and its inode, offsets from BTF.
    unsafe {
        let inode = Probe::read::<u64>(file, at::OFF_FILE_INODE()) as *const u8;
        if Probe::read::<u16>(inode, at::OFF_INODE_MODE()) & S_IFMT != S_IFSOCK {
            return core::ptr::null();
        }
        // Null for the other kind of file with such an inode: a Unix socket's name opened
        // with O_PATH.
        Probe::read::<u64>(file, at::OFF_FILE_PRIVATE()) as *const u8
    }
}

/// The `struct sock` behind descriptor `fd` of the running process. Only for descriptors
/// that a system call has just accepted as sockets: it does not check what kind of file
/// this is. Another thread may close the descriptor meanwhile; then what is read is stale
/// but the reads are safe.
#[inline(always)]
pub fn current_socket(fd: u32) -> Option<*const u8> {
    let file = current_file(fd);
    // SAFETY: a struct file and its struct socket, offsets from BTF; a bad pointer on the way
    // reads as zero.
    let sk = unsafe {
        let socket = Probe::read::<u64>(file, at::OFF_FILE_PRIVATE()) as *const u8;
        Probe::read::<u64>(socket, at::OFF_SOCKET_SK()) as *const u8
    };
    if sk.is_null() { None } else { Some(sk) }
}

/// The same for any descriptor: `None` when it is no socket, or none at all.
#[inline(always)]
pub fn current_socket_if_any(fd: u32) -> Option<*const u8> {
    let socket = socket_by_inode(current_file(fd));
    // SAFETY: a struct socket, offset from BTF; null reads as zero.
    let sk = unsafe { Probe::read::<u64>(socket, at::OFF_SOCKET_SK()) as *const u8 };
    if sk.is_null() { None } else { Some(sk) }
}

/// The `struct file` behind descriptor `fd` of the running process, or null.
#[inline(always)]
fn current_file(fd: u32) -> *const u8 {
    // SAFETY: kernel objects reached from the running task, offsets from BTF; a bad pointer
    // on the way reads as zero.
    unsafe {
        let task = bpf_get_current_task() as *const u8;
        let files = Probe::read::<u64>(task, at::OFF_TASK_FILES()) as *const u8;
        let table = Probe::read::<u64>(files, at::OFF_FILES_FDT()) as *const u8;
        if fd >= Probe::read::<u32>(table, at::OFF_FDT_MAX()) {
            return core::ptr::null();
        }
        let descriptors = Probe::read::<u64>(table, at::OFF_FDT_FD()) as *const u8;
        Probe::read::<u64>(descriptors, fd as usize * 8) as *const u8
    }
}
