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
        "coterie status",
        "coterie members",
        "printf 'key\\tvalue\\n' | coterie import - --format tsv --timeout 1s",
        "coterie export --timeout 1s",
    ] {
        session.run(line).await;
    }
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
    ] {
        session.run(line).await;
    }
    session.is("serve");
}

#[tokio::test]
async fn simulated_worlds_are_always_the_same() {
    let folder = folder();
    let mut session = Session::new(folder.path(), String::new());
    for line in [
        "coterie sim --seeds 3 --threads 1",
        "coterie sim --seed 7",
        "coterie sim --trace",
        "coterie demo --nodes 1",
        "coterie bench --duration never",
    ] {
        session.run(line).await;
    }
    session.is("sim");
}
