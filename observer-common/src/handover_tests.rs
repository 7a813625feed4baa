//! Interleaves the programs of two CPUs, one memory access at a time: the state program, which runs
//! under the socket lock, and a hand-over, which does not. The adjustments are those of the programs;
//! the order of the accesses is copied from `hand_over`, `complete_handover` and `transition` of
//! observer-ebpf.

use super::*;
use crate::{
    CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, STATES, SYN_RECV,
    SYN_SENT, Slot,
};

const LISTENER: u32 = 3;
const WORKER: u32 = 4;
const SLOTS: usize = 5;

/// Memory of both CPUs.
struct Shared {
    slot: u32,
    handover: u64,
    state: u8,
    slots: Vec<Slot>,
}

impl Shared {
    /// A socket in `state`: after a first transition from another state, or found alive.
    fn new(born_from: Option<u8>, state: u8) -> Self {
        let mut slots = vec![Slot::zeroed(); SLOTS];
        let owner = &mut slots[LISTENER as usize];
        owner.sockets = 1;
        match born_from {
            Some(from) => owner.state.transitions[usize::from(from)][usize::from(state)] = 1,
            None => owner.state.adjust[usize::from(state)] = 1,
        }
        Self {
            slot: LISTENER,
            handover: 0,
            state,
            slots,
        }
    }

    /// Additions are atomic and no program reads the sums, so their time does not matter: each is
    /// made together with the next access.
    fn adjust(&mut self) -> impl FnMut(u32, u8, i64) {
        |slot, state, by| self.slots[slot as usize].state.adjust[usize::from(state)] += by
    }

    fn hold(&mut self, slot: u32, by: i64) {
        self.slots[slot as usize].sockets += by;
    }

    fn pass_on(&mut self, slot: u32, by: i64) {
        self.slots[slot as usize].passed_on += by;
    }
}

/// `hand_over`, interrupted at any point.
struct Accept {
    to: u32,
    slot: u32,
    handover: u64,
    state: u8,
}

impl Accept {
    const STEPS: usize = 4;

    fn new(to: u32) -> Self {
        Self {
            to,
            slot: 0,
            handover: 0,
            state: 0,
        }
    }

    fn step(&mut self, step: usize, shared: &mut Shared) {
        match step {
            0 => self.slot = shared.slot,
            1 => self.handover = shared.handover,
            2 => self.state = shared.state,
            _ => {
                let from = owner_of(self.slot, self.handover);
                if from == self.to {
                    return;
                }
                let adjusted = adjusted_state(self.handover, self.state);
                shared.hold(self.to, 1);
                adjust_for_handover(from, self.to, adjusted, shared.adjust());
                shared.handover = pack_handover(self.to, adjusted);
                if self.handover != 0 {
                    shared.hold(from, -1);
                } else {
                    shared.pass_on(from, 1);
                }
            }
        }
    }
}

/// The state program, for all transitions of one socket.
struct Transitions<'a> {
    /// The states after the first.
    life: &'a [u8],
    handover: u64,
    from: u32,
    old: u8,
}

impl Transitions<'_> {
    const STEPS: usize = 6;

    fn step(&mut self, step: usize, shared: &mut Shared) {
        let new = self.life[step / Self::STEPS];
        match step % Self::STEPS {
            0 => {
                self.old = shared.state;
                self.handover = shared.handover;
            }
            1 if self.handover != 0 => {
                let (to, adjusted) = unpack_handover(self.handover);
                self.from = shared.slot;
                correct_handover(self.from, to, adjusted, self.old, shared.adjust());
            }
            2 if self.handover != 0 => shared.slot = unpack_handover(self.handover).0,
            3 if self.handover != 0 => {
                shared.handover = 0;
                shared.pass_on(self.from, -1);
                shared.hold(self.from, -1);
            }
            1..=3 => {}
            4 => {
                let owner = shared.slot as usize;
                shared.slots[owner].state.transitions[usize::from(self.old)][usize::from(new)] += 1;
            }
            _ => shared.state = new,
        }
    }
}

/// Completes a hand-over, as the next transition or the end of the socket does.
fn settle(shared: &mut Shared) {
    let mut last = Transitions {
        life: &[CLOSE],
        handover: 0,
        from: 0,
        old: 0,
    };
    // Without the steps that count the transition itself.
    for step in 0..4 {
        last.step(step, shared);
    }
}

/// Corrects the gauges, as a resynchronisation does.
fn readjust(shared: &mut Shared) {
    let (slot, handover, state) = (shared.slot, shared.handover, shared.state);
    shared.handover = readjust_handover(slot, handover, state, shared.adjust());
}

/// Whether the worker alone has an entry and the socket in its gauges.
fn check(shared: &Shared) -> Result<(), String> {
    let owner = WORKER;
    if shared.slot != owner {
        return Err(format!("owned by slot {}", shared.slot));
    }
    for (slot, counters) in (0..).zip(&shared.slots) {
        if counters.sockets != i64::from(slot == owner) {
            return Err(format!("slot {slot} is held {} times", counters.sockets));
        }
        if counters.passed_on != 0 {
            return Err(format!("slot {slot} passed on {}", counters.passed_on));
        }
    }
    check_gauges(shared)
}

/// Whether the worker alone has the socket in its gauges.
fn check_gauges(shared: &Shared) -> Result<(), String> {
    let owner = WORKER;
    for (slot, counters) in (0..).zip(&shared.slots) {
        // Sockets start and end in CLOSE, so CLOSE has no gauge.
        for state in (1..STATES as u8).filter(|state| *state != CLOSE) {
            let (live, is) = (counters.live(state), (owner, shared.state) == (slot, state));
            if live != i64::from(is) {
                return Err(format!("slot {slot} has {live} sockets in state {state}"));
            }
        }
    }
    Ok(())
}

/// All ways to interleave `steps` ordered steps of one CPU with `gaps` steps of another: for each, the
/// step of the other CPU before which it runs.
fn schedules(steps: usize, gaps: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..steps {
        all = all
            .into_iter()
            .flat_map(|schedule: Vec<usize>| {
                let from = schedule.last().copied().unwrap_or(0);
                (from..=gaps).map(move |gap| [schedule.as_slice(), &[gap]].concat())
            })
            .collect();
    }
    all
}

/// Old state of the first transition, `None` for a socket that was found alive, and the states of a
/// socket.
const LIVES: [(Option<u8>, &[u8]); 4] = [
    // Children of a listener, closed by the peer and by this side.
    (
        Some(LISTEN),
        &[SYN_RECV, ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSE],
    ),
    (
        Some(LISTEN),
        &[SYN_RECV, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE],
    ),
    (Some(CLOSE), &[SYN_SENT, ESTABLISHED, CLOSE]),
    // A socket older than the daemon.
    (None, &[ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSE]),
];

/// Interleaves one hand-over with every prefix of each sequence of states, in every order. Two
/// hand-overs without a transition between them are not exact if the second runs while the first is
/// being completed: that would need a compare-and-exchange (Linux 5.12).
#[test]
fn one_hand_over_is_exact_in_every_order() {
    let mut played = 0;
    for (born_from, life) in LIVES {
        for ends in 1..=life.len() {
            let life = &life[..ends];
            let steps = (life.len() - 1) * Transitions::STEPS;
            for schedule in schedules(Accept::STEPS, steps) {
                let mut shared = Shared::new(born_from, life[0]);
                let mut transitions = Transitions {
                    life: &life[1..],
                    handover: 0,
                    from: 0,
                    old: 0,
                };
                let mut accept = Accept::new(WORKER);
                let mut next = schedule.iter().enumerate().peekable();
                for at in 0..=steps {
                    while let Some((step, _)) = next.next_if(|(_, before)| **before == at) {
                        accept.step(step, &mut shared);
                    }
                    if at < steps {
                        transitions.step(at, &mut shared);
                    }
                }
                // The next transition may be far off.
                readjust(&mut shared);
                check_gauges(&shared)
                    .unwrap_or_else(|error| panic!("{life:?} {schedule:?}: adjusted: {error}"));
                settle(&mut shared);
                check(&shared).unwrap_or_else(|error| panic!("{life:?} {schedule:?}: {error}"));
                played += 1;
            }
        }
    }
    assert!(played > 50_000, "{played}");
}
