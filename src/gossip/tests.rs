use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::protocol::step::{Reach, Space};

/// Answers "ping" with "pong", ticks every 20 ms, and does what the test tells it.
#[derive(Default)]
struct Toy {
    seen: Vec<String>,
    next: Option<Mono>,
    ticks: u32,
}

impl ControlCore for Toy {
    fn step(&mut self, now: Now, input: ControlInput, out: &mut Vec<ControlEffect>) {
        match input {
            ControlInput::Tick => {
                self.ticks += 1;
                self.next = Some(now.mono.after_millis(20));
            }
            ControlInput::Datagram(from, bytes) if bytes == "ping" => {
                out.push(ControlEffect::SendDatagram(from, "pong".into()));
                self.next = Some(now.mono.after_millis(20));
            }
            ControlInput::Datagram(_, bytes) if bytes == "panic" => panic!("as told"),
            ControlInput::Datagram(_, bytes) => self.seen.push(format!("{bytes:?}")),
            ControlInput::Message(_, bytes) => {
                for id in bytes {
                    let key = Bytes::copy_from_slice(&[id]);
                    let change = Change { space: Space::Meta, key, value: None };
                    out.push(ControlEffect::Persist(id.into(), vec![change]));
                }
            }
            other => self.seen.push(format!("{other:?}")),
        }
    }
    fn next_timer(&self) -> Option<Mono> {
        self.next
    }
    fn hello(&self, _: Now) -> Bytes {
        Bytes::new()
    }
    fn settled(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl Outlet for Log {
    fn send(&self, _: NodeId, _: Bytes) {}
    fn connect(&self, _: &BTreeSet<SocketAddr>) {}
    fn accept(&self, _: ConnId, _: NodeId) {}
    fn reject(&self, _: ConnId, _: String) {}
    fn persist(&self, id: u64, changes: Vec<Change>) {
        self.note(format!("persist {id}: {}", changes.len()));
    }
    fn note(&self, _: Vec<Change>) {}
    fn view(&self, _: Arc<View>) {}
    fn reachability(&self, _: NodeId, _: Reach) {}
    fn conditions(&self, _: Conditions) {}
    fn come_back(&self, reason: String) {
        self.stop(reason);
    }
    fn decommissioned(&self, reason: String) {
        self.stop(reason);
    }
    fn answer(&self, id: OrderId, answer: Result<Agreed, Refusal>) {
        self.note(format!("answer: {id:?} {answer:?}"));
    }
    fn stop(&self, reason: String) {
        self.note(format!("stop: {reason}"));
    }
}

struct Rig {
    gossip: Gossip,
    core: Arc<Mutex<Toy>>,
    mailbox: Mailbox,
    log: Arc<Log>,
    address: SocketAddr,
    other: UdpSocket,
}

fn rig(seeds: Vec<Seed>) -> Rig {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mailbox, letters) = Mailbox::new();
    let log = Arc::<Log>::default();
    let options = Options { socket, seeds, clock: SystemClock::start() };
    let core = Arc::<Mutex<Toy>>::default();
    let gossip =
        Gossip::start(core.clone(), (mailbox.clone(), letters), log.clone(), options).unwrap();
    Rig { gossip, core, mailbox, log, address, other }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn datagrams_timers_and_seeds_reach_the_core_and_its_answers_the_wire() {
    let mut rig = rig(vec![Seed::one("127.0.0.1", 9)]);
    rig.other.send_to(b"ping", rig.address).unwrap();
    let mut buffer = [0; 100];
    let (length, from) = rig.other.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"pong"[..], rig.address));
    rig.other.send_to(&vec![7; 60_000], rig.address).unwrap();
    until("ticks", || rig.core.lock().unwrap().ticks >= 3);
    until("seeds and a large datagram", || rig.core.lock().unwrap().seen.len() >= 2);
    assert!(rig.core.lock().unwrap().seen.contains(&"Seeds([127.0.0.1:9])".to_owned()));
    rig.gossip.stop();
    let report = rig.mailbox.report();
    assert_eq!((report.datagrams_in, report.datagrams_out), (2, 1));
}

#[test]
fn a_refused_batch_is_tried_again_before_a_later_one_is_begun() {
    let rig = rig(vec![]);
    let lines = || rig.log.0.lock().unwrap().clone();
    rig.mailbox.input(ControlInput::Message(NodeId(1), Bytes::from_static(&[1, 2])));
    until("the first", || lines().len() == 1);
    rig.mailbox.send(Mail::Refused(1));
    until("the first again", || lines().len() == 2);
    rig.mailbox.send(Mail::Stored(1));
    until("the second", || lines().len() == 3);
    rig.mailbox.send(Mail::Stored(2));
    assert_eq!(lines(), ["persist 1: 1", "persist 1: 1", "persist 2: 1"]);
    let seen = || rig.core.lock().unwrap().seen.clone();
    until("the reports", || seen().len() == 3);
    assert_eq!(seen()[1..], ["Persisted(1)", "Persisted(2)"]);
}

#[test]
fn a_core_that_panics_stops_the_node() {
    let rig = rig(vec![]);
    rig.other.send_to(b"panic", rig.address).unwrap();
    let stopped = || rig.log.0.lock().unwrap().iter().any(|line| line.contains("panicked"));
    until("the stop", stopped);
    assert!(rig.core.lock().is_err());
}

#[test]
fn messages_beyond_the_bound_are_dropped_and_news_is_not() {
    let (mailbox, _letters) = Mailbox::new();
    for _ in 0..MESSAGES_MAX + 5 {
        mailbox.input(ControlInput::Message(NodeId(1), Bytes::new()));
        mailbox.input(ControlInput::Broken(ConnId(1)));
    }
    assert_eq!(mailbox.report().messages_dropped, 5);
    assert_eq!(mailbox.report().messages_waiting, MESSAGES_MAX);
}
