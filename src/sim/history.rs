//! What clients asked for and what they were told, in the order of the world's clock.
//!
//! A client behaves as the real one: it sends its request to any node; on a failure whose retry
//! is safe, or on silence, it sends the same request, with the same request id, to another. An op
//! is acknowledged only if an acknowledgement reached the client while it waited.

use super::clock::Time;
use super::scans::ScanRecord;
use super::tally::FaultKind;
use super::world::{Event, Notice, World};
use crate::protocol::op::{Action, Failure, Op, Outcome, ReadOutcome, Reason, Receipt};
use crate::protocol::step::{Input, Ticket};
use crate::types::Key;

/// How far a client is from a node, in microseconds.
const WAY: Time = 150;
/// A client waits so much longer than the deadline that it gave to the node.
const GRACE: Time = 300_000;

/// One thing that a client wants, with all its attempts.
#[derive(Debug)]
pub(super) struct OpRecord {
    pub(super) client: usize,
    pub(super) op: Op,
    pub(super) invoked: Time,
    pub(super) ended: Option<Time>,
    pub(super) end: Option<End>,
    /// Whether an attempt may have been applied, as far as the client knows.
    pub(super) maybe: bool,
    /// Nodes still to be tried, the next one last.
    pub(super) untried: Vec<usize>,
    pub(super) timeout: Time,
    last_failure: Option<Failure>,
}

/// How an op ended for its client.
#[derive(Debug)]
pub(super) enum End {
    Written(Receipt),
    Read(ReadOutcome),
    /// All attempts failed: with what the last answer said, if there was one.
    Failed(Option<Failure>),
}

/// One sending of an op to a node.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) op: usize,
    pub(super) node: usize,
    /// The process that has it; none while it is on its way.
    pub(super) boot: Option<u64>,
    pub(super) open: bool,
}

/// Everything that clients did.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) ops: Vec<OpRecord>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) scans: Vec<ScanRecord>,
}

impl OpRecord {
    pub(super) fn key(&self) -> &Key {
        &self.op.key
    }

    /// An op that has ended, for the checkers' own tests.
    #[cfg(test)]
    pub(super) fn of_the_past(client: usize, op: Op, (from, to): (Time, Time), end: End) -> Self {
        Self {
            client,
            op,
            invoked: from,
            ended: Some(to),
            end: Some(end),
            maybe: false,
            untried: Vec::new(),
            timeout: 0,
            last_failure: None,
        }
    }

    /// The receipt, if it is an acknowledged write.
    pub(super) fn receipt(&self) -> Option<&Receipt> {
        match &self.end {
            Some(End::Written(receipt)) => Some(receipt),
            _ => None,
        }
    }
}

impl World {
    /// A client sends `op` to the last of `nodes`, and after failures to those before it.
    pub(super) fn submit(
        &mut self,
        client: usize,
        op: Op,
        nodes: Vec<usize>,
        timeout: Time,
    ) -> usize {
        let id = self.history.ops.len();
        self.history.ops.push(OpRecord {
            client,
            op,
            invoked: self.time,
            ended: None,
            end: None,
            maybe: false,
            untried: nodes,
            timeout,
            last_failure: None,
        });
        self.try_again(id);
        id
    }

    /// The next attempt of an op is sent.
    pub(super) fn try_again(&mut self, op: usize) {
        let record = &mut self.history.ops[op];
        let Some(node) = record.untried.pop() else { return };
        let timeout = record.timeout;
        let attempt = self.history.attempts.len();
        self.history.attempts.push(Attempt { op, node, boot: None, open: true });
        self.schedule(WAY, Event::Request { attempt });
        self.schedule(timeout + self.paced(GRACE), Event::Patience { attempt });
    }

    pub(super) fn request_arrives(&mut self, attempt: usize) {
        let Attempt { op, node, .. } = self.history.attempts[attempt];
        let Some(process) = &self.nodes[node].process else {
            // Connection refused: nothing was begun.
            let outcome = Some(Outcome::Failed(Failure::before(Reason::ShuttingDown)));
            return self.schedule(WAY, Event::Answer { attempt, outcome });
        };
        self.history.attempts[attempt].boot = Some(process.number);
        let record = &self.history.ops[op];
        let now = self.nodes[node].clock.now(self.time);
        let input = Input::Client {
            ticket: Ticket(attempt as u64),
            op: record.op.clone(),
            deadline: now.mono.after_micros(record.timeout * self.config.pace),
            trace: None,
        };
        self.trace.event(self.time, node, b'c', record.op.key.bytes());
        let (client, op) = (record.client, &record.op);
        let line = || format!("← client-{client} {}", super::describe::op(op));
        self.trace.say(self.time, Some(node), line);
        let worker = record.op.partition(self.config.partitions).worker(self.config.workers);
        self.feed(node, worker, input);
        self.settle(node);
    }

    /// A worker has answered.
    pub(super) fn reply(&mut self, node: usize, ticket: Ticket, outcome: Outcome) {
        let Ok(attempt) = usize::try_from(ticket.0) else { return };
        let Some(open) = self.history.attempts.get(attempt) else {
            return self.observer.foreign_answer(self.time, node, ticket);
        };
        let record = &self.history.ops[open.op];
        let line = || {
            let said = super::describe::outcome(&outcome);
            format!("→ client-{} {said} {}", record.client, super::describe::key(record.key()))
        };
        self.trace.say(self.time, Some(node), line);
        if let Outcome::Written(receipt) = &outcome {
            let versions = self.versions_to_hold(receipt.placement);
            let (time, nodes) = (self.time, &self.nodes);
            self.observer.acknowledged(time, nodes, node, &record.op, receipt, &versions);
        }
        self.schedule(WAY, Event::Answer { attempt, outcome: Some(outcome) });
    }

    pub(super) fn answer_arrives(&mut self, attempt: usize, outcome: Option<Outcome>) -> Notice {
        let Attempt { op, node, open, .. } = self.history.attempts[attempt];
        if !open {
            return Notice::None;
        }
        self.history.attempts[attempt].open = false;
        match outcome {
            Some(Outcome::Written(receipt)) => self.end_op(op, End::Written(receipt)),
            Some(Outcome::Read(read)) => self.end_op(op, End::Read(read)),
            Some(Outcome::Failed(failure)) => {
                self.trace.event(self.time, node, b'f', &[failure.maybe_applied.into()]);
                if failure.reason == Reason::Overloaded {
                    self.count(FaultKind::Overload);
                }
                let record = &mut self.history.ops[op];
                record.maybe |= failure.maybe_applied;
                let again = is_worth_a_retry(&failure, &record.op.action);
                record.last_failure = Some(failure);
                self.retry_or_end(op, again)
            }
            None => self.without_answer(op),
        }
    }

    pub(super) fn patience_ends(&mut self, attempt: usize) -> Notice {
        let Attempt { op, open, .. } = self.history.attempts[attempt];
        if !open {
            return Notice::None;
        }
        self.history.attempts[attempt].open = false;
        self.without_answer(op)
    }

    fn without_answer(&mut self, op: usize) -> Notice {
        let record = &mut self.history.ops[op];
        record.maybe = true;
        record.last_failure = None;
        let again = match &record.op.action {
            Action::Get => true,
            Action::Put(put) => put.request.is_some(),
        };
        self.retry_or_end(op, again)
    }

    fn retry_or_end(&mut self, op: usize, again: bool) -> Notice {
        let record = &mut self.history.ops[op];
        if again && !record.untried.is_empty() {
            self.schedule(self.paced(10_000), Event::Retry { op });
            return Notice::None;
        }
        let failure = record.last_failure.take();
        self.end_op(op, End::Failed(failure))
    }

    fn end_op(&mut self, op: usize, end: End) -> Notice {
        let record = &mut self.history.ops[op];
        if let End::Failed(Some(Failure { reason: Reason::RequestIdReused, .. })) = &end {
            self.observer.retry_not_recognised(self.time, &record.op);
        }
        record.end = Some(end);
        record.ended = Some(self.time);
        Notice::Ended(op)
    }

    /// The connections of clients to a node break.
    pub(super) fn break_clients(&mut self, node: usize, boot: u64) {
        let of_it = |a: &Attempt| a.open && a.node == node && a.boot == Some(boot);
        let attempts = self.history.attempts.iter().enumerate();
        let broken: Vec<usize> = attempts.filter(|(_, a)| of_it(a)).map(|(at, _)| at).collect();
        for attempt in broken {
            self.schedule(WAY, Event::Answer { attempt, outcome: None });
        }
    }
}

/// Whether the same request, sent to another node, may fare better.
fn is_worth_a_retry(failure: &Failure, action: &Action) -> bool {
    let elsewhere = match failure.reason {
        Reason::NotFounded
        | Reason::QuorumNotReached
        | Reason::HintsFull
        | Reason::CoordinatorSilent
        | Reason::StoreRefused
        | Reason::Overloaded
        | Reason::ShuttingDown
        | Reason::NotConfirmed
        | Reason::RoundsUnknown
        | Reason::NotMember => true,
        Reason::Context(_)
        | Reason::RequestIdReused
        | Reason::TooManySiblings
        | Reason::RecordTooLarge => false,
    };
    elsewhere && failure.retry_is_safe(action)
}
