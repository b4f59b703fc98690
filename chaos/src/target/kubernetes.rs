//! Pods of a cluster that is there, through kubectl, each reached by a port forward of its own.
//!
//! The `StatefulSet` starts a pod again by itself: a kill is a deletion without grace, and is seen by
//! the pod's uid. Nothing is set up here, and nothing taken away but the forwards.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

use super::command::run;
use super::{Plan, Target, Wire, not_here};
use crate::nemesis::Fault;
use crate::scenario::Network;

/// How long the `StatefulSet` may take to make a pod again.
const POD_WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Kubernetes {
    /// The program: tests have their own.
    kubectl: String,
    namespace: String,
    pods: Vec<Pod>,
    wipe: bool,
}

#[derive(Debug)]
struct Pod {
    name: String,
    port: u16,
    forward: Option<Child>,
}

impl Kubernetes {
    /// Finds the pods.
    ///
    /// # Errors
    /// If kubectl fails, or finds another number of them than the scenario wants.
    pub async fn find(plan: &Plan, wipe: bool) -> anyhow::Result<Self> {
        Self::find_by("kubectl".to_owned(), plan, wipe).await
    }

    async fn find_by(kubectl: String, plan: &Plan, wipe: bool) -> anyhow::Result<Self> {
        let (namespace, selector) = &plan.pods;
        let words = [&*kubectl, "--namespace", namespace, "get", "pods", "--selector", selector];
        let output = ["--output", "jsonpath={.items[*].metadata.name}"];
        let listed = run(&[&words[..], &output[..]].concat()).await?;
        let mut names: Vec<&str> = listed.split_whitespace().collect();
        names.sort_unstable();
        if names.len() != plan.nodes {
            bail!("{} pods match {selector} in {namespace}, not {}", names.len(), plan.nodes);
        }
        let pod = |name: &str| -> anyhow::Result<Pod> {
            Ok(Pod { name: name.to_owned(), port: free_port()?, forward: None })
        };
        let pods = names.into_iter().map(pod).collect::<Result<_, _>>()?;
        Ok(Self { namespace: namespace.clone(), pods, wipe, kubectl })
    }

    async fn kubectl(&self, rest: &[&str]) -> anyhow::Result<String> {
        run(&[&[&*self.kubectl, "--namespace", &self.namespace][..], rest].concat()).await
    }

    async fn uid(&self, node: usize) -> anyhow::Result<String> {
        let name = &self.pods[node].name;
        self.kubectl(&["get", "pod", name, "--output", "jsonpath={.metadata.uid}"]).await
    }

    fn forward(&mut self, node: usize) -> anyhow::Result<()> {
        let pod = &mut self.pods[node];
        let (name, ports) = (format!("pod/{}", pod.name), format!("{}:7400", pod.port));
        let mut command = Command::new(&self.kubectl);
        command.args(["--namespace", &self.namespace, "port-forward", &name, &ports]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.kill_on_drop(true).spawn().context("cannot run kubectl")?;
        pod.forward = Some(child);
        Ok(())
    }

    /// Deletes pods and waits until others have come in their place.
    async fn delete(&mut self, nodes: &[usize], grace: &str) -> anyhow::Result<String> {
        let mut before = Vec::new();
        for &node in nodes {
            before.push(self.uid(node).await?);
        }
        let names: Vec<&str> = nodes.iter().map(|&node| self.pods[node].name.as_str()).collect();
        let mut words = vec!["delete", "pod"];
        words.extend(&names);
        words.extend(["--wait=false", "--grace-period", grace]);
        if grace == "0" {
            words.push("--force");
        }
        self.kubectl(&words).await?;
        let mut seen = Vec::new();
        for (&node, before) in nodes.iter().zip(&before) {
            seen.push(self.replaced(node, before).await?);
        }
        Ok(seen.join(", "))
    }

    async fn replaced(&self, node: usize, before: &str) -> anyhow::Result<String> {
        let until = tokio::time::Instant::now() + POD_WITHIN;
        let name = &self.pods[node].name;
        loop {
            // Between two pods of one name there is none, and kubectl fails.
            let uid = self.uid(node).await.unwrap_or_default();
            if !uid.is_empty() && uid != before {
                return Ok(format!("{name} is another pod now"));
            }
            if tokio::time::Instant::now() > until {
                bail!("{name} was deleted and is still the same pod");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A port that nobody listens on.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

impl Target for Kubernetes {
    fn nodes(&self) -> Vec<(String, String)> {
        let node = |pod: &Pod| (pod.name.clone(), format!("127.0.0.1:{}", pod.port));
        self.pods.iter().map(node).collect()
    }

    fn offers(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill | Fault::RollingRestart => Ok(()),
            Fault::Wipe if self.wipe => Ok(()),
            Fault::Wipe => Err(super::WIPE_NEEDS_A_FLAG.to_owned()),
            Fault::Pause
            | Fault::Partition
            | Fault::Network
            | Fault::FullDisk
            | Fault::SlowDisk
            | Fault::ClockJump => Err("pods have no tools for that: use local or netns".to_owned()),
        }
    }

    async fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.pods.len()).try_for_each(|node| self.forward(node))
    }

    /// The `StatefulSet` has started it; a forward ends with its pod.
    async fn start(&mut self, node: usize) -> anyhow::Result<()> {
        let name = format!("pod/{}", self.pods[node].name);
        self.kubectl(&["wait", "--for=condition=Ready", &name, "--timeout=50s"]).await?;
        if let Some(mut forward) = self.pods[node].forward.take() {
            forward.kill().await.context("cannot end kubectl port-forward")?;
        }
        self.forward(node)
    }

    async fn kill(&mut self, nodes: &[usize]) -> anyhow::Result<String> {
        self.delete(nodes, "0").await
    }

    async fn stop(&mut self, node: usize) -> anyhow::Result<String> {
        self.delete(&[node], "30").await
    }

    async fn pause(&mut self, _: usize) -> anyhow::Result<String> {
        not_here("pause")
    }

    async fn resume(&mut self, _: usize) -> anyhow::Result<()> {
        not_here("pause")
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

    async fn fill(&mut self, _: usize) -> anyhow::Result<String> {
        not_here("full disk")
    }

    async fn unfill(&mut self, _: usize) -> anyhow::Result<()> {
        not_here("full disk")
    }

    async fn stall(&mut self, _: usize, _: Duration) -> anyhow::Result<String> {
        not_here("slow disk")
    }

    async fn set_clock(&mut self, _: usize, _: Duration) -> anyhow::Result<()> {
        not_here("clock jump")
    }

    /// Deletes the volume's claim, which goes once its pod has gone.
    async fn wipe(&mut self, node: usize) -> anyhow::Result<String> {
        let claim = format!("data-{}", self.pods[node].name);
        self.kubectl(&["delete", "pvc", &claim, "--wait=false"]).await?;
        Ok(format!("{}; its claim {claim} was deleted", self.delete(&[node], "0").await?))
    }

    fn unasked_end(&mut self) -> Option<String> {
        None
    }

    async fn clean_up(&mut self) -> Vec<String> {
        let mut troubles = Vec::new();
        for pod in &mut self.pods {
            if let Some(mut forward) = pod.forward.take()
                && let Err(error) = forward.kill().await
            {
                troubles.push(format!("a forward to {} may still run: {error}", pod.name));
            }
        }
        troubles
    }
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;
