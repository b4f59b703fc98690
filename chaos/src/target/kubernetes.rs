//! Pods of a cluster that is there, through kubectl, each reached by a port forward of its own.
//!
//! The `StatefulSet` starts a pod again by itself: a kill is a deletion without grace, and is seen by
//! the pod's uid. Nothing is set up here, and nothing taken away but the forwards.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::command::run;
use super::{Plan, Target, Wire, not_here};
use crate::nemesis::Fault;
use crate::scenario::Network;

/// How long the `StatefulSet` may take to make a pod again.
const POD_WITHIN: Duration = Duration::from_secs(120);
/// The pause before a forward that has ended is made again.
const FORWARD_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Kubernetes {
    /// The program: tests have their own.
    kubectl: String,
    namespace: String,
    pods: Vec<Pod>,
}

#[derive(Debug)]
struct Pod {
    name: String,
    port: u16,
    forward: Option<JoinHandle<()>>,
    /// Whether it was deleted, and its successor is not known to be ready.
    deleted: bool,
}

impl Kubernetes {
    /// Finds the pods.
    ///
    /// # Errors
    /// If kubectl fails, or finds another number of them than the scenario wants.
    pub async fn find(plan: &Plan) -> anyhow::Result<Self> {
        Self::find_by("kubectl".to_owned(), plan).await
    }

    async fn find_by(kubectl: String, plan: &Plan) -> anyhow::Result<Self> {
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
            Ok(Pod { name: name.to_owned(), port: free_port()?, forward: None, deleted: false })
        };
        let pods = names.into_iter().map(pod).collect::<Result<_, _>>()?;
        Ok(Self { namespace: namespace.clone(), pods, kubectl })
    }

    async fn kubectl(&self, rest: &[&str]) -> anyhow::Result<String> {
        run(&[&[&*self.kubectl, "--namespace", &self.namespace][..], rest].concat()).await
    }

    async fn uid(&self, kind: &str, name: &str) -> anyhow::Result<String> {
        self.kubectl(&["get", kind, name, "--output", "jsonpath={.metadata.uid}"]).await
    }

    /// Forwards a port to a pod from now on: kubectl ends with every pod that it forwards to, and now
    /// and then by itself.
    fn forward(&mut self, node: usize) {
        let pod = &mut self.pods[node];
        let (name, ports) = (format!("pod/{}", pod.name), format!("{}:7400", pod.port));
        let (kubectl, namespace) = (self.kubectl.clone(), self.namespace.clone());
        let forwarding = tokio::spawn(async move {
            loop {
                let mut command = Command::new(&kubectl);
                command.args(["--namespace", &namespace, "port-forward", &name, &ports]);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                // One that cannot be run is seen by the node's silence.
                if let Ok(mut child) = command.kill_on_drop(true).spawn() {
                    let _ = child.wait().await;
                }
                tokio::time::sleep(FORWARD_AGAIN).await;
            }
        });
        if let Some(before) = pod.forward.replace(forwarding) {
            before.abort();
        }
    }

    /// Deletes pods and waits until others have come in their place.
    async fn delete(&mut self, nodes: &[usize], grace: &str) -> anyhow::Result<String> {
        let mut before = Vec::new();
        for &node in nodes {
            before.push(self.uid("pod", &self.pods[node].name).await?);
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
            self.pods[node].deleted = true;
            seen.push(self.replaced("pod", &self.pods[node].name, before).await?);
        }
        Ok(seen.join(", "))
    }

    /// Waits until a pod or a claim is another one of the same name.
    async fn replaced(&self, kind: &str, name: &str, before: &str) -> anyhow::Result<String> {
        let until = tokio::time::Instant::now() + POD_WITHIN;
        loop {
            // Between two of one name there is none, and kubectl fails.
            let uid = self.uid(kind, name).await.unwrap_or_default();
            if !uid.is_empty() && uid != before {
                return Ok(format!("{name} is another {kind} now"));
            }
            if tokio::time::Instant::now() > until {
                bail!("{name} was deleted and is still the same {kind}");
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
            Fault::Kill | Fault::RollingRestart | Fault::Wipe => Ok(()),
            Fault::Join | Fault::Leave => {
                Err("pods come and go by scaling their StatefulSet: use local or netns".to_owned())
            }
            Fault::Pause
            | Fault::Partition
            | Fault::Network
            | Fault::FullDisk
            | Fault::SlowDisk
            | Fault::ClockJump => Err("pods have no tools for that: use local or netns".to_owned()),
        }
    }

    async fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.pods.len()).for_each(|node| self.forward(node));
        Ok(())
    }

    /// The `StatefulSet` has started it; a forward ends with its pod.
    async fn start(&mut self, node: usize) -> anyhow::Result<()> {
        let name = format!("pod/{}", self.pods[node].name);
        self.kubectl(&["wait", "--for=condition=Ready", &name, "--timeout=50s"]).await?;
        self.pods[node].deleted = false;
        self.forward(node);
        Ok(())
    }

    async fn start_missing(&mut self, nodes: &[usize]) -> anyhow::Result<()> {
        for &node in nodes {
            if self.pods[node].deleted {
                self.start(node).await?;
            }
        }
        Ok(())
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

    async fn set_clock(&mut self, _: usize, _: i64) -> anyhow::Result<()> {
        not_here("clock jump")
    }

    /// Deletes the volume's claim, which goes once its pod has gone: another one must come.
    async fn wipe(&mut self, node: usize) -> anyhow::Result<String> {
        let claim = format!("data-{}", self.pods[node].name);
        let before = self.uid("pvc", &claim).await?;
        self.kubectl(&["delete", "pvc", &claim, "--wait=false"]).await?;
        let pod = self.delete(&[node], "0").await?;
        Ok(format!("{pod}, {}", self.replaced("pvc", &claim, &before).await?))
    }

    async fn join(&mut self, _: usize) -> anyhow::Result<()> {
        not_here("join")
    }

    async fn left(&mut self, _: usize) -> anyhow::Result<String> {
        not_here("leave")
    }

    fn unasked_ends(&mut self) -> Vec<String> {
        Vec::new()
    }

    async fn clean_up(&mut self) -> Vec<String> {
        for forward in self.pods.iter_mut().filter_map(|pod| pod.forward.take()) {
            // With its task goes the kubectl that it waits for.
            forward.abort();
            let _ = forward.await;
        }
        Vec::new()
    }
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;
