//! Driving a round: the home with the lowest name asks every member, step by step.
//!
//! Who drives matters to liveness only. A member confirms one cut under a number, whoever asks, and a
//! round is closed only by who has heard of every member that it drained that very cut. A driver takes
//! each step itself first, durably: after a restart it goes on where its own state says. A round that
//! someone refuses is given up, and the next has a higher number.

use std::collections::BTreeSet;

use super::super::Worker;
use super::super::timers::Timer;
use super::Collect;
use super::members::taking_part;
use crate::protocol::message::RoundMessage;
use crate::protocol::rounds::{Cut, CutId, Rounds};
use crate::protocol::step::{Effect, Event};
use crate::types::{Mono, NodeId, NodeName, Now, Partition, RoundNumber};

/// Rounds that a worker drives at a time: each keeps a cut in the memory of every home.
pub(super) const DRIVES_MAX: usize = 16;
/// How long to wait before those who have not answered are asked again, in milliseconds.
const ASK_AGAIN_MS: u64 = 1_000;
/// Questions after which it is worth telling for whom a round waits: ten minutes.
const ASKED_TOO_OFTEN: u32 = 600;
/// Questions after which a round that nobody has confirmed is given up.
const SURVEYS_MAX: u32 = 5;

/// A round that this node drives.
#[derive(Debug)]
pub(super) struct Drive {
    number: RoundNumber,
    cut: Cut,
    id: CutId,
    pub(super) stage: Stage,
    since: Mono,
    asked: u32,
    /// When those who have not answered are asked again; what goes off earlier was armed for an earlier stage.
    due: Mono,
    /// Those who have not answered.
    pub(super) waiting: BTreeSet<NodeName>,
    /// Which records of the cut all homes that have answered hold.
    held: Vec<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Surveying,
    Opening,
    Draining,
    Closing,
}

impl Collect {
    /// Rounds that are driven here.
    pub fn driven(&self) -> u64 {
        self.drives.len() as u64
    }

    /// For how long the oldest of them has been open.
    pub fn age_micros_max(&self) -> u64 {
        let ages = self.drives.values().map(|drive| self.latest.micros_since(drive.since));
        ages.max().unwrap_or(0)
    }
}

impl Worker {
    /// Whoever drives the rounds of a partition: the home with the lowest name.
    fn driver(&self, partition: Partition) -> Option<NodeId> {
        let newest = self.view.as_ref()?.newest();
        // Members are sorted by name.
        let lowest = newest.homes(partition).iter().min()?;
        newest.id(*lowest)
    }

    /// Whether this node drives the rounds of a partition.
    pub(super) fn is_driver(&self, partition: Partition) -> bool {
        let me = self.view.as_ref().map(|view| view.me);
        me.is_some() && self.driver(partition) == me
    }

    /// The copy of another home is of an older round than this one, which waits for it: tells whoever drives.
    pub(in crate::protocol::worker) fn want_round(
        &mut self,
        now: Now,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if let Some(driver) = self.driver(partition) {
            let message = RoundMessage::Wanted(self.collect.state(partition).number);
            self.say_of_round(now, driver, partition, message, out);
        }
    }

    /// A home waits for what only the next round brings: some have opened the last one, others never will, and
    /// whoever drove it may be no home any more. If it is not driven, one over nothing follows.
    pub(super) fn round_wanted(
        &mut self,
        now: Now,
        partition: Partition,
        number: RoundNumber,
        out: &mut Vec<Effect>,
    ) {
        let is_mine = self.is_driver(partition) && !self.is_untold(partition);
        let is_over = number <= self.collect.state(partition).closed;
        if !is_mine || is_over || self.is_driving(partition) {
            return;
        }
        if self.collect.drives.len() < DRIVES_MAX && self.can_ask_all() {
            // If its number is taken, too, those who have taken it say so.
            self.start_round(now, partition, Cut::default(), out);
        }
    }

    pub(super) fn is_driving(&self, partition: Partition) -> bool {
        self.collect.drives.contains_key(&partition)
    }

    /// Whether every member can be asked: else a round would only wait.
    pub(super) fn can_ask_all(&self) -> bool {
        self.view.as_ref().is_some_and(|view| {
            taking_part(view).all(|member| {
                let id = view.ids.get(member);
                id.is_some_and(|&id| id == view.me || self.peers.reachable(id))
            })
        })
    }

    /// Begins a round over what may be dead everywhere, or over nothing.
    pub(super) fn start_round(
        &mut self,
        now: Now,
        partition: Partition,
        cut: Cut,
        out: &mut Vec<Effect>,
    ) {
        let last = self.collect.state(partition).number;
        let refused = self.collect.refused.get(&partition).copied().unwrap_or_default();
        let number = RoundNumber(last.max(refused).0.saturating_add(1));
        let stage = if cut.is_empty() { Stage::Opening } else { Stage::Surveying };
        self.drive(now, partition, number, cut, stage, out);
    }

    /// After a restart, or once another node drives no more: goes on with the rounds that this node had
    /// opened.
    pub(super) fn resume_rounds(&mut self, now: Now, out: &mut Vec<Effect>) {
        let open = self.collect.rounds.iter().filter(|(_, rounds)| rounds.cut.is_some());
        let mut open: Vec<Partition> = open.map(|(partition, _)| *partition).collect();
        open.sort_unstable();
        for partition in open {
            let Rounds { number, closed, cut, .. } = self.collect.state(partition);
            let driven = self.is_driver(partition) && !self.is_driving(partition);
            if let Some(cut) = cut.filter(|_| driven) {
                let stage = if closed == number { Stage::Closing } else { Stage::Opening };
                self.drive(now, partition, number, cut, stage, out);
            }
        }
    }

    fn drive(
        &mut self,
        now: Now,
        partition: Partition,
        number: RoundNumber,
        cut: Cut,
        stage: Stage,
        out: &mut Vec<Effect>,
    ) {
        let (id, held) = (cut.id(), vec![true; cut.entries().len()]);
        let (since, waiting) = (now.mono, BTreeSet::new());
        let drive = Drive { number, cut, id, stage, since, asked: 0, due: since, waiting, held };
        self.collect.drives.insert(partition, drive);
        self.enter(now, partition, stage, out);
    }

    /// Begins a stage: all who have a part in it are asked.
    pub(super) fn enter(
        &mut self,
        now: Now,
        partition: Partition,
        stage: Stage,
        out: &mut Vec<Effect>,
    ) {
        let Some(view) = self.view.clone() else { return };
        let Some(drive) = self.collect.drives.get_mut(&partition) else { return };
        drive.stage = stage;
        drive.waiting = match stage {
            Stage::Surveying => {
                let live = view.live().iter();
                let homes = live.flat_map(|version| version.home_names(partition));
                homes.filter(|name| !view.is_removed(name)).cloned().collect()
            }
            Stage::Opening | Stage::Draining | Stage::Closing => {
                taking_part(&view).cloned().collect()
            }
        };
        self.ask_again_later(now, partition);
        self.ask(now, partition, out);
    }

    fn ask_again_later(&mut self, now: Now, partition: Partition) {
        let Some(drive) = self.collect.drives.get_mut(&partition) else { return };
        drive.due = now.mono.after_millis(ASK_AGAIN_MS);
        let due = drive.due;
        self.arm(due, Timer::Round(partition));
    }

    /// Asks those who have not answered; none but this node while it has not.
    fn ask(&mut self, now: Now, partition: Partition, out: &mut Vec<Effect>) {
        let Some(view) = self.view.clone() else { return };
        let closed = self.collect.state(partition).closed;
        let Some(drive) = self.collect.drives.get(&partition) else { return };
        let (number, id, stage) = (drive.number, drive.id, drive.stage);
        let own_first = stage != Stage::Surveying && drive.waiting.contains(&view.name);
        let asked = drive.waiting.iter().filter(|name| !own_first || **name == view.name);
        let asked: Vec<NodeId> = asked.filter_map(|name| view.ids.get(name).copied()).collect();
        let message = match stage {
            Stage::Surveying => RoundMessage::Survey(number, drive.cut.clone()),
            Stage::Opening => RoundMessage::Open { number, closed, cut: drive.cut.clone() },
            Stage::Draining => RoundMessage::Drain(number, id),
            Stage::Closing => RoundMessage::Close(number, id),
        };
        for to in asked {
            self.say_of_round(now, to, partition, message.clone(), out);
        }
    }

    /// Some have not answered for a while.
    pub(in crate::protocol::worker) fn round_due(
        &mut self,
        now: Now,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if self.collect.is_moving(partition) {
            return self.aside_due(now, partition, out);
        }
        let Some(drive) = self.collect.drives.get_mut(&partition) else { return };
        if now.mono < drive.due {
            return;
        }
        drive.asked = drive.asked.saturating_add(1);
        if drive.stage == Stage::Surveying && drive.asked >= SURVEYS_MAX {
            return self.give_up(partition);
        }
        if drive.asked.is_multiple_of(ASKED_TOO_OFTEN) {
            let names = drive.waiting.iter().cloned().collect();
            out.push(Effect::Event(Event::RoundWaits(partition, names)));
        }
        self.ask_again_later(now, partition);
        self.ask(now, partition, out);
    }

    /// Gives a round up that can never close, or that nobody has confirmed.
    pub(super) fn give_up(&mut self, partition: Partition) {
        let drive = self.collect.drives.remove(&partition);
        if drive.is_some_and(|drive| drive.stage == Stage::Opening) {
            self.collect.spent.insert(partition);
        }
        self.collect.sweep.suspect(partition);
    }

    /// A member has opened a round of this number or a later one with another cut.
    pub(super) fn round_refused(
        &mut self,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
    ) {
        let Some(drive) = self.collect.drives.get(&partition) else { return };
        let before_closing = matches!(drive.stage, Stage::Surveying | Stage::Opening);
        let is_waited_for = self
            .view
            .as_ref()
            .and_then(|view| view.name_of(from))
            .is_some_and(|name| drive.waiting.contains(name));
        if before_closing && is_waited_for && number >= drive.number {
            let refused = self.collect.refused.entry(partition).or_default();
            *refused = number.max(*refused);
            self.give_up(partition);
        }
    }

    pub(super) fn surveyed(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
        held: &[bool],
        out: &mut Vec<Effect>,
    ) {
        let Some(drive) = self.collect.drives.get_mut(&partition) else { return };
        if drive.number != number || drive.held.len() != held.len() {
            return;
        }
        if drive.stage == Stage::Opening && held.contains(&false) {
            // A record has changed since the survey: this number is spent.
            return self.give_up(partition);
        }
        if drive.stage != Stage::Surveying {
            return;
        }
        if !self.answered_round(from, partition) {
            return;
        }
        let Some(drive) = self.collect.drives.get_mut(&partition) else { return };
        drive.held.iter_mut().zip(held).for_each(|(all, one)| *all &= one);
        if !drive.waiting.is_empty() {
            return;
        }
        let entries = drive.cut.entries().iter().zip(&drive.held).filter(|(_, held)| **held);
        let cut = Cut::new(entries.map(|(entry, _)| entry.clone()).collect());
        let spent = self.collect.spent.contains(&partition);
        let Some(cut) = cut.filter(|cut| !cut.is_empty() || spent) else {
            return self.give_up(partition);
        };
        drive.id = cut.id();
        drive.held = vec![true; cut.entries().len()];
        drive.cut = cut;
        self.stats.rounds_opened += 1;
        self.enter(now, partition, Stage::Opening, out);
    }

    /// A member has taken a step; when all have, the next is asked for.
    pub(super) fn stage_answered(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        round: (RoundNumber, Option<CutId>),
        stage: Stage,
        out: &mut Vec<Effect>,
    ) {
        let Some(drive) = self.collect.drives.get(&partition) else { return };
        let same = drive.number == round.0 && round.1.is_none_or(|id| id == drive.id);
        if !same || drive.stage != stage || !self.answered_round(from, partition) {
            return;
        }
        let me = self.view.as_ref().map(|view| view.me);
        let Some(drive) = self.collect.drives.get(&partition) else { return };
        if !drive.waiting.is_empty() {
            if me == Some(from) {
                self.ask(now, partition, out);
            }
            return;
        }
        match stage {
            Stage::Surveying | Stage::Opening => {
                self.collect.spent.remove(&partition);
                self.enter(now, partition, Stage::Draining, out);
            }
            Stage::Draining => self.enter(now, partition, Stage::Closing, out),
            Stage::Closing => self.round_done(now, partition, out),
        }
    }

    /// Whether an answer is of a member that is waited for.
    fn answered_round(&mut self, from: NodeId, partition: Partition) -> bool {
        let Some(name) = self.view.as_ref().and_then(|view| view.name_of(from).cloned()) else {
            return false;
        };
        let drive = self.collect.drives.get_mut(&partition);
        drive.is_some_and(|drive| drive.waiting.remove(&name))
    }

    /// All have applied the round: whoever keeps its cut may forget it.
    pub(super) fn round_done(&mut self, now: Now, partition: Partition, out: &mut Vec<Effect>) {
        let Some(drive) = self.collect.drives.remove(&partition) else { return };
        self.stats.rounds_over += 1;
        let count = drive.cut.entries().len() as u64;
        out.push(Effect::Event(Event::RoundOver(partition, count)));
        let members = self.view.iter().flat_map(|view| view.ids.values());
        let members: Vec<NodeId> = members.copied().collect();
        for to in members {
            self.say_of_round(now, to, partition, RoundMessage::Over(drive.number), out);
        }
    }
}
