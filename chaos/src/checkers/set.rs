//! C1: unique keys. What was acknowledged is there; what is there was attempted.

use super::Judgement;
use crate::history::{Action, History};
use crate::scenario::WorkloadKind;

/// Each key has one writer and one value, so that every answer can be judged by itself.
pub fn judge(history: &History) -> Judgement {
    let promise = "every acknowledged write of a new key is there, and nothing that nobody wrote";
    let mut judgement = Judgement::of(WorkloadKind::Set, "C1", promise);
    for op in history.of(WorkloadKind::Set).filter(|op| op.invoke.action == Action::Write) {
        let (key, value) = (&op.invoke.key, op.invoke.value.clone().unwrap_or_default());
        let acknowledged = op.answer().is_some();
        let Some(values) = history.final_values(key) else {
            judgement.open += usize::from(!acknowledged);
            if acknowledged {
                judgement.judged += 1;
                judgement.lost(key, "acknowledged, and nobody could read it at the end");
            }
            continue;
        };
        judgement.judged += 1;
        if acknowledged && !values.contains(&value) {
            judgement.lost(key, format!("`{value}` was acknowledged and is not there at the end"));
        }
        if let Some(phantom) = values.iter().find(|found| **found != value) {
            judgement.wrong(key, format!("`{phantom}` is there, and nobody wrote it"));
        }
    }
    for op in history.of(WorkloadKind::Set).filter(|op| op.invoke.action == Action::Read) {
        let Some(values) = op.answer().and_then(|answer| answer.values.as_ref()) else { continue };
        let key = &op.invoke.key;
        for value in values.iter().filter(|value| !value.ends_with(&format!("@{key}"))) {
            judgement.wrong(key, format!("`{value}` was read, and is a value of another key"));
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn what_was_acknowledged_and_is_there_is_right() {
        let history = history([
            write(0, "set/a", "1@set/a", 0, 9),
            read(3, "set/a", &["1@set/a"], 10, 11),
            failed(1, "set/b", "1@set/b", 0, 9),
            unknown(2, "set/c", "1@set/c", 0, 9),
            last("set/a", &["1@set/a"]),
            last("set/b", &[]),
            last("set/c", &["1@set/c"]),
        ]);
        let judgement = judge(&history);
        assert_eq!((judgement.judged, judgement.violations.len()), (3, 0));
    }

    #[test]
    fn an_acknowledged_key_that_is_gone_is_lost_and_named() {
        for end in [last("set/a", &[]), unreadable("set/a"), vec![]] {
            let judgement = judge(&history([write(0, "set/a", "1@set/a", 0, 9), end]));
            assert_eq!(judgement.violations.len(), 1);
            assert!(judgement.violations[0].lost && judgement.violations[0].key == "set/a");
        }
    }

    #[test]
    fn a_value_that_nobody_wrote_is_found() {
        let end = last("set/a", &["1@set/a", "2@set/a"]);
        let judgement = judge(&history([write(0, "set/a", "1@set/a", 0, 9), end]));
        assert!(judgement.violations.len() == 1 && !judgement.violations[0].lost);
        let foreign = read(1, "set/a", &["1@set/b"], 10, 11);
        assert_eq!(judge(&history([foreign])).violations.len(), 1);
    }
}
