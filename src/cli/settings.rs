//! `config`: what a node would run with, and the clusters that commands know by name.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::address_book::AddressBook;
use super::exit::{Coded, Exit};
use super::status::table;
use super::term::{self, Output};
use crate::config::{ConfigError, Effective, Settings};

/// Show the settings of a node, and the clusters that are known by name
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coterie config show --config coterie-data/node-0.toml --origin
  coterie config contexts")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    Show(ShowArgs),
    Contexts(ContextsArgs),
}

/// The layers that a node's settings come from.
#[derive(Args, Clone, Debug)]
pub struct Layers {
    /// A file of settings; may be repeated
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// One setting; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

/// Every setting of a node, with the value that it would run with
#[derive(Args, Debug)]
#[command(after_help = "\
The layers are those of `coterie serve`: the built-in defaults, each --config FILE, the environment
(COTERIE__SECTION__KEY), each --set; later ones win. What is printed is a configuration file.

Exit codes: 0 a node could run with it, 2 it could not, and why.

Examples:
  coterie config show --config coterie-data/node-0.toml
  coterie config show --config node-0.toml --origin | grep -v default     what is not a default
  coterie config show --config node-0.toml -o json | jq '.[] | select(.key == \"storage.durability\")'")]
struct ShowArgs {
    #[command(flatten)]
    layers: Layers,
    /// Say of each value where it came from
    #[arg(long)]
    origin: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The clusters that --context knows
#[derive(Args, Debug)]
#[command(after_help = "\
The file is $COTERIE_CLIENT_CONFIG, else coterie/client.toml in $XDG_CONFIG_HOME or ~/.config:

  current = \"dev\"

  [contexts.dev]
  addr = [\"127.0.0.1:7400\", \"127.0.0.1:7410\", \"127.0.0.1:7420\"]

Examples:
  coterie config contexts
  coterie status --context dev")]
struct ContextsArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct SettingDocument<'a> {
    key: &'a str,
    value: serde_json::Value,
    origin: String,
}

#[derive(Serialize)]
struct ClusterDocument<'a> {
    name: &'a str,
    current: bool,
    addr: &'a [String],
}

/// Runs the command.
///
/// # Errors
/// If the settings or the client's configuration cannot be used, or standard output is closed.
pub fn config(args: &ConfigArgs) -> anyhow::Result<Exit> {
    match &args.command {
        ConfigCommand::Show(args) => show(args),
        ConfigCommand::Contexts(args) => contexts(args),
    }
}

impl Layers {
    /// The settings that they make.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        Settings::load_here(&self.config, &self.set).map_err(|error| refused(&error))
    }
}

fn refused(error: &ConfigError) -> anyhow::Error {
    Coded::error(Exit::Usage, error.to_string())
}

fn show(args: &ShowArgs) -> anyhow::Result<Exit> {
    let effective = Settings::effective_here(&args.layers.config, &args.layers.set);
    let effective = effective.map_err(|error| refused(&error))?;
    if args.output == Output::Json {
        let told = effective.iter().map(|one| SettingDocument {
            key: one.key,
            value: json_of(&one.value),
            origin: one.origin.to_string(),
        });
        let told: Vec<_> = told.collect();
        term::json(&told)?;
        return Ok(Exit::Ok);
    }
    let line = |one: &Effective| {
        let name = one.key.split_once('.').map_or(one.key, |parts| parts.1);
        format!("{name} = {}", one.value)
    };
    let width = effective.iter().map(|one| line(one).chars().count()).max().unwrap_or(0);
    let mut section = "";
    for one in &effective {
        let own = one.key.split_once('.').map_or("", |parts| parts.0);
        if own != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            term::line(format_args!("{gap}[{own}]"))?;
            section = own;
        }
        if args.origin {
            term::line(format_args!("{:width$}  # {}", line(one), one.origin))?;
        } else {
            term::line(line(one))?;
        }
    }
    Ok(Exit::Ok)
}

/// What TOML writes of a text, a number, a flag or a list of texts is JSON, too.
fn json_of(literal: &str) -> serde_json::Value {
    serde_json::from_str(literal).unwrap_or_else(|_| literal.into())
}

fn contexts(args: &ContextsArgs) -> anyhow::Result<Exit> {
    let clusters = AddressBook::load()?;
    let is_current = |name: &str| clusters.current.as_deref() == Some(name);
    if args.output == Output::Json {
        let each = clusters.all.iter();
        let each =
            each.map(|(name, addr)| ClusterDocument { name, current: is_current(name), addr });
        term::json(&each.collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    let place = clusters.path.as_ref().map(|path| path.display().to_string());
    let place =
        place.unwrap_or_else(|| "nowhere: neither HOME nor XDG_CONFIG_HOME is set".to_owned());
    if clusters.all.is_empty() {
        term::note(format_args!("there are no clusters ({place})"));
        return Ok(Exit::Ok);
    }
    let mut rows = table(&["CLUSTER", "CURRENT", "ADDRESSES"]);
    for (name, addresses) in &clusters.all {
        let current = if is_current(name) { "yes" } else { "-" };
        rows.add_row([name.clone(), current.to_owned(), addresses.join(", ")]);
    }
    term::line(rows)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_literal_of_a_setting_is_json() {
        let text = "[node]\nname = \"node-0\"\ndata = \"a\\\"\\\\\\u0001\\n\\tü\"\n[bootstrap]\n\
                    seeds = [\"127.0.0.1:1\", \"dns:///x:1\"]\n[telemetry]\nsample_ratio = 1.0\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        let all = Settings::effective_here(&[file], &[]).unwrap();
        for one in &all {
            let parsed = serde_json::from_str::<serde_json::Value>(&one.value);
            assert!(parsed.is_ok(), "{} = {}", one.key, one.value);
        }
        let of = |key: &str| json_of(&all.iter().find(|one| one.key == key).unwrap().value);
        assert_eq!(of("node.data"), "a\"\\\u{1}\n\tü");
        assert_eq!(of("bootstrap.seeds"), serde_json::json!(["127.0.0.1:1", "dns:///x:1"]));
        assert_eq!(of("replication.replicas"), 3);
        assert_eq!(of("listen.insecure"), false);
    }
}
