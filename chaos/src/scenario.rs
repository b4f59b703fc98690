//! Scenarios: what is run, on what, and what goes wrong meanwhile. Short TOML files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde::{Deserialize, Deserializer};

use crate::nemesis::{Fault, Shape};

/// The most replicas that a key has.
pub const REPLICAS: usize = 3;
/// More nodes than this on one machine are a mistake.
const NODES_MAX: usize = 25;
/// More clients than this measure the harness and not the cluster.
const CLIENTS_MAX: u32 = 1000;

/// A smaller or shorter jump of a clock cannot be told from a slow answer.
const JUMP_MIN: Duration = Duration::from_secs(10);
const JUMP_HELD_MIN: Duration = Duration::from_secs(3);
/// Stalls for longer would tell no more.
const STALLS_MAX: Duration = Duration::from_secs(60);

/// What a run does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One sentence for `list` and for the report.
    pub about: String,
    /// Where the nodes run.
    pub target: TargetKind,
    /// How many nodes.
    pub nodes: usize,
    /// How many more there is a place for, that may join.
    #[serde(default)]
    pub spares: usize,
    /// How long the load lasts, in seconds.
    pub seconds: u32,
    /// Clients, each of which waits for one answer before it asks again.
    #[serde(default = "default_clients")]
    pub clients: u32,
    /// Operations a second that all clients together try at most.
    #[serde(default = "default_rate")]
    pub rate: u32,
    /// Which workloads, and how often each relative to the others.
    #[serde(default = "default_workloads")]
    pub workloads: BTreeMap<WorkloadKind, u32>,
    /// Whether the faults come in the order given, round and round, or each time in another one.
    #[serde(default)]
    pub order: Order,
    /// The network that the nodes have all the time.
    #[serde(default)]
    pub network: Option<Network>,
    /// What must hold besides the checkers.
    #[serde(default)]
    pub limits: Limits,
    /// What goes wrong.
    #[serde(default)]
    pub nemesis: Vec<Nemesis>,
}

/// A fault, how long it lasts, and the pause before it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nemesis {
    /// What goes wrong.
    pub fault: Fault,
    /// How many nodes it strikes at once, where it strikes nodes.
    #[serde(default = "default_struck")]
    pub nodes: usize,
    /// How long until it is healed.
    #[serde(rename = "for", default = "default_pause", deserialize_with = "span")]
    pub lasts: Duration,
    /// How long all is well before it.
    #[serde(default = "default_pause", deserialize_with = "span")]
    pub pause: Duration,
    /// For `partition`: who is cut off from whom. None: another shape each time.
    #[serde(default)]
    pub shape: Option<Shape>,
    /// For `network`: what happens to each packet.
    #[serde(default)]
    pub network: Network,
    /// For `clock-jump`: how far ahead or back, which chance decides.
    #[serde(default = "default_jump", deserialize_with = "span")]
    pub jump: Duration,
}

/// A network that is worse than a cable: what `tc netem` does to each packet that a node sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// How much later it arrives.
    #[serde(default, deserialize_with = "span")]
    pub delay: Duration,
    /// By how much that varies, either way.
    #[serde(default, deserialize_with = "span")]
    pub jitter: Duration,
    /// How many of a hundred packets are lost.
    #[serde(default)]
    pub loss_percent: f64,
}

/// What must hold besides the checkers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// How many of a hundred requests may fail although a quorum lives.
    #[serde(default = "default_failed_percent")]
    pub failed_percent: f64,
    /// The longest that no request may succeed although a quorum lives.
    #[serde(default = "default_silence", deserialize_with = "span")]
    pub silence: Duration,
}

/// Where nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// Processes on this machine, each on a loopback address of its own
    Local,
    /// Processes on this machine, each in a network namespace of its own (needs root)
    Netns,
    /// Containers on a private network, through the docker command
    Docker,
    /// Pods of a cluster that is there, through kubectl
    Kubernetes,
}

/// What clients do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// Writes keys that nobody has written before, and reads some of them.
    Set,
    /// Reads all siblings of one of few keys, adds a token, and writes with the context.
    Cart,
    /// Strict reads and writes of few keys that all clients share.
    Register,
    /// Strict reads and writes of a key that only this client writes.
    Session,
    /// Overwrites few keys without a context.
    Overwrite,
    /// Writes a key that nobody has written before, and deletes it.
    Delete,
}

/// In which order faults come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As they are written, round and round.
    #[default]
    Given,
    /// Each round in another order, which the seed decides.
    Random,
}

impl Default for Limits {
    fn default() -> Self {
        Self { failed_percent: default_failed_percent(), silence: default_silence() }
    }
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// If it cannot be read, or makes no sense.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        text.parse().with_context(|| format!("{} is no scenario", path.display()))
    }

    /// Finds what makes no sense.
    ///
    /// # Errors
    /// Says what it is.
    pub fn check(&self) -> anyhow::Result<()> {
        let all = self.nodes.saturating_add(self.spares);
        if self.nodes == 0 || all > NODES_MAX {
            bail!(
                "nodes = {}, spares = {}: 1 to {NODES_MAX} are possible",
                self.nodes,
                self.spares
            );
        }
        if self.clients == 0 || self.clients > CLIENTS_MAX {
            bail!("clients = {}: 1 to {CLIENTS_MAX} are possible", self.clients);
        }
        if self.seconds == 0 || self.rate == 0 {
            bail!("seconds and rate must be above 0");
        }
        if self.workloads.values().sum::<u32>() == 0 {
            bail!("no workload has a weight above 0");
        }
        self.network.iter().try_for_each(Network::check)?;
        self.nemesis.iter().try_for_each(|nemesis| nemesis.check(self.nodes, all))?;
        self.check_ring()
    }

    /// Somebody must be able to come, and to go, at some time.
    fn check_ring(&self) -> anyhow::Result<()> {
        let strikes = |fault| self.nemesis.iter().any(|nemesis| nemesis.fault == fault);
        let (joins, leaves) = (strikes(Fault::Join), strikes(Fault::Leave));
        let many = self.nodes > self.replicas();
        if joins && self.spares == 0 && !(leaves && many) {
            bail!("join: nobody can, without spares");
        }
        if leaves && !many && !(joins && self.spares > 0) {
            bail!("leave: of {} nodes none can, with as many copies of each key", self.nodes);
        }
        Ok(())
    }

    /// How many copies of each key there are.
    pub fn replicas(&self) -> usize {
        REPLICAS.min(self.nodes)
    }
}

impl Nemesis {
    /// For a cluster of `nodes` at first, and of `all` at most.
    fn check(&self, nodes: usize, all: usize) -> anyhow::Result<()> {
        let Self { fault, nodes: struck, shape, network, lasts, jump, .. } = self;
        if *struck == 0 || *struck > all {
            bail!("{fault}: nodes = {struck}, of {all}");
        }
        if *struck > 1 && !matches!(fault, Fault::Kill | Fault::Pause) {
            bail!("{fault} strikes one node at a time: only kill and pause strike several");
        }
        if shape.is_some() && *fault != Fault::Partition {
            bail!("{fault} has no shape: only a partition has");
        }
        if *fault == Fault::Partition && nodes < 3 {
            bail!("a partition needs three nodes");
        }
        if (*network == Network::default()) == (*fault == Fault::Network) {
            bail!("{fault}: `network` (delay, jitter, loss_percent) belongs to the fault network");
        }
        if *fault == Fault::ClockJump && (*jump < JUMP_MIN || *lasts < JUMP_HELD_MIN) {
            bail!("{fault}: less than {JUMP_MIN:?} for {JUMP_HELD_MIN:?} cannot be seen");
        }
        if *fault == Fault::SlowDisk && *lasts > STALLS_MAX {
            bail!("{fault}: stalls for more than {STALLS_MAX:?} tell no more");
        }
        network.check()
    }
}

impl Network {
    fn check(&self) -> anyhow::Result<()> {
        if !(0.0..=50.0).contains(&self.loss_percent) || self.jitter > self.delay {
            bail!(
                "a network loses 0 to 50 of 100 packets, and its jitter is no more than its delay"
            );
        }
        Ok(())
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Netns => "netns",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
        })
    }
}

impl WorkloadKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Set, Self::Cart, Self::Register, Self::Session, Self::Overwrite, Self::Delete];

    /// As scenarios spell it; also how its keys begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Cart => "cart",
            Self::Register => "register",
            Self::Session => "session",
            Self::Overwrite => "overwrite",
            Self::Delete => "delete",
        }
    }
}

fn default_clients() -> u32 {
    50
}

fn default_rate() -> u32 {
    600
}

fn default_workloads() -> BTreeMap<WorkloadKind, u32> {
    WorkloadKind::ALL.into_iter().zip([4, 2, 2, 1, 1, 1]).collect()
}

fn default_pause() -> Duration {
    Duration::from_secs(5)
}

fn default_struck() -> usize {
    1
}

fn default_jump() -> Duration {
    Duration::from_secs(30)
}

fn default_failed_percent() -> f64 {
    0.1
}

fn default_silence() -> Duration {
    Duration::from_secs(10)
}

/// A number with `ms`, `s` or `min`.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "min" => 60.0,
        _ => return Err(format!("`{text}` is no time: a number with ms, s or min")),
    };
    let seconds = number.trim().parse::<f64>().map_err(|_| format!("`{text}` is no time"))?;
    Duration::try_from_secs_f64(seconds * unit).map_err(|_| format!("`{text}` is no time"))
}

/// For fields that are times.
pub fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_span(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: &str = "about = 'x'\ntarget = 'local'\nnodes = 3\nseconds = 10\n";

    #[test]
    fn what_is_not_said_has_a_default() {
        let scenario: Scenario = SHORT.parse().unwrap();
        assert_eq!((scenario.clients, scenario.order), (50, Order::Given));
        assert_eq!(scenario.workloads.len(), WorkloadKind::ALL.len());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (more, why) in [
            ("color = 'red'", "color"),
            ("clients = 0", "clients"),
            ("[workloads]\nset = 0", "workload"),
            ("[workloads]\nsett = 1", "sett"),
            ("[[nemesis]]\nfault = 'kill'\nfor = '5'", "no time"),
            ("[[nemesis]]\nfault = 'kill'\nnodes = 4", "4"),
            ("[[nemesis]]\nfault = 'kil'", "kil"),
            ("[[nemesis]]\nfault = 'full-disk'\nnodes = 2", "one node at a time"),
            ("[[nemesis]]\nfault = 'kill'\nshape = 'halves'", "shape"),
            ("[[nemesis]]\nfault = 'network'", "network"),
            ("network = { delay = '1ms', jitter = '2ms' }", "jitter"),
            ("[[nemesis]]\nfault = 'join'", "spares"),
            ("[[nemesis]]\nfault = 'leave'", "leave"),
            ("[[nemesis]]\nfault = 'slow-disk'\nfor = '2min'", "stalls"),
            ("[[nemesis]]\nfault = 'clock-jump'\njump = '1s'", "clock-jump"),
        ] {
            let error = format!("{:#}", format!("{SHORT}{more}").parse::<Scenario>().unwrap_err());
            assert!(error.contains(why), "{more}: {error}");
        }
    }

    #[test]
    fn who_may_join_or_leave_depends_on_spares_and_copies() {
        let of = |nodes, spares, faults: &[&str]| {
            let nemesis: Vec<String> =
                faults.iter().map(|fault| format!("[[nemesis]]\nfault = '{fault}'\n")).collect();
            let nemesis = nemesis.concat();
            let text = format!(
                "about = 'x'\ntarget = 'local'\nnodes = {nodes}\nspares = {spares}\nseconds = 1\n{nemesis}"
            );
            text.parse::<Scenario>().is_ok()
        };
        assert!(
            of(3, 1, &["join"]) && of(3, 1, &["leave", "join"]) && of(5, 0, &["leave", "join"])
        );
        assert!(of(5, 0, &["leave"]) && !of(3, 1, &["leave"]) && !of(5, 0, &["join"]));
        assert!(!of(3, 0, &["join", "leave"]) && !of(20, 6, &[]));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_span("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_span("2min"), Ok(Duration::from_secs(120)));
        assert!(parse_span("5").is_err() && parse_span("s").is_err() && parse_span("-1s").is_err());
    }

    #[test]
    fn the_scenarios_that_ship_make_sense() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut seen = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            Scenario::read(&file.unwrap().path()).unwrap();
            seen += 1;
        }
        assert!(seen >= 6, "{seen} scenarios");
    }
}
