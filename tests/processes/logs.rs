//! Logs for programs: every line is a document, and an error is told once, with its cause.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{LOOK_EVERY, Place, address, folder, http_get};
use crate::process::Signal;
use crate::turn;

/// A node of one is ready, or has ended, within this.
const WITHIN: Duration = Duration::from_secs(30);

/// Every line that a node has said.
fn lines(said: &str) -> Vec<Value> {
    let parse = |line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let lines: Vec<Value> = said.lines().map(parse).collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {line}");
        }
    }
    lines
}

fn place(dir: &std::path::Path) -> Place {
    let mut place = Place::new(dir, address(1), 0);
    "[log]\nformat = \"json\"\n".clone_into(&mut place.more);
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_start_to_stop_every_line_is_a_document() {
    let _turn = turn::shared().await;
    let dir = folder();
    let place = place(dir.path());
    let mut process = place.serve();
    let began = Instant::now();
    while http_get(place.admin, "/readyz").await.is_none_or(|answer| answer.0 != 200) {
        assert!(began.elapsed() < WITHIN, "it is not ready: {}", place.said());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    process.signal(Signal::Terminate);
    assert!(process.end_within(WITHIN).await.is_some_and(|status| status.success()));
    let lines = lines(&place.said());
    let find = |message: &str| {
        let found = lines.iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("no `{message}` in {lines:#?}"))
    };
    let listening = find("listening");
    assert_eq!(listening["level"], "INFO");
    assert_eq!(listening["name"], "node-0");
    assert_eq!(listening["client"], place.client.to_string());
    assert_eq!(find("asked to stop")["why"], "terminated");
    find("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_told_once_with_its_cause() {
    let _turn = turn::shared().await;
    let dir = folder();
    let place = place(dir.path());
    let _held = TcpListener::bind(place.client).unwrap();
    let (code, said) = place.refuses().await;
    assert_eq!(code, 1);
    let lines = lines(&said);
    let [line] = &lines[..] else { panic!("not one line: {said}") };
    assert_eq!(line["level"], "ERROR");
    let message = line["message"].as_str().unwrap();
    assert!(message.contains("listen.client") && message.contains("another process"), "{line}");
    assert!(line["cause"].as_str().unwrap().contains("in use"), "{line}");
}
