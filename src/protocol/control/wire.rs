//! What control cores say to each other over streams: the hello, and control messages.
//!
//! ```text
//!  a stream opens:  hello ───────────▶      each side judges the other's: accept or reject
//!                   ◀─────────── hello
//!  then             Remember{what I know of your commits} ──▶  amnesia? if not:
//!                   ◀── Recalled
//!  now and then     Digest{hash of each section} ──▶
//!                   ◀── Push{sections that differ, versions of views}
//!                   Push{sections that still differ, newer views, versions} ──▶
//!                   ◀── Push{newer views}
//! ```
//!
//! Placement versions are named first, and sent whole where they are lacking:
//!
//! ```text
//!                   ◀── Push{placements: tags of my live versions}
//!  lacks some       Push{placements: mine, wanted: what I lack, tables: what you lack} ──▶
//!                   ◀── Push{tables}
//! ```
//!
//! Every decoder takes arbitrary bytes; every list is bounded.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::admission::{ADMISSIONS_MAX, Admission, Claim, Verdict};
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{LIVE_MAX, MEMBERS_MAX, ZONE_BYTES_MAX};
use crate::types::{
    Boot, ClusterId, CommitNumber, Generation, NAME_BYTES_MAX, NodeId, NodeName, Wall,
};

/// The version of the hello and of control messages.
pub(super) const FORMAT: u8 = 3;
/// First bytes of a hello: what does not begin so is not one of ours.
const HELLO_MAGIC: [u8; 4] = *b"coth";
/// Longest `host:port`: a DNS name and a port.
pub(super) const ADDRESS_BYTES_MAX: usize = 262;
/// Longest cluster name.
pub(super) const CLUSTER_NAME_BYTES_MAX: usize = NAME_BYTES_MAX;

/// What a node says of itself, and others pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerRecord {
    pub(super) descriptor: Descriptor,
    pub(super) generation: Generation,
    pub(super) boot: Boot,
    pub(super) internal: SocketAddr,
    pub(super) client: String,
    pub(super) admin: String,
}

/// What founding needs to know of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Descriptor {
    pub(super) name: NodeName,
    pub(super) id: NodeId,
    pub(super) zone: String,
    pub(super) weight: u32,
}

/// The first frame of a stream, in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) cluster_name: String,
    pub(super) cluster: Option<ClusterId>,
    pub(super) record: PeerRecord,
    /// Orders the sender's gossip identities.
    pub(super) epoch: u64,
    pub(super) wall: Wall,
}

/// A control message and what each says of its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) boot: Boot,
    pub(super) cluster: Option<ClusterId>,
    pub(super) wall: Wall,
    pub(super) message: ControlMessage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ControlMessage {
    /// What the sender durably knows of the receiver's commits.
    Remember(Mark),
    /// The receiver's memory of the sender's commits holds: nothing was forgotten.
    Recalled,
    /// Another process, of this boot, says that it is you, or wants your place: do you live? Of the sender's own boot
    /// if it is he who wonders.
    Challenge(Boot),
    /// I did when I was asked because of that process.
    Alive(Boot),
    /// Opens an exchange.
    Digest(Digests),
    /// Carries one on.
    Push(Box<Push>),
    /// A disk asks for a place.
    Claim(Box<Claim>),
    /// The answer.
    Verdict(Box<Verdict>),
}

/// The highest commit that a node was heard to have synced, and by which of its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Mark {
    pub(super) generation: Generation,
    pub(super) boot: u64,
    pub(super) number: CommitNumber,
}

/// A hash of each section of what nodes exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Digests {
    pub(super) records: u64,
    pub(super) founded: u64,
    pub(super) promises: u64,
    pub(super) trackers: u64,
    pub(super) views: u64,
    pub(super) placements: u64,
}

/// Sections that differ, or are new.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Push {
    /// If set, an answer is wanted with what differs from these.
    pub(super) digests: Option<Digests>,
    pub(super) records: Option<Vec<PeerRecord>>,
    pub(super) founded: Option<Founded>,
    /// All of them, in order of number.
    pub(super) admissions: Option<Vec<Admission>>,
    pub(super) promises: Option<Vec<Promise>>,
    pub(super) trackers: Option<Vec<Trackers>>,
    pub(super) views: Vec<NodeView>,
    /// If set, views newer than these are wanted.
    pub(super) versions: Option<Vec<ViewVersion>>,
    /// The sender's live placement versions, oldest first: all before the first have retired.
    pub(super) placements: Vec<PlacementTag>,
    /// Placement versions that are wanted whole.
    pub(super) wanted: Vec<PlacementTag>,
    /// Placement versions, whole, each after its parent.
    pub(super) tables: Vec<Bytes>,
}

/// A founder's promise to found the cluster so and not otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) name: NodeName,
    pub(super) id: NodeId,
    /// Counts the promises of one disk: a later one replaces an earlier one.
    pub(super) round: u64,
    /// The hash of the first placement version.
    pub(super) hash: u64,
    /// Sorted by name.
    pub(super) founders: Vec<Descriptor>,
}

/// What every member learns of the founding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Founded {
    /// The encoding of the first placement version.
    pub(super) placement: Bytes,
    /// The disk of each member at the founding, sorted by name.
    pub(super) ids: Vec<(NodeName, NodeId)>,
}

/// How far a name has come with the placement versions; each is named by number and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trackers {
    /// Whose.
    pub name: NodeName,
    /// The disk that published them.
    pub id: NodeId,
    /// Counts the changes of this disk's trackers: of two, the later counts.
    pub count: u64,
    /// Nothing that runs there ignores this version.
    pub ack: PlacementTag,
    /// Everything that it held when all had acked this version has been merged by its homes.
    pub sync: PlacementTag,
    /// It reads from this version.
    pub sync_ack: PlacementTag,
    /// It has left the ring with this disk, for good.
    pub left: bool,
}

/// How one node sees the members: for the page that shows where views differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeView {
    pub(super) version: ViewVersion,
    /// Sorted by id.
    pub(super) entries: Vec<Sight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ViewVersion {
    pub(super) observer: NodeId,
    pub(super) generation: Generation,
    pub(super) count: u64,
}

/// How a node sees one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) id: NodeId,
    pub(super) state: MemberState,
    pub(super) incarnation: u16,
    pub(super) epoch: u64,
    pub(super) reachable: bool,
}

/// What gossip says of a member.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It has not answered, and may yet.
    Suspect,
    /// It has been declared dead.
    Down,
    /// Gossip does not know it.
    Unknown,
}

impl Hello {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = HELLO_MAGIC.to_vec();
        out.push(FORMAT);
        out.bytes(self.cluster_name.as_bytes());
        encode_cluster(self.cluster, &mut out);
        encode_record(&self.record, &mut out);
        put_u64(&mut out, self.epoch);
        put_u64(&mut out, self.wall.0);
        out.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        for byte in HELLO_MAGIC {
            if r.u8()? != byte {
                return Err(DecodeError::Malformed("hello"));
            }
        }
        check_format(&mut r)?;
        let hello = Self {
            cluster_name: short_text(&mut r, CLUSTER_NAME_BYTES_MAX)?,
            cluster: decode_cluster(&mut r)?,
            record: decode_record(&mut r)?,
            epoch: r.u64()?,
            wall: Wall(r.u64()?),
        };
        r.end()?;
        Ok(hello)
    }
}

impl Said {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        put_u64(&mut out, self.boot.0);
        encode_cluster(self.cluster, &mut out);
        put_u64(&mut out, self.wall.0);
        match &self.message {
            ControlMessage::Remember(mark) => {
                out.push(1);
                mark.encode(&mut out);
            }
            ControlMessage::Recalled => out.push(2),
            ControlMessage::Challenge(by) => {
                out.push(3);
                put_u64(&mut out, by.0);
            }
            ControlMessage::Alive(by) => {
                out.push(4);
                put_u64(&mut out, by.0);
            }
            ControlMessage::Digest(digests) => {
                out.push(5);
                encode_digests(digests, &mut out);
            }
            ControlMessage::Push(push) => {
                out.push(6);
                encode_push(push, &mut out);
            }
            ControlMessage::Claim(claim) => {
                out.push(7);
                claim.encode(&mut out);
            }
            ControlMessage::Verdict(verdict) => {
                out.push(8);
                verdict.encode(&mut out);
            }
        }
        out.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        check_format(&mut r)?;
        let boot = Boot(r.u64()?);
        let cluster = decode_cluster(&mut r)?;
        let wall = Wall(r.u64()?);
        let message = match r.u8()? {
            1 => ControlMessage::Remember(Mark::decode(&mut r)?),
            2 => ControlMessage::Recalled,
            3 => ControlMessage::Challenge(Boot(r.u64()?)),
            4 => ControlMessage::Alive(Boot(r.u64()?)),
            5 => ControlMessage::Digest(decode_digests(&mut r)?),
            6 => ControlMessage::Push(Box::new(decode_push(&mut r)?)),
            7 => ControlMessage::Claim(Box::new(Claim::decode(&mut r)?)),
            8 => ControlMessage::Verdict(Box::new(Verdict::decode(&mut r)?)),
            _ => return Err(DecodeError::Malformed("control message")),
        };
        r.end()?;
        Ok(Self { boot, cluster, wall, message })
    }
}

impl Mark {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.generation.0);
        put_u64(out, self.boot);
        put_u64(out, self.number.0);
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let generation = Generation(r.u64()?);
        Ok(Self { generation, boot: r.u64()?, number: CommitNumber(r.u64()?) })
    }
}

impl Promise {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.bytes(self.name.as_str().as_bytes());
        out.extend_from_slice(&self.id.0.to_le_bytes());
        put_u64(out, self.round);
        put_u64(out, self.hash);
        encode_list(&self.founders, out, encode_descriptor);
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            name: decode_name(r)?,
            id: NodeId(r.u128()?),
            round: r.u64()?,
            hash: r.u64()?,
            founders: decode_list(r, 20, decode_descriptor)?,
        })
    }
}

impl Founded {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.bytes(&self.placement);
        encode_list(&self.ids, out, |(name, id), out| {
            out.bytes(name.as_str().as_bytes());
            out.extend_from_slice(&id.0.to_le_bytes());
        });
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let placement = r.bytes()?;
        let ids = decode_list(r, 18, |r| Ok((decode_name(r)?, NodeId(r.u128()?))))?;
        Ok(Self { placement, ids })
    }
}

/// The hash of a section: of its encoding, in canonical order.
pub(super) fn section_hash<T>(items: &[T], encode: impl Fn(&T, &mut Vec<u8>)) -> u64 {
    let mut out = Vec::new();
    encode_list(items, &mut out, encode);
    xxh3_64(&out)
}

fn check_format(r: &mut Reader) -> Result<(), DecodeError> {
    match r.u8()? {
        FORMAT => Ok(()),
        other => Err(DecodeError::Version(other)),
    }
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn encode_cluster(cluster: Option<ClusterId>, out: &mut Vec<u8>) {
    out.bool(cluster.is_some());
    if let Some(cluster) = cluster {
        out.extend_from_slice(&cluster.0.to_le_bytes());
    }
}

fn decode_cluster(r: &mut Reader) -> Result<Option<ClusterId>, DecodeError> {
    if r.bool()? { Ok(Some(ClusterId(r.u128()?))) } else { Ok(None) }
}

pub(super) fn encode_list<T>(items: &[T], out: &mut Vec<u8>, encode: impl Fn(&T, &mut Vec<u8>)) {
    out.varint(items.len() as u64);
    for item in items {
        encode(item, out);
    }
}

pub(super) fn decode_list<T>(
    r: &mut Reader,
    each: usize,
    decode: impl Fn(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    decode_long_list(r, each, MEMBERS_MAX, decode)
}

fn decode_long_list<T>(
    r: &mut Reader,
    each: usize,
    max: usize,
    decode: impl Fn(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = r.count(each)?;
    if count > max {
        return Err(DecodeError::Malformed("list"));
    }
    (0..count).map(|_| decode(r)).collect()
}

pub(super) fn encode_option<T>(
    item: Option<&T>,
    out: &mut Vec<u8>,
    encode: impl Fn(&T, &mut Vec<u8>),
) {
    out.bool(item.is_some());
    if let Some(item) = item {
        encode(item, out);
    }
}

pub(super) fn decode_option<T>(
    r: &mut Reader,
    decode: impl Fn(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if r.bool()? { decode(r).map(Some) } else { Ok(None) }
}

pub(super) fn short_text(r: &mut Reader, max: usize) -> Result<String, DecodeError> {
    let text = r.text()?;
    let printable = !text.chars().any(char::is_control);
    if text.len() <= max && printable { Ok(text) } else { Err(DecodeError::Malformed("text")) }
}

pub(super) fn decode_name(r: &mut Reader) -> Result<NodeName, DecodeError> {
    NodeName::new(&r.text()?).map_err(|_| DecodeError::Malformed("name"))
}

fn encode_descriptor(descriptor: &Descriptor, out: &mut Vec<u8>) {
    out.bytes(descriptor.name.as_str().as_bytes());
    out.extend_from_slice(&descriptor.id.0.to_le_bytes());
    out.bytes(descriptor.zone.as_bytes());
    out.extend_from_slice(&descriptor.weight.to_le_bytes());
}

fn decode_descriptor(r: &mut Reader) -> Result<Descriptor, DecodeError> {
    Ok(Descriptor {
        name: decode_name(r)?,
        id: NodeId(r.u128()?),
        zone: short_text(r, ZONE_BYTES_MAX)?,
        weight: r.u32()?,
    })
}

pub(super) fn encode_record(record: &PeerRecord, out: &mut Vec<u8>) {
    encode_descriptor(&record.descriptor, out);
    put_u64(out, record.generation.0);
    put_u64(out, record.boot.0);
    match record.internal.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&record.internal.port().to_le_bytes());
    out.bytes(record.client.as_bytes());
    out.bytes(record.admin.as_bytes());
}

pub(super) fn decode_record(r: &mut Reader) -> Result<PeerRecord, DecodeError> {
    let descriptor = decode_descriptor(r)?;
    let generation = Generation(r.u64()?);
    let boot = Boot(r.u64()?);
    let ip = match r.u8()? {
        4 => IpAddr::from(r.u32()?.to_le_bytes()),
        6 => IpAddr::from(r.u128()?.to_le_bytes()),
        _ => return Err(DecodeError::Malformed("address")),
    };
    let internal = SocketAddr::new(ip, r.u16()?);
    let client = short_text(r, ADDRESS_BYTES_MAX)?;
    let admin = short_text(r, ADDRESS_BYTES_MAX)?;
    Ok(PeerRecord { descriptor, generation, boot, internal, client, admin })
}

fn encode_digests(digests: &Digests, out: &mut Vec<u8>) {
    let Digests { records, founded, promises, trackers, views, placements } = *digests;
    for hash in [records, founded, promises, trackers, views, placements] {
        put_u64(out, hash);
    }
}

fn decode_digests(r: &mut Reader) -> Result<Digests, DecodeError> {
    Ok(Digests {
        records: r.u64()?,
        founded: r.u64()?,
        promises: r.u64()?,
        trackers: r.u64()?,
        views: r.u64()?,
        placements: r.u64()?,
    })
}

pub(super) fn encode_tag(tag: PlacementTag, out: &mut Vec<u8>) {
    out.extend_from_slice(&tag.number.to_le_bytes());
    put_u64(out, tag.hash);
}

pub(super) fn decode_tag(r: &mut Reader) -> Result<PlacementTag, DecodeError> {
    Ok(PlacementTag { number: r.u32()?, hash: r.u64()? })
}

pub(super) fn encode_trackers(trackers: &Trackers, out: &mut Vec<u8>) {
    out.bytes(trackers.name.as_str().as_bytes());
    out.extend_from_slice(&trackers.id.0.to_le_bytes());
    put_u64(out, trackers.count);
    for tag in [trackers.ack, trackers.sync, trackers.sync_ack] {
        encode_tag(tag, out);
    }
    out.bool(trackers.left);
}

pub(super) fn decode_trackers(r: &mut Reader) -> Result<Trackers, DecodeError> {
    Ok(Trackers {
        name: decode_name(r)?,
        id: NodeId(r.u128()?),
        count: r.u64()?,
        ack: decode_tag(r)?,
        sync: decode_tag(r)?,
        sync_ack: decode_tag(r)?,
        left: r.bool()?,
    })
}

pub(super) fn encode_version(version: &ViewVersion, out: &mut Vec<u8>) {
    out.extend_from_slice(&version.observer.0.to_le_bytes());
    put_u64(out, version.generation.0);
    out.varint(version.count);
}

fn decode_version(r: &mut Reader) -> Result<ViewVersion, DecodeError> {
    let observer = NodeId(r.u128()?);
    Ok(ViewVersion { observer, generation: Generation(r.u64()?), count: r.varint()? })
}

fn encode_view(view: &NodeView, out: &mut Vec<u8>) {
    encode_version(&view.version, out);
    encode_list(&view.entries, out, |sight, out| {
        out.extend_from_slice(&sight.id.0.to_le_bytes());
        out.push(sight.state as u8);
        out.varint(u64::from(sight.incarnation));
        out.varint(sight.epoch);
        out.bool(sight.reachable);
    });
}

fn decode_view(r: &mut Reader) -> Result<NodeView, DecodeError> {
    let version = decode_version(r)?;
    let entries = decode_list(r, 20, |r| {
        let id = NodeId(r.u128()?);
        let state = match r.u8()? {
            0 => MemberState::Alive,
            1 => MemberState::Suspect,
            2 => MemberState::Down,
            3 => MemberState::Unknown,
            _ => return Err(DecodeError::Malformed("state")),
        };
        let incarnation = u16::try_from(r.varint()?);
        let incarnation = incarnation.map_err(|_| DecodeError::Malformed("incarnation"))?;
        Ok(Sight { id, state, incarnation, epoch: r.varint()?, reachable: r.bool()? })
    })?;
    Ok(NodeView { version, entries })
}

fn encode_push(push: &Push, out: &mut Vec<u8>) {
    encode_option(push.digests.as_ref(), out, encode_digests);
    encode_option(push.records.as_ref(), out, |list, out| encode_list(list, out, encode_record));
    encode_option(push.founded.as_ref(), out, Founded::encode);
    encode_option(push.admissions.as_ref(), out, |list, out| {
        encode_list(list, out, Admission::encode);
    });
    encode_option(push.promises.as_ref(), out, |list, out| {
        encode_list(list, out, Promise::encode);
    });
    encode_option(push.trackers.as_ref(), out, |list, out| {
        encode_list(list, out, encode_trackers);
    });
    encode_list(&push.views, out, encode_view);
    encode_option(push.versions.as_ref(), out, |list, out| encode_list(list, out, encode_version));
    for tags in [&push.placements, &push.wanted] {
        encode_list(tags, out, |tag, out| encode_tag(*tag, out));
    }
    encode_list(&push.tables, out, |table, out| out.bytes(table));
}

fn decode_push(r: &mut Reader) -> Result<Push, DecodeError> {
    Ok(Push {
        digests: decode_option(r, decode_digests)?,
        records: decode_option(r, |r| decode_list(r, 46, decode_record))?,
        founded: decode_option(r, Founded::decode)?,
        admissions: decode_option(r, |r| {
            decode_long_list(r, 42, ADMISSIONS_MAX, Admission::decode)
        })?,
        promises: decode_option(r, |r| decode_list(r, 34, Promise::decode))?,
        trackers: decode_option(r, |r| decode_list(r, 63, decode_trackers))?,
        views: decode_list(r, 26, decode_view)?,
        versions: decode_option(r, |r| decode_list(r, 25, decode_version))?,
        placements: decode_long_list(r, 12, LIVE_MAX, decode_tag)?,
        wanted: decode_long_list(r, 12, LIVE_MAX, decode_tag)?,
        tables: decode_long_list(r, 1, LIVE_MAX, Reader::bytes)?,
    })
}
