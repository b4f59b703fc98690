//! Which node is asked next.
//!
//! Nodes take turns. One that failed is left out for a while; then one request at a time probes
//! it, while the others still leave it out. If none is left, the one whose time is up first is
//! asked.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::{ANSWER_BYTES_MAX, Error, Options};
use crate::proto::kv_client::KvClient;

/// How long a node is left out after a failure: short, for it may have been one connection.
const LEFT_OUT_MS: u64 = 200;
/// How often a node that does not answer is probed: one that is back is used again within this.
const PROBE_MS: u64 = 1_000;
/// The pause before a node is asked again that this very call has asked already.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
/// Windows that a value of the largest default size fits into without a round trip.
const WINDOW_BYTES: u32 = 2 << 20;
/// Requests that may wait for a connection's task.
const BUFFERED_REQUESTS: usize = 4096;

/// The nodes of a cluster as they are known at some time; never empty.
pub(super) type All = Arc<[Arc<Node>]>;

#[derive(Debug)]
pub(super) struct Nodes {
    all: RwLock<All>,
    turn: AtomicUsize,
    started: Instant,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: String,
    /// Whether the caller has given the address; else it was learned.
    pub(super) given: bool,
    /// Once it has said it.
    pub(super) id: OnceLock<String>,
    channels: Vec<Channel>,
    turn: AtomicUsize,
    /// Milliseconds since `Nodes::started` until which the node is left out; 0: it is well.
    out_until: AtomicU64,
}

/// A channel to `address` that connects when it is needed.
pub(super) fn channel(address: &str, options: &Options) -> Result<Channel, Error> {
    let uri =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri)
        .ok()
        .filter(|endpoint| endpoint.uri().authority().is_some_and(|a| a.port().is_some()))
        .ok_or_else(|| Error::invalid(format!("`{address}` is not an address: host:port")))?;
    let endpoint = endpoint
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .buffer_size(BUFFERED_REQUESTS);
    Ok(endpoint.connect_lazy())
}

impl Nodes {
    pub(super) fn new(
        addresses: impl Iterator<Item = String>,
        options: &Options,
    ) -> Result<Self, Error> {
        let node = |address| Node::new(address, true, options).map(Arc::new);
        let nodes = addresses.map(node).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(Error::invalid("no address was given".to_owned()));
        }
        // Clients that start together should not all begin with the same node.
        let turn = AtomicUsize::new(rand::random_range(0..nodes.len()));
        Ok(Self { all: RwLock::new(nodes.into()), turn, started: Instant::now() })
    }

    pub(super) fn all(&self) -> All {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes other nodes the known ones; there must be one.
    pub(super) fn replace(&self, all: Vec<Arc<Node>>) {
        *self.all.write().unwrap_or_else(PoisonError::into_inner) = all.into();
    }

    /// The node to ask next, by its place in `all`, after those of `tried` in order.
    pub(super) fn pick(&self, all: &[Arc<Node>], tried: &[usize]) -> usize {
        let count = all.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        // After a full round, nodes may be asked again.
        let tried = &tried[tried.len() / count * count..];
        let order = || (first..first + count).map(|at| at % count).filter(|at| !tried.contains(at));
        let now = self.now();
        let well = order().find(|&at| all[at].may_be_asked(now));
        let least = || order().min_by_key(|&at| all[at].out_until.load(Ordering::Relaxed));
        well.or_else(least).unwrap_or(first)
    }

    /// The node did not answer.
    pub(super) fn failed(&self, node: &Node) {
        let (out_until, now) = (&node.out_until, self.now());
        // Calls that fail together count once, and a probe has set its own time.
        if out_until.load(Ordering::Relaxed) <= now {
            out_until.store(now + LEFT_OUT_MS, Ordering::Relaxed);
        }
    }

    /// Milliseconds since the client began; never 0.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// How long to wait before the next attempt of a call that has made `tried` and knows so many nodes:
/// not at all while there are nodes that it has not asked.
pub(super) fn pause_before_attempt(nodes: usize, tried: usize) -> Duration {
    if tried == 0 || !tried.is_multiple_of(nodes) {
        return Duration::ZERO;
    }
    PAUSE_FIRST * (1 << (tried / nodes - 1).min(5))
}

impl Node {
    pub(super) fn new(address: String, given: bool, options: &Options) -> Result<Self, Error> {
        let channels = (0..options.channels_per_node.max(1))
            .map(|_| channel(&address, options))
            .collect::<Result<_, _>>()?;
        let (turn, out_until, id) = (AtomicUsize::new(0), AtomicU64::new(0), OnceLock::new());
        Ok(Self { address, given, id, channels, turn, out_until })
    }

    pub(super) fn channel(&self) -> Channel {
        let turn = match self.channels.len() {
            1 => 0,
            count => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        self.channels[turn].clone()
    }

    pub(super) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The node has answered a request.
    pub(super) fn answered(&self) {
        if self.out_until.load(Ordering::Relaxed) != 0 {
            self.out_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the node is well, or its time is up and this request is the one that probes it.
    fn may_be_asked(&self, now: u64) -> bool {
        let until = self.out_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let again = now + PROBE_MS;
        let claim = |order| self.out_until.compare_exchange(until, again, order, order).is_ok();
        until <= now && claim(Ordering::Relaxed)
    }
}
