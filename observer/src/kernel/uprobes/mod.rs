//! Programs on functions of user space. They are loaded once. From 6.6 on, attaching them to a file takes no
//! capability, so that files may be found at any time; before, it takes CAP_SYS_ADMIN, so that they are attached at
//! the start only ([`Uprobes::only_at_start`]).

mod files;
mod guard;
mod link;
mod program;
mod selftest;

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    path::Path,
    sync::Arc,
};

use aya::{Btf, Ebpf, programs::Iter};
use observer_common::{
    TLS_CLIENT, TLS_GNUTLS, TLS_GO, TLS_OPENSSL, TLS_SERVER, TLS_UNKNOWN, TlsCookie,
};
use observer_core::{
    binaries::{self, Function, Tls},
    contract::{AttachType, Status, Verdict},
};

use self::link::{Links, Point, Way};
pub use self::{
    files::{Contents, Files},
    guard::Guard,
};
use crate::kernel::{facts::Facts, options::LoadOptions};

/// The signal, as in verdicts.
pub const SIGNAL: &str = "tls";
/// The other signal, of programs with quic-go.
pub const QUIC: &str = "quic";
/// The iterator over handshakes in progress.
pub const ITER: &str = "tls_iter";

/// The programs that functions call, by name in the object, with signal and what is shown for each.
const PROGRAMS: [(&str, &str, &str); 7] = [
    ("tls_enter", SIGNAL, "handshake"),
    ("tls_leave", SIGNAL, "handshake (return)"),
    ("tls_free", SIGNAL, "free"),
    ("tls_reset", SIGNAL, "reset"),
    ("tls_go_enter", SIGNAL, "crypto/tls handshake"),
    ("tls_go_leave", SIGNAL, "crypto/tls handshake (return)"),
    ("quic_event", QUIC, "quic-go"),
];

/// What is said of programs that are attached at the start only, without full stop.
const AT_START: &str = "only in files that are mapped at the start, and in the system's libraries";

/// Why nothing can be attached.
pub struct Unavailable {
    /// Not [`Status::Attached`].
    pub status: Status,
    /// Without full stop.
    pub why: String,
}

/// The loaded programs.
pub struct Uprobes {
    way: Way,
    guard: Arc<Guard>,
    enter: OwnedFd,
    leave: OwnedFd,
    free: OwnedFd,
    reset: OwnedFd,
    go_enter: OwnedFd,
    go_leave: OwnedFd,
    quic: OwnedFd,
}

impl Uprobes {
    /// Loads the programs of `object`, which use the maps of `ebpf`, and tests whether processes survive them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a program or a link, a process did not survive, or files cannot be watched.
    pub fn load(
        object: &[u8],
        ebpf: &mut Ebpf,
        btf: &Btf,
        facts: &Facts,
        options: &LoadOptions,
    ) -> Result<Self, Unavailable> {
        let refused = |why: String| Unavailable {
            status: Status::Refused,
            why,
        };
        let guard = Arc::new(Guard::new().map_err(no_guard)?);
        let way =
            Way::find(attach_type(facts, options) == AttachType::UprobeMulti).map_err(|error| {
                Unavailable {
                    status: Status::Unsupported,
                    why: format!("this kernel has no uprobes (CONFIG_UPROBE_EVENTS): {error}"),
                }
            })?;
        let names = PROGRAMS.map(|(name, ..)| name);
        let [enter, leave, free, reset, go_enter, go_leave, quic] =
            program::load(object, ebpf, names, way).map_err(refused)?;
        load_iterator(ebpf, btf).map_err(|error| refused(format!("{error:#}")))?;
        let uprobes = Self {
            way,
            guard,
            enter,
            leave,
            free,
            reset,
            go_enter,
            go_leave,
            quic,
        };
        selftest::survives(uprobes.leave.as_fd(), way).map_err(|error| {
            let forbidden = options.hooks.forbid(AttachType::UprobeMulti);
            failure(
                &error,
                way,
                forbidden.filter(|_| facts.helpers.uprobe_multi),
            )
        })?;
        Ok(uprobes)
    }

    /// Detaches the programs from files that are written to.
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Whether files can only be probed before privileges are dropped.
    pub fn only_at_start(&self) -> bool {
        matches!(self.way, Way::Perf(_))
    }

    /// Attaches the programs to the functions in the file at `path`, in all processes that map it now or later.
    ///
    /// # Errors
    ///
    /// When the file does not exist, or the kernel cannot probe one of the instructions. Nothing is attached then.
    pub fn attach(&self, path: &Path, tls: &Tls) -> io::Result<Links> {
        let points = |offsets: &[u64], cookie: TlsCookie| -> Vec<Point> {
            let points = offsets.iter().map(|&offset| Point {
                offset,
                cookie: cookie.to_bits(),
            });
            points.collect()
        };
        let cookie = |library, role, rwstate| TlsCookie {
            library,
            role,
            rwstate,
        };
        let attach = |program: &OwnedFd, points: &[Point], returns| {
            self.way.attach(program.as_fd(), path, points, returns)
        };
        let on_object = |calls: Vec<Point>, free: u64, resets: &[u64], library| {
            let of_library = cookie(library, TLS_UNKNOWN, None);
            let (free, resets) = (points(&[free], of_library), points(resets, of_library));
            // The ends before the beginnings.
            let mut links = attach(&self.free, &free, false)?;
            if !resets.is_empty() {
                links.extend(attach(&self.reset, &resets, false)?);
            }
            links.extend(attach(&self.leave, &calls, true)?);
            links.extend(attach(&self.enter, &calls, false)?);
            Ok(Links::new(links))
        };
        match tls {
            Tls::OpenSsl {
                connect,
                accept,
                free,
                resets,
                rwstate,
            } => {
                let rwstate = rwstate.and_then(|offset| u16::try_from(offset).ok());
                let of = |role| cookie(TLS_OPENSSL, role, rwstate);
                let mut calls = points(&[*connect], of(TLS_CLIENT));
                calls.extend(points(&[*accept], of(TLS_SERVER)));
                on_object(calls, *free, resets, TLS_OPENSSL)
            }
            Tls::DoHandshake { handshake, free } => {
                let calls = points(&[*handshake], cookie(TLS_OPENSSL, TLS_UNKNOWN, None));
                on_object(calls, *free, &[], TLS_OPENSSL)
            }
            Tls::GnuTls { handshake, deinit } => {
                let calls = points(&[*handshake], cookie(TLS_GNUTLS, TLS_UNKNOWN, None));
                on_object(calls, *deinit, &[], TLS_GNUTLS)
            }
            Tls::Go { client, server } => {
                let both = [(client, TLS_CLIENT), (server, TLS_SERVER)];
                let of = |offsets: fn(&Function) -> &[u64]| -> Vec<Point> {
                    let all = both.iter();
                    let all = all.filter_map(|(function, role)| Some((function.as_ref()?, *role)));
                    let all = all.flat_map(|(function, role)| {
                        points(offsets(function), cookie(TLS_GO, role, None))
                    });
                    all.collect()
                };
                let returns = of(|function| &function.returns);
                let entries = of(|function| std::slice::from_ref(&function.entry));
                let mut links = attach(&self.go_leave, &returns, false)?;
                links.extend(attach(&self.go_enter, &entries, false)?);
                Ok(Links::new(links))
            }
        }
    }

    /// Attaches the program for quic-go to functions in the file at `path`, likewise.
    ///
    /// # Errors
    ///
    /// As [`Self::attach`].
    pub fn attach_quic(&self, path: &Path, found: &binaries::Points) -> io::Result<Links> {
        let points = found.iter().map(|&(event, offset)| Point {
            offset,
            cookie: event.into(),
        });
        let points: Vec<_> = points.collect();
        let links = self.way.attach(self.quic.as_fd(), path, &points, false);
        links.map(Links::new)
    }

    /// Name and descriptor of each program, for its statistics.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, RawFd)> {
        let Self {
            enter,
            leave,
            free,
            reset,
            go_enter,
            go_leave,
            quic,
            way: _,
            guard: _,
        } = self;
        let programs = [enter, leave, free, reset, go_enter, go_leave, quic];
        let named = PROGRAMS.iter().zip(programs);
        named.map(|((name, ..), program)| (*name, program.as_raw_fd()))
    }
}

/// Why files cannot be watched, without which nothing may be probed.
fn no_guard(error: io::Error) -> Unavailable {
    let (status, why) = match error.raw_os_error() {
        Some(libc::ENOSYS) => (
            Status::Unsupported,
            "this kernel has no inotify (CONFIG_INOTIFY_USER)".to_owned(),
        ),
        Some(libc::EMFILE) => (
            Status::Refused,
            "all inotify instances of its user are in use: raise fs.inotify.max_user_instances and restart".to_owned(),
        ),
        _ => (Status::Refused, error.to_string()),
    };
    Unavailable {
        status,
        why: format!("probed files cannot be watched for writes ({why})"),
    }
}

/// What a failed self-test means. `forbidden` is the setting that forbids the uprobe_multi links that the kernel has.
fn failure(error: &io::Error, way: Way, forbidden: Option<&str>) -> Unavailable {
    let (status, why) = match (error.kind(), way) {
        (io::ErrorKind::PermissionDenied, Way::Perf(_)) => match forbidden {
            Some(why) => (Status::Disabled, why.to_owned()),
            // The unit never has that capability, so this is the kernel's lack.
            None => (
                Status::Unsupported,
                "without uprobe_multi links (6.6 and later) it takes CAP_SYS_ADMIN".to_owned(),
            ),
        },
        (io::ErrorKind::PermissionDenied, Way::Multi) => (Status::Refused, error.to_string()),
        (io::ErrorKind::Unsupported, _) => (Status::Unsupported, error.to_string()),
        _ => (Status::Broken, error.to_string()),
    };
    Unavailable { status, why }
}

fn load_iterator(ebpf: &mut Ebpf, btf: &Btf) -> anyhow::Result<()> {
    let program = ebpf
        .program_mut(ITER)
        .ok_or_else(|| anyhow::anyhow!("the object has no program {ITER}"))?;
    <&mut Iter>::try_from(program)?.load("bpf_map_elem", btf)?;
    Ok(())
}

/// What is known to prevent it before anything is loaded. The reason is without full stop.
pub fn obstacle(facts: &Facts, options: &LoadOptions) -> Option<(Status, &'static str)> {
    let lacks = "this kernel has no attach cookies (5.15 and later)";
    let lacks = (!facts.helpers.attach_cookie).then_some((Status::Unsupported, lacks));
    let forbidden = options.tls.forbid().map(|why| (Status::Disabled, why));
    forbidden.or(lacks)
}

/// How the programs are attached on this kernel.
pub fn attach_type(facts: &Facts, options: &LoadOptions) -> AttachType {
    let is_allowed = options.hooks.forbid(AttachType::UprobeMulti).is_none();
    if facts.helpers.uprobe_multi && is_allowed {
        AttachType::UprobeMulti
    } else {
        AttachType::Uprobe
    }
}

/// One verdict for each program.
pub fn verdicts(attach_type: AttachType, result: Result<(), &Unavailable>) -> Vec<Verdict> {
    let (status, detail) = match result {
        Ok(()) if attach_type == AttachType::Uprobe => (Status::Attached, AT_START),
        Ok(()) => (Status::Attached, ""),
        Err(unavailable) => (unavailable.status, unavailable.why.as_str()),
    };
    let programs = PROGRAMS.iter().map(|(program, signal, hook)| Verdict {
        signal,
        attach_type,
        hook,
        program,
        status,
        detail: detail.to_owned(),
        required: false,
    });
    programs.collect()
}

#[cfg(test)]
mod tests {
    use observer_core::contract::Hooks;

    use super::{
        link::{PerfUprobe, Way},
        *,
    };

    #[test]
    fn a_failed_self_test_is_told_by_its_cause() {
        let perf = Way::Perf(PerfUprobe::default());
        let disabled = Hooks::Kprobe.forbid(AttachType::UprobeMulti);
        assert!(disabled.is_some());
        for (error, way, forbidden, status) in [
            (
                io::ErrorKind::PermissionDenied,
                perf,
                None,
                Status::Unsupported,
            ),
            (
                io::ErrorKind::PermissionDenied,
                perf,
                disabled,
                Status::Disabled,
            ),
            (
                io::ErrorKind::PermissionDenied,
                Way::Multi,
                None,
                Status::Refused,
            ),
            (
                io::ErrorKind::Unsupported,
                perf,
                disabled,
                Status::Unsupported,
            ),
            (
                io::ErrorKind::Unsupported,
                Way::Multi,
                None,
                Status::Unsupported,
            ),
            (io::ErrorKind::Other, perf, disabled, Status::Broken),
            (io::ErrorKind::Other, Way::Multi, None, Status::Broken),
        ] {
            let found = failure(&error.into(), way, forbidden);
            assert_eq!(found.status, status, "{error} {way:?} {forbidden:?}");
            assert!(!found.why.is_empty());
        }
    }
}
