//! What a person can look at: the body of the page on gossip, and the members.

use serde::{Deserialize, Serialize};

use super::peers::Peer;
use super::rejection::Stranger;
use super::state::Control;
use super::views::Difference;
use super::waiting::ChangeReport;
use super::wire::{MemberState, PeerRecord, Trackers};
use crate::types::{NodeId, Now};

/// Everything that gossip shows on one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GossipReport {
    /// This node's name.
    pub name: String,
    /// This node's id.
    pub id: String,
    /// Counts its starts.
    pub generation: u64,
    /// Drawn at this start.
    pub boot: String,
    /// `cluster.name`.
    pub cluster_name: String,
    /// The cluster's id; empty before the founding.
    pub cluster_id: String,
    /// The placement's number; 0 before the founding.
    pub placement_number: u32,
    /// The placement's hash; empty before the founding.
    pub placement_hash: String,
    /// `founded`, or what the founding waits for.
    pub founding: String,
    /// Every node that is known, this one included, in order of name.
    pub members: Vec<MemberReport>,
    /// Members on which two nodes' last heard views differ.
    pub differences: Vec<Difference>,
    /// The change of the ring that is under way, and whom it waits for.
    pub change: ChangeReport,
    /// How far each member has come with the placement; empty while it has not changed.
    pub trackers: Vec<TrackersReport>,
    /// Which disk took whose place, in order.
    pub admissions: Vec<String>,
    /// What came and went.
    pub traffic: Traffic,
    /// What waits to be sent, done or kept.
    pub queued: Queued,
    /// Who was refused: the last of them.
    pub strangers: Vec<Stranger>,
    /// How often anybody was refused.
    pub strangers_refused: u64,
    /// A majority of members has confirmed that this node forgot nothing.
    pub confirmed: bool,
    /// This node's clock is far from those of an agreeing majority.
    pub clock_suspect: bool,
}

/// One node, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its name.
    pub name: String,
    /// Its id; empty if never heard of.
    pub id: String,
    /// Gossip and streams.
    pub internal_address: String,
    /// gRPC.
    pub client_address: String,
    /// HTTP.
    pub admin_address: String,
    /// Its failure domain.
    pub zone: String,
    /// Its share of the data relative to others'; 0 if it was never heard of.
    pub weight: u32,
    /// Counts its starts.
    pub generation: u64,
    /// What gossip says of it.
    pub state: MemberState,
    /// How long it has been in this state, as seen here.
    pub since_ms: u64,
    /// Of its suspicions refuted.
    pub incarnation: u16,
    /// Whether this node can reach it now.
    pub reachable: bool,
    /// Accepted streams of it.
    pub streams: usize,
    /// How far its clock is ahead of ours, if it was read.
    pub clock_ahead_ms: Option<i64>,
    /// Whether a live version of the placement names it, and this is its disk.
    pub home: bool,
    /// Whether it is this node.
    pub me: bool,
}

/// How far a member has come with the placement: `number:hash` each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrackersReport {
    /// Its name.
    pub name: String,
    /// The id that published them.
    pub id: String,
    /// Nothing that runs there ignores this version.
    pub ack: String,
    /// What it held has been merged by this version's homes.
    pub sync: String,
    /// It reads from this version.
    pub sync_ack: String,
}

/// What came and went since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Gossip's datagrams that came.
    pub datagrams_in: u64,
    /// Their bytes.
    pub datagram_bytes_in: u64,
    /// Gossip's datagrams that went.
    pub datagrams_out: u64,
    /// Their bytes.
    pub datagram_bytes_out: u64,
    /// Datagrams of strangers, or damaged.
    pub datagrams_refused: u64,
    /// Datagrams of processes whose hello has not come yet.
    pub datagrams_unmet: u64,
    /// Control messages that came over streams.
    pub messages_in: u64,
    /// Control messages that went.
    pub messages_out: u64,
    /// Control messages that could not be used.
    pub messages_refused: u64,
    /// How often this node came back after having been declared dead.
    pub rejoins: u64,
    /// For how long, in all, this process was not run when it should have been.
    pub stood_still_ms: u64,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Gossip's changes that have not been told often enough.
    pub gossip_updates: usize,
    /// Timers.
    pub timers: usize,
    /// Announcements of peers to be kept.
    pub notes: usize,
}

impl Control {
    /// The body of the page on gossip.
    #[must_use]
    pub fn gossip_report(&self, now: Now) -> GossipReport {
        let placement = self.placement();
        let trackers = |t: Trackers| TrackersReport {
            name: t.name.to_string(),
            id: t.id.to_string(),
            ack: t.ack.to_string(),
            sync: t.sync.to_string(),
            sync_ack: t.sync_ack.to_string(),
        };
        let gone =
            |id: NodeId| {
                self.peers.get(id).and_then(|peer| peer.sight).is_none_or(|seen| {
                    matches!(seen.state, MemberState::Down | MemberState::Unknown)
                }) && id != self.identity.id
            };
        GossipReport {
            name: self.identity.name.to_string(),
            id: self.identity.id.to_string(),
            generation: self.identity.generation.0,
            boot: self.identity.boot.to_string(),
            cluster_name: self.config.cluster_name.clone(),
            cluster_id: self.cluster().map(|id| id.to_string()).unwrap_or_default(),
            placement_number: placement.map_or(0, |placement| placement.tag.number),
            placement_hash: placement
                .map(|placement| format!("{:016x}", placement.tag.hash))
                .unwrap_or_default(),
            founding: self.not_ready().unwrap_or_else(|| "founded".to_owned()),
            members: self.members(now),
            differences: self.views.differences(now.mono, |id| self.name_of(id), gone),
            change: self.change_report(now),
            trackers: self.trackers().into_iter().map(trackers).collect(),
            admissions: self.admissions(),
            traffic: self.traffic,
            queued: Queued {
                gossip_updates: self.swim.backlog(),
                timers: self.timers_armed(),
                notes: self.marks.waiting(),
            },
            strangers: self.strangers.report(now.mono),
            strangers_refused: self.strangers.count,
            confirmed: self.conditions.confirmed,
            clock_suspect: self.conditions.clock_suspect,
        }
    }

    /// Every node that is known, this one included, in order of name; founders that were never
    /// heard of, too.
    #[must_use]
    pub fn members(&self, now: Now) -> Vec<MemberReport> {
        let mut members: Vec<MemberReport> =
            self.peers.iter().map(|(id, peer)| self.member(id, peer, now)).collect();
        let mut me = self.describe(&self.my_record());
        me.state = MemberState::Alive;
        me.since_ms = now.mono.micros_since(self.began) / 1000;
        me.incarnation = self.views.incarnation_of(self.identity.id);
        (me.reachable, me.me, me.clock_ahead_ms) = (true, true, Some(0));
        members.push(me);
        let expected: Vec<_> = match self.founding.cluster() {
            Some(cluster) => cluster.ids.iter().map(|(n, id)| (n.clone(), Some(*id))).collect(),
            None => self.config.founders.iter().map(|name| (name.clone(), None)).collect(),
        };
        for (name, id) in expected {
            if !members.iter().any(|member| member.name == name.as_str()) {
                members.push(MemberReport { home: self.is_named(&name), ..unheard(&name, id) });
            }
        }
        members.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        members
    }

    fn admissions(&self) -> Vec<String> {
        let all = self.founding.cluster().map(|cluster| cluster.admissions.as_slice());
        let say = |a: &super::admission::Admission| {
            if a.reaffirms() {
                return format!("{}: {} is {}, as before", a.number, a.name, a.id);
            }
            let now = if a.removes() { "nobody".into() } else { a.id.to_string() };
            let was = if a.enters() {
                "nobody".into()
            } else {
                format!("{}, which is fenced", a.predecessor)
            };
            format!("{}: {} is {now}, and was {was}", a.number, a.name)
        };
        all.unwrap_or_default().iter().map(say).collect()
    }

    fn member(&self, id: NodeId, peer: &Peer, now: Now) -> MemberReport {
        let mut member = self.describe(&peer.record);
        debug_assert_eq!(id, peer.record.descriptor.id);
        if let Some(seen) = peer.sight {
            member.state = seen.state;
            member.since_ms = now.mono.micros_since(seen.since) / 1000;
            member.incarnation = seen.incarnation;
        }
        member.reachable = peer.is_reachable();
        member.streams = peer.conns.len();
        member.clock_ahead_ms = peer.clock.map(|clock| clock.ahead_ms(now.mono, now.wall));
        member
    }

    fn describe(&self, record: &PeerRecord) -> MemberReport {
        let descriptor = &record.descriptor;
        let cluster = self.founding.cluster();
        let present = cluster.is_some_and(|c| c.ids.get(&descriptor.name) == Some(&descriptor.id));
        MemberReport {
            name: descriptor.name.to_string(),
            id: descriptor.id.to_string(),
            internal_address: record.internal.to_string(),
            client_address: record.client.clone(),
            admin_address: record.admin.clone(),
            zone: descriptor.zone.clone(),
            weight: descriptor.weight,
            generation: record.generation.0,
            state: MemberState::Unknown,
            since_ms: 0,
            incarnation: 0,
            reachable: false,
            streams: 0,
            clock_ahead_ms: None,
            home: present && self.is_named(&descriptor.name),
            me: false,
        }
    }

    fn name_of(&self, id: NodeId) -> String {
        if id == self.identity.id {
            return self.identity.name.to_string();
        }
        let peer = self.peers.get(id);
        peer.map_or_else(|| id.to_string(), |peer| peer.record.descriptor.name.to_string())
    }
}

fn unheard(name: &crate::types::NodeName, id: Option<NodeId>) -> MemberReport {
    MemberReport {
        name: name.to_string(),
        id: id.map(|id| id.to_string()).unwrap_or_default(),
        internal_address: String::new(),
        client_address: String::new(),
        admin_address: String::new(),
        zone: String::new(),
        weight: 0,
        generation: 0,
        state: MemberState::Unknown,
        since_ms: 0,
        incarnation: 0,
        reachable: false,
        streams: 0,
        clock_ahead_ms: None,
        home: false,
        me: false,
    }
}
