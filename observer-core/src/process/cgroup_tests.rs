use proptest::prelude::*;

use super::*;

#[path = "cgroup_container_tests.rs"]
mod containers;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Of a container within the one above.
const INNER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const POD: &str = "3716cd27-4591-40fc-9dae-3851142b1d51";
/// Of a static pod.
const HASH: &str = "46dac9a538838115821dfd9559149484";

fn unit(text: &str) -> Unit {
    let text = text
        .replace("INNER", INNER)
        .replace("ID", ID)
        .replace("P_OD", &POD.replace('-', "_"))
        .replace("POD", POD)
        .replace("HASH", HASH);
    unit_from_bytes(text.as_bytes())
}

fn name(text: &str) -> String {
    unit(text).name
}

/// Checks the unit of each path in the v2, the v1 and a hybrid layout.
#[track_caller]
fn check(path: &str, expected: &Unit) {
    for text in [
        format!("0::{path}\n"),
        format!("0::{path} (deleted)\n"),
        format!("12:cpu,cpuacct:{path}\n3:pids:{path}\n1:name=systemd:{path}\n"),
        format!("4:memory:{path}\n1:name=systemd:{path}\n0::/\n"),
        format!("0::/../..{path}\n"),
    ] {
        assert_eq!(&unit(&text), expected, "{text}");
    }
    let path = path.replace("INNER", INNER).replace("ID", ID);
    let path = path.replace("P_OD", &POD.replace('-', "_"));
    let path = path.replace("POD", POD).replace("HASH", HASH);
    assert_eq!(&unit_from_path(path.as_bytes()), expected, "{path}");
    assert_eq!(&unit_from_path(&path.as_bytes()[1..]), expected, "{path}");
}

#[track_caller]
fn check_systemd(path: &str, name: &str) {
    check(path, &Unit::systemd(name));
}

#[track_caller]
fn check_container(path: &str, name: &str, kind: UnitKind, container_id: &str) {
    check_pod(path, name, kind, container_id, "");
}

#[track_caller]
fn check_pod(path: &str, name: &str, kind: UnitKind, container_id: &str, pod_uid: &str) {
    let expected = Unit {
        name: name.to_owned(),
        kind,
        container_id: container_id.to_owned(),
        pod_uid: pod_uid.to_owned(),
    };
    check(path, &expected);
}

// As systemd-cgls(1) shows them.
#[test]
fn systemd_units() {
    for (path, expected) in [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/init.scope", "init.scope"),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            "getty@tty1.service",
        ),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            "session-3.scope",
        ),
        ("/user.slice/user-1000.slice", "user-1000.slice"),
        (
            "/system.slice/systemd-fsck@dev-disk-by\\x2duuid-1.service",
            "systemd-fsck@dev-disk-by\\x2duuid-1.service",
        ),
        ("/system.slice/_cgroup.service", "cgroup.service"),
        ("/system.slice/odd:name.service", "odd:name.service"),
        // Delegated cgroups: the service decides.
        ("/system.slice/foo.service/supervised/worker", "foo.service"),
        (
            "/system.slice/systemd-udevd.service/udev",
            "systemd-udevd.service",
        ),
    ] {
        check_systemd(path, expected);
    }
}

// What a user's systemd runs is told from what the host's runs. The layout of a user's units:
// systemd.special(7), https://systemd.io/DESKTOP_ENVIRONMENTS.
#[test]
fn units_of_a_user() {
    let user = "/user.slice/user-1000.slice/user@1000.service";
    for (path, expected) in [
        ("", "user@1000.service"),
        ("/app.slice", "user@1000.service"),
        ("/init.scope", "user@1000.service/init.scope"),
        (
            "/app.slice/nginx.service",
            "user@1000.service/nginx.service",
        ),
        (
            "/app.slice/app-firefox-12.scope",
            "user@1000.service/app-firefox-12.scope",
        ),
        (
            "/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
            "user@1000.service/vte-spawn-1.scope",
        ),
        (
            "/session.slice/foo.service/sub/fake.service",
            "user@1000.service/foo.service",
        ),
    ] {
        check_systemd(&format!("{user}{path}"), expected);
    }
}

// A user makes directories of any name below user@UID.service, a service with Delegate=yes
// below its own.
#[test]
fn names_below_a_delegated_cgroup_are_no_names_of_the_host() {
    let user = "/user.slice/user-1000.slice/user@1000.service";
    for (path, expected) in [
        ("/docker-ID.scope", "user@1000.service/docker:0123456789ab"),
        ("/docker/ID", "user@1000.service/docker:0123456789ab"),
        (
            "/system.slice/nginx.service",
            "user@1000.service/nginx.service",
        ),
        ("/lxc/web", "user@1000.service/lxc:web"),
        (
            "/user@0.service/docker-ID.scope",
            "user@1000.service/user@0.service",
        ),
        (
            "/kubepods.slice/kubepods-podP_OD.slice/cri-containerd-ID.scope",
            "user@1000.service/containerd:0123456789ab",
        ),
    ] {
        check_systemd(&format!("{user}{path}"), expected);
    }
    for path in [
        "/docker-ID.scope",
        "/nginx.service",
        "/lxc/web",
        "/user@0.service",
    ] {
        check_systemd(&format!("/system.slice/ci.service{path}"), "ci.service");
        let session = format!("/user.slice/user-1000.slice/session-3.scope{path}");
        check_systemd(&session, "session-3.scope");
    }
}

// pam_cgfs(8) of lxcfs gives /user/NAME/0 of each v1 hierarchy to its user.
#[test]
fn cgroups_of_pam_cgfs_are_the_users() {
    assert_eq!(
        unit("4:memory:/user/alice/0/docker-ID.scope\n0::/\n"),
        Unit::default()
    );
    assert_eq!(
        unit(
            "4:memory:/user/alice/0/lxc/web\n1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n"
        ),
        Unit::systemd("session-3.scope")
    );
}

// systemd puts its units below slices alone, so this is one in a container of an unknown kind.
#[test]
fn units_below_other_directories_are_paths() {
    for path in [
        "/garden/c1/system.slice/nginx.service",
        "/batch/nginx.service",
        "/c1/user.slice/user-1000.slice/user@1000.service/docker-ID.scope",
    ] {
        let found = unit(&format!("0::{path}\n"));
        assert_eq!(found.kind, UnitKind::None, "{path}");
        assert!(found.name.starts_with(&path[..8]), "{path}");
    }
}

#[test]
fn near_misses_are_units() {
    for (path, expected) in [
        ("/system.slice/docker-0123.scope", "docker-0123.scope"),
        (
            "/kubepods.slice/kubepods-burstable.slice",
            "kubepods-burstable.slice",
        ),
        ("/system.slice/lxc.service", "lxc.service"),
        (
            "/system.slice/systemd-nspawn@.service/payload",
            "systemd-nspawn@.service",
        ),
    ] {
        check_systemd(path, expected);
    }
}

#[test]
fn hierarchies_are_weighed() {
    // A hybrid host: docker with the cgroupfs driver leaves the v2 path alone.
    let docker = "2:cpu:/docker/ID\n1:name=systemd:/docker/ID\n0::/system.slice/docker.service\n";
    assert_eq!(name(docker), "docker:0123456789ab");
    let hybrid = "5:memory:/a.slice\n1:name=systemd:/a.slice/a.service\n0::/\n";
    assert_eq!(name(hybrid), "a.service");
    assert_eq!(
        name("1:name=systemd:/old.service\n0::/new.service\n"),
        "new.service"
    );
    assert_eq!(
        name("0::/new.service\n1:name=systemd:/old.service\n"),
        "new.service"
    );
    // A user's unit on v1: the controllers are not delegated.
    assert_eq!(
        name(
            "5:pids:/user.slice/user-1000.slice/user@1000.service\n4:memory:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n"
        ),
        "user@1000.service/web.service"
    );
    // OpenRC, v1 and v2; and a controller that somebody uses by hand.
    for (text, expected) in [
        ("2:cpu:/\n1:name=openrc:/sshd\n", "/sshd"),
        ("0::/openrc.sshd\n", "/openrc.sshd"),
        ("4:memory:/batch/159e4ca00fd264f3\n0::/\n", ""),
    ] {
        let expected = Unit {
            name: expected.to_owned(),
            ..Unit::default()
        };
        assert_eq!(unit(text), expected, "{text}");
    }
}

#[test]
fn nothing_known() {
    for text in [
        "",
        "\n",
        "0",
        "0:",
        "no colons here",
        "0::\n",
        "0::///\n",
        "0::/\n",
    ] {
        assert_eq!(unit(text), Unit::default(), "{text:?}");
    }
    assert_eq!(unit("0::/../..\n"), Unit::default());
    assert_eq!(name("0::/.service\n"), "/.service");
}

#[test]
fn labels_are_bounded_and_printable() {
    let long = format!("0::/{}.service\n", "é".repeat(100));
    let label = unit_from_bytes(long.as_bytes()).name;
    assert_eq!(label, "é".repeat(64));
    assert_eq!(
        unit_from_bytes(b"0::/a\x1b[31m\x7f\xff.service\n").name,
        "a\u{fffd}[31m\u{fffd}\u{fffd}.service"
    );
    let lxc = format!("0::/lxc.payload.\x1b{}\n", "x".repeat(200));
    let lxc = unit_from_bytes(lxc.as_bytes());
    assert_eq!(lxc.name.len(), MAX_UNIT_LEN);
    assert_eq!(lxc.container_id.len(), MAX_UNIT_LEN);
    assert!(lxc.container_id.starts_with("\u{fffd}x"));
    let nested = format!("0::/docker/{}\n", format!("{ID}/").repeat(20));
    assert_eq!(unit_from_bytes(nested.as_bytes()).name.len(), MAX_UNIT_LEN);
}

fn check_text(unit: &Unit) -> Result<(), TestCaseError> {
    for text in [&unit.name, &unit.container_id, &unit.pod_uid] {
        prop_assert!(text.len() <= MAX_UNIT_LEN);
        prop_assert!(!text.chars().any(char::is_control));
    }
    prop_assert!(matches!(unit.pod_uid.len(), 0 | 32 | 36));
    let contained = !matches!(unit.kind, UnitKind::None | UnitKind::Systemd);
    prop_assert_eq!(!unit.container_id.is_empty(), contained);
    Ok(())
}

fn components() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(
        prop_oneof![
            Just(b"/".to_vec()),
            Just(b"\n".to_vec()),
            Just(b":".to_vec()),
            Just(b"0::/".to_vec()),
            Just(b"docker-".to_vec()),
            Just(b"lxc/".to_vec()),
            Just(b"lxc.payload.".to_vec()),
            Just(b"/user@1.service/".to_vec()),
            Just(b"/machine-a.scope/payload/".to_vec()),
            Just(b"kubepods-pod".to_vec()),
            Just(HASH.as_bytes().to_vec()),
            Just(b".scope".to_vec()),
            Just(b".service".to_vec()),
            Just(b".slice".to_vec()),
            Just(b"cri-containerd:".to_vec()),
            Just(ID.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..80),
        ],
        0..24,
    )
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        check_text(&unit_from_bytes(&bytes))?;
        check_text(&unit_from_path(&bytes))?;
    }

    #[test]
    fn arbitrary_components(parts in components()) {
        check_text(&unit_from_bytes(&parts.concat()))?;
    }

    /// Whatever is made below a delegated cgroup, the part before the slash stays.
    #[test]
    fn nothing_below_a_delegated_cgroup_changes_its_name(parts in components()) {
        let below = parts.concat();
        for (parent, first) in [
            ("/user.slice/user-1000.slice/user@1000.service/", "user@1000.service"),
            ("/system.slice/ci.service/", "ci.service"),
            ("/system.slice/docker-ID.scope/", "docker:0123456789ab"),
            ("/lxc/web/", "lxc:web"),
        ] {
            let mut path = parent.replace("ID", ID).into_bytes();
            let alone = unit_from_path(&path);
            path.extend(&below);
            let unit = unit_from_path(&path);
            prop_assert_eq!(unit.name.split('/').next(), Some(first));
            prop_assert_eq!(
                (unit.kind, unit.container_id, unit.pod_uid),
                (alone.kind, alone.container_id, alone.pod_uid)
            );
        }
    }
}
