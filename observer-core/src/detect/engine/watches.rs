//! The states of detectors, by subject. A subject is looked up once for all of its detectors.

use std::{collections::HashMap, time::Duration};

use super::{
    super::{
        detector::{SUSPECTED, Settled},
        finding::Subject,
        flag::Flag,
    },
    part::{Events, Idle, Part},
};

/// A walk is wanted for this time after a finding was suspected or raised.
const WALKS_WANTED: Duration = Duration::from_secs(30);
/// Time until the same suspicion wants walks again.
const WALKS_WANTED_AGAIN: Duration = Duration::from_secs(300);

/// Number of a subject in [`Watches`].
pub(super) type Row = usize;

/// The subjects of one kind that are watched.
#[derive(Default)]
pub(super) struct Rows {
    numbers: HashMap<Subject, Row>,
    /// By number.
    subjects: Vec<Option<Subject>>,
    /// Number of its watches.
    held: Vec<u32>,
    free: Vec<Row>,
    /// When it was in a sample.
    seen: Vec<Duration>,
    /// The sample of those before the current one.
    seen_before: Vec<Duration>,
    /// When the last sample was.
    now: Duration,
    /// What happened to each.
    events: Vec<Option<Events>>,
    /// The part that each was in the last sample that had it.
    part: Vec<usize>,
    /// Those of the parts of the current sample.
    of_parts: Vec<Row>,
    /// What has not happened to them since the last sample.
    idle: Vec<Idle>,
    /// Those that are not in it.
    gone: Vec<Row>,
}

impl Rows {
    pub(super) fn get(&self, subject: &Subject) -> Option<Row> {
        self.numbers.get(subject).copied()
    }

    /// The subject of a row that is held.
    pub(super) fn subject(&self, row: Row) -> Option<&Subject> {
        self.subjects.get(row)?.as_ref()
    }

    /// Begins a sample with these parts.
    pub(super) fn begin<P: Part>(&mut self, now: Duration, parts: &[P]) {
        let last = std::mem::take(&mut self.of_parts);
        self.idle.clear();
        // Parts are in the same order in each sample, with some removed and some new ones.
        let mut next = 0;
        for part in parts {
            let subject = part.subject();
            let row = match last.get(next) {
                Some(&row) if self.subjects[row].as_ref() == Some(&subject) => row,
                _ => self.add(subject),
            };
            next = self.part[row] + 1;
            self.part[row] = self.of_parts.len();
            let events = part.events();
            let before = std::mem::replace(&mut self.events[row], events);
            // One that was not in the last sample may have had any number of events that it had had before.
            let is_followed = self.seen[row] == self.now;
            let followed = events.zip(before).filter(|_| is_followed);
            let idle = followed.map_or(Idle::No, |(events, before)| events.idle_since(&before));
            self.idle.push(idle);
            self.seen_before[row] = std::mem::replace(&mut self.seen[row], now);
            self.of_parts.push(row);
        }
        self.now = now;
        self.gone.clear();
        let gone = (0..self.seen.len()).filter(|row| self.held[*row] > 0 && self.seen[*row] != now);
        self.gone.extend(gone);
    }

    /// Something may have happened to all of them.
    pub(super) fn forget_events(&mut self) {
        self.events.fill(None);
    }

    /// Whether a detector that is settled need not see a part of the current sample, by its index.
    pub(super) fn may_skip(&self, index: usize, settled: Settled) -> bool {
        match settled {
            Settled::No => false,
            Settled::UntilWalk => self.idle[index] == Idle::Yes,
            Settled::Yes => self.idle[index] != Idle::No,
        }
    }

    /// The last sample before the current one that had the row.
    pub(super) fn seen_before(&self, row: Row) -> Duration {
        self.seen_before[row]
    }

    /// The row of a part of the current sample, by its index.
    pub(super) fn of_part(&self, index: usize) -> Row {
        self.of_parts[index]
    }

    /// Number of subjects.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Of a subject that may be new. Its number is free again once the last watch of it has been released.
    fn add(&mut self, subject: Subject) -> Row {
        if let Some(row) = self.get(&subject) {
            return row;
        }
        let row = self.free.pop().unwrap_or_else(|| {
            self.subjects.push(None);
            self.held.push(0);
            self.events.push(None);
            self.seen.push(Duration::ZERO);
            self.seen_before.push(Duration::ZERO);
            self.part.push(0);
            self.subjects.len() - 1
        });
        self.subjects[row] = Some(subject.clone());
        self.events[row] = None;
        self.numbers.insert(subject, row);
        row
    }

    fn hold(&mut self, row: Row) {
        self.held[row] += 1;
    }

    fn release(&mut self, row: Row) {
        self.held[row] -= 1;
        if self.held[row] == 0
            && let Some(subject) = self.subjects[row].take()
        {
            self.numbers.remove(&subject);
            self.free.push(row);
        }
    }
}

/// One detector of one subject.
pub(super) struct Watch<D> {
    pub(super) detector: D,
    pub(super) flag: Flag,
    pub(super) hidden_until: Option<Duration>,
    /// Of the last assessment.
    pub(super) score: f64,
    /// Since when it is to be raised.
    pub(super) over_since: Option<Duration>,
    /// When walks were last wanted for it.
    walks_wanted_at: Option<Duration>,
}

impl<D> Watch<D> {
    fn new(detector: D) -> Self {
        Self {
            detector,
            flag: Flag::default(),
            hidden_until: None,
            score: 0.0,
            over_since: None,
            walks_wanted_at: None,
        }
    }

    pub(super) fn is_hidden(&self, now: Duration) -> bool {
        self.hidden_until.is_some_and(|until| now < until)
    }

    /// Whether it is raised, or half way to it, so that it is worth knowing more.
    pub(super) fn is_suspected(&self) -> bool {
        self.flag.raised().is_some() || self.score >= SUSPECTED
    }

    /// Whether it wants walks soon, if there is `time` for them. They cost more than their share then, so what lasts wants them
    /// only now and then.
    pub(super) fn wants_walks(&mut self, now: Duration, is_wanted: bool, time: &WalkTime) -> bool {
        let since = |at: Duration| now.saturating_sub(at);
        let again = self
            .walks_wanted_at
            .is_none_or(|at| since(at) >= WALKS_WANTED_AGAIN);
        if again && time.is_left() && (is_wanted || self.is_suspected()) {
            self.walks_wanted_at = Some(now);
        }
        self.walks_wanted_at
            .is_some_and(|at| since(at) < WALKS_WANTED)
    }
}

/// Which samples of a row a detector need not see. Apart from the detectors, which are large: of most rows nothing else is
/// read.
#[derive(Clone, Copy, Debug, Default)]
struct Skips {
    settled: Settled,
    /// Whether it did not see the last one.
    skipped: bool,
}

/// One detector of all subjects of a kind.
pub(super) struct Watches<D> {
    by_row: Vec<Option<Watch<D>>>,
    /// In the order of `by_row`.
    skips: Vec<Skips>,
    /// Whether any is raised, or half way to it, as of the last pass.
    pub(super) any_suspected: bool,
    /// Whether any wants walks soon, as of the last pass.
    pub(super) any_wants_walks: bool,
}

impl<D> Default for Watches<D> {
    fn default() -> Self {
        Self {
            by_row: Vec::new(),
            skips: Vec::new(),
            any_suspected: false,
            any_wants_walks: false,
        }
    }
}

impl<D> Watches<D> {
    pub(super) fn get(&self, row: Row) -> Option<&Watch<D>> {
        self.by_row.get(row)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, row: Row) -> Option<&mut Watch<D>> {
        self.by_row.get_mut(row)?.as_mut()
    }

    /// That of a row, with the detector that `begin` makes if it is new.
    pub(super) fn get_or_begin(
        &mut self,
        row: Row,
        rows: &mut Rows,
        begin: impl FnOnce() -> D,
    ) -> &mut Watch<D> {
        if self.by_row.len() <= row {
            self.by_row.resize_with(row + 1, || None);
            self.skips.resize_with(row + 1, Skips::default);
        }
        self.by_row[row].get_or_insert_with(|| {
            self.skips[row] = Skips::default();
            rows.hold(row);
            Watch::new(begin())
        })
    }

    /// Whether the detector of a part of the current sample, by its index, need not see it.
    pub(super) fn skip(&mut self, index: usize, rows: &Rows) -> bool {
        let Some(skips) = self.skips.get_mut(rows.of_part(index)) else {
            return false;
        };
        let may = rows.may_skip(index, skips.settled);
        skips.skipped |= may;
        may
    }

    /// The last sample that the detector of a row did not see since the last one that it saw, at one that it sees.
    pub(super) fn take_skipped(&mut self, row: Row, rows: &Rows) -> Option<Duration> {
        let skips = self.skips.get_mut(row)?;
        std::mem::take(&mut skips.skipped).then(|| rows.seen_before(row))
    }

    /// Which further samples the detector of a row need not see.
    pub(super) fn settle(&mut self, row: Row, settled: Settled) {
        self.skips[row].settled = settled;
    }

    /// Whether any did not see the last sample.
    #[cfg(test)]
    pub(super) fn any_skipped(&self) -> bool {
        self.skips.iter().any(|it| it.skipped)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Row, &Watch<D>)> {
        let all = self.by_row.iter().enumerate();
        all.filter_map(|(row, watch)| Some((row, watch.as_ref()?)))
    }

    /// Of subjects that are not in the current sample, keeps those that `keep` accepts. It gets the time when they last
    /// were in one.
    pub(super) fn retain_gone(
        &mut self,
        rows: &mut Rows,
        mut keep: impl FnMut(&Subject, Duration, &mut Watch<D>) -> bool,
    ) {
        let gone = std::mem::take(&mut rows.gone);
        for &row in &gone {
            let subject = rows.subjects[row].as_ref();
            let Some((subject, watch)) = subject.zip(self.get_mut(row)) else {
                continue;
            };
            if keep(subject, rows.seen[row], watch) {
                self.any_suspected |= watch.is_suspected();
            } else {
                self.by_row[row] = None;
                self.skips[row] = Skips::default();
                rows.release(row);
            }
        }
        rows.gone = gone;
    }
}

/// Limits for how long walks are wanted by all suspicions together: on a host with many short ones, there is always one.
pub(super) struct WalkTime {
    left: Duration,
    is_wanted: bool,
}

impl Default for WalkTime {
    fn default() -> Self {
        Self {
            left: Self::MOST,
            is_wanted: false,
        }
    }
}

impl WalkTime {
    const MOST: Duration = Duration::from_secs(60);
    const LEAST: Duration = Duration::from_secs(1);
    /// It comes back at a tenth of the speed.
    const SHARE: u32 = 10;

    /// After a sample, `elapsed` after the last one, by which walks are wanted or not.
    pub(super) fn step(&mut self, elapsed: Duration, is_wanted: bool) {
        if self.is_wanted {
            self.left = self.left.saturating_sub(elapsed);
        }
        self.left = Self::MOST.min(self.left.saturating_add(elapsed / Self::SHARE));
        self.is_wanted = is_wanted && self.is_left();
    }

    fn is_left(&self) -> bool {
        self.left >= Self::LEAST
    }

    /// Whether they are wanted until the next sample.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::sample::Namespace, *};

    #[test]
    fn a_row_is_used_again_once_nothing_holds_it() {
        let mut rows = Rows::default();
        let [one, two] = [1, 2].map(|netns| Namespace {
            netns,
            time_wait_overflows: 0,
        });
        let mut watches = [Watches::<()>::default(), Watches::default()];
        let at = Duration::from_secs;
        rows.begin(at(1), &[one, two]);
        let row = rows.of_part(0);
        for watches in &mut watches {
            for part in 0..2 {
                watches.get_or_begin(rows.of_part(part), &mut rows, || ());
            }
        }
        rows.begin(at(3), &[two]);
        let one = one.subject();
        watches[0].retain_gone(&mut rows, |subject, seen, _| {
            assert_eq!((subject, seen), (&one, at(1)));
            false
        });
        assert_eq!((rows.get(&one), rows.len()), (Some(row), 2));
        watches[1].retain_gone(&mut rows, |_, _, _| false);
        assert_eq!((rows.get(&one), rows.len()), (None, 1));
        let three = Namespace {
            netns: 3,
            time_wait_overflows: 0,
        };
        rows.begin(at(4), &[three]);
        assert_eq!(rows.of_part(0), row);
        assert!(watches.iter().all(|it| it.get(row).is_none()));
    }

    #[test]
    fn what_lasts_wants_walks_for_thirty_seconds_of_five_minutes() {
        let mut watch = Watch::new(());
        watch.score = SUSPECTED;
        let time = WalkTime::default();
        let mut wanted = |second| watch.wants_walks(Duration::from_secs(second), false, &time);
        let times: Vec<u64> = (0..900).filter(|second| wanted(*second)).collect();
        let expected: Vec<u64> = [0..30, 300..330, 600..630].into_iter().flatten().collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn any_number_of_suspicions_wants_walks_for_a_tenth_of_the_time() {
        let mut time = WalkTime::default();
        let wanted: Vec<bool> = (0..3600)
            .map(|_| {
                time.step(Duration::from_secs(1), true);
                time.is_wanted()
            })
            .collect();
        assert!(wanted[..60].iter().all(|it| *it));
        let count = wanted.iter().filter(|it| **it).count();
        assert!((400..=430).contains(&count), "{count}");
        for _ in 0..600 {
            time.step(Duration::from_secs(1), false);
            assert!(!time.is_wanted());
        }
        time.step(Duration::from_secs(1), true);
        assert_eq!((time.is_wanted(), time.left), (true, WalkTime::MOST));
    }
}
