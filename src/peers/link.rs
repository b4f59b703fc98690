//! One stream to or from a peer: its queue, its writer, its reader.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Decoder, Frame, FrameError};
use super::registry::{Counters, Inbox, Peers};
use crate::protocol::control::ConnId;
use crate::protocol::message::Envelope;
use crate::types::NodeId;

/// A stream over which nothing was sent for so long carries a ping.
const PING_EVERY: Duration = Duration::from_secs(2);
/// A stream from which nothing was heard for so long is dead: its peer's kernel is gone, or the
/// network is. A process that was killed is noticed at once, by the end of the stream.
const SILENCE_MAX: Duration = Duration::from_secs(9);
/// Of a peer's reason, so much is kept.
const REASON_BYTES_MAX: usize = 4096;
/// A buffer that grew beyond this in a burst is not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The peer has closed it.
    #[error("the peer has closed the stream")]
    Closed,
    /// This side has closed it.
    #[error("closed by this node")]
    Here,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The peer broke the rules of the framing.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer refused the stream, and why.
    #[error("refused by the peer: {0}")]
    Refused(String),
    /// This node refused the stream, and why.
    #[error("refused: {0}")]
    Rejected(String),
    /// As many streams as may be exist already.
    #[error("there are too many streams; this one was closed at once")]
    TooMany,
    /// No hello came, or no verdict on it.
    #[error("no hello within {0:?}")]
    Slow(Duration),
    /// A message names another sender than the hello did.
    #[error("a message names {0} as its sender, which is not the peer of this stream")]
    Impostor(NodeId),
    /// Nothing was heard for too long.
    #[error("nothing was heard for {SILENCE_MAX:?}")]
    Silent,
}

/// One stream, as its tasks and its senders share it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: ConnId,
    pub(super) remote: SocketAddr,
    /// Whether this side has dialled.
    pub(super) dialled: bool,
    /// Ends the stream's tasks.
    pub(super) closing: CancellationToken,
    queue: Mutex<BytesMut>,
    queue_bytes_max: usize,
    ready: Notify,
    born: Instant,
    /// Milliseconds from `born` until something was last heard.
    heard_ms: AtomicU64,
    silent: AtomicBool,
}

/// Wakes the writer of a stream whose queue was empty. Many messages need one wake-up: keep this
/// until a batch is complete.
#[derive(Debug)]
#[must_use = "nothing is written until the writer is woken"]
pub struct Wake(Arc<Link>);

impl Wake {
    /// Wakes the writer.
    pub fn wake(self) {
        self.0.ready.notify_one();
    }
}

/// What became of a message that was to be sent.
pub(super) enum Queued {
    /// The queue was empty: its writer must be woken.
    First(Wake),
    /// Its writer has been woken before.
    Another,
    /// The queue is full, or the message too long.
    Dropped,
}

impl Link {
    pub(super) fn new(
        id: ConnId,
        remote: SocketAddr,
        dialled: bool,
        queue_bytes_max: usize,
        closing: CancellationToken,
    ) -> Self {
        Self {
            id,
            remote,
            dialled,
            closing,
            queue: Mutex::default(),
            queue_bytes_max,
            ready: Notify::new(),
            born: Instant::now(),
            heard_ms: AtomicU64::new(0),
            silent: AtomicBool::new(false),
        }
    }

    /// Puts something into the queue in front of all messages: the hello.
    pub(super) fn greet(&self, hello: &[u8]) {
        frame::encode_hello(&mut self.lock(), hello);
    }

    /// Encodes a message straight into the queue.
    pub(super) fn send(self: &Arc<Self>, envelope: &Envelope) -> Queued {
        let mut queue = self.lock();
        if queue.len() >= self.queue_bytes_max {
            return Queued::Dropped;
        }
        let was_empty = queue.is_empty();
        match frame::encode_message(&mut queue, |out| envelope.encode(out)) {
            Ok(()) if was_empty => Queued::First(Wake(self.clone())),
            Ok(()) => Queued::Another,
            Err(too_large) => {
                tracing::warn!(peer = %self.remote, %too_large, "a message was not sent");
                Queued::Dropped
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BytesMut> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        let ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(ms, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(heard) > SILENCE_MAX
    }

    /// How this side came to close the stream.
    pub(super) fn why_closed(&self) -> Ended {
        if self.silent.load(Ordering::Relaxed) { Ended::Silent } else { Ended::Here }
    }
}

/// Writes what is queued until the stream ends, and pings. Closes the link when it fails.
pub(super) async fn write_all(link: Arc<Link>, mut socket: OwnedWriteHalf, peers: Peers) {
    let mut tick = tokio::time::interval(PING_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut batch = BytesMut::new();
    let mut quiet = false;
    loop {
        batch.clear();
        if batch.capacity() > KEPT_BYTES_MAX {
            batch = BytesMut::new();
        }
        std::mem::swap(&mut *link.lock(), &mut batch);
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = link.closing.cancelled() => return,
                () = link.ready.notified() => {}
                _ = tick.tick() => {
                    if !check(&link) { return }
                    if std::mem::replace(&mut quiet, true) {
                        frame::encode_ping(&mut link.lock());
                    }
                }
            }
            continue;
        }
        quiet = false;
        peers.counters().bytes_out.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let writing = socket.write_all(&batch);
        tokio::pin!(writing);
        loop {
            tokio::select! {
                biased;
                result = &mut writing => {
                    if result.is_err() {
                        return link.closing.cancel();
                    }
                    break;
                }
                () = link.closing.cancelled() => return,
                _ = tick.tick() => if !check(&link) { return },
            }
        }
    }
}

/// Whether the peer has been heard lately; if not, the stream is closed.
fn check(link: &Link) -> bool {
    if link.is_silent() {
        link.silent.store(true, Ordering::Relaxed);
        link.closing.cancel();
        return false;
    }
    true
}

/// Reads one direction of a stream.
pub(super) struct ReadHalf {
    socket: OwnedReadHalf,
    read: BytesMut,
    decoder: Decoder,
}

impl ReadHalf {
    pub(super) fn new(socket: OwnedReadHalf) -> Self {
        Self { socket, read: BytesMut::new(), decoder: Decoder::default() }
    }

    /// The first frame, which must be a hello.
    pub(super) async fn hello(&mut self) -> Result<Bytes, Ended> {
        loop {
            match self.decoder.next(&mut self.read)? {
                Some(Frame::Hello(hello)) => return Ok(hello),
                Some(Frame::Reject(reason)) => return Err(refused(&reason)),
                Some(Frame::Ping | Frame::Message(_)) => {
                    return Err(FrameError::OutOfPlace("the first frame is not a hello").into());
                }
                None => self.more().await?,
            }
        }
    }

    /// Hands over the messages of an accepted peer until the stream ends.
    pub(super) async fn messages(
        &mut self,
        link: &Link,
        peer: NodeId,
        inbox: &dyn Inbox,
        counters: &Counters,
    ) -> Ended {
        self.decoder.trust();
        let mut batch = Vec::new();
        loop {
            let result = self.batch(peer, &mut batch, counters);
            counters.received.fetch_add(batch.len() as u64, Ordering::Relaxed);
            if !batch.is_empty() {
                inbox.messages(peer, &mut batch);
                batch.clear();
            }
            if let Err(ended) = result {
                return ended;
            }
            let before = self.read.len();
            if let Err(ended) = self.more().await {
                return ended;
            }
            let read = self.read.len() - before;
            counters.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
            link.heard();
        }
    }

    /// Decodes everything that has been read. What came before a fault is still handed over.
    fn batch(
        &mut self,
        peer: NodeId,
        batch: &mut Vec<Envelope>,
        counters: &Counters,
    ) -> Result<(), Ended> {
        while let Some(frame) = self.decoder.next(&mut self.read)? {
            let message = match frame {
                Frame::Message(message) => message,
                Frame::Ping => continue,
                Frame::Reject(reason) => return Err(refused(&reason)),
                Frame::Hello(_) => return Err(FrameError::OutOfPlace("a second hello").into()),
            };
            match Envelope::decode(message) {
                Ok(envelope) if envelope.from == peer => batch.push(envelope),
                Ok(envelope) => return Err(Ended::Impostor(envelope.from)),
                Err(error) => counters.unreadable(peer, &error),
            }
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Ended> {
        self.decoder.reserve(&mut self.read);
        match self.socket.read_buf(&mut self.read).await? {
            0 => Err(Ended::Closed),
            _ => Ok(()),
        }
    }
}

fn refused(reason: &[u8]) -> Ended {
    let reason = String::from_utf8_lossy(&reason[..reason.len().min(REASON_BYTES_MAX)]);
    Ended::Refused(reason.chars().filter(|c| !c.is_control()).collect())
}
