//! Settings as a file that a person can read.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::layers::default_of;
use super::values::{duration_text, quoted, size_text};
use super::{LogFormat, Settings, derived_founders};
use crate::store::Durability;

/// How many founders are expected if nobody says otherwise; `config/coterie.toml` agrees.
const EXPECT: usize = 3;

impl Settings {
    /// A file with whatever differs from the defaults, under a comment that says what it is for.
    /// Read over the defaults, it gives these settings again.
    #[must_use]
    pub fn to_toml(&self, comment: &str) -> String {
        let mut out = String::new();
        for line in comment.lines() {
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            let _ = writeln!(out, "# {}", line.trim_end());
        }
        out.push_str("# Only what differs from the defaults stands here.\n");
        let mut section = "";
        for (key, value) in self.literals() {
            if value == default_of(key).to_string() {
                continue;
            }
            let (own, name) = key.split_once('.').unwrap_or(("", key));
            if own != section {
                let _ = write!(out, "\n[{own}]\n");
                section = own;
            }
            let _ = writeln!(out, "{name} = {value}");
        }
        out
    }

    /// Every key, section by section, with its value as TOML writes it.
    pub(super) fn literals(&self) -> Vec<(&'static str, String)> {
        let (node, limits, listen) = (&self.node, &self.limits, &self.listen);
        let mut all = vec![
            ("node.name", quoted(node.name.as_str())),
            ("node.data", quoted(&node.data.to_string_lossy())),
            ("node.zone", quoted(&node.zone)),
            ("node.weight", node.weight.to_string()),
            ("cluster.name", quoted(&self.cluster.name)),
            ("listen.client", quoted(&listen.client.to_string())),
            ("listen.internal", quoted(&listen.internal.to_string())),
            ("listen.admin", quoted(&listen.admin.to_string())),
            ("listen.insecure", listen.insecure.to_string()),
        ];
        all.extend(self.advertise_literals());
        all.extend(self.bootstrap_literals());
        all.extend([
            ("membership.auto_join", self.membership.auto_join.to_string()),
            ("membership.settle", quoted(&duration_text(self.membership.settle))),
            ("replication.replicas", self.replication.replicas.to_string()),
            ("replication.partitions", self.replication.partitions.to_string()),
            ("storage.durability", quoted(durability(self.storage.durability))),
            ("storage.min_free", quoted(&size_text(self.storage.min_free))),
            ("storage.cache", quoted(&size_text(self.storage.cache))),
            ("storage.record_cache", quoted(&size_text(self.storage.record_cache))),
            ("limits.value_bytes", quoted(&size_text(limits.value_bytes as u64))),
            ("limits.siblings", limits.siblings.to_string()),
            ("limits.record_bytes", quoted(&size_text(limits.record_bytes as u64))),
            ("limits.in_flight", limits.in_flight.to_string()),
            ("clock.max_skew", quoted(&duration_text(self.clock.max_skew))),
            ("timeouts.request", quoted(&duration_text(self.timeouts.request))),
            ("timeouts.replica", quoted(&duration_text(self.timeouts.replica))),
            ("timeouts.hedge", quoted(&duration_text(self.timeouts.hedge))),
            ("hints.max_bytes", quoted(&size_text(self.hints.max_bytes))),
            ("hints.replay_window", self.hints.replay_window.to_string()),
            ("anti_entropy.interval", quoted(&duration_text(self.anti_entropy.interval))),
            (
                "anti_entropy.bytes_per_second",
                quoted(&size_text(self.anti_entropy.bytes_per_second)),
            ),
            (
                "anti_entropy.rebuild_bytes_per_second",
                quoted(&size_text(self.anti_entropy.rebuild_bytes_per_second)),
            ),
            ("scrub.interval", quoted(&duration_text(self.scrub.interval))),
            ("scrub.bytes_per_second", quoted(&size_text(self.scrub.bytes_per_second))),
            ("collection.interval", quoted(&duration_text(self.collection.interval))),
            ("collection.rest", quoted(&duration_text(self.collection.rest))),
            ("runtime.threads", self.runtime.threads.to_string()),
            ("log.level", quoted(&self.log.level)),
            ("log.format", quoted(format(self.log.format))),
        ]);
        let endpoint = self.telemetry.otlp_endpoint.as_deref().unwrap_or_default();
        all.push(("telemetry.otlp_endpoint", quoted(endpoint)));
        all.push(("telemetry.sample_ratio", ratio(self.telemetry.sample_ratio)));
        all.push(("telemetry.slow_request", quoted(&duration_text(self.telemetry.slow_request))));
        let every = self.telemetry.metrics_interval.unwrap_or_default();
        all.push(("telemetry.metrics_interval", quoted(&duration_text(every))));
        all
    }

    /// Empty where it follows from `[listen]`.
    fn advertise_literals(&self) -> [(&'static str, String); 3] {
        let (ours, listen) = (&self.advertise, &self.listen);
        let literal = |own: String, listen: String| {
            if own == listen { quoted("") } else { quoted(&own) }
        };
        let (client, admin) = (ours.client.to_string(), ours.admin.to_string());
        [
            ("advertise.client", literal(client, listen.client.to_string())),
            ("advertise.internal", literal(ours.internal.to_string(), listen.internal.to_string())),
            ("advertise.admin", literal(admin, listen.admin.to_string())),
        ]
    }

    /// The founders by number where their names allow it, else by name.
    fn bootstrap_literals(&self) -> BTreeMap<&'static str, String> {
        let founders = &self.bootstrap.founders;
        let list = |items: Vec<String>| {
            let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
            format!("[{}]", items.join(", "))
        };
        let names = || founders.iter().map(ToString::to_string).collect();
        let derived = derived_founders(&self.node.name, founders.len() as u64);
        let (expect, names) = if derived.as_ref() == Some(founders) {
            (founders.len(), vec![])
        } else {
            (EXPECT, names())
        };
        let seeds = self.bootstrap.seeds.iter().map(ToString::to_string).collect();
        BTreeMap::from([
            ("bootstrap.expect", expect.to_string()),
            ("bootstrap.founders", list(names)),
            ("bootstrap.seeds", list(seeds)),
        ])
    }
}

fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "fsync",
        Durability::Buffered => "buffered",
    }
}

fn format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

fn ratio(ratio: f64) -> String {
    let text = ratio.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}
