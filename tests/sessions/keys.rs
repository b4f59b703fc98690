//! `get`, `set` and `delete`.

use crate::cluster::Cluster;
use crate::session::Session;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_written_read_and_deleted() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    for line in [
        "coterie get greeting",
        "coterie set greeting hello",
        "coterie get greeting",
        "coterie get greeting --consistency all -o json",
        "coterie set cart apples -o json",
        "printf 'from standard input' | coterie set cart - --context-from-get",
        "coterie get cart",
        "coterie get cart --all-siblings -o json",
        "coterie set session/7 short-lived --ttl 1h",
        "coterie get session/7 --all-siblings -o json",
        "coterie delete greeting",
        "coterie get greeting -o json",
        "coterie delete greeting -o json",
    ] {
        session.run(line).await;
    }
    session.is("keys");
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    for line in [
        "coterie get",
        "coterie get ''",
        "coterie set key value --consistency most",
        "coterie set key value --request-id 7",
        "coterie get key --addr nowhere",
        "coterie frobnicate",
        "coterie set key first --request-id 00000000000000000000000000000001",
        "coterie set key second --request-id 00000000000000000000000000000001",
    ] {
        session.run(line).await;
    }
    cluster.kill(2);
    session.note("node-2 is killed");
    // Those who are left see it at once; the client's first try may still be on its way to it.
    let first = cluster.address(0);
    for line in [
        "coterie get key",
        "coterie set key value --consistency all --timeout 3s \
         --request-id 00000000000000000000000000000002",
        "coterie get key --consistency all --timeout 3s",
        "coterie delete key --consistency all --timeout 3s \
         --request-id 00000000000000000000000000000003",
    ] {
        session.run(&format!("{line} --addr {first}")).await;
    }
    let both = format!("{first},{}", cluster.address(2));
    for line in [
        "coterie get key --consistency all --timeout 3s",
        "coterie get key --consistency all --timeout 3s -o json",
        "coterie set key value --consistency all --timeout 3s \
         --request-id 00000000000000000000000000000004 -o json",
    ] {
        session.run(&format!("{line} --addr {both}")).await;
    }
    session.is("keys_refused");
    cluster.assert_running();
}
