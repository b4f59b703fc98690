//! How a client and its calls behave.

use std::time::Duration;

use bytes::Bytes;

use super::Consistency;

/// How a client behaves; the defaults suit a cluster on one network.
#[derive(Clone, Debug)]
pub struct Options {
    /// A call ends after this, attempts and pauses included.
    pub timeout: Duration,
    /// One attempt ends after this, if there is another node to ask.
    pub attempt_timeout: Duration,
    /// A connection must be made within this.
    pub connect_timeout: Duration,
    /// How often a call is tried in all; at least 1.
    pub attempts: u32,
    /// Connections to each node; at least 1.
    pub channels_per_node: usize,
    /// For calls that do not say otherwise.
    pub consistency: Consistency,
    /// For calls that do not say otherwise.
    pub strict: bool,
    /// Whether only the addresses that were given are used. If not, the client learns those of the
    /// other nodes of the cluster: see [`super::Client`].
    pub pinned: bool,
}

/// What a read asks for beyond the key; what is unset comes from [`Options`].
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// R.
    pub consistency: Option<Consistency>,
    /// Read-your-writes and monotonic reads.
    pub strict: Option<bool>,
    /// Fill [`super::Reading::all`].
    pub all_siblings: bool,
    /// The call ends after this.
    pub timeout: Option<Duration>,
}

/// What a write asks for beyond key and value; what is unset comes from [`Options`].
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// W.
    pub consistency: Option<Consistency>,
    /// Read-your-writes and monotonic reads.
    pub strict: Option<bool>,
    /// The context of the read that this write is based on; empty: overwrite.
    pub context: Bytes,
    /// How long the value lives; none: for ever. Ignored by deletes.
    pub ttl: Option<Duration>,
    /// Names the request; none: a random one.
    pub request_id: Option<[u8; 16]>,
    /// The call ends after this.
    pub timeout: Option<Duration>,
}

/// What a batch asks for beyond its entries; what is unset comes from [`Options`].
#[derive(Clone, Debug, Default)]
pub struct BatchOptions {
    /// R or W of each key.
    pub consistency: Option<Consistency>,
    /// Read-your-writes and monotonic reads, of each key.
    pub strict: Option<bool>,
    /// Fill [`super::Reading::all`]; for reads only.
    pub all_siblings: bool,
    /// All of it ends after this.
    pub timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_millis(1500),
            connect_timeout: Duration::from_secs(1),
            attempts: 4,
            channels_per_node: 1,
            consistency: Consistency::Quorum,
            strict: false,
            pinned: false,
        }
    }
}
