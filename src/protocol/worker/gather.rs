//! Gathering: reading a key from enough homes.
//!
//! Reads ask this node's own copy first, if it is a home, then others in order of their speed,
//! each with the hash and the dots of what is held here, so that equals travel as one word. Where
//! a home is down, a fallback that keeps a hint for it answers in its place; a fallback without a
//! hint gives no answer at all. What counts are distinct nodes in distinct home slots.

use std::sync::Arc;

use bytes::Bytes;

use super::cells::{CellId, open_stored, stored_hash};
use super::recent::Since;
use super::route::Route;
use super::{Op, OpKey, Purpose, Reading, Worker};
use crate::protocol::message::{DataMessage, Known, ReadAnswer, ReadRequest};
use crate::protocol::quorum::Tally;
use crate::protocol::record::Record;
use crate::protocol::step::{Effect, ReadFailed};
use crate::types::{Key, NodeId, Now, RecordHash, RoundNumber, TraceContext};

/// Someone who can answer for a slot.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    slot: usize,
    node: NodeId,
    hint: bool,
}

#[derive(Debug)]
struct Asked {
    who: Candidate,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Outstanding,
    /// Past its time, and someone else may be asked; it still counts when it comes.
    Late,
    Failed,
    Holds(Record),
}

/// A read of one key under way.
#[derive(Debug)]
pub(super) struct Gather {
    pub route: Arc<Route>,
    pub key: Key,
    pub needed: usize,
    pub trace: Option<TraceContext>,
    /// The lowest round that anything is of that was gathered.
    pub round: RoundNumber,
    candidates: Vec<Candidate>,
    next: usize,
    asked: Vec<Asked>,
    tally: Tally,
    merged: Option<Record>,
    /// What this node holds durably itself, and its hash: peers are told of it.
    own: Option<(Record, RecordHash)>,
}

/// Where a gather stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Enough,
    Waiting,
    /// Nobody is left to ask.
    Exhausted,
}

impl Gather {
    fn new(
        route: Arc<Route>,
        key: Key,
        needed: usize,
        candidates: Vec<Candidate>,
        round: RoundNumber,
    ) -> Self {
        Self {
            route,
            key,
            needed,
            trace: None,
            round,
            candidates,
            next: 0,
            asked: Vec::new(),
            tally: Tally::default(),
            merged: None,
            own: None,
        }
    }

    /// What all answers so far amount to.
    pub fn merged(&self) -> Record {
        self.merged.clone().unwrap_or_default()
    }

    pub fn progress(&self) -> Progress {
        if self.tally.count() >= self.needed {
            Progress::Enough
        } else if self.idle() && self.next == self.candidates.len() {
            Progress::Exhausted
        } else {
            Progress::Waiting
        }
    }

    /// Whether nobody is left to be waited for.
    pub fn idle(&self) -> bool {
        !self.asked.iter().any(|asked| matches!(asked.answer, Answer::Outstanding | Answer::Late))
    }

    fn outstanding(&self) -> usize {
        self.asked.iter().filter(|asked| matches!(asked.answer, Answer::Outstanding)).count()
    }

    /// Nodes that have answered, and those that have not.
    pub fn reached(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let mut split = (vec![], vec![]);
        for asked in &self.asked {
            match asked.answer {
                Answer::Holds(_) => split.0.push(asked.who.node),
                _ => split.1.push(asked.who.node),
            }
        }
        split
    }

    /// The slots whose home is known to hold exactly `record`, and whether any home that
    /// answered holds something else.
    pub fn compare(&self, record: &Record) -> (Vec<usize>, bool) {
        let mut equal = vec![];
        let mut divergent = false;
        for asked in self.asked.iter().filter(|asked| !asked.who.hint) {
            if let Answer::Holds(held) = &asked.answer {
                if held == record {
                    equal.push(asked.who.slot);
                } else {
                    divergent = true;
                }
            }
        }
        (equal, divergent)
    }

    /// Whether every answer that counts is the same record.
    pub fn unanimous(&self) -> bool {
        let merged = self.merged();
        self.asked.iter().all(|asked| match &asked.answer {
            Answer::Holds(held) => *held == merged,
            _ => true,
        })
    }

    /// Takes in what this node holds itself.
    fn accept_own(&mut self, ask: usize, held: Option<(Record, Option<RecordHash>)>) {
        let Some((record, hash)) = held else {
            self.asked[ask].answer = Answer::Failed;
            return;
        };
        if let (false, Some(hash)) = (self.asked[ask].who.hint, hash) {
            self.own = Some((record.clone(), hash));
        }
        self.accept(ask, record);
    }

    fn accept(&mut self, ask: usize, record: Record) {
        let who = self.asked[ask].who;
        self.tally.ack(who.slot, who.node);
        self.merged = Some(match self.merged.take() {
            None => record.clone(),
            Some(merged) if merged == record => merged,
            Some(merged) => merged.merge(&record),
        });
        self.asked[ask].answer = Answer::Holds(record);
    }
}

impl Worker {
    /// A gather that has asked nobody yet. A strict one counts no hints.
    pub(super) fn gather(
        &self,
        route: Arc<Route>,
        key: Key,
        needed: usize,
        strict: bool,
    ) -> Gather {
        let own = route.own.filter(|_| !self.is_rebuilding(route.partition, &key));
        let others = route.slots.iter().enumerate().filter(|&(slot, _)| Some(slot) != route.own);
        let others = others.filter_map(|(slot, &(_, node))| Some((slot, node?)));
        let (mut up, down): (Vec<_>, Vec<_>) =
            others.partition(|&(_, node)| self.peers.reachable(node));
        up.sort_by_key(|&(slot, node)| (self.peers.latency(node) / 1024, slot));
        let home = |(slot, node)| Candidate { slot, node, hint: false };
        let mut candidates: Vec<Candidate> =
            own.map(|slot| home((slot, route.view.me))).into_iter().collect();
        candidates.extend(up.into_iter().map(home));
        if !strict && !down.is_empty() {
            let fallbacks = self.live_fallbacks(&route, route.view.reads_place());
            for &(slot, _) in &down {
                candidates.extend(fallbacks.iter().map(|&node| Candidate {
                    slot,
                    node,
                    hint: true,
                }));
            }
        }
        candidates.extend(down.into_iter().map(home));
        let round = self.round(route.partition);
        Gather::new(route, key, needed, candidates, round)
    }

    /// Asks as many as are needed, if they all answer. This node's own copy is awaited first.
    pub(super) fn gather_more(
        &mut self,
        now: Now,
        op: OpKey,
        gather: &mut Gather,
        out: &mut Vec<Effect>,
    ) {
        while gather.tally.count() + gather.outstanding() < gather.needed {
            if !self.gather_next(now, op, gather, out) {
                return;
            }
            let own_first =
                gather.asked.len() == 1 && gather.asked[0].who.node == gather.route.view.me;
            if own_first && matches!(gather.asked[0].answer, Answer::Outstanding) {
                return;
            }
        }
    }

    /// Asks the next candidate; false if there is none.
    pub(super) fn gather_next(
        &mut self,
        now: Now,
        op: OpKey,
        gather: &mut Gather,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(&who) = gather.candidates.get(gather.next) else { return false };
        gather.next += 1;
        let ask = gather.asked.len();
        gather.asked.push(Asked { who, answer: Answer::Outstanding });
        let (partition, key) = (gather.route.partition, gather.key.clone());
        let hint_for = who
            .hint
            .then(|| gather.route.view.reads().member_name(gather.route.slots[who.slot].0).clone());
        if who.node == gather.route.view.me {
            gather.round = gather.round.min(self.round_read(partition, who.hint));
            let id = CellId { hint_for, partition, key };
            if id.hint_for.is_none()
                && let Some(stored) = self.recent.get(&id.key)
            {
                let held = self.own_answer(now, &id, Ok(Some(stored)), out);
                gather.accept_own(ask, held);
                return true;
            }
            let token = self.next_token();
            self.reads.insert(token, Reading::Gather { op, ask, since: self.recent.since() });
            out.push(Effect::Read { token, space: id.space(), key: id.store_key() });
            return true;
        }
        let known = gather.own.as_ref().map(|(own, hash)| Known {
            hash: *hash,
            dots: own.siblings().iter().map(|sibling| sibling.dot).collect(),
        });
        let purpose = Purpose::Gather { op, ask };
        let message = |call| DataMessage::Read(ReadRequest { call, key, hint_for, known });
        self.call(now, who.node, purpose, partition, gather.trace, message, out);
        true
    }

    /// How long to wait before another candidate is asked, in microseconds.
    pub(super) fn gather_patience(&self, gather: &Gather) -> u64 {
        let waiting = gather.asked.iter().filter(|a| matches!(a.answer, Answer::Outstanding));
        let slowest = waiting.map(|asked| self.peers.patience(asked.who.node)).max();
        slowest.unwrap_or(0).clamp(self.config.tuning.hedge_min, self.config.tuning.replica_timeout)
    }

    /// This node's own copy, or the hint that it keeps, has been read.
    pub(super) fn gather_read(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        since: Since,
        result: Result<Option<Bytes>, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Some(gather) = self.gather_of(op) else { return };
        let who = gather.asked[ask].who;
        let target = gather.route.slots[who.slot].0;
        let hint_for = who.hint.then(|| gather.route.view.reads().member_name(target).clone());
        let id = CellId { hint_for, partition: gather.route.partition, key: gather.key.clone() };
        if let (false, Ok(Some(stored))) = (who.hint, &result) {
            self.keep_read(&id.key, stored, since);
        }
        let held = self.own_answer(now, &id, result, out);
        let round = self.round_read(id.partition, who.hint);
        let Some(gather) = self.gather_of(op) else { return };
        gather.round = gather.round.min(round);
        gather.accept_own(ask, held);
        self.gathered(now, op, out);
    }

    /// What this node's own copy, or its hint, answers; nothing if it is damaged, or no hint.
    fn own_answer(
        &mut self,
        now: Now,
        id: &CellId,
        result: Result<Option<Bytes>, ReadFailed>,
        out: &mut Vec<Effect>,
    ) -> Option<(Record, Option<RecordHash>)> {
        match result {
            // The absence of a hint is no answer; the absence of a home's own copy is one.
            Ok(None) => id.hint_for.is_none().then(|| (Record::default(), None)),
            Ok(Some(stored)) => {
                let hash = stored_hash(&stored);
                let opened = open_stored(id, stored);
                if opened.is_err() {
                    self.record_lost(now, id, out);
                }
                opened.ok().map(|record| (record, hash))
            }
            Err(ReadFailed) => None,
        }
    }

    /// A peer has answered.
    pub(super) fn gather_answered(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        from: NodeId,
        round: RoundNumber,
        answer: ReadAnswer,
        out: &mut Vec<Effect>,
    ) {
        let Some(partition) = self.gather_of(op).map(|gather| gather.route.partition) else {
            return;
        };
        let over = self.is_below_drained(partition, round);
        if over {
            self.tell_if_behind(from, partition, round, out);
        }
        let Some(gather) = self.gather_of(op) else { return };
        let key = gather.key.clone();
        let own = gather.own.clone().map(|own| own.0).unwrap_or_default();
        let adds = matches!(answer, ReadAnswer::Record(_) | ReadAnswer::Partial(_));
        let record = match answer {
            _ if over => None,
            ReadAnswer::Equal => Some(own),
            ReadAnswer::Absent => Some(Record::default()),
            ReadAnswer::Record(sealed) => sealed.open(partition, &key).ok(),
            ReadAnswer::Partial(partial) => partial.fill(partition, &key, &own).ok(),
            ReadAnswer::NoHint | ReadAnswer::NotMine | ReadAnswer::Rebuilding => None,
        };
        match record {
            Some(record) => {
                if adds {
                    gather.round = gather.round.min(round);
                }
                gather.accept(ask, record);
            }
            None => gather.asked[ask].answer = Answer::Failed,
        }
        self.gathered(now, op, out);
    }

    /// A peer has not answered in time: someone else may be asked as well.
    pub(super) fn gather_late(&mut self, now: Now, op: OpKey, ask: usize, out: &mut Vec<Effect>) {
        let Some(gather) = self.gather_of(op) else { return };
        if matches!(gather.asked[ask].answer, Answer::Outstanding) {
            gather.asked[ask].answer = Answer::Late;
            self.gathered(now, op, out);
        }
    }

    /// A peer cannot be reached, or was silent for very long.
    pub(super) fn gather_failed(&mut self, now: Now, op: OpKey, ask: usize, out: &mut Vec<Effect>) {
        let Some(gather) = self.gather_of(op) else { return };
        gather.asked[ask].answer = Answer::Failed;
        self.gathered(now, op, out);
    }

    fn gather_of(&mut self, op: OpKey) -> Option<&mut Gather> {
        match self.ops.get_mut(&op)? {
            Op::Get(get) => Some(&mut get.gather),
            Op::Put(put) => put.gather.as_mut(),
            Op::Pass(_) | Op::Scan(_) | Op::Rebuild(_) => None,
        }
    }

    fn gathered(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        match self.ops.get(&op) {
            Some(Op::Get(_)) => self.get_gathered(now, op, out),
            Some(Op::Put(_)) => self.put_gathered(now, op, out),
            _ => {}
        }
    }
}
