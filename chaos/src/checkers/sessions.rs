//! C8: sessions. A client that is alone with its key reads, strictly, what it has written, and never
//! anything older than it has read before, whichever node it asks.

use std::collections::{BTreeMap, BTreeSet};

use super::Judgement;
use crate::history::{Action, History, Op};
use crate::scenario::WorkloadKind;

/// What a session has been promised so far.
#[derive(Default)]
struct Session {
    /// The highest number that was acknowledged or read.
    floor: u64,
    /// The highest that was attempted.
    ceiling: u64,
    /// Numbers of which an attempt may still become a write of its own.
    may_return: BTreeSet<u64>,
}

/// Values are numbers that only rise.
pub fn judge(history: &History) -> Judgement {
    let promise = "strict requests read their client's writes, and never go back";
    let mut judgement = Judgement::of(WorkloadKind::Session, "C8", promise);
    let mut sessions: BTreeMap<&str, Session> = BTreeMap::new();
    for op in history.of(WorkloadKind::Session) {
        let session = sessions.entry(&op.invoke.key).or_default();
        match op.invoke.action {
            Action::Write => session.written(op),
            Action::Read => {
                let Some(values) = op.answer().and_then(|a| a.values.as_ref()) else { continue };
                let read = values.first().map_or("0", String::as_str);
                session.read(&op.invoke.key, read, &mut judgement);
            }
            Action::Delete => {}
        }
    }
    for (key, session) in &mut sessions {
        let Some(values) = history.final_values(key) else {
            // A key that was only read is not looked at in the end.
            if session.floor > 0 {
                judgement.lost(key, "nobody could read it at the end");
            }
            continue;
        };
        session.read(key, values.first().map_or("0", String::as_str), &mut judgement);
    }
    judgement
}

impl Session {
    fn written(&mut self, op: &Op) {
        let number = number(op.invoke.value.as_deref().unwrap_or_default()).unwrap_or(0);
        self.ceiling = self.ceiling.max(number);
        match op.answer() {
            Some(answer) => {
                self.floor = self.floor.max(number);
                if answer.attempts > 1 {
                    self.may_return.insert(number);
                }
            }
            None if op.is_unknown() => drop(self.may_return.insert(number)),
            None => {}
        }
    }

    fn read(&mut self, key: &str, value: &str, judgement: &mut Judgement) {
        let Some(read) = number(value).filter(|read| *read <= self.ceiling) else {
            judgement.judged += 1;
            judgement.wrong(key, format!("`{value}` was read, and nobody wrote it"));
            return;
        };
        if read < self.floor && self.may_return.contains(&read) {
            judgement.open += 1;
            return;
        }
        judgement.judged += 1;
        if read < self.floor {
            judgement.lost(key, format!("{read} was read after {} was seen", self.floor));
        }
        self.floor = self.floor.max(read);
    }
}

fn number(value: &str) -> Option<u64> {
    value.split('@').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn numbers_that_rise_are_right() {
        let history = history([
            read(0, "session/a", &[], 0, 1),
            write(1, "session/a", "1", 2, 3),
            read(2, "session/a", &["1"], 4, 5),
            unknown(3, "session/a", "2", 6, 7),
            read(4, "session/a", &["1"], 8, 9),
            read(5, "session/a", &["2"], 10, 11),
            last("session/a", &["2"]),
        ]);
        let judgement = judge(&history);
        assert_eq!((judgement.judged, judgement.violations), (5, vec![]));
    }

    #[test]
    fn a_read_that_goes_back_is_found() {
        let (one, two) = (write(1, "session/a", "1", 2, 3), write(2, "session/a", "2", 4, 5));
        for shown in [&["1"][..], &[]] {
            let back = read(3, "session/a", shown, 6, 7);
            let all = [one.clone(), two.clone(), back, last("session/a", &["2"])];
            assert_eq!(judge(&history(all)).violations.len(), 1);
        }
        let at_the_end = [one, two, last("session/a", &["1"])];
        assert!(judge(&history(at_the_end)).violations[0].lost);
    }

    #[test]
    fn what_was_read_once_is_not_unread() {
        let history = history([
            write(1, "session/a", "1", 2, 3),
            failed(3, "session/a", "2", 6, 7),
            read(4, "session/a", &["2"], 8, 9),
            read(5, "session/a", &["1"], 10, 11),
            last("session/a", &["2"]),
        ]);
        assert_eq!(judge(&history).violations.len(), 1);
    }

    #[test]
    fn a_number_of_nobody_is_found() {
        let history = history([read(5, "session/a", &["7"], 10, 11), last("session/a", &[])]);
        assert_eq!(judge(&history).violations.len(), 1);
    }
}
