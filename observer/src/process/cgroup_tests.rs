use proptest::prelude::*;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn unit(text: &str) -> String {
    unit_from_bytes(text.replace("ID", ID).as_bytes())
}

#[test]
fn systemd_units() {
    for (text, expected) in [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/init.scope\n", "init.scope"),
        (
            "0::/system.slice/system-getty.slice/getty@tty1.service\n",
            "getty@tty1.service",
        ),
        (
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "session-3.scope",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/init.scope\n",
            "init.scope",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-12.scope\n",
            "app-firefox-12.scope",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice\n",
            "user@1000.service",
        ),
        ("0::/user.slice/user-1000.slice\n", "user-1000.slice"),
        (
            "0::/system.slice/foo.service/supervised/worker\n",
            "foo.service",
        ),
        (
            "0::/system.slice/systemd-fsck@dev-disk-by\\x2duuid-1.service\n",
            "systemd-fsck@dev-disk-by\\x2duuid-1.service",
        ),
        ("0::/system.slice/_cgroup.service\n", "cgroup.service"),
        ("0::/system.slice/odd:name.service\n", "odd:name.service"),
        ("0::/system.slice/gone.service (deleted)\n", "gone.service"),
        ("0::/../../nginx.service\n", "nginx.service"),
        (
            "0::/machine.slice/systemd-nspawn@web.service/payload\n",
            "systemd-nspawn@web.service",
        ),
        ("0::/.service\n", "/.service"),
    ] {
        assert_eq!(unit(text), expected, "{text}");
    }
}

#[test]
fn containers() {
    for (text, expected) in [
        ("0::/system.slice/docker-ID.scope\n", "docker:0123456789ab"),
        ("0::/docker/ID\n", "docker:0123456789ab"),
        (
            "12:memory:/docker/ID\n1:name=systemd:/docker/ID\n",
            "docker:0123456789ab",
        ),
        ("4:memory:/ecs/0f1e2d3c/ID\n", "docker:0123456789ab"),
        (
            "0::/docker/ID/system.slice/nginx.service\n",
            "docker:0123456789ab",
        ),
        (
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ID.scope\n",
            "containerd:0123456789ab",
        ),
        (
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-ID.scope/container\n",
            "crio:0123456789ab",
        ),
        (
            "0::/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:ID\n",
            "containerd:0123456789ab",
        ),
        (
            "11:cpuset:/kubepods/burstable/pod6d4b/ID\n0::/\n",
            "kubepods:0123456789ab",
        ),
        (
            "0::/kubepods.slice/kubepods-pod1.slice/docker-ID.scope\n",
            "docker:0123456789ab",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container\n",
            "podman:0123456789ab",
        ),
        ("0::/libpod_parent/libpod-ID\n", "podman:0123456789ab"),
        ("0::/k8s.io/ID\n", "containerd:0123456789ab"),
        ("0::/actions_job/ID\n", "container:0123456789ab"),
        (
            "0::/lxc.payload.web-1/system.slice/nginx.service\n",
            "lxc:web-1",
        ),
    ] {
        assert_eq!(unit(text), expected, "{text}");
    }
}

#[test]
fn monitors_and_near_misses_are_units() {
    for (text, expected) in [
        ("0::/system.slice/docker-0123.scope\n", "docker-0123.scope"),
        ("0::/system.slice/docker.service\n", "docker.service"),
        (
            "0::/kubepods.slice/kubepods-burstable.slice\n",
            "kubepods-burstable.slice",
        ),
    ] {
        assert_eq!(unit(text), expected, "{text}");
    }
    assert!(unit("0::/machine.slice/crio-conmon-ID.scope\n").starts_with("crio-conmon-0123"));
    assert!(unit("0::/machine.slice/libpod-conmon-ID.scope\n").starts_with("libpod-conmon-0123"));
}

#[test]
fn hierarchies_are_weighed() {
    // A hybrid host: docker with the cgroupfs driver leaves the v2 path alone.
    let docker = "2:cpu:/docker/ID\n1:name=systemd:/docker/ID\n0::/system.slice/docker.service\n";
    assert_eq!(unit(docker), "docker:0123456789ab");
    let hybrid = "5:memory:/a.slice\n1:name=systemd:/a.slice/a.service\n0::/\n";
    assert_eq!(unit(hybrid), "a.service");
    assert_eq!(
        unit("1:name=systemd:/old.service\n0::/new.service\n"),
        "new.service"
    );
    assert_eq!(
        unit("0::/new.service\n1:name=systemd:/old.service\n"),
        "new.service"
    );
    // OpenRC, v1 and v2; and a controller that somebody uses by hand.
    assert_eq!(unit("2:cpu:/\n1:name=openrc:/sshd\n"), "/sshd");
    assert_eq!(unit("0::/openrc.sshd\n"), "/openrc.sshd");
    assert_eq!(unit("4:memory:/batch/159e4ca00fd264f3\n0::/\n"), "");
}

#[test]
fn nothing_known() {
    for text in ["", "\n", "0", "0:", "no colons here"] {
        assert_eq!(unit(text), "", "{text:?}");
    }
    assert_eq!(unit("0::\n"), "");
    assert_eq!(unit("0::///\n"), "");
}

#[test]
fn labels_are_bounded_and_printable() {
    let long = format!("0::/{}.service\n", "é".repeat(100));
    let label = unit_from_bytes(long.as_bytes());
    assert_eq!(label, "é".repeat(64));
    assert_eq!(
        unit_from_bytes(b"0::/a\x1b[31m\x7f\xff.service\n"),
        "a\u{fffd}[31m\u{fffd}\u{fffd}.service"
    );
    let lxc = format!("0::/lxc.payload.{}\n", "x".repeat(200));
    assert_eq!(unit_from_bytes(lxc.as_bytes()).len(), MAX_UNIT_LEN);
}

fn check(label: &str) -> Result<(), TestCaseError> {
    prop_assert!(label.len() <= MAX_UNIT_LEN);
    prop_assert!(!label.chars().any(char::is_control));
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        check(&unit_from_bytes(&bytes))?;
        check(&unit_from_path(&bytes))?;
    }

    #[test]
    fn arbitrary_components(
        parts in prop::collection::vec(
            prop_oneof![
                Just(b"/".to_vec()),
                Just(b"\n".to_vec()),
                Just(b":".to_vec()),
                Just(b"0::/".to_vec()),
                Just(b"docker-".to_vec()),
                Just(b"lxc.payload.".to_vec()),
                Just(b".scope".to_vec()),
                Just(b".service".to_vec()),
                Just(b".slice".to_vec()),
                Just(b"cri-containerd:".to_vec()),
                Just(ID.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..80),
            ],
            0..24,
        )
    ) {
        check(&unit_from_bytes(&parts.concat()))?;
    }
}
