//! The ceiling: servers that answer at once.
//!
//! The same service, the same message sizes, the same transport as a node, and nothing behind it.
//! What a node reaches of their rate is what it keeps of what gRPC allows. They run as
//! `#[tokio::main]` starts them, with a thread for each processor; on one thread each, as a node on a machine of
//! few processors, they are faster still.

use std::net::Ipv4Addr;
use std::num::NonZero;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::cli::cluster::this_program;
use crate::cli::exit::Exit;
use crate::cli::{on_threads, shutdown, term};
use crate::proto;
use crate::proto::kv_server::{Kv, KvServer};

/// About as long as the context of a key with one writer.
const CONTEXT: &[u8] = &[0; 56];
/// An echo server listens within this.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Answer at once, for `bench --echo`
#[derive(Args, Debug)]
pub struct EchoServeArgs {
    /// Bytes of every value in an answer
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// Threads that serve; by default one for each processor
    #[arg(long)]
    threads: Option<u16>,
}

/// Echo servers as child processes; they end when this is dropped.
pub struct EchoServers {
    children: Vec<Child>,
    /// Where they listen.
    pub addresses: Vec<String>,
    /// Of each, if that was said.
    pub threads: Option<u16>,
}

impl EchoServers {
    /// Starts `count` servers of so many threads on ports that the system chooses; none: one for each processor.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn start(
        count: usize,
        threads: Option<u16>,
        value_bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut servers = Self { children: Vec::new(), addresses: Vec::new(), threads };
        for _ in 0..count {
            let mut child = Command::new(this_program()?)
                .arg("bench-echo-serve")
                .args(["--value-bytes", &value_bytes.to_string()])
                .args(threads.map(|threads| format!("--threads={threads}")))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("cannot start an echo server")?;
            let stdout = child.stdout.take().context("an echo server has no standard output")?;
            let mut first = BufReader::new(stdout).lines();
            let line = tokio::time::timeout(START_WITHIN, first.next_line()).await;
            let line = line.context("an echo server did not start in time")??;
            servers.addresses.push(line.context("an echo server ended at once")?);
            servers.children.push(child);
        }
        Ok(servers)
    }

    /// Their process ids.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.children.iter().filter_map(Child::id).collect()
    }
}

/// Runs an echo server: prints its address, serves until standard input ends.
///
/// # Errors
/// If no port can be had, or no thread.
pub fn echo_serve(args: &EchoServeArgs) -> anyhow::Result<Exit> {
    let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = args.threads.or_else(|| u16::try_from(processors()).ok());
    on_threads(threads.unwrap_or(u16::MAX), serve(args.value_bytes))
}

async fn serve(value_bytes: usize) -> anyhow::Result<Exit> {
    let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into());
    let incoming = incoming.map_err(|error| anyhow::anyhow!(error)).context("cannot listen")?;
    let incoming = incoming.with_nodelay(Some(true));
    term::line(incoming.local_addr()?)?;
    let echo = Echo { value: Bytes::from(vec![b'v'; value_bytes]) };
    tokio::select! {
        served = tonic::transport::Server::builder()
            .add_service(KvServer::new(echo))
            .serve_with_incoming(incoming) => served.context("serving failed")?,
        () = shutdown::parent_gone() => {}
    }
    Ok(Exit::Ok)
}

struct Echo {
    value: Bytes,
}

impl Echo {
    fn receipt() -> proto::Receipt {
        proto::Receipt {
            dot: "0123456789abcdef@1790000000000.0".to_owned(),
            homes: vec!["node-0".to_owned(), "node-1".to_owned()],
            hints: Vec::new(),
            placement: 1,
        }
    }
}

#[tonic::async_trait]
impl Kv for Echo {
    async fn get(
        &self,
        _: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetResponse>, Status> {
        Ok(Response::new(proto::GetResponse {
            found: true,
            value: self.value.clone(),
            context: Bytes::from_static(CONTEXT),
            ..proto::GetResponse::default()
        }))
    }

    async fn set(
        &self,
        _: Request<proto::SetRequest>,
    ) -> Result<Response<proto::SetResponse>, Status> {
        let (context, receipt) = (Bytes::from_static(CONTEXT), Some(Self::receipt()));
        Ok(Response::new(proto::SetResponse { context, receipt }))
    }

    async fn delete(
        &self,
        _: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let (context, receipt) = (Bytes::from_static(CONTEXT), Some(Self::receipt()));
        Ok(Response::new(proto::DeleteResponse { context, receipt }))
    }

    async fn batch_get(
        &self,
        request: Request<proto::BatchGetRequest>,
    ) -> Result<Response<proto::BatchGetResponse>, Status> {
        use proto::batch_get_result::Result as Is;
        let ok = proto::GetResponse {
            found: true,
            value: self.value.clone(),
            context: Bytes::from_static(CONTEXT),
            ..proto::GetResponse::default()
        };
        let result = proto::BatchGetResult { result: Some(Is::Ok(ok)) };
        let results = vec![result; request.into_inner().keys.len()];
        Ok(Response::new(proto::BatchGetResponse { results }))
    }

    async fn batch_set(
        &self,
        request: Request<proto::BatchSetRequest>,
    ) -> Result<Response<proto::BatchSetResponse>, Status> {
        use proto::batch_set_result::Result as Is;
        let (context, receipt) = (Bytes::from_static(CONTEXT), Some(Self::receipt()));
        let ok = Is::Ok(proto::SetResponse { context, receipt });
        let result = proto::BatchSetResult { result: Some(ok) };
        let results = vec![result; request.into_inner().entries.len()];
        Ok(Response::new(proto::BatchSetResponse { results }))
    }

    type ScanStream = tokio_stream::Empty<Result<proto::ScanResponse, Status>>;

    async fn scan(
        &self,
        _: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}
