//! From what every member's disk holds of a key to what is known of each home: a pure function,
//! so that its every branch can be tested.
//!
//! What all have, merged as replicas merge, is the measure: a home is current if it holds that,
//! and stale if it lacks a write of it, or still shows one that it supersedes. A home that cannot
//! be asked is unknown, whatever others keep for it.

use serde::Serialize;

use super::held::{Held, Holding, Writes};
use crate::types::Dot;

/// What is known of a home's own copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It holds all that anyone holds.
    Current,
    /// It holds nothing, and nor does anyone else.
    Nothing,
    /// It lacks writes that others hold, or shows some that others know to be superseded.
    Stale {
        /// The dots of the writes that it lacks.
        lacks: Vec<String>,
        /// The dots of the writes that it still shows.
        superseded: Vec<String>,
    },
    /// It knows the same writes, and holds other bytes: a defect.
    Differs,
    /// Its bytes do not pass their checksum.
    Damaged,
    /// It could not be asked.
    Unknown {
        /// Why.
        because: String,
    },
}

/// A home, and what its disk holds.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its name.
    pub name: String,
    /// Its copy, or why that is not known.
    pub own: Result<Holding, String>,
}

/// A copy that a node keeps for a home, or holds without being a home.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// Who holds it.
    pub holder: String,
    /// The home that it is kept for; none: it is the holder's own copy.
    pub target: Option<String>,
    /// The copy.
    pub held: Held,
}

/// Everything that was found out.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The homes, in order of preference.
    pub homes: Vec<Home>,
    /// All other copies.
    pub elsewhere: Vec<Elsewhere>,
    /// Members that are no homes and could not be asked: they may keep hints.
    pub silent: Vec<String>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Everything that matters, in a sentence.
    pub sentence: String,
    /// Of each home.
    pub states: Vec<State>,
    /// Whether all homes were asked and agree.
    pub agree: bool,
    /// Whether everyone was asked and nobody holds anything.
    pub nobody: bool,
}

/// Judges what was found.
#[must_use]
pub fn judge(findings: &Findings) -> Verdict {
    let merged = merged(findings);
    let mut states: Vec<State> = findings.homes.iter().map(|home| state(home, &merged)).collect();
    tell_bytes_apart(findings, &mut states);
    let rebuilding = |home: &Home| home.own.as_ref().is_ok_and(|own| own.rebuilding);
    let all_current = states.iter().all(|state| matches!(state, State::Current | State::Nothing));
    let agree = all_current && !findings.homes.iter().any(rebuilding);
    let damaged = findings.elsewhere.iter().any(|copy| copy.held == Held::Damaged);
    let nobody = agree && merged.is_empty() && findings.silent.is_empty() && !damaged;
    let sentence = sentence(findings, &states, &merged, agree);
    Verdict { sentence, states, agree, nobody }
}

fn merged(findings: &Findings) -> Writes {
    let own = findings.homes.iter().filter_map(|home| home.own.as_ref().ok());
    let own = own.map(|holding| &holding.held);
    let all = own.chain(findings.elsewhere.iter().map(|copy| &copy.held));
    all.filter_map(Held::writes).fold(Writes::default(), |sum, one| sum.merge(one))
}

fn state(home: &Home, merged: &Writes) -> State {
    let held = match &home.own {
        Err(because) => return State::Unknown { because: because.clone() },
        Ok(holding) => &holding.held,
    };
    let nothing = Writes::default();
    let writes = match held {
        Held::Damaged => return State::Damaged,
        Held::Nothing => &nothing,
        Held::Record(record) => &record.writes,
    };
    if writes == merged {
        return if *held == Held::Nothing { State::Nothing } else { State::Current };
    }
    let dots = |record: &Writes, but: &dyn Fn(Dot) -> bool| {
        let dots = record.siblings().iter().map(|sibling| sibling.dot);
        dots.filter(|dot| !but(*dot)).map(|dot| format!("{dot:?}")).collect()
    };
    let lacks = dots(merged, &|dot| writes.seen().covers(dot));
    let kept = |dot| merged.siblings().iter().any(|sibling| sibling.dot == dot);
    State::Stale { lacks, superseded: dots(writes, &kept) }
}

/// Equal writes have equal bytes: where they have not, nobody can tell who is right.
fn tell_bytes_apart(findings: &Findings, states: &mut [State]) {
    let hash = |home: &Home| match &home.own {
        Ok(Holding { held: Held::Record(record), .. }) => Some(record.hash.clone()),
        _ => None,
    };
    let current = |state: &State| *state == State::Current;
    let hashes = findings.homes.iter().zip(&*states).filter(|(_, state)| current(state));
    let mut hashes: Vec<_> = hashes.filter_map(|(home, _)| hash(home)).collect();
    hashes.sort();
    hashes.dedup();
    if hashes.len() > 1 {
        states.iter_mut().filter(|state| current(state)).for_each(|state| *state = State::Differs);
    }
}

fn sentence(findings: &Findings, states: &[State], merged: &Writes, agree: bool) -> String {
    let homes = findings.homes.len();
    let mut parts = Vec::new();
    if agree {
        let replicas = if homes == 1 {
            "the only home replica".to_owned()
        } else {
            format!("all {homes} home replicas")
        };
        parts.push(if merged.is_empty() {
            format!("{replicas} answered: no trace of the key")
        } else {
            format!("{replicas} agree{}", if homes == 1 { "s with all" } else { "" })
        });
        parts.extend(gone(findings, merged).map(str::to_owned));
    } else {
        if merged.is_empty() {
            parts.push("no node that was asked holds the key".to_owned());
        }
        for (home, state) in findings.homes.iter().zip(states) {
            parts.extend(trouble(findings, home, state));
        }
    }
    parts.extend(findings.elsewhere.iter().filter_map(stray));
    if !findings.silent.is_empty() {
        let silent = findings.silent.join(", ");
        parts.push(format!("{silent} could not be asked and may keep hints"));
    }
    parts.join("; ")
}

/// Why a reader of homes that agree would find nothing, if it would.
fn gone(findings: &Findings, merged: &Writes) -> Option<&'static str> {
    if merged.is_empty() {
        return None;
    }
    if merged.siblings().iter().all(|sibling| sibling.value().is_none()) {
        return Some("the key is deleted");
    }
    let own = findings.homes.first()?.own.as_ref().ok()?;
    let Held::Record(record) = &own.held else { return None };
    let mut kinds = record.siblings.iter().map(|sibling| sibling.kind);
    (!record.siblings.is_empty() && kinds.all(|kind| kind != "value"))
        .then_some("its value has expired")
}

/// What there is to say of one home, with who keeps what for it.
fn trouble(findings: &Findings, home: &Home, state: &State) -> Option<String> {
    let name = &home.name;
    let rebuilding = home.own.as_ref().is_ok_and(|own| own.rebuilding);
    let said = match state {
        State::Current | State::Nothing if rebuilding => format!("{name} is being rebuilt"),
        State::Current | State::Nothing => return None,
        State::Stale { lacks, superseded } if lacks.is_empty() => match superseded.len() {
            0 => format!("{name} is stale: it has not seen what was superseded"),
            1 => format!("{name} is stale: it still shows 1 superseded write"),
            n => format!("{name} is stale: it still shows {n} superseded writes"),
        },
        State::Stale { lacks, .. } if lacks.len() == 1 => {
            format!("{name} is stale: it lacks 1 write")
        }
        State::Stale { lacks, .. } => format!("{name} is stale: it lacks {} writes", lacks.len()),
        State::Differs => format!("{name} holds other bytes for the same writes"),
        State::Damaged => format!("{name}'s copy is damaged"),
        State::Unknown { .. } => format!("{name} is unknown: it could not be asked"),
    };
    let keepers: Vec<&str> = findings
        .elsewhere
        .iter()
        .filter(|copy| copy.target.as_ref() == Some(name) && copy.held != Held::Damaged)
        .map(|copy| copy.holder.as_str())
        .collect();
    Some(match keepers[..] {
        [] => said,
        [one] => format!("{said}; {one} holds a hint for it"),
        _ => format!("{said}; {} hold hints for it", keepers.join(" and ")),
    })
}

/// A copy that should not be there, or cannot be read.
fn stray(copy: &Elsewhere) -> Option<String> {
    match (&copy.target, &copy.held) {
        (Some(target), Held::Damaged) => {
            Some(format!("{}'s hint for {target} is damaged", copy.holder))
        }
        (None, _) => Some(format!("{} holds a copy and is no home", copy.holder)),
        (Some(_), _) => None,
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
