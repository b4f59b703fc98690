//! The network of one node, seen from inside its network namespace: iptables drops what comes over
//! a wire that was cut, and tc netem delays and loses what the node sends. Both count.
//!
//! Every command has a prefix that enters the namespace: `ip netns exec NAME` or `nsenter`.

use anyhow::{Context as _, bail};

use super::command::{run, words};
use crate::scenario::Network;

/// Our own chain, so that healing takes away nothing else.
const CHAIN: &str = "COTERIE-CHAOS";
/// Fewer lost packets than this may be luck.
const LOSSES_EXPECTED: f64 = 20.0;

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wire {
    /// Who sends.
    pub from: usize,
    /// Who receives.
    pub to: usize,
}

/// A node's network.
#[derive(Clone, Debug)]
pub struct Port {
    /// What enters its namespace.
    pub prefix: Vec<String>,
    /// Its interface.
    pub interface: String,
}

impl Port {
    async fn run(&self, rest: &[&str]) -> anyhow::Result<String> {
        run(&words(&self.prefix, rest)).await
    }

    /// Drops what comes from these addresses.
    pub async fn refuse(&self, from: &[String]) -> anyhow::Result<()> {
        self.run(&["iptables", "-w", "-N", CHAIN]).await?;
        self.run(&["iptables", "-w", "-I", "INPUT", "-j", CHAIN]).await?;
        for address in from {
            self.run(&["iptables", "-w", "-A", CHAIN, "-s", address, "-j", "DROP"]).await?;
        }
        Ok(())
    }

    /// How many packets from each of these addresses were dropped.
    pub async fn refused(&self, from: &[String]) -> anyhow::Result<Vec<u64>> {
        let listed = self.run(&["iptables", "-w", "-nvxL", CHAIN]).await?;
        from.iter().map(|address| count_of(&listed, address)).collect()
    }

    /// Takes whatever comes again; also if nothing was refused.
    pub async fn accept(&self) -> anyhow::Result<()> {
        if self.run(&["iptables", "-w", "-nL", CHAIN]).await.is_err() {
            return Ok(());
        }
        self.run(&["iptables", "-w", "-D", "INPUT", "-j", CHAIN]).await?;
        self.run(&["iptables", "-w", "-F", CHAIN]).await?;
        self.run(&["iptables", "-w", "-X", CHAIN]).await.map(drop)
    }

    /// Makes the network worse.
    pub async fn shape(&self, network: Network) -> anyhow::Result<()> {
        let mut command = vec!["tc", "qdisc", "replace", "dev", &self.interface, "root", "netem"];
        let arguments = netem(network);
        command.extend(arguments.iter().map(String::as_str));
        self.run(&command).await.map(drop).context(
            "the kernel may lack netem (sch_netem): then only losses can be had, by iptables",
        )
    }

    /// As it was.
    pub async fn unshape(&self) -> anyhow::Result<()> {
        if self.run(&["tc", "qdisc", "show", "dev", &self.interface]).await?.contains("netem") {
            self.run(&["tc", "qdisc", "del", "dev", &self.interface, "root"]).await?;
        }
        Ok(())
    }

    /// How many packets were sent and how many of them were lost since the network was made worse.
    ///
    /// # Errors
    /// If nothing was sent, or far too little was lost.
    pub async fn shaped(&self, network: Network) -> anyhow::Result<(u64, u64)> {
        let shown = self.run(&["tc", "-s", "qdisc", "show", "dev", &self.interface]).await?;
        let (sent, lost) = netem_counts(&shown).context("there is no netem on the interface")?;
        let expected = (sent + lost) as f64 * network.loss_percent / 100.0;
        if sent == 0 || (expected > LOSSES_EXPECTED && (lost as f64) < expected / 4.0) {
            bail!("netem has let {sent} packets pass and dropped {lost}");
        }
        Ok((sent, lost))
    }
}

/// How many packets were dropped on each wire since it was cut.
pub async fn dropped(
    ports: &[Port],
    addresses: &[String],
    wires: &[Wire],
) -> anyhow::Result<Vec<u64>> {
    let mut counts = Vec::new();
    for wire in wires {
        let from = [addresses[wire.from].clone()];
        counts.extend(ports[wire.to].refused(&from).await?);
    }
    Ok(counts)
}

/// Makes the network of every port worse, or as it was.
pub async fn shape(ports: &[Port], network: Option<Network>) -> anyhow::Result<()> {
    for port in ports {
        match network {
            Some(network) => port.shape(network).await?,
            None => port.unshape().await?,
        }
    }
    Ok(())
}

/// What the network has done to packets since it was made worse.
pub async fn shaped(ports: &[Port], network: Network) -> anyhow::Result<String> {
    let mut counts = Vec::new();
    for port in ports {
        let (sent, lost) = port.shaped(network).await?;
        counts.push(format!("{lost} of {}", sent + lost));
    }
    Ok(format!("netem has dropped {} packets", counts.join(", ")))
}

/// Whether the kernel knows netem: asked of an interface that nobody uses.
pub async fn netem_is_there(prefix: &[String]) -> anyhow::Result<()> {
    run(&words(prefix, &["tc", "qdisc", "replace", "dev", "lo", "root", "netem"])).await?;
    run(&words(prefix, &["tc", "qdisc", "del", "dev", "lo", "root"])).await.map(drop)
}

/// Whether the kernel knows netem: asked in a namespace that goes with the question.
pub async fn kernel_has_netem() -> anyhow::Result<()> {
    let ask = ["unshare", "--net", "tc", "qdisc", "replace", "dev", "lo", "root", "netem"];
    run(&ask).await.map(drop)
}

fn netem(network: Network) -> Vec<String> {
    let millis = |time: std::time::Duration| format!("{}ms", time.as_secs_f64() * 1000.0);
    let mut words = vec!["limit".to_owned(), "100000".to_owned()];
    if !network.delay.is_zero() {
        words.extend(["delay".to_owned(), millis(network.delay), millis(network.jitter)]);
    }
    if network.loss_percent > 0.0 {
        words.extend(["loss".to_owned(), format!("{}%", network.loss_percent)]);
    }
    words
}

/// Packets sent and dropped, of `tc -s qdisc show`.
fn netem_counts(shown: &str) -> Option<(u64, u64)> {
    let netem = &shown[shown.find("qdisc netem")?..];
    let after = |mark: &str| netem.find(mark).map(|at| &netem[at + mark.len()..]);
    let sent = after(" bytes ")?.split_whitespace().next()?.parse().ok()?;
    let lost = after("(dropped ")?.split(',').next()?.parse().ok()?;
    Some((sent, lost))
}

/// The packets of the rule for a source, of `iptables -nvxL`.
fn count_of(listed: &str, address: &str) -> anyhow::Result<u64> {
    let rule = listed.lines().find(|line| line.split_whitespace().any(|word| word == address));
    let rule = rule.with_context(|| format!("there is no rule for {address}"))?;
    let count = rule.split_whitespace().next().unwrap_or_default();
    count.parse().with_context(|| format!("`{rule}` begins with no count"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn netem_is_told_what_the_scenario_says() {
        let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
        let network = Network { delay, jitter, loss_percent: 1.0 };
        assert_eq!(netem(network).join(" "), "limit 100000 delay 20ms 10ms loss 1%");
        let network = Network { loss_percent: 2.5, ..Network::default() };
        assert_eq!(netem(network).join(" "), "limit 100000 loss 2.5%");
    }

    #[test]
    fn the_counters_of_tc_are_read() {
        let shown = "qdisc netem 8001: root refcnt 9 limit 1000 delay 20ms 10ms loss 1%\n \
                     Sent 59014 bytes 412 pkt (dropped 5, overlimits 0 requeues 0) \n";
        assert_eq!(netem_counts(shown), Some((412, 5)));
        assert_eq!(netem_counts("qdisc noqueue 0: root\n Sent 0 bytes 0 pkt (dropped 0,"), None);
    }

    #[test]
    fn the_counters_of_iptables_are_read() {
        let listed = "Chain COTERIE-CHAOS (1 references)\n\
                      pkts bytes target prot opt in out source destination\n\
                      \x20  7  588 DROP 0 -- * * 10.7.0.11 0.0.0.0/0\n\
                      \x20  0    0 DROP 0 -- * * 10.7.0.12 0.0.0.0/0\n";
        assert_eq!(count_of(listed, "10.7.0.11").unwrap(), 7);
        assert_eq!(count_of(listed, "10.7.0.12").unwrap(), 0);
        assert!(count_of(listed, "10.7.0.1").is_err());
    }
}
