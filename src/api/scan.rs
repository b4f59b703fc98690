//! Walking all keys: partition by partition, each merged from R homes, in order.
//!
//! ```text
//!  first pages of the next partitions, asked for ahead ──▶ │p│p+1│p+2│…│ ──▶ further pages of p
//!                                                                              │ live winners
//!  client ◀── one message at a time, when it wants one ◀── gathered ◀──────────┘ with the prefix
//! ```
//!
//! What is held is bounded: a page for each partition that is read ahead, and two messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::backend::Backend;
use super::error;
use super::kv::{Gate, Place};
use super::request::{self, Fields};
use super::token::{self, PageToken};
use super::trace::Traced;
use crate::proto;
use crate::protocol::context::Context;
use crate::protocol::op::{Action, Failure};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sibling};
use crate::protocol::step::MergedPage;
use crate::types::{ClusterId, Key, Partition, Wall};

/// Partitions that are asked for ahead of the one that is being walked.
const AHEAD: usize = 8;
/// About how many bytes of records a page has.
const PAGE_BYTES: u32 = 256 << 10;
/// About how many bytes a message has.
const MESSAGE_BYTES: usize = 256 << 10;
/// A message is sent after this, however little there is to tell, so that progress can be shown.
const MESSAGE_WITHIN: Duration = Duration::from_millis(250);

type Sender = mpsc::Sender<Result<proto::ScanResponse, Status>>;
type Ahead = VecDeque<JoinHandle<Result<MergedPage, Failure>>>;

/// A walk, and where it stands.
pub(super) struct Walk {
    prefix: Bytes,
    show: Show,
    consistency: Consistency,
    cluster: ClusterId,
    partitions: u16,
    at: Partition,
    after: Bytes,
    /// Where the walk stood when the client was last told.
    told: (Partition, Bytes),
    /// The longest that a page may take.
    limit: Duration,
    /// When the client's own deadline is, if it has set one.
    until: Option<Instant>,
}

/// What is shown of each key, beside its name.
#[derive(Clone, Copy)]
struct Show {
    values: bool,
    all_siblings: bool,
    /// For contexts: the cluster that they are of.
    contexts: Option<ClusterId>,
}

/// The message that is being put together.
struct Gathered {
    entries: Vec<proto::ScanEntry>,
    bytes: usize,
    since: Instant,
}

/// Why a walk ends before its end.
enum End {
    /// The client has gone.
    Gone,
    Failed(Status),
}

impl Walk {
    pub(super) fn new(
        message: proto::ScanRequest,
        metadata: &MetadataMap,
        cluster: ClusterId,
        partitions: u16,
        limit: Duration,
    ) -> Result<Self, Status> {
        let mut fields = Fields::default();
        let prefix_hash = token::prefix_hash(&message.prefix);
        let prefix = fields.prefix(message.prefix);
        let consistency = fields.consistency(message.consistency);
        let start = match message.page_token {
            token if token.is_empty() => Some((Partition(0), Bytes::new())),
            token => match PageToken::decode(token, cluster, prefix_hash, partitions) {
                Ok(token) => Some((token.partition, token.after)),
                Err(error) => fields.refuse("page_token", error.to_string()),
            },
        };
        let (Some(prefix), Some(consistency), Some((at, after))) = (prefix, consistency, start)
        else {
            return Err(fields.into_status());
        };
        let asked = metadata.contains_key("grpc-timeout");
        let whole = || Instant::now() + request::timeout(metadata, Duration::from_secs(86_400));
        let until = asked.then(whole);
        let show = Show {
            values: !message.keys_only,
            all_siblings: message.all_siblings,
            contexts: message.contexts.then_some(cluster),
        };
        let told = (at, after.clone());
        Ok(Self { prefix, show, consistency, cluster, partitions, at, after, told, limit, until })
    }

    /// Walks in a task of its own, which ends when the client goes.
    pub(super) fn start<B: Backend>(
        mut self,
        backend: B,
        place: Place<Arc<Gate>>,
        traced: Traced,
    ) -> ReceiverStream<Result<proto::ScanResponse, Status>> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let _place = place;
            let mut ahead = Ahead::new();
            let gone = sender.clone();
            let ended = tokio::select! {
                ended = self.walk(&backend, &mut ahead, &sender) => ended,
                () = gone.closed() => Err(End::Gone),
            };
            ahead.iter().for_each(JoinHandle::abort);
            let answer = match ended {
                Ok(()) => Ok(()),
                Err(End::Failed(status)) => Err(status),
                // Nobody needs to know; the span is told as cancelled.
                Err(End::Gone) => return,
            };
            traced.end(&answer);
            if let Err(status) = answer {
                let _ = sender.send(Err(status)).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn walk<B: Backend>(
        &mut self,
        backend: &B,
        ahead: &mut Ahead,
        sender: &Sender,
    ) -> Result<(), End> {
        let mut gathered = Gathered::new();
        let mut asked = self.at.0;
        loop {
            while ahead.len() < AHEAD && asked < self.partitions {
                let after = if asked == self.at.0 { self.after.clone() } else { Bytes::new() };
                ahead.push_back(tokio::spawn(self.page(backend, Partition(asked), after)));
                asked += 1;
            }
            let Some(first) = ahead.pop_front() else { break };
            let walked = match first.await {
                Ok(first) => self.partition(backend, first, &mut gathered, sender).await,
                Err(_) => Err(End::Failed(error::defect("a page of a scan was never finished"))),
            };
            if let Err(end) = walked {
                // A page that says nothing new would pass for progress.
                if !gathered.entries.is_empty() || self.told != (self.at, self.after.clone()) {
                    self.send(&mut gathered, sender).await?;
                }
                return Err(end);
            }
            (self.at, self.after) = (Partition(self.at.0 + 1), Bytes::new());
            if gathered.is_due() && self.at.0 < self.partitions {
                self.send(&mut gathered, sender).await?;
            }
        }
        self.send(&mut gathered, sender).await
    }

    /// Walks the pages of one partition.
    async fn partition<B: Backend>(
        &mut self,
        backend: &B,
        first: Result<MergedPage, Failure>,
        gathered: &mut Gathered,
        sender: &Sender,
    ) -> Result<(), End> {
        let mut page = first;
        loop {
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(End::Failed(error::out_of_time("scan")));
            }
            let MergedPage { entries, next } =
                page.map_err(|failure| End::Failed(error::failed(&failure, &Action::Get)))?;
            gathered.add(entries, &self.prefix, self.show);
            let Some(next) = next else { return Ok(()) };
            // A page that does not advance would be walked for ever.
            if next.bytes() <= &self.after {
                return Err(End::Failed(error::defect("a page of a scan did not advance")));
            }
            self.after = next.bytes().clone();
            if gathered.is_due() {
                self.send(gathered, sender).await?;
            }
            page = self.page(backend, self.at, self.after.clone()).await;
        }
    }

    fn page<B: Backend>(
        &self,
        backend: &B,
        partition: Partition,
        after: Bytes,
    ) -> impl Future<Output = Result<MergedPage, Failure>> + Send + use<B> {
        let (backend, consistency, limit) = (backend.clone(), self.consistency, self.limit);
        async move { backend.scan(partition, after, PAGE_BYTES, consistency, limit).await }
    }

    /// Sends what was gathered, with the token of where the walk stands.
    async fn send(&mut self, gathered: &mut Gathered, sender: &Sender) -> Result<(), End> {
        let ended = self.at.0 >= self.partitions;
        let token = PageToken {
            cluster: self.cluster,
            prefix: token::prefix_hash(&self.prefix),
            partition: self.at,
            after: self.after.clone(),
        };
        let message = proto::ScanResponse {
            entries: std::mem::take(&mut gathered.entries),
            page_token: if ended { Bytes::new() } else { token.encode() },
            partitions_done: u32::from(self.at.0),
            partitions_total: u32::from(self.partitions),
        };
        *gathered = Gathered::new();
        self.told = (self.at, self.after.clone());
        sender.send(Ok(message)).await.map_err(|_| End::Gone)
    }
}

impl Show {
    /// None if the key is absent to readers.
    fn entry(self, key: &Key, record: &Record, now: Wall) -> Option<proto::ScanEntry> {
        let visible = record.visible(now);
        let winner = visible.last()?;
        let value = |sibling: &Sibling| {
            sibling.value().filter(|_| self.values).cloned().unwrap_or_default()
        };
        let sibling = |sibling: &&Sibling| proto::Sibling {
            value: value(sibling),
            written_ms: sibling.dot.stamp.wall().0,
            expires_ms: sibling.expiry.map_or(0, |expiry| expiry.0),
        };
        let context = self.contexts.map(|cluster| {
            let partial = !self.all_siblings && visible.len() > 1;
            Context { cluster, key_hash: key.hash(), partial, seen: record.seen().clone() }
        });
        let all = if self.all_siblings { &visible[..] } else { &[] };
        Some(proto::ScanEntry {
            key: key.bytes().clone(),
            value: value(winner),
            siblings: u32::try_from(visible.len() - 1).unwrap_or(u32::MAX),
            context: context.map(|context| context.encode()).unwrap_or_default(),
            expires_ms: winner.expiry.map_or(0, |expiry| expiry.0),
            all: all.iter().rev().map(sibling).collect(),
        })
    }
}

impl Gathered {
    fn new() -> Self {
        Self { entries: vec![], bytes: 0, since: Instant::now() }
    }

    fn add(&mut self, entries: Vec<(Key, Record)>, prefix: &[u8], show: Show) {
        let now = wall();
        for (key, record) in entries {
            if !key.bytes().starts_with(prefix) {
                continue;
            }
            if let Some(entry) = show.entry(&key, &record, now) {
                self.bytes += entry.encoded_len();
                self.entries.push(entry);
            }
        }
    }

    fn is_due(&self) -> bool {
        self.bytes >= MESSAGE_BYTES || self.since.elapsed() >= MESSAGE_WITHIN
    }
}

fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
