//! The disk of one node, with a committer in front of it.
//!
//! ```text
//!   commit ──▶ queue ──▶ written ──▶ synced ──▶ reported, and visible to reads
//!               │          │           │
//!   kill:     gone       stays       stays
//!   power:    gone     a prefix      stays        (of a torn commit nothing is left)
//! ```
//!
//! What has queued up becomes one group: one write, one fsync, one round of reports. A commit is
//! atomic; a group is not, so that a power loss may leave any whole number of its commits, and
//! half of another, which the next recovery meets and drops. Reads see what is synced and nothing
//! else. A disk may be slow, stand still, refuse commits, fail an fsync, fail a read, flip a bit of
//! a stored record, or write one where another belongs.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand::{Rng, RngExt};

use super::clock::Time;
use super::observer::Place;
use super::tally::{FaultCounts, FaultKind};
use crate::protocol::step::{Change, CommitId, Page, Space};
use crate::types::{CommitNumber, Partition, Stamp};

/// Commits in one group at most, as a real committer bounds its batches.
const GROUP_MAX: usize = 512;

/// Who asked for a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A worker, by index.
    Worker(usize, CommitId),
    /// The control core, by its own number.
    Control(u64),
    /// The control core, for what it only notes.
    Note,
}

/// A commit on its way to the disk.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) source: Source,
    pub(super) changes: Vec<Change>,
    pub(super) clock: Stamp,
    pub(super) refused: bool,
}

/// How a disk behaves. Probabilities in thousandths unless said otherwise.
#[derive(Clone, Debug)]
pub(super) struct DiskWeather {
    /// An ordinary fsync, in microseconds.
    pub(super) sync_min: Time,
    pub(super) sync_max: Time,
    /// Fsyncs that take up to `slow_max`.
    pub(super) slow: u32,
    pub(super) slow_max: Time,
    /// Commits that are refused, singly, in ten thousandths.
    pub(super) refuse: u32,
    /// Fsyncs that fail and stop the node, in ten thousandths.
    pub(super) fail_sync: u32,
    /// Reads that fail, in ten thousandths.
    pub(super) fail_read: u32,
    /// Reads whose answer is late by up to `read_late_max`.
    pub(super) read_late: u32,
    pub(super) read_late_max: Time,
}

/// Where the committer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Writing,
    Syncing,
}

/// What the committer wants next.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing is under way.
    Idle,
    /// Step again after so long.
    Wait(Time),
    /// A group is durable: these commits, in order, and step again.
    Synced(Vec<Pending>),
    /// The fsync failed: the node must stop.
    Failed,
}

/// Everything that a disk holds, by map.
pub(super) type Spaces = [BTreeMap<Bytes, Bytes>; 3];

/// The disk of one node.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Disk {
    spaces: Spaces,
    queue: VecDeque<Pending>,
    group: Vec<Pending>,
    phase: Phase,
    /// The highest synced commit and clock.
    number: CommitNumber,
    /// The highest synced commit that held more than notes.
    announced: CommitNumber,
    clock: Stamp,
    /// The disk is full: every commit of a worker is refused.
    pub(super) full: bool,
    /// Whether someone is going to step the committer.
    awake: bool,
    /// Fsyncs do not come back until this is cleared: see [`Disk::unstall`].
    pub(super) stalled: bool,
    pub(super) weather: DiskWeather,
    /// What has become durable since this was last taken, with what was there before.
    applied: Vec<Applied>,
    /// The record that was written last.
    latest: Option<Bytes>,
    /// The last write was cut in two by a power loss; the next recovery meets it.
    torn: bool,
    /// It lies in the place of a disk that held commits, and no process has opened it.
    gone: bool,
    /// What is stored damaged, and has not been read since.
    hurt: BTreeMap<(Space, Bytes), FaultKind>,
    pub(super) took_effect: FaultCounts,
}

/// A change that has become durable.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub(super) change: Change,
    pub(super) before: Option<Bytes>,
}

fn index(space: Space) -> usize {
    match space {
        Space::Records => 0,
        Space::Hints => 1,
        Space::Meta => 2,
    }
}

impl DiskWeather {
    /// A good disk.
    pub(super) fn calm() -> Self {
        Self {
            sync_min: 100,
            sync_max: 1_000,
            slow: 0,
            slow_max: 0,
            refuse: 0,
            fail_sync: 0,
            fail_read: 0,
            read_late: 0,
            read_late_max: 0,
        }
    }

    /// Some weather: each trouble is in it or not, at a random rate.
    pub(super) fn random(rng: &mut impl Rng) -> Self {
        let rare = |rng: &mut dyn Rng, max: u32| {
            if rng.random_ratio(2, 3) { 0 } else { rng.random_range(1..=max) }
        };
        let sync_min = rng.random_range(50..=2_000);
        Self {
            sync_min,
            sync_max: sync_min * rng.random_range(1..=5),
            slow: rare(rng, 50),
            slow_max: rng.random_range(10_000..=1_000_000),
            refuse: rare(rng, 300),
            fail_sync: rare(rng, 100),
            fail_read: rare(rng, 300),
            read_late: if rng.random_ratio(1, 2) { 0 } else { rng.random_range(1..=500) },
            read_late_max: rng.random_range(500..=20_000),
        }
    }
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            spaces: [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()],
            queue: VecDeque::new(),
            group: Vec::new(),
            phase: Phase::Idle,
            number: CommitNumber(0),
            announced: CommitNumber(0),
            clock: Stamp::default(),
            full: false,
            awake: false,
            stalled: false,
            weather: DiskWeather::calm(),
            applied: Vec::new(),
            latest: None,
            torn: false,
            gone: false,
            hurt: BTreeMap::new(),
            took_effect: FaultCounts::default(),
        }
    }

    /// Another disk in the place of this one, with nothing on it.
    pub(super) fn emptied(&self) -> Self {
        let (weather, full, took_effect) = (self.weather.clone(), self.full, self.took_effect);
        let gone = self.gone || self.number > CommitNumber(0);
        Self { full, weather, gone, took_effect, ..Self::new() }
    }

    /// What an older copy of this disk holds, put back in its place.
    pub(super) fn set_to(&mut self, older: Self) {
        let (weather, full, took_effect) = (self.weather.clone(), self.full, self.took_effect);
        *self = Self { full, weather, took_effect, ..older };
    }

    /// A copy of what is durable, as copying the folder of a running node leaves it.
    pub(super) fn copy(&self) -> Self {
        let (spaces, number) = (self.spaces.clone(), self.number);
        Self { spaces, number, announced: self.announced, clock: self.clock, ..Self::new() }
    }

    /// What has become durable since the last call.
    pub(super) fn take_applied(&mut self) -> Vec<Applied> {
        std::mem::take(&mut self.applied)
    }

    /// Queues a commit. True if the committer was asleep: then it must be stepped.
    pub(super) fn push(&mut self, source: Source, changes: Vec<Change>, clock: Stamp) -> bool {
        self.queue.push_back(Pending { source, changes, clock, refused: false });
        let asleep = !self.awake && self.phase == Phase::Idle;
        self.awake |= asleep;
        asleep
    }

    /// Fsyncs come back again. True if the committer must be stepped.
    pub(super) fn unstall(&mut self) -> bool {
        self.stalled = false;
        let asleep = !self.awake && self.phase == Phase::Syncing;
        self.awake |= asleep;
        asleep
    }

    /// Takes the committer one step on.
    pub(super) fn step(&mut self, rng: &mut impl Rng) -> Progress {
        let progress = self.advance(rng);
        self.awake = matches!(progress, Progress::Wait(_) | Progress::Synced(_));
        progress
    }

    fn advance(&mut self, rng: &mut impl Rng) -> Progress {
        match self.phase {
            Phase::Idle if self.queue.is_empty() => Progress::Idle,
            Phase::Idle => {
                self.form_group(rng);
                self.phase = Phase::Writing;
                Progress::Wait(rng.random_range(5..200))
            }
            Phase::Writing => {
                self.phase = Phase::Syncing;
                Progress::Wait(self.sync_time(rng))
            }
            Phase::Syncing if self.stalled => Progress::Idle,
            Phase::Syncing => {
                self.phase = Phase::Idle;
                if rng.random_range(0..10_000) < self.weather.fail_sync {
                    return Progress::Failed;
                }
                let group = std::mem::take(&mut self.group);
                for pending in &group {
                    self.apply(pending);
                }
                Progress::Synced(group)
            }
        }
    }

    fn form_group(&mut self, rng: &mut impl Rng) {
        let count = self.queue.len().min(GROUP_MAX);
        self.group.extend(self.queue.drain(..count));
        for pending in &mut self.group {
            // The control core's commits are tiny and retried by the driver: never refused.
            let refusable = matches!(pending.source, Source::Worker(..));
            let unlucky = rng.random_range(0..10_000) < self.weather.refuse;
            pending.refused = refusable && (self.full || unlucky);
            if pending.refused {
                let kind = if self.full { FaultKind::FullDisk } else { FaultKind::RefusedCommit };
                self.took_effect.count(kind);
            }
        }
    }

    fn sync_time(&mut self, rng: &mut impl Rng) -> Time {
        let weather = &self.weather;
        if weather.slow > 0 && rng.random_range(0..1000) < weather.slow {
            self.took_effect.count(FaultKind::SlowFsync);
            return rng.random_range(weather.sync_max..=weather.slow_max.max(weather.sync_max));
        }
        rng.random_range(weather.sync_min..=weather.sync_max)
    }

    fn apply(&mut self, pending: &Pending) {
        if pending.refused {
            return;
        }
        for change in &pending.changes {
            if !self.hurt.is_empty() {
                self.hurt.remove(&(change.space, change.key.clone()));
            }
            if change.space == Space::Records {
                self.latest = Some(change.key.clone());
            }
            let space = &mut self.spaces[index(change.space)];
            let before = match &change.value {
                Some(value) => space.insert(change.key.clone(), value.clone()),
                None => space.remove(&change.key),
            };
            self.applied.push(Applied { change: change.clone(), before });
        }
        self.number.0 += 1;
        if pending.source != Source::Note {
            self.announced = self.number;
        }
        self.clock = self.clock.max(pending.clock);
    }

    /// The process is gone: the queue is lost, what was written is synced by the recovery.
    /// Returns the commits that recovery found.
    pub(super) fn kill(&mut self) -> Vec<Pending> {
        let written = self.phase == Phase::Syncing;
        self.settle(if written { self.group.len() } else { 0 })
    }

    /// The machine is gone: of what was written but not synced a random prefix is left.
    pub(super) fn lose_power(&mut self, rng: &mut impl Rng) -> Vec<Pending> {
        let kept = match self.phase {
            Phase::Syncing => rng.random_range(0..=self.group.len()),
            Phase::Idle | Phase::Writing => 0,
        };
        let cut = self.phase == Phase::Syncing && kept < self.group.len();
        self.torn = cut && rng.random_ratio(1, 2);
        self.settle(kept)
    }

    /// A process opens the disk: what is left of a torn write is dropped.
    pub(super) fn recover(&mut self) {
        if std::mem::take(&mut self.torn) {
            self.took_effect.count(FaultKind::TornRecord);
        }
        if std::mem::take(&mut self.gone) {
            self.took_effect.count(FaultKind::WipedDisk);
        }
        if self.number > CommitNumber(0) {
            self.took_effect.count(FaultKind::Restart);
        }
    }

    fn settle(&mut self, kept: usize) -> Vec<Pending> {
        let mut group = std::mem::take(&mut self.group);
        group.truncate(kept);
        for pending in &group {
            self.apply(pending);
        }
        self.queue.clear();
        self.awake = false;
        self.phase = Phase::Idle;
        group
    }

    /// A process reads a key.
    pub(super) fn serve(&mut self, space: Space, key: &Bytes) -> Option<Bytes> {
        if !self.hurt.is_empty()
            && let Some(kind) = self.hurt.remove(&(space, key.clone()))
        {
            self.took_effect.count(kind);
        }
        self.read(space, key)
    }

    /// A process reads a page.
    pub(super) fn serve_page(
        &mut self,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        bytes_max: usize,
    ) -> Page {
        let page = self.scan(space, prefix, after, bytes_max);
        for (key, _) in &page.entries {
            if let Some(kind) = self.hurt.remove(&(space, key.clone())) {
                self.took_effect.count(kind);
            }
        }
        page
    }

    /// What is stored under a key.
    pub(super) fn read(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.spaces[index(space)].get(key).cloned()
    }

    /// A page of a map, as the store's contract says.
    pub(super) fn scan(&self, space: Space, prefix: &[u8], after: &[u8], bytes_max: usize) -> Page {
        let mut page = Page { entries: Vec::new(), done: true };
        let mut bytes = 0;
        let start = if after.is_empty() { prefix } else { after.max(prefix) };
        for (key, value) in self.spaces[index(space)]
            .range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded))
        {
            if !key.starts_with(prefix) {
                break;
            }
            if !after.is_empty() && key[..] <= *after {
                continue;
            }
            if !page.entries.is_empty() && bytes >= bytes_max {
                page.done = false;
                break;
            }
            bytes += key.len() + value.len();
            page.entries.push((key.clone(), value.clone()));
        }
        page
    }

    /// What it holds.
    pub(super) fn keep(&self) -> Spaces {
        self.spaces.clone()
    }

    /// It holds what it once held.
    pub(super) fn set_back(&mut self, spaces: Spaces) {
        self.spaces = spaces;
    }

    /// Everything in a map, for checkers.
    pub(super) fn entries(&self, space: Space) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.spaces[index(space)].iter()
    }

    /// The records of a partition.
    pub(super) fn partition(&self, of: Partition) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let prefix = Bytes::copy_from_slice(&of.0.to_be_bytes());
        let behind = self.spaces[index(Space::Records)].range(prefix.clone()..);
        behind.take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// How many entries a map has.
    pub(super) fn len(&self, space: Space) -> usize {
        self.spaces[index(space)].len()
    }

    /// The record that was written last, if it is still there.
    pub(super) fn latest(&self) -> Option<Bytes> {
        let latest = self.latest.as_ref()?;
        self.read(Space::Records, latest).map(|_| latest.clone())
    }

    /// The key of the `nth` entry of a map.
    pub(super) fn nth(&self, space: Space, nth: usize) -> Option<Bytes> {
        let nth = nth.checked_rem(self.len(space))?;
        self.spaces[index(space)].keys().nth(nth).cloned()
    }

    /// Flips a bit of what is stored under a key.
    pub(super) fn flip_bit(&mut self, space: Space, key: &Bytes, rng: &mut impl Rng) {
        let Some(value) = self.spaces[index(space)].get_mut(key) else { return };
        let mut bytes = value.to_vec();
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        *value = bytes.into();
        self.hurt.insert((space, key.clone()), FaultKind::BitFlip);
    }

    /// A record is gone, behind its owner's back. False if there was none.
    pub(super) fn forget(&mut self, key: &Bytes) -> bool {
        self.spaces[index(Space::Records)].remove(key).is_some()
    }

    /// What is stored of one record is written to the place of another, too; the key of that
    /// place, if there are two.
    pub(super) fn misdirect(&mut self, rng: &mut impl Rng) -> Option<Bytes> {
        let records = &mut self.spaces[index(Space::Records)];
        if records.len() < 2 {
            return None;
        }
        let from = rng.random_range(0..records.len());
        let to = (from + rng.random_range(1..records.len())) % records.len();
        let bytes = records.values().nth(from)?.clone();
        let (key, value) = records.iter_mut().nth(to)?;
        // An older state of the same record, which an earlier fault had taken elsewhere, would pass every
        // checksum: that is a disk set back, and another fault.
        if Place::of(Space::Records, key).is_some_and(|place| place.open(&bytes).is_some()) {
            return None;
        }
        *value = bytes;
        let key = key.clone();
        self.hurt.insert((Space::Records, key.clone()), FaultKind::MisdirectedWrite);
        Some(key)
    }

    /// The highest synced commit.
    pub(super) fn number(&self) -> CommitNumber {
        self.number
    }

    /// What peers are told of it: notes alone do not move it.
    pub(super) fn announced(&self) -> CommitNumber {
        self.announced
    }

    /// The highest clock of a synced commit.
    pub(super) fn clock(&self) -> Stamp {
        self.clock
    }

    /// How many commits have not been reported.
    pub(super) fn backlog(&self) -> usize {
        self.queue.len() + self.group.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    fn put(disk: &mut Disk, id: u64) {
        let key = Bytes::from(id.to_string());
        let change = Change { space: Space::Records, key, value: Some(Bytes::from_static(b"v")) };
        disk.push(Source::Worker(0, CommitId(id)), vec![change], Stamp(id));
    }

    fn disk() -> (Disk, ChaCha8Rng) {
        (Disk::new(), ChaCha8Rng::seed_from_u64(3))
    }

    #[test]
    fn a_commit_is_invisible_until_it_is_synced() {
        let (mut disk, mut rng) = disk();
        put(&mut disk, 1);
        assert!(matches!(disk.step(&mut rng), Progress::Wait(_)));
        assert!(matches!(disk.step(&mut rng), Progress::Wait(_)));
        assert_eq!(disk.read(Space::Records, b"1"), None);
        assert!(matches!(disk.step(&mut rng), Progress::Synced(group) if group.len() == 1));
        assert!(disk.read(Space::Records, b"1").is_some());
        assert_eq!(disk.clock(), Stamp(1));
    }

    #[test]
    fn a_kill_keeps_what_was_written_and_a_power_loss_a_prefix_of_it() {
        let mut left = [false; 4];
        for seed in 0..40 {
            let (mut disk, _) = disk();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            (1..=3).for_each(|id| put(&mut disk, id));
            disk.step(&mut rng);
            disk.step(&mut rng);
            put(&mut disk, 9);
            let found = disk.lose_power(&mut rng);
            assert_eq!(disk.read(Space::Records, b"9"), None, "a queued commit survived");
            for id in 1..=found.len() {
                assert!(disk.read(Space::Records, id.to_string().as_bytes()).is_some());
            }
            left[found.len()] = true;
        }
        assert_eq!(left, [true; 4], "not every prefix was met");

        let (mut disk, mut rng) = disk();
        (1..=3).for_each(|id| put(&mut disk, id));
        disk.step(&mut rng);
        disk.step(&mut rng);
        assert_eq!(disk.kill().len(), 3);
    }

    #[test]
    fn a_full_disk_refuses_workers_and_stores_nothing_of_theirs() {
        let (mut disk, mut rng) = disk();
        disk.full = true;
        put(&mut disk, 1);
        disk.step(&mut rng);
        disk.step(&mut rng);
        assert!(matches!(disk.step(&mut rng), Progress::Synced(group) if group[0].refused));
        assert_eq!(disk.read(Space::Records, b"1"), None);
    }

    #[test]
    fn a_scan_in_pages_meets_every_key_of_the_prefix_once() {
        let (mut disk, mut rng) = disk();
        for key in ["a", "b1", "b2", "b3", "c"] {
            let (key, value) = (Bytes::from(key), Some(Bytes::from_static(b"v")));
            let change = Change { space: Space::Hints, key, value };
            disk.push(Source::Control(1), vec![change], Stamp(0));
        }
        (0..3).for_each(|_| _ = disk.step(&mut rng));
        let (mut met, mut after) = (Vec::new(), Bytes::new());
        loop {
            let page = disk.scan(Space::Hints, b"b", &after, 1);
            assert_eq!(page.entries.len(), 1);
            after = page.entries[0].0.clone();
            met.push(after.clone());
            if page.done {
                break;
            }
        }
        assert_eq!(met, ["b1", "b2", "b3"]);
    }
}
