//! The spans of one worker's work: what is said to peers, what is done for them, and commits.
//!
//! ```text
//!  a request's span, or a peer's question ──▶ what is done for it
//!      ├─ peer write ─ ─ ─ ─ ─ ─ ─ the envelope's trace context ─ ─ ─ ▶ peer write
//!      │    ends with the answer                                          ├─ commit
//!      ├─ commit                                                          └ ends with the answer
//!      │    ends with the report
//!      ╎
//!      ╎ linked, by the node that kept a hint      replay of a hint ─ ─ ─▶ peer write
//! ```
//!
//! The core decides nothing by them and knows only contexts, which it hands on from an input to
//! the effects that belong to it. Spans are begun and ended here, by the messages and reports that
//! pass by. What is not sampled costs a comparison.
//!
//! What was lost (an answer that never comes) must not stay: each table forgets what is old, and
//! the oldest when it is full. A span that is forgotten ends, as failed.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry::trace::SpanKind;

use crate::protocol::message::{CallId, DataMessage, PassAnswer, WriteAnswer};
use crate::protocol::step::{Change, CommitId, Input, Space};
use crate::telemetry::{OpenSpan, Origin, Traces};
use crate::types::{Key, Mono, NodeId, Partition, TraceContext};

/// Spans that are open at a time in one table: at the default ratio, those of far more requests
/// than are under way.
const OPEN_MAX: usize = 4096;
/// Longer than any request may wait for an answer by default, so that a late one still counts.
const FORGOTTEN_AFTER_MS: u64 = 30_000;
/// Hints whose writes are remembered: those of a sampled part, and only until they are replayed.
const HINTED_MAX: usize = 4096;

/// The spans of one worker.
pub(super) struct Spans {
    traces: Traces,
    /// The span that the present input is about.
    current: Option<TraceContext>,
    /// Questions of ours, each with the span that it is a part of.
    asked: Table<CallId, Option<TraceContext>>,
    /// Questions of peers.
    serving: Table<(NodeId, CallId), ()>,
    /// In the order of their ids, as they are reported.
    commits: VecDeque<(CommitId, OpenSpan)>,
    /// The writes that left a hint here, by partition and key.
    hinted: HashMap<Bytes, TraceContext>,
    /// The same, oldest first.
    hinted_order: VecDeque<Bytes>,
}

/// What a message is in an exchange.
enum Part {
    Question(&'static str, CallId),
    /// Whether what was asked was done.
    Answer(CallId, bool),
    Other,
}

impl Spans {
    pub(super) fn new(traces: Traces) -> Self {
        Self {
            traces,
            current: None,
            asked: Table::default(),
            serving: Table::default(),
            commits: VecDeque::new(),
            hinted: HashMap::new(),
            hinted_order: VecDeque::new(),
        }
    }

    /// A peer says something: the context that the core is to be told.
    pub(super) fn received(
        &mut self,
        now: Mono,
        from: NodeId,
        trace: Option<TraceContext>,
        partition: Partition,
        message: &DataMessage,
    ) -> Option<TraceContext> {
        if !self.traces.are_on() {
            return trace;
        }
        let sampled = trace.filter(TraceContext::is_sampled);
        match (part(message), sampled) {
            (Part::Question(name, call), Some(caller)) => {
                let span = self.traces.begin(name, SpanKind::Server, Origin::Within(caller));
                let mut span = span?;
                about(&mut span, from, partition);
                let own = span.context();
                self.serving.open(now, (from, call), span, ());
                self.current = Some(own);
                Some(own)
            }
            (Part::Answer(call, done), _) => {
                if let Some((mut span, within)) = self.asked.close(&call) {
                    if !done {
                        span.fail("refused");
                    }
                    self.current = within;
                }
                trace
            }
            (Part::Question(..) | Part::Other, _) => trace,
        }
    }

    /// Something is said to a peer: the context that it is to be told.
    pub(super) fn sent(
        &mut self,
        now: Mono,
        to: NodeId,
        trace: Option<TraceContext>,
        partition: Partition,
        message: &DataMessage,
    ) -> Option<TraceContext> {
        if !self.traces.are_on() {
            return trace;
        }
        let sampled = trace.filter(TraceContext::is_sampled);
        match (part(message), sampled) {
            (Part::Question(name, call), Some(within)) => {
                let origin = Origin::Within(within);
                Some(self.ask(now, (name, origin, Some(within)), to, partition, call)?)
            }
            (Part::Question(_, call), None) => {
                let Some(write) = self.replayed(partition, message) else { return trace };
                let origin = Origin::After(write);
                Some(self.ask(now, ("hint replay", origin, None), to, partition, call)?)
            }
            (Part::Answer(call, done), _) => {
                if let Some((mut span, ())) = self.serving.close(&(to, call))
                    && !done
                {
                    span.fail("refused");
                }
                trace
            }
            (Part::Other, _) => trace,
        }
    }

    fn ask(
        &mut self,
        now: Mono,
        (name, origin, within): (&'static str, Origin, Option<TraceContext>),
        to: NodeId,
        partition: Partition,
        call: CallId,
    ) -> Option<TraceContext> {
        let mut span = self.traces.begin(name, SpanKind::Client, origin)?;
        about(&mut span, to, partition);
        let own = span.context();
        self.asked.open(now, call, span, within);
        Some(own)
    }

    /// An input is about to be worked on.
    pub(super) fn before(&mut self, input: &Input) {
        match input {
            Input::Client { trace: Some(trace), .. } if self.traces.are_on() => {
                self.current = Some(*trace).filter(TraceContext::is_sampled);
            }
            Input::Committed(through) => {
                while self.commits.front().is_some_and(|(id, _)| id <= through) {
                    self.commits.pop_front();
                }
            }
            Input::Refused(refused) => {
                let at = self.commits.iter().position(|(id, _)| id == refused);
                if let Some((_, mut span)) = at.and_then(|at| self.commits.remove(at)) {
                    span.fail("refused");
                }
            }
            _ => {}
        }
    }

    /// An input has been worked on, with all that followed from it at once.
    pub(super) fn after(&mut self) {
        self.current = None;
    }

    /// Changes are queued for commit.
    pub(super) fn committing(&mut self, id: CommitId, changes: &[Change]) {
        if !self.hinted.is_empty() {
            let hints = changes.iter().filter(|change| change.space == Space::Hints);
            for removed in hints.filter(|change| change.value.is_none()) {
                self.hinted.remove(&place_of_hint(&removed.key));
            }
        }
        let Some(within) = self.current else { return };
        for change in changes.iter().filter(|it| it.space == Space::Hints && it.value.is_some()) {
            self.remember_hint(place_of_hint(&change.key), within);
        }
        let origin = Origin::Within(within);
        if self.commits.len() < OPEN_MAX
            && let Some(span) = self.traces.begin("commit", SpanKind::Internal, origin)
        {
            self.commits.push_back((id, span));
        }
    }

    fn remember_hint(&mut self, place: Bytes, write: TraceContext) {
        if self.hinted.insert(place.clone(), write).is_none() {
            self.hinted_order.push_back(place);
        }
        if self.hinted_order.len() > HINTED_MAX
            && let Some(oldest) = self.hinted_order.pop_front()
        {
            self.hinted.remove(&oldest);
        }
    }

    /// The write whose hint this message replays, if it is known. Replays alone send a record that
    /// belongs to no request.
    fn replayed(&mut self, partition: Partition, message: &DataMessage) -> Option<TraceContext> {
        let DataMessage::Write(write) = message else { return None };
        if self.hinted.is_empty() || write.hint_for.is_some() {
            return None;
        }
        self.hinted.get(&place(partition, &write.key)).copied()
    }
}

/// Where a hint belongs: its key in the store, without the target that it begins with.
fn place_of_hint(key: &Bytes) -> Bytes {
    let target = key.first().map_or(0, |&length| 1 + usize::from(length));
    key.slice(target.min(key.len())..)
}

/// Partition and key, as the keys of hints end with them.
fn place(partition: Partition, key: &Key) -> Bytes {
    let mut place = BytesMut::with_capacity(2 + key.bytes().len());
    place.put_u16(partition.0);
    place.put_slice(key.bytes());
    place.freeze()
}

fn about(span: &mut OpenSpan, peer: NodeId, partition: Partition) {
    span.tell("coterie.peer.id", peer.to_string());
    span.tell("coterie.partition", i64::from(partition.0));
}

fn part(message: &DataMessage) -> Part {
    match message {
        DataMessage::Read(request) => Part::Question("peer read", request.call),
        DataMessage::Write(request) if request.hint_for.is_some() => {
            Part::Question("peer keep hint", request.call)
        }
        DataMessage::Write(request) => Part::Question("peer write", request.call),
        DataMessage::Pass(pass) => Part::Question("peer coordinate", pass.call),
        DataMessage::ReadReply(call, ..) => Part::Answer(*call, true),
        DataMessage::WriteReply(call, answer) => {
            Part::Answer(*call, matches!(answer, WriteAnswer::Stored(_)))
        }
        DataMessage::PassReply(call, answer) => {
            Part::Answer(*call, matches!(answer, PassAnswer::Ended(_)))
        }
        DataMessage::OpenSession(_)
        | DataMessage::Session(_)
        | DataMessage::Scan(_)
        | DataMessage::ScanReply(..)
        | DataMessage::Sync(..)
        | DataMessage::SyncReply(..)
        | DataMessage::Round(_) => Part::Other,
    }
}

/// Spans that end with an answer, by what it bears.
struct Table<K, T> {
    open: HashMap<K, (OpenSpan, T)>,
    /// Since when; those that have ended are still here, until they are old.
    order: VecDeque<(Mono, K)>,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { open: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Hash + Eq + Copy, T> Table<K, T> {
    fn open(&mut self, now: Mono, key: K, span: OpenSpan, with: T) {
        while let Some(&(since, oldest)) = self.order.front() {
            let is_old = since.after_millis(FORGOTTEN_AFTER_MS) < now;
            if !is_old && self.order.len() < OPEN_MAX {
                break;
            }
            self.order.pop_front();
            if let Some((mut span, _)) = self.open.remove(&oldest) {
                span.fail("no answer has come");
            }
        }
        self.order.push_back((now, key));
        self.open.insert(key, (span, with));
    }

    fn close(&mut self, key: &K) -> Option<(OpenSpan, T)> {
        if self.open.is_empty() { None } else { self.open.remove(key) }
    }
}
