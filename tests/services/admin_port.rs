//! The admin port, spoken to as a person with netcat would.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::fake::Fake;

struct Admin {
    address: String,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

async fn serve(node: &Fake) -> Admin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let node = node.clone();
    let ended = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        coterie::http::serve(listener, node, shutdown).await.unwrap();
    });
    Admin { address, stop, ended }
}

async fn say(admin: &Admin, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&admin.address).await.unwrap();
    // The server may hang up while it is still being written to.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("it hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(admin: &Admin, path: &str, header: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    say(admin, request.as_bytes()).await
}

#[tokio::test]
async fn health_and_readiness_say_what_is_wrong() {
    let node = Fake::default();
    let admin = serve(&node).await;
    assert!(get(&admin, "/healthz", "").await.starts_with("HTTP/1.1 200"));
    assert!(get(&admin, "/readyz", "").await.starts_with("HTTP/1.1 200"));
    node.state.lock().unwrap().stuck = Some("the committer".to_owned());
    node.state.lock().unwrap().not_ready = Some("waiting for founders".to_owned());
    let health = get(&admin, "/healthz", "").await;
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("the committer"), "{health}");
    let ready = get(&admin, "/readyz", "").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("for founders"), "{ready}");
}

#[tokio::test]
async fn gossip_is_json_or_a_table_as_asked_for() {
    let admin = serve(&Fake::default()).await;
    let json = get(&admin, "/debug/gossip", "Accept: */*\r\n").await;
    assert!(json.contains("application/json") && json.contains("  \"node\": \"node-0\""), "{json}");
    let body = json.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["node"], "node-0");
    for text in [
        get(&admin, "/debug/gossip?format=text", "").await,
        get(&admin, "/debug/gossip", "Accept: text/plain\r\n").await,
    ] {
        assert!(text.contains("text/plain"), "{text}");
        assert!(text.contains("differences: none\n"), "{text}");
        assert!(text.contains("  name    state\n  node-1  alive\n"), "{text}");
    }
    let bad = get(&admin, "/debug/gossip?format=xml", "").await;
    assert!(bad.starts_with("HTTP/1.1 400") && bad.contains("json or text"), "{bad}");
}

#[tokio::test]
async fn ring_and_hints_are_json_or_tables_as_asked_for() {
    let node = Fake::default();
    let admin = serve(&node).await;
    let json = async |path: &str| {
        let answer = get(&admin, path, "").await;
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str::<serde_json::Value>(body).unwrap()
    };
    let ring = json("/debug/ring").await;
    assert_eq!((&ring["replicas"], &ring["partitions"]), (&3.into(), &16.into()));
    assert_eq!(ring["homes"].as_array().unwrap().len(), 16);
    assert_eq!(ring["change"]["waits"], serde_json::json!([]), "{ring}");
    let table = get(&admin, "/debug/ring?format=text", "").await;
    assert!(table.contains("node-2  12"), "{table}");
    let hints = json("/debug/hints").await;
    assert_eq!((&hints["complete"], &hints["targets"][0]["hints"]), (&false.into(), &3.into()));
    let table = get(&admin, "/debug/hints", "Accept: text/plain\r\n").await;
    assert!(table.contains("node-1") && table.contains("complete  no"), "{table}");

    node.state.lock().unwrap().unreadable = true;
    node.state.lock().unwrap().unfounded = true;
    for path in ["/debug/ring", "/debug/hints"] {
        let answer = get(&admin, path, "").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
}

#[tokio::test]
async fn what_does_not_exist_is_told_what_does() {
    let admin = serve(&Fake::default()).await;
    let index = get(&admin, "/", "").await;
    for path in ["/debug/gossip", "/debug/ring", "/debug/hints"] {
        assert!(index.contains(path), "{index}");
    }
    let missing = get(&admin, "/metricz", "").await;
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    assert!(missing.contains("there is no /metricz here") && missing.contains("/readyz"));
    let post = say(&admin, b"POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405"), "{post}");
}

#[tokio::test]
async fn garbage_and_oversize_requests_do_not_hurt_the_port() {
    let admin = serve(&Fake::default()).await;
    let mut random = rand::rngs::ChaCha8Rng::seed_from_u64(3);
    for _ in 0..50 {
        let mut bytes = vec![0; random.random_range(1..4096)];
        random.fill_bytes(&mut bytes);
        bytes.extend(b"\r\n\r\n");
        say(&admin, &bytes).await;
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let answer = say(&admin, long.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let answer = say(&admin, headers.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(get(&admin, "/healthz", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_does_not_wait_for_idle_connections() {
    let admin = serve(&Fake::default()).await;
    let _idle = TcpStream::connect(&admin.address).await.unwrap();
    let started = Instant::now();
    drop(admin.stop);
    admin.ended.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
}
