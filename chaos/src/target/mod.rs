//! Where nodes run, and what can be done to them there.
//!
//! | | local | netns | docker | kubernetes |
//! |---|---|---|---|---|
//! | kill, rolling restart | yes | yes | yes | yes |
//! | pause | yes | yes | yes | |
//! | partition, network | | yes | yes | |
//! | full and slow disk | as root | yes | | |
//! | clock jump | with libfaketime | with libfaketime | | |
//! | wiped disk (`--wipe`) | yes | yes | | yes |
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
    /// How many nodes.
    pub nodes: usize,
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
    /// Each node's name and where clients reach it.
    fn nodes(&self) -> Vec<(String, String)>;

    /// Makes what nodes need before they can start.
    async fn set_up(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether a fault can be brought about here; if not, why.
    fn offers(&self, fault: Fault) -> Result<(), String>;

    /// Starts every node.
    async fn start_all(&mut self) -> anyhow::Result<()>;

    /// Starts a node that was stopped or killed.
    async fn start(&mut self, node: usize) -> anyhow::Result<()>;

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

    /// Sets a node's clock ahead; by nothing: right.
    async fn set_clock(&mut self, node: usize, ahead: Duration) -> anyhow::Result<()>;

    /// Kills a node and empties its disk. Answers with what was seen of that.
    async fn wipe(&mut self, node: usize) -> anyhow::Result<String>;

    /// A node that ended without having been asked to, with its last words.
    fn unasked_end(&mut self) -> Option<String>;

    /// Ends every node and takes away whatever was set up, also after a failure.
    async fn clean_up(&mut self) -> Vec<String>;
}

/// How often homes compare what they hold: often, so that a run need not wait for it.
const ANTI_ENTROPY: &str = "2s";
/// Why a wiped disk is not offered.
const WIPE_NEEDS_A_FLAG: &str = "a node with an emptied disk is not taken back by every version of the \
                                 store: say by --wipe that this one takes it";

/// For what a target cannot do; [`Target::offers`] has said so before.
fn not_here<T>(what: &str) -> anyhow::Result<T> {
    anyhow::bail!("this target offers no {what}")
}
