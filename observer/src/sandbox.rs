//! What the daemon cannot do once it runs, beside the capabilities that it has dropped
//! ([`privileges`](crate::privileges)): a seccomp filter for all threads, and Landlock for those that
//! talk to HTTP clients.
//!
//! Landlock cannot hold for the other threads: it forbids ptrace access to processes outside of the
//! sandbox (`hook_ptrace_access_check`), which reading /proc/PID/fd takes.

use std::collections::BTreeMap;

use caps::{CapSet, errors::CapsError};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// System calls that a running daemon has no use for, and that fail with EPERM.
///
/// The list names what would start programs, reach other processes or machines, or change the host. A
/// list of what is allowed would depend on the C library and allocator.
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
    // Connections, and further listeners. The one that there is was opened before.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    // Files. Opening one for writing is in `opens_for_writing`.
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
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
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
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Older forms of the same, which arm64 does not have.
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
    libc::SYS_iopl,
    libc::SYS_ioperm,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_OLD: &[libc::c_long] = &[];

/// Installs the filter for this thread and those that it will start. Sets no_new_privs.
///
/// # Errors
///
/// When the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER).
pub fn install_seccomp() -> Result<(), seccompiler::Error> {
    let denied = DENIED.iter().chain(DENIED_OLD);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        denied.map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_openat, opens_for_writing(2)?);
    // Signal 0 asks whether a process is still there.
    rules.insert(libc::SYS_kill, vec![nonzero(1)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, opens_for_writing(1)?);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

/// A rule for calls whose argument `index` is not zero.
fn nonzero(index: u8) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)?;
    SeccompRule::new(vec![condition])
}

/// Rules for a system call whose argument `flags` are those of open().
fn opens_for_writing(flags: u8) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |mode: libc::c_int| {
        let mask = SeccompCmpOp::MaskedEq(libc::O_ACCMODE as u64);
        SeccompRule::new(vec![SeccompCondition::new(
            flags,
            SeccompCmpArgLen::Dword,
            mask,
            mode as u64,
        )?])
    };
    Ok(vec![rule(libc::O_WRONLY)?, rule(libc::O_RDWR)?])
}

/// A thread could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Its capabilities stay.
    #[error("cannot drop the capabilities of a thread")]
    Capabilities(#[from] CapsError),
    /// The kernel has Landlock and refused the rules.
    #[error("cannot restrict a thread with Landlock")]
    Landlock(#[from] RulesetError),
}

/// Takes all capabilities from the calling thread, and with Landlock all files that it has not opened
/// yet and TCP ports (6.7). Returns whether the kernel has Landlock (5.13).
///
/// # Errors
///
/// When the kernel refuses.
pub fn confine_thread() -> Result<bool, ConfineError> {
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)?;
    // What an older kernel does not know is left out.
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
    use std::{fs, io, net, process::Command, thread};

    use super::*;

    /// On a thread of its own, which ends with it.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
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
                println!("skipped: {error}");
                return;
            }
            let denied = |result: io::Result<()>| {
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
            };
            denied(Command::new("/bin/true").status().map(drop));
            denied(fs::File::create(&file).map(drop));
            denied(fs::OpenOptions::new().append(true).open(&file).map(drop));
            denied(fs::remove_file(&file));
            denied(fs::create_dir(directory.path().join("new")));
            denied(net::TcpStream::connect(address).map(drop));
            denied(net::UdpSocket::bind("127.0.0.1:0").map(drop));
            // What the daemon does all the time.
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
