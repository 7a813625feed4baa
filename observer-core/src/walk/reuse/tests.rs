use std::net::SocketAddr;

use observer_common::ESTABLISHED;
use proptest::prelude::*;

use super::*;

const FLAGS: [u16; 3] = [PORT_TIMESTAMPS, PORT_FIN_WAIT2, PORT_LOOPBACK_DEVICE];

fn space(tw_reuse: u32, tw_reuse_delay_ms: u32) -> PortSpace {
    PortSpace {
        netns: 7,
        tw_reuse,
        tw_reuse_delay_ms,
        ..PortSpace::zeroed()
    }
}

fn towards(source: &str, remote: &str) -> Destination {
    Destination {
        netns: 7,
        source: source.parse().unwrap(),
        remote: SocketAddr::new(remote.parse().unwrap(), 80),
    }
}

fn in_state(state: u8, flags: u16, idle_ms: u32) -> Reuse {
    Reuse::of(&SocketSeen {
        flags,
        state,
        idle_ms,
        ..SocketSeen::default()
    })
}

/// The kernel's conditions, as it writes them down.
fn may_be_taken(reuse: u32, delay: u32, flags: u16, waited: u32, loopback: bool) -> bool {
    let mut reuse = reuse;
    if flags & PORT_FIN_WAIT2 != 0 {
        reuse = 0;
    }
    if reuse == 2 && !loopback && flags & PORT_LOOPBACK_DEVICE == 0 {
        reuse = 0;
    }
    flags & PORT_TIMESTAMPS != 0 && (reuse == 1 || reuse == 2) && waited > delay
}

#[test]
fn one_reason_is_enough_to_block() {
    let local = towards("127.0.0.1", "127.0.0.1");
    let remote = towards("10.0.0.1", "10.0.0.2");
    let port = in_state(TIME_WAIT, PORT_TIMESTAMPS, 1500);
    for (reuse, to, blocks) in [
        (0, &local, true),
        (1, &local, false),
        (2, &local, false),
        (3, &local, true),
        (0, &remote, true),
        (1, &remote, false),
        (2, &remote, true),
    ] {
        assert_eq!(port.blocks(&space(reuse, 1000), to), blocks, "{reuse}");
    }
    let always = space(TW_REUSE_ALWAYS, 1000);
    for (port, blocks) in [
        (in_state(TIME_WAIT, PORT_TIMESTAMPS, 1001), false),
        (in_state(TIME_WAIT, PORT_TIMESTAMPS, 1000), true),
        (in_state(TIME_WAIT, 0, 5000), true),
        (
            in_state(TIME_WAIT, PORT_TIMESTAMPS | PORT_FIN_WAIT2, 5000),
            true,
        ),
        // Not in TIME_WAIT.
        (in_state(ESTABLISHED, PORT_TIMESTAMPS, 5000), true),
    ] {
        assert_eq!(port.blocks(&always, &local), blocks, "{port:?}");
    }
    // Nothing is known.
    assert!(in_state(TIME_WAIT, 0, 0).blocks(&space(0, 0), &local));
    assert!(in_state(TIME_WAIT, 0, 0).blocks(&space(1, 0), &local));
    let on_device = in_state(TIME_WAIT, PORT_TIMESTAMPS | PORT_LOOPBACK_DEVICE, 1001);
    assert!(!on_device.blocks(&space(TW_REUSE_LOOPBACK, 1000), &remote));
}

#[test]
fn loopback_is_what_the_kernel_takes_for_it() {
    let port = in_state(TIME_WAIT, PORT_TIMESTAMPS, 1001);
    for (source, remote, loopback) in [
        ("127.0.0.1", "127.255.255.254", true),
        ("10.0.0.1", "127.0.0.2", true),
        ("127.0.0.2", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.1", false),
        ("126.255.255.255", "128.0.0.0", false),
        ("::1", "fd00::1", true),
        ("fd00::1", "::1", true),
        ("fd00::1", "fd00::1", false),
        ("::ffff:127.0.0.1", "::ffff:10.0.0.1", true),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
        ("::127.0.0.1", "fd00::1", false),
    ] {
        let blocks = port.blocks(&space(TW_REUSE_LOOPBACK, 1000), &towards(source, remote));
        assert_eq!(!blocks, loopback, "{source} {remote}");
    }
}

proptest! {
    #[test]
    fn blocks_unless_the_kernel_would_take_it(
        reuse in 0_u32..4,
        delay in 0_u32..3,
        waited in 0_u32..4,
        has in any::<[bool; 3]>(),
        loopback in any::<bool>(),
    ) {
        let flags = FLAGS.into_iter().zip(has).filter(|(_, has)| *has).map(|(flag, _)| flag);
        let flags = flags.fold(0, |all, flag| all | flag);
        let to = if loopback { towards("127.0.0.1", "10.0.0.1") } else { towards("10.0.0.1", "10.0.0.2") };
        let blocks = in_state(TIME_WAIT, flags, waited).blocks(&space(reuse, delay), &to);
        prop_assert_eq!(!blocks, may_be_taken(reuse, delay, flags, waited, loopback));
        prop_assert!(in_state(ESTABLISHED, flags, waited).blocks(&space(reuse, delay), &to));
    }
}
