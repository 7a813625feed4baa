//! Whether a process survives a uretprobe. On x86-64, since 6.11, the return goes through a system call of its
//! own (`uretprobe`, number 335), and the first of these kernels let seccomp filters kill a process for it
//! (systemd-timesyncd, Docker). So a child with such a filter calls a function that has one.

use std::{
    fs, hint,
    io::{self, Error},
    os::fd::BorrowedFd,
    path::Path,
};

use nix::{
    sys::{
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

use super::link::{Point, Way};

/// The first system call that the child's filter kills for: `__NR_uretprobe` (arch/x86/entry/syscalls/syscall_64.tbl).
const FORBIDDEN: u32 = 335;
/// Exit status of the child: there is no seccomp, so nobody has a filter.
const NO_SECCOMP: i32 = 1;

/// Attaches `leave`, a program for returns, to a function of this program for a moment and has a child call it.
///
/// # Errors
///
/// When the link or the child cannot be made, or the child was killed: [`io::ErrorKind::Unsupported`] if its filter
/// killed it, because no setting and no permission mends such a kernel.
pub fn survives(leave: BorrowedFd<'_>, way: Way) -> io::Result<()> {
    let offset = file_offset(probed as *const () as u64)?;
    let point = Point { offset, cookie: 0 };
    let _links = way.attach(leave, Path::new("/proc/self/exe"), &[point], true)?;
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(());
    }
    // SAFETY: the child only makes system calls.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let status = if confine() {
                probed(1);
                0
            } else {
                NO_SECCOMP
            };
            // SAFETY: ends the child, without what the parent wants to be done at its end.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, _) => Ok(()),
            WaitStatus::Signaled(_, Signal::SIGSYS, _) => Err(Error::new(
                io::ErrorKind::Unsupported,
                "this kernel lets seccomp filters kill a process when a probed function returns",
            )),
            end => Err(Error::other(format!(
                "a process did not survive a probe: {end:?}"
            ))),
        },
    }
}

/// The function that is probed.
#[inline(never)]
extern "C" fn probed(value: u64) -> u64 {
    hint::black_box(value)
}

/// Installs a filter that kills for system calls from [`FORBIDDEN`] on. Returns whether there is seccomp.
fn confine() -> bool {
    let statement = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let load_number = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let is_at_least = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let finish = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut filter = [
        statement(load_number, 0),
        libc::sock_filter {
            code: is_at_least,
            jt: 0,
            jf: 1,
            k: FORBIDDEN,
        },
        statement(finish, libc::SECCOMP_RET_KILL_PROCESS),
        statement(finish, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the arguments that these options take; the filter outlives the call.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    }
}

/// Where the instruction at `address` is in this program's file.
fn file_offset(address: u64) -> io::Result<u64> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let found = maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let offset = hex(fields.nth(1)?)?;
        (start..end)
            .contains(&address)
            .then(|| address - start + offset)
    });
    found.ok_or_else(|| Error::other("/proc/self/maps does not have this program"))
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
