use std::collections::BTreeSet;

use proptest::prelude::*;

use super::values::{Raw, quoted};
use super::*;

fn problems(text: &str) -> String {
    Settings::from_text(text, "test.toml").expect_err("the text is wrong").to_string()
}

fn settings(text: &str) -> Settings {
    Settings::from_text(text, "test.toml").unwrap_or_else(|error| panic!("{error}"))
}

const NAMED: &str = "[node]\nname = \"node-1\"\n";

#[test]
fn the_defaults_are_complete_and_agree_with_the_code() {
    let settings = settings(NAMED);
    let tuning = Tuning::default();
    let ours = settings.tuning(1);
    assert_eq!(format!("{ours:?}"), format!("{tuning:?}"));
    assert_eq!(settings.timeouts.request, Duration::from_secs(5));
    assert_eq!(settings.storage.durability, Durability::Fsync);
    let names: Vec<String> = settings.control().founders.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"]);
}

#[test]
fn every_default_is_documented_and_written_as_the_writer_writes_it() {
    let defaults = settings(NAMED);
    let mut keys = BTreeSet::new();
    for (key, literal) in defaults.literals() {
        keys.insert(key);
        if key != "node.name" {
            assert_eq!(literal, layers::default_of(key).to_string(), "{key}");
        }
    }
    let (mut documented, mut section) = (false, "");
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let key = format!("{section}.{name}");
            assert!(documented, "{key} has no comment");
            assert!(keys.remove(key.as_str()), "{key} is not written");
        }
        documented = line.starts_with('#');
    }
    assert!(keys.is_empty(), "not in config/coterie.toml: {keys:?}");
}

#[test]
fn later_layers_win() {
    let dir = tempfile::tempdir().unwrap();
    let files = [dir.path().join("a.toml"), dir.path().join("b.toml")];
    std::fs::write(&files[0], "node.name = \"a-0\"\nnode.zone = \"a\"\nnode.weight = 1\n").unwrap();
    std::fs::write(&files[1], "[node]\nzone = \"b\"\nweight = 2\ndata = \"b\"\n").unwrap();
    let environment = [
        ("COTERIE__NODE__WEIGHT".to_owned(), "3".to_owned()),
        ("COTERIE__LISTEN__CLIENT".to_owned(), "127.0.0.1:9000".to_owned()),
        ("COTERIE_PORT".to_owned(), "tcp://10.0.0.1:7400".to_owned()),
    ];
    let flags = ["listen.client=127.0.0.1:9001".to_owned()];
    let settings = Settings::load(&files, environment, &flags).unwrap();
    assert_eq!(settings.node.name.as_str(), "a-0");
    assert_eq!(settings.node.zone, "b");
    assert_eq!(settings.node.data, PathBuf::from("b"));
    assert_eq!(settings.node.weight, 3);
    assert_eq!(settings.listen.client.port(), 9001);
}

#[test]
fn text_layers_give_lists_numbers_and_flags() {
    let flags = [
        "node.name=node-0",
        "bootstrap.seeds=10.0.0.1:7401, dns:///coterie.default.svc:7401",
        "bootstrap.expect=5",
        "replication.replicas=5",
        "listen.insecure=true",
        "listen.client=10.0.0.1:7400",
        "telemetry.sample_ratio=1",
    ];
    let flags = flags.map(str::to_owned);
    let settings = Settings::load(&[], [], &flags).unwrap();
    let seeds: Vec<String> = settings.bootstrap.seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["10.0.0.1:7401", "dns:///coterie.default.svc:7401"]);
    assert!(matches!(settings.bootstrap.seeds[1], Seed::Dns(_)));
    assert_eq!(settings.replication.replicas, 5);
    assert_eq!(settings.listen.client.to_string(), "10.0.0.1:7400");
}

#[test]
fn an_unknown_key_names_the_nearest_and_where_it_came_from() {
    let text = problems("[node]\nname = \"node-0\"\n\n[storage]\ndurabilty = \"fsync\"\n");
    assert!(text.contains("unknown setting `storage.durabilty` (from test.toml:5)"), "{text}");
    assert!(text.contains("did you mean `storage.durability`?"), "{text}");

    let environment = [("COTERIE__NODE__NAEM".to_owned(), "x".to_owned())];
    let text = Settings::load(&[], environment, &[]).unwrap_err().to_string();
    assert!(text.contains("from the environment variable COTERIE__NODE__NAEM"), "{text}");
    assert!(text.contains("did you mean `node.name`?"), "{text}");

    let text = problems("node = 3\n");
    assert!(text.contains("it is a section, written as [node]"), "{text}");
    assert!(
        problems("[entirely]\nelse = 1\n").contains("the sections are advertise, anti_entropy")
    );
    assert!(problems("[limits]\nfrobnication_level = 1\n").contains("[limits] has in_flight"));
}

#[test]
fn a_wrong_value_is_named_with_its_origin_and_what_is_allowed() {
    let flags = ["node.name=node-0".to_owned(), "limits.value_bytes=16Mib".to_owned()];
    let text = Settings::load(&[], [], &flags).unwrap_err().to_string();
    assert!(text.contains("limits.value_bytes = \"16Mib\""), "{text}");
    assert!(text.contains("from the flag --set limits.value_bytes=16Mib"), "{text}");
    assert!(text.contains("allowed is a size such as"), "{text}");

    for (line, allowed) in [
        ("node.weight = 0", "allowed is 1 to 1000"),
        ("node.weight = -1", "a whole number, not negative"),
        ("node.name = \"Node 1\"", "1 to 63 characters"),
        ("node.data = \"\"", "the path of a folder"),
        ("listen.client = \"localhost\"", "an IP address and a port"),
        ("listen.client = \"127.0.0.1:0\"", "an IP address and a port"),
        ("advertise.client = \"10.0.0.300:1\"", "a host and a port"),
        ("bootstrap.seeds = [\"dns://x:1\"]", "\"host:port\" or \"dns:///name:port\""),
        ("bootstrap.seeds = [1]", "\"host:port\" or \"dns:///name:port\""),
        ("storage.durability = \"maybe\"", "\"fsync\" or \"buffered\""),
        ("replication.partitions = 16385", "allowed is 1 to 16384"),
        ("limits.value_bytes = \"17MiB\"", "allowed is 1B to 16MiB"),
        ("limits.record_bytes = \"1MiB\"", "allowed is 1088KiB to 48MiB"),
        ("timeouts.request = 5", "a duration such as"),
        ("timeouts.request = \"1ms\"", "allowed is 10ms to 600s"),
        ("timeouts.replica = \"6s\"", "allowed is 1ms to 5s"),
        ("clock.max_skew = \"2h\"", "allowed is 1s to 3600s"),
        ("log.level = \"=,=\"", "error, warn, info"),
        ("log.level = \"blah\"", "error, warn, info"),
        ("log.format = \"xml\"", "\"text\" or \"json\""),
        ("telemetry.sample_ratio = 1.5", "a number from 0 to 1"),
        ("telemetry.metrics_interval = \"10ms\"", "at least 1s, or 0s for never"),
        ("telemetry.sample_ratio = nan", "a number from 0 to 1"),
        ("telemetry.otlp_endpoint = \"127.0.0.1:4317\"", "an address such as"),
        ("node.zone = 5", "up to 63 bytes of text"),
    ] {
        let text = problems(line);
        assert!(text.contains(allowed), "{line}: {text}");
        let key = line.split(' ').next().unwrap();
        assert!(text.contains(key) && text.contains("from test.toml:1"), "{line}: {text}");
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let text = problems("[node]\nweight = 0\nzoen = \"\"\n[timeouts]\nrequest = \"soon\"\n");
    for part in ["node.weight", "node.zoen", "timeouts.request", "node.name = \"\""] {
        assert!(text.contains(part), "{part} is missing from: {text}");
    }
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    let missing = PathBuf::from("/nowhere/coterie.toml");
    let text = Settings::load(&[missing], [], &[]).unwrap_err().to_string();
    assert!(text.contains("cannot read /nowhere/coterie.toml"), "{text}");
    assert!(problems("[node\n").contains("test.toml is not valid TOML"));
    let flags = ["node.name".to_owned()];
    let text = Settings::load(&[], [], &flags).unwrap_err().to_string();
    assert!(text.contains("write it as section.key=value"), "{text}");
}

#[test]
fn beyond_loopback_a_node_listens_only_if_the_network_is_said_to_be_trusted() {
    for address in ["10.0.0.1:7400", "0.0.0.0:7400", "[::]:7400", "[::ffff:10.0.0.1]:7400"] {
        let text = problems(&format!("{NAMED}[listen]\nclient = \"{address}\"\n"));
        assert!(text.contains("listen.insecure = true"), "{address}: {text}");
    }
    settings(&format!("{NAMED}[listen]\nclient = \"[::1]:7400\"\nadmin = \"127.0.0.9:7402\"\n"));
    settings(&format!("{NAMED}[listen]\nclient = \"10.0.0.1:7400\"\ninsecure = true\n"));
}

#[test]
fn what_listens_everywhere_must_say_where_it_is_reached() {
    let listen = format!("{NAMED}[listen]\ninternal = \"0.0.0.0:7401\"\ninsecure = true\n");
    let text = problems(&listen);
    assert!(text.contains("advertise.internal = \"\""), "{text}");
    assert!(text.contains("which nobody can call"), "{text}");
    let settings = settings(&format!("{listen}[advertise]\ninternal = \"10.0.0.1:7401\"\n"));
    assert_eq!(settings.control().internal.to_string(), "10.0.0.1:7401");
    assert_eq!(settings.control().client, "127.0.0.1:7400");
}

#[test]
fn two_ports_of_one_number_are_refused() {
    let text = problems(&format!("{NAMED}[listen]\nadmin = \"127.0.0.1:7400\"\n"));
    assert!(text.contains("listen.client has this port already"), "{text}");
}

#[test]
fn founders_follow_from_the_name_or_are_listed() {
    let of = |text: &str| {
        let founders = settings(text).bootstrap.founders;
        founders.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let joiner = of("node.name = \"pod-x-7\"\nbootstrap.expect = 2\nreplication.replicas = 2\n");
    assert_eq!(joiner, ["pod-x-0", "pod-x-1"]);
    let eleven = of("node.name = \"n-0\"\nbootstrap.expect = 11\n");
    assert!(eleven.is_sorted() && eleven.len() == 11);
    let listed = "node.name = \"z\"\nbootstrap.founders = [\"z\", \"a\"]\n\
                  replication.replicas = 1\n";
    assert_eq!(of(listed), ["a", "z"]);

    let text = problems("node.name = \"solo\"\n");
    assert!(text.contains("cannot be told from the name of this node, `solo`"), "{text}");
    let text = problems("node.name = \"a-0\"\nbootstrap.founders = [\"a\", \"a\"]\n");
    assert!(text.contains("twice"), "{text}");
    let both = "node.name = \"a-0\"\nbootstrap.founders = [\"a\", \"b\"]\nbootstrap.expect = 3\n";
    assert!(problems(both).contains("bootstrap.founders names 2 nodes"));
}

#[test]
fn founders_who_are_fewer_than_the_replicas_are_refused() {
    for (few, told) in [
        ("bootstrap.expect = 2", "2 nodes would found the cluster"),
        ("bootstrap.founders = [\"node-0\"]", "1 node would found the cluster"),
    ] {
        let text = problems(&format!("node.name = \"node-0\"\n{few}\n"));
        assert!(text.contains(told) && text.contains("at least 3, or set replic"), "{text}");
    }
    let enough = "node.name = \"node-0\"\nbootstrap.expect = 1\nreplication.replicas = 1\n";
    assert_eq!(settings(enough).replication.replicas, 1);
    // One problem is told once.
    let text = problems("node.name = \"solo\"\n");
    assert!(!text.contains("no node holds two replicas"), "{text}");
}

#[test]
fn a_written_file_reads_back_as_the_same_settings() {
    let text = "
        [node]\nname = \"node-1\"\ndata = \"/x \\\"y\\\"/ü\\\\z\"\nweight = 7
        [listen]\nclient = \"127.0.0.1:7410\"\ninternal = \"0.0.0.0:7411\"\ninsecure = true
        [advertise]\ninternal = \"[::1]:99\"\nclient = \"node-1.example:80\"
        [bootstrap]\nexpect = 5\nseeds = [\"127.0.0.1:7401\", \"dns:///x.y:7401\"]
        [timeouts]\nhedge = \"1500us\"
        [limits]\nvalue_bytes = 1000\n[telemetry]\nsample_ratio = 1\n";
    let first = settings(text);
    let written = first.to_toml("Node 1 of a local cluster.\nStart it with: coterie serve");
    assert_eq!(settings(&written), first);
    assert!(written.starts_with("# Node 1 of a local cluster.\n# Start it with"), "{written}");
    assert!(written.contains("expect = 5") && !written.contains("founders"), "{written}");
    assert!(!written.contains("durability") && !written.contains("admin"), "{written}");

    let named = settings("node.name = \"a\"\nbootstrap.founders = [\"a\", \"b\", \"c\"]\n");
    assert_eq!(settings(&named.to_toml("")), named);
}

#[test]
fn workers_share_the_limits_of_the_node() {
    let tuning = settings(NAMED).tuning(4);
    assert_eq!(tuning.hint_bytes_max, 1 << 30);
    assert_eq!(tuning.in_flight_max, 4096);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text: String, key in "[a-z_.\\[\\]]{0,40}", value: String) {
        let _ = Settings::from_text(&text, "t");
        let _ = Settings::from_text(&format!("{key} = {value}"), "t");
        let _ = Settings::load(&[], [], &[format!("{key}={value}"), text.clone()]);
        let _ = Settings::load(&[], [(format!("COTERIE__{key}"), value)], &[]);
    }

    #[test]
    fn arbitrary_values_of_known_keys_never_panic(
        at: prop::sample::Index, value in "[ -~µü\\n]{0,40}", number: i64,
    ) {
        let keys = settings(NAMED).literals();
        let key = keys[at.index(keys.len())].0;
        let _ = Settings::load(&[], [], &[format!("{key}={value}")]);
        let _ = Settings::from_text(&format!("{key} = {number}"), "t");
        let _ = Settings::from_text(&format!("{key} = {}", quoted(&value)), "t");
        let _ = Settings::from_text(&format!("{key} = [{number}, {}]", quoted(&value)), "t");
    }

    #[test]
    fn any_text_that_is_written_reads_back(text: String) {
        let line = format!("[node]\nname = \"n-0\"\ndata = {}\n", quoted(&text));
        if let Ok(first) = Settings::from_text(&line, "t") {
            prop_assert_eq!(&first.node.data.to_string_lossy(), &text);
            prop_assert_eq!(settings(&first.to_toml(&text)), first);
        }
    }

    #[test]
    fn sizes_and_durations_come_back(bytes: u64, micros in 0..u64::MAX / 1_000_000) {
        let time = Duration::from_micros(micros);
        prop_assert_eq!(Size::parse(&Raw::Text(size_text(bytes))), Some(Size(bytes)));
        prop_assert_eq!(Duration::parse(&Raw::Text(duration_text(time))), Some(time));
    }
}

#[test]
fn every_setting_is_told_with_the_layer_that_has_set_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    std::fs::write(&file, "[node]\nname = \"node-0\"\nweight = 2\n").unwrap();
    let environment = [("COTERIE__LOG__LEVEL".to_owned(), "debug".to_owned())];
    let flags = ["node.weight=3".to_owned()];
    let all = Settings::effective(std::slice::from_ref(&file), environment, &flags).unwrap();
    let of = |key: &str| all.iter().find(|one| one.key == key).unwrap();
    assert_eq!(of("node.name").origin, Origin::File(file.display().to_string(), Some(2)));
    assert_eq!(of("node.weight").origin, Origin::Flag("node.weight=3".to_owned()));
    assert_eq!(of("node.weight").value, "3");
    assert_eq!(of("log.level").origin, Origin::Environment("COTERIE__LOG__LEVEL".to_owned()));
    assert_eq!(of("node.zone").origin, Origin::Default);
    assert_eq!(
        all.len(),
        DEFAULTS.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count()
    );
}

/// The variables that a manifest gives a node: `NAME: value`, or a name and a value line by line.
fn variables(manifest: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = manifest.lines().map(str::trim).collect();
    let pairs = lines.iter().enumerate().filter_map(|(at, line)| {
        let line = line.strip_prefix("- ").unwrap_or(line);
        let name = line.strip_prefix("name: ").unwrap_or(line);
        let name = name.strip_prefix("COTERIE__").filter(|_| !line.starts_with('#'))?;
        let (name, value) = match name.split_once(": ") {
            Some((name, value)) => (name, value),
            None => (name, lines[at + 1].strip_prefix("value: ")?),
        };
        let values = [
            ("$(POD_NAMESPACE)", "coterie"),
            ("$(POD_NAME)", "coterie-2"),
            ("$(POD_IP)", "10.42.0.7"),
            ("\"", ""),
        ];
        let filled =
            values.iter().fold(value.to_owned(), |text, (from, to)| text.replace(from, to));
        Some((format!("COTERIE__{name}"), filled))
    });
    pairs.collect()
}

#[test]
fn the_pods_of_the_manifests_have_settings_that_hold() {
    let pod = variables(include_str!("../../k8s/base/stateful-set.yaml"));
    let traces = variables(include_str!("../../k8s/components/tracing/kustomization.yaml"));
    assert!(pod.len() > 3 && traces.len() == 1, "{pod:?} {traces:?}");
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/k8s/base/coterie.toml"));
    let settings = Settings::load(&[file], pod.into_iter().chain(traces), &[]).unwrap();
    assert_eq!(settings.advertise.internal, "10.42.0.7:7401".parse().unwrap());
    let client = settings.advertise.client.to_string();
    assert_eq!(client, "coterie-2.coterie-gossip.coterie.svc:7400");
    let founders: Vec<&str> = settings.bootstrap.founders.iter().map(NodeName::as_str).collect();
    assert_eq!(founders, ["coterie-0", "coterie-1", "coterie-2"]);
    assert!(matches!(&settings.bootstrap.seeds[..], [Seed::Dns(at)] if at.port() == 7401));
}

#[test]
fn the_containers_of_the_compose_file_have_settings_that_hold() {
    let compose = include_str!("../../docker-compose.yaml");
    let (shared, nodes) = compose.split_once("\nservices:\n").unwrap();
    let shared = variables(shared);
    let mut names = BTreeSet::new();
    for node in nodes.split("ports: ").take(3) {
        let settings = Settings::load(&[], shared.iter().cloned().chain(variables(node)), &[]);
        names.insert(settings.unwrap().node.name);
    }
    assert_eq!(names.len(), 3);
}
