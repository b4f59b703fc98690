//! What a worker knows of its peers: who answers, and how fast.
//!
//! A peer is asked last while it cannot be reached: because its stream broke (the control core
//! says so) or because it has timed out several times in a row (found here). A silent peer is
//! probed until it answers. None of this changes who owns what.

use rustc_hash::FxHashMap as HashMap;

use super::Worker;
use super::timers::Timer;
use crate::protocol::message::{DataMessage, OpenSession};
use crate::protocol::step::{Effect, Reach};
use crate::types::{NodeId, Now, Partition};

/// Timeouts in a row after which a peer counts as silent.
const TIMEOUTS_MAX: u32 = 3;
/// How often a silent peer is probed, in milliseconds.
const PROBE_MS: u64 = 500;
/// Reads between two hedges that the budget allows on average: 2 %.
const READS_PER_HEDGE: u32 = 50;
/// Hedges that may come in one burst.
const HEDGE_BURST: u32 = 100;

/// All peers of a worker.
#[derive(Debug)]
pub(super) struct Peers {
    peers: HashMap<NodeId, Peer>,
    /// The hedge budget, in reads.
    budget: u32,
}

#[derive(Debug, Default)]
struct Peer {
    /// What the control core has said last.
    told: Reach,
    /// Whether it was found silent here.
    silent: bool,
    /// Whether it will be probed.
    probed: bool,
    timeouts: u32,
    /// Mean and mean deviation of the time to an answer, in microseconds.
    mean: u64,
    deviation: u64,
}

impl Default for Peers {
    fn default() -> Self {
        Self { peers: HashMap::default(), budget: READS_PER_HEDGE * HEDGE_BURST }
    }
}

impl Peers {
    /// Whether a peer is worth asking.
    pub fn reachable(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.told.answers() && !peer.silent)
    }

    /// Whether it answers nothing that it is asked, for the control core says so.
    pub fn is_away(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_none_or(|peer| peer.told == Reach::Away)
    }

    /// The mean time to an answer, in microseconds.
    pub fn latency(&self, node: NodeId) -> u64 {
        self.peers.get(&node).map_or(0, |peer| peer.mean)
    }

    /// A time within which almost every answer of a peer comes, in microseconds.
    pub fn patience(&self, node: NodeId) -> u64 {
        self.peers.get(&node).map_or(0, |peer| peer.mean + 4 * peer.deviation)
    }

    /// The control core says whether a peer can be reached; what it has said before.
    pub fn set_reach(&mut self, node: NodeId, reach: Reach) -> Reach {
        let peer = self.peers.entry(node).or_default();
        if reach.answers() {
            peer.silent = false;
            peer.timeouts = 0;
        }
        std::mem::replace(&mut peer.told, reach)
    }

    /// An answer came `micros` after its question.
    pub fn observe(&mut self, node: NodeId, micros: u64) {
        let peer = self.peers.entry(node).or_default();
        let off = peer.mean.abs_diff(micros);
        peer.mean = (peer.mean * 7 + micros) / 8;
        peer.deviation = (peer.deviation * 3 + off) / 4;
    }

    /// A read begins: the budget for hedges grows.
    pub fn read_begun(&mut self) {
        self.budget = (self.budget + 1).min(READS_PER_HEDGE * HEDGE_BURST);
    }

    /// Takes one hedge out of the budget, if there is one.
    pub fn may_hedge(&mut self) -> bool {
        let left = self.budget.checked_sub(READS_PER_HEDGE);
        self.budget = left.unwrap_or(self.budget);
        left.is_some()
    }
}

impl Worker {
    /// A peer has said something: it is not silent.
    pub(super) fn heard_from(&mut self, node: NodeId, out: &mut Vec<Effect>) {
        let Some(peer) = self.peers.peers.get_mut(&node) else { return };
        peer.timeouts = 0;
        if peer.silent {
            peer.silent = false;
            out.push(Effect::Reachable(node, true));
            self.replay_to(node, out);
        }
    }

    /// A peer has not answered in a replica's time.
    pub(super) fn peer_timed_out(&mut self, now: Now, node: NodeId, out: &mut Vec<Effect>) {
        let peer = self.peers.peers.entry(node).or_default();
        peer.timeouts = peer.timeouts.saturating_add(1);
        if peer.timeouts < TIMEOUTS_MAX || peer.silent {
            return;
        }
        peer.silent = true;
        out.push(Effect::Reachable(node, false));
        self.probe_soon(now, node);
        self.reachability_lost(now, node, Reach::Silent, out);
    }

    /// A peer is silent: it is probed in a while, if it still is.
    pub(super) fn probe_soon(&mut self, now: Now, node: NodeId) {
        let peer = self.peers.peers.entry(node).or_default();
        if !std::mem::replace(&mut peer.probed, true) {
            self.arm(now.mono.after_millis(PROBE_MS), Timer::Probe(node));
        }
    }

    /// Asks a silent peer for anything at all; whatever it says ends its silence.
    ///
    /// So does one of whom only the control core says that it is silent: who had found that may have heard from it
    /// since, before it was told so, and nobody would say that it answers.
    pub(super) fn probe_due(&mut self, now: Now, node: NodeId, out: &mut Vec<Effect>) {
        let Some(peer) = self.peers.peers.get_mut(&node) else { return };
        peer.probed = false;
        peer.silent |= peer.told == Reach::Silent;
        // One that is away cannot be asked, and is told of when it comes back.
        if !peer.silent || peer.told == Reach::Away {
            return;
        }
        self.probe_soon(now, node);
        let message = DataMessage::OpenSession(OpenSession { boot: self.config.boot });
        #[expect(clippy::cast_possible_truncation, reason = "a worker's index is below LANES")]
        let partition = Partition(self.config.index as u16);
        out.push(Effect::Send { to: node, trace: None, partition, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_are_bounded_to_a_burst_and_two_percent() {
        let mut peers = Peers::default();
        let burst = (0..1000).filter(|_| peers.may_hedge()).count();
        assert_eq!(burst, 100);
        let mut later = 0;
        for _ in 0..10_000 {
            peers.read_begun();
            later += u32::from(peers.may_hedge());
        }
        assert_eq!(later, 200);
    }
}
