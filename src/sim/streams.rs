//! Streams between nodes, for the control core: whole and in order until they break.
//!
//! ```text
//!   dial ──▶ hello ⇄ hello ──▶ accepted by both ──▶ control messages, in order
//!                                   │
//!          link cut: stands still, then breaks · process killed: breaks at once
//!          machine without power: stands still, then breaks
//! ```
//!
//! A worker's messages need an accepted stream, too, but take their chance with the network: the
//! contract allows them to be lost, doubled and reordered, and so they are.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use rand::RngExt;

use super::clock::Time;
use super::tally::FaultKind;
use super::world::{Event, World};
use crate::protocol::control::{ConnId, ControlInput};
use crate::protocol::message::{Envelope, Message};
use crate::types::NodeId;

/// How often a process dials those to whom it has no stream.
const DIAL: Time = 250_000;
/// How often streams are looked after.
const LOOK: Time = 250_000;
/// A stream that stands still breaks after a time between these: keep-alives find out.
const STALL: std::ops::RangeInclusive<Time> = 1_000_000..=6_000_000;
/// A lost segment is sent again after about this long.
const RESEND: Time = 200_000;

/// What travels in a stream.
#[derive(Clone, Debug)]
pub(super) enum Frame {
    Hello(Bytes),
    /// An envelope.
    Said(Bytes),
    Rejected(String),
}

/// One end of a stream.
#[derive(Clone, Debug)]
struct End {
    node: usize,
    process: u64,
    accepted: Option<NodeId>,
    /// Frames for this end that wait for the link.
    waiting: VecDeque<Frame>,
    /// When the last frame for this end arrives: none overtakes it.
    last: Time,
}

#[derive(Clone, Debug)]
struct Stream {
    ends: [End; 2],
    address: SocketAddr,
    stalled: Option<Time>,
    patience: Time,
}

/// All streams of the world.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<u64, Stream>,
    count: u64,
}

fn conn(stream: u64, end: usize) -> ConnId {
    ConnId(stream * 2 + end as u64)
}

fn end_of(conn: ConnId) -> (u64, usize) {
    (conn.0 / 2, usize::from(conn.0 % 2 == 1))
}

impl World {
    /// Streams begin to be looked after.
    pub(super) fn begin_streams(&mut self) {
        self.schedule(self.paced(LOOK), Event::Streams);
    }

    /// A process dials whom it should have a stream to, and has not.
    pub(super) fn dial(&mut self, at: usize, boot: u64) {
        let Some(process) = self.nodes[at].process.as_ref().filter(|p| p.number == boot) else {
            return;
        };
        let Some(mind) = process.brain.mind() else { return };
        let wanted = mind.connect.clone();
        self.schedule(self.paced(DIAL), Event::Dial { node: at, boot });
        for address in wanted {
            let mine = |s: &Stream| {
                s.address == address && s.ends[0].node == at && s.ends[0].process == boot
            };
            if self.streams.open.values().any(mine) {
                continue;
            }
            let target = self.nodes.iter().position(|node| node.address == address);
            let target = target.filter(|&to| self.network.is_open(at, to));
            let number = target.and_then(|to| self.nodes[to].process.as_ref().map(|p| p.number));
            match (target, number) {
                (Some(to), Some(number)) => self.open_stream((at, boot), (to, number), address),
                (Some(_), None) => {
                    self.control(at, ControlInput::DialFailed(address));
                }
                // Nobody answers: the driver's own timeout ends it.
                (None, _) => self.control(at, ControlInput::DialFailed(address)),
            }
        }
        self.settle(at);
    }

    fn open_stream(&mut self, from: (usize, u64), to: (usize, u64), address: SocketAddr) {
        self.streams.count += 1;
        let id = self.streams.count;
        let end = |(node, process): (usize, u64)| End {
            node,
            process,
            accepted: None,
            waiting: VecDeque::new(),
            last: 0,
        };
        let patience = self.rng.random_range(STALL) / self.config.pace;
        let ends = [end(from), end(to)];
        self.streams.open.insert(id, Stream { ends, address, stalled: None, patience });
        self.control(from.0, ControlInput::Dialled(conn(id, 0), address));
        for (sender, receiver) in [(from.0, 1), (to.0, 0)] {
            let now = self.nodes[sender].clock.now(self.time);
            let process = self.nodes[sender].process.as_ref();
            let Some(mind) = process.and_then(|process| process.brain.mind()) else { continue };
            let hello = mind.control.hello(now);
            self.send_frame(conn(id, receiver), Frame::Hello(hello));
        }
    }

    /// Sends a frame to an end of a stream.
    fn send_frame(&mut self, to: ConnId, frame: Frame) {
        let (id, end) = end_of(to);
        let Some(stream) = self.streams.open.get_mut(&id) else { return };
        let (from, at) = (stream.ends[1 - end].node, stream.ends[end].node);
        if self.network.drops(from, at) || !stream.ends[end].waiting.is_empty() {
            return stream.ends[end].waiting.push_back(frame);
        }
        let mut way = self.network.latency(from, at, &mut self.rng);
        if self.rng.random_range(0..1000) < self.network.weather.loss {
            self.network.took_effect.count(FaultKind::Loss);
            way += self.rng.random_range(RESEND..2 * RESEND) / self.config.pace;
        }
        let Some(stream) = self.streams.open.get_mut(&id) else { return };
        let arrival = (self.time + way).max(stream.ends[end].last + 1);
        stream.ends[end].last = arrival;
        self.schedule(arrival - self.time, Event::Frame { to, frame });
    }

    /// The node that an end belongs to, if its process still runs.
    pub(super) fn end_node(&self, to: ConnId) -> Option<usize> {
        let (id, end) = end_of(to);
        let end = &self.streams.open.get(&id)?.ends[end];
        let process = self.nodes[end.node].process.as_ref()?;
        (process.number == end.process).then_some(end.node)
    }

    /// A frame arrives.
    pub(super) fn frame(&mut self, to: ConnId, frame: Frame) {
        let Some(node) = self.end_node(to) else { return };
        match frame {
            Frame::Hello(bytes) => {
                self.trace.event(self.time, node, b'h', &bytes);
                self.control(node, ControlInput::Hello(to, bytes));
            }
            Frame::Said(bytes) => {
                let (id, end) = end_of(to);
                let accepted = self.streams.open.get(&id).and_then(|s| s.ends[end].accepted);
                self.trace.event(self.time, node, b'C', &bytes);
                let (Some(from), Ok(envelope)) = (accepted, Envelope::decode(bytes)) else {
                    return;
                };
                self.control(node, ControlInput::Synced(from, envelope.synced));
                if let Message::Control(said) = envelope.message {
                    self.control(node, ControlInput::Message(from, said));
                }
            }
            Frame::Rejected(reason) => {
                self.trace.say(self.time, Some(node), || format!("is rejected: {reason}"));
                self.control(node, ControlInput::Rejected(to, reason));
                self.settle(node);
                return self.close_stream(end_of(to).0);
            }
        }
        self.settle(node);
    }

    /// A control core says something to a peer.
    pub(super) fn say_control(&mut self, at: usize, to: NodeId, bytes: Bytes) {
        let node = &self.nodes[at];
        let Some(process) = &node.process else { return };
        let Some(mind) = process.brain.mind() else { return };
        let Some(&mine) = mind.streams.get(&to) else { return };
        let placement = process.view.as_ref().map(|view| view.newest().tag()).unwrap_or_default();
        let envelope = Envelope {
            from: node.id,
            placement,
            synced: node.disk.announced(),
            trace: None,
            message: Message::Control(bytes),
        };
        let mut encoded = Vec::new();
        envelope.encode(&mut encoded);
        let (id, end) = end_of(mine);
        self.send_frame(conn(id, 1 - end), Frame::Said(encoded.into()));
    }

    /// A control core has accepted a stream.
    pub(super) fn accept_stream(&mut self, at: usize, mine: ConnId, peer: NodeId) {
        let (id, end) = end_of(mine);
        let Some(stream) = self.streams.open.get_mut(&id) else { return };
        stream.ends[end].accepted = Some(peer);
        let process = self.nodes[at].process.as_mut();
        if let Some(mind) = process.and_then(|process| process.brain.mind_mut()) {
            mind.streams.insert(peer, mine);
        }
    }

    /// Whether a node's newest stream of a peer comes from this very process.
    pub(super) fn is_accepted(&self, at: usize, peer: NodeId, process: (usize, u64)) -> bool {
        let mine = self.nodes[at].process.as_ref().and_then(|process| process.brain.mind());
        let Some(&mine) = mine.and_then(|mind| mind.streams.get(&peer)) else { return false };
        let (id, end) = end_of(mine);
        let other = self.streams.open.get(&id).map(|stream| &stream.ends[1 - end]);
        other.is_some_and(|end| (end.node, end.process) == process)
    }

    /// A control core has rejected a stream: the reason is sent, and the stream ends.
    pub(super) fn reject_stream(&mut self, mine: ConnId, reason: String) {
        let (id, end) = end_of(mine);
        self.send_frame(conn(id, 1 - end), Frame::Rejected(reason));
        if let Some(stream) = self.streams.open.get_mut(&id) {
            stream.ends[end].accepted = None;
            // The other side closes when it has read the reason, or when it has stood still.
            stream.stalled = Some(self.time);
        }
    }

    /// A process is gone and its kernel has closed its streams.
    pub(super) fn break_streams(&mut self, at: usize, process: u64) {
        let of_it = |end: &End| end.node == at && end.process == process;
        let open = self.streams.open.iter();
        let broken = open.filter(|(_, stream)| stream.ends.iter().any(of_it));
        let broken: Vec<u64> = broken.map(|(id, _)| *id).collect();
        for id in broken {
            let Some(stream) = self.streams.open.get(&id) else { continue };
            let other = stream.ends.iter().position(|end| !of_it(end)).unwrap_or(0);
            if !self.network.is_cut(at, stream.ends[other].node) {
                self.close_stream(id);
            }
        }
    }

    fn close_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.open.remove(&id) else { return };
        for (end, which) in stream.ends.iter().zip(0..) {
            let mine = conn(id, which);
            let Some(process) = &mut self.nodes[end.node].process else { continue };
            if process.number != end.process {
                continue;
            }
            if let Some(mind) = process.brain.mind_mut() {
                mind.streams.retain(|_, conn| *conn != mine);
            }
            if end.accepted.is_some() {
                let boot = end.process;
                self.schedule(200, Event::Broken { node: end.node, boot, conn: mine });
            }
        }
    }

    /// A stream of a process has ended.
    pub(super) fn broken(&mut self, at: usize, boot: u64, conn: ConnId) {
        if self.nodes[at].process.as_ref().is_some_and(|process| process.number == boot) {
            self.control(at, ControlInput::Broken(conn));
            self.settle(at);
        }
    }

    /// Looks after all streams: what stands still for too long breaks; what waited goes on.
    pub(super) fn look_after_streams(&mut self) {
        self.schedule(self.paced(LOOK), Event::Streams);
        let ids: Vec<u64> = self.streams.open.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.open.get(&id) else { continue };
            let [a, b] = &stream.ends;
            let (open, gone) = (self.network.is_open(a.node, b.node), self.is_gone(stream));
            let rejected = stream.stalled.is_some() && a.accepted.is_none() && b.accepted.is_none();
            let Some(stream) = self.streams.open.get_mut(&id) else { continue };
            if open && !gone && !rejected {
                stream.stalled = None;
                self.flush(id);
            } else if *stream.stalled.get_or_insert(self.time) + stream.patience <= self.time {
                self.close_stream(id);
            }
        }
    }

    /// Whether a process at one of the ends is gone.
    fn is_gone(&self, stream: &Stream) -> bool {
        stream.ends.iter().any(|end| {
            let process = self.nodes[end.node].process.as_ref();
            process.is_none_or(|process| process.number != end.process)
        })
    }

    fn flush(&mut self, id: u64) {
        for end in 0..2 {
            let Some(stream) = self.streams.open.get_mut(&id) else { return };
            for frame in std::mem::take(&mut stream.ends[end].waiting) {
                self.send_frame(conn(id, end), frame);
            }
        }
    }
}
