//! Processes on this machine, each in a network namespace of its own: a host of its own, as far as
//! the network goes. The namespaces hang on a bridge, on which the clients' side has the address .1.
//!
//! ```text
//!   clients ── bridge 10.213.x.1 ──┬── veth ── eth0 10.213.x.10   node-0
//!                                  ├── veth ── eth0 10.213.x.11   node-1
//!                                  └── veth ── eth0 10.213.x.12   node-2
//! ```
//!
//! A network that delays and loses is made by the kernel's netem or, where it has none, by
//! [`super::ether`], which then stands in the place of bridge and veths.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use super::command::{is_root, run};
use super::disk::disks_can_be_made;
use super::ether::{self, Ether, Place};
use super::processes::{Processes, clocks_can_jump};
use super::wires::{Port, netem_is_there};
use super::{Plan, Target, Wire, not_here};
use crate::nemesis::Fault;
use crate::scenario::Network;

/// What the names of our namespaces begin with; the process id and the node's number follow.
const NAMES: &str = "coterie-chaos-";

/// See the module.
#[derive(Debug)]
pub struct Netns {
    processes: Processes,
    id: u32,
    ports: Vec<Port>,
    addresses: Vec<String>,
    plan: Plan,
    /// Why the network cannot become worse, if it cannot.
    worse: Result<(), String>,
    ether: Option<Ether>,
}

impl Netns {
    /// Nothing is set up yet.
    ///
    /// # Errors
    /// If this is not root.
    pub fn new(plan: &Plan) -> anyhow::Result<Self> {
        if !is_root() {
            bail!("network namespaces need root: run it with sudo, or use the target local");
        }
        let id = std::process::id();
        let prefix = |number| {
            let name = format!("{NAMES}{id}-{number}");
            ["ip", "netns", "exec", &name].map(str::to_owned).to_vec()
        };
        let address = |number: usize| format!("10.213.{}.{}", id % 250, 10 + number);
        let count = plan.nodes + plan.spares;
        let addresses: Vec<String> = (0..count).map(address).collect();
        let places = addresses.iter().cloned().zip((0..count).map(prefix)).collect();
        let port = |number| Port { prefix: prefix(number), interface: "eth0".to_owned() };
        Ok(Self {
            processes: Processes::new(plan, places),
            id,
            ports: (0..count).map(port).collect(),
            addresses,
            plan: plan.clone(),
            worse: Ok(()),
            ether: None,
        })
    }

    fn bridge(&self) -> String {
        format!("ctb{}", self.id)
    }

    async fn add_bridge(&self) -> anyhow::Result<()> {
        let bridge = self.bridge();
        run(&["ip", "link", "add", &bridge, "type", "bridge"]).await?;
        let own = format!("{}/24", self.clients());
        run(&["ip", "address", "add", &own, "dev", &bridge]).await?;
        run(&["ip", "link", "set", &bridge, "up"]).await?;
        for (number, port) in self.ports.iter().enumerate() {
            let (name, outside) = (&*port.prefix[3], &*format!("ctv{}-{number}", self.id));
            let veth = ["type", "veth", "peer", "name", "eth0", "netns", name];
            run(&[&["ip", "link", "add", outside][..], &veth].concat()).await?;
            run(&["ip", "link", "set", outside, "master", &bridge, "up"]).await?;
            let own = format!("{}/24", self.addresses[number]);
            run(&["ip", "-n", name, "address", "add", &own, "dev", "eth0"]).await?;
            run(&["ip", "-n", name, "link", "set", "eth0", "up"]).await?;
        }
        Ok(())
    }

    async fn add_ether(&mut self) -> anyhow::Result<()> {
        let inside = |(port, address): (&Port, &String)| Place {
            prefix: port.prefix.clone(),
            interface: port.interface.clone(),
            address: address.clone(),
            shaped: true,
        };
        let mut places: Vec<Place> = self.ports.iter().zip(&self.addresses).map(inside).collect();
        let (interface, address) = (self.bridge(), self.clients());
        places.push(Place { prefix: Vec::new(), interface, address, shaped: false });
        self.ether = Some(Ether::make(&self.plan.dir, &places).await?);
        Ok(())
    }

    /// The address of the clients' side.
    fn clients(&self) -> String {
        format!("10.213.{}.1", self.id % 250)
    }

    /// Whom each node does not hear any more.
    fn unheard(&self, wires: &[Wire]) -> BTreeMap<usize, Vec<String>> {
        let mut unheard: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for wire in wires {
            unheard.entry(wire.to).or_default().push(self.addresses[wire.from].clone());
        }
        unheard
    }
}

/// Takes away what runs have left that did not come to their end: those whose process is gone.
async fn sweep() -> anyhow::Result<()> {
    let listed = run(&["ip", "netns", "list"]).await?;
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let id = name.strip_prefix(NAMES).and_then(|rest| rest.split('-').next());
        let Some(id) = id.filter(|id| !Path::new("/proc").join(id).exists()) else { continue };
        // With its namespace a veth goes, too.
        run(&["ip", "netns", "delete", name]).await?;
        // The bridge is deleted with the first of its namespaces.
        let _ = run(&["ip", "link", "delete", &format!("ctb{id}")]).await;
    }
    Ok(())
}

impl Target for Netns {
    fn nodes(&self) -> Vec<(String, String)> {
        self.processes.nodes()
    }

    async fn set_up(&mut self) -> anyhow::Result<()> {
        sweep().await?;
        for port in &self.ports {
            let name = &port.prefix[3];
            run(&["ip", "netns", "add", name]).await?;
            run(&["ip", "-n", name, "link", "set", "lo", "up"]).await?;
        }
        if self.plan.own_network
            && let Err(error) = netem_is_there(&self.ports[0].prefix).await
        {
            let worse = ether::can_be_had();
            self.worse = worse.map_err(|why| format!("neither netem ({error:#}) nor {why}"));
            if self.worse.is_ok() {
                return self.add_ether().await;
            }
        }
        self.add_bridge().await
    }

    fn offers(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill
            | Fault::Pause
            | Fault::RollingRestart
            | Fault::Partition
            | Fault::Wipe
            | Fault::Join
            | Fault::Leave => Ok(()),
            Fault::Network => self.worse.clone(),
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

    async fn cut(&mut self, wires: &[Wire]) -> anyhow::Result<()> {
        for (node, from) in self.unheard(wires) {
            self.ports[node].refuse(&from).await?;
        }
        Ok(())
    }

    async fn dropped(&mut self, wires: &[Wire]) -> anyhow::Result<Vec<u64>> {
        super::wires::dropped(&self.ports, &self.addresses, wires).await
    }

    async fn mend(&mut self) -> anyhow::Result<()> {
        for port in &self.ports {
            port.accept().await?;
        }
        Ok(())
    }

    async fn shape(&mut self, network: Option<Network>) -> anyhow::Result<()> {
        if let (Some(_), Err(why)) = (network, &self.worse) {
            return not_here(&format!("worse network: {why}"));
        }
        match &self.ether {
            Some(ether) => ether.shape(network),
            None if self.plan.own_network => super::wires::shape(&self.ports, network).await?,
            None => {}
        }
        Ok(())
    }

    async fn shaped(&mut self, network: Network) -> anyhow::Result<String> {
        match &self.ether {
            Some(ether) => ether.shaped(network),
            None => super::wires::shaped(&self.ports, network).await,
        }
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
        let mut troubles = self.processes.clean_up().await;
        if let Some(ether) = self.ether.take() {
            troubles.extend(ether.take_away().await);
        }
        for number in 0..self.ports.len() {
            let name = format!("{NAMES}{}-{number}", self.id);
            if Path::new("/run/netns").join(&name).exists()
                && let Err(error) = run(&["ip", "netns", "delete", &name]).await
            {
                troubles.push(format!("{error:#}"));
            }
        }
        let bridge = self.bridge();
        if Path::new("/sys/class/net").join(&bridge).exists()
            && let Err(error) = run(&["ip", "link", "delete", &bridge]).await
        {
            troubles.push(format!("{error:#}"));
        }
        troubles
    }
}
