//! Who is measured: a cluster of our own, one that runs already, or echo servers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::echo::EchoServers;
use super::load::{Shape, Target};
use super::request::Workload;
use super::row::Conditions;
use crate::cli::cluster::{Cluster, Durability, Plan, TemporaryDir};
use crate::client::{Client, Options};
use crate::proto::{Consistency, StatusResponse};

/// A cluster of our own is ready within this.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Echo servers in place of a cluster of three.
const ECHO_SERVERS: usize = 3;

/// Who is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Echo servers.
    Echo {
        /// Of each; none: one for each processor.
        threads: Option<u16>,
    },
    /// A cluster that is started for it, in a temporary folder.
    Own(Own),
    /// Nodes that run already.
    Given(Vec<String>),
}

/// A cluster to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// How many nodes.
    pub nodes: u16,
    /// The client port of node 0, or the first free one from there on.
    pub port: u16,
    /// What an OK waits for.
    pub durability: Durability,
    /// The binary; none: this one.
    pub program: Option<PathBuf>,
}

/// They run.
pub enum Servers {
    /// Echo servers.
    Echo(EchoServers),
    /// A cluster of ours, as it described itself.
    Own(OwnCluster, StatusResponse),
    /// Nodes of others, as one of them described itself.
    Given(Vec<String>, StatusResponse),
}

/// A cluster in a temporary folder.
pub struct OwnCluster {
    /// The processes.
    pub cluster: Cluster,
    _dir: TemporaryDir,
}

impl Servers {
    /// Starts them, or finds them.
    ///
    /// # Errors
    /// If they do not start, or cannot be reached.
    pub async fn start(who: &Who, shape: &Shape) -> anyhow::Result<Self> {
        match who {
            Who::Echo { threads } => {
                let echo = EchoServers::start(ECHO_SERVERS, *threads, shape.value_bytes).await?;
                Ok(Self::Echo(echo))
            }
            Who::Own(own) => {
                let mut own = OwnCluster::start(own).await?;
                match own.status().await {
                    Ok(status) => Ok(Self::Own(own, status)),
                    Err(error) => {
                        own.stop().await;
                        Err(error)
                    }
                }
            }
            Who::Given(addresses) => {
                let client = Client::connect(addresses.iter().cloned(), Options::default())?;
                let status = client.status(&addresses[0]).await;
                let status = status.with_context(|| format!("cannot reach {}", addresses[0]))?;
                Ok(Self::Given(addresses.clone(), status))
            }
        }
    }

    /// Connects to them and writes every key once.
    ///
    /// # Errors
    /// If one cannot be reached, or a write fails.
    pub async fn target(&self, shape: &Shape) -> anyhow::Result<Target> {
        let (addresses, processes) = match self {
            Self::Echo(echo) => (echo.addresses.clone(), echo.processes()),
            Self::Own(own, _) => (own.cluster.addresses(), own.processes()),
            Self::Given(addresses, _) => (addresses.clone(), Vec::new()),
        };
        let target = Target::connect(&addresses, processes, shape).await?;
        target.preload(shape).await?;
        Ok(target)
    }

    /// The conditions of what is measured of them.
    #[must_use]
    pub fn conditions(
        &self,
        workload: Workload,
        consistency: Consistency,
        shape: &Shape,
    ) -> Conditions {
        match self {
            Self::Echo(echo) => {
                let (servers, threads) = (echo.addresses.len(), echo.threads);
                Conditions::of_echo(servers, threads, workload, shape)
            }
            Self::Own(_, status) | Self::Given(_, status) => {
                Conditions::of_cluster(status, workload, consistency, shape)
            }
        }
    }

    /// Stops those that were started.
    pub async fn stop(self) {
        if let Self::Own(mut own, _) = self {
            own.stop().await;
        }
    }
}

impl OwnCluster {
    /// Starts a cluster on free ports and waits until it is ready.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(own: &Own) -> anyhow::Result<Self> {
        let dir = TemporaryDir::new("bench")?;
        let plan = Plan::new(own.nodes, dir.path().to_owned(), own.port, own.durability)?;
        let plan = plan.on_free_ports()?;
        let cluster = match &own.program {
            None => Cluster::start(plan).await?,
            Some(program) => Cluster::start_as(program.clone(), plan).await?,
        };
        let mut own = Self { cluster, _dir: dir };
        if let Err(error) = own.cluster.wait_ready(READY_WITHIN).await {
            own.stop().await;
            return Err(error);
        }
        Ok(own)
    }

    /// How it describes itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusResponse> {
        self.cluster.status(0).await.context("cannot ask node-0 for its status")
    }

    /// The process ids of its nodes.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.cluster.places().filter_map(|(_, process)| process).collect()
    }

    /// Stops its nodes.
    pub async fn stop(&mut self) {
        self.cluster.stop().await;
    }
}
