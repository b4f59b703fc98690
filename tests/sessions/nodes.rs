//! What operators ask: how the cluster is, and who is in it.

use crate::cluster::Cluster;
use crate::session::Session;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_is_fine() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    for line in [
        "coterie status",
        "coterie status -o json",
        "coterie members",
        "coterie members -o json",
        "coterie members --output yaml",
    ] {
        session.run(line).await;
    }
    session.is("nodes");
    cluster.assert_running();
}
