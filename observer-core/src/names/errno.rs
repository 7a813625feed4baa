//! Names of errno values.

use std::borrow::Cow;

macro_rules! names {
    ($($name:ident),+ $(,)?) => {
        const fn known(errno: i32) -> Option<&'static str> {
            match errno {
                $(libc::$name => Some(stringify!($name)),)+
                // From the kernel's include/linux/errno.h. They are not meant to leave the
                // kernel, yet hooks inside it see them, and ENOTSUPP does leave it.
                512 => Some("ERESTARTSYS"),
                513 => Some("ERESTARTNOINTR"),
                514 => Some("ERESTARTNOHAND"),
                516 => Some("ERESTART_RESTARTBLOCK"),
                524 => Some("ENOTSUPP"),
                _ => None,
            }
        }
    };
}

#[rustfmt::skip]
names![
    EPERM, ENOENT, ESRCH, EINTR, EIO, ENXIO, E2BIG, ENOEXEC, EBADF, ECHILD, EAGAIN, ENOMEM,
    EACCES, EFAULT, ENOTBLK, EBUSY, EEXIST, EXDEV, ENODEV, ENOTDIR, EISDIR, EINVAL, ENFILE,
    EMFILE, ENOTTY, ETXTBSY, EFBIG, ENOSPC, ESPIPE, EROFS, EMLINK, EPIPE, EDOM, ERANGE, EDEADLK,
    ENAMETOOLONG, ENOLCK, ENOSYS, ENOTEMPTY, ELOOP, ENOMSG, EIDRM, ECHRNG, EL2NSYNC, EL3HLT,
    EL3RST, ELNRNG, EUNATCH, ENOCSI, EL2HLT, EBADE, EBADR, EXFULL, ENOANO, EBADRQC, EBADSLT,
    EBFONT, ENOSTR, ENODATA, ETIME, ENOSR, ENONET, ENOPKG, EREMOTE, ENOLINK, EADV, ESRMNT,
    ECOMM, EPROTO, EMULTIHOP, EDOTDOT, EBADMSG, EOVERFLOW, ENOTUNIQ, EBADFD, EREMCHG, ELIBACC,
    ELIBBAD, ELIBSCN, ELIBMAX, ELIBEXEC, EILSEQ, ERESTART, ESTRPIPE, EUSERS, ENOTSOCK,
    EDESTADDRREQ, EMSGSIZE, EPROTOTYPE, ENOPROTOOPT, EPROTONOSUPPORT, ESOCKTNOSUPPORT,
    EOPNOTSUPP, EPFNOSUPPORT, EAFNOSUPPORT, EADDRINUSE, EADDRNOTAVAIL, ENETDOWN, ENETUNREACH,
    ENETRESET, ECONNABORTED, ECONNRESET, ENOBUFS, EISCONN, ENOTCONN, ESHUTDOWN, ETOOMANYREFS,
    ETIMEDOUT, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EALREADY, EINPROGRESS, ESTALE, EUCLEAN,
    ENOTNAM, ENAVAIL, EISNAM, EREMOTEIO, EDQUOT, ENOMEDIUM, EMEDIUMTYPE, ECANCELED, ENOKEY,
    EKEYEXPIRED, EKEYREVOKED, EKEYREJECTED, EOWNERDEAD, ENOTRECOVERABLE, ERFKILL, EHWPOISON,
];

/// The symbol of a positive errno: `ECONNREFUSED`. A number without a symbol, including 0, becomes
/// `E<number>`.
#[must_use]
pub fn errno_name(errno: u16) -> Cow<'static, str> {
    match known(i32::from(errno)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("E{errno}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use nix::errno::Errno;
    use observer_common::{CONNECT_ERRNOS, ERRNOS};

    use super::*;

    #[test]
    fn agrees_with_nix() {
        for errno in 1..1_000_u16 {
            let theirs = Errno::from_raw(i32::from(errno));
            if theirs != Errno::UnknownErrno {
                assert_eq!(errno_name(errno), format!("{theirs:?}"));
            }
        }
    }

    #[test]
    fn has_a_name_for_every_counted_errno() {
        // Linux leaves 41 and 58 out; 133 is the last.
        for errno in (1..=133_u16).filter(|errno| ![41, 58].contains(errno)) {
            assert!(usize::from(errno) < ERRNOS);
            assert!(matches!(errno_name(errno), Cow::Borrowed(_)), "{errno}");
        }
        for errno in CONNECT_ERRNOS {
            assert!(
                matches!(errno_name(errno.into()), Cow::Borrowed(_)),
                "{errno}"
            );
        }
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = (0..=u16::MAX).map(errno_name).collect();
        assert_eq!(names.len(), usize::from(u16::MAX) + 1);
        assert_eq!(errno_name(111), "ECONNREFUSED");
        assert_eq!(errno_name(99), "EADDRNOTAVAIL");
        assert_eq!(errno_name(9_999), "E9999");
    }
}
