//! The operator's service.

use tonic::{Request, Response, Status};

use super::backend::{Backend, MemberStatus, NodeStatus};
use crate::proto;
use crate::proto::admin_server::Admin;
use crate::protocol::step::Stats;

pub(super) struct AdminService<B> {
    backend: B,
}

impl<B: Backend> AdminService<B> {
    pub(super) fn new(backend: B) -> Self {
        Self { backend }
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
}

fn status(status: NodeStatus) -> proto::StatusResponse {
    proto::StatusResponse {
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
        repairs_sent: stats.repairs_sent,
        hedges: stats.hedges,
        passed: stats.passed,
        records_lost: stats.records_lost,
        in_flight: stats.in_flight,
    }
}
