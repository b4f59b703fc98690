//! All streams of a node, and the way to each peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::dial;
use super::frame::{self, FrameError};
use super::link::{self, Ended, Link, Queued, ReadHalf, Wake};
use super::quiet::Quiet;
use crate::protocol::codec::DecodeError;
use crate::protocol::control::{ConnId, ControlInput};
use crate::protocol::message::Envelope;
use crate::types::NodeId;

/// From the first byte to the control core's verdict.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted streams from one peer: one is usual; more exist while old ones die.
const STREAMS_A_PEER: usize = 4;
/// When the process is out of file descriptors: try again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where what comes over the streams goes.
pub trait Inbox: Send + Sync + 'static {
    /// The messages of one read, in order, from one accepted peer. What is left in `batch` is
    /// dropped.
    fn messages(&self, from: NodeId, batch: &mut Vec<Envelope>);

    /// News for the control core; must not be lost.
    fn control(&self, input: ControlInput);

    /// The hello to greet with just now.
    fn hello(&self) -> Bytes;
}

/// Bounds of what the streams may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams that others have dialled; more are closed at once.
    pub streams_max: usize,
    /// Of these, such as have not been accepted yet.
    pub strangers_max: usize,
    /// Bytes queued on one stream; beyond, messages are dropped.
    pub queue_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams_max: 1024, strangers_max: 128, queue_bytes_max: 64 << 20 }
    }
}

/// What the streams have done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Accepted streams that live now.
    pub streams: usize,
    /// Peers that can be sent to now.
    pub peers: usize,
    /// Messages queued.
    pub sent: u64,
    /// Messages handed over.
    pub received: u64,
    /// Bytes read from streams.
    pub bytes_in: u64,
    /// Bytes written to streams.
    pub bytes_out: u64,
    /// Messages dropped because no stream to the peer lived.
    pub dropped_no_stream: u64,
    /// Messages dropped because the queue was full.
    pub dropped_full: u64,
    /// Messages that could not be read.
    pub unreadable: u64,
    /// Streams closed because the caller was none of us, or broke the rules.
    pub refused: u64,
}

/// Counts, as they are kept.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    dropped_no_stream: AtomicU64,
    dropped_full: AtomicU64,
    unreadable: AtomicU64,
    refused: AtomicU64,
    quiet_unreadable: Quiet,
    quiet_ended: Quiet,
}

impl Counters {
    /// Counts a message that could not be read.
    pub(super) fn unreadable(&self, peer: NodeId, error: &DecodeError) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        if let Some(others) = self.quiet_unreadable.allow() {
            tracing::warn!(%peer, %error, others, "a message from a peer could not be read");
        }
    }

    /// Counts a stream that did not end like any other, and tells of it. What the control core
    /// or the peer's has refused is told there.
    pub(super) fn ended(&self, remote: SocketAddr, ended: &Ended) {
        match ended {
            Ended::Here | Ended::Closed | Ended::Io(_) => {
                tracing::debug!(%remote, "a stream has ended: {ended}");
                return;
            }
            Ended::Refused(_) | Ended::Rejected(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%remote, "a stream was not accepted: {ended}");
                return;
            }
            Ended::Frame(_)
            | Ended::Slow(_)
            | Ended::Impostor(_)
            | Ended::Silent
            | Ended::TooMany => {}
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(others) = self.quiet_ended.allow() {
            tracing::warn!(%remote, others, "a stream on the internal port was closed: {ended}");
        }
    }
}

/// The control core's verdict on a hello.
enum Verdict {
    Accepted(NodeId),
    Rejected(String),
}

/// A stream whose hello is with the control core.
struct Pending {
    link: Arc<Link>,
    verdict: oneshot::Sender<Verdict>,
}

/// The streams by what has become of their hellos.
#[derive(Default)]
struct Streams {
    pending: BTreeMap<ConnId, Pending>,
    accepted: BTreeMap<ConnId, (NodeId, Arc<Link>)>,
    dialling: BTreeMap<SocketAddr, CancellationToken>,
}

struct Inner {
    limits: Limits,
    counters: Counters,
    /// Held by whoever holds the node: its end is the streams' end.
    inbox: OnceLock<Weak<dyn Inbox>>,
    runtime: tokio::runtime::Handle,
    streams: Mutex<Streams>,
    /// The stream to send on, for each peer that has one.
    routes: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    next_conn: AtomicU64,
    stop: CancellationToken,
}

/// All streams of a node. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

impl Peers {
    /// No streams yet; their tasks will run on `runtime`.
    #[must_use]
    pub fn new(limits: Limits, runtime: tokio::runtime::Handle) -> Self {
        Self(Arc::new(Inner {
            limits,
            counters: Counters::default(),
            inbox: OnceLock::new(),
            runtime,
            streams: Mutex::default(),
            routes: RwLock::default(),
            next_conn: AtomicU64::new(1),
            stop: CancellationToken::new(),
        }))
    }

    /// Begins to take in streams. To be called once, before [`Self::connect`].
    pub fn start(&self, listener: TcpListener, inbox: Weak<dyn Inbox>) {
        assert!(self.0.inbox.set(inbox).is_ok(), "the streams are started once");
        self.0.runtime.spawn(self.clone().listen(listener));
    }

    /// Closes all streams, and begins no more.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Keeps a stream to each of these addresses, and drops the others that were dialled.
    pub fn connect(&self, addresses: &BTreeSet<SocketAddr>) {
        let mut streams = self.streams();
        streams.dialling.retain(|address, stop| {
            let keep = addresses.contains(address);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for address in addresses {
            if !streams.dialling.contains_key(address) {
                let stop = self.0.stop.child_token();
                streams.dialling.insert(*address, stop.clone());
                self.0.runtime.spawn(dial::keep(self.clone(), *address, stop));
            }
        }
    }

    /// The hello of a stream was good: it is this peer's, and can be sent on from now.
    pub fn accept(&self, conn: ConnId, peer: NodeId) {
        let mut streams = self.streams();
        let Some(Pending { link, verdict }) = streams.pending.remove(&conn) else { return };
        let mut older: Vec<_> = streams.from(peer).filter(|link| !link.dialled).collect();
        older.sort_by_key(|link| link.id);
        if !link.dialled && older.len() >= STREAMS_A_PEER {
            older[0].closing.cancel();
        }
        streams.accepted.insert(conn, (peer, link));
        self.route(&streams, peer);
        // If its task is gone, so is the stream: the task's guard has yet to say so.
        let _ = verdict.send(Verdict::Accepted(peer));
    }

    /// The hello of a stream was refused, or the stream is not wanted any more.
    pub fn reject(&self, conn: ConnId, reason: String) {
        let mut streams = self.streams();
        if let Some(pending) = streams.pending.remove(&conn) {
            let _ = pending.verdict.send(Verdict::Rejected(reason));
        } else if let Some((peer, link)) = streams.accepted.get(&conn) {
            tracing::warn!(%peer, remote = %link.remote, "a stream is closed: {reason}");
            link.closing.cancel();
        }
    }

    /// Queues a message for a peer. The writer must be woken if this says so.
    pub fn send(&self, to: NodeId, envelope: &Envelope) -> Option<Wake> {
        let routes = self.0.routes.read().unwrap_or_else(PoisonError::into_inner);
        let counters = &self.0.counters;
        let count = match routes.get(&to).map(|link| link.send(envelope)) {
            Some(Queued::First(wake)) => {
                counters.sent.fetch_add(1, Ordering::Relaxed);
                return Some(wake);
            }
            Some(Queued::Another) => &counters.sent,
            Some(Queued::Dropped) => &counters.dropped_full,
            None => &counters.dropped_no_stream,
        };
        count.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// What the streams have done.
    #[must_use]
    pub fn report(&self) -> Report {
        let streams = self.streams().accepted.len();
        let peers = self.0.routes.read().unwrap_or_else(PoisonError::into_inner).len();
        let counters = &self.0.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            streams,
            peers,
            sent: of(&counters.sent),
            received: of(&counters.received),
            bytes_in: of(&counters.bytes_in),
            bytes_out: of(&counters.bytes_out),
            dropped_no_stream: of(&counters.dropped_no_stream),
            dropped_full: of(&counters.dropped_full),
            unreadable: of(&counters.unreadable),
            refused: of(&counters.refused),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    pub(super) fn tell(&self, input: ControlInput) {
        if let Some(inbox) = self.0.inbox.get().and_then(Weak::upgrade) {
            inbox.control(input);
        }
    }

    /// Takes in streams until told to stop.
    async fn listen(self, listener: TcpListener) {
        let streams = Arc::new(Semaphore::new(self.0.limits.streams_max));
        let strangers = Arc::new(Semaphore::new(self.0.limits.strangers_max));
        loop {
            let accepted = tokio::select! {
                () = self.0.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (socket, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(others) = self.0.counters.quiet_ended.allow() {
                        tracing::warn!(%error, others, "no stream could be taken in");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let permits =
                (streams.clone().try_acquire_owned(), strangers.clone().try_acquire_owned());
            let (Ok(stream), Ok(stranger)) = permits else {
                self.0.counters.ended(remote, &Ended::TooMany);
                continue;
            };
            let peers = self.clone();
            self.0.runtime.spawn(async move {
                peers.take_in(socket, remote, stranger).await;
                drop(stream);
            });
        }
    }

    async fn take_in(&self, socket: TcpStream, remote: SocketAddr, stranger: OwnedSemaphorePermit) {
        let stop = self.0.stop.child_token();
        let mut stranger = Some(stranger);
        let (_, ended) = self.run_then(socket, remote, false, stop, || drop(stranger.take())).await;
        self.0.counters.ended(remote, &ended);
    }

    /// Runs a stream to its end; whether its peer was accepted in between.
    pub(super) async fn run(
        &self,
        socket: TcpStream,
        remote: SocketAddr,
        dialled: bool,
        stop: CancellationToken,
    ) -> (bool, Ended) {
        self.run_then(socket, remote, dialled, stop, || ()).await
    }

    async fn run_then(
        &self,
        socket: TcpStream,
        remote: SocketAddr,
        dialled: bool,
        stop: CancellationToken,
        accepted: impl FnOnce(),
    ) -> (bool, Ended) {
        let Some(inbox) = self.0.inbox.get().and_then(Weak::upgrade) else {
            return (false, Ended::Here);
        };
        if let Err(error) = socket.set_nodelay(true) {
            return (false, error.into());
        }
        let id = ConnId(self.0.next_conn.fetch_add(1, Ordering::Relaxed));
        let bytes_max = self.0.limits.queue_bytes_max;
        let link = Arc::new(Link::new(id, remote, dialled, bytes_max, stop));
        let (read, mut write) = socket.into_split();
        let mut read = ReadHalf::new(read);
        let forget = Forget { peers: self, link: &link };
        if dialled {
            inbox.control(ControlInput::Dialled(id, remote));
        }
        let shaken = self.shake_hands(&link, &mut read, &mut write, inbox.as_ref());
        let peer = match shaken.await {
            Ok(peer) => peer,
            Err(ended) => {
                pass_on_refusal(inbox.as_ref(), id, &ended);
                return (false, ended);
            }
        };
        accepted();
        let writer = self.0.runtime.spawn(link::write_all(link.clone(), write, self.clone()));
        let reading = read.messages(&link, peer, inbox.as_ref(), &self.0.counters);
        let ended = tokio::select! {
            biased;
            () = link.closing.cancelled() => link.why_closed(),
            ended = reading => ended,
        };
        link.closing.cancel();
        pass_on_refusal(inbox.as_ref(), id, &ended);
        drop(forget);
        // The socket is closed when its writer lets go of it.
        let _ = writer.await;
        (true, ended)
    }

    /// Hellos both ways, and the control core's verdict on the peer's.
    async fn shake_hands(
        &self,
        link: &Arc<Link>,
        read: &mut ReadHalf,
        write: &mut OwnedWriteHalf,
        inbox: &dyn Inbox,
    ) -> Result<NodeId, Ended> {
        let shaking = async {
            if link.dialled {
                let mut hello = BytesMut::new();
                frame::encode_hello(&mut hello, &inbox.hello());
                write.write_all(&hello).await?;
            }
            let hello = read.hello().await?;
            if !link.dialled {
                // First in the queue, which nobody writes from before the verdict.
                link.greet(&inbox.hello());
            }
            let (verdict, answer) = oneshot::channel();
            self.streams().pending.insert(link.id, Pending { link: link.clone(), verdict });
            inbox.control(ControlInput::Hello(link.id, hello));
            match answer.await {
                Ok(Verdict::Accepted(peer)) => Ok(peer),
                Ok(Verdict::Rejected(reason)) => Err(Ended::Rejected(reason)),
                Err(_) => Err(Ended::Here),
            }
        };
        let result = tokio::select! {
            () = link.closing.cancelled() => Err(Ended::Here),
            result = tokio::time::timeout(HELLO_TIMEOUT, shaking) => {
                result.unwrap_or(Err(Ended::Slow(HELLO_TIMEOUT)))
            }
        };
        if let Err(ended) = &result {
            farewell(link.dialled, ended, write).await;
        }
        result
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses the stream to send on: the newest dialled, else the newest accepted.
    fn route(&self, streams: &Streams, peer: NodeId) {
        let best = streams.from(peer).max_by_key(|link| (link.dialled, link.id));
        let mut routes = self.0.routes.write().unwrap_or_else(PoisonError::into_inner);
        match best {
            Some(link) => routes.insert(peer, link),
            None => routes.remove(&peer),
        };
    }
}

impl Streams {
    fn from(&self, peer: NodeId) -> impl Iterator<Item = Arc<Link>> {
        let of_peer = move |(of, _): &&(NodeId, Arc<Link>)| *of == peer;
        self.accepted.values().filter(of_peer).map(|(_, link)| link.clone())
    }
}

/// Takes a stream off the books when its task ends, however it ends, and reports it.
struct Forget<'a> {
    peers: &'a Peers,
    link: &'a Arc<Link>,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut streams = self.peers.streams();
        streams.pending.remove(&self.link.id);
        let accepted = streams.accepted.remove(&self.link.id);
        if let Some((peer, _)) = &accepted {
            self.peers.route(&streams, *peer);
        }
        drop(streams);
        if self.link.dialled || accepted.is_some() {
            self.peers.tell(ControlInput::Broken(self.link.id));
        }
    }
}

/// What a peer has given as its reason is for the control core to judge.
fn pass_on_refusal(inbox: &dyn Inbox, id: ConnId, ended: &Ended) {
    if let Ended::Refused(reason) = ended {
        inbox.control(ControlInput::Rejected(id, reason.clone()));
    }
}

/// Tells the other side why, where that may help someone who reads its log.
async fn farewell(dialled: bool, ended: &Ended, write: &mut OwnedWriteHalf) {
    let foreign = matches!(ended, Ended::Frame(FrameError::Foreign(_)));
    if foreign || matches!(ended, Ended::Closed | Ended::Here | Ended::Io(_) | Ended::Refused(_)) {
        return;
    }
    let reason = match ended {
        Ended::Rejected(reason) => reason.clone(),
        other => other.to_string(),
    };
    let mut bytes = BytesMut::new();
    if dialled {
        frame::encode_reject(&mut bytes, &reason);
    } else {
        frame::encode_first_reject(&mut bytes, &reason);
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), write.write_all(&bytes)).await;
}
