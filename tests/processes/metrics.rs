//! What a node counts, scraped as Prometheus does it: the text keeps to the format, the names to
//! its conventions, and counters move by exactly what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use coterie::client::ReadOptions;

use crate::cluster::{Cluster, LOOK_EVERY, http_get};

/// What is seen of a cluster's changes is seen within this.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// Units that the name of a metric ends with, if it has one.
const UNITS: [&str; 2] = ["_seconds", "_bytes"];

/// A page that was read.
pub struct Scrape {
    /// By name with labels as they are written.
    pub samples: BTreeMap<String, f64>,
    /// Name, then kind and help.
    pub families: BTreeMap<String, (String, String)>,
}

impl Scrape {
    pub async fn of(cluster: &Cluster, node: usize) -> Self {
        let (code, text) = http_get(cluster.place(node).admin, "/metrics").await.unwrap();
        assert_eq!(code, 200, "{text}");
        Self::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
    }

    /// Reads a page by the rules of the text exposition format 0.0.4: every family has one HELP
    /// and one TYPE, in front of its samples, which stand together and are all different.
    fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self { samples: BTreeMap::new(), families: BTreeMap::new() };
        let (mut family, mut help) = (String::new(), None);
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = Some(rest.split_once(' ').ok_or("a HELP without a text")?);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or("a TYPE without a type")?;
                let (helped, help) = help.take().ok_or("a TYPE without a HELP")?;
                if helped != name || !is_name(name) {
                    return Err(format!("HELP of {helped} before TYPE of {name}"));
                }
                name.clone_into(&mut family);
                let known = page.families.insert(family.clone(), (kind.into(), help.into()));
                if known.is_some() {
                    return Err(format!("{name} comes twice"));
                }
            } else {
                page.sample(line, &family)?;
            }
        }
        Ok(page)
    }

    fn sample(&mut self, line: &str, family: &str) -> Result<(), String> {
        let (series, value) = line.rsplit_once(' ').ok_or(format!("no value: {line}"))?;
        let value: f64 = value.parse().map_err(|_| format!("no number: {line}"))?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        label_names(labels.strip_suffix('}').ok_or(format!("an open bracket: {line}"))?)?;
        let kind = self.families.get(family).map(|family| family.0.as_str());
        let ending = name.strip_prefix(family).ok_or(format!("{name} is not of {family}"))?;
        let fits = match kind {
            Some("histogram") => ["_bucket", "_sum", "_count"].contains(&ending),
            Some("counter" | "gauge") => ending.is_empty(),
            _ => false,
        };
        if !fits || value < 0.0 {
            return Err(format!("not a sample of a {kind:?} {family}: {line}"));
        }
        match self.samples.insert(series.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(format!("{series} comes twice")),
        }
    }

    /// The labels of a metric, if it has a sample.
    fn labels(&self, metric: &str) -> Option<BTreeSet<&str>> {
        let absent = ABSENT.iter().find(|(name, _)| *name == metric);
        let mut labels = absent.map(|(_, labels)| labels.iter().copied().collect());
        for series in self.samples.keys() {
            let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
            if family(name) == metric {
                let names = label_names(rest.strip_suffix('}').unwrap()).unwrap();
                labels.get_or_insert_with(BTreeSet::new).extend(names);
            }
        }
        labels
    }

    /// Whoever asks for a label asks for one that there is.
    fn assert_labels(&self, question: &str) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (mut all, mut rest) = (BTreeSet::from(ADDED), question);
        while let Some(at) = rest.find(is_name) {
            let end = rest[at..].find(|c| !is_name(c)).map_or(rest.len(), |end| at + end);
            let (metric, behind) = (family(&rest[at..end]), &rest[end..]);
            rest = behind;
            if !self.families.contains_key(metric) {
                continue;
            }
            let own = self.labels(metric).unwrap_or_else(|| panic!("no sample of {metric}"));
            for label in listed(behind, '{', '}') {
                assert!(own.contains(label) || ADDED.contains(&label), "{metric}: {label}");
            }
            all.extend(own);
        }
        let shown = shown(question);
        assert!(shown.is_subset(&all), "{shown:?} are not all labels in: {question}");
    }

    fn value(&self, series: &str) -> f64 {
        let value = self.samples.get(series);
        *value.unwrap_or_else(|| panic!("no {series} among {:#?}", self.samples.keys()))
    }

    /// How many calls of a method ended with a status.
    fn calls(&self, method: &str, status: &str) -> f64 {
        let series = format!(
            "rpc_server_call_duration_seconds_count{{rpc_system_name=\"grpc\",\
             rpc_method=\"coterie.v1.Kv/{method}\",rpc_response_status_code=\"{status}\"}}"
        );
        self.samples.get(&series).copied().unwrap_or_default()
    }

    /// Buckets rise, and the last one is the count.
    fn assert_histograms(&self) {
        for (name, _) in self.families.iter().filter(|family| family.1.0 == "histogram") {
            let prefix = format!("{name}_bucket");
            let mut of_labels: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (series, count) in self.samples.iter().filter(|s| s.0.starts_with(&prefix)) {
                let (labels, bound) = series.rsplit_once("le=\"").unwrap();
                let bound = bound.trim_end_matches("\"}").replace("+Inf", "inf");
                let labels = labels.trim_end_matches([',', '{']).replace("_bucket", "_count");
                of_labels.entry(labels).or_default().push((bound.parse().unwrap(), *count));
            }
            assert!(!of_labels.is_empty(), "{name} has no buckets");
            for (labels, mut buckets) in of_labels {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{labels}: {buckets:?}");
                let (bound, count) = buckets[buckets.len() - 1];
                let series = if labels.contains('{') { format!("{labels}}}") } else { labels };
                assert!(bound.is_infinite());
                assert!((count - self.value(&series)).abs() < 0.5, "{series}");
            }
        }
    }

    /// Counters end with `_total`, nothing else does, and everything says what it is.
    fn assert_names(&self) {
        for (name, (kind, help)) in &self.families {
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
            for unit in UNITS {
                let word = unit.trim_start_matches('_').trim_end_matches('s');
                let bare = name.trim_end_matches("_total");
                let speaks = bare.split('_').any(|part| part.trim_end_matches('s') == word);
                assert!(!speaks || bare.ends_with(unit), "{name}: its unit is not at its end");
            }
        }
    }
}

/// Labels that whoever scrapes adds, and those of buckets.
const ADDED: [&str; 3] = ["instance", "job", "le"];
/// Labels of metrics that a cluster in order has no samples of; tested where they are written.
const ABSENT: [(&str, &[&str]); 2] = [
    ("coterie_rebuilding_waits_for", &["peer"]),
    ("coterie_change_waits_for_seconds", &["peer", "stage"]),
];

/// What the alarms, the dashboard and the guide ask: each question with what is shown of its answer.
fn questions() -> Vec<String> {
    let alarms = include_str!("../../k8s/components/prometheus/alerts.yaml");
    let mut all: Vec<String> = alarms.split("- alert: ").skip(1).map(str::to_owned).collect();
    let dashboard = include_str!("../../k8s/components/prometheus/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            all.push(format!("{} {}", target["expr"], target["legendFormat"]).replace('\\', ""));
        }
    }
    let guide = include_str!("../../docs/operate.md");
    all.extend(guide.lines().filter(|line| line.contains("coterie_")).map(str::to_owned));
    all
}

/// Words of a list such as `(le, instance)`, `{what="x",job!="y"}`, or of none.
fn listed(text: &str, open: char, close: char) -> Vec<&str> {
    let Some(inside) = text.trim_start().strip_prefix(open) else { return Vec::new() };
    let (inside, _) = inside.split_once(close).unwrap();
    let name = |part: &str| part.find(|c: char| !c.is_alphanumeric() && c != '_');
    let parts = inside.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| &part[..name(part).unwrap_or(part.len())]).collect()
}

/// The labels that a question is about, beside those that are asked of one metric.
fn shown(question: &str) -> BTreeSet<&str> {
    let mut labels = BTreeSet::new();
    for word in ["by", "on", "ignoring", "without"] {
        for (at, _) in question.match_indices(&format!("{word} (")) {
            labels.extend(listed(&question[at + word.len()..], '(', ')'));
        }
    }
    for (at, start) in question.match_indices("{{") {
        let name = question[at + start.len()..].trim_start().trim_start_matches("$labels.");
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap();
        labels.insert(&name[..end]);
    }
    labels
}

/// Every metric that the guide for operators, the alarms or the dashboard speak of, with where.
fn documented() -> BTreeMap<String, &'static str> {
    let places = [
        ("docs/operate.md", include_str!("../../docs/operate.md")),
        ("the alarms", include_str!("../../k8s/components/prometheus/alerts.yaml")),
        ("the dashboard", include_str!("../../k8s/components/prometheus/dashboard.json")),
    ];
    let mut documented = BTreeMap::new();
    for (place, text) in places {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics =
            words.filter(|word| word.starts_with("coterie_") || word.starts_with("rpc_s"));
        let families: BTreeSet<&str> = metrics.map(family).collect();
        assert!(families.len() > 8, "hardly anything is spoken of by {place}: {families:?}");
        documented.extend(families.into_iter().map(|name| (name.to_owned(), place)));
    }
    documented
}

/// The metric that a sample is of.
fn family(name: &str) -> &str {
    let endings = ["_count", "_bucket", "_sum"];
    endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The names in `name="value",…`, each once.
fn label_names(mut rest: &str) -> Result<Vec<&str>, String> {
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (name, behind) = rest.split_once("=\"").ok_or(format!("no label: {rest}"))?;
        if !is_name(name) || names.contains(&name) {
            return Err(format!("the label {name} is none, or comes twice"));
        }
        names.push(name);
        let mut escaped = false;
        let end = behind.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &behind[end.ok_or(format!("the value of {name} does not end"))? + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Ok(names)
}

#[test]
fn what_is_not_the_format_is_refused() {
    let head = "# HELP a What it is.\n# TYPE a counter\n";
    assert!(Scrape::parse(&format!("{head}a{{x=\"\\\"\"}} 1\n")).is_ok());
    for wrong in [
        "a 1\n".to_owned(),
        format!("{head}a 1"),
        format!("{head}a 1\na 1\n"),
        format!("{head}a one\n"),
        format!("{head}b 1\n"),
        format!("{head}a{{x=\"1\",x=\"2\"}} 1\n"),
        format!("{head}a{{x=\"1}} 1\n"),
        format!("{head}{head}"),
        head.replace("HELP a", "HELP b"),
    ] {
        assert!(Scrape::parse(&wrong).is_err(), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_move_by_exactly_what_was_done() {
    // However slow the disk is, no write leaves a hint.
    let mut cluster = Cluster::start_with(3, "[timeouts]\nreplica = \"5s\"\n").await;
    let client = cluster.client_of(0);
    let before = Scrape::of(&cluster, 0).await;
    for number in 0..7 {
        client.set(format!("secret-{number}"), "value").await.unwrap();
    }
    for number in 0..11 {
        client.get(format!("secret-{}", number % 7)).await.unwrap();
    }
    client.delete("secret-0").await.unwrap();
    let too_long = vec![b'k'; 5000];
    client.get_with(too_long, &ReadOptions::default()).await.unwrap_err();
    let after = Scrape::of(&cluster, 0).await;

    let moved = |of: &dyn Fn(&Scrape) -> f64| of(&after) - of(&before);
    let counter = |name: &str| moved(&|scrape| scrape.value(name));
    let exactly = |what: &str, moved: f64, expected: f64| {
        assert!((moved - expected).abs() < 1e-9, "{what} moved by {moved}, not by {expected}");
    };
    for (method, status, expected) in [
        ("Set", "OK", 7.0),
        ("Get", "OK", 11.0),
        ("Delete", "OK", 1.0),
        ("Get", "INVALID_ARGUMENT", 1.0),
        ("Set", "INVALID_ARGUMENT", 0.0),
        ("Scan", "OK", 0.0),
    ] {
        exactly(method, moved(&|scrape| scrape.calls(method, status)), expected);
    }
    exactly("gets", counter("coterie_gets_total"), 11.0);
    exactly("puts", counter("coterie_puts_total"), 8.0);
    exactly("failures", counter("coterie_failures_total"), 0.0);
    exactly("hints", counter("coterie_hints_written_total"), 0.0);
    // One node of three: each key's home, so each write is one commit here at least.
    assert!(counter("coterie_commit_duration_seconds_count") >= 1.0);
    assert!(counter("coterie_commit_changes_sum") >= 8.0);
    assert!(counter("coterie_commit_synced_number") >= 1.0);
    for direction in ["in", "out"] {
        for what in ["messages", "bytes"] {
            let series = format!("coterie_stream_{what}_total{{direction=\"{direction}\"}}");
            assert!(counter(&series) > 8.0, "{series}");
        }
    }
    for scrape in [&before, &after] {
        scrape.assert_histograms();
        scrape.assert_names();
        assert!(!scrape.samples.keys().any(|series| series.contains("secret")), "a key is shown");
    }
    cluster.assert_running();
}

fn gauge_by_peer() -> Scrape {
    Scrape::parse("# HELP a What it is.\n# TYPE a gauge\na{peer=\"x\"} 1\n").unwrap()
}

#[test]
#[should_panic(expected = "are not all labels in")]
fn a_label_that_nothing_has_is_noticed() {
    let scrape = gauge_by_peer();
    scrape.assert_labels("max by (peer) (a{peer!=\"y\"}) {{ $labels.peer }}");
    scrape.assert_labels("max by (node) (a)");
}

#[test]
#[should_panic(expected = "a: reason")]
fn a_label_that_one_metric_lacks_is_noticed() {
    let scrape = gauge_by_peer();
    scrape.assert_labels("a{reason=\"full\"}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_quorum_stays_ready_and_tells_how_old_its_hints_are() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client_of(0);
    cluster.kill(2);
    let began = Instant::now();
    client.set("key", "value").await.unwrap();
    let age = |scrape: &Scrape| scrape.value("coterie_hints_age_max_seconds");
    loop {
        // Whoever holds the hint, one of the two that are left.
        let (one, other) = (Scrape::of(&cluster, 0).await, Scrape::of(&cluster, 1).await);
        let oldest = age(&one).max(age(&other));
        if oldest > 0.0 {
            assert!(oldest < began.elapsed().as_secs_f64() + 1.0, "{oldest} s");
            break;
        }
        assert!(began.elapsed() < SEEN_WITHIN, "no hint has an age");
        tokio::time::sleep(LOOK_EVERY).await;
    }

    cluster.kill(1);
    client.set("key", "value").await.unwrap_err();
    loop {
        let scrape = Scrape::of(&cluster, 0).await;
        if (scrape.value("coterie_members{state=\"alive\"}") - 1.0).abs() < 0.5 {
            break;
        }
        assert!(began.elapsed() < 2 * SEEN_WITHIN, "two are dead, and still shown as alive");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    for path in ["/readyz", "/healthz"] {
        let (code, text) = http_get(cluster.place(0).admin, path).await.unwrap();
        assert_eq!(code, 200, "{path}: {text}");
    }
    assert!((Scrape::of(&cluster, 0).await.value("coterie_ready") - 1.0).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_who_it_is_and_what_it_sees() {
    let mut cluster = Cluster::start(3).await;
    let scrape = Scrape::of(&cluster, 0).await;
    let has = |series: &str, labels: &[&str]| {
        let is_it = |key: &&String| {
            key.starts_with(series) && labels.iter().all(|label| key.contains(label))
        };
        scrape.samples.keys().any(|key| is_it(&key))
    };
    assert!(has("target_info{", &["service_name=\"coterie\"", "service_instance_id=\""]));
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(has("coterie_build_info{", &[&version, "node=\"node-0\"", "durability=\"fsync\""]));
    for (series, least) in [
        ("coterie_ready", 1.0),
        ("coterie_uptime_seconds", 0.001),
        ("coterie_placement_number", 1.0),
        ("coterie_streams", 2.0),
        ("coterie_store_free_bytes", 1.0),
        ("coterie_store_table_bytes", 0.0),
        ("coterie_gossip_datagrams_total{direction=\"in\"}", 1.0),
        ("coterie_gossip_datagrams_total{direction=\"out\"}", 1.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_cpu_seconds_total", 0.0),
    ] {
        assert!(scrape.value(series) >= least, "{series} is {}", scrape.value(series));
    }
    assert!(scrape.value("coterie_stuck").abs() < 0.5);
    assert!((scrape.value("coterie_members{state=\"alive\"}") - 3.0).abs() < 0.5);

    for (name, place) in documented() {
        assert!(scrape.families.contains_key(&name), "{place} speaks of {name}");
    }
    let questions = questions();
    assert!(questions.len() > 40, "hardly anything is asked: {questions:#?}");
    questions.iter().for_each(|question| scrape.assert_labels(question));

    cluster.kill(2);
    let client = cluster.client_of(0);
    let began = Instant::now();
    loop {
        client.set("key", "value").await.unwrap();
        let scrape = Scrape::of(&cluster, 0).await;
        let reached = |peer: &str| {
            let start = format!("coterie_peer_reachable{{peer=\"{peer}\"");
            let found = scrape.samples.iter().find(|sample| sample.0.starts_with(&start));
            *found.unwrap_or_else(|| panic!("{peer} is not shown")).1 > 0.5
        };
        assert!(reached("node-1"));
        if !reached("node-2") && scrape.value("coterie_members{state=\"alive\"}") < 2.5 {
            break;
        }
        assert!(began.elapsed() < SEEN_WITHIN, "node-2 is dead, and still shown as alive");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
