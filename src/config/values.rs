//! The types of settings: each is parsed once, and cannot be wrong afterwards.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{LogFormat, Seed};
use crate::store::Durability;
use crate::types::{NAME_BYTES_MAX, NodeName};

/// A value as a layer gives it. The environment and flags give only text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Raw>),
    /// Something that no setting takes, such as a date.
    Other(String),
}

/// A type of setting.
pub(super) trait Parse: Sized {
    /// Reads a value; none if it is not one.
    fn parse(raw: &Raw) -> Option<Self>;
    /// What is allowed, to end a sentence that begins with "allowed is".
    const ALLOWED: &'static str;
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub u64);

/// A part of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio(pub f64);

/// A filter of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter(pub String);

/// An address of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url(pub String);

/// A plain text without control characters, as long as a name may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label(pub String);

/// Units of size, longest suffix first.
const SIZES: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("TB", 1000 * 1000 * 1000 * 1000),
    ("B", 1),
];

/// Units of time in microseconds, longest suffix first.
const TIMES: [(&str, u64); 5] =
    [("us", 1), ("ms", 1000), ("min", 60_000_000), ("s", 1_000_000), ("h", 3_600_000_000)];

impl Raw {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.trim()),
            Self::Integer(_) | Self::Float(_) | Self::Bool(_) | Self::List(_) | Self::Other(_) => {
                None
            }
        }
    }
}

/// As it would be written in a file.
impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A number of bytes in its largest whole unit.
pub(super) fn size_text(bytes: u64) -> String {
    let unit = SIZES[..4].iter().rev().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// A duration in its largest unit up to seconds.
pub(super) fn duration_text(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        _ if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        _ if micros.is_multiple_of(1000) => format!("{}ms", micros / 1000),
        _ => format!("{micros}us"),
    }
}

/// A number and its unit.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (_, unit) = units.iter().find(|known| known.0 == unit.trim_start())?;
    number.checked_mul(*unit)
}

impl Parse for Size {
    const ALLOWED: &'static str = "a size such as 4096, \"64KiB\", \"1MiB\" or \"4GiB\"";
    fn parse(raw: &Raw) -> Option<Self> {
        if let Raw::Integer(bytes) = raw {
            return u64::try_from(*bytes).ok().map(Self);
        }
        let text = raw.text()?;
        text.parse().ok().or_else(|| with_unit(text, &SIZES)).map(Self)
    }
}

impl Parse for Duration {
    const ALLOWED: &'static str =
        "a duration such as \"500us\", \"250ms\", \"5s\", \"10min\" or \"1h\"";
    fn parse(raw: &Raw) -> Option<Self> {
        with_unit(raw.text()?, &TIMES).map(Self::from_micros)
    }
}

impl Parse for u64 {
    const ALLOWED: &'static str = "a whole number, not negative";
    fn parse(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Integer(number) => (*number).try_into().ok(),
            other => other.text()?.parse().ok(),
        }
    }
}

impl Parse for bool {
    const ALLOWED: &'static str = "true or false";
    fn parse(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Bool(flag) => Some(*flag),
            other => other.text()?.parse().ok(),
        }
    }
}

impl Parse for Ratio {
    const ALLOWED: &'static str = "a number from 0 to 1";
    fn parse(raw: &Raw) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "only 0 and 1 pass")]
        let ratio = match raw {
            Raw::Float(ratio) => *ratio,
            Raw::Integer(ratio) => *ratio as f64,
            other => other.text()?.parse().ok()?,
        };
        (0.0..=1.0).contains(&ratio).then_some(Self(ratio))
    }
}

impl Parse for NodeName {
    const ALLOWED: &'static str = "1 to 63 characters of a-z, 0-9, '-', '_' and '.'";
    fn parse(raw: &Raw) -> Option<Self> {
        Self::new(raw.text()?).ok()
    }
}

impl Parse for Label {
    const ALLOWED: &'static str = "up to 63 bytes of text without control characters";
    fn parse(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        let plain = text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
        plain.then(|| Self(text.to_owned()))
    }
}

impl Parse for PathBuf {
    const ALLOWED: &'static str = "the path of a folder";
    fn parse(raw: &Raw) -> Option<Self> {
        let Raw::Text(text) = raw else { return None };
        (!text.trim().is_empty() && !text.contains('\0')).then(|| text.into())
    }
}

impl Parse for SocketAddr {
    const ALLOWED: &'static str =
        "an IP address and a port from 1 to 65535, such as \"127.0.0.1:7400\" or \"[::1]:7400\"";
    fn parse(raw: &Raw) -> Option<Self> {
        let address: Self = raw.text()?.parse().ok()?;
        (address.port() != 0).then_some(address)
    }
}

impl Parse for HostPort {
    const ALLOWED: &'static str =
        "a host and a port from 1 to 65535, such as \"node-0.example.org:7400\"";
    fn parse(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        if let Some(address) = SocketAddr::parse(raw) {
            return Some(address.into());
        }
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_host = (1..=253).contains(&host.len()) && host.bytes().all(plain);
        // A host of digits and dots alone is an address that SocketAddr has refused.
        let is_address = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        (is_host && !is_address && port != 0).then(|| Self { host: host.to_owned(), port })
    }
}

impl Parse for Seed {
    const ALLOWED: &'static str = "\"host:port\" or \"dns:///name:port\"";
    fn parse(raw: &Raw) -> Option<Self> {
        let part = |text: &str| HostPort::parse(&Raw::Text(text.to_owned()));
        match raw.text()?.strip_prefix("dns:///") {
            Some(name) => part(name).map(Self::Dns),
            None => part(raw.text()?).map(Self::Host),
        }
    }
}

impl Parse for Durability {
    const ALLOWED: &'static str = "\"fsync\" or \"buffered\"";
    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "fsync" => Some(Self::Fsync),
            "buffered" => Some(Self::Buffered),
            _ => None,
        }
    }
}

impl Parse for LogFormat {
    const ALLOWED: &'static str = "\"text\" or \"json\"";
    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Parse for Filter {
    const ALLOWED: &'static str =
        "error, warn, info, debug or trace, also by module: \"info,coterie::gossip=debug\"";
    fn parse(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        let sound = tracing_subscriber::EnvFilter::try_new(text).is_ok();
        // A mistyped level would pass for the name of a module, and silence everything.
        let is_known = |part: &str| {
            let levels = ["off", "error", "warn", "info", "debug", "trace"];
            part.contains('=') || part.contains("::") || levels.contains(&part.trim())
        };
        (sound && text.split(',').all(is_known)).then(|| Self(text.to_owned()))
    }
}

impl Parse for Url {
    const ALLOWED: &'static str = "an address such as \"http://127.0.0.1:4317\"";
    fn parse(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        let uri: axum::http::Uri = text.parse().ok()?;
        (uri.scheme_str() == Some("http") && uri.host().is_some()).then(|| Self(text.to_owned()))
    }
}

/// Empty text is none.
impl<T: Parse> Parse for Option<T> {
    const ALLOWED: &'static str = T::ALLOWED;
    fn parse(raw: &Raw) -> Option<Self> {
        if raw.text() == Some("") { Some(None) } else { T::parse(raw).map(Some) }
    }
}

/// A list, or text with commas between the items.
impl<T: Parse> Parse for Vec<T> {
    const ALLOWED: &'static str = T::ALLOWED;
    fn parse(raw: &Raw) -> Option<Self> {
        if let Raw::List(items) = raw {
            return items.iter().map(T::parse).collect();
        }
        let items = raw.text()?.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| T::parse(&Raw::Text(item.to_owned()))).collect()
    }
}

impl HostPort {
    /// Reads `host:port`; none if it is not that.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Self::parse(&Raw::Text(text.to_owned()))
    }

    /// The name or address, without the brackets of IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "{host}"),
            Self::Dns(name) => write!(f, "dns:///{name}"),
        }
    }
}
