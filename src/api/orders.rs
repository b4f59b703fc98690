//! Orders of operators: parsed into what the control core takes, and its refusals told.
//!
//! | why it was refused | code |
//! |---|---|
//! | what is asked for is not valid | `INVALID_ARGUMENT` |
//! | there is no such member | `NOT_FOUND` |
//! | the ring, or a node, is not as it has to be | `FAILED_PRECONDITION` |
//! | the plan is of another version, or another order is being carried out | `ABORTED` |
//! | this node, or a majority, is not there | `UNAVAILABLE` |
//! | no answer in time: it may yet be carried out | `DEADLINE_EXCEEDED` |

use std::time::Duration;

use tonic::{Code, Status};

use super::backend::{Backend, NodeStatus};
use super::request::Fields;
use super::{changes, error};
use crate::proto;
use crate::protocol::control::{Agreed, Order, Refusal};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{PlanRefused, View};
use crate::types::NodeName;

/// A little longer than the control core works on an order: what it has to say is worth waiting for.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// Gives an order to the node, and tells what came of it.
pub(super) async fn give<B: Backend>(
    backend: &B,
    order: Order,
    within: Duration,
) -> Result<proto::OrderResponse, Status> {
    let answer = tokio::time::timeout(within, backend.order(order)).await;
    let silent = || Err(Refusal::NoAnswer(" (this node has not answered)".to_owned()));
    match answer.unwrap_or_else(|_| silent()) {
        Ok(Agreed { placement }) => Ok(proto::OrderResponse {
            name: backend.status().name,
            tag: placement.map(|tag| tag.to_string()).unwrap_or_default(),
        }),
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// The order to carry a plan out.
pub(super) fn apply(
    request: proto::ApplyRequest,
    view: &View,
    status: &NodeStatus,
) -> Result<Order, Status> {
    let mut fields = Fields::default();
    let expected = tag(&mut fields, "parent", &request.parent);
    let made = match request.tag.as_str() {
        "" => Some(None),
        text => tag(&mut fields, "tag", text).map(Some),
    };
    let (Some(expected), Some(made)) = (expected, made) else { return Err(fields.into_status()) };
    let parent = &view.newest().placement;
    if expected != parent.tag {
        return Err(refused(&Refusal::Stale { expected, newest: parent.tag }));
    }
    let asked = changes::parse(request.change.unwrap_or_default(), parent, status)?;
    let makes = parent.next(&asked.change).map_err(|refused| error::plan_refused(&refused))?.tag;
    if let Some(planned) = made.filter(|planned| *planned != makes) {
        let message = format!(
            "the plan makes placement version {planned}, and this makes {makes}: a node that joins says \
             another zone or weight than then; make the plan anew"
        );
        return Err(error::order_refused("PLAN_STALE", Code::Aborted, message));
    }
    Ok(Order::Apply { expected, change: asked.change })
}

/// The name of a node.
pub(super) fn name(text: &str) -> Result<NodeName, Status> {
    let mut fields = Fields::default();
    NodeName::new(text).map_err(|invalid| {
        fields.refuse::<()>("name", invalid.to_string());
        fields.into_status()
    })
}

fn tag(fields: &mut Fields, field: &str, text: &str) -> Option<PlacementTag> {
    let parsed = text.split_once(':').and_then(|(number, hash)| {
        let hash = u64::from_str_radix(hash, 16).ok()?;
        Some(PlacementTag { number: number.parse().ok()?, hash })
    });
    parsed.or_else(|| {
        let told = format!("{text:?} is no placement version, NUMBER:HASH, as a plan names it");
        fields.refuse(field, told)
    })
}

fn refused(refusal: &Refusal) -> Status {
    let (name, code) = match refusal {
        Refusal::NotReady(_) => ("NOT_READY", Code::Unavailable),
        Refusal::Busy => ("ORDER_UNDER_WAY", Code::Aborted),
        Refusal::UnderWay { .. } => ("CHANGE_UNDER_WAY", Code::FailedPrecondition),
        Refusal::Stale { .. } => ("PLAN_STALE", Code::Aborted),
        Refusal::Absent(_) => ("NODE_ABSENT", Code::FailedPrecondition),
        Refusal::OldDisk(_) => ("DISK_HAS_LEFT", Code::FailedPrecondition),
        Refusal::Plan(PlanRefused::MemberUnknown(_)) => ("NO_SUCH_MEMBER", Code::NotFound),
        Refusal::Plan(refused) => return error::plan_refused(refused),
        Refusal::Unreachable(_) => ("MEMBER_UNREACHABLE", Code::FailedPrecondition),
        Refusal::NeedsForce(_) => ("NEEDS_FORCE", Code::InvalidArgument),
        Refusal::Lives(_) => ("MEMBER_LIVES", Code::FailedPrecondition),
        Refusal::NotRepaired { .. } => ("REMOVAL_NOT_OVER", Code::FailedPrecondition),
        Refusal::NoMajority { .. } => ("NO_MAJORITY", Code::Unavailable),
        Refusal::NoAnswer(_) => return error::order_unknown(&refusal.to_string()),
    };
    error::order_refused(name, code, refusal.to_string())
}
