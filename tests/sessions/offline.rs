//! What happens without a cluster.

use crate::cluster::{address, folder};
use crate::session::Session;

#[tokio::test]
async fn a_cluster_that_is_not_there_is_named() {
    let folder = folder();
    let mut session = Session::new(folder.path(), format!("{}:7400", address(1)));
    for line in [
        "coterie get key",
        "coterie set key value --request-id 00000000000000000000000000000001",
        "coterie delete key --request-id 00000000000000000000000000000001",
        "coterie scan --timeout 1s",
        "coterie export --timeout 1s",
        "coterie status",
        "coterie members",
        "coterie ring",
        "coterie plan --join node-3",
        "coterie apply --join node-3",
        "coterie decommission node-1",
        "coterie remove node-1 --force",
        "coterie can-restart node-1",
        "coterie locate key",
        "coterie explain key",
        "coterie hints",
        "coterie repair",
    ] {
        session.run(line).await;
        session.run(&format!("{line} -o json")).await;
    }
    session.run("printf 'key\\tvalue\\n' | coterie import - --format tsv --timeout 1s").await;
    session.is("offline");
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why() {
    let folder = folder();
    let mut session = Session::new(folder.path(), String::new());
    for line in [
        "coterie serve",
        "coterie serve --config absent.toml",
        "printf '[nodes]\\nname = \"node-0\"\\n' > wrong.toml",
        "coterie serve --config wrong.toml --set replication.replicas=none",
        "coterie local --nodes 0",
        "coterie local --nodes 3 --port 65530",
        "coterie local --nodes 3 --port 65530 -o json",
        "printf '[node]\\nname = \"node-0\"\\ndata = \"wrong.toml/node-0\"\\n' > node.toml",
        "coterie serve --check --config node.toml --set bootstrap.expect=2",
        "coterie serve --check --config node.toml --set bootstrap.expect=2 -o json",
        "coterie serve --check --config node.toml",
        "coterie serve --check --config node.toml -o json",
        "coterie serve --check --config wrong.toml -o json",
        "coterie config show --config wrong.toml -o json",
    ] {
        session.run(line).await;
    }
    session.is("serve");
}

#[tokio::test]
async fn settings_are_told_with_where_they_came_from() {
    let folder = folder();
    let mut session = Session::new(folder.path(), String::new());
    for line in [
        "printf '[node]\\nname = \"node-0\"\\n[listen]\\nclient = \"127.0.0.1:7400\"\\n' > node.toml",
        "coterie config show --config node.toml",
        "COTERIE__LOG__LEVEL=debug coterie config show --config node.toml --set node.weight=2 \
         --origin | grep -v defaults",
        "coterie config show --config node.toml -o json | head -21",
        "coterie config show",
        "coterie config show --config node.toml --set node.wieght=2",
    ] {
        session.run(line).await;
    }
    session.is("config");
}

#[tokio::test]
async fn clusters_have_names() {
    let folder = folder();
    let mut session = Session::new(folder.path(), String::new());
    let nobody = address(1);
    std::fs::create_dir_all(folder.path().join(".config/coterie")).unwrap();
    let text = format!(
        "current = \"dev\"\n[contexts.dev]\naddr = [\"{nobody}:7400\"]\n\
         [contexts.prod]\naddr = [\"node-0.prod:7400\", \"node-1.prod:7400\"]\n"
    );
    std::fs::write(folder.path().join(".config/coterie/client.toml"), text).unwrap();
    for line in [
        "cat .config/coterie/client.toml",
        "coterie config contexts",
        "coterie config contexts -o json",
        "coterie status",
        "coterie status --context test",
        &format!("coterie get key --context prod --addr {nobody}:7410"),
        &format!("COTERIE_ADDR={nobody}:7410 coterie get key --context test"),
        &format!("COTERIE_ADDR={nobody}:7410 coterie get key"),
        "COTERIE_CLIENT_CONFIG=absent.toml coterie config contexts",
        "COTERIE_CLIENT_CONFIG=absent.toml COTERIE_CONTEXT=dev coterie get key",
        "printf '[contexts.dev]\\naddr = [\"7400\"]\\n' > wrong.toml",
        "COTERIE_CLIENT_CONFIG=wrong.toml coterie get key",
        "COTERIE_CLIENT_CONFIG=wrong.toml coterie config contexts",
        "COTERIE_CLIENT_CONFIG=wrong.toml coterie config contexts -o json",
    ] {
        session.run(line).await;
    }
    session.is("clusters");
}

#[tokio::test]
async fn shells_complete_commands() {
    let folder = folder();
    let mut session = Session::new(folder.path(), String::new());
    for line in [
        "coterie completions bash | head -3",
        "coterie completions zsh | grep --quiet explain",
        "coterie completions fish | grep --quiet exit-when-healthy",
        "coterie completions cmd",
    ] {
        session.run(line).await;
    }
    session.is("completions");
}

/// What a seed comes to, which changes with whatever it simulates.
const WORLDS: &[(&str, &str)] = &[
    (
        r"\d+ (ops|writes|overwritten|reads|failed|of unknown|messages|commits|rounds|dead|starts|events)",
        "[n] $1",
    ),
    (r"seed 7: .*", "seed 7: [topology]"),
    (r"\d+ faults took effect: .*", "[faults]"),
    (r#""(topology|plan)": ".*""#, r#""$1": [$1]"#),
    (r#"(?s)"faults": \{[^}]*\}"#, r#""faults": [faults]"#),
    (
        r#""(virtual_seconds|node_seconds|ops|acknowledged|reads|failed|unknown)": [\d.]+"#,
        r#""$1": [n]"#,
    ),
];

#[tokio::test]
async fn simulated_worlds_come_to_a_verdict() {
    let folder = folder();
    let mut session = Session::new(folder.path(), String::new());
    for line in [
        "coterie sim --seeds 3 --threads 1",
        "coterie sim --seeds 3 --threads 1 -o json",
        "coterie sim --seed 7",
        "coterie sim --seed 7 -o json",
        "coterie sim --trace",
        "coterie sim --trace -o json",
        "coterie demo --nodes 1",
        "coterie demo --nodes 1 -o json",
        "coterie bench --duration never",
        "coterie bench --duration never -o json",
    ] {
        session.run(line).await;
    }
    session.filtered_is("sim", WORLDS);
}
