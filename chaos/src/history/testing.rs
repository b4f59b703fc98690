//! Histories for tests of checkers, written down rather than run.

use super::{
    Action, Answer, Copies, Copy, Event, Failure, FaultEvent, Final, Header, History, Invoke, Phase,
};
use crate::scenario::WorkloadKind;

/// A history of operations whose keys tell their workload: `set/a`, `register/b`.
pub fn history(events: impl IntoIterator<Item = Vec<Event>>) -> History {
    let header = Header {
        nodes: ["n0", "n1", "n2"].map(str::to_owned).to_vec(),
        replicas: 3,
        failed_percent_max: 0.1,
        silence_ms_max: 10_000,
        ..Header::default()
    };
    let events = events.into_iter().flatten();
    History::from_events(std::iter::once(Event::Run(header)).chain(events))
}

fn invoke(op: u64, action: Action, key: &str, value: Option<&str>, t_us: u64) -> Event {
    let kind = key.split('/').next().unwrap_or_default();
    let workload = WorkloadKind::ALL.into_iter().find(|one| one.name() == kind);
    Event::Invoke(Invoke {
        t_us,
        op,
        client: 0,
        workload: workload.unwrap_or(WorkloadKind::Set),
        action,
        key: key.to_owned(),
        value: value.map(str::to_owned),
        request: None,
        strict: true,
    })
}

fn ok(op: u64, values: Option<&[&str]>, t_us: u64) -> Event {
    let values = values.map(|values| values.iter().map(|&value| value.to_owned()).collect());
    let dot = values.is_none().then(|| format!("a@{op}.0"));
    let node = "n0".to_owned();
    Event::Ok(Answer { t_us, op, node, attempts: 1, second_failed_us: None, values, dot })
}

fn failure(op: u64, t_us: u64) -> Failure {
    let error = "no quorum".to_owned();
    let node = "n0".to_owned();
    Failure { t_us, op, node, attempts: 1, second_failed_us: None, refused: false, error }
}

/// An acknowledged write.
pub fn write(op: u64, key: &str, value: &str, from: u64, to: u64) -> Vec<Event> {
    vec![invoke(op, Action::Write, key, Some(value), from), ok(op, None, to)]
}

/// An acknowledged delete.
pub fn delete(op: u64, key: &str, from: u64, to: u64) -> Vec<Event> {
    vec![invoke(op, Action::Delete, key, None, from), ok(op, None, to)]
}

/// A write that failed, perhaps with effect.
pub fn unknown(op: u64, key: &str, value: &str, from: u64, to: u64) -> Vec<Event> {
    vec![invoke(op, Action::Write, key, Some(value), from), Event::Unknown(failure(op, to))]
}

/// A write that failed without effect.
pub fn failed(op: u64, key: &str, value: &str, from: u64, to: u64) -> Vec<Event> {
    vec![invoke(op, Action::Write, key, Some(value), from), Event::Fail(failure(op, to))]
}

/// A read that was answered.
pub fn read(op: u64, key: &str, values: &[&str], from: u64, to: u64) -> Vec<Event> {
    vec![invoke(op, Action::Read, key, None, from), ok(op, Some(values), to)]
}

/// What a key reads as when all is over.
pub fn last(key: &str, values: &[&str]) -> Vec<Event> {
    let values = Some(values.iter().map(|&value| value.to_owned()).collect());
    vec![Event::Final(Final { t_us: 1_000_000, key: key.to_owned(), values })]
}

/// A key that nobody could read when all was over.
pub fn unreadable(key: &str) -> Vec<Event> {
    vec![Event::Final(Final { t_us: 1_000_000, key: key.to_owned(), values: None })]
}

/// What three disks hold of a key: a hash and the dots for each.
pub fn copies(key: &str, disks: [(&str, &[&str]); 3]) -> Vec<Event> {
    let copy = |(at, (hash, dots)): (usize, (&str, &[&str]))| Copy {
        node: format!("n{at}"),
        hash: hash.to_owned(),
        dots: dots.iter().map(|&dot| dot.to_owned()).collect(),
    };
    let copies = disks.into_iter().enumerate().map(copy).collect();
    vec![Event::Copies(Copies { key: key.to_owned(), homes: copies, unanswered: Vec::new() })]
}

/// The same operation, whose second attempt failed at a time.
pub fn second_failed(t_us: u64, mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        match event {
            Event::Ok(answer) => answer.second_failed_us = Some(t_us),
            Event::Fail(failure) => failure.second_failed_us = Some(t_us),
            _ => {}
        }
    }
    events
}

/// The same operation, with its answer after so many attempts.
pub fn after_attempts(attempts: u32, mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Ok(answer) = event {
            answer.attempts = attempts;
        }
    }
    events
}

/// The same operation, with another name for the write.
pub fn named(dot: &str, mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Ok(answer) = event {
            answer.dot = Some(dot.to_owned());
        }
    }
    events
}

/// One fault, from its beginning to its end.
pub fn fault(impaired: &[&str], from: u64, to: u64, seen: Option<&str>) -> Vec<Event> {
    let names: Vec<String> = impaired.iter().map(|&name| name.to_owned()).collect();
    let event = |phase, t_us| FaultEvent {
        t_us,
        fault: 0,
        kind: "kill".to_owned(),
        phase,
        nodes: names.clone(),
        impaired: names.clone(),
        seen: None,
        unseen: None,
    };
    let mut held = event(Phase::Held, from);
    held.seen = seen.map(str::to_owned);
    held.unseen = seen.is_none().then(|| "nothing was seen".to_owned());
    [event(Phase::Begin, from), held, event(Phase::End, to)].map(Event::Fault).to_vec()
}
