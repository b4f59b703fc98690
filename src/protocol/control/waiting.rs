//! Who holds a change of the ring up, since when, and what ends that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ring::Stage;
use super::state::Control;
use crate::protocol::message::PlacementTag;
use crate::protocol::progress::Waiting;
use crate::types::{Mono, NodeName, Now};

/// Since when each member has held up which version at which stage.
pub(super) type Behind = BTreeMap<NodeName, (PlacementTag, Stage, Mono)>;

/// A change of the ring that is under way. Versions are `number:hash`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// The live versions, oldest first; one if no change is under way.
    pub live: Vec<String>,
    /// The version that reads ask.
    pub reads: String,
    /// The newest version that all members have acknowledged.
    pub all_acked: String,
    /// How many members the live versions have together.
    pub members: usize,
    /// How many of those have acknowledged the newest version, or were removed.
    pub acked: usize,
    /// How many have brought what they held to its homes, or were removed.
    pub synced: usize,
    /// How many ask it only when they read, or were removed.
    pub reading: usize,
    /// Whom the change waits for.
    pub waits: Vec<Waits>,
    /// What this node itself has still to do.
    pub left: Waiting,
}

/// A member for which a change waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// Its name.
    pub name: String,
    /// For what: `ack`, `sync` or `sync-ack`.
    pub stage: String,
    /// Of which version.
    pub version: String,
    /// For how long, as seen here.
    pub since_ms: u64,
    /// Whether it can be reached from here.
    pub reachable: bool,
    /// What ends the wait.
    pub remedy: String,
}

impl Control {
    /// The ring's live versions, and whom a change waits for.
    #[must_use]
    pub fn change_report(&self, now: Now) -> ChangeReport {
        let Some((ring, disks)) = self.ring_and_disks() else { return ChangeReport::default() };
        let live = ring.chain.live();
        let waits = self.works.behind.iter().map(|(name, (tag, stage, since))| {
            let reachable = self.is_there(name);
            Waits {
                name: name.to_string(),
                stage: in_words(*stage).to_owned(),
                version: tag.to_string(),
                since_ms: now.mono.micros_since(*since) / 1000,
                reachable,
                remedy: remedy(name, *stage, reachable),
            }
        });
        let members: BTreeSet<&NodeName> =
            live.iter().flat_map(|version| &version.members).map(|member| &member.name).collect();
        let reached = |stage| {
            let newest = |name: &&&NodeName| ring.reached(name, stage, disks) >= live.len() - 1;
            members.iter().filter(newest).count()
        };
        ChangeReport {
            live: ring.chain.tags().into_iter().map(|tag| tag.to_string()).collect(),
            reads: live[ring.reads(disks)].tag.to_string(),
            all_acked: live[ring.all_acked(disks)].tag.to_string(),
            members: members.len(),
            acked: reached(Stage::Ack),
            synced: reached(Stage::Sync),
            reading: reached(Stage::SyncAck),
            waits: waits.collect(),
            left: ring.progress.waiting,
        }
    }

    /// Notes who holds up the next step.
    pub(super) fn note_behind(&mut self) {
        let mut behind = Behind::new();
        if let Some((ring, disks)) = self.ring_and_disks() {
            let live = ring.chain.live();
            let newest = live.len() - 1;
            // A stage begins for all when the one before it is over for all.
            let (stage, place) = if ring.all_acked(disks) < newest {
                (Stage::Ack, newest)
            } else if ring.reads(disks) < newest {
                (Stage::Sync, newest)
            } else {
                (Stage::SyncAck, newest)
            };
            let members = live.iter().flat_map(|version| &version.members);
            for member in members.filter(|_| live.len() > 1) {
                if ring.reached(&member.name, stage, disks) < place {
                    let (tag, now) = (live[place].tag, self.now.mono);
                    let known = self.works.behind.get(&member.name);
                    let known = known.filter(|(t, s, _)| (*t, *s) == (tag, stage));
                    let since = known.map_or(now, |(_, _, since)| *since);
                    behind.insert(member.name.clone(), (tag, stage, since));
                }
            }
        }
        self.works.behind = behind;
    }

    /// Whom a change waits for, as the end of a sentence.
    pub(super) fn waits_in_words(&self) -> String {
        let wait = |(name, (_, stage, _)): (&NodeName, &(PlacementTag, Stage, Mono))| {
            let stage = *stage;
            format!("; {name} holds it up: {}", remedy(name, stage, self.is_there(name)))
        };
        self.works.behind.iter().map(wait).take(3).collect()
    }

    /// Why this node has no part in the ring yet, or any more; none if it is a member that all know.
    pub(super) fn membership_waits_for(&self) -> Option<String> {
        let (ring, disks) = self.ring_and_disks()?;
        let (me, live) = (&self.identity.name, ring.chain.live());
        let named = live.iter().position(|version| version.member(me).is_some());
        let Some(place) = named else {
            if ring.own.left {
                return Some(format!("{me} has left the ring, and hands over what is left"));
            }
            let how = if self.config.auto_join {
                "the steward admits it once membership has been still for membership.settle"
            } else {
                "membership.auto_join is off: an operator joins it by a plan"
            };
            return Some(format!("{me} is no member yet: {how}"));
        };
        let synced = ring.chain.reached(ring.own.sync).unwrap_or(0);
        if place <= ring.all_acked(disks).max(synced) {
            return None;
        }
        let number = live[place].tag.number;
        let waits = self.waits_in_words();
        Some(format!(
            "{me} joins with placement version {number}, which not all have acked yet{waits}"
        ))
    }
}

fn in_words(stage: Stage) -> &'static str {
    match stage {
        Stage::Ack => "ack",
        Stage::Sync => "sync",
        Stage::SyncAck => "sync-ack",
    }
}

fn remedy(name: &NodeName, stage: Stage, reachable: bool) -> String {
    if !reachable {
        return format!(
            "start {name}; if its disk is lost, start it with an empty data folder; if it is not to come \
             back, `coterie remove {name} --force`"
        );
    }
    match stage {
        Stage::Ack => format!(
            "{name} ends what runs without the version: it takes seconds; if longer, its log says why"
        ),
        Stage::Sync => format!(
            "{name} hands over what it holds: `coterie status` shows how far it is, and \
             anti_entropy.bytes_per_second how fast it may go (it gives way to requests)"
        ),
        Stage::SyncAck => format!("{name} ends its reads of the older version: it takes seconds"),
    }
}
