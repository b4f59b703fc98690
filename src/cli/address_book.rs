//! The client's configuration: clusters by name.
//!
//! ```toml
//! current = "dev"                       # used unless another one is named
//!
//! [contexts.dev]
//! addr = ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]
//! ```
//!
//! The file is `$COTERIE_CLIENT_CONFIG`, else `coterie/client.toml` in `$XDG_CONFIG_HOME` or
//! `~/.config`. One that is not there has no clusters; one that is wrong is an error, since
//! commands would otherwise go to another cluster than the one that was meant.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat};
use serde::Deserialize;

use super::args;
use super::exit::{Coded, Exit};

/// Where commands go if nobody says anything.
pub const ADDRESS: &str = "127.0.0.1:7400";

/// The client's configuration, and where it was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressBook {
    /// The file; none if there is no place for one.
    pub path: Option<PathBuf>,
    /// The cluster that is used unless another one is named.
    pub current: Option<String>,
    /// The addresses of each cluster.
    pub all: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    current: Option<String>,
    #[serde(default, rename = "contexts")]
    clusters: BTreeMap<String, Cluster>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    addr: Vec<String>,
}

impl AddressBook {
    /// Reads the file of whoever runs this process.
    ///
    /// # Errors
    /// If it cannot be read, or says something that cannot be meant.
    pub fn load() -> anyhow::Result<Self> {
        let Some(path) = path(|name| std::env::var_os(name)) else { return Ok(Self::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::read(&path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { path: Some(path), ..Self::default() })
            }
            Err(error) => Err(wrong(&path, error.to_string())),
        }
    }

    fn read(path: &Path, text: &str) -> anyhow::Result<Self> {
        let built = Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build();
        let document = built.and_then(Config::try_deserialize::<Document>);
        let document = document.map_err(|error| wrong(path, error.to_string()))?;
        let mut all = BTreeMap::new();
        for (name, cluster) in document.clusters {
            if cluster.addr.is_empty() {
                return Err(wrong(path, format!("contexts.{name}.addr is empty")));
            }
            let addresses: Result<Vec<String>, String> =
                cluster.addr.iter().map(|address| args::address(address)).collect();
            let addresses =
                addresses.map_err(|why| wrong(path, format!("contexts.{name}.addr: {why}")))?;
            all.insert(name, addresses);
        }
        let clusters = Self { path: Some(path.to_owned()), current: document.current, all };
        if let Some(current) = &clusters.current {
            clusters.named(current)?;
        }
        Ok(clusters)
    }

    /// The addresses of a cluster.
    ///
    /// # Errors
    /// If there is none of this name: the error names those that there are.
    pub fn named(&self, name: &str) -> anyhow::Result<&[String]> {
        if let Some(addresses) = self.all.get(name) {
            return Ok(addresses);
        }
        let place =
            self.path.as_ref().map_or("no file".to_owned(), |path| path.display().to_string());
        let known: Vec<&str> = self.all.keys().map(String::as_str).collect();
        let known = match &known[..] {
            [] => "it has no clusters".to_owned(),
            known => format!("it has {}", known.join(", ")),
        };
        let message = format!("there is no cluster `{name}` in {place}: {known}");
        Err(Coded::error(Exit::Usage, message))
    }

    /// The addresses of the cluster that was asked for, else of the current one, else the
    /// default.
    ///
    /// # Errors
    /// If no cluster has the name.
    pub fn addresses(&self, asked: Option<&str>) -> anyhow::Result<Vec<String>> {
        match asked.or(self.current.as_deref()) {
            Some(name) => Ok(self.named(name)?.to_vec()),
            None => Ok(vec![ADDRESS.to_owned()]),
        }
    }
}

/// Where the file is; an empty variable counts as none.
fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("COTERIE_CLIENT_CONFIG").or_else(|| {
        let base = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
        Some(base.join("coterie").join("client.toml"))
    })
}

fn wrong(path: &Path, why: String) -> anyhow::Error {
    let message = format!("the client's configuration {} cannot be used", path.display());
    Coded { exit: Exit::Usage, message, source: Some(why.into()) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "current = \"dev\"\n[contexts.dev]\naddr = [\"127.0.0.1:7400\", \"b:1\"]\n\
                        [contexts.Prod]\naddr = [\"http://node-0.prod:7400/\"]\n";

    fn read(text: &str) -> anyhow::Result<AddressBook> {
        AddressBook::read(Path::new("client.toml"), text)
    }

    #[test]
    fn a_named_cluster_goes_before_the_current_one_and_that_before_the_default() {
        let clusters = read(FILE).unwrap();
        assert_eq!(clusters.addresses(None).unwrap(), ["127.0.0.1:7400", "b:1"]);
        assert_eq!(clusters.addresses(Some("Prod")).unwrap(), ["node-0.prod:7400"]);
        assert_eq!(AddressBook::default().addresses(None).unwrap(), [ADDRESS]);
    }

    #[test]
    fn an_unknown_cluster_is_told_the_known_ones() {
        let error = read(FILE).unwrap().addresses(Some("test")).unwrap_err();
        assert_eq!(super::super::exit::of_error(&error), Exit::Usage);
        assert!(error.to_string().contains("it has Prod, dev"), "{error}");
        let error = AddressBook::default().addresses(Some("dev")).unwrap_err().to_string();
        assert!(error.contains("no clusters"), "{error}");
    }

    #[test]
    fn a_file_that_is_wrong_is_never_half_used() {
        for (text, told) in [
            ("current = \"gone\"\n[contexts.dev]\naddr = [\"a:1\"]\n", "no cluster `gone`"),
            ("[contexts.dev]\naddr = [\"nowhere\"]\n", "HOST:PORT"),
            ("[contexts.dev]\naddr = []\n", "empty"),
            ("[contexts.dev]\naddress = [\"a:1\"]\n", "address"),
            ("[cluster.dev]\naddr = [\"a:1\"]\n", "cluster"),
            ("current = \n", "client.toml"),
        ] {
            let error = super::super::failure::text(&read(text).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn the_file_is_the_one_that_the_environment_names() {
        let of = |pairs: &'static [(&str, &str)]| {
            path(move |name| {
                pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1))
            })
        };
        assert_eq!(of(&[("COTERIE_CLIENT_CONFIG", "/c"), ("HOME", "/h")]), Some("/c".into()));
        let xdg = of(&[("COTERIE_CLIENT_CONFIG", ""), ("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]);
        assert_eq!(xdg, Some("/x/coterie/client.toml".into()));
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.config/coterie/client.toml".into()));
        assert_eq!(of(&[]), None);
    }
}
