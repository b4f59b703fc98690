//! What operators ask: always of one node, which answers for itself, and never again elsewhere.

use std::future::Future;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

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
        let options = &self.shared.options;
        let known = self.shared.nodes.all();
        let channel = match known.iter().find(|node| node.address == address) {
            Some(node) => node.channel(),
            None => nodes::channel(address, options)?,
        };
        call::ask(channel, address, options.timeout, message, rpc).await
    }
}
