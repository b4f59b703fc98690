//! Sessions at the command line, against a real cluster: what is said, and the exit code.
//!
//! 0 ok, 1 error, 2 usage, 3 not found, 4 unavailable or degraded, 5 timeout with unknown outcome.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::folders::assert_says;
use crate::process::{Said, Signal, coterie};

/// The exit code is the one expected; gives what was said.
#[track_caller]
fn ended(said: Said, code: i32) -> Said {
    assert_eq!(said.code, Some(code), "out: {}\nerr: {}", said.out, said.err);
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_writes_reads_deletes_and_says_what_is_not_there() {
    let mut cluster = Cluster::start(3).await;
    let all = cluster.addresses().join(",");
    let at = ["--addr", all.as_str()];
    let run = async |words: &[&str]| coterie(&[words, &at].concat()).await;

    let said = ended(run(&["get", "greeting"]).await, 3);
    assert_says(&said.err, &["there is no key `greeting`"]);
    assert_eq!(said.out, "");
    let said = ended(run(&["set", "greeting", "hello, wörld"]).await, 0);
    assert_says(&said.out, &["OK ", "node-"]);
    let said = ended(run(&["get", "greeting"]).await, 0);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("hello, wörld", ""));
    let said = ended(run(&["get", "greeting", "-o", "json", "--consistency", "all"]).await, 0);
    let read = json(&said);
    assert_eq!((&read["found"], &read["value"]), (&true.into(), &"hello, wörld".into()));
    let context = read["context"].as_str().unwrap().to_owned();

    ended(run(&["set", "greeting", "with context", "--causal-context", &context]).await, 0);
    let said = ended(run(&["set", "else", "v", "--causal-context", &context]).await, 1);
    assert_says(&said.err, &["cannot write `else`", "another key"]);
    ended(run(&["get", "else"]).await, 3);
    ended(run(&["get", "greeting", "--strict"]).await, 0);
    ended(run(&["set", "short", "lived", "--ttl", "1ms"]).await, 0);
    ended(run(&["get", "short"]).await, 3);
    ended(run(&["delete", "greeting", "--context-from-get"]).await, 0);
    ended(run(&["get", "greeting"]).await, 3);
    ended(run(&["delete", "greeting"]).await, 0);

    for wrong in [
        &["get"][..],
        &["get", ""],
        &["get", &"k".repeat(4097)],
        &["set", "k", "v", "--consistency", "most"],
        &["set", "k", "v", "--request-id", "7"],
        &["scan", "--contexts"],
        &["scan", "--limit", "0"],
        &["frobnicate"],
    ] {
        let said = ended(run(wrong).await, 2);
        assert!(!said.err.is_empty(), "{wrong:?} is refused without a word");
    }
    let said = ended(coterie(&["get", "k", "--addr", "nowhere"]).await, 2);
    assert_says(&said.err, &["nowhere", "HOST:PORT"]);
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_a_whole_cluster_from_a_degraded_a_silent_and_an_absent_one() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.address(0);
    let all = cluster.addresses().join(",");
    let run = async |words: &[&str]| coterie(&[words, &["--addr", &first]].concat()).await;
    ended(run(&["set", "key", "value"]).await, 0);
    let said = ended(coterie(&["status", "--addr", &all]).await, 0);
    assert_says(&said.out, &["Can another node be lost?", "node-0", "node-1", "node-2"]);
    let said = ended(coterie(&["members", "--addr", &all, "-o", "json"]).await, 0);
    assert_eq!(json(&said).as_array().unwrap().len(), 3);

    // One down: degraded, but everything works.
    cluster.kill(2);
    ended(run(&["set", "key", "with one down"]).await, 0);
    let said = ended(run(&["get", "key"]).await, 0);
    assert_eq!(said.out, "with one down");
    let said = ended(run(&["set", "key", "v", "--consistency", "all", "--timeout", "3s"]).await, 5);
    assert_says(&said.err, &["the outcome is unknown", "--request-id", "node-2"]);
    ended(run(&["get", "key", "--consistency", "all", "--timeout", "3s"]).await, 4);
    // A walk that gets nowhere ends.
    for words in [&["scan", "--keys"][..], &["scan", "--keys", "--pinned"]] {
        let began = Instant::now();
        let limited = [words, &["--consistency", "all", "--timeout", "2s"]].concat();
        ended(run(&limited).await, 4);
        assert!(began.elapsed() < Duration::from_secs(20), "{words:?}: {:?}", began.elapsed());
    }
    let said = ended(run(&["status"]).await, 4);
    assert_says(&said.out, &["node-2", "DOWN"]);

    // One silent besides: no majority.
    cluster.process(1).signal(Signal::Stop);
    let said = ended(run(&["set", "key", "unknown", "--timeout", "3s"]).await, 5);
    assert_says(&said.err, &["the outcome is unknown", "--request-id"]);
    ended(run(&["get", "key", "--timeout", "3s"]).await, 4);
    ended(run(&["get", "key", "--consistency", "one"]).await, 0);
    cluster.process(1).signal(Signal::Continue);

    // None.
    cluster.kill_at_once(&[0, 1]);
    let said = ended(run(&["get", "key"]).await, 4);
    assert_says(&said.err, &["cannot read `key`", &first]);
    let said = ended(run(&["set", "key", "value"]).await, 4);
    assert_says(&said.err, &["cannot write `key`"]);
    let said = ended(run(&["status"]).await, 4);
    assert_says(&said.err, &["no node answers", &first]);
    ended(run(&["export", "--timeout", "1s"]).await, 4);

    (0..3).for_each(|node| cluster.spawn(node));
    cluster.wait_ready().await;
    ended(run(&["set", "key", "back"]).await, 0);
    cluster.wait_without_hints().await;
    ended(run(&["status"]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_led_to_a_wrong_port_says_so_and_ends() {
    let mut cluster = Cluster::start(1).await;
    let place = cluster.place(0).clone();
    let ports = [(place.internal, 4, 5), (place.admin, 4, 4)];
    for (port, read_ends, write_ends) in ports {
        let at = ["--timeout", "3s", "--addr", &port.to_string()];
        let said = ended(coterie(&[&["get", "key"][..], &at].concat()).await, read_ends);
        assert_says(&said.err, &["cannot read `key`", at[3], "port for clients"]);
        let said = ended(coterie(&[&["set", "key", "v"][..], &at].concat()).await, write_ends);
        assert_says(&said.err, &["cannot write `key`", at[3], "port for clients"]);
        let said = ended(coterie(&["status", "--addr", at[3]]).await, 4);
        assert_says(&said.err, &["no node answers", "port for clients"]);
    }
    ended(coterie(&["get", "key", "--addr", &place.client.to_string()]).await, 3);
    // The node says whom it has turned away.
    let said = place.said();
    assert_says(&said, &["a client was probably given the internal port"]);
    cluster.assert_running();
}
