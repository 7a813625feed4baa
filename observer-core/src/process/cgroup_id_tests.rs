use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;

use super::*;
use crate::process::UnitKind;

const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
";

#[test]
fn finds_the_mount() {
    let find = |text: &[u8]| cgroup2_mount(text);
    assert_eq!(find(HYBRID), Some("/sys/fs/cgroup/unified".into()));
    assert_eq!(
        find(b"1 2 0:3 / /odd\\040path\\134 rw - cgroup2 none rw"),
        Some("/odd path\\".into())
    );
    assert_eq!(
        find(b"1 2 0:3 /a /part rw - cgroup2 x rw\n1 2 0:3 / /whole rw - cgroup2 x rw\n"),
        Some("/whole".into())
    );
    assert_eq!(
        find(b"1 2 0:3 /a /part rw - cgroup2 x rw\n"),
        Some("/part".into())
    );
    assert_eq!(find(b"1 2 0:3 / /cgroup2 rw - ext4 cgroup2 rw\n"), None);
    assert_eq!(find(b""), None);
    assert_eq!(find(b"1 2 0:3 / /x rw cgroup2\n"), None);
}

fn ino(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn make(root: &Path, path: &str) -> u64 {
    let path = root.join(path);
    fs::create_dir_all(&path).unwrap();
    ino(&path)
}

fn name(unit: Option<&Unit>) -> Option<&str> {
    unit.map(|unit| &*unit.name)
}

fn limits(directories: usize) -> WalkLimits {
    WalkLimits {
        directories,
        interval: Duration::from_secs(5),
    }
}

#[test]
fn resolves_and_remembers() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let nginx = make(root, "system.slice/nginx.service");
    let mut resolver = CgroupResolver::new(root.to_owned(), limits(100));
    let start = Instant::now();
    assert_eq!(name(resolver.resolve(nginx, start)), Some("nginx.service"));
    assert_eq!(name(resolver.resolve(ino(root), start)), Some(""));
    assert_eq!(
        name(resolver.resolve(ino(&root.join("system.slice")), start)),
        Some("system.slice")
    );
    assert_eq!(resolver.resolve(0, start), None);

    fs::remove_dir(root.join("system.slice/nginx.service")).unwrap();
    resolver.walk(start);
    assert_eq!(name(resolver.resolve(nginx, start)), Some("nginx.service"));
}

#[test]
fn a_container_is_found_with_its_pod() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let id = "0123456789abcdef".repeat(4);
    let pod = "kubepods-burstable-pod3716cd27_4591_40fc_9dae_3851142b1d51.slice";
    let cgroup = make(
        root,
        &format!("kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{id}.scope"),
    );
    let mut resolver = CgroupResolver::new(root.to_owned(), limits(100));
    let expected = Unit {
        name: "containerd:0123456789ab".to_owned(),
        kind: UnitKind::Containerd,
        container_id: id,
        pod_uid: "3716cd27-4591-40fc-9dae-3851142b1d51".to_owned(),
    };
    let found = resolver.resolve(cgroup, Instant::now());
    assert_eq!(found, Some(&expected));
}

#[test]
fn walks_are_rare_and_misses_are_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut resolver = CgroupResolver::new(root.to_owned(), limits(100));
    let start = Instant::now();
    assert_eq!(resolver.resolve(u64::MAX, start), None);
    assert_eq!(resolver.walks, 1);

    let late = make(root, "late.service");
    assert_eq!(resolver.resolve(late, start + Duration::from_secs(4)), None);
    assert_eq!(resolver.walks, 1);
    assert_eq!(
        name(resolver.resolve(late, start + Duration::from_secs(5))),
        Some("late.service")
    );
    assert_eq!(resolver.walks, 2);
    assert_eq!(
        resolver.resolve(u64::MAX, start + Duration::from_secs(60)),
        None
    );
    assert_eq!(resolver.walks, 2);
}

#[test]
fn a_walk_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    for i in 0..20 {
        make(directory.path(), &format!("{i}.slice/{i}.service"));
    }
    let mut resolver = CgroupResolver::new(directory.path().to_owned(), limits(8));
    resolver.walk(Instant::now());
    assert_eq!(resolver.len(), 9, "eight directories and the root");
    assert!(resolver.truncated());
}

#[test]
fn the_cache_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut resolver = CgroupResolver::new(directory.path().to_owned(), limits(4));
    for i in 0..40 {
        make(directory.path(), &format!("{i}.service"));
        resolver.walk(Instant::now());
        fs::remove_dir(directory.path().join(format!("{i}.service"))).unwrap();
        assert!(resolver.len() <= 8);
    }
}

#[test]
fn a_missing_mount_resolves_nothing() {
    let mut resolver = CgroupResolver::new("/nonexistent".into(), WalkLimits::default());
    assert_eq!(resolver.resolve(1, Instant::now()), None);
    assert!(resolver.is_empty());
}

proptest! {
    #[test]
    fn arbitrary_mountinfo_never_panics(bytes: Vec<u8>) {
        let _ = cgroup2_mount(&bytes);
    }

    #[test]
    fn arbitrary_lines_never_panic(
        fields in prop::collection::vec(
            prop_oneof![
                Just("-".to_owned()),
                Just("cgroup2".to_owned()),
                Just("\n".to_owned()),
                Just("\\0".to_owned()),
                "[/\\\\0-9a-z]{0,8}",
            ],
            0..32,
        )
    ) {
        let _ = cgroup2_mount(fields.join(" ").as_bytes());
    }
}
