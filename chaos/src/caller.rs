//! One client of the cluster: asks one node after the other, always with the same request id, and
//! writes down what happened.
//!
//! The store's own client would do that, too, but does not tell which node has answered. This one
//! therefore keeps a client for each node and moves on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coterie::client::{
    Client, Error, ErrorKind, Options, ReadOptions, Reading, WriteOptions, Written,
};

use crate::history::{Action, Answer, Event, Failure, Invoke, Recorder};
use crate::scenario::WorkloadKind;

/// A request ends after this, with all its attempts.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// An attempt ends after this, and another node is asked.
const ATTEMPT_WITHIN: Duration = Duration::from_millis(1500);
/// More attempts than this tell no more.
const ATTEMPTS_MAX: u32 = 12;
/// The pause before a node is asked again by the same request.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a node that has failed is asked last.
const LEFT_OUT_MS: u64 = 500;

/// The nodes, as all clients share them: those that there are, and those that there could be.
#[derive(Debug)]
pub struct Nodes {
    began: Instant,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: String,
    address: String,
    client: Client,
    /// Whether it belongs to the cluster, as far as clients know.
    member: AtomicBool,
    /// Milliseconds since `began` until which the node is asked last.
    out_until: AtomicU64,
}

/// One client.
#[derive(Clone, Debug)]
pub struct Caller {
    nodes: Arc<Nodes>,
    recorder: Arc<Recorder>,
    client: u32,
    /// Whom to ask first; moves on with each request.
    turn: usize,
}

/// What an operation is about.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// What for.
    pub workload: WorkloadKind,
    /// Which key.
    pub key: &'a str,
    /// Whether it is a strict request.
    pub strict: bool,
}

/// A write to be made.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// None: a tombstone.
    pub value: Option<String>,
    /// The context of the read that it is based on.
    pub context: Bytes,
    /// Names the request.
    pub request_id: [u8; 16],
}

/// How an operation went, for the client that goes on.
#[derive(Clone, Debug)]
pub enum Called<T> {
    /// It was answered.
    Ok(T),
    /// It failed without effect.
    Failed,
    /// It failed, perhaps with effect.
    Unknown,
}

/// What every attempt of an operation asks.
struct Ask<'a> {
    subject: &'a Subject<'a>,
    /// None: it reads.
    change: Option<&'a Change>,
}

/// What a node has answered.
enum Told {
    Reading(Reading),
    Written(Written),
}

/// How the attempts of an operation ended.
struct Tried {
    answer: Result<Told, Error>,
    node: usize,
    attempts: u32,
    second_failed_us: Option<u64>,
    unknown: bool,
}

impl Nodes {
    /// Nodes by name and address, of which the first `founders` are members. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// If an address is none.
    pub fn new(nodes: &[(String, String)], founders: usize) -> anyhow::Result<Self> {
        let options = Options { pinned: true, attempts: 1, ..Options::default() };
        let node = |(at, (name, address)): (usize, &(String, String))| -> anyhow::Result<Node> {
            let client = Client::connect([address.clone()], options.clone())?;
            let (name, address) = (name.clone(), address.clone());
            let member = AtomicBool::new(at < founders);
            Ok(Node { name, address, client, member, out_until: AtomicU64::new(0) })
        };
        let nodes = nodes.iter().enumerate().map(node).collect::<Result<_, _>>()?;
        Ok(Self { began: Instant::now(), nodes })
    }

    /// How many there are and could be.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Those that belong to the cluster, as far as clients know; never none.
    pub fn members(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&at| self.nodes[at].member.load(Relaxed)).collect()
    }

    /// Tells clients that a node belongs to the cluster, or does not.
    pub fn set_member(&self, index: usize, member: bool) {
        self.nodes[index].member.store(member, Relaxed);
    }

    /// A node's name.
    pub fn name(&self, index: usize) -> &str {
        &self.nodes[index].name
    }

    /// A client of one node alone, and the address to ask it at.
    pub fn client(&self, index: usize) -> (&Client, &str) {
        (&self.nodes[index].client, &self.nodes[index].address)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The member to ask next: of those that have been asked least, in turn, one that has not failed
    /// lately, or else any.
    fn pick(&self, turn: usize, asked: &[usize]) -> usize {
        let (mut order, now) = (self.members(), self.now_ms());
        let first = turn % order.len();
        order.rotate_left(first);
        order.sort_by_key(|&at| {
            let times = asked.iter().filter(|one| **one == at).count();
            (times, self.nodes[at].out_until.load(Relaxed) > now)
        });
        order[0]
    }
}

impl Ask<'_> {
    async fn once(&self, client: &Client, timeout: Duration) -> Result<Told, Error> {
        let (key, strict) = (self.subject.key.to_owned(), Some(self.subject.strict));
        let timeout = Some(timeout);
        let Some(change) = self.change else {
            let options =
                ReadOptions { strict, all_siblings: true, timeout, ..ReadOptions::default() };
            return client.get_with(key, &options).await.map(Told::Reading);
        };
        let (context, request_id) = (change.context.clone(), Some(change.request_id));
        let options = WriteOptions { strict, context, request_id, timeout, ..Default::default() };
        let written = match change.value.clone() {
            Some(value) => client.set_with(key, value, &options).await,
            None => client.delete_with(key, &options).await,
        };
        written.map(Told::Written)
    }
}

impl Caller {
    /// A client with a number.
    pub fn new(nodes: Arc<Nodes>, recorder: Arc<Recorder>, client: u32) -> Self {
        Self { nodes, recorder, client, turn: client as usize }
    }

    /// Reads a key and all of its siblings.
    pub async fn read(&mut self, subject: &Subject<'_>) -> Called<Reading> {
        let op = self.invoke(subject, Action::Read, &Change::default());
        let tried = self.attempts(&Ask { subject, change: None }).await;
        match self.ended(op, tried) {
            Called::Ok(Told::Reading(reading)) => Called::Ok(reading),
            Called::Ok(Told::Written(_)) => unreachable!("a read was asked for"),
            Called::Failed => Called::Failed,
            Called::Unknown => Called::Unknown,
        }
    }

    /// Writes a value or a tombstone. Answers with the context for the next write of the key.
    pub async fn write(&mut self, subject: &Subject<'_>, change: &Change) -> Called<Bytes> {
        let action = if change.value.is_some() { Action::Write } else { Action::Delete };
        let op = self.invoke(subject, action, change);
        let tried = self.attempts(&Ask { subject, change: Some(change) }).await;
        match self.ended(op, tried) {
            Called::Ok(Told::Written(written)) => Called::Ok(written.context),
            Called::Ok(Told::Reading(_)) => unreachable!("a write was asked for"),
            Called::Failed => Called::Failed,
            Called::Unknown => Called::Unknown,
        }
    }

    fn invoke(&self, subject: &Subject<'_>, action: Action, change: &Change) -> u64 {
        let op = self.recorder.next_op();
        self.recorder.record(&Event::Invoke(Invoke {
            t_us: self.recorder.now_us(),
            op,
            client: self.client,
            workload: subject.workload,
            action,
            key: subject.key.to_owned(),
            value: change.value.clone(),
            request: (action != Action::Read).then(|| hex(&change.request_id)),
            strict: subject.strict,
        }));
        op
    }

    async fn attempts(&mut self, ask: &Ask<'_>) -> Tried {
        let until = Instant::now() + REQUEST_WITHIN;
        self.turn = self.turn.wrapping_add(1);
        let (mut asked, mut unknown, mut second_failed_us) = (Vec::new(), false, None);
        loop {
            let node = self.nodes.pick(self.turn, &asked);
            asked.push(node);
            let attempts = u32::try_from(asked.len()).unwrap_or(u32::MAX);
            let left = until.saturating_duration_since(Instant::now());
            let answer = ask.once(&self.nodes.nodes[node].client, left.min(ATTEMPT_WITHIN)).await;
            let Err(error) = &answer else {
                break Tried { answer, node, attempts, second_failed_us, unknown };
            };
            if attempts == 2 {
                second_failed_us = Some(self.recorder.now_us());
            }
            unknown |= !error.outcome_is_known();
            let elsewhere = match error.kind() {
                ErrorKind::Invalid | ErrorKind::Refused => false,
                ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Internal => {
                    let out = self.nodes.now_ms() + LEFT_OUT_MS;
                    self.nodes.nodes[node].out_until.store(out, Relaxed);
                    true
                }
                ErrorKind::Unavailable => true,
            };
            let whole_round = asked.len().is_multiple_of(self.nodes.members().len());
            let pause = if whole_round { PAUSE * attempts } else { Duration::ZERO };
            if !elsewhere || attempts == ATTEMPTS_MAX || Instant::now() + pause >= until {
                break Tried { answer, node, attempts, second_failed_us, unknown };
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn ended(&self, op: u64, tried: Tried) -> Called<Told> {
        let (t_us, node) = (self.recorder.now_us(), self.nodes.name(tried.node).to_owned());
        let Tried { attempts, second_failed_us, .. } = tried;
        match tried.answer {
            Ok(answer) => {
                let (values, dot) = match &answer {
                    Told::Reading(reading) => (Some(values(reading)), None),
                    Told::Written(written) => (None, Some(written.receipt.dot.clone())),
                };
                let event = Answer { t_us, op, node, attempts, second_failed_us, values, dot };
                self.recorder.record(&Event::Ok(event));
                Called::Ok(answer)
            }
            Err(error) => {
                let refused = error.kind() == ErrorKind::Refused;
                let error = error.to_string();
                let failure =
                    Failure { t_us, op, node, attempts, second_failed_us, refused, error };
                let known = !tried.unknown;
                let event = if known { Event::Fail(failure) } else { Event::Unknown(failure) };
                self.recorder.record(&event);
                if known { Called::Failed } else { Called::Unknown }
            }
        }
    }
}

/// All values of a key, the last writer's first.
pub fn values(reading: &Reading) -> Vec<String> {
    reading.all.iter().map(|one| String::from_utf8_lossy(&one.value).into_owned()).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_has_failed_is_asked_last() {
        let node = |at: u16| (format!("n{at}"), format!("127.0.0.1:{}", 4000 + at));
        let nodes = Nodes::new(&[node(0), node(1), node(2), node(3)], 3).unwrap();
        let asked = [&[][..], &[1], &[1, 2], &[1, 2, 0]];
        assert_eq!(asked.map(|asked| nodes.pick(1, asked)), [1, 2, 0, 1]);
        nodes.nodes[1].out_until.store(nodes.now_ms() + 60_000, Relaxed);
        let asked = [&[][..], &[2], &[2, 0]];
        assert_eq!(asked.map(|asked| nodes.pick(1, asked)), [2, 0, 1]);
        // One that fails in mid-round takes nobody's turn.
        assert_eq!(nodes.pick(1, &[1]), 2);
        // Who comes is asked, and who has left is not.
        nodes.set_member(3, true);
        nodes.set_member(0, false);
        assert_eq!((nodes.members(), nodes.pick(2, &[])), (vec![1, 2, 3], 3));
    }

    #[tokio::test]
    async fn a_write_that_nobody_took_has_failed_and_is_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let recorder = Arc::new(Recorder::create(&path).unwrap());
        // Nobody listens on the port of a listener that is closed.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nodes = Nodes::new(&[("n0".to_owned(), closed.to_string())], 1).unwrap();
        let mut caller = Caller::new(Arc::new(nodes), recorder.clone(), 0);
        let subject = Subject { workload: WorkloadKind::Set, key: "set/a", strict: false };
        let change = Change { value: Some("v".to_owned()), ..Change::default() };
        assert!(matches!(caller.write(&subject, &change).await, Called::Failed));
        recorder.finish().unwrap();
        let history = crate::history::History::read(&path).unwrap();
        assert!(
            matches!(&history.ops[0].outcome, crate::history::Outcome::Fail(f) if f.attempts > 1)
        );
        assert!(history.ops[0].second_failed_us() < history.ops[0].ended_us());
        assert!(history.ops[0].second_failed_us().is_some());
    }
}
