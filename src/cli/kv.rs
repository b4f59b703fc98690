//! `get`, `set` and `delete`: one key.

use std::ffi::OsString;
use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::{self, Consistency, Target};
use super::exit::{Coded, Exit};
use super::failure::Tried;
use super::term::{self, Output};
use super::transfer::ndjson::text_or_base64;
use crate::client::{Client, Options, ReadOptions, Reading, WriteOptions, Written};
use crate::types::KEY_BYTES_MAX;

/// How a value is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Default)]
enum ValueOutput {
    /// The value's bytes as they are; a terminal gets a line feed after them.
    #[default]
    Raw,
    /// Value, context and siblings as a JSON document.
    Json,
}

/// What the three commands have in common.
#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    target: Target,
    /// How many of the N replicas must take part
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
    /// Read-your-writes and monotonic reads, at the price of another round
    #[arg(long)]
    strict: bool,
    /// Give up after this
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = args::duration)]
    timeout: Duration,
}

/// Read a key
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes: 0 found, 3 no such key, 4 too few replicas.

Examples:
  coterie get greeting
  coterie get greeting -o json | jq -r .context    for `coterie set --causal-context`
  coterie get cart --all-siblings -o json          every concurrent value")]
pub struct GetArgs {
    /// The key, 1 to 4096 bytes
    key: OsString,
    /// Show every concurrent value, not only the last writer's
    #[arg(long)]
    all_siblings: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: ValueOutput,
    #[command(flatten)]
    common: Common,
}

/// Write a key
#[derive(Args, Debug)]
#[command(after_help = "\
Without a context the write goes over whatever is there. With the context of a read it replaces just
what that read showed; a concurrent write is kept beside it as a sibling.

Exit codes: 0 written, 4 too few replicas and nothing was written, 5 the outcome is unknown: it may
have been written. The same request id may be sent again safely.

Examples:
  coterie set greeting hello
  coterie set session/7 - --ttl 30m < session.bin
  coterie set cart \"$NEW\" --causal-context \"$(coterie get cart --all-siblings -o json | jq -r .context)\"")]
pub struct SetArgs {
    /// The key, 1 to 4096 bytes
    key: OsString,
    /// The value, or `-` to read it from standard input
    #[arg(allow_hyphen_values = true)]
    value: OsString,
    /// The value disappears after this
    #[arg(long, value_name = "DURATION", value_parser = args::some_time)]
    ttl: Option<Duration>,
    #[command(flatten)]
    write: Write,
}

/// Delete a key
#[derive(Args, Debug)]
#[command(after_help = "\
Deleting an absent key succeeds.

Exit codes: as those of `coterie set`.

Examples:
  coterie delete greeting
  coterie delete cart --context-from-get    a value written meanwhile survives")]
pub struct DeleteArgs {
    /// The key, 1 to 4096 bytes
    key: OsString,
    #[command(flatten)]
    write: Write,
}

/// What the two writes have in common.
#[derive(Args, Debug)]
struct Write {
    /// The context of the read that this write is based on, as `-o json` prints it
    #[arg(
        long,
        value_name = "BASE64",
        value_parser = args::context,
        conflicts_with = "context_from_get",
    )]
    causal_context: Option<Bytes>,
    /// Read the key first and use that context
    #[arg(long)]
    context_from_get: bool,
    /// 32 hexadecimal digits that name the request, to send it again after an unknown outcome
    #[arg(long, value_name = "HEX", value_parser = request_id)]
    request_id: Option<u128>,
    /// How to print the receipt
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct GetDocument {
    found: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    context: String,
    siblings: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    all: Vec<SiblingDocument>,
}

#[derive(Serialize)]
struct SiblingDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
    written_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

#[derive(Serialize)]
struct WrittenDocument {
    context: String,
    dot: String,
    homes: Vec<String>,
    hints: Vec<String>,
    placement: u32,
    request_id: String,
}

/// Runs `get`.
///
/// # Errors
/// If the key is no key, or the read fails, or standard output is closed.
pub async fn get(args: GetArgs) -> anyhow::Result<Exit> {
    let key = key_of(&args.key)?;
    let client = args.common.client()?;
    let options = ReadOptions { all_siblings: args.all_siblings, ..ReadOptions::default() };
    let read = client.get_with(key, &options).await;
    let reading = read.with_context(|| format!("cannot read {}", shown(&args.key)))?;
    match args.output {
        ValueOutput::Json => term::json(&GetDocument::new(&reading))?,
        ValueOutput::Raw => print_values(&reading, args.all_siblings)?,
    }
    if reading.value.is_none() {
        if args.output == ValueOutput::Raw {
            term::note(format_args!("there is no key {}", shown(&args.key)));
        }
        return Ok(Exit::NotFound);
    }
    if reading.siblings > 0 && !args.all_siblings && args.output == ValueOutput::Raw {
        let others = term::count(reading.siblings.into(), "other concurrent value");
        let verb = if reading.siblings == 1 { "exists" } else { "exist" };
        term::note(format_args!("note: {others} {verb} (see all with --all-siblings)"));
    }
    Ok(Exit::Ok)
}

/// Runs `set`.
///
/// # Errors
/// If the key is no key, or the value cannot be read, or the write fails.
pub async fn set(args: SetArgs) -> anyhow::Result<Exit> {
    let key = key_of(&args.key)?;
    let value = if args.value == "-" {
        let mut value = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut value);
        read.context("cannot read the value from standard input")?;
        value
    } else {
        args.value.into_encoded_bytes()
    };
    let client = args.write.common.client()?;
    let (mut options, id) = args.write.options(&client, &key).await?;
    options.ttl = args.ttl;
    let written = client.set_with(key, value, &options).await;
    args.write.report(written, &format!("cannot write {}", shown(&args.key)), id)
}

/// Runs `delete`.
///
/// # Errors
/// If the key is no key, or the write fails.
pub async fn delete(args: DeleteArgs) -> anyhow::Result<Exit> {
    let key = key_of(&args.key)?;
    let client = args.write.common.client()?;
    let (options, id) = args.write.options(&client, &key).await?;
    let written = client.delete_with(key, &options).await;
    args.write.report(written, &format!("cannot delete {}", shown(&args.key)), id)
}

impl Common {
    fn client(&self) -> anyhow::Result<Client> {
        let options = Options {
            timeout: self.timeout,
            consistency: self.consistency.into(),
            strict: self.strict,
            ..Options::default()
        };
        self.target.client(options)
    }
}

impl Write {
    async fn options(&self, client: &Client, key: &Bytes) -> anyhow::Result<(WriteOptions, u128)> {
        let context = match &self.causal_context {
            Some(context) => context.clone(),
            None if self.context_from_get => {
                let all = ReadOptions { all_siblings: true, ..ReadOptions::default() };
                let read = client.get_with(key.clone(), &all).await;
                read.context("cannot read the context that the write is to be based on")?.context
            }
            None => Bytes::new(),
        };
        let id = self.request_id.unwrap_or_else(rand::random);
        let request_id = Some(id.to_be_bytes());
        Ok((WriteOptions { context, request_id, ..WriteOptions::default() }, id))
    }

    fn report(
        &self,
        written: Result<Written, crate::client::Error>,
        tried: &str,
        id: u128,
    ) -> anyhow::Result<Exit> {
        let written = written.map_err(|error| {
            let message = if error.outcome_is_known() {
                tried.to_owned()
            } else {
                format!(
                    "{tried}: the outcome is unknown, it may take place. Send it again with \
                     --request-id {id:032x}, or read the key"
                )
            };
            anyhow::Error::from(error).context(Tried { message, request_id: id })
        })?;
        match self.output {
            Output::Json => term::json(&WrittenDocument::new(&written, id))?,
            Output::Text => {
                let receipt = &written.receipt;
                let homes = receipt.homes.join(", ");
                let hints = if receipt.hints.is_empty() {
                    String::new()
                } else {
                    format!(", hints on {}", receipt.hints.join(", "))
                };
                term::line(format_args!("OK {} on {homes}{hints}", receipt.dot))?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl GetDocument {
    fn new(reading: &Reading) -> Self {
        let (value, value_b64) = reading.value.as_deref().map_or((None, None), text_or_base64);
        let all = reading.all.iter().map(|sibling| {
            let (value, value_b64) = text_or_base64(&sibling.value);
            let expires_ms = (sibling.expires_ms != 0).then_some(sibling.expires_ms);
            SiblingDocument { value, value_b64, written_ms: sibling.written_ms, expires_ms }
        });
        Self {
            found: reading.value.is_some(),
            value,
            value_b64,
            expires_ms: reading.expires_ms,
            context: args::to_base64(&reading.context),
            siblings: reading.siblings,
            all: all.collect(),
        }
    }
}

impl WrittenDocument {
    fn new(written: &Written, id: u128) -> Self {
        let receipt = written.receipt.clone();
        Self {
            context: args::to_base64(&written.context),
            dot: receipt.dot,
            homes: receipt.homes,
            hints: receipt.hints,
            placement: receipt.placement,
            request_id: format!("{id:032x}"),
        }
    }
}

fn print_values(reading: &Reading, all_siblings: bool) -> std::io::Result<()> {
    if all_siblings && reading.all.len() > 1 {
        for sibling in &reading.all {
            term::line(String::from_utf8_lossy(&sibling.value))?;
        }
        return Ok(());
    }
    reading.value.as_deref().map_or(Ok(()), term::raw)
}

/// The key that was typed.
///
/// # Errors
/// If it is empty or too long.
pub fn key_of(text: &OsString) -> anyhow::Result<Bytes> {
    let bytes = Bytes::copy_from_slice(text.as_encoded_bytes());
    if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
        let length = bytes.len();
        let sentence = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {length}");
        return Err(Coded::error(Exit::Usage, sentence));
    }
    Ok(bytes)
}

fn shown(key: &OsString) -> String {
    let text = key.to_string_lossy();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

fn request_id(text: &str) -> Result<u128, String> {
    let id = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    id.ok_or_else(|| "a request id has 32 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_none_are_wrong_usage() {
        let error = key_of(&OsString::new()).unwrap_err();
        assert_eq!(super::super::exit::of_error(&error), Exit::Usage);
        assert!(key_of(&"k".repeat(KEY_BYTES_MAX).into()).is_ok());
        assert!(key_of(&"k".repeat(KEY_BYTES_MAX + 1).into()).is_err());
    }

    #[test]
    fn long_keys_are_shown_short() {
        assert_eq!(shown(&"k".into()), "`k`");
        assert_eq!(shown(&"ä".repeat(70).into()), format!("`{}…`", "ä".repeat(60)));
    }

    #[test]
    fn request_ids_have_32_hexadecimal_digits() {
        assert_eq!(request_id("000102030405060708090a0b0c0d0e0f").unwrap() >> 120, 0);
        assert!(request_id("1").is_err());
        assert!(request_id(&"g".repeat(32)).is_err());
    }
}
