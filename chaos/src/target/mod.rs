//! Where nodes run, and what can be done to them there.
//!
//! | | local | netns | docker | kubernetes |
//! |---|---|---|---|---|
//! | kill, rolling restart | yes | yes | yes | yes |
//! | pause | yes | yes | yes | |
//! | partition, network | | yes | yes | |
//! | full and slow disk | as root | yes | | |
//! | clock jump | with libfaketime | with libfaketime | | |
//! | wiped disk | yes | yes | | yes |
//! | join, leave | yes | yes | | |
//!
//! What a target does to a node it also looks at: a fault that it cannot see take effect is told as
//! an error, and makes the run invalid.

mod command;
mod disk;
mod docker;
mod ether;
mod kubernetes;
mod local;
mod netns;
mod processes;
mod wires;

use std::path::PathBuf;
use std::time::Duration;

pub use self::docker::Docker;
pub use self::kubernetes::Kubernetes;
pub use self::local::Local;
pub use self::netns::Netns;
pub use self::wires::Wire;
use crate::nemesis::Fault;
use crate::scenario::Network;

/// What a target is made from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `coterie` binary.
    pub program: PathBuf,
    /// A folder for configuration, data and logs.
    pub dir: PathBuf,
    /// How many nodes found the cluster.
    pub nodes: usize,
    /// How many more there is a place for.
    pub spares: usize,
    /// N.
    pub replicas: usize,
    /// Whether disks must be able to fill up and to stall.
    pub own_disks: bool,
    /// Whether clocks must be able to jump.
    pub own_clocks: bool,
    /// Whether the network must be able to become worse.
    pub own_network: bool,
    /// The image, for containers.
    pub image: String,
    /// The namespace and the label selector of the pods.
    pub pods: (String, String),
}

/// A cluster that can be broken. All methods take a node by its number.
#[allow(async_fn_in_trait, reason = "a run is one task, which never moves to another thread")]
pub trait Target {
    /// Each node's name and where clients reach it: the founders, and then the spares.
    fn nodes(&self) -> Vec<(String, String)>;

    /// Makes what nodes need before they can start.
    async fn set_up(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether a fault can be brought about here; if not, why.
    fn offers(&self, fault: Fault) -> Result<(), String>;

    /// Starts the founders.
    async fn start_all(&mut self) -> anyhow::Result<()>;

    /// Starts a node that was stopped or killed.
    async fn start(&mut self, node: usize) -> anyhow::Result<()>;

    /// Starts those of these nodes that do not run, for whatever reason.
    async fn start_missing(&mut self, nodes: &[usize]) -> anyhow::Result<()>;

    /// Ends nodes at once, all at the same time. Answers with what was seen of their ends.
    async fn kill(&mut self, nodes: &[usize]) -> anyhow::Result<String>;

    /// Asks a node to end, and waits for that. Answers with what was seen of its end.
    async fn stop(&mut self, node: usize) -> anyhow::Result<String>;

    /// Freezes a node. Answers with what was seen of that.
    async fn pause(&mut self, node: usize) -> anyhow::Result<String>;

    /// Lets a frozen node go on.
    async fn resume(&mut self, node: usize) -> anyhow::Result<()>;

    /// Drops every packet that goes over these wires.
    async fn cut(&mut self, wires: &[Wire]) -> anyhow::Result<()>;

    /// How many packets were dropped on each of these wires since they were cut.
    async fn dropped(&mut self, wires: &[Wire]) -> anyhow::Result<Vec<u64>>;

    /// Drops no packets any more.
    async fn mend(&mut self) -> anyhow::Result<()>;

    /// Makes the network of every node worse, or as it was.
    async fn shape(&mut self, network: Option<Network>) -> anyhow::Result<()>;

    /// What the network has done to packets since it was made worse.
    async fn shaped(&mut self, network: Network) -> anyhow::Result<String>;

    /// Leaves a node's disk no room. Answers with what was seen of that.
    async fn fill(&mut self, node: usize) -> anyhow::Result<String>;

    /// Gives the room back.
    async fn unfill(&mut self, node: usize) -> anyhow::Result<()>;

    /// Stalls a node's disk for a while. Answers with what was seen of that.
    async fn stall(&mut self, node: usize, lasts: Duration) -> anyhow::Result<String>;

    /// Sets a node's clock so many seconds ahead, or back if they are negative; by nothing: right.
    async fn set_clock(&mut self, node: usize, ahead_s: i64) -> anyhow::Result<()>;

    /// Kills a node and empties its disk. Answers with what was seen of that.
    async fn wipe(&mut self, node: usize) -> anyhow::Result<String>;

    /// Starts a node that is no member, on an empty disk.
    async fn join(&mut self, node: usize) -> anyhow::Result<()>;

    /// Waits until a node that was told to leave has ended by itself. Answers with what was seen of
    /// its end.
    async fn left(&mut self, node: usize) -> anyhow::Result<String>;

    /// The nodes that ended without having been asked to since this was asked last, each with its
    /// last words.
    fn unasked_ends(&mut self) -> Vec<String>;

    /// Ends every node and takes away whatever was set up, also after a failure.
    async fn clean_up(&mut self) -> Vec<String>;
}

/// How often homes compare what they hold: often, so that a run need not wait for it.
const ANTI_ENTROPY: &str = "2s";
/// How often dead records are looked for: often, so that what was deleted is also collected in a run.
const COLLECTION: &str = "2s";
/// How long no node may have come or gone before one becomes a member: the least that there is.
const SETTLE: &str = "2s";

/// For what a target cannot do; [`Target::offers`] has said so before.
fn not_here<T>(what: &str) -> anyhow::Result<T> {
    anyhow::bail!("this target offers no {what}")
}
