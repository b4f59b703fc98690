//! Changes of the ring, as operators ask for them.
//!
//! What is asked for is made whole with what this node knows: a name that joins has the zone and
//! the weight that its node says. A zone that no member is in is refused unless it is said to be new: one
//! that is misspelt would put replicas side by side that are meant to be apart.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Status;

use super::backend::{MemberStatus, NodeStatus};
use super::error;
use super::request::Fields;
use crate::proto;
use crate::protocol::placement::{Change, MEMBERS_MAX, Member, Placement, Plan, Stage, View};
use crate::types::NodeName;

/// Names in one change: each member may leave or be changed twice, and as many may join.
const NAMES_MAX: usize = 4 * MEMBERS_MAX;

/// What a node that was not heard of is taken to weigh: as much as one whose configuration says nothing of it.
const WEIGHT_UNHEARD: u32 = 100;

/// A change, and the names that join in it without having been heard of.
pub(super) struct Asked {
    pub(super) change: Change,
    pub(super) unheard: Vec<NodeName>,
}

/// What a change would come to.
pub(super) fn plan(
    request: proto::PlanRequest,
    view: &View,
    status: &NodeStatus,
) -> Result<proto::PlanResponse, Status> {
    let parent = &view.newest().placement;
    let asked = parse(request.change.unwrap_or_default(), parent, status)?;
    let reachable: BTreeSet<&str> = status
        .members
        .iter()
        .filter(|member| member.home && member.reachable)
        .map(|member| member.name.as_str())
        .collect();
    let joins = |name: &NodeName| asked.change.joins.iter().any(|member| member.name == *name);
    let alive =
        |name: &NodeName| *name == view.name || reachable.contains(name.as_str()) || joins(name);
    let plan = Plan::new(parent, &asked.change, alive, |_| request.partition_bytes);
    let plan = plan.map_err(|refused| error::plan_refused(&refused))?;
    let rate = request.bytes_per_second;
    let takes = plan.takes(rate).filter(|_| rate > 0 && request.partition_bytes > 0);
    let moves = plan.moves.iter().map(|moved| proto::Move {
        from: moved.from.to_string(),
        to: moved.to.to_string(),
        partitions: moved.partitions,
        bytes: moved.bytes,
    });
    Ok(proto::PlanResponse {
        name: view.name.to_string(),
        parent: parent.tag.to_string(),
        tag: plan.placement.tag.to_string(),
        replicas: plan.placement.replicas.into(),
        members: u32::try_from(plan.placement.members.len()).unwrap_or(u32::MAX),
        moves: moves.collect(),
        before: Some(stage(plan.before)),
        during: Some(stage(plan.during)),
        after: Some(stage(plan.after)),
        takes_ms: takes.map_or(0, |takes| u64::try_from(takes.as_millis()).unwrap_or(u64::MAX)),
        unheard: asked.unheard.iter().map(ToString::to_string).collect(),
        under_way: view.is_changing(),
    })
}

fn stage(stage: Stage) -> proto::Stage {
    proto::Stage { copies_min: stage.copies_min.into(), unwritable: stage.unwritable }
}

/// The change that is asked for.
pub(super) fn parse(
    asked: proto::RingChange,
    parent: &Placement,
    status: &NodeStatus,
) -> Result<Asked, Status> {
    let mut fields = Fields::default();
    let lists = [asked.joins.len(), asked.leaves.len(), asked.weights.len(), asked.zones.len()];
    if lists.iter().sum::<usize>() > NAMES_MAX {
        fields.refuse::<()>("change", format!("it names more than {NAMES_MAX} nodes"));
        return Err(fields.into_status());
    }
    let joining = names(&mut fields, "joins", asked.joins);
    let leaves = names(&mut fields, "leaves", asked.leaves);
    let mut reweighed = Vec::new();
    for new in asked.weights {
        let name = names(&mut fields, "weights", vec![new.name]);
        reweighed.extend(name.into_iter().map(|name| (name, new.weight)));
    }
    let mut rezoned = Vec::new();
    for new in asked.zones {
        let name = names(&mut fields, "zones", vec![new.name]);
        rezoned.extend(name.into_iter().map(|name| (name, new.zone.clone())));
    }
    let heard: BTreeMap<&str, &MemberStatus> = status
        .members
        .iter()
        .filter(|member| member.weight > 0)
        .map(|member| (member.name.as_str(), member))
        .collect();
    let (mut joins, mut unheard) = (Vec::new(), Vec::new());
    for name in joining {
        let said = heard.get(name.as_str());
        let zone = take(&mut rezoned, &name).or(said.map(|said| said.zone.clone()));
        let weight = take(&mut reweighed, &name).or(said.map(|said| said.weight));
        if said.is_none() {
            unheard.push(name.clone());
        }
        joins.push(Member {
            name,
            zone: zone.unwrap_or_default(),
            weight: weight.unwrap_or(WEIGHT_UNHEARD),
        });
    }
    let replicas = match asked.replicas {
        0 => None,
        n => Some(u8::try_from(n).unwrap_or(u8::MAX)),
    };
    let change = Change { joins, leaves, reweighed, rezoned, replicas };
    refuse_unknown_zones(&mut fields, &change, parent, &asked.new_zones);
    if fields.any_refused() { Err(fields.into_status()) } else { Ok(Asked { change, unheard }) }
}

fn names(fields: &mut Fields, field: &str, texts: Vec<String>) -> Vec<NodeName> {
    let name = |text: String| match NodeName::new(&text) {
        Ok(name) => Some(name),
        Err(invalid) => fields.refuse(field, invalid.to_string()),
    };
    texts.into_iter().filter_map(name).collect()
}

/// Takes what is said of a name out of a list. Said twice, the second stays, and is refused with
/// the plan.
fn take<T>(list: &mut Vec<(NodeName, T)>, name: &NodeName) -> Option<T> {
    let at = list.iter().position(|(other, _)| other == name)?;
    Some(list.remove(at).1)
}

fn refuse_unknown_zones(
    fields: &mut Fields,
    change: &Change,
    parent: &Placement,
    new_zones: &[String],
) {
    let known: BTreeSet<&str> = parent
        .members
        .iter()
        .map(|member| member.zone.as_str())
        .filter(|zone| !zone.is_empty())
        .collect();
    let joining = change.joins.iter().map(|member| &member.zone);
    let named: BTreeSet<&String> =
        joining.chain(change.rezoned.iter().map(|(_, zone)| zone)).collect();
    for zone in named {
        if zone.is_empty() || known.contains(zone.as_str()) || new_zones.contains(zone) {
            continue;
        }
        let there = match known.len() {
            0 => "no member has a zone".to_owned(),
            _ => format!("there are {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
        };
        let told = format!(
            "no member is in zone {zone:?}; {there}: correct it, or say that it is new \
             (--new-zone {zone})"
        );
        fields.refuse::<()>("zones", told);
    }
}
