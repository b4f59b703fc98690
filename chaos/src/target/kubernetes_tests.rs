//! The commands that go to kubectl, recorded by a script in its place.

use std::fs;
use std::path::Path;

use super::*;

/// A kubectl that writes down how it was called. Pods have another uid once they were deleted, and claims,
/// too. A forward ends soon.
const FAKE: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/calls"
case "$*" in
  *"get pods"*) echo "coterie-1 coterie-0 coterie-2" ;;
  *"get pod "*) grep -c "delete pod" "$(dirname "$0")/calls" || true ;;
  *"get pvc "*) grep -c "delete pvc" "$(dirname "$0")/calls" || true ;;
  *port-forward*) exec sleep 0.1 ;;
esac
"#;

fn calls(dir: &Path) -> Vec<String> {
    let calls = fs::read_to_string(dir.join("calls")).unwrap();
    calls.lines().map(str::to_owned).collect()
}

fn plan() -> Plan {
    Plan {
        program: "coterie".into(),
        dir: "unused".into(),
        nodes: 3,
        spares: 0,
        replicas: 3,
        own_disks: false,
        own_clocks: false,
        own_network: false,
        image: "unused".into(),
        pods: ("shop".to_owned(), "app=coterie".to_owned()),
    }
}

fn fake() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let (script, kubectl) = (dir.path().join("script"), dir.path().join("kubectl"));
    fs::write(&script, FAKE).unwrap();
    // Another process writes what will be run: a test beside this one may fork while a file is open
    // here, and a file that anybody has open for writing cannot be run.
    let mut copy = std::process::Command::new("install");
    assert!(copy.args(["-m", "755"]).args([&script, &kubectl]).status().unwrap().success());
    let kubectl = kubectl.to_string_lossy().into_owned();
    (dir, kubectl)
}

#[tokio::test]
async fn a_pod_is_killed_without_grace_and_seen_to_be_another_one() {
    let (dir, kubectl) = fake();
    let mut target = Kubernetes::find_by(kubectl, &plan()).await.unwrap();
    let names: Vec<String> = target.nodes().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["coterie-0", "coterie-1", "coterie-2"]);
    assert_eq!(target.kill(&[1]).await.unwrap(), "coterie-1 is another pod now");
    target.start(1).await.unwrap();
    assert_eq!(target.clean_up().await, Vec::<String>::new());
    let calls = calls(dir.path());
    let wanted = [
        "--namespace shop get pods --selector app=coterie --output jsonpath={.items[*].metadata.name}",
        "--namespace shop get pod coterie-1 --output jsonpath={.metadata.uid}",
        "--namespace shop delete pod coterie-1 --wait=false --grace-period 0 --force",
        "--namespace shop get pod coterie-1 --output jsonpath={.metadata.uid}",
        "--namespace shop wait --for=condition=Ready pod/coterie-1 --timeout=50s",
    ];
    assert_eq!(calls[..wanted.len()], wanted);
}

#[tokio::test]
async fn a_wipe_deletes_the_claim_and_a_stop_leaves_the_pod_its_grace() {
    let (dir, kubectl) = fake();
    let mut target = Kubernetes::find_by(kubectl, &plan()).await.unwrap();
    let seen = target.wipe(2).await.unwrap();
    assert_eq!(seen, "coterie-2 is another pod now, data-coterie-2 is another pvc now");
    let calls_of_wipe = calls(dir.path()).join("\n");
    assert!(calls_of_wipe.contains("--namespace shop delete pvc data-coterie-2 --wait=false"));
    let (dir, kubectl) = fake();
    let mut target = Kubernetes::find_by(kubectl, &plan()).await.unwrap();
    assert!(target.offers(Fault::Wipe).is_ok() && target.offers(Fault::Partition).is_err());
    target.stop(0).await.unwrap();
    assert!(calls(dir.path()).contains(
        &"--namespace shop delete pod coterie-0 --wait=false --grace-period 30".to_owned()
    ));
}

#[tokio::test]
async fn a_forward_that_ends_is_made_again_until_all_is_over() {
    let (dir, kubectl) = fake();
    let mut target = Kubernetes::find_by(kubectl, &plan()).await.unwrap();
    target.start_all().await.unwrap();
    let forwards = || calls(dir.path()).iter().filter(|call| call.contains("coterie-1 ")).count();
    let began = std::time::Instant::now();
    while forwards() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "it was made {} times", forwards());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(target.clean_up().await, Vec::<String>::new());
    assert!(target.pods.iter().all(|pod| pod.forward.is_none()));
}

#[tokio::test]
async fn another_number_of_pods_is_refused() {
    let (_dir, kubectl) = fake();
    let five = Plan { nodes: 5, ..plan() };
    let error = Kubernetes::find_by(kubectl, &five).await.unwrap_err().to_string();
    assert_eq!(error, "3 pods match app=coterie in shop, not 5");
}
