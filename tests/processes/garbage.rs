//! Garbage on every port of one node, under load: it stays up, its memory is bounded, and nobody
//! else notices.
//!
//! ```text
//!   client gRPC  ┐   random bytes · HTTP/1 and HTTP/2 · TLS · half-open · connections by the
//!   internal TCP ├─  hundred · frames of ours, oversize, damaged or cut, behind a real hello
//!   admin HTTP   ┘
//!   gossip UDP   ──  random · huge · genuine datagrams of a peer, damaged, cut and repeated
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use coterie::peers::frame::{self, PREAMBLE};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, http_get};
use crate::load::{Load, once_more_elsewhere};

/// How long the node is under attack.
const ATTACK: Duration = Duration::from_secs(8);
/// Connections opened and left alone, on each port.
const HALF_OPEN: usize = 120;
/// The most that the node may ever use, in MiB: caches and write buffers are most of it.
const MEMORY_MIB: u64 = 256;
/// Genuine datagrams to be damaged.
const CAPTURED: usize = 8;
/// A peer that just went is still asked whether it lives within this.
const CAPTURE_WITHIN: Duration = Duration::from_secs(10);
/// One exchange of garbage.
const EXCHANGE_WITHIN: Duration = Duration::from_millis(300);
/// Between two exchanges of one attacker.
const PAUSE: Duration = Duration::from_millis(5);

/// Attackers that go on until they are told to stop.
struct Attack {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    attackers: JoinSet<()>,
}

impl Attack {
    fn new() -> Self {
        let attackers = JoinSet::new();
        Self { stop: Arc::default(), sent: Arc::default(), attackers }
    }

    /// Says something else to a TCP port, again and again.
    fn talk(&mut self, at: SocketAddr, seed: u64, words: fn(&mut StdRng) -> Vec<u8>) {
        let (stop, sent) = (self.stop.clone(), self.sent.clone());
        self.attackers.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            while !stop.load(Ordering::Relaxed) {
                let words = words(&mut rng);
                let _ = tokio::time::timeout(EXCHANGE_WITHIN, exchange(at, &words)).await;
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Sends something else to a UDP port, again and again.
    fn shout(&mut self, at: SocketAddr, seed: u64, genuine: Vec<Vec<u8>>) {
        let (stop, sent) = (self.stop.clone(), self.sent.clone());
        self.attackers.spawn(async move {
            let socket = UdpSocket::bind((at.ip(), 0)).await.unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    let _ = socket.send_to(&datagram(&mut rng, &genuine), at).await;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Poses as a peer with the hello that it says, and then talks nonsense.
    fn pose(&mut self, at: SocketAddr, hello: Vec<u8>, seed: u64) {
        let (stop, sent) = (self.stop.clone(), self.sent.clone());
        self.attackers.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            while !stop.load(Ordering::Relaxed) {
                let mut words = hello.clone();
                words.extend(nonsense(&mut rng));
                let _ = tokio::time::timeout(EXCHANGE_WITHIN, exchange(at, &words)).await;
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE * 4).await;
            }
        });
    }

    async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.attackers.join_next().await {
            ended.unwrap();
        }
        self.sent.load(Ordering::Relaxed)
    }
}

/// Says words and listens until the other side is done.
async fn exchange(at: SocketAddr, words: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(words).await?;
    let mut answer = vec![0; 4096];
    while stream.read(&mut answer).await? > 0 {}
    Ok(())
}

fn random(rng: &mut StdRng, longest: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..=longest)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// What strangers say to a TCP port.
fn strange(rng: &mut StdRng) -> Vec<u8> {
    let then = |start: &[u8], rng: &mut StdRng| [start, &random(rng, 20_000)].concat();
    match rng.random_range(0..9) {
        0 => random(rng, 100_000),
        1 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        2 => then(b"POST /coterie.v1.Kv/Get HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", rng),
        3 => then(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", rng),
        // Settings, then a frame of the largest length on a stream that was never opened.
        4 => then(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\xff\xff\xff\0\0\0\0\0\x07",
            rng,
        ),
        5 => then(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", rng),
        6 => [&b"GET /"[..], &vec![b'a'; 300_000]].concat(),
        7 => then(&PREAMBLE, rng),
        _ => vec![],
    }
}

/// Streams of ours up to a point.
fn ours(rng: &mut StdRng) -> Vec<u8> {
    let mut out = BytesMut::new();
    match rng.random_range(0..5) {
        0 => frame::encode_hello(&mut out, &random(rng, 200)),
        1 => {
            frame::encode_hello(&mut out, b"coth\x01");
            out.put_slice(&random(rng, 1000));
        }
        // A frame that announces four gigabytes.
        2 => {
            out.put_slice(&PREAMBLE);
            out.put_slice(&[0xff; 8]);
            out.put_slice(&random(rng, 60_000));
        }
        3 => frame::encode_first_reject(&mut out, "other-disk: somebody unknown does not like it"),
        _ => {
            out.put_slice(&PREAMBLE[..7]);
            out.put_u8(rng.random());
        }
    }
    out.to_vec()
}

/// Messages in sound frames that say nothing, damaged frames, and ones without an end.
fn nonsense(rng: &mut StdRng) -> Vec<u8> {
    let mut out = BytesMut::new();
    for _ in 0..rng.random_range(1..20) {
        let body = random(rng, 2000);
        // Its size is below every limit.
        let _ = frame::encode_message(&mut out, |out| out.put_slice(&body));
    }
    match rng.random_range(0..4) {
        0 => out.put_slice(&[0xff; 9]),
        1 => {
            let at = rng.random_range(0..out.len());
            out[at] ^= 0x10;
        }
        2 => frame::encode_hello(&mut out, b"a second one"),
        _ => {
            let long = vec![7; 3 << 20];
            let _ = frame::encode_message(&mut out, |out| out.put_slice(&long));
            out.truncate(out.len() - 1000);
        }
    }
    out.to_vec()
}

/// What comes to the gossip port.
fn datagram(rng: &mut StdRng, genuine: &[Vec<u8>]) -> Vec<u8> {
    let mut real = genuine[rng.random_range(0..genuine.len())].clone();
    match rng.random_range(0..7) {
        0 => random(rng, 1400),
        1 => random(rng, 65_507),
        2 => [&b"cotg\x01"[..], &random(rng, 1395)].concat(),
        3 => {
            let at = rng.random_range(0..real.len());
            real[at] ^= 1 << rng.random_range(0..8);
            real
        }
        4 => {
            real.truncate(rng.random_range(0..real.len()));
            real
        }
        5 => [real, random(rng, 300)].concat(),
        // Unchanged, but late and again.
        _ => real,
    }
}

/// What other nodes send to a node that has just gone: datagrams, and the hellos of those who call.
struct Captured {
    datagrams: Vec<Vec<u8>>,
    hellos: Vec<Vec<u8>>,
}

/// Listens in the place of a node until it has heard enough of everybody.
async fn capture(at: SocketAddr, names: &[&str]) -> Captured {
    let socket = UdpSocket::bind(at).await.unwrap();
    let listener = TcpListener::bind(at).await.unwrap();
    let mut captured = Captured { datagrams: vec![], hellos: vec![] };
    let mut datagram = vec![0; 65_536];
    let until = tokio::time::Instant::now() + CAPTURE_WITHIN;
    while captured.datagrams.len() < CAPTURED || !names.iter().all(|name| captured.has(name)) {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => {
                captured.datagrams.push(datagram[..received.unwrap().0].to_vec());
            }
            stream = listener.accept() => {
                let mut hello = vec![0; 65_536];
                let read = stream.unwrap().0.read(&mut hello).await.unwrap_or(0);
                captured.hellos.push(hello[..read].to_vec());
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    assert!(!captured.datagrams.is_empty(), "nobody asks whether a node lives that has just gone");
    assert!(names.iter().all(|name| captured.has(name)), "not everybody calls it");
    captured
}

impl Captured {
    fn hello_of(&self, name: &str) -> Option<&Vec<u8>> {
        let names_it =
            |hello: &&Vec<u8>| hello.windows(name.len()).any(|window| window == name.as_bytes());
        self.hellos.iter().find(names_it)
    }

    fn has(&self, name: &str) -> bool {
        self.hello_of(name).is_some()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_under_garbage_on_every_port_stays_up_and_serves() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill(2);
    let captured = capture(cluster.place(2).internal, &["node-0", "node-1"]).await;
    cluster.spawn(2);
    cluster.wait_ready().await;
    cluster.wait_without_hints().await;

    let load = Load::start(&cluster.client(once_more_elsewhere()), "garbage");
    load.progress(50).await;
    let node = cluster.place(0).clone();
    let before = cluster.process(0).memory_mib("VmRSS");
    let began = Instant::now();
    let tcp = [node.client, node.internal, node.admin];
    let mut attack = Attack::new();
    for (seed, at) in (1..).zip(tcp) {
        attack.talk(at, seed, strange);
        attack.talk(at, seed + 10, ours);
    }
    attack.shout(node.internal, 20, captured.datagrams.clone());
    // As its peer, and as itself.
    for (seed, name) in [(30, "node-1"), (31, "node-0")] {
        let hello = captured.hello_of(name).expect("it was captured").clone();
        assert!(hello.starts_with(&PREAMBLE));
        attack.pose(node.internal, hello, seed);
    }
    let mut half_open = Vec::new();
    for _ in 0..HALF_OPEN {
        for at in tcp {
            half_open.push(TcpStream::connect(at).await);
        }
    }
    let opened = half_open.iter().filter(|stream| stream.is_ok()).count();
    tokio::time::sleep(ATTACK.saturating_sub(began.elapsed())).await;
    let sent = attack.stop().await;
    drop(half_open);

    let ready = http_get(node.admin, "/readyz").await;
    assert_eq!(ready.map(|answer| answer.0), Some(200), "the admin port answers");
    load.progress(50).await;
    let history = load.stop().await;
    let most = cluster.process(0).memory_mib("VmHWM");
    let (p99, count) = history.quantile(began, began + ATTACK, 0.99);
    println!(
        "{sent} pieces of garbage, {opened} idle connections; {count} requests meanwhile, p99 \
         {p99:.1?}; memory {before:?} MiB before, at most {most:?} MiB"
    );
    history.assert_no_failure(began);
    assert!(most.is_none_or(|most| most < MEMORY_MIB), "{most:?} MiB");
    cluster.wait_ready().await;
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
    let strangers = http_get(node.admin, "/debug/gossip").await.unwrap().1;
    let report: serde_json::Value = serde_json::from_str(&strangers).unwrap();
    assert!(report["strangers_refused"].as_u64().unwrap() > 0, "strangers are counted: {report}");
    assert!(report["strangers"].as_array().unwrap().len() <= 64, "and bounded: {report}");
    let said = node.said().len();
    assert!(said < 1 << 20, "garbage floods the log: {said} bytes");
}
