//! Takes failed calls of bind() and listen() from records. They are rare, so their records are always read.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use observer_common::{CALL_LISTEN, RECORD_BIND_FAILED, Record};

use super::reset_peers::ends;
use crate::table::{FailedBind, FailedCall};

/// Maximum number of calls in a tick: further ones are only counted.
const MOST: usize = 2_000;
/// The same of one process, so that one that calls in a loop does not hide the calls of others.
const OF_PROCESS: u32 = 100;
/// Maximum number of records that are looked at in a tick.
const READ: usize = 20 * MOST;

/// The calls since the last tick: their processes may not be in the table yet.
#[derive(Debug, Default)]
pub struct RecordedBinds {
    calls: Vec<FailedCall>,
    /// By slot and its generation.
    of_processes: HashMap<(u32, u32), u32>,
    /// Those without room included.
    read: usize,
}

impl RecordedBinds {
    /// Kinds of records to read, one bit per `RECORD_` number.
    #[must_use]
    pub fn kinds(&self) -> u32 {
        match self.calls.len() < MOST && self.read < READ {
            true => 1 << RECORD_BIND_FAILED,
            false => 0,
        }
    }

    /// Takes in records of all kinds.
    pub fn add(&mut self, records: &[Record]) {
        for record in records.iter().filter(|it| it.kind == RECORD_BIND_FAILED) {
            self.read += 1;
            let call = call(record);
            let of_process = self.of_processes.entry(call.owner).or_default();
            *of_process += 1;
            if *of_process <= OF_PROCESS && self.calls.len() < MOST {
                self.calls.push(call);
            }
        }
    }

    /// All of them, for the table.
    #[must_use]
    pub fn take(&mut self) -> Vec<FailedCall> {
        std::mem::take(self).calls
    }
}

fn call(record: &Record) -> FailedCall {
    let [(address, port), _] = ends(record);
    let call = FailedBind {
        netns: record.netns,
        address: SocketAddr::new(address, port),
        errno: record.errno,
        is_listen: record.reason as usize == CALL_LISTEN,
    };
    FailedCall {
        owner: (record.slot, record.generation),
        pid: record.tgid,
        at: Duration::from_nanos(record.time_ns),
        call: (record.family != 0).then_some(call),
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{
        AF_INET, AF_INET6, CALL_BIND, Pod as _, RECORD_CONNECT_FAILED, SLOT_FIRST,
    };

    use super::*;

    fn record(family: u16, call: usize) -> Record {
        let mut record = Record::read_from(&[0; size_of::<Record>()]).unwrap();
        record.kind = RECORD_BIND_FAILED;
        (record.slot, record.generation, record.tgid) = (SLOT_FIRST, 1, 77);
        (record.family, record.local_port) = (family, 80);
        (record.errno, record.reason) = (98, call as u32);
        record
    }

    fn addresses(calls: &[FailedCall]) -> Vec<Option<(String, bool)>> {
        let named = |it: FailedBind| (it.address.to_string(), it.is_listen);
        calls.iter().map(|it| it.call.map(named)).collect()
    }

    #[test]
    fn calls_have_their_address_if_it_is_known() {
        let mut mapped = record(AF_INET6, CALL_LISTEN);
        mapped.local = "::ffff:10.0.0.1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets();
        let mut other = record(AF_INET, CALL_BIND);
        other.kind = RECORD_CONNECT_FAILED;
        let mut binds = RecordedBinds::default();
        binds.add(&[
            record(AF_INET, CALL_BIND),
            other,
            record(AF_INET6, CALL_BIND),
            mapped,
            record(0, CALL_BIND),
        ]);
        let calls = binds.take();
        let known = |address: &str, is_listen| Some((address.to_owned(), is_listen));
        let expected = [
            known("0.0.0.0:80", false),
            known("[::]:80", false),
            known("10.0.0.1:80", true),
            None,
        ];
        assert_eq!(addresses(&calls), expected);
        assert_eq!((calls[0].owner, calls[0].pid), ((SLOT_FIRST, 1), 77));
        assert!(binds.take().is_empty());
    }

    #[test]
    fn a_storm_is_not_read() {
        let mut binds = RecordedBinds::default();
        assert_eq!(binds.kinds(), 1 << RECORD_BIND_FAILED);
        let of = |slot| Record {
            slot,
            ..record(AF_INET, CALL_BIND)
        };
        let storm: Vec<_> = (0..MOST as u32 + 1)
            .map(|slot| of(SLOT_FIRST + slot))
            .collect();
        binds.add(&storm);
        assert_eq!(binds.kinds(), 0);
        assert_eq!(binds.take().len(), MOST);
        assert_eq!(binds.kinds(), 1 << RECORD_BIND_FAILED);
    }

    /// One that tries again without a pause, before another process tries once.
    #[test]
    fn a_process_in_a_loop_leaves_room_for_others() {
        let mut binds = RecordedBinds::default();
        let other = Record {
            slot: SLOT_FIRST + 1,
            ..record(AF_INET, CALL_BIND)
        };
        binds.add(&[vec![record(AF_INET, CALL_BIND); 10_000], vec![other]].concat());
        assert_ne!(binds.kinds(), 0);
        let calls = binds.take();
        let of = |slot| calls.iter().filter(|it| it.owner.0 == slot).count();
        assert_eq!([of(SLOT_FIRST), of(other.slot)], [OF_PROCESS as usize, 1]);
        // At some rate reading costs too much.
        binds.add(&vec![record(AF_INET, CALL_BIND); READ]);
        assert_eq!(binds.kinds(), 0);
        assert_eq!(binds.take().len(), OF_PROCESS as usize);
        assert_ne!(binds.kinds(), 0);
    }
}
