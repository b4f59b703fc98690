//! Orders of operators: what reaches the core, and how its refusals are told.

use std::time::Duration;

use coterie::api::backend::{MemberStatus, NodeStatus};
use coterie::client::{Client, Error, ErrorKind, Options};
use coterie::proto::{ApplyRequest, PlanRequest, RemoveRequest, RingChange};
use coterie::protocol::control::{Agreed, ChangeReport, Order, Refusal, Waits};
use coterie::protocol::message::PlacementTag;
use coterie::protocol::placement::PlanRefused;
use coterie::protocol::progress::Waiting;
use coterie::types::NodeName;
use tonic::Code;

use crate::fake::{Fake, Server};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

const MADE: PlacementTag = PlacementTag { number: 2, hash: 0xab };

/// A node that has heard of node-4, which is no member, and agrees to everything.
fn willing() -> Fake {
    let node = Fake::default();
    let member = |weight| MemberStatus {
        name: "node-4".to_owned(),
        zone: "zone-node-0".to_owned(),
        weight,
        ..MemberStatus::default()
    };
    let mut state = node.state.lock().unwrap();
    state.order_ends = Some(Ok(Agreed { placement: Some(MADE) }));
    let members = vec![member(2)];
    state.status = Some(NodeStatus { name: "node-0".to_owned(), members, ..NodeStatus::default() });
    drop(state);
    node
}

async fn serve(node: &Fake) -> (Server, Client) {
    let server = node.serve().await;
    let client = Client::connect([&server.address], Options::default()).unwrap();
    (server, client)
}

/// The plan that node-4 joins, as it is applied.
async fn plan(client: &Client, server: &Server) -> ApplyRequest {
    let change = Some(RingChange { joins: vec!["node-4".to_owned()], ..RingChange::default() });
    let asked = PlanRequest { change: change.clone(), ..PlanRequest::default() };
    let plan = client.plan(&server.address, asked).await.unwrap();
    ApplyRequest { change, parent: plan.parent, tag: plan.tag }
}

#[tokio::test]
async fn a_plan_is_ordered_on_the_version_that_it_was_made_on() {
    let node = willing();
    let (server, client) = serve(&node).await;
    let asked = plan(&client, &server).await;
    let agreed = client.apply(&server.address, asked.clone()).await.unwrap();
    assert_eq!((agreed.name.as_str(), agreed.tag.as_str()), ("node-0", "2:00000000000000ab"));
    let ordered = node.state.lock().unwrap().ordered.remove(0);
    let Order::Apply { expected, change } = ordered else { panic!("{ordered:?}") };
    assert_eq!(format!("{}:{:016x}", expected.number, expected.hash), asked.parent);
    assert_eq!((change.joins[0].name.as_str(), change.joins[0].weight), ("node-4", 2));
}

#[tokio::test]
async fn a_plan_of_another_version_or_with_another_outcome_is_not_ordered() {
    let node = willing();
    let (server, client) = serve(&node).await;
    let asked = plan(&client, &server).await;
    let stale = ApplyRequest { parent: "1:00000000000000aa".to_owned(), ..asked.clone() };
    let refused = client.apply(&server.address, stale).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Code::Aborted, "PLAN_STALE"));
    assert!(refused.message().contains("make the plan anew"), "{refused}");
    // Meanwhile who joins has been started with another weight.
    node.state.lock().unwrap().status.as_mut().unwrap().members[0].weight = 3;
    let refused = client.apply(&server.address, asked.clone()).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Code::Aborted, "PLAN_STALE"));
    assert!(refused.message().contains("another zone or weight"), "{refused}");
    for wrong in ["", "1", "one:00", "1:xyz"] {
        let nonsense = ApplyRequest { parent: wrong.to_owned(), ..asked.clone() };
        let refused = client.apply(&server.address, nonsense).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{wrong}");
    }
    let nothing = ApplyRequest { change: None, tag: String::new(), ..asked };
    let refused = client.apply(&server.address, nothing).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Code::FailedPrecondition, "PLAN_REFUSED"));
    assert!(node.state.lock().unwrap().ordered.is_empty());
}

#[tokio::test]
async fn a_removal_has_no_version_yet_and_says_what_it_accepts() {
    let node = willing();
    node.state.lock().unwrap().order_ends = Some(Ok(Agreed { placement: None }));
    let (server, client) = serve(&node).await;
    let asked =
        RemoveRequest { name: "node-3".to_owned(), force: true, ..RemoveRequest::default() };
    let agreed = client.remove(&server.address, asked).await.unwrap();
    assert_eq!(agreed.tag, "");
    let want = Order::Remove { name: name("node-3"), force: true, accept_loss: false };
    assert_eq!(node.state.lock().unwrap().ordered, [want]);
    let refused = client.decommission(&server.address, "Not A Name").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn every_refusal_is_told_with_a_code_a_name_and_what_to_do() {
    let node = willing();
    let (server, client) = serve(&node).await;
    let gone = || name("node-3");
    let tag = |number| PlacementTag { number, hash: 1 };
    let under_way = Refusal::UnderWay { newest: 2, waits: "; start node-2".to_owned() };
    let earlier = vec![name("node-2")];
    for (refusal, code, reason, says) in [
        (Refusal::NotReady("x".into()), Code::Unavailable, "NOT_READY", "a member that is ready"),
        (Refusal::Busy, Code::Aborted, "ORDER_UNDER_WAY", "another operator's order"),
        (under_way, Code::FailedPrecondition, "CHANGE_UNDER_WAY", "start node-2"),
        (
            Refusal::Stale { expected: tag(1), newest: tag(2) },
            Code::Aborted,
            "PLAN_STALE",
            "make the plan anew",
        ),
        (Refusal::Absent(gone()), Code::FailedPrecondition, "NODE_ABSENT", "start it"),
        (Refusal::OldDisk(gone()), Code::FailedPrecondition, "DISK_HAS_LEFT", "empty data folder"),
        (
            Refusal::Plan(PlanRefused::MemberUnknown(gone())),
            Code::NotFound,
            "NO_SUCH_MEMBER",
            "`coterie ring` lists",
        ),
        (
            Refusal::Plan(PlanRefused::TooFew { wanted: 3, left: 2 }),
            Code::FailedPrecondition,
            "PLAN_REFUSED",
            "join others first",
        ),
        (
            Refusal::Unreachable(gone()),
            Code::FailedPrecondition,
            "MEMBER_UNREACHABLE",
            "remove node-3 --force",
        ),
        (Refusal::NeedsForce(gone()), Code::InvalidArgument, "NEEDS_FORCE", "decommission node-3"),
        (Refusal::Lives(gone()), Code::FailedPrecondition, "MEMBER_LIVES", "or stop it"),
        (
            Refusal::NotRepaired { name: gone(), earlier },
            Code::FailedPrecondition,
            "REMOVAL_NOT_OVER",
            "--accept-loss",
        ),
        (
            Refusal::NoMajority { name: gone(), there: 1, members: 3 },
            Code::Unavailable,
            "NO_MAJORITY",
            "start others",
        ),
    ] {
        node.state.lock().unwrap().order_ends = Some(Err(refusal));
        let told = client.decommission(&server.address, "node-3").await.unwrap_err();
        assert_eq!((told.code(), told.reason()), (code, reason), "{told}");
        assert!(told.message().contains(says) && told.outcome_is_known(), "{told}");
    }
}

/// A node that says that it did not hear in time, and one that says nothing.
#[tokio::test]
async fn an_order_without_an_answer_may_have_been_carried_out() {
    let node = willing();
    let server = node.serve().await;
    let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
    let client = Client::connect([&server.address], options).unwrap();
    let unknown = |told: &Error| {
        assert_eq!((told.kind(), told.outcome_is_known()), (ErrorKind::Timeout, false), "{told}");
        assert!(told.to_string().contains("outcome unknown"), "{told}");
    };
    let said = Refusal::NoAnswer(" (node-1 hears it)".to_owned());
    node.state.lock().unwrap().order_ends = Some(Err(said));
    let told = client.decommission(&server.address, "node-3").await.unwrap_err();
    unknown(&told);
    assert!(told.message().contains("node-1 hears it") && told.is_an_answer(), "{told}");
    node.state.lock().unwrap().order_ends = None;
    unknown(&client.decommission(&server.address, "node-3").await.unwrap_err());
    drop(server.stop);
    server.ended.await.unwrap();
    let told = client.decommission(&server.address, "node-3").await.unwrap_err();
    assert!(told.outcome_is_known(), "it was never sent: {told}");
}

#[tokio::test]
async fn the_status_tells_how_far_a_change_is() {
    let node = willing();
    let wait = Waits {
        name: "node-3".to_owned(),
        stage: "sync".to_owned(),
        version: "2:ab".to_owned(),
        since_ms: 7,
        reachable: false,
        remedy: "start node-3".to_owned(),
    };
    node.state.lock().unwrap().status.as_mut().unwrap().change = ChangeReport {
        live: vec!["1:aa".to_owned(), "2:ab".to_owned()],
        reads: "1:aa".to_owned(),
        all_acked: "2:ab".to_owned(),
        members: 4,
        acked: 4,
        synced: 2,
        reading: 0,
        waits: vec![wait],
        left: Waiting { ops: 1, reads: 2, exchanges: 3, hints: 4 },
    };
    let (server, client) = serve(&node).await;
    let change = client.status(&server.address).await.unwrap().change.unwrap();
    assert_eq!((change.live.len(), change.reads.as_str()), (2, "1:aa"));
    assert_eq!((change.members, change.acked, change.synced, change.reading), (4, 4, 2, 0));
    assert_eq!(
        (change.waits[0].remedy.as_str(), change.waits[0].reachable),
        ("start node-3", false)
    );
    let left = change.left.unwrap();
    assert_eq!((left.operations, left.reads, left.partitions, left.hints), (1, 2, 3, 4));
}
