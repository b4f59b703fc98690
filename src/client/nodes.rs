//! Which node is asked next.
//!
//! Nodes take turns. One that failed is left out for a while; then one request at a time probes
//! it, while the others still leave it out. If none is left, the one whose time is up first is
//! asked.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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

#[derive(Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    turn: AtomicUsize,
    started: Instant,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: String,
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
        let nodes = addresses.map(|address| Node::new(address, options));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(Error::invalid("no address was given".to_owned()));
        }
        // Clients that start together should not all begin with the same node.
        let turn = AtomicUsize::new(rand::random_range(0..nodes.len()));
        Ok(Self { all: nodes, turn, started: Instant::now() })
    }

    pub(super) fn all(&self) -> &[Node] {
        &self.all
    }

    /// The node to ask next, by its place in [`Nodes::all`], after those of `tried` in order.
    pub(super) fn pick(&self, tried: &[usize]) -> usize {
        let count = self.all.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        // After a full round, nodes may be asked again.
        let tried = &tried[tried.len() / count * count..];
        let order = || (first..first + count).map(|at| at % count).filter(|at| !tried.contains(at));
        let now = self.now();
        let well = order().find(|&at| self.all[at].may_be_asked(now));
        let least = || order().min_by_key(|&at| self.all[at].out_until.load(Ordering::Relaxed));
        well.or_else(least).unwrap_or(first)
    }

    /// How long to wait before the next attempt: not at all while there are nodes that this call
    /// has not asked.
    pub(super) fn pause_before_attempt(&self, tried: &[usize]) -> Duration {
        let rounds = tried.len() / self.all.len();
        if !tried.len().is_multiple_of(self.all.len()) {
            return Duration::ZERO;
        }
        PAUSE_FIRST * (1 << (rounds - 1).min(5))
    }

    /// The node did not answer.
    pub(super) fn failed(&self, at: usize) {
        let (out_until, now) = (&self.all[at].out_until, self.now());
        // Calls that fail together count once, and a probe has set its own time.
        if out_until.load(Ordering::Relaxed) <= now {
            out_until.store(now + LEFT_OUT_MS, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl Node {
    fn new(address: String, options: &Options) -> Result<Self, Error> {
        let channels = (0..options.channels_per_node.max(1))
            .map(|_| channel(&address, options))
            .collect::<Result<_, _>>()?;
        Ok(Self { address, channels, turn: AtomicUsize::new(0), out_until: AtomicU64::new(0) })
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
