//! Restrictions of the running daemon in addition to the dropped capabilities
//! ([`privileges`](crate::privileges)): a seccomp filter for all threads, and Landlock for those that
//! talk to HTTP clients.
//!
//! Landlock is not used for the other threads: it forbids ptrace access to processes outside of the
//! sandbox (`hook_ptrace_access_check`), which reading /proc/PID/fd needs.

use std::collections::BTreeMap;

use caps::{CapSet, errors::CapsError};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

/// System calls that a running daemon does not need, and that fail with EPERM.
///
/// The list has calls that start programs, affect other processes or machines, or change the host.
/// A list of allowed calls would be shorter, but the calls of the C library differ between
/// versions, and some are rare: on a host where an allocation, a signal or the end of a thread uses
/// a call that no test has shown, the daemon would fail. Calls that are newer than this list fail
/// with ENOSYS ([`unknown_calls`]).
const DENIED: &[libc::c_long] = &[
    // Programs and other processes. Threads are started by the same calls as processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_kcmp,
    // Signals to others. Signal 0, and signals to threads of the daemon, are allowed below.
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // Memory and queues that processes share by number or name.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // Connections, and further listeners. The existing one was opened before.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    // Files. Opening one to change it is in `opens_to_change`.
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utimensat,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_fanotify_init,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    // The kernel. bpf() and perf_event_open() stay: backup programs are attached when needed.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Older forms of the same. Of these, arm64 has one.
#[cfg(target_arch = "x86_64")]
const DENIED_OLD: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_creat,
    libc::SYS_mknod,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_modify_ldt,
    libc::SYS_iopl,
    libc::SYS_ioperm,
];
#[cfg(target_arch = "aarch64")]
const DENIED_OLD: &[libc::c_long] = &[38]; // renameat, which the crate has no name for

/// Installs the filter for this thread and those that it will start. Sets no_new_privs.
///
/// # Errors
///
/// When the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER).
pub fn install_seccomp() -> Result<(), seccompiler::Error> {
    let denied = DENIED.iter().chain(DENIED_OLD);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        denied.map(|&call| (call, Vec::new())).collect();
    // A dedicated user can remove little besides the API's socket; root could remove any file.
    if !nix::unistd::geteuid().is_root() {
        rules.remove(&libc::SYS_unlinkat);
    }
    rules.insert(libc::SYS_openat, opens_to_change(2)?);
    // Signal 0 tests whether a process exists.
    rules.insert(libc::SYS_kill, vec![unless(1, 0)?]);
    // abort() signals the calling thread.
    let own = std::process::id();
    rules.insert(libc::SYS_tgkill, vec![unless(0, own.into())?]);
    rules.insert(libc::SYS_clone, starts_a_process()?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, opens_to_change(1)?);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    seccompiler::apply_filter(&unknown_calls())
}

/// A filter that returns ENOSYS for calls newer than [`DENIED`]: those with numbers above the last
/// of Linux 5.17, which all architectures share, including those of the x32 ABI (bit 30). Also for
/// clone3(), because a filter cannot read its flags; C libraries then call clone(). Written by
/// hand, because seccompiler compares arguments and not numbers of calls.
fn unknown_calls() -> BpfProgram {
    const LAST: libc::c_long = libc::SYS_set_mempolicy_home_node;
    let instruction = |code: u32, jt, jf, k: u32| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let jump = libc::BPF_JMP | libc::BPF_K;
    let number = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let answer = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, number),
        instruction(jump | libc::BPF_JEQ, 1, 0, libc::SYS_clone3 as u32),
        instruction(jump | libc::BPF_JGT, 0, 1, LAST as u32),
        instruction(libc::BPF_RET, 0, 0, answer),
        instruction(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// A rule for calls whose argument `index` (an int) is not `value`.
fn unless(index: u8, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)?;
    SeccompRule::new(vec![condition])
}

/// A rule for calls of whose argument `index` (an int) the bits in `mask` are `bits`.
fn where_bits(
    index: u8,
    mask: libc::c_int,
    bits: libc::c_int,
) -> Result<SeccompRule, BackendError> {
    let masked = SeccompCmpOp::MaskedEq(mask as u64);
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, masked, bits as u64)?;
    SeccompRule::new(vec![condition])
}

/// Rules for a system call whose argument `flags` are those of open().
fn opens_to_change(flags: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let mode = |mode| where_bits(flags, libc::O_ACCMODE, mode);
    let flag = |flag| where_bits(flags, flag, flag);
    Ok(vec![
        mode(libc::O_WRONLY)?,
        mode(libc::O_RDWR)?,
        flag(libc::O_CREAT)?,
        flag(libc::O_TRUNC)?,
    ])
}

/// Rules for clone(): without `CLONE_THREAD`, or in other namespaces.
fn starts_a_process() -> Result<Vec<SeccompRule>, BackendError> {
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let mut rules = vec![where_bits(0, libc::CLONE_THREAD, 0)?];
    for namespace in namespaces {
        rules.push(where_bits(0, namespace, namespace)?);
    }
    Ok(rules)
}

/// A thread could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Its capabilities stay.
    #[error("cannot drop the capabilities of a thread")]
    Capabilities(#[from] CapsError),
    /// The kernel supports Landlock but refused the rules.
    #[error("cannot restrict a thread with Landlock")]
    Landlock(#[from] RulesetError),
}

/// Drops all capabilities of the calling thread, and forbids it with Landlock to open files and TCP
/// ports (6.7). Returns whether the kernel has Landlock (5.13).
///
/// # Errors
///
/// When the kernel refuses.
pub fn confine_thread() -> Result<bool, ConfineError> {
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)?;
    // Rules that an older kernel does not support are omitted.
    let abi = ABI::V5;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::CString, fs, io, net, os::unix::ffi::OsStrExt as _, path::Path, process::Command,
        thread,
    };

    use super::*;

    /// On a separate thread.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    fn open(file: &Path, flags: libc::c_int) -> io::Result<()> {
        let path = CString::new(file.as_os_str().as_bytes()).unwrap();
        // SAFETY: a string that ends with a zero byte.
        match unsafe { libc::open(path.as_ptr(), flags, 0o600) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    #[test]
    fn the_filter_forbids_programs_files_and_connections() {
        on_a_thread(|| {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("file");
            fs::write(&file, "text").unwrap();
            let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let _client = net::TcpStream::connect(address).unwrap();
            if let Err(error) = install_seccomp() {
                observer_test_support::skip!("{error}");
            }
            let denied = |result: io::Result<()>| {
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
            };
            denied(Command::new("/bin/true").status().map(drop));
            denied(fs::File::create(&file).map(drop));
            denied(fs::OpenOptions::new().append(true).open(&file).map(drop));
            if nix::unistd::geteuid().is_root() {
                denied(fs::remove_file(&file));
            }
            denied(fs::create_dir(directory.path().join("new")));
            denied(net::TcpStream::connect(address).map(drop));
            denied(net::UdpSocket::bind("127.0.0.1:0").map(drop));
            let reading = libc::O_RDONLY;
            denied(open(&file, reading | libc::O_TRUNC));
            denied(open(&directory.path().join("new"), reading | libc::O_CREAT));
            let open_file = fs::File::open(&file).unwrap();
            denied(open_file.set_modified(std::time::UNIX_EPOCH));
            // SAFETY: calls that take no pointers, or that are refused before they read them.
            unsafe {
                let call = |result: libc::c_long| match result {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                };
                let forked = libc::fork();
                if forked == 0 {
                    libc::_exit(0);
                }
                denied(call(forked.into()));
                let threads = libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM;
                let flags = threads | libc::CLONE_NEWNET;
                denied(call(libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0)));
                let (own, other) = (libc::getpid(), libc::getppid());
                denied(call(libc::kill(other, libc::SIGCONT).into()));
                call(libc::kill(other, 0).into()).unwrap();
                denied(call(libc::syscall(libc::SYS_tgkill, other, other, 0)));
                call(libc::syscall(libc::SYS_tgkill, own, libc::gettid(), 0)).unwrap();
                denied(call(libc::syscall(libc::SYS_rt_sigqueueinfo, own, 0, 0)));
                denied(call(libc::syscall(libc::SYS_clock_settime, 0, 0)));
                denied(call(libc::syscall(libc::SYS_fremovexattr, -1, 0)));
                // What is not there.
                let absent = |number: libc::c_long| {
                    let error = call(libc::syscall(number, 0, 0, 0, 0)).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{number}");
                };
                absent(libc::SYS_clone3);
                // fchmodat2 of 6.6, which is fchmodat with flags.
                absent(452);
            }
            // Calls that the daemon needs.
            assert_eq!(fs::read_to_string(&file).unwrap(), "text");
            listener.accept().unwrap();
            thread::spawn(|| ()).join().unwrap();
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        });
    }

    #[test]
    fn a_confined_thread_has_neither_capabilities_nor_files() {
        on_a_thread(|| {
            let mut status = fs::File::open("/proc/thread-self/status").unwrap();
            let landlock = confine_thread().unwrap();
            let text = io::read_to_string(&mut status).unwrap();
            for set in ["CapEff", "CapPrm"] {
                let none = format!("\n{set}:\t0000000000000000\n");
                assert!(text.contains(&none), "{text}");
            }
            if !landlock {
                println!("not tested: this kernel has no Landlock");
                return;
            }
            let error = fs::read_to_string("/proc/self/status").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        });
    }
}
