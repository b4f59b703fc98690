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

impl Seed {
    /// The first address that `host` has.
    #[must_use]
    pub fn one(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, all: false }
    }

    /// Every address that `host` has.
    #[must_use]
    pub fn all(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, all: true }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.all { "dns:///" } else { "" };
        if self.host.contains(':') {
            write!(f, "{scheme}[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}{}:{}", self.host, self.port)
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

    #[tokio::test]
    async fn what_resolves_is_found_and_what_does_not_is_left_out() {
        let seeds = vec![
            Seed::one("127.0.0.1", 7401),
            Seed::all("no-such-host.invalid", 1),
            Seed::one("::1", 7401),
            Seed::all("127.0.0.1", 7401),
        ];
        let resolver = Resolver::new(seeds, "127.0.0.1:1".parse().unwrap());
        assert_eq!(resolver.resolve().await, ["127.0.0.1:7401".parse().unwrap()]);
    }
}
