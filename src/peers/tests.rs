use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::free_ports::free_address;
use super::*;
use crate::protocol::control::{ConnId, ControlInput};
use crate::protocol::message::{Envelope, Message, PlacementTag};
use crate::types::{CommitNumber, NodeId};

/// Accepts every hello that is sixteen bytes of node id, as a control core would.
struct Toy {
    me: NodeId,
    peers: Peers,
    address: SocketAddr,
    received: mpsc::UnboundedSender<(NodeId, Bytes)>,
    news: Mutex<Vec<(Instant, ControlInput)>>,
    accepted: AtomicUsize,
    /// Takes nothing in while this is set.
    stand_still: AtomicBool,
}

type Received = mpsc::UnboundedReceiver<(NodeId, Bytes)>;

impl Inbox for Toy {
    fn messages(&self, from: NodeId, batch: &mut Vec<Envelope>) {
        while self.stand_still.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        for envelope in batch.drain(..) {
            let Message::Control(bytes) = envelope.message else { panic!("not sent here") };
            let _ = self.received.send((from, bytes));
        }
    }

    fn control(&self, input: ControlInput) {
        if let ControlInput::Hello(conn, hello) = &input {
            match <[u8; 16]>::try_from(&hello[..]) {
                Ok(id) => {
                    self.peers.accept(*conn, NodeId(u128::from_le_bytes(id)));
                    self.accepted.fetch_add(1, Ordering::SeqCst);
                }
                Err(_) => self.peers.reject(*conn, "a hello has sixteen bytes".into()),
            }
        }
        self.news.lock().unwrap().push((Instant::now(), input));
    }

    fn hello(&self) -> Bytes {
        Bytes::copy_from_slice(&self.me.0.to_le_bytes())
    }
}

impl Toy {
    async fn start(id: u128, bind: &str) -> (Arc<Self>, Received) {
        let listener = TcpListener::bind(bind).await.unwrap();
        let peers = Peers::new(
            Limits { queue_bytes_max: 32 << 20, ..Limits::default() },
            tokio::runtime::Handle::current(),
        );
        let (received, receiver) = mpsc::unbounded_channel();
        let toy = Arc::new(Self {
            me: NodeId(id),
            peers: peers.clone(),
            address: listener.local_addr().unwrap(),
            received,
            news: Mutex::default(),
            accepted: AtomicUsize::new(0),
            stand_still: AtomicBool::new(false),
        });
        let inbox: Arc<dyn Inbox> = toy.clone();
        peers.start(listener, Arc::downgrade(&inbox));
        (toy, receiver)
    }

    fn dial(&self, others: &[&Self]) {
        self.peers.connect(&others.iter().map(|other| other.address).collect());
    }

    fn send(&self, to: u128, bytes: impl Into<Bytes>) {
        let message = Message::Control(bytes.into());
        let (placement, synced) = (PlacementTag::default(), CommitNumber(0));
        let envelope = Envelope { from: self.me, placement, synced, trace: None, message };
        if let Some(wake) = self.peers.send(NodeId(to), &envelope) {
            wake.wake();
        }
    }

    fn has_news(&self, is: impl Fn(&ControlInput) -> bool) -> Option<Instant> {
        self.news.lock().unwrap().iter().find(|(_, news)| is(news)).map(|(at, _)| *at)
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn next(received: &mut Received) -> (NodeId, Bytes) {
    tokio::time::timeout(Duration::from_secs(20), received.recv()).await.unwrap().unwrap()
}

fn routes(toy: &Toy) -> usize {
    toy.peers.report().peers
}

#[tokio::test]
async fn messages_of_one_byte_to_twenty_megabytes_arrive_in_order_both_ways() {
    let (a, mut at_a) = Toy::start(1, "127.0.0.1:0").await;
    let (b, mut at_b) = Toy::start(2, "127.0.0.1:0").await;
    a.dial(&[&b]);
    b.dial(&[&a]);
    until("two streams each", || a.peers.report().streams == 2 && b.peers.report().streams == 2)
        .await;
    let lengths = [1, 100, 65_536, (1 << 20) - 50, 1 << 20, 20 << 20, 3];
    for (i, length) in (0u8..).zip(lengths) {
        a.send(2, vec![i; length]);
        b.send(1, vec![i; length]);
    }
    for (i, length) in (0u8..).zip(lengths) {
        for (from, received) in [(1, &mut at_b), (2, &mut at_a)] {
            let (peer, bytes) = next(received).await;
            assert_eq!((peer, bytes.len()), (NodeId(from), length));
            assert!(bytes.iter().all(|byte| *byte == i));
        }
    }
    assert_eq!(a.peers.report().dropped_full, 0);
}

#[tokio::test]
async fn one_stream_serves_both_ways_while_the_other_side_has_not_dialled() {
    let (a, mut at_a) = Toy::start(1, "127.0.0.1:0").await;
    let (b, mut at_b) = Toy::start(2, "127.0.0.1:0").await;
    a.dial(&[&b]);
    until("the stream", || routes(&a) == 1 && routes(&b) == 1).await;
    a.send(2, "to b");
    b.send(1, "to a");
    assert_eq!(next(&mut at_b).await, (NodeId(1), "to b".into()));
    assert_eq!(next(&mut at_a).await, (NodeId(2), "to a".into()));
}

#[tokio::test]
async fn a_stopped_peer_is_reported_at_once_and_found_again_when_it_returns() {
    let (a, mut at_a) = Toy::start(1, "127.0.0.1:0").await;
    let (b, _at_b) = Toy::start(2, &free_address().to_string()).await;
    a.dial(&[&b]);
    until("the stream", || routes(&a) == 1 && routes(&b) == 1).await;

    let stopped = Instant::now();
    b.peers.stop();
    until("the end", || a.has_news(|news| matches!(news, ControlInput::Broken(_))).is_some()).await;
    let noticed = a.has_news(|news| matches!(news, ControlInput::Broken(_))).unwrap();
    assert!(noticed - stopped < Duration::from_secs(1), "noticed after {noticed:?}");
    assert_eq!(routes(&a), 0);
    let refused = ControlInput::DialFailed(b.address);
    let refused = |news: &ControlInput| format!("{news:?}") == format!("{refused:?}");
    until("a refusal", || a.has_news(refused).is_some()).await;
    a.send(2, "lost");
    assert_eq!(a.peers.report().dropped_no_stream, 1);

    let (b, mut at_b) = Toy::start(2, &b.address.to_string()).await;
    until("the return", || routes(&a) == 1 && routes(&b) == 1).await;
    a.send(2, "again");
    b.send(1, "hello again");
    assert_eq!(next(&mut at_b).await, (NodeId(1), "again".into()));
    assert_eq!(next(&mut at_a).await, (NodeId(2), "hello again".into()));
}

#[tokio::test]
async fn every_accepted_stream_is_reported_broken_exactly_once() {
    let (a, _at_a) = Toy::start(1, "127.0.0.1:0").await;
    let (b, _at_b) = Toy::start(2, "127.0.0.1:0").await;
    for _ in 0..3 {
        a.dial(&[&b]);
        until("the stream", || routes(&a) == 1 && routes(&b) == 1).await;
        a.peers.connect(&BTreeSet::new());
        until("its end", || routes(&a) == 0 && routes(&b) == 0).await;
    }
    for toy in [&a, &b] {
        let news = toy.news.lock().unwrap();
        let count = |is: fn(&ControlInput) -> Option<ConnId>| {
            let mut all: Vec<_> = news.iter().filter_map(|(_, news)| is(news)).collect();
            all.sort();
            all
        };
        let broken = count(|n| if let ControlInput::Broken(c) = n { Some(*c) } else { None });
        let hellos = count(|n| if let ControlInput::Hello(c, _) = n { Some(*c) } else { None });
        assert_eq!(broken, hellos);
        assert!(broken.len() >= 3);
    }
}

/// What a stranger gets for what it says; empty if the stream was closed without a word.
async fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stranger = TcpStream::connect(address).await.unwrap();
    let _ = stranger.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = stranger.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(3), reading).await.expect("not closed");
    answer
}

#[tokio::test]
async fn garbage_is_closed_at_once_counted_and_hurts_nobody() {
    let (a, _at_a) = Toy::start(1, "127.0.0.1:0").await;
    let (b, mut at_b) = Toy::start(2, "127.0.0.1:0").await;
    a.dial(&[&b]);
    until("the stream", || routes(&a) == 1 && routes(&b) == 1).await;

    assert_eq!(say(b.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, b"");
    assert_eq!(say(b.address, b"GET / HTTP/1.1\r\n\r\n").await, b"");
    assert_eq!(say(b.address, &vec![0xff; 100_000]).await, b"");
    let oversize = [&frame::PREAMBLE[..], &[0xff; 13]].concat();
    let answer = say(b.address, &oversize).await;
    assert!(String::from_utf8_lossy(&answer).contains("more than the limit"));
    let mut short_hello = bytes::BytesMut::new();
    frame::encode_hello(&mut short_hello, b"who");
    let answer = say(b.address, &short_hello).await;
    assert!(String::from_utf8_lossy(&answer).contains("sixteen bytes"));

    until("the counts", || b.peers.report().refused == 5).await;
    assert_eq!(b.peers.report().streams, 1);
    a.send(2, "still here");
    assert_eq!(next(&mut at_b).await.1, "still here");
}

#[tokio::test]
async fn the_reason_of_a_refusal_reaches_the_control_core_of_whoever_dialled() {
    let (a, _at_a) = Toy::start(1, "127.0.0.1:0").await;
    let stern = TcpListener::bind("127.0.0.1:0").await.unwrap();
    a.peers.connect(&BTreeSet::from([stern.local_addr().unwrap()]));
    let (mut stream, _) = stern.accept().await.unwrap();
    let mut refusal = bytes::BytesMut::new();
    frame::encode_first_reject(&mut refusal, "later: another\nprocess");
    stream.write_all(&refusal).await.unwrap();
    let broken = |news: &ControlInput| matches!(news, ControlInput::Broken(_));
    until("the end", || a.has_news(broken).is_some()).await;
    let news: Vec<_> = a.news.lock().unwrap().iter().take(3).map(|(_, n)| n.clone()).collect();
    let [ControlInput::Dialled(c, _), ControlInput::Rejected(d, why), ControlInput::Broken(e)] =
        &news[..]
    else {
        panic!("{news:?}")
    };
    assert!(c == d && d == e && why == "later: anotherprocess", "{news:?}");
}

#[tokio::test]
async fn a_peer_that_names_another_sender_is_disconnected() {
    let (a, mut at_a) = Toy::start(1, "127.0.0.1:0").await;
    let mut bytes = bytes::BytesMut::new();
    frame::encode_hello(&mut bytes, &7u128.to_le_bytes());
    for from in [7, 8] {
        let message = Message::Control("x".into());
        let placement = PlacementTag::default();
        let (from, synced) = (NodeId(from), CommitNumber(0));
        let envelope = Envelope { from, placement, synced, trace: None, message };
        frame::encode_message(&mut bytes, |out| envelope.encode(out)).unwrap();
    }
    say(a.address, &bytes).await;
    assert_eq!(next(&mut at_a).await, (NodeId(7), "x".into()));
    until("the end", || a.has_news(|n| matches!(n, ControlInput::Broken(_))).is_some()).await;
    assert!(at_a.try_recv().is_err(), "the impostor's message was handed over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_slow_reader_does_not_hold_up_the_others_and_its_queue_is_bounded() {
    let (a, _at_a) = Toy::start(1, "127.0.0.1:0").await;
    let (slow, mut at_slow) = Toy::start(2, "127.0.0.1:0").await;
    let (quick, mut at_quick) = Toy::start(3, "127.0.0.1:0").await;
    a.dial(&[&slow, &quick]);
    until("the streams", || routes(&a) == 2 && routes(&slow) + routes(&quick) == 2).await;

    slow.stand_still.store(true, Ordering::SeqCst);
    let megabyte = Bytes::from(vec![1; 1 << 20]);
    for _ in 0..100 {
        a.send(2, megabyte.clone());
    }
    for i in 0..1000u32 {
        a.send(3, i.to_le_bytes().to_vec());
    }
    for i in 0..1000u32 {
        assert_eq!(next(&mut at_quick).await.1, i.to_le_bytes()[..]);
    }
    let dropped = a.peers.report().dropped_full;
    assert!(dropped > 0, "a hundred megabytes went into a bounded queue");
    slow.stand_still.store(false, Ordering::SeqCst);
    for _ in dropped..100 {
        assert_eq!(next(&mut at_slow).await.1.len(), 1 << 20);
    }
}
