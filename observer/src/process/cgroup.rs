//! From a cgroup path to a label for people: the systemd unit, or the container.

use std::borrow::Cow;

/// The longest label, in bytes.
pub const MAX_UNIT_LEN: usize = 128;

/// Digits of a container id that are shown, as in `docker ps`.
const SHORT_ID: usize = 12;

/// Name prefixes of cgroups made for one container, with the label of the engine. The
/// rest of the name is the id, so that `crio-conmon-<id>.scope`, the monitor of a
/// container, is none.
const ENGINES: [(&[u8], &str); 6] = [
    (b"docker-", "docker"),
    (b"cri-containerd-", "containerd"),
    (b"nerdctl-", "containerd"),
    (b"crio-", "crio"),
    (b"libpod-", "podman"),
    (b"lxc.payload.", "lxc"),
];

/// What a path says, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found<'a> {
    Root,
    Path(&'a [u8]),
    Slice(&'a [u8]),
    Unit(&'a [u8]),
    Container(&'static str, &'a [u8]),
}

impl Found<'_> {
    const fn rank(&self) -> u8 {
        match self {
            Self::Root => 0,
            Self::Path(_) => 1,
            Self::Slice(_) => 2,
            Self::Unit(_) => 3,
            Self::Container(..) => 4,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Path(bytes) | Self::Slice(bytes) | Self::Unit(bytes) => sanitise("", bytes),
            Self::Container(engine, id) => sanitise(engine, id),
        }
    }
}

/// The label of a process, from the text of its /proc/PID/cgroup (cgroups(7)), be the
/// hierarchies v1, v2 or both. In the order of preference:
///
/// 1. `docker:0123456789ab`, with `containerd`, `crio`, `podman`, `kubepods` (an id whose
///    engine the path does not tell) or `container`, and `lxc:NAME`: the innermost
///    container in any hierarchy. Units of a systemd inside it are not looked at;
/// 2. the innermost `*.service` or `*.scope`, as systemctl(1) spells it, which means that
///    escapes such as `\x2d` are kept;
/// 3. the innermost `*.slice`;
/// 4. the path itself, in the v2 or a named hierarchy, on hosts without systemd;
/// 5. An empty string for the root cgroup, and when there is no line to read.
///
/// Of several hierarchies on one level v2 wins, then a named one (`name=systemd`). The
/// result has at most [`MAX_UNIT_LEN`] bytes and no control characters.
#[must_use]
pub fn unit_from_bytes(bytes: &[u8]) -> String {
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
        .map(|(_, _, found)| found.label())
        .unwrap_or_default()
}

/// The label of one cgroup, from its path below the hierarchy's mount point. See
/// [`unit_from_bytes`].
#[must_use]
pub fn unit_from_path(path: &[u8]) -> String {
    find(path).label()
}

fn find(path: &[u8]) -> Found<'_> {
    // Appended by the kernel for a zombie whose cgroup was removed (`cgroup_path_ns` in
    // `proc_cgroup_show`).
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let names: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .collect();

    for (depth, name) in names.iter().enumerate().rev() {
        if let Some(container) = container(name, &names[..depth]) {
            return container;
        }
    }
    let innermost = |suffixes: &[&[u8]]| {
        names
            .iter()
            .rev()
            .copied()
            .find(|name| suffixes.iter().any(|s| is_unit(name, s)))
    };
    if let Some(name) = innermost(&[b".service", b".scope"]) {
        Found::Unit(unescape(name))
    } else if let Some(name) = innermost(&[b".slice"]) {
        Found::Slice(unescape(name))
    } else if names.is_empty() {
        Found::Root
    } else {
        Found::Path(path)
    }
}

fn is_unit(name: &[u8], suffix: &[u8]) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}

/// systemd puts an underscore before a name that could be taken for a file of the cgroup
/// file system (`cg_escape`).
fn unescape(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"_").unwrap_or(name)
}

/// The container whose cgroup is `name`, below `parents`.
fn container<'a>(name: &'a [u8], parents: &[&[u8]]) -> Option<Found<'a>> {
    let name = name.strip_suffix(b".scope").unwrap_or(name);
    if is_id(name) {
        return Some(Found::Container(
            engine_of_parents(parents),
            &name[..SHORT_ID],
        ));
    }
    for (prefix, engine) in ENGINES {
        match name.strip_prefix(prefix) {
            Some(rest) if is_id(rest) => return Some(Found::Container(engine, &rest[..SHORT_ID])),
            Some(rest) if engine == "lxc" && !rest.is_empty() => {
                return Some(Found::Container(engine, rest));
            }
            _ => {}
        }
    }
    // `<slice>:cri-containerd:<id>`: containerd without SystemdCgroup, below a kubelet
    // that uses systemd's names.
    let mut parts = name.rsplit(|&byte| byte == b':');
    let (id, engine) = (parts.next()?, parts.next()?);
    if !is_id(id) {
        return None;
    }
    ENGINES
        .into_iter()
        .find(|(prefix, _)| prefix.strip_suffix(b"-") == Some(engine))
        .map(|(_, engine)| Found::Container(engine, &id[..SHORT_ID]))
}

/// The engine of a cgroup whose whole name is an id: cgroupfs drivers.
fn engine_of_parents(parents: &[&[u8]]) -> &'static str {
    for parent in parents.iter().rev() {
        match *parent {
            b"docker" | b"ecs" => return "docker",
            b"k8s.io" | b"moby" => return "containerd",
            b"libpod_parent" => return "podman",
            name if name.starts_with(b"kubepods") => return "kubepods",
            _ => {}
        }
    }
    "container"
}

/// Container engines use 64 lower-case hexadecimal digits.
fn is_id(name: &[u8]) -> bool {
    name.len() == 64
        && name
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn sanitise(engine: &str, name: &[u8]) -> String {
    let mut label = String::from(engine);
    if !engine.is_empty() {
        label.push(':');
    }
    // What does not fit is not decoded either; a path can be 4096 bytes long.
    let name: Cow<'_, str> = String::from_utf8_lossy(&name[..name.len().min(MAX_UNIT_LEN)]);
    for mut character in name.chars() {
        if character.is_control() {
            character = char::REPLACEMENT_CHARACTER;
        }
        if label.len() + character.len_utf8() > MAX_UNIT_LEN {
            break;
        }
        label.push(character);
    }
    label
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
