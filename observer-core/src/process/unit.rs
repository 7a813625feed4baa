//! The systemd unit or container of a process, as labels.

/// The longest [`Unit::name`] and [`Unit::container_id`], in bytes.
pub const MAX_UNIT_LEN: usize = 128;

/// The manager of a process's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitKind {
    /// Nobody that is known: the root cgroup, or a cgroup of a host without systemd.
    #[default]
    None,
    /// A service, scope or slice of systemd; also all of a user's systemd.
    Systemd,
    /// Docker.
    Docker,
    /// containerd, started by the kubelet or by nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// podman, by root.
    Podman,
    /// LXC, LXD, Incus and Proxmox.
    Lxc,
    /// systemd-nspawn.
    Nspawn,
    /// A container whose engine is not in the path, as with the cgroupfs driver of the kubelet.
    Container,
}

impl UnitKind {
    /// The value of the label `kind`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Systemd => "systemd",
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Crio => "cri-o",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::Nspawn => "nspawn",
            Self::Container => "container",
        }
    }
}

/// The unit or container of a process.
///
/// `name` starts with the name given by root's systemd or engine. Names chosen below it follow
/// after a slash: the units of a user's systemd (`user@1000.service/web.service`), containers in a
/// container (`docker:0123456789ab/containerd:ba9876543210`). So no user can imitate another unit
/// or container. The name of a unit or container has no slash; a name that begins with a slash is
/// the path of a cgroup that is neither. `kind`, `container_id` and `pod_uid` describe what is
/// before the first slash.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    /// The label `unit`: at most [`MAX_UNIT_LEN`] bytes without control characters, empty in
    /// the root cgroup.
    pub name: String,
    /// What `name` is.
    pub kind: UnitKind,
    /// The container's id as its engine spells it, 64 hexadecimal digits; the name of an LXC
    /// or nspawn container. Empty for the rest. At most [`MAX_UNIT_LEN`] bytes without control
    /// characters.
    pub container_id: String,
    /// The uid of the container's pod, as `metadata.uid` spells it; for a static pod the 32
    /// digits that the kubelet gives it (annotation `kubernetes.io/config.hash`), which is not
    /// the uid of its mirror pod. Empty outside of Kubernetes.
    pub pod_uid: String,
}

#[cfg(any(test, feature = "testing"))]
impl Unit {
    /// A unit of the host's systemd.
    pub fn systemd(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: UnitKind::Systemd,
            ..Self::default()
        }
    }
}
