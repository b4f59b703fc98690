//! The operator's service.
//!
//! Whatever is asked is asked of one node, and answered from what that node knows or holds: to
//! put the answers of several together is left to whoever asks, who then knows whom they are of.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::backend::{Backend, HintsHeld, MemberStatus, NodeStatus};
use super::request::{Fields, timeout};
use super::{changes, error, inspection, orders};
use crate::proto;
use crate::proto::admin_server::Admin;
use crate::protocol::control::{ChangeReport, Order, Waits};
use crate::protocol::op::{Action, Failure, Reason};
use crate::protocol::placement::{Placement, View};
use crate::protocol::step::{ReadFailed, RepairReport, Stats};
use crate::types::Key;

/// Hints are counted for so long at most, and no longer than the caller waits: a count that takes longer is told as incomplete.
const COUNT_FOR: Duration = Duration::from_secs(2);

pub(super) struct AdminService<B> {
    backend: B,
}

impl<B: Backend> AdminService<B> {
    pub(super) fn new(backend: B) -> Self {
        Self { backend }
    }

    fn view(&self) -> Result<Arc<View>, Status> {
        let not_founded = || error::failed(&Failure::before(Reason::NotFounded), &Action::Get);
        self.backend.view().ok_or_else(not_founded)
    }
}

#[tonic::async_trait]
impl<B: Backend> Admin for AdminService<B> {
    async fn status(
        &self,
        _: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        Ok(Response::new(status(self.backend.status())))
    }

    async fn members(
        &self,
        _: Request<proto::MembersRequest>,
    ) -> Result<Response<proto::MembersResponse>, Status> {
        let status = self.backend.status();
        let members = status.members.into_iter().map(member).collect();
        Ok(Response::new(proto::MembersResponse { name: status.name, members }))
    }

    async fn repair(
        &self,
        _: Request<proto::RepairRequest>,
    ) -> Result<Response<proto::RepairResponse>, Status> {
        let status = self.backend.status();
        Ok(Response::new(proto::RepairResponse {
            name: status.name,
            repair: Some(repair(&status.repair)),
            rebuilding: status.rebuilding.unwrap_or_default(),
        }))
    }

    async fn ring(
        &self,
        _: Request<proto::RingRequest>,
    ) -> Result<Response<proto::RingResponse>, Status> {
        let view = self.view()?;
        Ok(Response::new(ring(view.name.to_string(), &view.newest().placement)))
    }

    async fn plan(
        &self,
        request: Request<proto::PlanRequest>,
    ) -> Result<Response<proto::PlanResponse>, Status> {
        let view = self.view()?;
        let told = changes::plan(request.into_inner(), &view, &self.backend.status())?;
        Ok(Response::new(told))
    }

    async fn apply(
        &self,
        request: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::OrderResponse>, Status> {
        let view = self.view()?;
        let within = timeout(request.metadata(), orders::ANSWER_WITHIN);
        let order = orders::apply(request.into_inner(), &view, &self.backend.status())?;
        orders::give(&self.backend, order, within).await.map(Response::new)
    }

    async fn decommission(
        &self,
        request: Request<proto::DecommissionRequest>,
    ) -> Result<Response<proto::OrderResponse>, Status> {
        let within = timeout(request.metadata(), orders::ANSWER_WITHIN);
        let order = Order::Decommission(orders::name(&request.into_inner().name)?);
        orders::give(&self.backend, order, within).await.map(Response::new)
    }

    async fn remove(
        &self,
        request: Request<proto::RemoveRequest>,
    ) -> Result<Response<proto::OrderResponse>, Status> {
        let within = timeout(request.metadata(), orders::ANSWER_WITHIN);
        let proto::RemoveRequest { name, force, accept_loss } = request.into_inner();
        let order = Order::Remove { name: orders::name(&name)?, force, accept_loss };
        orders::give(&self.backend, order, within).await.map(Response::new)
    }

    async fn locate(
        &self,
        request: Request<proto::LocateRequest>,
    ) -> Result<Response<proto::LocateResponse>, Status> {
        let key = key(request.into_inner().key)?;
        let view = self.view()?;
        Ok(Response::new(locate(&view, &key, &self.backend.status())))
    }

    async fn inspect(
        &self,
        request: Request<proto::InspectRequest>,
    ) -> Result<Response<proto::InspectResponse>, Status> {
        let key = key(request.into_inner().key)?;
        let view = self.view()?;
        let found = self.backend.inspect(view.clone(), key).await.map_err(unread)?;
        Ok(Response::new(inspection::told(&view, found)))
    }

    async fn hints(
        &self,
        request: Request<proto::HintsRequest>,
    ) -> Result<Response<proto::HintsResponse>, Status> {
        let within = timeout(request.metadata(), COUNT_FOR);
        let held = self.backend.hints(within).await.map_err(unread)?;
        Ok(Response::new(hints(self.backend.status(), held)))
    }
}

fn key(bytes: bytes::Bytes) -> Result<Key, Status> {
    let mut fields = Fields::default();
    let key = fields.key(bytes);
    key.ok_or_else(|| fields.into_status())
}

fn unread(_: ReadFailed) -> Status {
    error::unread("the store of this node could not be read: its log says why")
}

fn ring(name: String, placement: &Placement) -> proto::RingResponse {
    let members = placement.members.iter().zip(placement.loads());
    let members = members.map(|(member, load)| proto::RingMember {
        name: member.name.to_string(),
        zone: member.zone.clone(),
        weight: member.weight,
        partitions: load.partitions,
        primaries: load.primaries,
    });
    proto::RingResponse {
        name,
        number: placement.tag.number,
        hash: format!("{:016x}", placement.tag.hash),
        replicas: placement.replicas.into(),
        partitions: placement.partitions.into(),
        members: members.collect(),
        homes: placement.table.iter().map(|&home| home.into()).collect(),
    }
}

fn locate(view: &View, key: &Key, status: &NodeStatus) -> proto::LocateResponse {
    let (partition, version) = (key.partition(view.partitions()), view.newest());
    let place = |member: &u16| {
        let name = version.member_name(*member).as_str();
        let known = status.members.iter().find(|known| known.name == name);
        proto::Place {
            name: name.to_owned(),
            client_address: known.map(|known| known.client_address.clone()).unwrap_or_default(),
            reachable: name == view.name.as_str() || known.is_some_and(|known| known.reachable),
        }
    };
    proto::LocateResponse {
        name: view.name.to_string(),
        partition: partition.0.into(),
        placement_number: version.tag().number,
        homes: version.homes(partition).iter().map(place).collect(),
        fallbacks: version.fallbacks(partition).iter().map(place).collect(),
    }
}

fn hints(status: NodeStatus, held: HintsHeld) -> proto::HintsResponse {
    let targets = held.targets.into_iter().map(|held| proto::TargetHints {
        target: held.target.to_string(),
        hints: held.hints,
        bytes: held.bytes,
        damaged: held.damaged,
        oldest_write_ms: held.oldest_write.map_or(0, |wall| wall.0),
    });
    proto::HintsResponse {
        name: status.name,
        targets: targets.collect(),
        complete: held.complete,
        bytes_max: status.stats.hint_bytes_max,
    }
}

fn repair(report: &RepairReport) -> proto::Repair {
    proto::Repair {
        partitions: report.partitions,
        rebuilding: report.rebuilding,
        waits_for: report.waits_for.keys().map(ToString::to_string).collect(),
        whole: report.whole,
        whole_since_ms: report.whole_since.unwrap_or_default().0,
        unverified: report.unverified,
    }
}

fn change(report: ChangeReport) -> proto::Change {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let wait = |Waits { name, stage, version, since_ms, reachable, remedy }| proto::Wait {
        name,
        stage,
        version,
        since_ms,
        reachable,
        remedy,
    };
    proto::Change {
        live: report.live,
        reads: report.reads,
        all_acked: report.all_acked,
        members: count(report.members),
        acked: count(report.acked),
        synced: count(report.synced),
        reading: count(report.reading),
        waits: report.waits.into_iter().map(wait).collect(),
        left: Some(proto::Left {
            operations: report.left.ops,
            reads: report.left.reads,
            partitions: report.left.exchanges,
            hints: report.left.hints,
        }),
    }
}

fn status(status: NodeStatus) -> proto::StatusResponse {
    proto::StatusResponse {
        repair: Some(repair(&status.repair)),
        change: Some(change(status.change)),
        node_id: status.node_id,
        name: status.name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: status.cluster_id,
        cluster_name: status.cluster_name,
        placement_number: status.placement_number,
        placement_hash: status.placement_hash,
        replicas: status.replicas,
        partitions: status.partitions,
        ready: status.not_ready.is_none(),
        not_ready_because: status.not_ready.unwrap_or_default(),
        durability: status.durability,
        members: status.members.into_iter().map(member).collect(),
        counters: Some(counters(&status.stats)),
        synced_commit: status.synced,
        uptime_ms: status.uptime_ms,
        rebuilding: status.rebuilding.unwrap_or_default(),
    }
}

fn member(member: MemberStatus) -> proto::MemberStatus {
    proto::MemberStatus {
        name: member.name,
        node_id: member.node_id,
        state: member.state,
        reachable: member.reachable,
        internal_address: member.internal_address,
        client_address: member.client_address,
        admin_address: member.admin_address,
        generation: member.generation,
        incarnation: member.incarnation,
        since_ms: member.since_ms,
        home: member.home,
        zone: member.zone,
        weight: member.weight,
    }
}

fn counters(stats: &Stats) -> proto::Counters {
    proto::Counters {
        gets: stats.gets,
        puts: stats.puts,
        failures: stats.failures,
        hints_written: stats.hints_written,
        hints_replayed: stats.hints_replayed,
        hints_held: stats.hints_held,
        hint_bytes: stats.hint_bytes,
        hint_bytes_max: stats.hint_bytes_max,
        hints_refused: stats.hints_refused,
        repairs_sent: stats.repairs_sent,
        hedges: stats.hedges,
        passed: stats.passed,
        records_lost: stats.records_lost,
        store_reads_failed: stats.store_reads_failed,
        in_flight: stats.in_flight,
        partitions_lost: stats.partitions_rebuilding,
        messages_refused: stats.messages_refused,
    }
}
