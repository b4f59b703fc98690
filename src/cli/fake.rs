//! A cluster for tests: servers that share one map in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::proto;
use crate::proto::admin_server::{Admin, AdminServer};
use crate::proto::kv_server::{Kv, KvServer};

/// Entries a page, so that a walk has several.
const PAGE_ENTRIES: usize = 100;

type Map = BTreeMap<Bytes, Bytes>;

/// Servers on loopback; they end with the runtime.
pub struct FakeCluster {
    addresses: Vec<SocketAddr>,
    map: Arc<Mutex<Map>>,
}

#[derive(Clone)]
struct Server {
    name: String,
    map: Arc<Mutex<Map>>,
}

impl FakeCluster {
    /// Starts `nodes` servers.
    pub async fn start(nodes: usize) -> Self {
        let map = Arc::new(Mutex::new(Map::new()));
        let mut addresses = Vec::new();
        for index in 0..nodes {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let server = Server { name: format!("node-{index}"), map: map.clone() };
            let serving = tonic::transport::Server::builder()
                .add_service(KvServer::new(server.clone()))
                .add_service(AdminServer::new(server))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(serving);
        }
        Self { addresses, map }
    }

    /// Where the servers listen.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(SocketAddr::to_string).collect()
    }

    /// What is stored under a key.
    pub fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.map.lock().unwrap().get(key).cloned()
    }

    /// Stores a value, as a defective store might.
    pub fn put(&self, key: &'static [u8], value: Bytes) {
        self.map.lock().unwrap().insert(Bytes::from_static(key), value);
    }

    /// Loses a key, as a defective store would.
    pub fn lose(&self, key: &[u8]) -> Option<Bytes> {
        self.map.lock().unwrap().remove(key)
    }

    /// Loses everything.
    pub fn clear(&self) {
        self.map.lock().unwrap().clear();
    }
}

impl Server {
    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap()
    }

    fn receipt(&self) -> proto::Receipt {
        let homes = vec![self.name.clone()];
        proto::Receipt { dot: "0@1.0".to_owned(), homes, hints: vec![], placement: 1 }
    }
}

#[tonic::async_trait]
impl Kv for Server {
    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetResponse>, Status> {
        let request = request.into_inner();
        let value = self.map().get(&request.key).cloned();
        let sibling =
            |value: &Bytes| proto::Sibling { value: value.clone(), written_ms: 1, expires_ms: 0 };
        let all = value.iter().filter(|_| request.all_siblings).map(sibling).collect();
        Ok(Response::new(proto::GetResponse {
            found: value.is_some(),
            value: value.unwrap_or_default(),
            context: Bytes::from_static(b"context"),
            all,
            ..proto::GetResponse::default()
        }))
    }

    async fn set(
        &self,
        request: Request<proto::SetRequest>,
    ) -> Result<Response<proto::SetResponse>, Status> {
        let request = request.into_inner();
        self.map().insert(request.key, request.value);
        let context = Bytes::from_static(b"context");
        Ok(Response::new(proto::SetResponse { context, receipt: Some(self.receipt()) }))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        self.map().remove(&request.into_inner().key);
        let context = Bytes::from_static(b"context");
        Ok(Response::new(proto::DeleteResponse { context, receipt: Some(self.receipt()) }))
    }

    async fn batch_get(
        &self,
        request: Request<proto::BatchGetRequest>,
    ) -> Result<Response<proto::BatchGetResponse>, Status> {
        use proto::batch_get_result::Result as Is;
        let mut results = Vec::new();
        for key in request.into_inner().keys {
            let request = proto::GetRequest { key, ..proto::GetRequest::default() };
            let answer = self.get(Request::new(request)).await?.into_inner();
            results.push(proto::BatchGetResult { result: Some(Is::Ok(answer)) });
        }
        Ok(Response::new(proto::BatchGetResponse { results }))
    }

    async fn batch_set(
        &self,
        request: Request<proto::BatchSetRequest>,
    ) -> Result<Response<proto::BatchSetResponse>, Status> {
        use proto::batch_set_result::Result as Is;
        let mut results = Vec::new();
        for entry in request.into_inner().entries {
            let result = if entry.key.is_empty() {
                let message = "key: a key has 1 to 4096 bytes, this one has 0".to_owned();
                let code = tonic::Code::InvalidArgument as i32;
                Is::Error(proto::KeyError { code, message, ..proto::KeyError::default() })
            } else {
                self.map().insert(entry.key, entry.value);
                let context = Bytes::from_static(b"context");
                Is::Ok(proto::SetResponse { context, receipt: Some(self.receipt()) })
            };
            results.push(proto::BatchSetResult { result: Some(result) });
        }
        Ok(Response::new(proto::BatchSetResponse { results }))
    }

    type ScanStream = tokio_stream::Iter<std::vec::IntoIter<Result<proto::ScanResponse, Status>>>;

    async fn scan(
        &self,
        request: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        let map = self.map();
        let entries: Vec<proto::ScanEntry> = map
            .iter()
            .filter(|(key, _)| key.starts_with(&request.prefix) && **key > request.page_token)
            .map(|(key, value)| proto::ScanEntry {
                key: key.clone(),
                value: if request.keys_only { Bytes::new() } else { value.clone() },
                context: if request.contexts { "context".into() } else { Bytes::new() },
                ..proto::ScanEntry::default()
            })
            .collect();
        let total = entries.len().div_ceil(PAGE_ENTRIES);
        let pages = entries.chunks(PAGE_ENTRIES).enumerate().map(|(at, entries)| {
            let last = entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
            Ok(proto::ScanResponse {
                entries: entries.to_vec(),
                page_token: if at + 1 == total { Bytes::new() } else { last },
                partitions_done: u32::try_from(at + 1).unwrap(),
                partitions_total: u32::try_from(total).unwrap(),
            })
        });
        Ok(Response::new(tokio_stream::iter(pages.collect::<Vec<_>>())))
    }
}

#[tonic::async_trait]
impl Admin for Server {
    async fn status(
        &self,
        _: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        let name = self.name.clone();
        Ok(Response::new(proto::StatusResponse { name, ready: true, ..Default::default() }))
    }

    async fn members(
        &self,
        _: Request<proto::MembersRequest>,
    ) -> Result<Response<proto::MembersResponse>, Status> {
        Err(unplaced())
    }

    async fn repair(
        &self,
        _: Request<proto::RepairRequest>,
    ) -> Result<Response<proto::RepairResponse>, Status> {
        Err(unplaced())
    }

    async fn ring(
        &self,
        _: Request<proto::RingRequest>,
    ) -> Result<Response<proto::RingResponse>, Status> {
        Err(unplaced())
    }

    async fn plan(
        &self,
        _: Request<proto::PlanRequest>,
    ) -> Result<Response<proto::PlanResponse>, Status> {
        Err(unplaced())
    }

    async fn apply(
        &self,
        _: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::OrderResponse>, Status> {
        Err(unplaced())
    }

    async fn decommission(
        &self,
        _: Request<proto::DecommissionRequest>,
    ) -> Result<Response<proto::OrderResponse>, Status> {
        Err(unplaced())
    }

    async fn remove(
        &self,
        _: Request<proto::RemoveRequest>,
    ) -> Result<Response<proto::OrderResponse>, Status> {
        Err(unplaced())
    }

    async fn locate(
        &self,
        _: Request<proto::LocateRequest>,
    ) -> Result<Response<proto::LocateResponse>, Status> {
        Err(unplaced())
    }

    async fn inspect(
        &self,
        _: Request<proto::InspectRequest>,
    ) -> Result<Response<proto::InspectResponse>, Status> {
        Err(unplaced())
    }

    async fn hints(
        &self,
        _: Request<proto::HintsRequest>,
    ) -> Result<Response<proto::HintsResponse>, Status> {
        Err(unplaced())
    }
}

/// One map that all servers share is nobody's home.
fn unplaced() -> Status {
    Status::unimplemented("the servers of this cluster have no ring")
}
