//! Leading an exchange with another home: one session.
//!
//! ```text
//!   Comparing ──Roots──▶ Leafing(partition) ──Leaves──▶ Reading ─▶ Asking ─▶ Merging ─┐
//!       │                    ▲    a partition is done      ▲     page by page         │
//!       └─Equal─▶ end        └────────────────────────────┴──────────────────────────┘
//! ```
//!
//! A page is done when what the other home sent is durable here, and what was sent to it is
//! durable there. A step that fails (silence, a store that does not take it) is done again from
//! the page's start; all of it may be done twice.

use super::batch::Then;
use super::pace::{Pace, Turn, weight};
use super::serve::PAGE_BYTES;
use super::{Goal, SessionId, shared};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, SyncAnswer, SyncAsk, SyncDifference, SyncRange};
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::{Effect, Event, Page, ReadFailed};
use crate::protocol::tree::{LeafSet, fold, leaf_of};
use crate::protocol::worker::replica::scan_effect;
use crate::protocol::worker::timers::Timer;
use crate::protocol::worker::{Purpose, Reading, Worker};
use crate::types::{Key, NodeId, Now, Partition, RoundNumber};

/// How long one step may take, in microseconds: a page is read, or committed, on a slow disk.
const PATIENCE: u64 = 5_000_000;
/// A step is tried so often in a row.
const TRIES_MAX: u32 = 4;
/// How long to wait before a step is tried again, in milliseconds.
const RETRY_MS: u64 = 500;
/// Pages of one partition in one session: 1 TiB of records. A list of pages that goes on beyond
/// that is cut off.
const PAGES_MAX: u32 = 1 << 24;

/// An exchange that this node leads.
#[derive(Debug)]
pub(super) struct Session {
    goal: Goal,
    node: NodeId,
    stage: Stage,
    /// Partitions whose roots differ and that are not done, the next one last.
    todo: Vec<Partition>,
    walk: Option<Walk>,
    tries: u32,
    /// Records that were fetched or sent.
    mended: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To go on once the rate allows it, or after a failure.
    Paused,
    Comparing,
    Leafing(Partition),
    Reading,
    Asking,
    Merging,
}

/// The walk through the keys of a partition, in some leaves.
#[derive(Debug)]
struct Walk {
    partition: Partition,
    leaves: LeafSet,
    /// All up to this key is done; empty: nothing.
    after: bytes::Bytes,
    pages: u32,
    /// What the page has been given of the rate.
    turn: Turn,
    /// The round that the own copy was of when the page was asked for.
    round: RoundNumber,
    /// What this node holds of the page, in order.
    own: Vec<(Key, Sealed)>,
    /// Where the page ends; none: with the partition.
    end: Option<Key>,
    /// What the page still waits for: the own disk, the other home.
    waits: u32,
    failed: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Equal,
    Mended,
    Failed,
    Refused(&'static str),
}

impl Session {
    pub fn goal(&self) -> Goal {
        self.goal
    }

    fn new(goal: Goal, node: NodeId) -> Self {
        let (walk, todo) = match goal {
            Goal::Compare(_) => (None, vec![]),
            Goal::Rebuild(partition) => (Some(Walk::new(partition, LeafSet::ALL)), vec![]),
            Goal::Transfer(partition) => (None, vec![partition]),
        };
        Self { goal, node, stage: Stage::Paused, todo, walk, tries: 0, mended: 0 }
    }

    /// It ends: the turn of a page that has not moved is over.
    pub(super) fn give_back(&self, pace: &mut Pace) {
        if let Some(walk) = &self.walk {
            pace.give_back(self.goal, walk.turn);
        }
    }
}

impl Walk {
    fn new(partition: Partition, leaves: LeafSet) -> Self {
        Self {
            partition,
            leaves,
            after: bytes::Bytes::new(),
            pages: 0,
            turn: Turn::default(),
            round: RoundNumber::default(),
            own: vec![],
            end: None,
            waits: 0,
            failed: false,
        }
    }
}

impl Worker {
    pub(super) fn session_start(
        &mut self,
        now: Now,
        goal: Goal,
        node: NodeId,
        out: &mut Vec<Effect>,
    ) {
        self.sync.last_session += 1;
        let id = SessionId(self.sync.last_session);
        let session = Session::new(goal, node);
        let walks = session.walk.is_some() || !session.todo.is_empty();
        self.sync.sessions.insert(id, session);
        if walks {
            return self.session_next(now, id, out);
        }
        let Goal::Compare(lane) = goal else { return };
        let Some(view) = &self.view else { return self.session_end(now, id, End::Failed, out) };
        let partitions = shared(view, lane, node);
        match self.roots(&partitions) {
            Some(roots) => {
                let ask = SyncAsk::Fold(fold(roots));
                self.session_ask(now, id, Stage::Comparing, Partition(lane), ask, out);
            }
            None => self.session_end(now, id, End::Failed, out),
        }
    }

    fn session_ask(
        &mut self,
        now: Now,
        id: SessionId,
        stage: Stage,
        partition: Partition,
        ask: SyncAsk,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sync.sessions.get_mut(&id) else { return };
        session.stage = stage;
        let node = session.node;
        let message = |call| DataMessage::Sync(call, ask);
        let purpose = Purpose::Sync { session: id };
        self.call_within(now, node, PATIENCE, purpose, partition, None, message, out);
    }

    /// Takes the next step: a page, when its turn has come.
    fn session_next(&mut self, now: Now, id: SessionId, out: &mut Vec<Effect>) {
        let Some(session) = self.sync.sessions.get_mut(&id) else { return };
        if let Some(walk) = &mut session.walk {
            let (at, turn) = self.sync.pace.turn(now, &self.config.tuning, session.goal);
            walk.turn = turn;
            if at > now.mono {
                session.stage = Stage::Paused;
                return self.arm(at, Timer::Sync(id));
            }
        }
        self.session_go(now, id, out);
    }

    /// A pause is over.
    pub(in crate::protocol::worker) fn sync_resume(
        &mut self,
        now: Now,
        id: SessionId,
        out: &mut Vec<Effect>,
    ) {
        let stage = self.sync.sessions.get(&id).map(|session| session.stage);
        if stage == Some(Stage::Paused) {
            self.session_go(now, id, out);
        }
    }

    fn session_go(&mut self, now: Now, id: SessionId, out: &mut Vec<Effect>) {
        let Some(session) = self.sync.sessions.get_mut(&id) else { return };
        if let Some(walk) = &mut session.walk {
            let (partition, after) = (walk.partition, walk.after.clone());
            session.stage = Stage::Reading;
            walk.round = self.collect.number(partition);
            let token = self.next_token();
            self.reads.insert(token, Reading::SyncOwn(id));
            out.push(scan_effect(token, partition, &after, PAGE_BYTES));
        } else if let Some(partition) = session.todo.pop() {
            self.session_ask(now, id, Stage::Leafing(partition), partition, SyncAsk::Leaves, out);
        } else {
            self.session_end(now, id, End::Mended, out);
        }
    }

    /// The other home has answered.
    pub(in crate::protocol::worker) fn sync_answered(
        &mut self,
        now: Now,
        id: SessionId,
        answer: SyncAnswer,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sync.sessions.get_mut(&id) else { return };
        match (session.stage, answer) {
            (Stage::Comparing, SyncAnswer::Equal) => self.session_end(now, id, End::Equal, out),
            (Stage::Comparing, SyncAnswer::Roots(roots)) => self.compared(now, id, &roots, out),
            (Stage::Leafing(partition), SyncAnswer::Leaves(theirs)) => {
                let own = self.trees.known(partition);
                // Whoever does not know its own tree goes through everything.
                let mut leaves = own.map_or(LeafSet::ALL, |own| own.differing(&theirs));
                if self.has(Defect::SkipLeaf) {
                    leaves = leaves.without_first();
                }
                let Some(session) = self.sync.sessions.get_mut(&id) else { return };
                session.walk = (!leaves.is_empty()).then(|| Walk::new(partition, leaves));
                self.session_next(now, id, out);
            }
            (Stage::Asking, SyncAnswer::Page(page)) => self.page_answered(now, id, page, out),
            (Stage::Merging, SyncAnswer::Stored) => self.session_merged(now, id, true, out),
            (Stage::Merging, _) => self.session_merged(now, id, false, out),
            (_, SyncAnswer::NotNow) => self.session_retry(now, id, out),
            (_, SyncAnswer::NotMine) => self.session_end(now, id, End::Failed, out),
            _ => self.session_end(now, id, End::Refused("an answer to another question"), out),
        }
    }

    /// The other home's roots are known: those that differ are gone into.
    fn compared(
        &mut self,
        now: Now,
        id: SessionId,
        theirs: &[(Partition, u128)],
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sync.sessions.get(&id) else { return };
        let (Goal::Compare(lane), node) = (session.goal, session.node) else { return };
        let partitions = self.view.as_ref().map(|view| shared(view, lane, node));
        let ours = self.roots(&partitions.unwrap_or_default()).unwrap_or_default();
        let (mut equal, mut todo) = (vec![], vec![]);
        for (partition, root) in ours {
            match theirs.binary_search_by_key(&partition, |(partition, _)| *partition) {
                Ok(at) if theirs[at].1 == root => equal.push(partition),
                Ok(_) => todo.push(partition),
                Err(_) => {}
            }
        }
        self.agreed(now, node, &equal);
        let Some(session) = self.sync.sessions.get_mut(&id) else { return };
        session.todo = todo;
        self.session_next(now, id, out);
    }

    /// The own part of a page has been read.
    pub(in crate::protocol::worker) fn sync_own_read(
        &mut self,
        now: Now,
        id: SessionId,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Some(Session { walk: Some(walk), .. }) = self.sync.sessions.get(&id) else { return };
        let (partition, leaves) = (walk.partition, walk.leaves);
        let Ok(page) = result else { return self.session_retry(now, id, out) };
        let done = page.done;
        let entries = self.verified(now, partition, page, out);
        let end = entries.last().map(|(key, _)| key.clone()).filter(|_| !done);
        let whole = entries.into_iter().filter_map(|(key, sealed)| Some((key, sealed?)));
        let own: Vec<_> = whole.filter(|(key, _)| leaves.contains(leaf_of(key))).collect();
        let held: Vec<_> = own.iter().map(|(key, sealed)| (key.clone(), sealed.hash())).collect();
        let round = self.round(partition);
        let Some(Session { walk: Some(walk), .. }) = self.sync.sessions.get_mut(&id) else {
            return;
        };
        walk.round = round.min(walk.round);
        (walk.own, walk.end) = (own, end.clone());
        let (round, after) = (walk.round, walk.after.clone());
        let range = SyncRange { round, leaves, after, end, held };
        self.session_ask(now, id, Stage::Asking, partition, SyncAsk::Page(range), out);
    }

    /// The other home has told how it differs in a page: takes over what it holds, and sends it
    /// what it lacks.
    fn page_answered(
        &mut self,
        now: Now,
        id: SessionId,
        page: SyncDifference,
        out: &mut Vec<Effect>,
    ) {
        let Some(Session { walk: Some(walk), goal, node, .. }) = self.sync.sessions.get_mut(&id)
        else {
            return;
        };
        let (goal, node, partition) = (*goal, *node, walk.partition);
        walk.pages += 1;
        if let Err(why) = walk.check(&page) {
            return self.session_end(now, id, End::Refused(why), out);
        }
        let Some(records) = self.opened(partition, &page.records) else {
            let why = "a record is damaged, or of another partition";
            return self.session_end(now, id, End::Refused(why), out);
        };
        let Some(Session { walk: Some(walk), stage, mended, .. }) = self.sync.sessions.get_mut(&id)
        else {
            return;
        };
        let (push, is_own) = walk.to_push(&page, &records);
        // A transfer speaks for what is held here; the other home speaks for itself.
        let fetched = if matches!(goal, Goal::Transfer(_)) { vec![] } else { records };
        let oldest = if is_own { walk.round } else { walk.round.min(page.round) };
        walk.end = page.end.or(walk.end.take());
        walk.waits = 1 + u32::from(!push.is_empty());
        walk.failed = false;
        walk.own.clear();
        *stage = Stage::Merging;
        *mended += (fetched.len() + push.len()) as u64;
        let turn = std::mem::take(&mut walk.turn);
        let both = page.records.iter().chain(&push);
        let bytes: usize = both.map(|(key, it)| key.bytes().len() + it.stored().len()).sum();
        self.stats.sync_records += (fetched.len() + push.len()) as u64;
        self.stats.sync_bytes += bytes as u64;
        let weight = weight(bytes, page.records.len() + push.len());
        self.sync.pace.settle(now, &self.config.tuning, goal, turn, weight);
        // Before the push: what has only now heard where the rounds are refuses it if it is older.
        self.tell_if_behind(node, partition, page.round, out);
        if !push.is_empty() {
            self.session_ask(now, id, Stage::Merging, partition, SyncAsk::Push(oldest, push), out);
        }
        self.merge_all(now, partition, page.round, fetched, Then::Session(id), out);
    }

    /// What was fetched is durable here, or what was sent is durable there; or it failed.
    pub(super) fn session_merged(
        &mut self,
        now: Now,
        id: SessionId,
        durable: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sync.sessions.get_mut(&id) else { return };
        let Some(walk) = session.walk.as_mut() else { return };
        walk.waits = walk.waits.saturating_sub(1);
        walk.failed |= !durable;
        if walk.waits > 0 {
            return;
        }
        if walk.failed {
            return self.session_retry(now, id, out);
        }
        session.tries = 0;
        let goal = session.goal;
        match walk.end.take() {
            Some(end) => walk.after = end.bytes().clone(),
            None => session.walk = None,
        }
        if session.walk.is_none() && matches!(goal, Goal::Rebuild(_)) {
            return self.session_end(now, id, End::Mended, out);
        }
        self.session_next(now, id, out);
    }

    /// The other home was silent.
    pub(in crate::protocol::worker) fn sync_silent(
        &mut self,
        now: Now,
        id: SessionId,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sync.sessions.get(&id) else { return };
        if session.stage == Stage::Merging {
            return self.session_merged(now, id, false, out);
        }
        self.session_retry(now, id, out);
    }

    /// A step has failed: it is done again from the page's start, unless it has failed too often.
    fn session_retry(&mut self, now: Now, id: SessionId, out: &mut Vec<Effect>) {
        let Some(session) = self.sync.sessions.get_mut(&id) else { return };
        session.tries += 1;
        let reachable = self.peers.reachable(session.node);
        if session.walk.is_none() || session.tries >= TRIES_MAX || !reachable {
            return self.session_end(now, id, End::Failed, out);
        }
        session.stage = Stage::Paused;
        self.arm(now.mono.after_millis(RETRY_MS), Timer::Sync(id));
    }

    fn session_end(&mut self, now: Now, id: SessionId, end: End, out: &mut Vec<Effect>) {
        let Some(session) = self.sync.sessions.remove(&id) else { return };
        session.give_back(&mut self.sync.pace);
        let Session { goal, node, mended, .. } = session;
        self.sync.wanted.remove(&(goal, node));
        match end {
            End::Equal | End::Mended => {
                self.stats.syncs += 1;
                self.stats.syncs_equal += u64::from(end == End::Equal);
            }
            End::Failed => {
                self.stats.syncs_failed += 1;
                // Transfers and rebuildings ask again by themselves, and soon.
                if matches!(goal, Goal::Compare(_)) {
                    self.sync_later(now, goal, node);
                }
            }
            End::Refused(why) => {
                self.stats.syncs_refused += 1;
                out.push(Effect::Event(Event::SyncRefused(node, why)));
            }
        }
        if mended > 0 {
            out.push(Effect::Event(Event::Mended(node, mended)));
        }
        match (goal, end) {
            (Goal::Compare(lane), End::Equal) => {
                let view = self.view.as_ref();
                let partitions = view.map(|view| shared(view, lane, node)).unwrap_or_default();
                self.agreed(now, node, &partitions);
            }
            (Goal::Rebuild(partition), End::Mended) => self.lost_merged(partition, node, out),
            (Goal::Transfer(partition), End::Mended) => self.brought(now, partition, node, out),
            _ => {}
        }
        self.sync_more(now, out);
    }

    /// Another home was seen to hold the same of some partitions.
    pub(super) fn agreed(&mut self, now: Now, node: NodeId, partitions: &[Partition]) {
        for &partition in partitions {
            let agreed = &mut self.trees.of(partition).agreed;
            agreed.retain(|(other, _)| *other != node);
            agreed.push((node, now.wall));
        }
    }
}

impl Walk {
    /// Whether an answer stays within its question, and gets ahead.
    fn check(&self, page: &SyncDifference) -> Result<(), &'static str> {
        if self.pages > PAGES_MAX {
            return Err("its pages do not end");
        }
        if let Some(end) = &page.end {
            if *end.bytes() <= self.after {
                return Err("a page that does not get ahead");
            }
            if self.end.as_ref().is_some_and(|asked| end > asked) {
                return Err("a page beyond what was asked for");
            }
        }
        Ok(())
    }

    /// What the other home lacks of the own page, merged with what it sent of the same key; and whether
    /// that is the own copy, all of it.
    fn to_push(
        &self,
        page: &SyncDifference,
        theirs: &[(Key, Record)],
    ) -> (Vec<(Key, Sealed)>, bool) {
        let (mut push, mut is_own) = (Vec::new(), true);
        for key in &page.wanted {
            let Ok(at) = self.own.binary_search_by(|(own, _)| own.cmp(key)) else { continue };
            let own = &self.own[at].1;
            let Ok(sent) = page.records.binary_search_by(|(sent, _)| sent.cmp(key)) else {
                push.push((key.clone(), own.clone()));
                continue;
            };
            let Ok(record) = own.open(self.partition, key) else { continue };
            let merged = record.merge(&theirs[sent].1).seal(self.partition, key);
            if merged != page.records[sent].1 {
                is_own &= merged == *own;
                push.push((key.clone(), merged));
            }
        }
        (push, is_own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{Content, Sibling, VersionVector};
    use crate::types::{Actor, Dot, Stamp};

    fn key(text: &'static str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn an_answer_stays_within_its_question_gets_ahead_and_comes_to_an_end() {
        let round = RoundNumber::default();
        let page = |end| SyncDifference { round, end, records: vec![], wanted: vec![] };
        let mut walk = Walk::new(Partition(0), LeafSet::ALL);
        (walk.after, walk.end) = ("b".into(), Some(key("d")));
        assert_eq!(walk.check(&page(None)), Ok(()));
        assert_eq!(walk.check(&page(Some(key("c")))), Ok(()));
        assert_eq!(walk.check(&page(Some(key("b")))), Err("a page that does not get ahead"));
        assert_eq!(walk.check(&page(Some(key("e")))), Err("a page beyond what was asked for"));
        walk.pages = PAGES_MAX + 1;
        assert_eq!(walk.check(&page(Some(key("c")))), Err("its pages do not end"));
    }

    #[test]
    fn what_both_hold_is_pushed_merged_and_only_if_that_is_something_else() {
        let partition = Partition(0);
        let of = |actor: u64| {
            let dot = Dot::new(Actor(actor), Stamp(5));
            let content = Content::Value("v".into());
            let sibling = Sibling { dot, content, expiry: None, request: None };
            Record::default().write(&VersionVector::default(), sibling)
        };
        let seal = |record: &Record| (key("k"), record.seal(partition, &key("k")));
        let both = of(1).merge(&of(2));
        for (own, theirs, pushed) in [
            (of(1), Some(of(2)), Some(both.clone())),
            (of(1), Some(both.clone()), None),
            (both.clone(), Some(of(2)), Some(both.clone())),
            (of(1), None, Some(of(1))),
        ] {
            let mut walk = Walk::new(partition, LeafSet::ALL);
            walk.own = vec![seal(&own)];
            let records: Vec<_> = theirs.iter().map(seal).collect();
            let (round, wanted) = (RoundNumber::default(), vec![key("k"), key("z")]);
            let page = SyncDifference { round, end: None, records, wanted };
            let opened: Vec<_> = theirs.into_iter().map(|record| (key("k"), record)).collect();
            let (push, is_own) = walk.to_push(&page, &opened);
            assert_eq!(is_own, push.iter().all(|(_, sealed)| *sealed == walk.own[0].1));
            assert_eq!(push, pushed.iter().map(seal).collect::<Vec<_>>());
        }
    }
}
