//! Arguments that several commands share.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};

use super::address_book::AddressBook;
use super::exit::{Coded, Exit};
use super::term::Output;
use crate::{client, proto};

/// Which nodes to talk to.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Client addresses of nodes, comma separated or repeated; any node serves any request
    ///
    /// Without it and --context: those of the environment's `COTERIE_ADDR`, else of the context that
    /// `COTERIE_CONTEXT` names, else of the current context, else 127.0.0.1:7400.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = address)]
    addr: Vec<String>,
    /// The cluster of this name in the client's configuration: see `coterie config contexts`
    #[arg(long, value_name = "NAME", conflicts_with = "addr")]
    context: Option<String>,
    /// Talk to no other node than these: do not learn the addresses of the other members
    #[arg(long)]
    pub pinned: bool,
}

/// Which nodes to ask, and how to show what they say.
#[derive(Args, Clone, Debug)]
pub struct Show {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which nodes.
    #[command(flatten)]
    pub target: Target,
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

    /// Where to go. What a flag says comes before what the environment says.
    ///
    /// # Errors
    /// If there is no such context, an address is none, or the client's configuration cannot be used.
    pub fn addresses(&self) -> anyhow::Result<Vec<String>> {
        if !self.addr.is_empty() {
            return Ok(self.addr.clone());
        }
        if self.context.is_none()
            && let Some(listed) = variable("COTERIE_ADDR")
        {
            let addresses: Result<Vec<String>, String> = listed.split(',').map(address).collect();
            let wrong = |why| Coded::error(Exit::Usage, format!("COTERIE_ADDR: {why}"));
            return addresses.map_err(wrong);
        }
        let named = self.context.clone().or_else(|| variable("COTERIE_CONTEXT"));
        AddressBook::load()?.addresses(named.as_deref())
    }
}

/// A variable of the environment; an empty one counts as none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
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

/// The context of a read, which is never empty.
///
/// # Errors
/// A sentence, if it is none.
pub fn context(text: &str) -> Result<Bytes, String> {
    if text.trim().is_empty() {
        return Err("it is empty: leave the flag out to write over whatever is there".to_owned());
    }
    base64(text)
}

/// A duration that is more than nothing.
///
/// # Errors
/// A sentence, if it is none.
pub fn some_time(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span.is_zero() { Err("it is no time at all".to_owned()) } else { Ok(span) }
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
