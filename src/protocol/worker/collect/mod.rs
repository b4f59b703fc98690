//! Collection: how dead records go for good, round by round (see [`crate::protocol::rounds`]).
//!
//! ```text
//!   sweep ── finds dead records ──▶ drive ── asks ──▶ every member: this file, drain, look
//!   (the home with the lowest name)                  aside: a copy that no round knows
//! ```
//!
//! Here is the part of every member: where the rounds of each partition are, what that means for what
//! comes in, and the answers to a driver. A state is durable before anyone is told of it, and one change
//! of a partition's state is under way at a time; a question that comes meanwhile is not answered, and
//! is asked again. (What a newcomer is told it takes for known at once: if it forgets that, it is told again.)

mod aside;
mod brought;
mod close;
mod drain;
mod drive;
mod look;
mod members;
mod newcomer;
mod origin;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use self::aside::Moving;
use self::brought::Brought;
use self::close::Applying;
use self::drain::Draining;
use self::drive::{Drive, Stage};
pub(super) use self::look::LookId;
use self::look::Looks;
use self::newcomer::{ASKS_WHERE, Newcomers};
use self::origin::Joined;
use self::sweep::Sweep;
use super::cells::{CellId, Incoming, Waiter};
use super::timers::Timer;
use super::{Reading, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, RoundMessage};
use crate::protocol::meta::partition_key;
use crate::protocol::rounds::{Cut, CutId, Rounds, Verdict};
use crate::protocol::step::{Effect, Page, ReadFailed};
use crate::types::{Key, Mono, NodeId, Now, Partition, RoundNumber};

/// Keys of `Space::Meta` under which the rounds of a partition are kept: `prefix ‖ partition`.
const PREFIX: &[u8] = b"rounds/";
/// How long to wait before a store that could not be read is read again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// What a worker knows of the rounds of its partitions.
#[derive(Debug, Default)]
pub(super) struct Collect {
    rounds: FxHashMap<Partition, Rounds>,
    /// Partitions whose state is being committed.
    committing: BTreeSet<Partition>,
    /// Partitions whose cut is being applied.
    applying: BTreeMap<Partition, Applying>,
    draining: BTreeMap<Partition, Draining>,
    looks: Looks,
    moving: BTreeMap<Partition, Moving>,
    /// Found at the start: copies that were being moved, and for which round.
    unmoved: BTreeMap<Partition, RoundNumber>,
    drives: BTreeMap<Partition, Drive>,
    /// Rounds that were refused: the next has a higher number.
    refused: BTreeMap<Partition, RoundNumber>,
    /// Partitions with a round that some members have opened and others never will: the next comes soon,
    /// whether anything is dead or not, for whoever has opened it waits for the others' numbers.
    spent: BTreeSet<Partition>,
    sweep: Sweep,
    /// How this disk has joined; none: it is a founder, or took the place of another.
    joined: Option<Joined>,
    newcomers: Newcomers,
    brought: Brought,
    /// The time of the last step.
    pub latest: Mono,
}

/// What is done once a change is durable.
#[derive(Debug)]
pub(super) enum Durable {
    /// This is where the rounds are.
    State(Rounds, Then),
    /// A record of the cut is gone.
    Cut,
    /// A page of a copy has been set aside.
    Aside,
}

/// What follows from a new state.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    Answer(NodeId, RoundMessage),
    Apply(Option<NodeId>),
}

impl Collect {
    /// The round that was opened last: what is read of the own copy carries it, unless what is older was brought
    /// to a copy that has opened none.
    pub fn number(&self, partition: Partition) -> RoundNumber {
        let Some(rounds) = self.rounds.get(&partition) else { return RoundNumber::default() };
        let lowest = || self.brought.lowest(partition);
        if rounds.never_opened() { rounds.number.min(lowest()) } else { rounds.number }
    }

    /// What is merged into a key that is being rebuilt is not older than this.
    pub fn floor_of_rebuilding(&self, partition: Partition) -> RoundNumber {
        let rounds = self.rounds.get(&partition);
        rounds.map_or_else(RoundNumber::default, Rounds::floor_of_rebuilding)
    }

    /// The round that hints are of which are held: the one that was drained last; of a copy that has opened none,
    /// what else it holds is of.
    pub fn of_hints(&self, partition: Partition) -> RoundNumber {
        let never_opened = self.rounds.get(&partition).is_some_and(Rounds::never_opened);
        let number = if never_opened { self.number(partition) } else { RoundNumber::default() };
        self.drained(partition).max(number)
    }

    /// No hint that is held is of an older round.
    pub fn drained(&self, partition: Partition) -> RoundNumber {
        self.rounds.get(&partition).map_or_else(RoundNumber::default, |rounds| rounds.drained)
    }

    /// Nothing older is merged into the own copy.
    pub fn closed(&self, partition: Partition) -> RoundNumber {
        self.rounds.get(&partition).map_or_else(RoundNumber::default, |rounds| rounds.closed)
    }

    /// Whether the own copy of a partition is just being set aside: it takes nothing.
    pub fn is_moving(&self, partition: Partition) -> bool {
        self.moving.contains_key(&partition)
    }

    /// A record was left in a partition that is or may become dead.
    pub fn suspect(&mut self, partition: Partition) {
        self.sweep.suspect(partition);
    }

    /// Where the rounds of a partition are.
    fn behind(&self, partition: Partition) -> RoundMessage {
        let Rounds { number, closed, id, .. } = self.state(partition);
        RoundMessage::Behind { number, closed, id }
    }

    /// Whether a round of a partition was ever opened here.
    fn has_opened(&self, partition: Partition) -> bool {
        self.rounds.get(&partition).is_some_and(|rounds| !rounds.never_opened())
    }

    fn state(&self, partition: Partition) -> Rounds {
        self.rounds.get(&partition).cloned().unwrap_or_default()
    }

    /// Whether something of a partition is under way that its next change of state must wait for.
    fn is_busy(&self, partition: Partition) -> bool {
        self.committing.contains(&partition)
            || self.applying.contains_key(&partition)
            || self.draining.contains_key(&partition)
            || self.is_moving(partition)
    }
}

impl Worker {
    /// The round that what a home reads of its own copy now is of.
    pub(super) fn round(&self, partition: Partition) -> RoundNumber {
        self.collect.number(partition)
    }

    /// The lowest round that what is read now may be of: of the own copy, or of a hint.
    pub(super) fn round_read(&self, partition: Partition, hint: bool) -> RoundNumber {
        if hint { self.collect.of_hints(partition) } else { self.collect.number(partition) }
    }

    /// Whether what comes from this round may no longer be held, or shown.
    pub(super) fn is_below_drained(&self, partition: Partition, round: RoundNumber) -> bool {
        let draining = self.collect.draining.get(&partition).map(|draining| draining.number);
        round < self.collect.drained(partition).max(draining.unwrap_or_default())
            && !self.has(Defect::AcceptOverRound)
    }

    /// Whether a record of this round may be kept: as the own copy, or as a hint.
    pub(super) fn takes(
        &self,
        partition: Partition,
        key: &Key,
        hint: bool,
        round: RoundNumber,
    ) -> bool {
        if self.collect.is_moving(partition) || self.is_untold(partition) {
            return false;
        }
        if hint {
            return !self.is_below_drained(partition, round)
                || self.has(Defect::ConfirmWithoutBarrier);
        }
        let Some(rounds) = self.collect.rounds.get(&partition) else { return true };
        rounds.takes(round, self.is_rebuilding(partition, key)) || self.has(Defect::AcceptOverRound)
    }

    /// Whether a record that comes in was collected in the last round: it is as good as absent.
    pub(super) fn is_gone(&self, id: &CellId, incoming: &Incoming) -> bool {
        let Some(rounds) = self.collect.rounds.get(&id.partition) else { return false };
        if rounds.cut.is_none() {
            return false;
        }
        let sealed = || incoming.record.seal(id.partition, &id.key).hash();
        let hash =
            incoming.sealed.as_ref().map_or_else(sealed, crate::protocol::record::Sealed::hash);
        rounds.is_gone(&id.key, hash)
    }

    /// Tells a peer where the rounds are, if one above this was closed here; [`RoundNumber::default`]: if
    /// any was. Who cannot vouch for what it knows of them says nothing.
    pub(super) fn tell_if_behind(
        &self,
        to: NodeId,
        partition: Partition,
        round: RoundNumber,
        out: &mut Vec<Effect>,
    ) {
        if round < self.collect.closed(partition) && self.knows_rounds(partition) {
            let message = DataMessage::Round(self.collect.behind(partition));
            out.push(Effect::Send { to, trace: None, partition, message });
        }
    }

    /// A member says something of a round.
    pub(super) fn round_heard(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        message: RoundMessage,
        out: &mut Vec<Effect>,
    ) {
        let Some(view) = self.view.clone() else { return };
        // Who is no member holds nothing; what it heard of rounds would be of before it joined.
        let is_heeded = view.is_member() && view.name_of(from).is_some();
        if !is_heeded || partition.0 >= view.partitions() {
            return;
        }
        match message {
            RoundMessage::Survey(ASKS_WHERE, _) => self.asked_where(now, from, partition, out),
            RoundMessage::Surveyed(ASKS_WHERE, _) => self.asked_in_vain(now, from, partition, out),
            // The number is taken. Whoever drives knows less than it did once, if it drives at all.
            RoundMessage::Survey(number, _) if number <= self.collect.state(partition).number => {
                self.answer_behind(now, from, partition, out);
            }
            RoundMessage::Survey(number, cut) => {
                if self.is_home(partition) {
                    self.heed_survey(partition, number, &cut, out);
                    self.look_for_survey(now, from, partition, number, &cut, out);
                }
            }
            RoundMessage::Open { number, closed, cut } => {
                self.asked_to_open(now, from, partition, number, closed, &cut, out);
            }
            RoundMessage::Drain(number, id) => {
                self.asked_to_drain(now, from, partition, number, id, out);
            }
            RoundMessage::Close(number, id) => {
                self.asked_to_close(now, from, partition, number, id, out);
            }
            RoundMessage::Over(number) => {
                self.round_is_over(partition, number, out);
                if self.is_undecided(partition) && number <= self.collect.state(partition).number {
                    self.heard_of_closed(now, partition, number, number, CutId::default(), out);
                }
            }
            RoundMessage::Behind { number, closed, id } => {
                self.told_where(now, partition, number, closed, out);
                self.heard_of_closed(now, partition, number, closed, id, out);
                self.round_refused(from, partition, number);
            }
            RoundMessage::Wanted(number) => self.round_wanted(now, partition, number, out),
            RoundMessage::Surveyed(number, held) => {
                self.surveyed(now, from, partition, number, &held, out);
            }
            RoundMessage::Opened(number, id) => {
                let round = (number, Some(id));
                self.stage_answered(now, from, partition, round, Stage::Opening, out);
            }
            RoundMessage::Drained(number, id) => {
                let round = (number, Some(id));
                self.stage_answered(now, from, partition, round, Stage::Draining, out);
            }
            RoundMessage::Closed(number) => {
                self.stage_answered(now, from, partition, (number, None), Stage::Closing, out);
            }
        }
    }

    /// Says something of a round to a member, or to this node itself.
    fn say_of_round(
        &mut self,
        now: Now,
        to: NodeId,
        partition: Partition,
        message: RoundMessage,
        out: &mut Vec<Effect>,
    ) {
        if self.view.as_ref().is_some_and(|view| view.me == to) {
            return self.round_heard(now, to, partition, message, out);
        }
        let message = DataMessage::Round(message);
        out.push(Effect::Send { to, trace: None, partition, message });
    }

    fn asked_to_open(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
        closed: RoundNumber,
        cut: &Cut,
        out: &mut Vec<Effect>,
    ) {
        if self.collect.is_busy(partition) || self.has_leftovers(partition) {
            return;
        }
        if self.is_untold(partition) {
            return self.ask_sender(from, partition, out);
        }
        let (state, id) = (self.collect.state(partition), cut.id());
        match state.judge_open(number, closed, id) {
            Verdict::SetAside => self.set_aside(now, partition, closed, out),
            Verdict::CloseFirst => {
                self.commit_rounds(partition, state.after_closing(), Then::Apply(None), out);
            }
            // A cut that is closed goes first.
            Verdict::Go if state.is_applying() => self.apply_cut(now, partition, None, out),
            Verdict::Go if self.is_home(partition) => {
                self.look_before_opening(now, from, partition, number, cut, out);
            }
            Verdict::Go => self.open_round(from, partition, number, id, None, out),
            // It was no home when it opened the round, and need not hold what is to be cut.
            Verdict::Done if self.is_home(partition) && !cut.is_empty() && state.lacks_cut() => {
                self.answer_behind(now, from, partition, out);
            }
            Verdict::Done => {
                self.say_of_round(now, from, partition, RoundMessage::Opened(number, id), out);
            }
            Verdict::Behind => self.answer_behind(now, from, partition, out),
        }
    }

    fn answer_behind(&mut self, now: Now, to: NodeId, partition: Partition, out: &mut Vec<Effect>) {
        self.say_of_round(now, to, partition, self.collect.behind(partition), out);
    }

    /// Confirms a cut, durably, and then says so. A home keeps it, to apply it.
    fn open_round(
        &mut self,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
        id: CutId,
        cut: Option<Cut>,
        out: &mut Vec<Effect>,
    ) {
        let state = self.collect.state(partition).after_opening(number, id, cut);
        let answer = Then::Answer(from, RoundMessage::Opened(number, id));
        self.commit_rounds(partition, state, answer, out);
    }

    /// Makes a state durable, and then does what follows.
    fn commit_rounds(
        &mut self,
        partition: Partition,
        state: Rounds,
        then: Then,
        out: &mut Vec<Effect>,
    ) {
        self.collect.committing.insert(partition);
        let (key, value) = (partition_key(PREFIX, partition), Some(state.encode()));
        let waiter = Waiter::Round(partition, Box::new(Durable::State(state, then)));
        self.commit_meta_for(key, value, waiter, out);
    }

    /// A change is durable, or was refused.
    pub(super) fn round_durable(
        &mut self,
        now: Now,
        partition: Partition,
        step: Durable,
        durable: bool,
        out: &mut Vec<Effect>,
    ) {
        match step {
            Durable::Cut if durable => self.cut_done(partition, out),
            Durable::Cut => self.cut_failed(partition, out),
            Durable::Aside => self.aside_moved(now, partition, durable, out),
            Durable::State(state, then) => {
                self.collect.committing.remove(&partition);
                self.collect.draining.remove(&partition);
                if !durable {
                    return;
                }
                self.collect.rounds.insert(partition, state);
                match then {
                    Then::Nothing => {}
                    Then::Answer(to, message) => {
                        self.say_of_round(now, to, partition, message, out);
                    }
                    Then::Apply(asker) => self.apply_cut(now, partition, asker, out),
                }
            }
        }
    }

    /// At the start, before anything is served: learns where the rounds of each partition are.
    pub(super) fn start_reading_rounds(&mut self, out: &mut Vec<Effect>) {
        self.scan_meta(PREFIX, Bytes::new(), Reading::Rounds, out);
    }

    pub(super) fn rounds_read(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Arrive);
        };
        self.find_joined(&page);
        self.find_brought(&page);
        for (partition, value) in self.marks_in(PREFIX, &page) {
            if let Ok(rounds) = Rounds::decode(value) {
                self.collect.rounds.insert(partition, rounds);
            } else {
                // Where its rounds are is not known: nothing vouches for what is held of it.
                self.lost_at_start(partition);
                self.brought_unknown(partition);
            }
        }
        if self.is_last_page(PREFIX, &page, Reading::Rounds, out) {
            self.start_reading_lost(out);
        }
    }
}
