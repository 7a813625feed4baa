//! From a cgroup path to labels for people: the systemd unit, or the container.
//!
//! A path is parsed from the root inwards, and the first component that names a unit or a container
//! determines the result. The directories up to there were created by root. Those below belong to
//! the user to whom the cgroup was delegated, who can create directories of any name: a user below
//! `user@1000.service`, a service with `Delegate=yes` below its own cgroup, the root of a container
//! below the container's. They cannot inject a line into the file, because the kernel refuses a
//! newline in a name (`cgroup_mkdir`).

use super::unit::{MAX_UNIT_LEN, Unit, UnitKind};

/// Digits of a container id that are shown, as in `docker ps`.
const SHORT_ID: usize = 12;

/// Name prefixes of cgroups made for one container. The rest of the name is the id, so that
/// `crio-conmon-<id>.scope`, the monitor of a container, is none.
const ENGINES: [(&[u8], UnitKind); 6] = [
    (b"docker-", UnitKind::Docker),
    (b"cri-containerd-", UnitKind::Containerd),
    (b"nerdctl-", UnitKind::Containerd),
    (b"crio-", UnitKind::Crio),
    (b"libpod-", UnitKind::Podman),
    (b"libpod-payload-", UnitKind::Podman),
];

/// Services with containers below their own cgroup: the runtime got a relative path, like runc's
/// cgroupfs driver from an engine that uses systemd's names. Root runs them, and they delegate
/// nothing to others.
const ENGINE_SERVICES: [&[u8]; 12] = [
    b"containerd.service",
    b"crio.service",
    b"docker.service",
    b"k3s-agent.service",
    b"k3s.service",
    b"kubelet.service",
    b"podman.service",
    b"rke2-agent.service",
    b"rke2-server.service",
    b"snap.docker.dockerd.service",
    b"snap.microk8s.daemon-containerd.service",
    b"snap.microk8s.daemon-kubelite.service",
];

/// The cgroup of one container.
#[derive(Clone, Copy, Debug)]
struct Container<'a> {
    kind: UnitKind,
    /// Before the colon of the label.
    engine: &'static str,
    id: &'a [u8],
}

/// A name given below a delegated cgroup.
#[derive(Clone, Copy, Debug)]
enum Claim<'a> {
    Unit(&'a [u8]),
    Container(Container<'a>),
}

/// The results of a path, in the order of preference.
#[derive(Debug)]
enum Found<'a> {
    Root,
    Path(&'a [u8]),
    Slice(&'a [u8]),
    Unit(&'a [u8], Vec<Claim<'a>>),
    Container(Container<'a>, Option<String>, Vec<Claim<'a>>),
}

impl Found<'_> {
    const fn rank(&self) -> u8 {
        match self {
            Self::Root => 0,
            Self::Path(_) => 1,
            Self::Slice(_) => 2,
            Self::Unit(..) => 3,
            Self::Container(..) => 4,
        }
    }

    fn into_unit(self) -> Unit {
        let mut unit = Unit::default();
        let claims = match self {
            Self::Root => Vec::new(),
            Self::Path(path) => {
                push(&mut unit.name, path);
                Vec::new()
            }
            Self::Slice(name) => {
                unit.kind = UnitKind::Systemd;
                push(&mut unit.name, name);
                Vec::new()
            }
            Self::Unit(name, claims) => {
                unit.kind = UnitKind::Systemd;
                push(&mut unit.name, name);
                claims
            }
            Self::Container(container, pod_uid, claims) => {
                unit.kind = container.kind;
                container.push_label(&mut unit.name);
                container.push_id(&mut unit.container_id, usize::MAX);
                unit.pod_uid = pod_uid.unwrap_or_default();
                claims
            }
        };
        for claim in claims {
            push(&mut unit.name, b"/");
            match claim {
                Claim::Unit(name) => push(&mut unit.name, name),
                Claim::Container(container) => container.push_label(&mut unit.name),
            }
        }
        unit
    }
}

impl<'a> Container<'a> {
    fn new(kind: UnitKind, id: &'a [u8]) -> Self {
        let engine = match kind {
            UnitKind::Crio => "crio",
            kind => kind.label(),
        };
        Self { kind, engine, id }
    }

    fn push_label(&self, label: &mut String) {
        push(label, self.engine.as_bytes());
        push(label, b":");
        self.push_id(label, if is_id(self.id) { SHORT_ID } else { usize::MAX });
    }

    fn push_id(&self, text: &mut String, length: usize) {
        let id = &self.id[..self.id.len().min(length)];
        if self.kind != UnitKind::Nspawn {
            return push(text, id);
        }
        // `unit_name_escape` of systemd; a machine's name is a host name, in which the hyphen is
        // all there is to escape.
        let mut rest = id;
        while let Some(at) = rest.windows(4).position(|window| window == br"\x2d") {
            push(text, &rest[..at]);
            push(text, b"-");
            rest = &rest[at + 4..];
        }
        push(text, rest);
    }
}

/// The unit of a process, from the text of its /proc/PID/cgroup (cgroups(7)), be the
/// hierarchies v1, v2 or both. In the order of preference:
///
/// 1. `docker:0123456789ab`, with `containerd`, `crio`, `podman`, `kubepods` (an id whose
///    engine the path does not tell) or `container`, and `lxc:NAME` and `nspawn:NAME`: a
///    container in any hierarchy. Containers that run in it are added after a slash, units
///    of a systemd in it are not looked at;
/// 2. a `*.service` or `*.scope`, as systemctl(1) spells it, which means that escapes such
///    as `\x2d` are kept. Below `user@UID.service` what that user's systemd runs is added
///    after a slash;
/// 3. the innermost `*.slice`;
/// 4. the path itself, in the v2 or a named hierarchy, on hosts without systemd;
/// 5. an empty string for the root cgroup, and when there is no line to read.
///
/// The outermost unit or container decides; see [`Unit`] and this module. Of several
/// hierarchies on one level v2 wins, then a named one (`name=systemd`).
#[must_use]
pub fn unit_from_bytes(bytes: &[u8]) -> Unit {
    bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut parts = line.splitn(3, |&byte| byte == b':');
            let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let weight = match (hierarchy, controllers) {
                (b"0", b"") => 2,
                (_, controllers) if controllers.starts_with(b"name=") => 1,
                _ => 0,
            };
            let found = match find(path) {
                // A path that is made for one v1 controller names no service.
                Found::Path(_) if weight == 0 => Found::Root,
                found => found,
            };
            Some((found.rank(), weight, found))
        })
        .max_by_key(|&(rank, weight, _)| (rank, weight))
        .map(|(_, _, found)| found.into_unit())
        .unwrap_or_default()
}

/// The unit of one cgroup, from its path below the hierarchy's mount point. See
/// [`unit_from_bytes`].
#[must_use]
pub fn unit_from_path(path: &[u8]) -> Unit {
    find(path).into_unit()
}

fn find(path: &[u8]) -> Found<'_> {
    // Appended by the kernel for a zombie whose cgroup was removed (`cgroup_path_ns` in
    // `proc_cgroup_show`).
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    // A cgroup outside of the reader's cgroup namespace begins with `..` (`kernfs_path`).
    let names: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .skip_while(|&name| name == b"..")
        .collect();

    let (mut unit, mut slice, mut pod_uid) = (None, None, None);
    // Whether the path has a directory that is no slice. systemd creates its units below slices
    // only, so a unit below such a directory belongs to a systemd in a container or a delegated
    // cgroup.
    let mut plain = false;
    for (depth, &name) in names.iter().enumerate() {
        // pam_cgfs(8) gives `/user/NAME` to that user, in all v1 hierarchies.
        if depth == 0 && name == b"user" && names.len() > 1 {
            return Found::Path(path);
        }
        pod_uid = pod_uid_of(name, &names[..depth]).or(pod_uid);
        if let Some((container, length)) = container_at(&names, depth) {
            return Found::Container(container, pod_uid, claims(&names[depth + length..], false));
        }
        if unit.is_some() {
            continue;
        }
        if plain {
            if is_unit(name) {
                return Found::Path(path);
            }
        } else if is_unit(name) {
            let name = unescape(name);
            if is_user_manager(name) {
                return Found::Unit(name, claims(&names[depth + 1..], true));
            }
            if !ENGINE_SERVICES.contains(&name) {
                return Found::Unit(name, Vec::new());
            }
            unit = Some(name);
        } else if has_suffix(name, b".slice") {
            slice = Some(unescape(name));
        } else {
            plain = true;
        }
    }
    match (unit, slice) {
        (Some(name), _) => Found::Unit(name, Vec::new()),
        (None, Some(name)) => Found::Slice(name),
        (None, None) if names.is_empty() => Found::Root,
        (None, None) => Found::Path(path),
    }
}

/// The names below a delegated cgroup: containers within containers, and with `units` first a unit
/// of a user's systemd. A container is preferred to the scope or the engine's service that it runs
/// in, but not to another service, which keeps its name when the container is replaced.
fn claims<'a>(names: &[&'a [u8]], mut units: bool) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    let mut unit = None;
    let mut depth = 0;
    while depth < names.len() {
        if let Some((container, length)) = container_at(names, depth) {
            claims.push(Claim::Container(container));
            units = false;
            depth += length;
            continue;
        }
        let name = unescape(names[depth]);
        if units && is_unit(name) {
            unit = Some(name);
            units = false;
            if !has_suffix(name, b".scope") && !ENGINE_SERVICES.contains(&name) {
                break;
            }
        }
        depth += 1;
    }
    if claims.is_empty() {
        claims.extend(unit.map(Claim::Unit));
    }
    claims
}

fn is_unit(name: &[u8]) -> bool {
    has_suffix(name, b".service") || has_suffix(name, b".scope")
}

fn has_suffix(name: &[u8], suffix: &[u8]) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}

/// `user@UID.service`: the systemd of a user, who owns the cgroups below (user@.service has `Delegate=`).
fn is_user_manager(name: &[u8]) -> bool {
    name.starts_with(b"user@") && has_suffix(name, b".service")
}

/// systemd puts an underscore before a name that could be taken for a file of the cgroup
/// file system (`cg_escape`).
fn unescape(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"_").unwrap_or(name)
}

/// The container whose cgroup begins at `names[depth]`, and of how many components its name
/// consists.
fn container_at<'a>(names: &[&'a [u8]], depth: usize) -> Option<(Container<'a>, usize)> {
    let (name, next) = (names[depth], names.get(depth + 1).copied());
    // LXC from 4.0 on: DEFAULT_PAYLOAD_CGROUP_PREFIX of liblxc.
    if let Some(id) = name
        .strip_prefix(b"lxc.payload.")
        .filter(|id| !id.is_empty())
    {
        return Some((Container::new(UnitKind::Lxc, id), 1));
    }
    match (name, next) {
        // LXC up to 3.0, and Proxmox still; LXC 3.1 and 3.2.
        (b"lxc" | b"lxc.payload", Some(id)) => {
            return Some((Container::new(UnitKind::Lxc, id), 2));
        }
        // `create_subcgroup` of systemd-nspawn; beside it, nspawn itself is in `supervisor`.
        (name, Some(b"payload")) => {
            if let Some(id) = nspawn_machine(name) {
                return Some((Container::new(UnitKind::Nspawn, id), 2));
            }
        }
        _ => {}
    }
    engine_container(name, &names[..depth]).map(|container| (container, 1))
}

/// The machine whose unit is `name`: of the template service, or the scope that
/// systemd-machined makes (`machine_start_scope`), which escapes the name.
fn nspawn_machine(name: &[u8]) -> Option<&[u8]> {
    let service = || {
        name.strip_prefix(b"systemd-nspawn@")?
            .strip_suffix(b".service")
    };
    let scope = || name.strip_prefix(b"machine-")?.strip_suffix(b".scope");
    service().or_else(scope).filter(|id| !id.is_empty())
}

/// The container of an engine that names cgroups by 64 digits.
fn engine_container<'a>(name: &'a [u8], parents: &[&[u8]]) -> Option<Container<'a>> {
    let name = name.strip_suffix(b".scope").unwrap_or(name);
    if is_id(name) {
        return Some(container_by_parents(name, parents));
    }
    for (prefix, kind) in ENGINES {
        if let Some(id) = name.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some(Container::new(kind, id));
        }
    }
    // `<slice>:cri-containerd:<id>`: containerd without SystemdCgroup, below a kubelet
    // that uses systemd's names.
    let mut parts = name.rsplit(|&byte| byte == b':');
    let (id, engine) = (parts.next()?, parts.next()?);
    ENGINES
        .into_iter()
        .find(|(prefix, _)| is_id(id) && prefix.strip_suffix(b"-") == Some(engine))
        .map(|(_, kind)| Container::new(kind, id))
}

/// The container of a cgroup whose whole name is an id: cgroupfs drivers.
fn container_by_parents<'a>(id: &'a [u8], parents: &[&[u8]]) -> Container<'a> {
    for (depth, parent) in parents.iter().enumerate().rev() {
        match *parent {
            b"docker" | b"ecs" => return Container::new(UnitKind::Docker, id),
            b"k8s.io" | b"moby" => return Container::new(UnitKind::Containerd, id),
            b"libpod_parent" => return Container::new(UnitKind::Podman, id),
            name if name.starts_with(b"kubepods")
                || pod_uid_of(name, &parents[..depth]).is_some() =>
            {
                let kind = UnitKind::Container;
                let engine = "kubepods";
                return Container { kind, engine, id };
            }
            _ => {}
        }
    }
    Container::new(UnitKind::Container, id)
}

/// Container engines use 64 lower-case hexadecimal digits.
fn is_id(name: &[u8]) -> bool {
    name.len() == 64
        && name
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The uid in the name of a pod's cgroup (`GetPodCgroupNameSuffix` of the kubelet): `pod<uid>`
/// below `kubepods`, or `kubepods-burstable-pod<uid>.slice`, in which the hyphens of the uid
/// are underscores. Also of `<pod's slice>:cri-containerd:<id>`.
fn pod_uid_of(name: &[u8], parents: &[&[u8]]) -> Option<String> {
    let name = name.split(|&byte| byte == b':').next()?;
    let uid = if let Some(slice) = name.strip_suffix(b".slice") {
        if !slice.windows(8).any(|window| window == b"kubepods") {
            return None;
        }
        let at = slice.windows(4).rposition(|window| window == b"-pod")?;
        &slice[at + 4..]
    } else {
        // Or of what an observer in a pod sees of it, in a cgroup namespace: `/../../pod<uid>`.
        let is_qos = |name: &&[u8]| matches!(*name, b"burstable" | b"besteffort");
        if !parents.iter().any(|name| name.starts_with(b"kubepods")) && !parents.iter().all(is_qos)
        {
            return None;
        }
        name.strip_prefix(b"pod")?
    };
    let is_uid = match uid.len() {
        36 => uid.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
            _ => byte.is_ascii_hexdigit(),
        }),
        // Of a static pod: the MD5 of its manifest (`applyDefaults` in pkg/kubelet/config).
        32 => uid.iter().all(u8::is_ascii_hexdigit),
        _ => false,
    };
    let canonical = |&byte: &u8| match byte {
        b'_' => '-',
        byte => char::from(byte.to_ascii_lowercase()),
    };
    is_uid.then(|| uid.iter().map(canonical).collect())
}

/// Appends what fits, without control characters.
fn push(label: &mut String, bytes: &[u8]) {
    // Longer names are not decoded; a path can be 4096 bytes long.
    for mut character in String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_UNIT_LEN)]).chars() {
        if character.is_control() {
            character = char::REPLACEMENT_CHARACTER;
        }
        if label.len() + character.len_utf8() > MAX_UNIT_LEN {
            break;
        }
        label.push(character);
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
