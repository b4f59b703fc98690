//! Gossip: the UDP socket and the control core, on a thread of their own.
//!
//! ```text
//!   UDP ────────▶┌─────────────────────────┐────▶ UDP
//!   seeds ──────▶│ control core, one step  │────▶ streams: connect, accept, reject, send
//!   streams ────▶│ at a time; timers first │────▶ committer
//!   committer ──▶└─────────────────────────┘────▶ workers: view, reachability, conditions
//! ```
//!
//! The thread has its own runtime, so that neither storage nor the data path can delay it: a
//! node whose gossip is late is suspected by the others.
//!
//! Invariants:
//! - due timers come before inputs, and inputs in the order in which they came;
//! - the effects of one step are carried out, in order, before the next step;
//! - changes reach the committer one batch at a time: a batch that was refused is tried again
//!   before a later one is begun, so that an old value never comes after a newer one.

mod clock;
mod driver;
mod seeds;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

pub use clock::SystemClock;
pub use driver::{Gossip, Options};
pub use seeds::Seed;

use crate::protocol::control::{Agreed, ConnId, ControlEffect, ControlInput, OrderId, Refusal};
use crate::protocol::placement::View;
use crate::protocol::step::{Change, Conditions, Reach};
use crate::types::{Mono, NodeId, Now};

/// Control messages waiting for the core; more are dropped. They are few: thousands mean that
/// the core stands still, or that a peer has gone mad.
const MESSAGES_MAX: usize = 10_000;

/// What the thread needs of the control core.
pub trait ControlCore: Send + 'static {
    /// Takes one input.
    fn step(&mut self, now: Now, input: ControlInput, out: &mut Vec<ControlEffect>);

    /// When to step with [`ControlInput::Tick`] at the latest.
    fn next_timer(&self) -> Option<Mono>;

    /// What to greet a peer with.
    fn hello(&self, now: Now) -> Bytes;

    /// Whether the node has found its cluster: seeds are then asked less often.
    fn settled(&self) -> bool;
}

/// Where the effects of the control core go. Nothing here may block.
pub trait Outlet: Send + Sync + 'static {
    /// Sends a control message to a peer.
    fn send(&self, to: NodeId, message: Bytes);
    /// Keeps a stream to each address, and drops others.
    fn connect(&self, addresses: &BTreeSet<SocketAddr>);
    /// A stream is this peer's.
    fn accept(&self, conn: ConnId, peer: NodeId);
    /// A stream is refused.
    fn reject(&self, conn: ConnId, reason: String);
    /// Makes changes durable; answered by [`Mail::Stored`] or [`Mail::Refused`].
    fn persist(&self, id: u64, changes: Vec<Change>);
    /// Keeps changes when convenient; not answered.
    fn note(&self, changes: Vec<Change>);
    /// Tells all workers.
    fn view(&self, view: Arc<View>);
    /// Tells all workers.
    fn reachability(&self, peer: NodeId, reach: Reach);
    /// Tells all workers.
    fn conditions(&self, conditions: Conditions);
    /// The node must stop, and why.
    fn stop(&self, reason: String);
    /// The node must stop, and start again from its folder at once; and why.
    fn come_back(&self, reason: String);
    /// The node has left the ring: it must stop, and has done what it was told to.
    fn decommissioned(&self, reason: String);
    /// An operator's order was carried out, or refused.
    fn answer(&self, id: OrderId, answer: Result<Agreed, Refusal>);
}

/// What comes to the thread from others.
#[derive(Debug)]
pub enum Mail {
    /// For the control core.
    Input(ControlInput),
    /// The batch with this number is durable.
    Stored(u64),
    /// The batch with this number was refused: nothing of it is stored.
    Refused(u64),
}

/// The way to the thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: mpsc::UnboundedSender<Mail>,
    counters: Arc<Counters>,
}

/// The thread's end of a [`Mailbox`].
#[derive(Debug)]
pub struct Letters {
    receiver: mpsc::UnboundedReceiver<Mail>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    messages_waiting: AtomicUsize,
    messages_dropped: AtomicU64,
    datagrams_in: AtomicU64,
    datagrams_out: AtomicU64,
    datagram_bytes_in: AtomicU64,
    datagram_bytes_out: AtomicU64,
    datagrams_failed: AtomicU64,
    lag_max_micros: AtomicU64,
}

/// What the thread has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Bytes received.
    pub datagram_bytes_in: u64,
    /// Bytes sent.
    pub datagram_bytes_out: u64,
    /// Datagrams that the kernel did not take.
    pub datagrams_failed: u64,
    /// Control messages waiting now.
    pub messages_waiting: usize,
    /// Control messages dropped because too many were waiting.
    pub messages_dropped: u64,
    /// How late a timer was at worst.
    pub lag_max_micros: u64,
}

impl Mailbox {
    /// A mailbox and the thread's end of it.
    #[must_use]
    pub fn new() -> (Self, Letters) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let counters = Arc::<Counters>::default();
        (Self { sender, counters: counters.clone() }, Letters { receiver, counters })
    }

    /// Hands in mail. Messages of peers are dropped if too many wait; nothing else is.
    pub fn send(&self, mail: Mail) {
        if matches!(mail, Mail::Input(ControlInput::Message(..))) {
            if self.counters.messages_waiting.load(Ordering::Relaxed) >= MESSAGES_MAX {
                self.counters.messages_dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.counters.messages_waiting.fetch_add(1, Ordering::Relaxed);
        }
        // If the thread is gone, the node is stopping.
        let _ = self.sender.send(mail);
    }

    /// Hands in an input for the control core.
    pub fn input(&self, input: ControlInput) {
        self.send(Mail::Input(input));
    }

    /// What the thread has done.
    #[must_use]
    pub fn report(&self) -> Report {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Report {
            datagrams_in: of(&counters.datagrams_in),
            datagrams_out: of(&counters.datagrams_out),
            datagram_bytes_in: of(&counters.datagram_bytes_in),
            datagram_bytes_out: of(&counters.datagram_bytes_out),
            datagrams_failed: of(&counters.datagrams_failed),
            messages_waiting: counters.messages_waiting.load(Ordering::Relaxed),
            messages_dropped: of(&counters.messages_dropped),
            lag_max_micros: of(&counters.lag_max_micros),
        }
    }
}

impl Letters {
    async fn next(&mut self) -> Option<Mail> {
        let mail = self.receiver.recv().await?;
        if matches!(mail, Mail::Input(ControlInput::Message(..))) {
            self.counters.messages_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Some(mail)
    }
}
