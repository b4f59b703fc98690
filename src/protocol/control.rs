//! The control core of a node: membership, founding, placement, and what nodes remember of each
//! other. It decides who can be reached and who owns what; workers are told by [`View`] and
//! [`ControlEffect::Reachability`].
//!
//! ```text
//!   datagrams ──▶┌──────────────────────────────┐──▶ datagrams
//!   hellos ─────▶│ swim      who lives (foca)   │──▶ accept, reject, connect
//!   messages ───▶│ founding  who owns what      │──▶ messages, persist
//!                │ claim     whose disk it is   │
//!   broken ─────▶│ peers     who can be reached │──▶ reachability
//!   commits ────▶│ marks     who forgot what    │──▶ notes, stop
//!   progress ───▶│ ring      what is live, read │──▶ view
//!   orders ─────▶│ steward, operator            │──▶ answers
//!   timers ─────▶│ clocks, views                │──▶ conditions
//!                └──────────────────────────────┘
//! ```
//!
//! Deterministic: the same seed and the same inputs give the same effects. Due timers are
//! handled before an input, unless all are late by so much that this process must have stood
//! still: then nobody is accused for it.
//!
//! Liveness never changes placement: nothing that foca says moves ownership.

mod admission;
mod claim;
mod clocks;
mod exchange;
mod founding;
mod gossip;
mod marks;
mod operator;
mod peers;
mod plan;
mod proposals;
mod rejection;
mod report;
mod ring;
mod settle;
mod state;
mod steward;
mod streams;
mod swim;
#[cfg(test)]
mod tests;
mod versions;
mod views;
mod waiting;
mod wire;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::placement::View;
use super::progress::Progress;
use super::step::{Change, Conditions, Reach};
use crate::types::{Boot, CommitNumber, Generation, NodeId, NodeName};

pub use self::claim::{forget, goes_on_as};
pub use self::operator::{Agreed, Order, Refusal};
pub use self::proposals::was_removed;
pub use self::rejection::Stranger;
pub use self::report::{GossipReport, MemberReport, Queued, TrackersReport, Traffic};
pub use self::state::{Control, ControlError, META_PREFIX};
pub use self::views::{Difference, Says};
pub use self::waiting::{ChangeReport, Waits};
pub use self::wire::{MemberState, Trackers};

/// A driver's name for one order of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

/// A driver's name for one stream to or from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Who this node is; read from its disk and configuration at start.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The disk's id.
    pub id: NodeId,
    /// The name, from the configuration.
    pub name: NodeName,
    /// Raised and fsynced before this start.
    pub generation: Generation,
    /// Drawn at this start.
    pub boot: Boot,
    /// The commit number that recovery ended at.
    pub recovered: CommitNumber,
}

/// What the control core is told of the configuration.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// `cluster.name`: strangers of another name are refused.
    pub cluster_name: String,
    /// This node's failure domain; may be empty.
    pub zone: String,
    /// This node's share of the data, relative to the others'.
    pub weight: u32,
    /// Where peers reach this node: gossip over UDP, streams over TCP.
    pub internal: SocketAddr,
    /// Where clients reach this node, as `host:port`.
    pub client: String,
    /// Where its admin HTTP is, as `host:port`.
    pub admin: String,
    /// `bootstrap.founders`, sorted.
    pub founders: Vec<NodeName>,
    /// N.
    pub replicas: u8,
    /// Q.
    pub partitions: u16,
    /// How far clocks may differ, in milliseconds.
    pub skew_ms_max: u64,
    /// Whether nodes that appear become members by themselves.
    pub auto_join: bool,
    /// They do once nobody has come or gone for this long, in milliseconds.
    pub settle_ms: u64,
}

/// What the control core is told.
#[derive(Clone, Debug)]
pub enum ControlInput {
    /// The addresses of the seeds, as resolved just now.
    Seeds(Vec<SocketAddr>),
    /// A datagram came.
    Datagram(SocketAddr, Bytes),
    /// A stream to an address of [`ControlEffect::Connect`] was opened; comes before its hello.
    Dialled(ConnId, SocketAddr),
    /// The first frame of a stream came: the peer's hello (see [`ControlEffect::Accept`]).
    Hello(ConnId, Bytes),
    /// A peer rejected our hello and closed; its reason, as [`ControlEffect::Reject`] gave it.
    Rejected(ConnId, String),
    /// A control message came over an accepted stream.
    Message(NodeId, Bytes),
    /// A commit number was seen in an envelope of this peer.
    Synced(NodeId, CommitNumber),
    /// An accepted stream has ended.
    Broken(ConnId),
    /// An address of [`ControlEffect::Connect`] refused or did not answer.
    DialFailed(SocketAddr),
    /// A worker has found a peer silent (timeouts in a row), or answering again.
    Answering(NodeId, bool),
    /// Changes of [`ControlEffect::Persist`] are durable; the numbers come in order.
    Persisted(u64),
    /// How far all workers have come with the live placement versions.
    Progress(Progress),
    /// An operator wants something; answered by [`ControlEffect::Answer`].
    Order(OrderId, Order),
    /// The node begins to stop.
    Draining,
    /// A timer may be due: see `Control::next_timer`.
    Tick,
}

/// What the control core wants done, in order.
#[derive(Clone, Debug)]
pub enum ControlEffect {
    /// Send a datagram.
    SendDatagram(SocketAddr, Bytes),
    /// Send a control message on the stream to a peer.
    Send(NodeId, Bytes),
    /// Keep a stream to each of these addresses, dialling again for ever; drop others.
    Connect(BTreeSet<SocketAddr>),
    /// The hello was good: the stream is this peer's. A newer stream replaces an older one.
    Accept(ConnId, NodeId),
    /// The hello was refused: send this as the reason, and close.
    Reject(ConnId, String),
    /// Make changes durable; answered by [`ControlInput::Persisted`] with the number.
    Persist(u64, Vec<Change>),
    /// Keep these changes (what peers have announced) when convenient, within a second; not
    /// answered. ⚠ A commit that holds nothing but notes does not move the commit number that
    /// this node announces to its peers: they would note that in turn, and idle nodes would keep
    /// each other awake for ever. So the announced number is the highest synced commit that held
    /// anything else; it covers every acknowledged write, and never exceeds what is synced.
    Note(Vec<Change>),
    /// Tell all workers.
    View(Arc<View>),
    /// Tell all workers.
    Reachability(NodeId, Reach),
    /// Tell all workers.
    Conditions(Conditions),
    /// Something worth telling an operator: a level and a sentence.
    Log(Level, String),
    /// The node must stop: going on could lose data. The sentence says why and what to do.
    Stop(String),
    /// The node must stop, and start again from its folder at once: it has forgotten something, and
    /// goes on as another disk, whose id is durable (see [`goes_on_as`]). The sentence says why.
    ComeBack(String),
    /// This node has left the ring for good: its process ends, and has done what it was told to.
    Decommissioned(String),
    /// An operator's order was carried out as far as this node can, or refused.
    Answer(OrderId, Result<Agreed, Refusal>),
}

/// How urgent a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Someone should look.
    Warn,
    /// Worth knowing.
    Info,
}
