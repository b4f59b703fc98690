//! Arguments that several commands share.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};

use super::address_book::AddressBook;
use super::term;
use crate::{client, proto};

/// Which nodes to talk to.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Client addresses of nodes, comma separated or repeated; any node serves any request
    ///
    /// Without it those of the named or current cluster, and without one 127.0.0.1:7400.
    #[arg(
        long,
        env = "COTERIE_ADDR",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = address,
    )]
    addr: Vec<String>,
    /// The cluster of this name in the client's configuration: see `coterie config contexts`
    #[arg(long = "context", env = "COTERIE_CONTEXT", value_name = "NAME")]
    cluster: Option<String>,
    /// Talk to no other node than these: do not learn the addresses of the other members
    #[arg(long)]
    pub pinned: bool,
}

impl Target {
    /// A client of these nodes.
    ///
    /// # Errors
    /// If there is no such cluster, or an address is none.
    pub fn client(&self, options: client::Options) -> anyhow::Result<client::Client> {
        let pinned = self.pinned || options.pinned;
        let options = client::Options { pinned, ..options };
        Ok(client::Client::connect(self.addresses()?, options)?)
    }

    /// Where to go: what `--addr` says, else the cluster that is named, else
    /// the current one.
    ///
    /// # Errors
    /// If there is no such cluster, or the client's configuration cannot be used.
    pub fn addresses(&self) -> anyhow::Result<Vec<String>> {
        // An empty variable is one that is not set.
        let cluster = self.cluster.as_deref().filter(|name| !name.is_empty());
        if self.addr.is_empty() {
            return AddressBook::load()?.addresses(cluster);
        }
        if let Some(cluster) = cluster {
            term::note(format_args!(
                "note: cluster `{cluster}` is not used, since --addr or COTERIE_ADDR says where"
            ));
        }
        Ok(self.addr.clone())
    }
}

/// How many of the N replicas must take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// One replica.
    One,
    /// A majority of N.
    Quorum,
    /// All N.
    All,
}

impl From<Consistency> for proto::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::One => Self::One,
            Consistency::Quorum => Self::Quorum,
            Consistency::All => Self::All,
        }
    }
}

impl From<Consistency> for client::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::One => Self::One,
            Consistency::Quorum => Self::Quorum,
            Consistency::All => Self::All,
        }
    }
}

/// `HOST:PORT`, with or without `http://` before it.
///
/// # Errors
/// A sentence, if it is neither.
pub fn address(text: &str) -> Result<String, String> {
    let bare = text.trim().trim_start_matches("http://").trim_end_matches('/');
    let wrong = || format!("`{text}` is not HOST:PORT (such as 127.0.0.1:7400 or [::1]:7400)");
    let (host, port) = bare.rsplit_once(':').ok_or_else(wrong)?;
    let host_is_plain = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
    let host_is_whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    if !host_is_plain || !host_is_whole || port.parse::<u16>().is_ok_and(|port| port == 0) {
        return Err(wrong());
    }
    port.parse::<u16>().map_err(|_| wrong())?;
    Ok(bare.to_owned())
}

/// A duration such as `250ms`, `10s`, `5m`, `2h` or `7d`; a fraction is allowed.
///
/// # Errors
/// A sentence, if it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration (such as 250ms, 10s, 5m, 2h, 7d)");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit.trim_start() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

/// Base64, as `-o json` prints contexts.
///
/// # Errors
/// A sentence, if it is not.
pub fn base64(text: &str) -> Result<Bytes, String> {
    let bytes = STANDARD.decode(text.trim());
    bytes.map(Bytes::from).map_err(|error| format!("not base64: {error}"))
}

/// The inverse of [`base64()`].
#[must_use]
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port_with_or_without_scheme() {
        assert_eq!(address("127.0.0.1:7400").unwrap(), "127.0.0.1:7400");
        assert_eq!(address("http://node-0.coterie:7400/").unwrap(), "node-0.coterie:7400");
        assert_eq!(address("[::1]:1").unwrap(), "[::1]:1");
        for wrong in ["", "7400", ":7400", "host", "host:", "host:0", "host:99999", "::1:7400"] {
            assert!(address(wrong).is_err(), "accepted {wrong}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "10", "s", "-1s", "1 week", "1e999s", "99999999999999999999999d"] {
            assert!(duration(wrong).is_err(), "accepted {wrong}");
        }
    }
}
