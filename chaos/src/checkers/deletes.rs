//! C7: deletes stay. A value that was deleted, with both the write and the delete acknowledged,
//! does not come back, also when a node returns that was away for long; and one whose delete has
//! certainly not begun is still there.

use std::collections::BTreeMap;

use super::Judgement;
use crate::history::{Action, History, Op};
use crate::scenario::WorkloadKind;

/// Each key is written once and then deleted, with the context of the write.
pub fn judge(history: &History) -> Judgement {
    let promise = "what was deleted stays gone, and what was not deleted stays";
    let mut judgement = Judgement::of(WorkloadKind::Delete, "C7", promise);
    let mut keys: BTreeMap<&str, (Option<&Op>, Option<&Op>)> = BTreeMap::new();
    for op in history.of(WorkloadKind::Delete) {
        let pair = keys.entry(&op.invoke.key).or_default();
        match op.invoke.action {
            Action::Write => pair.0 = Some(op),
            Action::Delete => pair.1 = Some(op),
            Action::Read => {}
        }
    }
    let (mut deleted, mut collected) = (0, 0);
    for (key, (write, delete)) in keys {
        let Some(written) = write.and_then(Op::answer) else {
            judgement.open += 1;
            continue;
        };
        let values = history.final_values(key);
        if delete.is_some_and(|delete| delete.answer().is_some()) {
            // An attempt that was given up may become a write of its own after the delete.
            if written.attempts > 1 {
                judgement.open += 1;
                continue;
            }
            (judgement.judged, deleted) = (judgement.judged + 1, deleted + 1);
            let homes = history.copies.get(key);
            collected +=
                usize::from(homes.is_some_and(|told| told.homes.iter().all(|c| c.hash.is_empty())));
            if values != Some(&[]) {
                judgement.wrong(key, format!("deleted, and reads as {values:?} at the end"));
            }
        } else if delete.is_some_and(Op::is_unknown) {
            judgement.open += 1;
        } else {
            judgement.judged += 1;
            if values.is_none_or(<[String]>::is_empty) {
                judgement.lost(key, "never deleted, and gone at the end");
            }
        }
    }
    if deleted > 0 {
        judgement.note = format!("{collected} of {deleted} tombstones were collected");
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn a_deleted_key_stays_gone() {
        let ops = [write(0, "delete/a", "v", 0, 9), delete(1, "delete/a", 10, 19)].concat();
        assert_eq!(judge(&history([ops.clone(), last("delete/a", &[])])).violations, []);
        let back = judge(&history([ops.clone(), last("delete/a", &["v"])])).violations;
        assert!(back.len() == 1 && !back[0].lost && back[0].key == "delete/a");
        assert_eq!(judge(&history([ops.clone(), unreadable("delete/a")])).violations.len(), 1);
        for (hash, note) in [("", "1 of 1"), ("h", "0 of 1")] {
            let disk: (&str, &[&str]) = (hash, &[]);
            let disks = copies("delete/a", [disk, disk, disk]);
            let judgement = judge(&history([ops.clone(), disks, last("delete/a", &[])]));
            assert!(judgement.note.starts_with(note), "{judgement:?}");
        }
    }

    #[test]
    fn a_key_that_nobody_deleted_stays() {
        let ops = write(0, "delete/a", "v", 0, 9);
        assert_eq!(judge(&history([ops.clone(), last("delete/a", &["v"])])).violations, []);
        assert!(judge(&history([ops, last("delete/a", &[])])).violations[0].lost);
    }

    #[test]
    fn an_earlier_attempt_of_the_write_may_come_late() {
        let ops = after_attempts(2, write(0, "delete/a", "v", 0, 9));
        let deleted = delete(1, "delete/a", 10, 19);
        let judgement = judge(&history([ops, deleted, last("delete/a", &["v"])]));
        assert_eq!((judgement.open, judgement.violations), (1, vec![]));
    }
}
