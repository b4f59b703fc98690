//! Membership: foca, an implementation of SWIM, inside our own state machine.
//!
//! ```text
//!   datagram ─▶ unwrap ─▶ foca ─▶ wrap ─▶ datagram       due timers come before inputs
//!                          │  └▶ timers ─▶ the core's heap
//!                          └▶ members: alive, suspect, down
//! ```
//!
//! *Identities.* A gossip identity is a node's id with its address and an *epoch*, which orders
//! the identities of one id: a start begins a new one (its generation, shifted), a node that was
//! declared down rejoins under the next, above every epoch that it heard of for itself. foca
//! would renew an identity at once, as often as it is told to; ours is renewed by a timer with
//! backoff, so that a disagreement about a node never becomes a storm.
//!
//! *Liveness only.* Nothing here says who owns what.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use foca::{
    AccumulatingRuntime, Codec, Config, Foca, Member, NoCustomBroadcast, OwnedNotification,
    PeriodicParams, PostcardCodec, State,
};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Identity;
use super::wire::MemberState;
use crate::protocol::codec::{DecodeError, Reader};
use crate::types::{Boot, ClusterId, NodeId};

/// First bytes of a datagram: what does not begin so is not one of ours.
const MAGIC: [u8; 4] = *b"cotg";
/// The version of a datagram.
const FORMAT: u8 = 1;
/// Bytes before foca's own.
const HEADER_BYTES: usize = 4 + 1 + 8 + 16 + 16 + 8 + 8;
/// Below the MTU of common networks, so that datagrams are not fragmented.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1400;
/// A member is told of a change at least so often; foca's own figure is 2 for three nodes.
const TRANSMISSIONS_MIN: u8 = 5;
/// Changes are gossiped this often while there are any: a death reaches all within a second.
const GOSSIP_PERIOD: Duration = Duration::from_millis(500);
/// A failed probe becomes a death after this, up to ten nodes: with a second for the probe, up to
/// three until some node probes, and one to spread the word, that is within 8 s.
const SUSPICION: Duration = Duration::from_secs(3);
/// Ids that gossip may name, ever: bounds what a peer can make us keep.
const IDS_MAX: usize = 4096;
/// Bits of an epoch below the generation: rejoins within one start.
const REJOIN_BITS: u32 = 16;

/// How foca knows a node. Equal ids are one node; the greater of two wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct GossipId {
    pub(super) id: NodeId,
    pub(super) epoch: u64,
    pub(super) boot: Boot,
    pub(super) addr: SocketAddr,
}

impl GossipId {
    /// The first of a start.
    pub(super) fn of_start(identity: &Identity, addr: SocketAddr) -> Self {
        let epoch = identity.generation.0 << REJOIN_BITS;
        Self { id: identity.id, epoch, boot: identity.boot, addr }
    }
}

impl foca::Identity for GossipId {
    type Addr = NodeId;

    /// Never: see the module on rejoining.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> NodeId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.epoch, self.boot, self.addr) > (adversary.epoch, adversary.boot, adversary.addr)
    }
}

/// Postcard, refusing to learn of ever more ids.
struct BoundedCodec {
    ids: BTreeSet<NodeId>,
}

/// Why the codec refused.
#[derive(Debug, thiserror::Error)]
enum CodecError {
    #[error("not a gossip message")]
    Postcard(#[from] foca_postcard::Error),
    #[error("gossip names more than {IDS_MAX} ids")]
    TooManyIds,
}

/// The error type of [`PostcardCodec`], whose crate is not ours to name.
mod foca_postcard {
    pub(super) type Error = <foca::PostcardCodec as foca::Codec<super::GossipId>>::Error;
}

impl BoundedCodec {
    fn admit(&mut self, id: NodeId) -> Result<(), CodecError> {
        if !self.ids.contains(&id) {
            if self.ids.len() >= IDS_MAX {
                return Err(CodecError::TooManyIds);
            }
            self.ids.insert(id);
        }
        Ok(())
    }
}

impl Codec<GossipId> for BoundedCodec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &foca::Header<GossipId>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        Ok(PostcardCodec.encode_header(header, buf)?)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<foca::Header<GossipId>, CodecError> {
        let header: foca::Header<GossipId> = PostcardCodec.decode_header(buf)?;
        self.admit(header.src.id)?;
        Ok(header)
    }

    fn encode_member(
        &mut self,
        member: &Member<GossipId>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        Ok(PostcardCodec.encode_member(member, buf)?)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<GossipId>, CodecError> {
        let member: Member<GossipId> = PostcardCodec.decode_member(buf)?;
        self.admit(member.id().id)?;
        Ok(member)
    }
}

/// The sender of a message that says that its receiver is held for dead.
fn told_dead(payload: &[u8]) -> Option<GossipId> {
    let header: foca::Header<GossipId> = PostcardCodec.decode_header(payload).ok()?;
    (header.message == foca::Message::TurnUndead).then_some(header.src)
}

/// A member as foca sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) who: GossipId,
    pub(super) state: MemberState,
    pub(super) incarnation: u16,
}

/// What foca wants done.
pub(super) enum Wish {
    Send(GossipId, Bytes),
    Schedule(Duration, SwimTimer),
    /// Members have changed: look at [`Swim::members`].
    Changed,
    /// The others hold this node for dead: [`Swim::rejoin`] after a while.
    Dead,
}

pub(super) type SwimTimer = foca::Timer<GossipId>;

/// foca and its surroundings.
pub(super) struct Swim {
    foca: Foca<GossipId, BoundedCodec, ChaCha8Rng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<GossipId>,
    members_tuned_for: u32,
    left: bool,
    /// Who said, in the datagram that is being handled, that this node is dead.
    told_dead_by: Option<GossipId>,
    /// Messages that foca could not use.
    pub(super) refused: u64,
}

impl Swim {
    pub(super) fn new(me: GossipId, seed: u64) -> Self {
        let codec = BoundedCodec { ids: BTreeSet::from([me.id]) };
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            foca: Foca::new(me, tuning(3), rng, codec),
            runtime: AccumulatingRuntime::new(),
            members_tuned_for: 3,
            left: false,
            told_dead_by: None,
            refused: 0,
        }
    }

    pub(super) fn me(&self) -> GossipId {
        *self.foca.identity()
    }

    /// foca's part of a datagram.
    ///
    /// foca answers whatever a member says that it holds for dead by telling it so, that very
    /// message included: two nodes that hold each other for dead would tell each other without
    /// end. So such a message is not answered by another; the next probe or announcement is.
    pub(super) fn datagram(&mut self, payload: &[u8]) {
        self.told_dead_by = told_dead(payload);
        let result = self.foca.handle_data(payload, &mut self.runtime);
        self.refused += u64::from(result.is_err());
    }

    pub(super) fn timer(&mut self, timer: SwimTimer) {
        let result = self.foca.handle_timer(timer, &mut self.runtime);
        // An incomplete probe cycle (timers were late) is mended by foca itself.
        self.refused += u64::from(result.is_err());
    }

    /// Asks a node for its members. Its epoch need not be known.
    pub(super) fn announce(&mut self, to: GossipId) {
        if !self.left && to.id != self.me().id {
            let result = self.foca.announce(to, &mut self.runtime);
            self.refused += u64::from(result.is_err());
        }
    }

    /// Tells foca what became known by other means, such as a stream.
    pub(super) fn tell(&mut self, who: GossipId, incarnation: u16, state: MemberState) {
        let state = match state {
            MemberState::Alive => State::Alive,
            MemberState::Suspect => State::Suspect,
            MemberState::Down => State::Down,
            MemberState::Unknown => return,
        };
        if who.id == self.me().id || self.left {
            return;
        }
        let update = Member::new(who, incarnation, state);
        let result = self.foca.apply_many(std::iter::once(update), true, &mut self.runtime);
        self.refused += u64::from(result.is_err());
    }

    /// Knows these members from the beginning, and does not gossip of them.
    #[cfg(test)]
    pub(super) fn know(&mut self, members: impl Iterator<Item = GossipId>) {
        let alive = members.map(|who| Member::new(who, 0, State::Alive));
        self.foca.apply_many(alive, false, &mut self.runtime).unwrap();
    }

    /// Comes back under an epoch above `heard` and the present one.
    pub(super) fn rejoin(&mut self, heard: u64) {
        if self.left {
            return;
        }
        let me = self.me();
        let next = GossipId { epoch: me.epoch.max(heard).saturating_add(1), ..me };
        let changed = self.foca.change_identity(next, &mut self.runtime);
        // An empty update makes foca probe again at once, if it has anyone to probe.
        let woken = self.foca.apply_many(std::iter::empty(), true, &mut self.runtime);
        self.refused += u64::from(changed.is_err()) + u64::from(woken.is_err());
    }

    /// Says goodbye: the others need not find out.
    pub(super) fn leave(&mut self) {
        if !self.left {
            self.left = true;
            let result = self.foca.leave_cluster(&mut self.runtime);
            self.refused += u64::from(result.is_err());
        }
    }

    /// All members but this node, in order of id.
    pub(super) fn members(&self) -> Vec<Sighting> {
        let each = |member: &Member<GossipId>| Sighting {
            who: *member.id(),
            state: match member.state() {
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down => MemberState::Down,
            },
            incarnation: member.incarnation(),
        };
        let me = self.me().id;
        let mut members: Vec<Sighting> = self.foca.iter_membership_state().map(each).collect();
        members.retain(|sighting| sighting.who.id != me);
        members.sort_by_key(|sighting| sighting.who.id);
        members
    }

    /// Fits suspicion and repetition to the number of members.
    pub(super) fn tune(&mut self, members: u32) {
        if members != self.members_tuned_for && self.foca.set_config(tuning(members)).is_ok() {
            self.members_tuned_for = members;
        }
    }

    /// How long a suspect has to speak up.
    pub(super) fn suspicion(&self) -> Duration {
        tuning(self.members_tuned_for).suspect_to_down_after
    }

    /// Changes not yet told often enough.
    pub(super) fn backlog(&self) -> usize {
        self.foca.updates_backlog()
    }

    /// What foca wants done after any of the above.
    pub(super) fn wishes(&mut self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let told_dead_by = self.told_dead_by.take();
        while let Some((to, payload)) = self.runtime.to_send() {
            let is_echo = told_dead_by.is_some_and(|by| by.id == to.id);
            if !is_echo || told_dead(&payload).is_none() {
                wishes.push(Wish::Send(to, payload));
            }
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            wishes.push(Wish::Schedule(after, timer));
        }
        while let Some(notification) = self.runtime.to_notify() {
            wishes.push(match notification {
                OwnedNotification::MemberUp(_)
                | OwnedNotification::MemberDown(_)
                | OwnedNotification::Rename(..)
                | OwnedNotification::Active
                | OwnedNotification::Idle
                | OwnedNotification::Rejoin(_) => Wish::Changed,
                OwnedNotification::Defunct => Wish::Dead,
            });
        }
        wishes
    }
}

fn tuning(members: u32) -> Config {
    let mut config = Config::new_lan(NonZeroU32::new(members.max(1)).unwrap_or(NonZeroU32::MIN));
    let least = NonZeroU8::new(TRANSMISSIONS_MIN).unwrap_or(NonZeroU8::MIN);
    config.max_transmissions = config.max_transmissions.max(least);
    // The same shape as foca's own (4 s up to ten members, then by the logarithm), a little less.
    config.suspect_to_down_after =
        config.suspect_to_down_after.mul_f64(SUSPICION.as_secs_f64() / 4.0);
    config.max_packet_size =
        NonZeroUsize::new(DATAGRAM_BYTES_MAX - HEADER_BYTES).unwrap_or(NonZeroUsize::MIN);
    config.notify_down_members = true;
    // A node that is down is remembered: it comes back with a higher epoch.
    config.remove_down_after = None;
    // Our own timer announces, to members that are down too, and never stops.
    config.periodic_announce = None;
    config.periodic_announce_to_down_members = None;
    let three = NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN);
    config.periodic_gossip = Some(PeriodicParams { frequency: GOSSIP_PERIOD, num_members: three });
    config
}

/// What every datagram says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DatagramHeader {
    /// The hash of `cluster.name`.
    pub(super) cluster_name: u64,
    /// 0 before the founding.
    pub(super) cluster: u128,
    pub(super) from: NodeId,
    pub(super) boot: Boot,
}

impl DatagramHeader {
    pub(super) fn new(name: &str, cluster: Option<ClusterId>, from: NodeId, boot: Boot) -> Self {
        let cluster = cluster.map_or(0, |cluster| cluster.0);
        Self { cluster_name: xxh3_64(name.as_bytes()), cluster, from, boot }
    }

    pub(super) fn wrap(&self, payload: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
        out.extend_from_slice(&MAGIC);
        out.push(FORMAT);
        out.extend_from_slice(&self.cluster_name.to_le_bytes());
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.from.0.to_le_bytes());
        out.extend_from_slice(&self.boot.0.to_le_bytes());
        out.extend_from_slice(&xxh3_64(payload).to_le_bytes());
        out.extend_from_slice(payload);
        out.into()
    }

    /// The header and foca's part, whose checksum holds.
    pub(super) fn unwrap(datagram: Bytes) -> Result<(Self, Bytes), DecodeError> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(DecodeError::Malformed("datagram"));
        }
        let mut r = Reader::new(datagram);
        for byte in MAGIC {
            if r.u8()? != byte {
                return Err(DecodeError::Malformed("datagram"));
            }
        }
        match r.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let cluster_name = r.u64()?;
        let cluster = r.u128()?;
        let from = NodeId(r.u128()?);
        let boot = Boot(r.u64()?);
        let checksum = r.u64()?;
        let payload = r.rest();
        if xxh3_64(&payload) != checksum {
            return Err(DecodeError::Checksum);
        }
        Ok((Self { cluster_name, cluster, from, boot }, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(id: u128, epoch: u64) -> GossipId {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7401));
        GossipId { id: NodeId(id), epoch, boot: Boot(1), addr }
    }

    #[test]
    fn a_node_comes_back_above_every_epoch_that_it_heard_of_for_itself() {
        let mut swim = Swim::new(who(1, 5), 1);
        swim.rejoin(900);
        assert_eq!(swim.me().epoch, 901);
        let mut other = Swim::new(who(2, 5), 2);
        other.tell(who(1, 900), 0, MemberState::Down);
        other.tell(who(1, 6), 0, MemberState::Alive);
        assert_eq!(other.members()[0].state, MemberState::Down, "an older epoch is no news");
        other.tell(swim.me(), 0, MemberState::Alive);
        assert_eq!(other.members()[0].state, MemberState::Alive);
    }

    #[test]
    fn nodes_that_hold_each_other_for_dead_do_not_tell_each_other_for_ever() {
        let mut nodes = [Swim::new(who(1, 5), 1), Swim::new(who(2, 5), 2)];
        nodes[0].tell(who(2, 5), 0, MemberState::Down);
        nodes[1].tell(who(1, 5), 0, MemberState::Down);
        nodes.iter_mut().for_each(|node| drop(node.wishes()));
        nodes[0].announce(who(2, 5));
        let (mut datagrams, mut told) = (0, 0);
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for from in 0..2 {
                for wish in nodes[from].wishes() {
                    match wish {
                        Wish::Send(_, payload) => {
                            nodes[1 - from].datagram(&payload);
                            datagrams += 1;
                            quiet = false;
                        }
                        Wish::Dead => told += 1,
                        Wish::Schedule(..) | Wish::Changed => {}
                    }
                }
            }
            assert!(datagrams < 10, "they go on and on");
        }
        assert!(told > 0, "who announced itself is told that it is held for dead");
    }

    #[test]
    fn gossip_of_ever_more_ids_is_bounded() {
        let mut codec = BoundedCodec { ids: BTreeSet::new() };
        let admitted = (0..10_000).filter(|&id| codec.admit(NodeId(id)).is_ok()).count();
        assert_eq!(admitted, IDS_MAX);
        assert!(codec.admit(NodeId(0)).is_ok(), "those that are known go on");
    }
}
