//! Import through one node, export through another: equal after sorting, byte for byte.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use crate::cluster::{Cluster, LOOK_EVERY};
use crate::process::{PROGRAM, coterie};

/// Records of the quiet import, and of the one with a death in its middle.
const RECORDS: usize = 3_000;
/// A record has to get through a killed node within this, and an import to its end.
const IMPORT_WITHIN: Duration = Duration::from_secs(120);

/// Lines with everything that a line may hold: escapes, empty values, all of Unicode, repetition.
fn records(count: usize, tag: &str) -> String {
    let pieces =
        ["", "tab\\t", "line\\nfeed", "\\r\\n", "back\\\\slash", "ä€🦀", "\u{feff}", "\"{},", " "];
    let mut text = String::new();
    for number in 0..count {
        let piece = |by: usize| pieces[(number / by) % pieces.len()];
        let long = "long ".repeat(if number % 97 == 0 { 2000 } else { number % 40 });
        let key = format!("{tag} {number} {}{}", piece(1), piece(9));
        writeln!(text, "{key}\t{}{long}{}", piece(3), piece(27)).unwrap();
    }
    text
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.sort_unstable();
    lines
}

fn assert_equal(exported: &str, imported: &str) {
    let (exported, imported) = (sorted(exported), sorted(imported));
    let differs = exported.iter().zip(&imported).find(|(a, b)| a != b);
    assert!(differs.is_none(), "first difference: {differs:?}");
    assert_eq!(exported.len(), imported.len(), "lines");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_imported_through_one_node_is_exported_through_another_byte_for_byte() {
    let mut cluster = Cluster::start(3).await;
    let file = cluster.dir().join("records.tsv");
    let text = records(RECORDS, "quiet");
    std::fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();
    let said = coterie(&["import", file, "--addr", &cluster.address(0), "-o", "json"]).await;
    assert_eq!(said.code, Some(0), "{} {}", said.out, said.err);
    let summary: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(summary["written"], RECORDS, "{summary}");
    println!("imported {RECORDS} records in {} s", summary["seconds"]);

    let exported = coterie(&["export", "--format", "tsv", "--addr", &cluster.address(2)]).await;
    assert_eq!(exported.code, Some(0), "{}", exported.err);
    assert_equal(&exported.out, &text);

    // The other format takes the same way round, over the same records.
    let path = cluster.dir().join("all.ndjson");
    let path = path.to_str().unwrap();
    let said = coterie(&["export", path, "--addr", &cluster.address(1)]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let said = coterie(&["import", path, "--addr", &cluster.address(1)]).await;
    assert_eq!(said.code, Some(0), "{} {}", said.out, said.err);
    let exported = coterie(&["export", "--format", "tsv", "--addr", &cluster.address(0)]).await;
    assert_equal(&exported.out, &text);
    cluster.assert_running();
}

/// Waits until node 0 has coordinated so many writes.
async fn until_written(cluster: &Cluster, count: u64) {
    let began = std::time::Instant::now();
    while cluster.answer(0).await.counters.unwrap().puts < count {
        assert!(began.elapsed() < IMPORT_WITHIN, "the import does not go on");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_the_death_and_return_of_a_node_without_a_missing_record() {
    let mut cluster = Cluster::start(3).await;
    let parts = [
        records(RECORDS / 3, "before"),
        records(RECORDS / 3, "during"),
        records(RECORDS / 3, "after"),
    ];
    let mut import = std::process::Command::new(PROGRAM);
    import.args(["import", "-", "--format", "tsv", "-o", "json", "--addr", &cluster.address(0)]);
    // What node 0 has coordinated tells how far it is.
    import.arg("--pinned");
    import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut import = tokio::process::Command::from(import).kill_on_drop(true).spawn().unwrap();
    let pipe = import.stdin.take().unwrap().into_owned_fd().map(std::fs::File::from).unwrap();
    let feed = |text: String| {
        let mut pipe = pipe.try_clone().unwrap();
        tokio::task::spawn_blocking(move || pipe.write_all(text.as_bytes()).unwrap())
    };
    let part = (RECORDS / 3) as u64;
    feed(parts[0].clone()).await.unwrap();
    until_written(&cluster, part / 2).await;
    cluster.kill(1);
    feed(parts[1].clone()).await.unwrap();
    until_written(&cluster, part + part / 2).await;
    cluster.spawn(1);
    feed(parts[2].clone()).await.unwrap();
    assert!(import.try_wait().unwrap().is_none(), "the import waits for more");
    drop(pipe);
    let output = tokio::time::timeout(IMPORT_WITHIN, import.wait_with_output()).await;
    let output = output.expect("the import ends").unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out} {err}");

    cluster.wait_ready().await;
    let exported = coterie(&["export", "--format", "tsv", "--addr", &cluster.address(2)]).await;
    assert_eq!(exported.code, Some(0), "{}", exported.err);
    assert_equal(&exported.out, &parts.concat());
    cluster.wait_without_hints().await;
    let exported = coterie(&["export", "--format", "tsv", "--addr", &cluster.address(1)]).await;
    assert_equal(&exported.out, &parts.concat());
    cluster.assert_running();
}
