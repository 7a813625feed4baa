//! Paths of containers, each with who spells it so.

use super::*;

#[test]
fn docker() {
    for path in [
        // The systemd driver, native.cgroupdriver=systemd of dockerd(8).
        "/system.slice/docker-ID.scope",
        "/foo.slice/docker-ID.scope",
        // The cgroupfs driver; below dockerd's own cgroup with a relative --cgroup-parent.
        "/docker/ID",
        "/system.slice/docker.service/docker/ID",
        // With an init inside.
        "/system.slice/docker-ID.scope/system.slice/nginx.service",
        "/docker/ID/system.slice/nginx.service",
        "/docker/ID/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
        // ECS on cgroup v1.
        "/ecs/0f1e2d3c/ID",
    ] {
        check_container(path, "docker:0123456789ab", UnitKind::Docker, ID);
    }
    // dockershim and cri-dockerd.
    check_pod(
        "/kubepods.slice/kubepods-podP_OD.slice/docker-ID.scope",
        "docker:0123456789ab",
        UnitKind::Docker,
        ID,
        POD,
    );
    check_systemd("/system.slice/docker.service", "docker.service");
}

// Docker in docker, and kind, whose node is a container of docker or podman:
// its kubelet has --cgroup-root=/kubelet, and either driver.
// What is inside could have been named by anybody who is root there.
#[test]
fn containers_in_containers() {
    let kind = UnitKind::Docker;
    for (path, expected) in [
        (
            "/docker/ID/docker/INNER",
            "docker:0123456789ab/docker:fedcba987654",
        ),
        (
            "/docker/ID/kubelet/kubepods/besteffort/podPOD/INNER",
            "docker:0123456789ab/kubepods:fedcba987654",
        ),
        (
            "/system.slice/docker-ID.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podP_OD.slice/cri-containerd-INNER.scope",
            "docker:0123456789ab/containerd:fedcba987654",
        ),
        (
            "/docker/ID/system.slice/docker-INNER.scope/system.slice/nginx.service",
            "docker:0123456789ab/docker:fedcba987654",
        ),
    ] {
        check_container(path, expected, kind, ID);
    }
    // A kind node on rootless podman.
    check_systemd(
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container/kubelet.slice/cri-containerd-INNER.scope",
        "user@1000.service/podman:0123456789ab/containerd:fedcba987654",
    );
    // Docker in LXC.
    check_container(
        "/lxc.payload.web/system.slice/docker-ID.scope",
        "lxc:web/docker:0123456789ab",
        UnitKind::Lxc,
        "web",
    );
}

#[test]
fn containerd() {
    let (label, kind) = ("containerd:0123456789ab", UnitKind::Containerd);
    for path in [
        // The systemd driver: getCgroupsPath of containerd's internal/cri, expanded by runc.
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podP_OD.slice/cri-containerd-ID.scope",
        "/kubepods.slice/kubepods-podP_OD.slice/cri-containerd-ID.scope",
        // --cgroup-root=/kubelet, as kind has it.
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podP_OD.slice/cri-containerd-ID.scope",
        // A kubelet with the systemd driver and a containerd without: runc takes the path as
        // relative to its own cgroup, and on v1 in the controllers from the root.
        "/system.slice/containerd.service/kubepods-burstable-podP_OD.slice:cri-containerd:ID",
        "/kubepods-besteffort-podP_OD.slice:cri-containerd:ID",
        "/system.slice/k3s.service/kubepods-besteffort-podP_OD.slice:cri-containerd:ID",
        // An init inside.
        "/kubepods.slice/kubepods-podP_OD.slice/cri-containerd-ID.scope/system.slice/nginx.service",
    ] {
        check_pod(path, label, kind, ID, POD);
    }
    // nerdctl(1), and ctr(1).
    check_container("/system.slice/nerdctl-ID.scope", label, kind, ID);
    check_container("/k8s.io/ID", label, kind, ID);
    check_systemd("/system.slice/containerd.service", "containerd.service");
}

// The kubelet's cgroupfs driver: GetPodCgroupNameSuffix of pkg/kubelet/cm.
#[test]
fn pods_whose_engine_the_path_does_not_tell() {
    let (label, kind) = ("kubepods:0123456789ab", UnitKind::Container);
    for path in [
        "/kubepods/burstable/podPOD/ID",
        "/kubepods/podPOD/ID",
        "/kubelet/kubepods/besteffort/podPOD/ID",
        "/kubepods/podPOD/ID/system.slice/nginx.service",
    ] {
        check_pod(path, label, kind, ID, POD);
    }
    // Of static pods there is a hash instead of the uid.
    check_pod(
        "/kubelet/kubepods/burstable/podHASH/ID",
        label,
        kind,
        ID,
        HASH,
    );
    check_pod(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podHASH.slice/cri-containerd-ID.scope",
        "containerd:0123456789ab",
        UnitKind::Containerd,
        ID,
        HASH,
    );
    let upper = format!("0::/kubepods/pod{}/ID\n", POD.to_uppercase());
    assert_eq!(unit(&upper).pod_uid, POD);
    for near_miss in [
        "pod1_2",
        "pod",
        &format!("pod{POD}0"),
        &format!("pod{HASH}-"),
    ] {
        assert_eq!(unit(&format!("0::/kubepods/{near_miss}/ID\n")).pod_uid, "");
    }
    // As an observer in a pod sees those beside it: a cgroup namespace is the default on v2.
    for text in [
        "0::/../../podPOD/ID\n",
        "0::/../../../burstable/podPOD/ID\n",
    ] {
        let seen = unit(text);
        assert_eq!((&*seen.name, &*seen.pod_uid), (label, POD), "{text}");
    }
    // No pod without a kubelet.
    check_container("/batch/podPOD/ID", "container:0123456789ab", kind, ID);
    check_container("/actions_job/ID", "container:0123456789ab", kind, ID);
}

// internal/config/cgmgr of CRI-O: `crio-<id>.scope`, with crun's child `container`;
// `crio-<id>` of the cgroupfs manager and of a sandbox (`createSandboxCgroup`).
#[test]
fn cri_o() {
    let (label, kind) = ("crio:0123456789ab", UnitKind::Crio);
    for path in [
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podP_OD.slice/crio-ID.scope",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podP_OD.slice/crio-ID.scope/container",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podP_OD.slice/crio-ID",
        "/kubepods/besteffort/podPOD/crio-ID",
        "/kubepods-besteffort-podP_OD.slice:crio:ID",
    ] {
        check_pod(path, label, kind, ID, POD);
    }
    check_container("/crio/crio-ID", label, kind, ID);
    // The monitor of a container is none.
    let pod = "/kubepods.slice/kubepods-podP_OD.slice";
    for text in [
        format!("0::{pod}/crio-conmon-ID.scope\n"),
        "0::/system.slice/crio-conmon-ID.scope\n".to_owned(),
    ] {
        assert_eq!(
            unit(&text),
            Unit::systemd(&format!("crio-conmon-{ID}.scope"))
        );
    }
    let cgroupfs = unit("0::/kubepods/besteffort/podPOD/crio-conmon-ID\n");
    assert_eq!(cgroupfs.kind, UnitKind::None);
    assert!(
        cgroupfs
            .name
            .starts_with("/kubepods/besteffort/pod3716cd27")
    );
}

#[test]
fn podman() {
    let (label, kind) = ("podman:0123456789ab", UnitKind::Podman);
    for path in [
        // libpod/oci_conmon_linux.go, with crun's child `container`.
        "/machine.slice/libpod-ID.scope",
        "/machine.slice/libpod-ID.scope/container",
        "/machine.slice/libpod-ID.scope/container/system.slice/nginx.service",
        "/machine.slice/machine-libpod_pod_INNER.slice/libpod-ID.scope/container",
        // --cgroup-manager=cgroupfs.
        "/libpod_parent/libpod-ID",
    ] {
        check_container(path, label, kind, ID);
    }
    let user = "/user.slice/user-1000.slice/user@1000.service";
    for (path, expected) in [
        // Rootless.
        (
            format!("{user}/user.slice/libpod-ID.scope/container"),
            "user@1000.service/podman:0123456789ab",
        ),
        (
            format!("{user}/user.slice/user-libpod_pod_INNER.slice/libpod-ID.scope/container"),
            "user@1000.service/podman:0123456789ab",
        ),
        // --cgroups=split, as of Quadlet, podman-systemd.unit(5): the service decides, whose
        // name stays when the container is replaced.
        (
            "/system.slice/web.service/libpod-payload-ID".to_owned(),
            "web.service",
        ),
        (
            "/system.slice/web.service/libpod-payload-ID/system.slice/nginx.service".to_owned(),
            "web.service",
        ),
        (
            "/system.slice/web.service/runtime".to_owned(),
            "web.service",
        ),
        (
            format!("{user}/app.slice/web.service/libpod-payload-ID"),
            "user@1000.service/web.service",
        ),
        (
            format!("{user}/app.slice/run-r1.scope/libpod-payload-ID"),
            "user@1000.service/podman:0123456789ab",
        ),
    ] {
        check_systemd(&path, expected);
    }
    let monitor = unit("0::/machine.slice/libpod-conmon-ID.scope\n");
    assert_eq!(monitor, Unit::systemd(&format!("libpod-conmon-{ID}.scope")));
}

#[test]
fn lxc() {
    for (path, expected) in [
        // DEFAULT_PAYLOAD_CGROUP_PREFIX of liblxc 4.0 and later; LXD and Incus, too.
        ("/lxc.payload.web-1", "web-1"),
        ("/lxc.payload.web-1/system.slice/nginx.service", "web-1"),
        ("/lxc.payload.web-1/init.scope", "web-1"),
        ("/lxc.payload.a.scope/nginx.service", "a.scope"),
        // Up to 3.0; github.com/draios/sysdig/pull/801.
        ("/lxc/web-1", "web-1"),
        ("/lxc/web-1/system.slice/snapd.service", "web-1"),
        // 3.1 and 3.2.
        ("/lxc.payload/web-1/system.slice/nginx.service", "web-1"),
        // Proxmox: `lxc.cgroup.dir.container = lxc/$vmid` with `.inner = ns`, in
        // update_lxc_config of pve-container's LXC.pm.
        ("/lxc/101/ns/system.slice/nginx.service", "101"),
        ("/lxc/101/ns/init.scope", "101"),
        ("/lxc/101", "101"),
        // vpsAdminOS.
        (
            "/osctl/pool.tank/group.default/user.alice/ct.1/user-owned/lxc.payload.ct1/system.slice/nginx.service",
            "ct1",
        ),
    ] {
        check_container(path, &format!("lxc:{expected}"), UnitKind::Lxc, expected);
    }
    // DEFAULT_MONITOR_CGROUP_PREFIX, LXC 3.1 and Proxmox: the monitor is of the host.
    for path in [
        "/lxc.monitor.web",
        "/lxc.monitor/101",
        "/lxc",
        "/lxc.payload.",
    ] {
        let expected = Unit {
            name: path.to_owned(),
            ..Unit::default()
        };
        assert_eq!(unit(&format!("0::{path}\n")), expected);
    }
}

// create_subcgroup of systemd's src/nspawn/nspawn-cgroup.c, below the template service or
// the scope of machine_start_scope in src/machine/machine.c.
#[test]
fn nspawn() {
    for (path, expected) in [
        ("/machine.slice/systemd-nspawn@web.service/payload", "web"),
        (
            "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
            "web",
        ),
        (
            "/machine.slice/systemd-nspawn@web-1.service/payload/init.scope",
            "web-1",
        ),
        (
            "/machine.slice/machine-web.scope/payload/system.slice/nginx.service",
            "web",
        ),
        (
            "/machine.slice/machine-my\\x2dweb\\x2d1.scope/payload",
            "my-web-1",
        ),
    ] {
        check_container(
            path,
            &format!("nspawn:{expected}"),
            UnitKind::Nspawn,
            expected,
        );
    }
    for (path, expected) in [
        (
            "/machine.slice/systemd-nspawn@web.service/supervisor",
            "systemd-nspawn@web.service",
        ),
        (
            "/machine.slice/machine-web.scope/supervisor",
            "machine-web.scope",
        ),
        // Virtual machines and containers of libvirt.
        (
            "/machine.slice/machine-qemu\\x2d1\\x2ddb.scope/libvirt/emulator",
            "machine-qemu\\x2d1\\x2ddb.scope",
        ),
        (
            "/machine.slice/machine-lxc\\x2d7\\x2dweb.scope/system.slice/nginx.service",
            "machine-lxc\\x2d7\\x2dweb.scope",
        ),
    ] {
        check_systemd(path, expected);
    }
    check_systemd(
        "/user.slice/user-1000.slice/user@1000.service/machine.slice/machine-web.scope/payload/system.slice/nginx.service",
        "user@1000.service/nspawn:web",
    );
}
