//! Finds the socket behind a file descriptor or a `struct file`.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_get_current_task_btf};

use crate::core::{
    fields::{HAS_TASK_BTF, at, has},
    read::{Direct, Memory, Probe},
};

/// File type bits of `i_mode` (`include/uapi/linux/stat.h`).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// The `struct socket` behind a `struct file`; null if the file is not a socket.
#[inline(always)]
pub fn socket_by_inode(file: *const u8) -> *const u8 {
    // SAFETY: a struct file and its inode, offsets from BTF.
    unsafe {
        let inode = Probe::read::<u64>(file, at::OFF_FILE_INODE()) as *const u8;
        if Probe::read::<u16>(inode, at::OFF_INODE_MODE()) & S_IFMT != S_IFSOCK {
            return core::ptr::null();
        }
        // Null for the only other file with such an inode: a Unix socket's name that was opened
        // with O_PATH.
        Probe::read::<u64>(file, at::OFF_FILE_PRIVATE()) as *const u8
    }
}

/// The `struct sock` behind descriptor `fd` of the running process: `None` if it is not open or not a
/// socket. Checked also for calls that only sockets can take, because a seccomp filter can answer a call
/// before the kernel looks at the descriptor. Another thread can close the descriptor concurrently; the
/// data is stale then, but the reads are safe.
#[inline(always)]
pub fn current_socket(fd: u32) -> Option<*const u8> {
    socket_of(current_file(fd))
}

/// The `struct sock` behind a `struct file`, if the file is a socket.
#[inline(always)]
pub fn socket_of(file: *const u8) -> Option<*const u8> {
    let socket = socket_by_inode(file);
    // SAFETY: a struct socket, offset from BTF; null reads as zero.
    let sk = unsafe { Probe::read::<u64>(socket, at::OFF_SOCKET_SK()) as *const u8 };
    if sk.is_null() { None } else { Some(sk) }
}

/// The socket and the errno of a finished io_uring request that failed.
#[inline(always)]
pub fn failed_request(request: *const u8) -> Option<(*const u8, i64)> {
    if !has::OFF_IO_FILE() || !has::OFF_IO_RESULT() {
        return None;
    }
    // SAFETY: a struct io_kiocb, offsets from BTF.
    let (file, result) = unsafe {
        (
            Probe::read::<u64>(request, at::OFF_IO_FILE()) as *const u8,
            Probe::read::<i32>(request, at::OFF_IO_RESULT()),
        )
    };
    if result >= 0 {
        return None;
    }
    Some((socket_of(file)?, -i64::from(result)))
}

/// The `struct file` behind descriptor `fd` of the running process, or null.
#[inline(always)]
fn current_file(fd: u32) -> *const u8 {
    // SAFETY: the helpers take no arguments and return the running task.
    unsafe {
        if HAS_TASK_BTF.load() != 0 {
            file_of::<Direct>(bpf_get_current_task_btf() as *const u8, fd)
        } else {
            file_of::<Probe>(bpf_get_current_task() as *const u8, fd)
        }
    }
}

#[inline(always)]
unsafe fn file_of<M: Memory>(task: *const u8, fd: u32) -> *const u8 {
    // SAFETY: kernel objects reached from the running task, offsets from BTF; a bad pointer
    // on the way reads as zero.
    unsafe {
        let files = M::read::<u64>(task, at::OFF_TASK_FILES()) as *const u8;
        let table = M::read::<u64>(files, at::OFF_FILES_FDT()) as *const u8;
        if fd >= M::read::<u32>(table, at::OFF_FDT_MAX()) {
            return core::ptr::null();
        }
        let descriptors = M::read::<u64>(table, at::OFF_FDT_FD()) as *const u8;
        Probe::read::<u64>(descriptors, fd as usize * 8) as *const u8
    }
}
