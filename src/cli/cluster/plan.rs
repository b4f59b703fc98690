//! Where the nodes of a cluster on this machine go: names, ports, folders, configuration.
//!
//! ```text
//!   node i: clients port+10·i · internal port+10·i+1 · admin port+10·i+2
//!   DIR/node-i.toml   what `coterie serve --config` reads
//!   DIR/node-i/       its data
//!   DIR/node-i.log    what it says
//! ```

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::store::DataFolder;
use crate::types::NodeName;

/// The ports of neighbouring nodes are this far apart.
const PORT_STEP: u16 = 10;
/// More nodes than this on one machine are a mistake.
pub const NODES_MAX: u16 = 25;
/// N, unless there are fewer nodes.
const REPLICAS: u16 = 3;

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Default)]
pub enum Durability {
    /// The journal has been fsynced: survives power loss.
    #[default]
    Fsync,
    /// The journal has been handed to the kernel: survives kill -9, not power loss.
    Buffered,
}

/// A cluster on this machine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes.
    pub nodes: u16,
    /// Where configuration, data and logs go.
    pub dir: PathBuf,
    /// The client port of node 0.
    pub port: u16,
    /// For all nodes.
    pub durability: Durability,
}

/// One node of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `node-i`.
    pub name: String,
    /// gRPC for clients.
    pub client: SocketAddr,
    /// Gossip and streams.
    pub internal: SocketAddr,
    /// HTTP.
    pub admin: SocketAddr,
    /// Its configuration.
    pub config: PathBuf,
    /// Its data.
    pub data: PathBuf,
    /// What it says.
    pub log: PathBuf,
}

impl Durability {
    /// As the configuration spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Buffered => "buffered",
        }
    }
}

impl Plan {
    /// A plan whose ports exist.
    ///
    /// # Errors
    /// If the last port would lie beyond 65535.
    pub fn new(
        nodes: u16,
        dir: PathBuf,
        port: u16,
        durability: Durability,
    ) -> anyhow::Result<Self> {
        let last = u32::from(port) + u32::from(PORT_STEP) * u32::from(nodes.saturating_sub(1)) + 2;
        if nodes == 0 || nodes > NODES_MAX {
            bail!("a cluster on one machine has 1 to {NODES_MAX} nodes, not {nodes}");
        }
        if port == 0 || last > u32::from(u16::MAX) {
            bail!(
                "{nodes} nodes from port {port} on would need port {last}: choose a lower --port"
            );
        }
        Ok(Self { nodes, dir, port, durability })
    }

    /// All nodes, in order.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        (0..self.nodes).map(|index| self.place(index)).collect()
    }

    fn place(&self, index: u16) -> Place {
        let base = self.port + PORT_STEP * index;
        let at = |offset| SocketAddr::from((Ipv4Addr::LOCALHOST, base + offset));
        let name = format!("node-{index}");
        Place {
            client: at(0),
            internal: at(1),
            admin: at(2),
            config: self.dir.join(format!("{name}.toml")),
            data: self.dir.join(&name),
            log: self.dir.join(format!("{name}.log")),
            name,
        }
    }

    /// How many replicas a key has.
    #[must_use]
    pub fn replicas(&self) -> u16 {
        REPLICAS.min(self.nodes)
    }

    /// Finds out whether every node could open its data folder. Changes nothing.
    ///
    /// # Errors
    /// If a process runs on one of them, or it is no folder of that node.
    pub fn check_folders(&self) -> anyhow::Result<()> {
        for place in self.places() {
            let name = NodeName::new(&place.name).context("a node's name")?;
            DataFolder::look(&place.data, &name)
                .with_context(|| format!("{} could not run; nothing was changed", place.name))?;
        }
        Ok(())
    }

    /// Finds out whether every port is free.
    ///
    /// # Errors
    /// Names every port that is not, and its node.
    pub fn check_ports(&self) -> anyhow::Result<()> {
        let busy: Vec<String> = self.places().iter().flat_map(busy_ports).collect();
        if busy.is_empty() {
            return Ok(());
        }
        bail!(
            "ports are in use: {}. Stop whatever listens there (another cluster?), or choose \
             others with --port",
            busy.join(", ")
        )
    }

    /// The plan, moved to the first ports from its own on, in steps of 100, that are all free.
    ///
    /// # Errors
    /// If there are none.
    pub fn on_free_ports(mut self) -> anyhow::Result<Self> {
        let first = self.check_ports();
        let Err(busy) = first else { return Ok(self) };
        let step = 100.max(PORT_STEP * self.nodes.div_ceil(10) * 10);
        for port in (self.port..=u16::MAX).step_by(usize::from(step)).take(40).skip(1) {
            let Ok(moved) = Self::new(self.nodes, self.dir.clone(), port, self.durability) else {
                break;
            };
            if moved.check_ports().is_ok() {
                self.port = port;
                return Ok(self);
            }
        }
        Err(busy.context(format!("found no free ports for {} nodes", self.nodes)))
    }

    /// Writes every node's configuration.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub fn write_configs(&self) -> anyhow::Result<()> {
        let made = std::fs::create_dir_all(&self.dir);
        made.with_context(|| format!("cannot make the folder {}", self.dir.display()))?;
        for place in self.places() {
            let written = std::fs::write(&place.config, self.config(&place));
            written.with_context(|| format!("cannot write {}", place.config.display()))?;
        }
        Ok(())
    }

    fn config(&self, place: &Place) -> String {
        let places = self.places();
        let seeds: Vec<String> =
            places.iter().filter(|other| *other != place).map(|p| p.internal.to_string()).collect();
        let mut text = String::new();
        let _ = write!(
            text,
            "# Written by `coterie`: one node of a cluster of {nodes} on this machine.\n\
             # Start it alone with: coterie serve --config {config}\n\
             \n\
             [node]\n\
             name = \"{name}\"\n\
             data = {data}\n\
             \n\
             [cluster]\n\
             name = \"local\"\n\
             \n\
             [listen]\n\
             client = \"{client}\"\n\
             internal = \"{internal}\"\n\
             admin = \"{admin}\"\n\
             \n\
             [bootstrap]\n\
             expect = {nodes}\n\
             seeds = {seeds:?}\n\
             \n\
             [replication]\n\
             # Fixed when the cluster is founded; no more than there are nodes.\n\
             replicas = {replicas}\n\
             \n\
             [storage]\n\
             durability = \"{durability}\"\n\
             \n\
             [runtime]\n\
             # The nodes share this machine's processors.\n\
             threads = {threads}\n",
            nodes = self.nodes,
            config = place.config.display(),
            name = place.name,
            data = toml_string(&place.data),
            replicas = self.replicas(),
            client = place.client,
            internal = place.internal,
            admin = place.admin,
            durability = self.durability.as_str(),
            threads = threads_of(self.nodes),
        );
        text
    }
}

/// How many threads each of `nodes` nodes gets of this machine's processors.
fn threads_of(nodes: u16) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors / usize::from(nodes)).max(1)
}

/// A path as a TOML string. JSON's escapes are TOML's, for text.
fn toml_string(path: &Path) -> String {
    serde_json::Value::String(path.to_string_lossy().into_owned()).to_string()
}

fn busy_ports(place: &Place) -> Vec<String> {
    let name = &place.name;
    let mut busy = Vec::new();
    let tcp = [(place.client, "clients"), (place.internal, "internal"), (place.admin, "admin")];
    for (address, purpose) in tcp {
        if TcpListener::bind(address).is_err() {
            busy.push(format!("{} ({name}, {purpose})", address.port()));
        }
    }
    if UdpSocket::bind(place.internal).is_err() {
        busy.push(format!("{} (UDP; {name}, internal)", place.internal.port()));
    }
    busy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn plan(nodes: u16, port: u16) -> anyhow::Result<Plan> {
        Plan::new(nodes, PathBuf::from("dir"), port, Durability::Fsync)
    }

    #[test]
    fn ports_are_ten_apart_and_must_exist() {
        let places = plan(3, 7400).unwrap().places();
        assert_eq!(places[2].name, "node-2");
        assert_eq!(places[2].client.port(), 7420);
        assert_eq!(places[2].internal.port(), 7421);
        assert_eq!(places[2].admin.port(), 7422);
        assert_eq!(places[2].data, Path::new("dir/node-2"));
        assert!(plan(3, 65_500).is_ok());
        assert!(plan(3, 65_520).is_err());
        assert!(plan(0, 7400).is_err());
        assert!(plan(NODES_MAX + 1, 7400).is_err());
        assert!(plan(3, 0).is_err());
    }

    #[test]
    fn the_configuration_that_is_written_is_the_one_that_is_read() {
        let plan = Plan::new(5, PathBuf::from("/tmp/a \"b\""), 7400, Durability::Buffered).unwrap();
        for place in plan.places() {
            let settings = Settings::from_text(&plan.config(&place), "test").unwrap();
            assert_eq!(settings.node.name.as_str(), place.name);
            assert_eq!(settings.node.data, place.data);
            assert_eq!(settings.listen.client, place.client);
            assert_eq!(settings.listen.internal, place.internal);
            assert_eq!(settings.listen.admin, place.admin);
            assert_eq!(settings.bootstrap.founders.len(), 5);
            assert_eq!(settings.bootstrap.seeds.len(), 4);
            assert_eq!(settings.replication.replicas, 3);
            assert_eq!(settings.storage.durability, crate::store::Durability::Buffered);
        }
    }

    #[test]
    fn a_port_in_use_is_found_and_named_before_anything_starts() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let Ok(plan) = plan(1, port) else { return };
        let error = plan.check_ports().unwrap_err().to_string();
        assert!(error.contains(&format!("{port} (node-0, clients)")), "{error}");
        if let Ok(moved) = plan.on_free_ports() {
            assert_ne!(moved.port, port);
        }
    }
}
