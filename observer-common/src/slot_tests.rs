use proptest::prelude::*;

use super::*;
use crate::{CLOSE, CLOSE_WAIT, LISTEN, SYN_RECV, SYN_SENT, adjust_for_handover};

const OWNERS: usize = 3;

/// Events of sockets. Indices are reduced to the existing sockets and owners.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// connect() or listen().
    Open { owner: usize, state: u8 },
    /// A listener of this owner gets a child.
    Birth { listener: usize },
    /// A socket other than a listener goes to a state.
    Move { socket: usize, to: u8 },
    /// A socket, listeners included, goes to CLOSE.
    Close { socket: usize },
    /// A socket older than the daemon is found.
    Seed { owner: usize, state: u8 },
    /// A socket is handed over.
    HandOver { socket: usize, to: usize },
}

fn events() -> impl Strategy<Value = Event> {
    // No start in CLOSE and no `Move` to it; only states that occur.
    let state = || {
        prop::sample::select(
            (1..STATES as u8)
                .filter(|s| *s != CLOSE)
                .collect::<Vec<_>>(),
        )
    };
    let index = || any::<u8>().prop_map(usize::from);
    prop_oneof![
        (index(), prop::sample::select(vec![SYN_SENT, LISTEN]))
            .prop_map(|(owner, state)| Event::Open { owner, state }),
        index().prop_map(|listener| Event::Birth { listener }),
        (index(), state()).prop_map(|(socket, to)| Event::Move { socket, to }),
        index().prop_map(|socket| Event::Close { socket }),
        (index(), state()).prop_map(|(owner, state)| Event::Seed { owner, state }),
        (index(), index()).prop_map(|(socket, to)| Event::HandOver { socket, to }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Socket {
    owner: usize,
    state: u8,
}

/// The sockets of a host, and the slots that count them.
struct Host {
    sockets: Vec<Socket>,
    slots: Vec<Slot>,
}

impl Host {
    fn count(&mut self, owner: usize, from: u8, to: u8) {
        self.slots[owner].state.transitions[usize::from(from)][usize::from(to)] += 1;
    }

    /// The n-th of the sockets for which `fits`, modulo their number.
    fn pick(&self, n: usize, fits: impl Fn(&Socket) -> bool) -> Option<usize> {
        let fitting: Vec<_> = (0..self.sockets.len())
            .filter(|&at| fits(&self.sockets[at]))
            .collect();
        fitting.get(n.checked_rem(fitting.len())?).copied()
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Open { owner, state } => {
                let owner = owner % OWNERS;
                self.count(owner, CLOSE, state);
                self.sockets.push(Socket { owner, state });
            }
            Event::Birth { listener } => {
                if let Some(at) = self.pick(listener, |socket| socket.state == LISTEN) {
                    let owner = self.sockets[at].owner;
                    self.count(owner, LISTEN, SYN_RECV);
                    self.sockets.push(Socket {
                        owner,
                        state: SYN_RECV,
                    });
                }
            }
            Event::Move { socket, to } => {
                if let Some(at) = self.pick(socket, |socket| socket.state != LISTEN) {
                    let Socket { owner, state } = self.sockets[at];
                    self.count(owner, state, to);
                    self.sockets[at].state = to;
                }
            }
            Event::Close { socket } => {
                if let Some(at) = self.pick(socket, |_| true) {
                    let Socket { owner, state } = self.sockets.swap_remove(at);
                    self.count(owner, state, CLOSE);
                }
            }
            Event::Seed { owner, state } => {
                let owner = owner % OWNERS;
                self.slots[owner].state.adjust[usize::from(state)] += 1;
                self.sockets.push(Socket { owner, state });
            }
            Event::HandOver { socket, to } => {
                if let Some(at) = self.pick(socket, |_| true) {
                    let Socket { owner, state } = self.sockets[at];
                    let to = to % OWNERS;
                    adjust_for_handover(owner as u32, to as u32, state, |slot, state, by| {
                        self.slots[slot as usize].state.adjust[usize::from(state)] += by;
                    });
                    self.sockets[at].owner = to;
                }
            }
        }
    }
}

#[test]
fn a_child_is_not_subtracted_from_the_listeners() {
    let mut slot = Slot::zeroed();
    slot.state.transitions[usize::from(CLOSE)][usize::from(LISTEN)] = 2;
    slot.state.transitions[usize::from(LISTEN)][usize::from(SYN_RECV)] = 7;
    slot.state.transitions[usize::from(LISTEN)][usize::from(CLOSE)] = 1;
    assert_eq!(slot.live(LISTEN), 1);
    assert_eq!(slot.live(SYN_RECV), 7);
    assert_eq!(slot.live(CLOSE_WAIT), 0);
}

proptest! {
    #[test]
    fn live_sockets_are_those_of_the_host(events in prop::collection::vec(events(), 0..200)) {
        let mut host = Host {
            sockets: Vec::new(),
            slots: vec![Slot::zeroed(); OWNERS],
        };
        for event in events {
            host.apply(event);
        }
        for (owner, slot) in host.slots.iter().enumerate() {
            let each: Vec<i64> = (0..STATES as u8).map(|state| slot.live(state)).collect();
            prop_assert_eq!(&slot.live_by_state()[..], &each[..]);
            // Sockets start and end in CLOSE, so CLOSE has no gauge.
            for state in (1..STATES as u8).filter(|state| *state != CLOSE) {
                let there = host
                    .sockets
                    .iter()
                    .filter(|socket| (socket.owner, socket.state) == (owner, state))
                    .count();
                prop_assert_eq!(slot.live(state), there as i64, "owner {} state {}", owner, state);
            }
        }
    }
}
