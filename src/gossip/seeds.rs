//! Where to look for other nodes: names and addresses, resolved anew each time.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::peers::quiet::Quiet;

/// Between two resolutions while nodes are still missing.
pub(super) const RESOLVE_EVERY: Duration = Duration::from_secs(2);
/// Between two resolutions once the node is ready: what a name means may change at any time, and
/// a cluster that was cut down to single nodes must find itself again.
pub(super) const RESOLVE_EVERY_SETTLED: Duration = Duration::from_secs(30);
/// A resolver that does not answer must not hold up the other seeds for long.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses taken from one name; a name of more is probably not one of ours.
const ADDRESSES_MAX: usize = 1024;

/// A place to look for other nodes: `host:port`, or a name with an address for every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    host: String,
    port: u16,
    /// Whether every address of the name is a node, not only one.
    all: bool,
}

/// A seed that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no seed: allowed are `host:port` and `dns:///name:port`")]
pub struct SeedError(String);

impl std::str::FromStr for Seed {
    type Err = SeedError;
    fn from_str(text: &str) -> Result<Self, SeedError> {
        let error = || SeedError(text.chars().take(200).collect());
        let (all, rest) = match text.strip_prefix("dns:///") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if host.is_empty() || host.contains(['/', '[', ']', ' ']) {
            return Err(error());
        }
        Ok(Self { host: host.to_owned(), port, all })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.all { "dns:///" } else { "" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}{}:{}", self.host, self.port),
        }
    }
}

/// Resolves seeds.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    seeds: Vec<Seed>,
    /// Addresses of the other family cannot be reached from our socket.
    ipv6: bool,
    quiet: Quiet,
}

impl Resolver {
    pub(super) fn new(seeds: Vec<Seed>, own: SocketAddr) -> Self {
        Self { seeds, ipv6: own.is_ipv6(), quiet: Quiet::default() }
    }

    /// The addresses that the seeds have now. A seed that cannot be resolved is left out.
    pub(super) async fn resolve(&self) -> Vec<SocketAddr> {
        let mut addresses = BTreeSet::new();
        for seed in &self.seeds {
            match self.lookup(seed).await {
                Ok(found) => addresses.extend(found),
                Err(error) => {
                    if let Some(others) = self.quiet.allow() {
                        tracing::warn!(%seed, %error, others, "a seed cannot be resolved");
                    }
                }
            }
        }
        addresses.into_iter().collect()
    }

    async fn lookup(&self, seed: &Seed) -> std::io::Result<Vec<SocketAddr>> {
        let looking = tokio::net::lookup_host((seed.host.as_str(), seed.port));
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, looking).await??;
        let max = if seed.all { ADDRESSES_MAX } else { 1 };
        Ok(found.filter(|address| address.is_ipv6() == self.ipv6).take(max).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_read_and_print_alike_and_bad_ones_are_refused() {
        for text in ["node-0:7401", "dns:///coterie.default.svc:7401", "127.0.0.1:1", "[::1]:7401"]
        {
            assert_eq!(text.parse::<Seed>().unwrap().to_string(), text);
        }
        for text in ["", "node-0", ":7401", "node-0:0", "node-0:70000", "dns://x:1", "a b:1"] {
            assert!(text.parse::<Seed>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn what_resolves_is_found_and_what_does_not_is_left_out() {
        let seeds = ["127.0.0.1:7401", "no-such-host.invalid:1", "[::1]:7401", "127.0.0.1:7401"];
        let seeds = seeds.map(|seed| seed.parse().unwrap()).to_vec();
        let resolver = Resolver::new(seeds, "127.0.0.1:1".parse().unwrap());
        assert_eq!(resolver.resolve().await, ["127.0.0.1:7401".parse().unwrap()]);
    }
}
