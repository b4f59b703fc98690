//! Claims about arbitrary bytes.

use bytes::Bytes;
use proptest::prelude::*;

use super::founded;
use super::net::address;
use crate::protocol::control::admission::*;
use crate::protocol::control::founding::whole;
use crate::protocol::control::plan::Plan;
use crate::protocol::control::swim::DatagramHeader;
use crate::protocol::control::wire::*;
use crate::protocol::control::{ConnId, ControlInput, MemberState};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{Change, Member};
use crate::types::*;

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9:.]{0,20}"
}

fn node_name() -> impl Strategy<Value = NodeName> {
    "[a-z0-9-]{1,20}".prop_map(|text| NodeName::new(&text).unwrap())
}

prop_compose! {
    fn descriptor()(name in node_name(), id: u128, zone in text(), weight: u32) -> Descriptor {
        Descriptor { name, id: NodeId(id), zone, weight }
    }
}

prop_compose! {
    fn record()(
        descriptor in descriptor(), generation: u64, boot: u64, ip: std::net::IpAddr, port: u16,
        client in text(), admin in text(),
    ) -> PeerRecord {
        PeerRecord {
            descriptor,
            generation: Generation(generation),
            boot: Boot(boot),
            internal: (ip, port).into(),
            client,
            admin,
        }
    }
}

prop_compose! {
    fn promise()(
        name in node_name(), id: u128, round: u64, hash: u64,
        founders in proptest::collection::vec(descriptor(), 0..4),
    ) -> Promise {
        Promise { name, id: NodeId(id), round, hash, founders }
    }
}

prop_compose! {
    fn tag()(number: u32, hash: u64) -> PlacementTag {
        PlacementTag { number, hash }
    }
}

prop_compose! {
    fn plan()(
        tag in tag(),
        joins in proptest::collection::vec((node_name(), any::<u32>()), 0..3),
        leaves in proptest::collection::vec(node_name(), 0..3),
        reweighed in proptest::collection::vec((node_name(), any::<u32>()), 0..3),
        rezoned in proptest::collection::vec((node_name(), "[a-z]{0,9}"), 0..3),
        replicas: Option<u8>,
    ) -> Plan {
        let join = |(name, weight)| Member { name, zone: "z".to_owned(), weight };
        let joins = joins.into_iter().map(join).collect();
        Plan { tag, change: Change { joins, leaves, reweighed, rezoned, replicas } }
    }
}

prop_compose! {
    fn trackers()(
        name in node_name(), id: u128, count: u64, tags in [tag(), tag(), tag()], left: bool,
    ) -> Trackers {
        let [ack, sync, sync_ack] = tags;
        Trackers { name, id: NodeId(id), count, ack, sync, sync_ack, left }
    }
}

prop_compose! {
    fn version()(observer: u128, generation: u64, count: u64) -> ViewVersion {
        ViewVersion { observer: NodeId(observer), generation: Generation(generation), count }
    }
}

prop_compose! {
    fn view()(
        version in version(),
        entries in proptest::collection::vec(any::<(u128, u16, u64, bool, u8)>(), 0..4),
    ) -> NodeView {
        let entry = |(id, incarnation, epoch, reachable, state): (u128, u16, u64, bool, u8)| Sight {
            id: NodeId(id),
            state: [
                MemberState::Alive, MemberState::Suspect, MemberState::Down, MemberState::Unknown,
            ][usize::from(state % 4)],
            incarnation,
            epoch,
            reachable,
        };
        NodeView { version, entries: entries.into_iter().map(entry).collect() }
    }
}

prop_compose! {
    fn founding()(placement: Vec<u8>, ids in proptest::collection::vec((node_name(), any::<u128>()), 0..4))
        -> Founded
    {
        let ids = ids.into_iter().map(|(name, id)| (name, NodeId(id))).collect();
        Founded { placement: placement.into(), ids }
    }
}

fn digests() -> impl Strategy<Value = Digests> {
    any::<[u64; 6]>().prop_map(|[records, founded, promises, trackers, views, placements]| {
        Digests { records, founded, promises, trackers, views, placements }
    })
}

prop_compose! {
    fn push()(
        digests in proptest::option::of(digests()),
        records in proptest::option::of(proptest::collection::vec(record(), 0..4)),
        founded in proptest::option::of(founding()),
        admissions in proptest::option::of(proptest::collection::vec(admission(), 0..4)),
        promises in proptest::option::of(proptest::collection::vec(promise(), 0..4)),
        trackers in proptest::option::of(proptest::collection::vec(trackers(), 0..4)),
        views in proptest::collection::vec(view(), 0..4),
        versions in proptest::option::of(proptest::collection::vec(version(), 0..4)),
        placements in proptest::collection::vec(tag(), 0..4),
        wanted in proptest::collection::vec(tag(), 0..4),
        tables in proptest::collection::vec(any::<Vec<u8>>(), 0..4),
    ) -> Push {
        let tables = tables.into_iter().map(Bytes::from).collect();
        Push {
            digests, records, founded, admissions, promises, trackers, views, versions, placements,
            wanted, tables,
        }
    }
}

prop_compose! {
    fn admission()(number: u64, name in node_name(), id: u128, predecessor: u128) -> Admission {
        Admission { number, name, id: NodeId(id), predecessor: NodeId(predecessor) }
    }
}

prop_compose! {
    fn ballot()(round: u64, boot: u64) -> Ballot {
        Ballot { round, boot }
    }
}

prop_compose! {
    fn claim()(
        ballot in ballot(), admission in admission(), accept: bool, number: u32, hash: u64,
        ordered: bool,
    ) -> Claim {
        Claim { ballot, admission, accept, newest: PlacementTag { number, hash }, ordered }
    }
}

fn ruling() -> impl Strategy<Value = Ruling> {
    prop_oneof![
        proptest::option::of((ballot(), admission())).prop_map(Ruling::Promised),
        Just(Ruling::Accepted),
        ballot().prop_map(Ruling::Outbid),
        any::<u128>().prop_map(|id| Ruling::Lives(NodeId(id))),
        Just(Ruling::IsMember),
        Just(Ruling::NotYet),
    ]
}

prop_compose! {
    fn verdict()(number: u64, ballot in ballot(), ruling in ruling()) -> Verdict {
        Verdict { number, ballot, ruling }
    }
}

fn message() -> impl Strategy<Value = ControlMessage> {
    prop_oneof![
        any::<(u64, u64, u64)>().prop_map(|(generation, boot, number)| {
            let (generation, number) = (Generation(generation), CommitNumber(number));
            ControlMessage::Remember(Mark { generation, boot, number })
        }),
        Just(ControlMessage::Recalled),
        any::<u64>().prop_map(|boot| ControlMessage::Challenge(Boot(boot))),
        any::<u64>().prop_map(|boot| ControlMessage::Alive(Boot(boot))),
        digests().prop_map(ControlMessage::Digest),
        push().prop_map(|push| ControlMessage::Push(Box::new(push))),
        claim().prop_map(|claim| ControlMessage::Claim(Box::new(claim))),
        verdict().prop_map(|verdict| ControlMessage::Verdict(Box::new(verdict))),
    ]
}

prop_compose! {
    fn said()(boot: u64, cluster: Option<u128>, wall: u64, message in message()) -> Said {
        Said { boot: Boot(boot), cluster: cluster.map(ClusterId), wall: Wall(wall), message }
    }
}

prop_compose! {
    fn hello()(
        cluster_name in text(), cluster: Option<u128>, record in record(), epoch: u64, wall: u64,
    ) -> Hello {
        Hello { cluster_name, cluster: cluster.map(ClusterId), record, epoch, wall: Wall(wall) }
    }
}

proptest! {
    #[test]
    fn what_is_said_comes_back(said in said(), hello in hello()) {
        prop_assert_eq!(Said::decode(said.encode()), Ok(said));
        prop_assert_eq!(Hello::decode(hello.encode()), Ok(hello));
    }

    #[test]
    fn a_plan_comes_back(plan in plan()) {
        let mut bytes = Vec::new();
        plan.encode(&mut bytes);
        prop_assert_eq!(whole(&bytes.into(), Plan::decode), Some(plan));
    }

    #[test]
    fn damaged_messages_are_no_panic_and_never_two_readings(
        said in said(), at: usize, bit in 0u8..8, cut: usize,
    ) {
        let mut bytes = said.encode().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Said::decode(bytes.clone().into()) {
            prop_assert_eq!(other.encode(), bytes.clone());
        }
        bytes.truncate(cut % (bytes.len() + 1));
        let _ = Said::decode(bytes.into());
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _ = Hello::decode(bytes.clone());
        let _ = Said::decode(bytes.clone());
        let _ = DatagramHeader::unwrap(bytes);
    }

    #[test]
    fn a_datagram_comes_back_and_a_damaged_one_does_not(
        payload: Vec<u8>, cluster: Option<u128>, from: u128, boot: u64, at: usize, bit in 0u8..8,
    ) {
        let cluster = cluster.map(ClusterId);
        let header = DatagramHeader::new("demo", cluster, NodeId(from), Boot(boot));
        let bytes = header.wrap(&payload);
        prop_assert_eq!(DatagramHeader::unwrap(bytes.clone()), Ok((header, payload.into())));
        let mut damaged = bytes.to_vec();
        let at = at % damaged.len();
        damaged[at] ^= 1 << bit;
        prop_assert!(DatagramHeader::unwrap(damaged.into()) != DatagramHeader::unwrap(bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A peer that has gone mad, over its accepted stream and by well-formed datagrams.
    #[test]
    fn whatever_a_peer_says_is_no_panic(
        said in proptest::collection::vec(said(), 1..20),
        hellos in proptest::collection::vec(hello(), 1..20),
        junk in proptest::collection::vec(any::<Vec<u8>>(), 1..20),
        reason in "\\PC{0,40}",
    ) {
        let mut world = founded(50, 3);
        let cluster = world.nodes[0].view.as_ref().unwrap().cluster;
        let (id, boot) = (world.nodes[1].id, world.nodes[1].boot);
        let header = DatagramHeader::new("demo", Some(cluster), id, boot);
        for (i, mut said) in (1000..).zip(said) {
            (said.boot, said.cluster) = (boot, Some(cluster));
            // A memory that shows amnesia stops the node, as it must: not here.
            if !matches!(said.message, ControlMessage::Remember(_)) {
                world.step(0, ControlInput::Message(id, said.encode()));
            }
            world.step(0, ControlInput::Broken(ConnId(i)));
        }
        for (i, mut hello) in (2000..).zip(hellos) {
            hello.cluster_name = "demo".to_owned();
            hello.cluster = None;
            world.step(0, ControlInput::Hello(ConnId(i), hello.encode()));
        }
        for junk in junk {
            world.step(0, ControlInput::Message(id, junk.clone().into()));
            world.step(0, ControlInput::Datagram(address(1), header.wrap(&junk)));
            world.step(0, ControlInput::Datagram(address(1), junk.clone().into()));
            world.step(0, ControlInput::Hello(ConnId(9999), junk.into()));
        }
        world.step(0, ControlInput::Rejected(ConnId(9), reason));
        world.run_ms(3_000);
        prop_assert_eq!(&world.nodes[0].stopped, &None);
        prop_assert!(world.nodes[0].view.is_some());
    }
}
