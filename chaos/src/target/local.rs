//! Processes on this machine, each on a loopback address of its own.

use std::time::Duration;

use super::disk::disks_can_be_made;
use super::processes::{Processes, clocks_can_jump};
use super::{Plan, Target, Wire, not_here};
use crate::nemesis::Fault;
use crate::scenario::Network;

/// See the module.
#[derive(Debug)]
pub struct Local {
    processes: Processes,
}

impl Local {
    /// Nothing runs yet.
    pub fn new(plan: &Plan) -> Self {
        // Two runs at the same time differ in their process ids, and so in their addresses.
        let id = std::process::id();
        let (high, low) = (64 + id / 250 % 64, 1 + id % 250);
        let place = |number| (format!("127.{high}.{low}.{}", 10 + number), Vec::new());
        let places = 0..plan.nodes + plan.spares;
        Self { processes: Processes::new(plan, places.map(place).collect()) }
    }
}

impl Target for Local {
    fn nodes(&self) -> Vec<(String, String)> {
        self.processes.nodes()
    }

    fn offers(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill
            | Fault::Pause
            | Fault::RollingRestart
            | Fault::Wipe
            | Fault::Join
            | Fault::Leave => Ok(()),
            Fault::Partition | Fault::Network => {
                Err("all processes share one loopback: use the target netns".to_owned())
            }
            Fault::FullDisk | Fault::SlowDisk => disks_can_be_made(),
            Fault::ClockJump => clocks_can_jump(),
        }
    }

    async fn start_all(&mut self) -> anyhow::Result<()> {
        self.processes.start_all().await
    }

    async fn start(&mut self, node: usize) -> anyhow::Result<()> {
        self.processes.start(node)
    }

    async fn start_missing(&mut self, nodes: &[usize]) -> anyhow::Result<()> {
        self.processes.start_missing(nodes)
    }

    async fn kill(&mut self, nodes: &[usize]) -> anyhow::Result<String> {
        self.processes.kill(nodes).await
    }

    async fn stop(&mut self, node: usize) -> anyhow::Result<String> {
        self.processes.stop(node).await
    }

    async fn pause(&mut self, node: usize) -> anyhow::Result<String> {
        self.processes.pause(node).await
    }

    async fn resume(&mut self, node: usize) -> anyhow::Result<()> {
        self.processes.resume(node).await
    }

    async fn cut(&mut self, _: &[Wire]) -> anyhow::Result<()> {
        not_here("partition")
    }

    async fn dropped(&mut self, _: &[Wire]) -> anyhow::Result<Vec<u64>> {
        not_here("partition")
    }

    async fn mend(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn shape(&mut self, network: Option<Network>) -> anyhow::Result<()> {
        network.map_or(Ok(()), |_| not_here("worse network"))
    }

    async fn shaped(&mut self, _: Network) -> anyhow::Result<String> {
        not_here("worse network")
    }

    async fn fill(&mut self, node: usize) -> anyhow::Result<String> {
        self.processes.disk(node)?.fill().await
    }

    async fn unfill(&mut self, node: usize) -> anyhow::Result<()> {
        self.processes.disk(node)?.unfill()
    }

    async fn stall(&mut self, node: usize, lasts: Duration) -> anyhow::Result<String> {
        self.processes.disk(node)?.stall(lasts).await
    }

    async fn set_clock(&mut self, node: usize, ahead_s: i64) -> anyhow::Result<()> {
        self.processes.set_clock(node, ahead_s)
    }

    async fn wipe(&mut self, node: usize) -> anyhow::Result<String> {
        self.processes.wipe(node).await
    }

    async fn join(&mut self, node: usize) -> anyhow::Result<()> {
        self.processes.join(node)
    }

    async fn left(&mut self, node: usize) -> anyhow::Result<String> {
        self.processes.left(node).await
    }

    fn unasked_ends(&mut self) -> Vec<String> {
        self.processes.unasked_ends()
    }

    async fn clean_up(&mut self) -> Vec<String> {
        self.processes.clean_up().await
    }
}
