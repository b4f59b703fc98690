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
//! What was lost (an answer that never comes) must not stay: whenever a span is added, its table
//! forgets what is old, and the oldest if it is full. A span that is forgotten ends, as failed.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use opentelemetry::trace::SpanKind;

use crate::protocol::message::{CallId, DataMessage, PassAnswer, WriteAnswer};
use crate::protocol::record::Sealed;
use crate::protocol::step::{Change, CommitId, Input, Space};
use crate::telemetry::{OpenSpan, Origin, Traces};
use crate::types::{Mono, NodeId, Partition, RecordHash, TraceContext};

/// Spans that are open at a time in one table: at the default ratio, those of far more requests
/// than are under way.
const OPEN_MAX: usize = 4096;
/// Longer than any request may wait for an answer by default, so that a late one still counts.
const FORGOTTEN_AFTER_MS: u64 = 30_000;
/// Records whose writes are remembered: those of the sampled requests of a while.
const REMEMBERED_MAX: usize = 4096;

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
    /// Records that were sent to a home: if it does not answer, they become hints.
    sent: Remembered,
    /// Records that became hints here: a replay sends just that.
    hinted: Remembered,
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
            sent: Remembered::default(),
            hinted: Remembered::default(),
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
                    if within.is_none()
                        && let DataMessage::WriteReply(_, WriteAnswer::Stored(hash)) = message
                    {
                        self.hinted.remove(hash);
                    }
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
                if let DataMessage::Write(write) = message {
                    self.sent.insert(write.record.hash(), within);
                }
                let origin = Origin::Within(within);
                self.ask(now, (name, origin, Some(within)), to, partition, call)
            }
            (Part::Question(_, call), None) => {
                let Some(write) = self.replayed(message) else { return trace };
                let origin = Origin::After(write);
                self.ask(now, ("hint replay", origin, None), to, partition, call)
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
        for change in changes.iter().filter(|change| change.space == Space::Hints) {
            self.remember_hint(change);
        }
        let Some(within) = self.current else { return };
        let origin = Origin::Within(within);
        if self.commits.len() < OPEN_MAX
            && let Some(span) = self.traces.begin("commit", SpanKind::Internal, origin)
        {
            self.commits.push_back((id, span));
        }
    }

    fn remember_hint(&mut self, change: &Change) {
        if self.current.is_none() && self.sent.is_empty() {
            return;
        }
        let Some(Ok(record)) = change.value.clone().map(Sealed::from_stored) else { return };
        let hash = record.hash();
        if let Some(write) = self.current.or_else(|| self.sent.get(&hash)) {
            self.hinted.insert(hash, write);
        }
    }

    /// The write whose hint this message replays, if it is known.
    fn replayed(&self, message: &DataMessage) -> Option<TraceContext> {
        let DataMessage::Write(write) = message else { return None };
        if self.hinted.is_empty() || write.hint_for.is_some() {
            return None;
        }
        self.hinted.get(&write.record.hash())
    }
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

/// The spans of writes, by the record that each has made.
#[derive(Default)]
struct Remembered {
    writes: HashMap<RecordHash, TraceContext>,
    /// Oldest first; those that were removed are still here.
    order: VecDeque<RecordHash>,
}

impl Remembered {
    fn insert(&mut self, record: RecordHash, write: TraceContext) {
        if self.writes.insert(record, write).is_none() {
            self.order.push_back(record);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.writes.remove(&oldest);
        }
    }

    fn get(&self, record: &RecordHash) -> Option<TraceContext> {
        self.writes.get(record).copied()
    }

    fn remove(&mut self, record: &RecordHash) {
        self.writes.remove(record);
    }

    fn is_empty(&self) -> bool {
        self.writes.is_empty()
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

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;
    use crate::protocol::message::ReadRequest;
    use crate::types::Key;

    const WITHIN: TraceContext = TraceContext { trace: 7, span: 1, flags: 1 };

    fn answer(call: u64) -> DataMessage {
        DataMessage::WriteReply(CallId(call), WriteAnswer::Stored(RecordHash(0)))
    }

    fn question(call: u64) -> DataMessage {
        DataMessage::Read(ReadRequest {
            call: CallId(call),
            key: Key::new("k").unwrap(),
            hint_for: None,
            known: None,
        })
    }

    fn ask(spans: &mut Spans, at: Mono, call: u64, trace: TraceContext) -> Option<TraceContext> {
        spans.sent(at, NodeId(2), Some(trace), Partition(0), &question(call))
    }

    #[test]
    fn what_is_never_answered_is_forgotten() {
        let provider = SdkTracerProvider::builder().build();
        let mut spans = Spans::new(Traces::new(provider.tracer("test")));
        let sent = ask(&mut spans, Mono(0), 0, WITHIN).unwrap();
        assert!(sent.trace == 7 && sent.span != 1 && sent.is_sampled(), "{sent:?}");
        for call in 1..=OPEN_MAX as u64 {
            ask(&mut spans, Mono(0), call, WITHIN);
        }
        assert_eq!((spans.asked.open.len(), spans.asked.order.len()), (OPEN_MAX, OPEN_MAX));
        let later = Mono(0).after_millis(FORGOTTEN_AFTER_MS + 1);
        ask(&mut spans, later, u64::MAX, WITHIN);
        assert_eq!((spans.asked.open.len(), spans.asked.order.len()), (1, 1));
        spans.received(later, NodeId(2), None, Partition(0), &answer(u64::MAX));
        assert!(spans.asked.open.is_empty());
    }

    #[test]
    fn what_is_not_sampled_or_goes_nowhere_is_handed_on_as_it_is() {
        let provider = SdkTracerProvider::builder().build();
        let unsampled = TraceContext { flags: 0, ..WITHIN };
        let on = Traces::new(provider.tracer("test"));
        for (traces, trace) in [(on, unsampled), (Traces::default(), WITHIN)] {
            let mut spans = Spans::new(traces);
            assert_eq!(ask(&mut spans, Mono(0), 1, trace), Some(trace));
            let got = spans.received(Mono(0), NodeId(2), Some(trace), Partition(0), &question(1));
            assert_eq!(got, Some(trace));
            assert!(spans.asked.open.is_empty() && spans.serving.open.is_empty());
        }
    }
}
