//! What is sent to a collector of what nodes count: all that a scrape shows, under the same names.
//! A collector that is down is spoken of once, and missed by no request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, LOOK_EVERY};
use crate::metrics::Scrape;
use crate::otlp::{Collector, Sent};
use crate::process::Signal;
use crate::turn;

/// Nodes are told to export every second.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// More than three intervals, of spans as of metrics.
const DOWN_FOR: Duration = Duration::from_secs(5);
const LOST: &str = "metrics do not arrive";
const BACK: &str = "metrics arrive at the collector again";

/// Three nodes that export every second, and trace every request.
async fn telling_cluster(collector: &Collector) -> Cluster {
    let mut cluster = Cluster::plan(Some(turn::shared().await), 3);
    cluster.tell_all(&format!(
        "[telemetry]\notlp_endpoint = \"http://{}\"\nsample_ratio = 1\n\
         metrics_interval = \"1s\"\n",
        collector.at
    ));
    for node in 0..3 {
        // How often the exporter of spans sends, in milliseconds.
        cluster.place_mut(node).environment = vec![("OTEL_BSP_SCHEDULE_DELAY", "1000".into())];
        cluster.spawn(node);
    }
    cluster.wait_ready().await;
    cluster
}

/// The newest metrics of each node, once every node's have come so often.
async fn when_sent(cluster: &Cluster, collector: &Collector, often: usize) -> Vec<Sent> {
    let mut newest = Vec::new();
    for node in 0..3 {
        let id = cluster.answer(node).await.node_id;
        let began = Instant::now();
        newest.push(loop {
            match collector.metrics(&id) {
                Some((times, sent)) if times >= often => break sent,
                other => assert!(began.elapsed() < SEEN_WITHIN, "of node-{node}: {other:?}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        });
    }
    newest
}

/// What is to be the same in both: every series, and the values of those that stand still while
/// nobody calls; of others none.
fn comparable(samples: &BTreeMap<String, f64>) -> BTreeMap<&str, Option<f64>> {
    let still = ["rpc_", "coterie_gets", "coterie_puts", "coterie_failures"];
    let of_test = |series: &str| series.contains(".Admin/") || series.starts_with("target_info");
    let samples = samples.iter().filter(|(series, _)| !of_test(series));
    let value = |(series, value): (&String, &f64)| {
        still.iter().any(|start| series.starts_with(start)).then_some(*value)
    };
    samples.map(|sample| (sample.0.as_str(), value(sample))).collect()
}

fn differences<'a>(sent: &'a Sent, scrape: &'a Scrape) -> BTreeSet<&'a str> {
    let (sent, scraped) = (comparable(&sent.samples), comparable(&scrape.samples));
    let all = sent.keys().chain(scraped.keys()).copied();
    all.filter(|series| sent.get(series) != scraped.get(series)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_sent_as_they_are_scraped() {
    let collector = Collector::start();
    let mut cluster = telling_cluster(&collector).await;
    let client = cluster.client_of(0);
    for number in 0..7 {
        client.set(format!("key-{number}"), "value").await.unwrap();
    }
    for number in 0..11 {
        client.get(format!("key-{}", number % 7)).await.unwrap();
    }
    client.get(vec![b'k'; 5000]).await.unwrap_err();

    let began = Instant::now();
    let id = cluster.answer(0).await.node_id;
    let (sent, scrape) = loop {
        let sent = collector.metrics(&id).unwrap_or_default().1;
        let scrape = Scrape::of(&cluster, 0).await;
        let differ = differences(&sent, &scrape);
        if differ.is_empty() {
            break (sent, scrape);
        }
        assert!(began.elapsed() < SEEN_WITHIN, "{differ:#?}");
        tokio::time::sleep(LOOK_EVERY).await;
    };
    for (series, expected) in [("coterie_puts_total", 7.0), ("coterie_gets_total", 11.0)] {
        assert!((sent.samples[series] - expected).abs() < 0.5, "{series}");
    }

    let about: Vec<String> = sent.resource.iter().map(|(name, _)| name.replace('.', "_")).collect();
    assert_eq!(about, ["service_name", "service_instance_id", "service_version"]);
    let pairs = about.iter().zip(&sent.resource);
    let target: Vec<String> = pairs.map(|(name, (_, is))| format!("{name}=\"{is}\"")).collect();
    let target = format!("target_info{{{}}}", target.join(","));
    assert!(scrape.samples.contains_key(&target), "{target}");
    assert!(target.contains(&id) && target.contains("\"coterie\""), "{target}");

    let kinds = scrape.families.iter().filter(|(name, _)| *name != "target_info");
    let kinds: Vec<_> = kinds.map(|(name, (kind, _))| (name.as_str(), kind.as_str())).collect();
    let told = sent.families.iter().map(|(name, (kind, _))| (name.as_str(), *kind));
    assert_eq!(told.collect::<Vec<_>>(), kinds);
    for (name, (_, unit)) in &sent.families {
        let name = name.trim_end_matches("_total");
        let expected = match name.rsplit('_').next() {
            Some("seconds") => "s",
            Some("bytes") => "By",
            _ => "",
        };
        assert_eq!(unit, expected, "{name}");
    }
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_is_spoken_of_once_and_missed_by_no_request() {
    let collector = Collector::start();
    let mut cluster = telling_cluster(&collector).await;
    let client = cluster.client_of(0);
    when_sent(&cluster, &collector, 1).await;
    let at = collector.at;
    drop(collector);

    let began = Instant::now();
    let said = |cluster: &Cluster, node: usize, what: &str| {
        cluster.place(node).said().lines().filter(|line| line.contains(what)).count()
    };
    while began.elapsed() < DOWN_FOR || (0..3).any(|node| said(&cluster, node, LOST) == 0) {
        assert!(began.elapsed() < SEEN_WITHIN, "nobody says that the collector is down");
        client.set("key", "value").await.unwrap();
    }
    let collector = Collector::start_at(at).await;
    when_sent(&cluster, &collector, 2).await;

    for node in 0..3 {
        cluster.process(node).signal(Signal::Terminate);
        let ended = cluster.process(node).end_within(ENDS_WITHIN).await;
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        let log = cluster.place(node).said();
        assert_eq!((said(&cluster, node, LOST), said(&cluster, node, BACK)), (1, 1), "{log}");
        let of_export = ["export", "otel", "opentelemetry", "spans"];
        assert!(!of_export.iter().any(|word| log.to_lowercase().contains(word)), "{log}");
    }
}
