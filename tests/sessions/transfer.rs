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
        "coterie import absent.tsv -o json",
        "coterie export no/such/folder/all.tsv",
    ] {
        session.run(line).await;
    }
    session.is("transfer");
    cluster.assert_running();
}

/// Two writers who read nothing, over one context: both values stay.
const SIBLINGS: &str = "coterie set cart '' && \
    context=$(coterie get cart -o json | sed -n 's/.*\"context\": \"\\(.*\\)\",/\\1/p') && \
    coterie set cart apples --causal-context \"$context\" && \
    coterie set cart pears --causal-context \"$context\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_shown_by_their_prefix() {
    let mut cluster = Cluster::start(1).await;
    let mut session = Session::of(&cluster);
    for line in [
        "coterie scan",
        "coterie scan -o json",
        "printf 'users/1\\tada\\nusers/2\\ttab\\\\tand\\\\nline\\n' | coterie import - --format tsv | wc -l",
        "coterie scan users/ | LC_ALL=C sort",
        "coterie scan users/1",
        "coterie scan users/1 --keys",
        "coterie scan users/1 -o json --contexts",
        "coterie scan users/ --contexts",
        "coterie scan --limit 0",
    ] {
        session.run(line).await;
    }
    let written = session.unrecorded(SIBLINGS).await;
    assert_eq!(written.code, Some(0), "{}", written.err);
    session.note("two clients have written the cart, each without having seen the other's");
    for line in [
        "coterie scan cart",
        "coterie scan cart -o json",
        "coterie get cart",
        "coterie get cart --all-siblings | LC_ALL=C sort",
    ] {
        session.run(line).await;
    }
    session.is("scan");
    cluster.assert_running();
}
