//! One client of the cluster: asks one node after the other, always with the same request id, and
//! writes down what happened.
//!
//! The store's own client would do that, too, but does not tell which node has answered. This one
//! therefore keeps a client for each node and moves on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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

/// The nodes, as all clients share them.
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
    unknown: bool,
}

impl Nodes {
    /// Nodes by name and address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If an address is none.
    pub fn new(nodes: &[(String, String)]) -> anyhow::Result<Self> {
        let options = Options { pinned: true, attempts: 1, ..Options::default() };
        let node = |(name, address): &(String, String)| -> anyhow::Result<Node> {
            let client = Client::connect([address.clone()], options.clone())?;
            let (name, address) = (name.clone(), address.clone());
            Ok(Node { name, address, client, out_until: AtomicU64::new(0) })
        };
        Ok(Self { began: Instant::now(), nodes: nodes.iter().map(node).collect::<Result<_, _>>()? })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
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

    /// The node to ask next: of those that this round has not asked yet, in turn, one that has not
    /// failed lately, or else any.
    fn pick(&self, turn: usize, asked: &[usize]) -> usize {
        let (count, now) = (self.nodes.len(), self.now_ms());
        let round = &asked[asked.len() / count * count..];
        let mut order: Vec<usize> = (turn..turn + count).map(|at| at % count).collect();
        order.retain(|at| !round.contains(at));
        order.sort_by_key(|&at| self.nodes[at].out_until.load(Relaxed) > now);
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
        self.turn = self.turn.wrapping_add(1) % self.nodes.len();
        let (mut asked, mut unknown) = (Vec::new(), false);
        loop {
            let node = self.nodes.pick(self.turn, &asked);
            asked.push(node);
            let attempts = u32::try_from(asked.len()).unwrap_or(u32::MAX);
            let left = until.saturating_duration_since(Instant::now());
            let answer = ask.once(&self.nodes.nodes[node].client, left.min(ATTEMPT_WITHIN)).await;
            let Err(error) = &answer else { break Tried { answer, node, attempts, unknown } };
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
            let whole_round = asked.len().is_multiple_of(self.nodes.len());
            let pause = if whole_round { PAUSE * attempts } else { Duration::ZERO };
            if !elsewhere || attempts == ATTEMPTS_MAX || Instant::now() + pause >= until {
                break Tried { answer, node, attempts, unknown };
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn ended(&self, op: u64, tried: Tried) -> Called<Told> {
        let (t_us, node) = (self.recorder.now_us(), self.nodes.name(tried.node).to_owned());
        let attempts = tried.attempts;
        match tried.answer {
            Ok(answer) => {
                let (values, dot) = match &answer {
                    Told::Reading(reading) => (Some(values(reading)), None),
                    Told::Written(written) => (None, Some(written.receipt.dot.clone())),
                };
                let event = Answer { t_us, op, node, attempts, values, dot };
                self.recorder.record(&Event::Ok(event));
                Called::Ok(answer)
            }
            Err(error) => {
                let refused = error.kind() == ErrorKind::Refused;
                let error = error.to_string();
                let failure = Failure { t_us, op, node, attempts, refused, error };
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
        let nodes = Nodes::new(&[node(0), node(1), node(2)]).unwrap();
        let asked = [&[][..], &[1], &[1, 2], &[1, 2, 0]];
        assert_eq!(asked.map(|asked| nodes.pick(1, asked)), [1, 2, 0, 1]);
        nodes.nodes[1].out_until.store(nodes.now_ms() + 60_000, Relaxed);
        let asked = [&[][..], &[2], &[2, 0]];
        assert_eq!(asked.map(|asked| nodes.pick(1, asked)), [2, 0, 1]);
        // One that fails in mid-round takes nobody's turn.
        assert_eq!(nodes.pick(1, &[1]), 2);
    }

    #[tokio::test]
    async fn a_write_that_nobody_took_has_failed_and_is_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let recorder = Arc::new(Recorder::create(&path).unwrap());
        // Nobody listens on the port of a listener that is closed.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nodes = Nodes::new(&[("n0".to_owned(), closed.to_string())]).unwrap();
        let mut caller = Caller::new(Arc::new(nodes), recorder.clone(), 0);
        let subject = Subject { workload: WorkloadKind::Set, key: "set/a", strict: false };
        let change = Change { value: Some("v".to_owned()), ..Change::default() };
        assert!(matches!(caller.write(&subject, &change).await, Called::Failed));
        recorder.finish().unwrap();
        let history = crate::history::History::read(&path).unwrap();
        assert!(
            matches!(&history.ops[0].outcome, crate::history::Outcome::Fail(f) if f.attempts > 1)
        );
    }
}
