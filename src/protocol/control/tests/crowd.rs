//! Gossip among a thousand: what it costs, and how soon news is known to all.
//!
//! Membership alone, without streams: a thousand nodes would have half a million of those, and none
//! carries what is measured here. Nodes announce themselves as the core does, to a few of those that
//! they know, for ever.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::protocol::control::gossip::{ANNOUNCE_EVERY_MS, ANNOUNCE_SPREAD_MS, ANNOUNCE_TO};
use crate::protocol::control::swim::{DatagramHeader, GossipId, Swim, SwimTimer, Wish};
use crate::protocol::control::wire::MemberState;
use crate::types::{Boot, NodeId};

const MEMBERS: usize = 1_000;
const SECOND: u64 = 1_000_000;
/// Bytes of IP and UDP before each datagram.
const UDP_BYTES: u64 = 28;
/// One datagram in a hundred is lost.
const LOST: (u32, u32) = (1, 100);

enum Event {
    Datagram(usize, bytes::Bytes),
    Timer(usize, SwimTimer),
    Announce(usize),
}

struct Crowd {
    now: u64,
    swims: Vec<Swim>,
    is_dead: Vec<bool>,
    sent: Vec<u64>,
    /// By time, then in the order in which they came.
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    rng: ChaCha8Rng,
}

fn gossip_id(node: usize) -> GossipId {
    let place = u32::try_from(node).unwrap() + 1;
    let addr = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x7f00_0000 + place), 7401));
    GossipId { id: NodeId(place.into()), epoch: 1 << 16, boot: Boot(place.into()), addr }
}

impl Crowd {
    fn new(seed: u64) -> Self {
        Self {
            now: 0,
            swims: vec![],
            is_dead: vec![],
            sent: vec![],
            events: BTreeMap::new(),
            count: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn after(&mut self, micros: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now + micros, self.count), event);
    }

    /// Members that know each other.
    fn of(count: usize, seed: u64) -> Self {
        let mut crowd = Self::new(seed);
        for node in 0..count {
            let others = (0..count).filter(|other| *other != node);
            crowd.start(Swim::new(gossip_id(node), node as u64), |swim| {
                swim.know(others.map(gossip_id));
            });
        }
        crowd
    }

    /// A node starts that knows one other.
    fn join(&mut self, seed: usize) {
        let node = self.swims.len();
        self.start(Swim::new(gossip_id(node), node as u64), |swim| swim.announce(gossip_id(seed)));
    }

    fn start(&mut self, mut swim: Swim, learn: impl FnOnce(&mut Swim)) {
        let node = self.swims.len();
        swim.tune(u32::try_from(MEMBERS).unwrap());
        learn(&mut swim);
        self.swims.push(swim);
        self.is_dead.push(false);
        self.sent.push(0);
        self.carry_out(node);
        let first = self.rng.random_range(0..ANNOUNCE_EVERY_MS * 1_000);
        self.after(first, Event::Announce(node));
    }

    fn carry_out(&mut self, node: usize) {
        let header = DatagramHeader::new("crowd", None, gossip_id(node).id, Boot(0));
        for wish in self.swims[node].wishes() {
            match wish {
                Wish::Send(to, payload) => {
                    self.sent[node] += header.wrap(&payload).len() as u64 + UDP_BYTES;
                    let to = usize::try_from(to.id.0).unwrap() - 1;
                    if !self.rng.random_ratio(LOST.0, LOST.1) {
                        let delay = self.rng.random_range(200..2_000);
                        self.after(delay, Event::Datagram(to, payload));
                    }
                }
                Wish::Schedule(after, timer) => {
                    let micros = u64::try_from(after.as_micros()).unwrap();
                    self.after(micros, Event::Timer(node, timer));
                }
                Wish::Changed => {}
                Wish::Dead => panic!("node {node} is held for dead"),
            }
        }
    }

    fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        while let Some(next) = self.events.first_entry() {
            let at = next.key().0;
            if at > end {
                break;
            }
            let event = next.remove();
            self.now = at;
            let (Event::Datagram(node, _) | Event::Timer(node, _) | Event::Announce(node)) = event;
            if self.is_dead[node] {
                continue;
            }
            match event {
                Event::Datagram(_, payload) => self.swims[node].datagram(&payload),
                Event::Timer(_, timer) => self.swims[node].timer(timer),
                Event::Announce(_) => self.announce(node),
            }
            self.carry_out(node);
        }
        self.now = end;
    }

    fn announce(&mut self, node: usize) {
        let known: Vec<GossipId> = self.swims[node].members().iter().map(|seen| seen.who).collect();
        for _ in 0..ANNOUNCE_TO.min(known.len()) {
            let to = known[self.rng.random_range(0..known.len())];
            self.swims[node].announce(to);
        }
        let spread = self.rng.random_range(0..=ANNOUNCE_SPREAD_MS);
        self.after((ANNOUNCE_EVERY_MS + spread) * 1_000, Event::Announce(node));
    }

    /// How many living nodes do not see another so.
    fn unaware(&self, of: usize, state: MemberState) -> usize {
        let living = (0..self.swims.len()).filter(|node| *node != of && !self.is_dead[*node]);
        let sees = |node: &usize| {
            let seen = self.swims[*node].members();
            let of = seen.binary_search_by_key(&gossip_id(of).id, |seen| seen.who.id);
            of.is_ok_and(|at| seen[at].state == state)
        };
        living.filter(|node| !sees(node)).count()
    }

    /// Seconds until all living nodes see another so.
    fn until_all_see(&mut self, of: usize, state: MemberState) -> u64 {
        let began = self.now;
        while self.unaware(of, state) > 0 {
            assert!(self.now - began < 60 * SECOND, "{} are unaware", self.unaware(of, state));
            self.run(SECOND);
        }
        (self.now - began) / SECOND
    }
}

#[test]
fn a_thousand_members_learn_of_a_join_and_of_a_death_soon_and_say_little_when_idle() {
    let mut crowd = Crowd::of(MEMBERS, 1);
    crowd.run(10 * SECOND);
    let before = crowd.sent.clone();
    crowd.run(40 * SECOND);
    let rates = crowd.sent.iter().zip(before).map(|(now, before)| (now - before) / 40);
    let most = rates.max().unwrap();
    assert!(most <= 2_000, "{most} bytes/s");
    crowd.join(500);
    let took = crowd.until_all_see(MEMBERS, MemberState::Alive);
    assert!(took <= 25, "{took} s");
    crowd.is_dead[7] = true;
    let took = crowd.until_all_see(7, MemberState::Down);
    assert!(took <= 25, "{took} s");
}
