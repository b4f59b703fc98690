//! Containers on a private network, through the docker command. Their network is reached from
//! outside, by `nsenter` into the namespace of their first process: an image needs no tools.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::command::{is_root, run};
use super::wires::Port;
use super::{Plan, Target, Wire, not_here};
use crate::nemesis::Fault;
use crate::scenario::Network;

/// See the module.
#[derive(Debug)]
pub struct Docker {
    plan: Plan,
    id: u32,
    addresses: Vec<String>,
    /// What was made of the network: a container that starts again has none of it.
    network: Option<Network>,
    /// Why the network cannot become worse, if it cannot.
    worse: Result<(), String>,
    /// The nodes that were ended on purpose.
    down: BTreeSet<usize>,
    /// What is to be told of nodes that ended unasked.
    crashes: Vec<String>,
}

impl Docker {
    /// Nothing is set up yet.
    pub fn new(plan: &Plan) -> Self {
        let id = std::process::id();
        let address = |number: usize| format!("10.214.{}.{}", id % 250, 10 + number);
        Self {
            plan: plan.clone(),
            id,
            addresses: (0..plan.nodes).map(address).collect(),
            network: None,
            worse: Ok(()),
            down: BTreeSet::new(),
            crashes: Vec::new(),
        }
    }

    fn container(&self, number: usize) -> String {
        format!("coterie-chaos-{}-node-{number}", self.id)
    }

    fn network_name(&self) -> String {
        format!("coterie-chaos-{}", self.id)
    }

    async fn create(&self, number: usize) -> anyhow::Result<()> {
        let address = &self.addresses[number];
        let others = self.addresses.iter().filter(|other| *other != address);
        let seeds: Vec<String> = others.map(|other| format!("{other}:7401")).collect();
        let settings = [
            ("NODE__NAME", format!("node-{number}")),
            ("CLUSTER__NAME", "chaos".to_owned()),
            ("LISTEN__CLIENT", "0.0.0.0:7400".to_owned()),
            ("LISTEN__INTERNAL", "0.0.0.0:7401".to_owned()),
            ("LISTEN__ADMIN", "0.0.0.0:7402".to_owned()),
            ("LISTEN__INSECURE", "true".to_owned()),
            ("ADVERTISE__CLIENT", format!("{address}:7400")),
            ("ADVERTISE__INTERNAL", format!("{address}:7401")),
            ("ADVERTISE__ADMIN", format!("{address}:7402")),
            ("BOOTSTRAP__EXPECT", self.plan.nodes.to_string()),
            ("BOOTSTRAP__SEEDS", seeds.join(",")),
            ("REPLICATION__REPLICAS", self.plan.replicas.to_string()),
            ("ANTI_ENTROPY__INTERVAL", super::ANTI_ENTROPY.to_owned()),
        ];
        let (name, network) = (self.container(number), self.network_name());
        let mut words = ["docker", "create", "--name", &name, "--network", &network, "--ip"]
            .map(str::to_owned)
            .to_vec();
        words.push(address.clone());
        for (key, value) in settings {
            words.extend(["--env".to_owned(), format!("COTERIE__{key}={value}")]);
        }
        words.extend([self.plan.image.clone(), "serve".to_owned()]);
        run(&words).await.map(drop)
    }

    /// A fact about a container.
    async fn inspect(&self, number: usize, format: &str) -> anyhow::Result<String> {
        let said = run(&["docker", "inspect", "--format", format, &self.container(number)]).await?;
        Ok(said.trim().to_owned())
    }

    /// How a node's network is reached now: another process is another namespace.
    async fn port(&self, number: usize) -> anyhow::Result<Port> {
        let id = self.inspect(number, "{{.State.Pid}}").await?;
        if id == "0" {
            bail!("node-{number} does not run");
        }
        let prefix = vec!["nsenter".to_owned(), format!("--net=/proc/{id}/ns/net")];
        Ok(Port { prefix, interface: "eth0".to_owned() })
    }

    async fn ports(&self) -> anyhow::Result<Vec<Port>> {
        let mut ports = Vec::new();
        for number in 0..self.plan.nodes {
            ports.push(self.port(number).await?);
        }
        Ok(ports)
    }
}

impl Target for Docker {
    fn nodes(&self) -> Vec<(String, String)> {
        let node = |(number, address)| (format!("node-{number}"), format!("{address}:7400"));
        self.addresses.iter().enumerate().map(node).collect()
    }

    async fn set_up(&mut self) -> anyhow::Result<()> {
        if self.plan.own_network && is_root() {
            let asked = super::wires::kernel_has_netem().await;
            self.worse = asked.map_err(|error| format!("the kernel has no netem: {error:#}"));
        }
        Ok(())
    }

    fn offers(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill | Fault::Pause | Fault::RollingRestart => Ok(()),
            Fault::Partition if is_root() => Ok(()),
            Fault::Network if is_root() => self.worse.clone(),
            Fault::Partition | Fault::Network => Err("nsenter needs root".to_owned()),
            Fault::FullDisk | Fault::SlowDisk | Fault::ClockJump | Fault::Wipe => {
                Err("a container's disk and clock are not its own: use local or netns".to_owned())
            }
            Fault::Join | Fault::Leave => Err("there are no spare containers".to_owned()),
        }
    }

    async fn start_all(&mut self) -> anyhow::Result<()> {
        let subnet = format!("10.214.{}.0/24", self.id % 250);
        run(&["docker", "network", "create", "--subnet", &subnet, &self.network_name()])
            .await
            .context("is there a docker engine, and may you use it?")?;
        for number in 0..self.plan.nodes {
            self.create(number).await?;
            self.start(number).await?;
        }
        Ok(())
    }

    async fn start(&mut self, node: usize) -> anyhow::Result<()> {
        run(&["docker", "start", &self.container(node)]).await?;
        self.down.remove(&node);
        match self.network {
            Some(network) => self.port(node).await?.shape(network).await,
            None => Ok(()),
        }
    }

    async fn start_missing(&mut self, nodes: &[usize]) -> anyhow::Result<()> {
        for &node in nodes {
            let state = self.inspect(node, "{{.State.Status}} {{.State.ExitCode}}").await?;
            if !state.starts_with("exited") {
                continue;
            }
            if !self.down.contains(&node) {
                self.crashes.push(format!("node-{node} ended unasked: {state}, says docker"));
            }
            self.start(node).await?;
        }
        Ok(())
    }

    async fn kill(&mut self, nodes: &[usize]) -> anyhow::Result<String> {
        let names: Vec<String> = nodes.iter().map(|&node| self.container(node)).collect();
        let words = ["docker", "kill", "--signal", "KILL"].map(str::to_owned);
        run(&[&words[..], &names[..]].concat()).await?;
        self.down.extend(nodes);
        let mut seen = Vec::new();
        for &node in nodes {
            run(&["docker", "wait", &self.container(node)]).await?;
            let state = self.inspect(node, "{{.State.Status}} {{.State.ExitCode}}").await?;
            if state != "exited 137" {
                bail!("node-{node} was killed, and docker says `{state}`");
            }
            seen.push(format!("node-{node} exited by SIGKILL"));
        }
        Ok(seen.join(", "))
    }

    async fn stop(&mut self, node: usize) -> anyhow::Result<String> {
        run(&["docker", "stop", "-t", "15", &self.container(node)]).await?;
        self.down.insert(node);
        let state = self.inspect(node, "{{.State.Status}} {{.State.ExitCode}}").await?;
        if state != "exited 0" {
            bail!("node-{node} was asked to stop, and docker says `{state}`");
        }
        Ok(format!("node-{node} stopped when asked to"))
    }

    async fn pause(&mut self, node: usize) -> anyhow::Result<String> {
        run(&["docker", "pause", &self.container(node)]).await?;
        let state = self.inspect(node, "{{.State.Status}}").await?;
        if state != "paused" {
            bail!("node-{node} was paused, and docker says `{state}`");
        }
        Ok(format!("node-{node} is paused, says docker"))
    }

    async fn resume(&mut self, node: usize) -> anyhow::Result<()> {
        run(&["docker", "unpause", &self.container(node)]).await.map(drop)
    }

    async fn cut(&mut self, wires: &[Wire]) -> anyhow::Result<()> {
        let mut unheard: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for wire in wires {
            unheard.entry(wire.to).or_default().push(self.addresses[wire.from].clone());
        }
        for (node, from) in unheard {
            self.port(node).await?.refuse(&from).await?;
        }
        Ok(())
    }

    async fn dropped(&mut self, wires: &[Wire]) -> anyhow::Result<Vec<u64>> {
        super::wires::dropped(&self.ports().await?, &self.addresses, wires).await
    }

    async fn mend(&mut self) -> anyhow::Result<()> {
        for port in self.ports().await? {
            port.accept().await?;
        }
        Ok(())
    }

    async fn shape(&mut self, network: Option<Network>) -> anyhow::Result<()> {
        if let (Some(_), Err(why)) = (network, &self.worse) {
            return not_here(&format!("worse network: {why}"));
        }
        self.network = network;
        super::wires::shape(&self.ports().await?, network).await
    }

    async fn shaped(&mut self, network: Network) -> anyhow::Result<String> {
        super::wires::shaped(&self.ports().await?, network).await
    }

    async fn fill(&mut self, _: usize) -> anyhow::Result<String> {
        not_here("full disk")
    }

    async fn unfill(&mut self, _: usize) -> anyhow::Result<()> {
        not_here("full disk")
    }

    async fn stall(&mut self, _: usize, _: Duration) -> anyhow::Result<String> {
        not_here("slow disk")
    }

    async fn set_clock(&mut self, _: usize, _: i64) -> anyhow::Result<()> {
        not_here("clock jump")
    }

    async fn wipe(&mut self, _: usize) -> anyhow::Result<String> {
        not_here("wiped disk")
    }

    async fn join(&mut self, _: usize) -> anyhow::Result<()> {
        not_here("join")
    }

    async fn left(&mut self, _: usize) -> anyhow::Result<String> {
        not_here("leave")
    }

    fn unasked_ends(&mut self) -> Vec<String> {
        std::mem::take(&mut self.crashes)
    }

    async fn clean_up(&mut self) -> Vec<String> {
        let names: Vec<String> = (0..self.plan.nodes).map(|node| self.container(node)).collect();
        let remove = ["docker", "rm", "--force", "--volumes"].map(str::to_owned);
        let mut troubles = Vec::new();
        if let Err(error) = run(&[&remove[..], &names[..]].concat()).await {
            troubles.push(format!("{error:#}"));
        }
        if let Err(error) = run(&["docker", "network", "rm", &self.network_name()]).await {
            troubles.push(format!("{error:#}"));
        }
        troubles
    }
}
