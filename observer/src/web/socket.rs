//! The Unix socket on which the API is served, too.

use std::{
    fs, io,
    os::unix::{
        fs::{
            DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, fchown,
            lchown,
        },
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, Flock, FlockArg},
    sys::stat::{Mode, umask},
    unistd::{UnlinkatFlags, unlinkat},
};
use observer_core::config::DEFAULT_API_SOCKET;
use thiserror::Error;
use tracing::{debug, info};

use crate::privileges::{Account, group_id};

/// The setting that means no socket.
const NONE: &str = "none";

/// The socket could not be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another process listens there.
    #[error("cannot serve the API on {0}: another observer uses it")]
    InUse(PathBuf),
    /// The path is a file that would be removed.
    #[error("cannot serve the API on {0}: the file is not a socket")]
    NotASocket(PathBuf),
    /// Only the folder of the default socket is made.
    #[error("cannot serve the API on {path}: the folder {folder} does not exist")]
    NoFolder {
        /// The socket.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The lock of a daemon that ran as another user.
    #[error(
        "cannot serve the API on {0}: its lock {0}.lock belongs to another user, under whom a daemon ran; stop that \
         one and remove the file"
    )]
    LockOfAnother(PathBuf),
    /// The group of the setting `api-group` does not exist.
    #[error("there is no group {0}")]
    NoSuchGroup(String),
    /// Any other error.
    #[error("cannot serve the API on {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is listening, until it is dropped.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    /// The files of the daemon's own socket; `None` if systemd created the socket.
    own: Option<Own>,
}

/// A socket of this daemon's own.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    /// Held as long as the socket is there.
    _lock: Flock<fs::File>,
}

impl Own {
    /// Ensures that no other daemon uses `path`, and removes a leftover socket.
    fn claim(path: &Path, account: Option<&Account>) -> Result<Self, SocketError> {
        let lock = lock(path, account)?;
        remove_stale(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }
}

impl ApiSocket {
    /// One that systemd made, and removes.
    #[must_use]
    pub fn inherited(listener: UnixListener) -> Self {
        Self {
            listener,
            own: None,
        }
    }

    /// Listens on the socket of the setting `api-socket`; `None` if the setting is `none`, or if it
    /// is not given and the default path cannot be used. `account` is the future user of the
    /// daemon: it gets the socket, its lock, and the directory of the default path if that is created
    /// here, so that it can remove the socket, and a daemon started as that user can use the path.
    /// Call it before there are threads.
    ///
    /// # Errors
    ///
    /// When the socket of the setting cannot be created, as in a directory that does not exist, or
    /// the group does not exist.
    pub fn open(
        setting: Option<&Path>,
        group: Option<&str>,
        account: Option<&Account>,
    ) -> Result<Option<Self>, SocketError> {
        let path = match setting {
            Some(path) if path.as_os_str() == NONE => return Ok(None),
            Some(path) => path,
            None => Path::new(DEFAULT_API_SOCKET),
        };
        let made = make_directory(path, account).and_then(|()| Self::bind(path, group, account));
        match made {
            Ok(socket) => {
                info!("serving the API on {}", path.display());
                Ok(Some(socket))
            }
            Err(error @ SocketError::NoSuchGroup(_)) => Err(error),
            Err(error) if setting.is_some() => Err(error),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                info!(error, "no API socket");
                Ok(None)
            }
        }
    }

    fn bind(
        path: &Path,
        group: Option<&str>,
        account: Option<&Account>,
    ) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        let group = group.map(|group| {
            let id = group_id(group).map_err(failed)?;
            id.ok_or_else(|| SocketError::NoSuchGroup(group.to_owned()))
        });
        let group = group.transpose()?;
        let own = Own::claim(path, account)?;
        // Mode 0660 before any client can connect: connect() needs write permission.
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = UnixListener::bind(path);
        umask(before);
        let socket = Self {
            listener: bound.map_err(failed)?,
            own: Some(own),
        };
        lchown(path, account.map(Account::uid), group).map_err(failed)?;
        Ok(socket)
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    ///
    /// When there is none left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ApiSocket {
    /// Removes the socket. A sandboxed daemon that is still root may not remove it; the next daemon replaces it.
    fn drop(&mut self) {
        let Some(Own { path, _lock }) = &self.own else {
            return;
        };
        // Not fs::remove_file(): the seccomp filter forbids unlink().
        if let Err(error) = unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir) {
            debug!(%error, path = %path.display(), "cannot remove the API socket");
        }
    }
}

/// The folder of the default socket, if that is `path`.
fn make_directory(path: &Path, account: Option<&Account>) -> Result<(), SocketError> {
    let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) else {
        return Ok(());
    };
    if Some(directory) != Path::new(DEFAULT_API_SOCKET).parent() {
        return match directory.try_exists() {
            Ok(false) => Err(SocketError::NoFolder {
                path: path.to_owned(),
                folder: directory.to_owned(),
            }),
            // What else is wrong with it is seen when the socket is made.
            Ok(true) | Err(_) => Ok(()),
        };
    }
    let make = || match fs::DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => match account {
            Some(account) => lchown(directory, Some(account.uid()), Some(account.gid())),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    make().map_err(|source| SocketError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Takes the lock of the socket, which the kernel releases however a daemon ends. The lock file
/// stays: if it were removed, two daemons could lock different files at the same path.
fn lock(path: &Path, account: Option<&Account>) -> Result<Flock<fs::File>, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).mode(0o600);
    // The owner of the directory may have put another file there, such as a FIFO, on which open() would block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.custom_flags(flags).open(&name);
    let failed = |source: io::Error| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let file = file.map_err(|error| match error.kind() {
        // In a directory without search permission, the existence of the file is unknown.
        io::ErrorKind::PermissionDenied if fs::symlink_metadata(&name).is_ok() => {
            SocketError::LockOfAnother(path.to_owned())
        }
        _ => failed(error),
    })?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        // A hard link to another user's file must not change its owner.
        return Err(SocketError::LockOfAnother(path.to_owned()));
    }
    let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    let locked = locked.map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => SocketError::InUse(path.to_owned()),
        error => failed(error.into()),
    })?;
    if let Some(account) = account {
        fchown(&*locked, Some(account.uid()), Some(account.gid())).map_err(failed)?;
    }
    Ok(locked)
}

/// Removes the socket of a daemon that was killed.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn open(path: &Path, group: Option<&str>) -> Result<ApiSocket, SocketError> {
        ApiSocket::open(Some(path), group, None).map(Option::unwrap)
    }

    #[test]
    fn a_socket_is_for_its_owner_and_group_and_goes_with_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/api.sock");
        let missing = open(&path, None).unwrap_err();
        assert!(matches!(missing, SocketError::NoFolder { .. }), "{missing}");
        fs::create_dir(directory.path().join("made")).unwrap();
        let own = fs::metadata(directory.path()).unwrap().gid().to_string();
        let socket = open(&path, Some(&own)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
        assert_eq!(metadata.gid().to_string(), own);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let living = open(&path, None).unwrap();
        assert!(matches!(open(&path, None), Err(SocketError::InUse(_))));
        UnixStream::connect(&path).unwrap();
        drop(living);
        fs::write(&path, "text").unwrap();
        assert!(matches!(open(&path, None), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    /// All find the socket of a daemon that was killed.
    #[test]
    fn of_those_that_start_at_once_one_gets_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let start = || {
                let own = Own::claim(&path, None)?;
                let listener = UnixListener::bind(&path).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
                UnixStream::connect(&path).expect("nobody took it away");
                Ok::<_, SocketError>((own, listener))
            };
            let started: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let running = started.iter().filter(|it| it.is_ok()).count();
            assert_eq!(running, 1);
            drop(started);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_setting_can_ask_for_none() {
        let none = ApiSocket::open(Some(Path::new(NONE)), None, None).unwrap();
        assert!(none.is_none());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let nobody = open(&path, Some("no-such-group"));
        assert!(matches!(nobody, Err(SocketError::NoSuchGroup(_))));
        assert!(!path.exists());
    }
}
