//! What operators ask: always of one node, which answers for itself, and never again elsewhere.

use std::future::Future;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::call::Effect;
use super::{Client, Error, call, nodes};
use crate::proto;
use crate::proto::admin_client::AdminClient;

impl Client {
    /// How the node at `address` sees itself and the cluster.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&self, address: &str) -> Result<proto::StatusResponse, Error> {
        let message = proto::StatusRequest {};
        self.ask(address, message, |mut admin, request| async move { admin.status(request).await })
            .await
    }

    /// Every node that the node at `address` knows of.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn members(&self, address: &str) -> Result<proto::MembersResponse, Error> {
        let message = proto::MembersRequest {};
        self.ask(address, message, |mut admin, request| async move { admin.members(request).await })
            .await
    }

    /// How whole the copies of the node at `address` are.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn repair(&self, address: &str) -> Result<proto::RepairResponse, Error> {
        let message = proto::RepairRequest {};
        self.ask(address, message, |mut admin, request| async move { admin.repair(request).await })
            .await
    }

    /// Who owns what, as the node at `address` knows it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ring(&self, address: &str) -> Result<proto::RingResponse, Error> {
        let message = proto::RingRequest {};
        self.ask(address, message, |mut admin, request| async move { admin.ring(request).await })
            .await
    }

    /// What a change of the ring would come to, as the node at `address` sees it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn plan(
        &self,
        address: &str,
        message: proto::PlanRequest,
    ) -> Result<proto::PlanResponse, Error> {
        self.ask(address, message, |mut admin, request| async move { admin.plan(request).await })
            .await
    }

    /// Carries a plan out, if the ring is still as it was when that was made. The change has begun when this
    /// returns.
    ///
    /// # Errors
    /// See [`Error`]: each says what to do instead.
    pub async fn apply(
        &self,
        address: &str,
        message: proto::ApplyRequest,
    ) -> Result<proto::OrderResponse, Error> {
        self.order(address, message, |mut admin, request| async move { admin.apply(request).await })
            .await
    }

    /// Takes a live member out of the ring, with all that it holds. That has begun when this returns.
    ///
    /// # Errors
    /// See [`Error`]: each says what to do instead.
    pub async fn decommission(
        &self,
        address: &str,
        name: impl Into<String>,
    ) -> Result<proto::OrderResponse, Error> {
        let message = proto::DecommissionRequest { name: name.into() };
        let rpc =
            |mut admin: AdminClient<_>, request| async move { admin.decommission(request).await };
        self.order(address, message, rpc).await
    }

    /// Gives up a dead member, with its disk. It has no place any more when this returns.
    ///
    /// # Errors
    /// See [`Error`]: each says what to do instead.
    pub async fn remove(
        &self,
        address: &str,
        message: proto::RemoveRequest,
    ) -> Result<proto::OrderResponse, Error> {
        self.order(
            address,
            message,
            |mut admin, request| async move { admin.remove(request).await },
        )
        .await
    }

    /// Where a key belongs, as the node at `address` knows it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn locate(
        &self,
        address: &str,
        key: impl Into<Bytes>,
    ) -> Result<proto::LocateResponse, Error> {
        let message = proto::LocateRequest { key: key.into() };
        self.ask(address, message, |mut admin, request| async move { admin.locate(request).await })
            .await
    }

    /// What the disk of the node at `address` holds of a key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn inspect(
        &self,
        address: &str,
        key: impl Into<Bytes>,
    ) -> Result<proto::InspectResponse, Error> {
        let message = proto::InspectRequest { key: key.into() };
        self.ask(address, message, |mut admin, request| async move { admin.inspect(request).await })
            .await
    }

    /// What the disk of the node at `address` keeps for other homes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hints(&self, address: &str) -> Result<proto::HintsResponse, Error> {
        let message = proto::HintsRequest {};
        self.ask(address, message, |mut admin, request| async move { admin.hints(request).await })
            .await
    }

    async fn ask<M, R, Called>(
        &self,
        address: &str,
        message: M,
        rpc: impl FnOnce(AdminClient<Channel>, Request<M>) -> Called,
    ) -> Result<R, Error>
    where
        Called: Future<Output = Result<Response<R>, Status>>,
    {
        self.ask_one(address, message, Effect::Reads, rpc).await
    }

    /// Gives an order, once: its outcome may be unknown.
    async fn order<M, Called>(
        &self,
        address: &str,
        message: M,
        rpc: impl FnOnce(AdminClient<Channel>, Request<M>) -> Called,
    ) -> Result<proto::OrderResponse, Error>
    where
        Called: Future<Output = Result<Response<proto::OrderResponse>, Status>>,
    {
        self.ask_one(address, message, Effect::Writes, rpc).await
    }

    async fn ask_one<M, R, Called>(
        &self,
        address: &str,
        message: M,
        effect: Effect,
        rpc: impl FnOnce(AdminClient<Channel>, Request<M>) -> Called,
    ) -> Result<R, Error>
    where
        Called: Future<Output = Result<Response<R>, Status>>,
    {
        let options = &self.shared.options;
        let known = self.shared.nodes.all();
        let channel = match known.iter().find(|node| node.address == address) {
            Some(node) => node.channel(),
            None => nodes::channel(address, options)?,
        };
        call::ask(channel, address, options.timeout, message, effect, rpc).await
    }
}
