//! What operators ask: always of one node, which answers for itself, and never again elsewhere.

use std::future::Future;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Response, Status};

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
        self.ask(address, |mut admin| async move { admin.status(message).await }).await
    }

    /// Who owns what, as the node at `address` knows it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ring(&self, address: &str) -> Result<proto::RingResponse, Error> {
        let message = proto::RingRequest {};
        self.ask(address, |mut admin| async move { admin.ring(message).await }).await
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
        self.ask(address, |mut admin| async move { admin.locate(message).await }).await
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
        self.ask(address, |mut admin| async move { admin.inspect(message).await }).await
    }

    /// What the disk of the node at `address` keeps for other homes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hints(&self, address: &str) -> Result<proto::HintsResponse, Error> {
        let message = proto::HintsRequest {};
        self.ask(address, |mut admin| async move { admin.hints(message).await }).await
    }

    async fn ask<R, Called>(
        &self,
        address: &str,
        rpc: impl FnOnce(AdminClient<Channel>) -> Called,
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
        call::ask(channel, address, options.timeout, rpc).await
    }
}
