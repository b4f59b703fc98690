//! Data folders that a node must not use: each is refused with a sentence that says what to do,
//! and left as it is.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Duration;

use coterie::client::{Client, Options};

use crate::cluster::{Cluster, Place, address, folder};
use crate::load::{Load, once_more_elsewhere};
use crate::process::{PROGRAM, Process, files_of};
use crate::turn;

/// Held while a process uses the folder; it may name the last one that did.
const LOCK: &str = "LOCK";
/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// Starts a node that must refuse its folder: for that reason, and without touching it.
async fn refuses_and_leaves_alone(place: &Place, parts: &[&str]) {
    let before = files_of(&place.data, &[LOCK]);
    let (code, said) = place.refuses().await;
    assert_eq!(code, 1, "{said}");
    assert_says(&said, parts);
    let after = files_of(&place.data, &[LOCK]);
    assert!(before == after, "the folder is not as it was: {:?}", names(&before, &after));
}

fn names<'a>(
    before: &'a [(std::path::PathBuf, Vec<u8>)],
    after: &'a [(std::path::PathBuf, Vec<u8>)],
) -> Vec<&'a Path> {
    let differs = |(path, bytes): &&(std::path::PathBuf, Vec<u8>)| {
        !before.iter().any(|(p, b)| p == path && b == bytes)
    };
    after.iter().filter(differs).map(|(path, _)| path.as_path()).collect()
}

pub fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_a_folder_refuses_and_the_first_goes_on() {
    let mut cluster = Cluster::start(1).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "first");
    load.progress(50).await;
    let began = std::time::Instant::now();
    let mut second = Place::new(cluster.dir(), address(1), 0);
    second.data.clone_from(&cluster.place(0).data);
    second.config = cluster.dir().join("second.toml");
    second.log = cluster.dir().join("second.log");
    let (code, said) = second.refuses().await;
    assert_eq!(code, 1);
    let holder = format!("is in use by process {}", cluster.process(0).id());
    let folder = second.data.display().to_string();
    assert_says(&said, &[&folder, &holder, "give this node a data folder of its own"]);
    load.progress(50).await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
    // The lock does not outlive its process, however that ends.
    cluster.kill(0);
    cluster.spawn(0);
    cluster.wait_ready().await;
    history.assert_nothing_lost(&cluster).await;
}

/// A folder in which a node has served once, and its place.
async fn used(dir: &Path) -> Place {
    let place = Place::new(dir, address(1), 0);
    let mut process = place.serve();
    let client = Client::connect([place.client.to_string()], Options::default()).unwrap();
    let mut written = client.set("key", "value").await;
    for _ in 0..100 {
        if written.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(process.ended(), None, "{}", place.said());
        written = client.set("key", "value").await;
    }
    written.unwrap();
    process.kill();
    place
}

/// The folder still serves its own node, with what was written.
async fn still_serves(place: &Place) {
    let process = place.serve();
    let client = Client::connect([place.client.to_string()], Options::default()).unwrap();
    let mut got = client.get("key").await;
    for _ in 0..100 {
        if got.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        got = client.get("key").await;
    }
    assert_eq!(got.unwrap().expect("it was written").value, "value");
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_another_node_cluster_or_format_is_refused_and_still_serves_its_own() {
    let _turn = turn::shared().await;
    let dir = folder();
    let place = used(dir.path()).await;

    let mut renamed = place.clone();
    renamed.name = "node-7".to_owned();
    let parts = ["belongs to node `node-0`, and this node is `node-7`", "correct the folder"];
    refuses_and_leaves_alone(&renamed, &parts).await;

    let format = place.data.join("FORMAT");
    let ours = std::fs::read(&format).unwrap();
    std::fs::write(&format, "coterie data folder, format 99\n").unwrap();
    let parts = ["has format 99", "run the version that wrote it, or a newer one"];
    refuses_and_leaves_alone(&place, &parts).await;
    std::fs::write(&format, "holiday plans\n").unwrap();
    refuses_and_leaves_alone(&place, &["files that are not a node's", "name an empty folder"])
        .await;
    std::fs::write(&format, ours).unwrap();

    let identity = place.data.join("IDENTITY");
    let ours = std::fs::read(&identity).unwrap();
    let mut damaged = ours.clone();
    damaged[5] ^= 1;
    std::fs::write(&identity, damaged).unwrap();
    refuses_and_leaves_alone(&place, &["IDENTITY is damaged", "restore it"]).await;
    std::fs::write(&identity, ours).unwrap();

    // Whose cluster it is stands in the store, which must be opened to be read.
    let mut elsewhere = place.clone();
    elsewhere.cluster = "elsewhere".to_owned();
    let (code, said) = elsewhere.refuses().await;
    assert_eq!(code, 1);
    assert_says(&said, &["another cluster", "elsewhere", "cluster.name"]);

    still_serves(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_folder_or_holds_other_files_is_refused_and_left_alone() {
    let _turn = turn::shared().await;
    let dir = folder();
    let place = Place::new(dir.path(), address(1), 0);

    std::fs::create_dir(&place.data).unwrap();
    std::fs::write(place.data.join("holiday.jpg"), "sunshine").unwrap();
    let parts = ["holds files that are not a node's", "holiday.jpg", "nothing was written there"];
    refuses_and_leaves_alone(&place, &parts).await;
    assert!(!place.data.join(LOCK).exists(), "a lock in somebody else's folder");

    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    for path in [file.clone(), file.join("below")] {
        let place = Place { data: path.clone(), ..place.clone() };
        let (code, said) = place.refuses().await;
        assert_eq!(code, 1);
        let path = path.display().to_string();
        assert_says(
            &said,
            &[&path, "is not a folder", "name a folder, or one that does not exist"],
        );
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"text");

    let nowhere = Place { data: "/proc/coterie-test".into(), ..place.clone() };
    let (code, said) = nowhere.refuses().await;
    assert_eq!(code, 1);
    assert_says(&said, &["/proc/coterie-test"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_may_not_be_read_is_refused_with_what_permission_it_takes() {
    let _turn = turn::shared().await;
    let dir = folder();
    let place = used(dir.path()).await;
    place.write();
    let open = std::fs::metadata(&place.data).unwrap().permissions();
    std::fs::set_permissions(&place.data, PermissionsExt::from_mode(0o000)).unwrap();
    // Permissions do not bind a privileged user: such a one becomes another for this.
    let privileged = std::fs::read_dir(&place.data).is_ok();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("coterie");
    std::fs::copy(PROGRAM, &program).unwrap();
    let before = place.said().len();
    let mut process = Process::start(&program, &place.config, &place.log, |command| {
        if privileged { command.uid(NOBODY).gid(NOBODY) } else { command }
    });
    let ended = process.end_within(Duration::from_secs(30)).await;
    std::fs::set_permissions(&place.data, open).unwrap();
    let said = place.said().split_off(before);
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{said}");
    let path = place.data.display().to_string();
    assert_says(&said, &["no permission to", &path, "read and write permission"]);
    still_serves(&place).await;
}
