//! `import` and `export`.

use crate::cluster::Cluster;
use crate::session::Session;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_and_go_as_lines() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    for line in [
        "printf 'users/1\\tada\\nusers/2\\tgrace\\nother\\tx\\n' > records.tsv",
        "coterie import records.tsv",
        "coterie export --prefix users/ --format tsv | LC_ALL=C sort",
        "coterie export all.ndjson && LC_ALL=C sort all.ndjson",
        "coterie export -o json | wc -l",
        "coterie import records.tsv -o json",
        "printf 'no tab\\n' | coterie import - --format tsv",
        "coterie import absent.tsv",
        "coterie export no/such/folder/all.tsv",
    ] {
        session.run(line).await;
    }
    session.is("transfer");
    cluster.assert_running();
}
