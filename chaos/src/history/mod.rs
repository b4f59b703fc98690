//! The history of a run: what was asked, answered and done, in order of time.
//!
//! One JSON object a line. [`Recorder`] writes each event as it happens; [`History`] is what a
//! reader makes of them, and all that checkers know.
//!
//! ```text
//!   run                       once, at the head
//!   invoke ─▶ ok | fail | unknown     of one operation, joined by `op`; one without an end is unknown
//!   fault                     began, held, ended: with what was seen of its effect
//!   final · copies · node     after all faults: what each key reads as, what each disk holds
//!   settled                   whether the cluster came to rest
//! ```

mod recorder;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub use self::recorder::Recorder;
use crate::scenario::WorkloadKind;

/// In the place of a hash: the bytes are not what was written.
pub const DAMAGED: &str = "damaged";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What is run.
    Run(Header),
    /// An operation begins.
    Invoke(Invoke),
    /// It was answered.
    Ok(Answer),
    /// It failed, and certainly changed nothing.
    Fail(Failure),
    /// It failed, and may have changed something.
    Unknown(Failure),
    /// A fault.
    Fault(FaultEvent),
    /// What a key reads as when all is over.
    Final(Final),
    /// What the disks of its homes hold of a key when all is over.
    Copies(Copies),
    /// How a node is when all is over.
    Node(NodeState),
    /// Whether the cluster came to rest.
    Settled(Settled),
}

/// The head of a history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The scenario's name.
    pub scenario: String,
    /// What it is about.
    pub about: String,
    /// Where the nodes ran.
    pub target: String,
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// N.
    pub replicas: usize,
    /// Clients.
    pub clients: u32,
    /// How long the load lasted.
    pub seconds: u32,
    /// The seed.
    pub seed: u64,
    /// What repeats the run.
    pub command: String,
    /// When it began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// How many of a hundred requests may fail although a quorum lives.
    pub failed_percent_max: f64,
    /// How long no request may succeed although a quorum lives.
    pub silence_ms_max: u64,
    /// What clients did.
    #[serde(default)]
    pub workloads: BTreeSet<WorkloadKind>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Reads a key.
    Read,
    /// Writes a value.
    Write,
    /// Writes a tombstone.
    Delete,
}

/// An operation begins. Times are microseconds since the run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invoke {
    /// When.
    pub t_us: u64,
    /// Its number, unique in the run.
    pub op: u64,
    /// Which client.
    pub client: u32,
    /// What for.
    pub workload: WorkloadKind,
    /// What it does.
    pub action: Action,
    /// Of which key.
    pub key: String,
    /// What is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The request id, in hexadecimal digits: all attempts of the operation have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Whether it is a strict request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// An operation was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// When.
    pub t_us: u64,
    /// Which.
    pub op: u64,
    /// Who answered.
    pub node: String,
    /// How many attempts it took.
    pub attempts: u32,
    /// When its second attempt had failed, if it came to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_failed_us: Option<u64>,
    /// What was read: the last writer's value first; nothing if the key is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
    /// The store's name for the write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dot: Option<String>,
}

/// An operation failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub t_us: u64,
    /// Which.
    pub op: u64,
    /// Who was asked last.
    pub node: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// When its second attempt had failed, if it came to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_failed_us: Option<u64>,
    /// Whether the state of the key forbade it, which is no want of availability.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// What was said.
    pub error: String,
}

/// How far a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is about to be brought about.
    Begin,
    /// It is there, or should be: `seen` says what was seen of its effect.
    Held,
    /// It is healed, and every node is ready again.
    End,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultEvent {
    /// When.
    pub t_us: u64,
    /// Its number.
    pub fault: u32,
    /// What goes wrong.
    pub kind: String,
    /// How far it is.
    pub phase: Phase,
    /// Where.
    pub nodes: Vec<String>,
    /// The nodes that cannot be counted on meanwhile.
    pub impaired: Vec<String>,
    /// What was seen of its effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Why it must be taken for not having taken effect, or not having been healed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<String>,
}

/// What a key reads as when all is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// When it was asked for.
    pub t_us: u64,
    /// Which.
    pub key: String,
    /// All of its values, the last writer's first; none if nobody could read it.
    pub values: Option<Vec<String>>,
}

/// What the disks of its homes hold of a key when all is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    /// Of which key.
    pub key: String,
    /// One a home.
    #[serde(rename = "copies")]
    pub homes: Vec<Copy>,
    /// The nodes that did not tell whether they hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<String>,
}

/// What one disk holds of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// The node.
    pub node: String,
    /// Of the record; empty if there is none.
    pub hash: String,
    /// The writes in it that nothing has superseded.
    pub dots: Vec<String>,
}

/// How a node is when all is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its name.
    pub node: String,
    /// Whether it says that it is ready.
    pub ready: bool,
    /// The rest, in words.
    pub state: String,
    /// How many writes it keeps for others.
    pub hints: u64,
    /// Damaged records that it has found.
    pub records_lost: u64,
    /// How long it has been up.
    pub uptime_ms: u64,
}

/// Whether the cluster came to rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// How long it took, from the end of the load.
    pub after_ms: u64,
    /// What was still not as it should be when the time was up.
    pub unsettled: Vec<String>,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Answered.
    Ok(Answer),
    /// Failed without effect.
    Fail(Failure),
    /// Failed, perhaps with effect.
    Unknown(Failure),
    /// Never ended.
    Open,
}

/// An operation, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// How it began.
    pub invoke: Invoke,
    /// How it ended.
    pub outcome: Outcome,
}

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Its head.
    pub header: Header,
    /// In order of their beginnings.
    pub ops: Vec<Op>,
    /// In order of time.
    pub faults: Vec<FaultEvent>,
    /// What each key reads as when all is over.
    pub finals: BTreeMap<String, Final>,
    /// What is stored of each key when all is over.
    pub copies: BTreeMap<String, Copies>,
    /// How each node is when all is over.
    pub nodes: Vec<NodeState>,
    /// None if the run was broken off.
    pub settled: Option<Settled>,
}

impl Copies {
    /// Whether every home is known to hold the same.
    pub fn are_equal(&self, homes: usize) -> bool {
        let all = self.unanswered.is_empty() && self.homes.len() == homes;
        let alike = |copy: &Copy| copy.hash == self.homes[0].hash && copy.hash != DAMAGED;
        all && self.homes.iter().all(alike)
    }
}

impl Op {
    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Fail(_) | Outcome::Unknown(_) | Outcome::Open => None,
        }
    }

    /// When it ended, however it did.
    pub fn ended_us(&self) -> Option<u64> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer.t_us),
            Outcome::Fail(failure) | Outcome::Unknown(failure) => Some(failure.t_us),
            Outcome::Open => None,
        }
    }

    /// When its second attempt had failed, if it came to that.
    pub fn second_failed_us(&self) -> Option<u64> {
        match &self.outcome {
            Outcome::Ok(answer) => answer.second_failed_us,
            Outcome::Fail(failure) | Outcome::Unknown(failure) => failure.second_failed_us,
            Outcome::Open => None,
        }
    }

    /// Whether it was to change something.
    pub fn writes(&self) -> bool {
        self.invoke.action != Action::Read
    }

    /// Whether it was to change something, and nobody knows whether it did.
    pub fn is_unknown(&self) -> bool {
        self.writes() && matches!(self.outcome, Outcome::Unknown(_) | Outcome::Open)
    }
}

impl History {
    /// Reads a history from a file.
    ///
    /// A last line that is torn is left out: so ends the history of a run that was killed.
    ///
    /// # Errors
    /// If it cannot be read, or a line is not an event.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path);
        let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
        let mut events = Vec::new();
        for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            match serde_json::from_slice(line) {
                Ok(event) => events.push(event),
                Err(_) if !line.ends_with(b"\n") => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{}, line {number}", path.display()));
                }
            }
        }
        Ok(Self::from_events(events))
    }

    /// Puts the parts of operations together.
    pub fn from_events(events: impl IntoIterator<Item = Event>) -> Self {
        let mut history = Self::default();
        let mut places: HashMap<u64, usize> = HashMap::new();
        for event in events {
            match event {
                Event::Run(header) => history.header = header,
                Event::Invoke(invoke) => {
                    places.insert(invoke.op, history.ops.len());
                    history.ops.push(Op { invoke, outcome: Outcome::Open });
                }
                Event::Ok(answer) => history.end(&places, answer.op, Outcome::Ok(answer)),
                Event::Fail(failure) => history.end(&places, failure.op, Outcome::Fail(failure)),
                Event::Unknown(failure) => {
                    history.end(&places, failure.op, Outcome::Unknown(failure));
                }
                Event::Fault(fault) => history.faults.push(fault),
                Event::Final(read) => drop(history.finals.insert(read.key.clone(), read)),
                Event::Copies(copies) => drop(history.copies.insert(copies.key.clone(), copies)),
                Event::Node(node) => history.nodes.push(node),
                Event::Settled(settled) => history.settled = Some(settled),
            }
        }
        history
    }

    fn end(&mut self, places: &HashMap<u64, usize>, op: u64, outcome: Outcome) {
        if let Some(&at) = places.get(&op) {
            self.ops[at].outcome = outcome;
        }
    }

    /// The operations of a workload.
    pub fn of(&self, workload: WorkloadKind) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(move |op| op.invoke.workload == workload)
    }

    /// What a key reads as when all is over; none if nobody could read it.
    pub fn final_values(&self, key: &str) -> Option<&[String]> {
        self.finals.get(key)?.values.as_deref()
    }
}

#[cfg(test)]
pub mod testing;
