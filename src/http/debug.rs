//! What a node knows of the ring and keeps for others, as JSON.

use serde_json::{Value, json};

use crate::api::backend::HintsHeld;
use crate::protocol::control::ChangeReport;
use crate::protocol::placement::View;

/// The newest placement, with the homes of each partition, and how far a change is.
pub(super) fn ring(view: &View, change: &ChangeReport) -> Value {
    let version = view.newest();
    let placement = &version.placement;
    let members = placement.members.iter().zip(placement.loads()).map(|(member, load)| {
        json!({
            "name": member.name,
            "zone": member.zone,
            "weight": member.weight,
            "partitions": load.partitions,
            "primaries": load.primaries,
        })
    });
    let table = placement.table.chunks(usize::from(placement.replicas)).enumerate();
    let homes = table.map(|(partition, homes)| {
        let names: Vec<&str> =
            homes.iter().map(|&home| version.member_name(home).as_str()).collect();
        json!({ "partition": partition, "homes": names })
    });
    json!({
        "node": view.name,
        "number": placement.tag.number,
        "hash": format!("{:016x}", placement.tag.hash),
        "replicas": placement.replicas,
        "partitions": placement.partitions,
        "change": change,
        "members": members.collect::<Vec<_>>(),
        "homes": homes.collect::<Vec<_>>(),
    })
}

/// The hints by target.
pub(super) fn hints(node: &str, held: &HintsHeld) -> Value {
    let targets = held.targets.iter().map(|held| {
        json!({
            "target": held.target,
            "hints": held.hints,
            "bytes": held.bytes,
            "damaged": held.damaged,
            "oldest_write_ms": held.oldest_write.map(|wall| wall.0),
        })
    });
    json!({ "node": node, "complete": held.complete, "targets": targets.collect::<Vec<_>>() })
}
