//! Configuration: layers of text in, [`Settings`] that cannot be wrong out.
//!
//! ```text
//!  config/coterie.toml (compiled in) ◀ files ◀ environment ◀ flags      later ones win
//!                                 │ flattened to section.key, each with its origin
//!                                 ▼
//!         unknown keys refused, values parsed, settings compared with each other
//!                                 │
//!             Settings ───────────┴────────── or every problem that was found
//! ```
//!
//! `config/coterie.toml` is both the default layer and the reference of all settings.

mod error;
mod layers;
mod values;
mod write;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use self::error::{ConfigError, Problem};
use self::layers::Layers;
pub use self::layers::Origin;
pub use self::values::HostPort;
use self::values::{Filter, Label, Parse, Ratio, Size, Url, duration_text, size_text};
use crate::protocol::control::ControlConfig;
use crate::protocol::step::Tuning;
use crate::store::Durability;
use crate::types::NodeName;

/// All settings with their meaning, units and defaults.
pub const DEFAULTS: &str = include_str!("../../config/coterie.toml");

/// The largest `limits.value_bytes`.
const VALUE_BYTES_MAX: u64 = 16 << 20;
/// The largest `limits.record_bytes`: an answer that shows all siblings still fits a client's
/// [`crate::client::ANSWER_BYTES_MAX`].
const RECORD_BYTES_MAX: u64 = 48 << 20;
/// What a record holds beside one value: its version vector and the sibling's own fields.
const RECORD_BYTES_BESIDE: u64 = 64 << 10;
/// Bytes a second below which comparing, rebuilding or scrubbing would take for ever.
const RATE_MIN: u64 = 64 << 10;
/// The least time between two exports of metrics: nobody looks at them more often.
const METRICS_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The most nodes that may found a cluster: all of them must have been seen once.
const FOUNDERS_MAX: u64 = 100;

/// The settings of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[node]`
    pub node: NodeSettings,
    /// `[cluster]`
    pub cluster: ClusterSettings,
    /// `[listen]`
    pub listen: Listen,
    /// `[advertise]`
    pub advertise: Advertise,
    /// `[bootstrap]`
    pub bootstrap: Bootstrap,
    /// `[replication]`
    pub replication: Replication,
    /// `[storage]`
    pub storage: Storage,
    /// `[limits]`
    pub limits: Limits,
    /// `[membership]`
    pub membership: Membership,
    /// `[clock]`
    pub clock: ClockSettings,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[hints]`
    pub hints: Hints,
    /// `[anti_entropy]`
    pub anti_entropy: AntiEntropy,
    /// `[scrub]`
    pub scrub: Scrub,
    /// `[collection]`
    pub collection: Collection,
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[log]`
    pub log: Log,
    /// `[telemetry]`
    pub telemetry: Telemetry,
}

/// A setting as a node runs with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// `section.key`
    pub key: &'static str,
    /// As a file writes it.
    pub value: String,
    /// The layer that has set it.
    pub origin: Origin,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Its place on the ring.
    pub name: NodeName,
    /// Its folder.
    pub data: PathBuf,
    /// Its failure domain; may be empty.
    pub zone: String,
    /// Its share of the data, relative to the others'.
    pub weight: u32,
}

/// Which cluster it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// The cluster's name.
    pub name: String,
}

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// gRPC for clients.
    pub client: SocketAddr,
    /// UDP and TCP for other nodes.
    pub internal: SocketAddr,
    /// HTTP for operators.
    pub admin: SocketAddr,
    /// Whether the operator has said that the network is trusted.
    pub insecure: bool,
}

/// Where others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// gRPC for clients.
    pub client: HostPort,
    /// UDP and TCP for other nodes.
    pub internal: SocketAddr,
    /// HTTP for operators.
    pub admin: HostPort,
}

/// How the cluster comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Those who found it; sorted, each once, at least one.
    pub founders: Vec<NodeName>,
    /// Where to look for other nodes.
    pub seeds: Vec<Seed>,
}

/// Where to look for other nodes: their internal addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    /// One node.
    Host(HostPort),
    /// Every address that a name has, each with this port.
    Dns(HostPort),
}

/// How data is spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// N.
    pub replicas: u8,
    /// Q.
    pub partitions: u16,
}

/// How data is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// What an acknowledgement waits for.
    pub durability: Durability,
    /// Free bytes below which writes are refused.
    pub min_free: u64,
    /// Bytes of memory for blocks that were read.
    pub cache: u64,
    /// Bytes of memory for recently used records.
    pub record_cache: u64,
}

/// What is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Concurrent values that a write may leave of one key.
    pub siblings: usize,
    /// Bytes of a record after a write.
    pub record_bytes: usize,
    /// Requests that the node works on at a time.
    pub in_flight: usize,
}

/// How nodes become members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Whether nodes that appear become members by themselves.
    pub auto_join: bool,
    /// They do once no node has come or gone for this long.
    pub settle: Duration,
}

/// What is expected of clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockSettings {
    /// How far the nodes' clocks may differ.
    pub max_skew: Duration,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A request.
    pub request: Duration,
    /// A replica's answer.
    pub replica: Duration,
    /// A replica's answer before one more is asked.
    pub hedge: Duration,
}

/// What is kept for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    /// Bytes on this node.
    pub max_bytes: u64,
    /// Hints on their way to one node at a time.
    pub replay_window: usize,
}

/// How homes compare what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AntiEntropy {
    /// From one round to the next.
    pub interval: Duration,
    /// Bytes a second that this node exchanges for it.
    pub bytes_per_second: u64,
    /// Bytes a second that this node fetches to rebuild what its disk lost.
    pub rebuild_bytes_per_second: u64,
}

/// How records are read again and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// All of them once in this time.
    pub interval: Duration,
    /// Bytes a second that are read for it.
    pub bytes_per_second: u64,
}

/// How dead records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// How often they are looked for; zero: never.
    pub interval: Duration,
    /// The rest between two pages of looking.
    pub rest: Duration,
}

/// How the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Threads that serve requests; 0: one on up to two processors, else as many as there are.
    pub threads: usize,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A filter that `tracing_subscriber::EnvFilter` accepts.
    pub level: String,
    /// For whom.
    pub format: LogFormat,
}

/// For whom the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// People.
    Text,
    /// Programs.
    Json,
}

/// What is told to a collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// Where spans and metrics are sent; none: nowhere.
    pub otlp_endpoint: Option<String>,
    /// Which part of the requests is traced if the caller has not decided, 0 to 1.
    pub sample_ratio: f64,
    /// A request that takes longer is traced all the same.
    pub slow_request: Duration,
    /// How often metrics are sent; none: never.
    pub metrics_interval: Option<Duration>,
}

impl Settings {
    /// Reads all layers: the defaults, `files` in order, the variables of `environment` that are
    /// ours, and `flags` of the form `section.key=value`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[String],
    ) -> Result<Self, ConfigError> {
        Self::of(&mut Layers::of(files, environment, flags))
    }

    /// [`Settings::load`] with the environment of this process.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load_here(files: &[PathBuf], flags: &[String]) -> Result<Self, ConfigError> {
        Self::load(files, environment_here(), flags)
    }

    /// Every setting of [`Settings::load_here`], section by section, with where it came from.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn effective_here(
        files: &[PathBuf],
        flags: &[String],
    ) -> Result<Vec<Effective>, ConfigError> {
        Self::effective(files, environment_here(), flags)
    }

    fn effective(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[String],
    ) -> Result<Vec<Effective>, ConfigError> {
        let mut layers = Layers::of(files, environment, flags);
        let literals = Self::of(&mut layers)?.literals().into_iter();
        let with_origin =
            |(key, value)| Effective { key, value, origin: layers.origin(key).clone() };
        Ok(literals.map(with_origin).collect())
    }

    /// Reads one text in the form of a file, over the defaults.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(text: &str, name: &str) -> Result<Self, ConfigError> {
        let mut layers = Layers::defaults();
        layers.add_text(text, name);
        Self::of(&mut layers)
    }

    /// What a worker is told, one of `workers` that share the node's limits.
    #[must_use]
    pub fn tuning(&self, workers: usize) -> Tuning {
        let workers = workers.max(1);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Tuning {
            value_bytes_max: self.limits.value_bytes,
            siblings_max: self.limits.siblings,
            record_bytes_max: self.limits.record_bytes,
            skew_ms_max: micros(self.clock.max_skew) / 1000,
            replica_timeout: micros(self.timeouts.replica),
            hedge_min: micros(self.timeouts.hedge),
            hint_bytes_max: self.hints.max_bytes / workers as u64,
            replay_window: self.hints.replay_window,
            recent_bytes_max: usize::try_from(self.storage.record_cache).unwrap_or(usize::MAX)
                / workers,
            in_flight_max: self.limits.in_flight.div_ceil(workers),
            sync_interval: micros(self.anti_entropy.interval),
            sync_bytes_per_second: self.anti_entropy.bytes_per_second.div_ceil(workers as u64),
            rebuild_bytes_per_second: self
                .anti_entropy
                .rebuild_bytes_per_second
                .div_ceil(workers as u64),
            scrub_interval: micros(self.scrub.interval),
            scrub_bytes_per_second: self.scrub.bytes_per_second.div_ceil(workers as u64),
            collect_interval: micros(self.collection.interval),
            collect_rest: micros(self.collection.rest),
        }
    }

    /// What the control core is told.
    #[must_use]
    pub fn control(&self) -> ControlConfig {
        ControlConfig {
            cluster_name: self.cluster.name.clone(),
            zone: self.node.zone.clone(),
            weight: self.node.weight,
            internal: self.advertise.internal,
            client: self.advertise.client.to_string(),
            admin: self.advertise.admin.to_string(),
            founders: self.bootstrap.founders.clone(),
            replicas: self.replication.replicas,
            partitions: self.replication.partitions,
            skew_ms_max: u64::try_from(self.clock.max_skew.as_millis()).unwrap_or(u64::MAX),
            auto_join: self.membership.auto_join,
            settle_ms: u64::try_from(self.membership.settle.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn of(layers: &mut Layers) -> Result<Self, ConfigError> {
        let node = NodeSettings::of(layers);
        let listen = Listen::of(layers);
        let advertise = Advertise::of(layers, &listen);
        let bootstrap = Bootstrap::of(layers, &node.name);
        let replication = Replication::of(layers, &bootstrap);
        let settings = Self {
            node,
            cluster: ClusterSettings { name: layers.get::<NodeName>("cluster.name").into() },
            listen,
            advertise,
            bootstrap,
            replication,
            storage: Storage {
                durability: layers.get("storage.durability"),
                min_free: layers.get::<Size>("storage.min_free").0,
                cache: layers.get::<Size>("storage.cache").0,
                record_cache: layers.get::<Size>("storage.record_cache").0,
            },
            limits: Limits::of(layers),
            membership: Membership {
                auto_join: layers.get("membership.auto_join"),
                settle: duration(layers, "membership.settle", seconds(2), seconds(3600)),
            },
            clock: ClockSettings {
                max_skew: duration(layers, "clock.max_skew", seconds(1), seconds(3600)),
            },
            timeouts: Timeouts::of(layers),
            hints: Hints {
                max_bytes: layers.get::<Size>("hints.max_bytes").0,
                replay_window: layers.number("hints.replay_window", 1, 65_536),
            },
            anti_entropy: AntiEntropy {
                interval: duration(layers, "anti_entropy.interval", seconds(1), seconds(86_400)),
                bytes_per_second: rate(layers, "anti_entropy.bytes_per_second"),
                rebuild_bytes_per_second: rate(layers, "anti_entropy.rebuild_bytes_per_second"),
            },
            scrub: Scrub {
                interval: duration(layers, "scrub.interval", seconds(60), seconds(366 * 86_400)),
                bytes_per_second: rate(layers, "scrub.bytes_per_second"),
            },
            collection: Collection {
                interval: duration(layers, "collection.interval", Duration::ZERO, seconds(604_800)),
                rest: duration(layers, "collection.rest", Duration::ZERO, seconds(60)),
            },
            runtime: Runtime { threads: layers.number("runtime.threads", 0, 256) },
            log: Log {
                level: layers.get::<Filter>("log.level").0,
                format: layers.get("log.format"),
            },
            telemetry: Telemetry {
                otlp_endpoint: layers.get::<Option<Url>>("telemetry.otlp_endpoint").map(|u| u.0),
                sample_ratio: layers.get::<Ratio>("telemetry.sample_ratio").0,
                slow_request: slow_request(layers),
                metrics_interval: metrics_interval(layers),
            },
        };
        let problems = std::mem::take(&mut layers.problems);
        if problems.is_empty() { Ok(settings) } else { Err(ConfigError { problems }) }
    }
}

/// Bytes a second.
fn rate(layers: &mut Layers, key: &'static str) -> u64 {
    let Size(rate) = layers.get(key);
    if rate < RATE_MIN && !layers.has_refused(key) {
        layers.refuse(key, format!("{}: at least 64KiB", size_text(rate)));
    }
    rate.max(RATE_MIN)
}

fn environment_here() -> impl Iterator<Item = (String, String)> {
    let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

impl NodeSettings {
    fn of(layers: &mut Layers) -> Self {
        let name = layers.get::<Option<NodeName>>("node.name").unwrap_or_else(|| {
            let why = "every node needs a name of its own, for instance `node-0`: in the file, as \
                       COTERIE__NODE__NAME, or as --set node.name=node-0";
            if !layers.has_refused("node.name") {
                layers.refuse("node.name", why.to_owned());
            }
            stand_in()
        });
        Self {
            name,
            data: layers.get("node.data"),
            zone: layers.get::<Label>("node.zone").0,
            weight: layers.number("node.weight", 1, 1000),
        }
    }
}

/// Takes the place of a name that is not known, so that all problems are found at once; settings
/// with a problem are never used.
fn stand_in() -> NodeName {
    NodeName::new("unnamed-0").unwrap_or_else(|_| unreachable!("a plain name"))
}

impl Listen {
    fn of(layers: &mut Layers) -> Self {
        let insecure: bool = layers.get("listen.insecure");
        let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
        let mut listen = |key: &'static str| {
            let address: SocketAddr = layers.get(key);
            if !insecure && !is_loopback(address.ip()) {
                let why = "nothing on this port is encrypted or asks who is calling: listen on \
                           127.0.0.1, or say by listen.insecure = true that the network is trusted";
                layers.refuse(key, why.to_owned());
            }
            let same = taken.iter().find(|other| other.1.port() == address.port());
            if let Some((other, _)) = same {
                layers.refuse(key, format!("{other} has this port already"));
            }
            taken.push((key, address));
            address
        };
        let (client, internal) = (listen("listen.client"), listen("listen.internal"));
        Self { client, internal, admin: listen("listen.admin"), insecure }
    }
}

/// Also if it is written as an IPv4 address within IPv6.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl Advertise {
    fn of(layers: &mut Layers, listen: &Listen) -> Self {
        Self {
            client: advertised(layers, "advertise.client", "listen.client", listen.client),
            internal: advertised(layers, "advertise.internal", "listen.internal", listen.internal),
            admin: advertised(layers, "advertise.admin", "listen.admin", listen.admin),
        }
    }
}

fn advertised<T: Parse + From<SocketAddr>>(
    layers: &mut Layers,
    key: &'static str,
    listen_key: &str,
    listen: SocketAddr,
) -> T {
    if let Some(given) = layers.get::<Option<T>>(key) {
        return given;
    }
    if listen.ip().is_unspecified() && !layers.has_refused(key) {
        let why = format!(
            "{listen_key} is {listen}, which nobody can call: give the address under which \
             others reach this node"
        );
        layers.refuse(key, why);
    }
    listen.into()
}

impl Bootstrap {
    fn of(layers: &mut Layers, name: &NodeName) -> Self {
        let expect: u64 = layers.number("bootstrap.expect", 1, FOUNDERS_MAX);
        let mut founders: Vec<NodeName> = layers.get("bootstrap.founders");
        let given = founders.len() as u64;
        founders.sort();
        founders.dedup();
        if founders.len() as u64 != given {
            layers.refuse("bootstrap.founders", "a name stands in it twice".to_owned());
        } else if given > FOUNDERS_MAX {
            layers.refuse("bootstrap.founders", format!("at most {FOUNDERS_MAX} are allowed"));
        } else if given > 0 && layers.is_set("bootstrap.expect") && expect != given {
            let why = format!("bootstrap.founders names {given} nodes; give one of the two");
            layers.refuse("bootstrap.expect", why);
        } else if given == 0 {
            founders = derived_founders(name, expect).unwrap_or_else(|| {
                let why = format!(
                    "the founders cannot be told from the name of this node, `{name}`: list them, \
                     or give the nodes names that end in -0, -1 and so on"
                );
                layers.refuse("bootstrap.founders", why);
                vec![name.clone()]
            });
        }
        Self { founders, seeds: layers.get("bootstrap.seeds") }
    }
}

/// The names with the prefix of `name` and the numbers 0 to `expect - 1`, sorted; none if `name`
/// has no number at its end.
fn derived_founders(name: &NodeName, expect: u64) -> Option<Vec<NodeName>> {
    let (prefix, number) = name.as_str().rsplit_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return None;
    }
    let names = (0..expect).map(|number| NodeName::new(&format!("{prefix}-{number}")).ok());
    let mut founders = names.collect::<Option<Vec<_>>>()?;
    founders.sort();
    Some(founders)
}

impl Replication {
    fn of(layers: &mut Layers, bootstrap: &Bootstrap) -> Self {
        let replicas: u8 = layers.number("replication.replicas", 1, 15);
        let founders = bootstrap.founders.len();
        let refused =
            |layers: &Layers, keys: &[&str]| keys.iter().any(|key| layers.has_refused(key));
        let known =
            !refused(layers, &["bootstrap.founders", "bootstrap.expect", "replication.replicas"]);
        if known && founders < usize::from(replicas) {
            let nodes =
                if founders == 1 { "1 node".to_owned() } else { format!("{founders} nodes") };
            let why = format!(
                "no node holds two replicas of a key, and {nodes} would found the cluster \
                 (bootstrap.expect or bootstrap.founders): found it with at least {replicas}, or \
                 set replication.replicas = {founders}"
            );
            layers.refuse("replication.replicas", why);
        }
        Self { replicas, partitions: layers.number("replication.partitions", 1, 16_384) }
    }
}

impl Limits {
    fn of(layers: &mut Layers) -> Self {
        let value = size(layers, "limits.value_bytes", 1, VALUE_BYTES_MAX);
        let least = value + RECORD_BYTES_BESIDE;
        let record = size(layers, "limits.record_bytes", least, RECORD_BYTES_MAX);
        let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            value_bytes: count(value),
            siblings: layers.number("limits.siblings", 1, 1024),
            record_bytes: count(record),
            in_flight: layers.number("limits.in_flight", 1, 1_000_000),
        }
    }
}

impl Timeouts {
    fn of(layers: &mut Layers) -> Self {
        let (least, most) = (Duration::from_millis(10), seconds(600));
        let request = duration(layers, "timeouts.request", least, most);
        let least = Duration::from_millis(1);
        Self {
            request,
            replica: duration(layers, "timeouts.replica", least, request),
            hedge: duration(layers, "timeouts.hedge", least, request),
        }
    }
}

fn slow_request(layers: &mut Layers) -> Duration {
    duration(layers, "telemetry.slow_request", Duration::from_millis(1), seconds(600))
}

/// None for zero.
fn metrics_interval(layers: &mut Layers) -> Option<Duration> {
    let key = "telemetry.metrics_interval";
    let every = duration(layers, key, Duration::ZERO, seconds(3600));
    if !every.is_zero() && every < METRICS_INTERVAL_MIN {
        layers.refuse(key, format!("{}: at least 1s, or 0s for never", duration_text(every)));
    }
    Some(every).filter(|every| !every.is_zero())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn size(layers: &mut Layers, key: &'static str, low: u64, high: u64) -> u64 {
    let size = layers.get::<Size>(key).0;
    if !(low..=high).contains(&size) {
        let (low, high) = (size_text(low), size_text(high));
        layers.refuse(key, format!("allowed is {low} to {high}"));
    }
    size.clamp(low, high.max(low))
}

fn duration(layers: &mut Layers, key: &'static str, low: Duration, high: Duration) -> Duration {
    let time: Duration = layers.get(key);
    if !(low..=high).contains(&time) {
        let (low, high) = (duration_text(low), duration_text(high));
        layers.refuse(key, format!("allowed is {low} to {high}"));
    }
    time.clamp(low, high.max(low))
}

#[cfg(test)]
mod tests;
