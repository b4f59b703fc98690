//! C3: dots, as far as they show outside. A receipt names the write that it is for: no two writes
//! have one name, and what nothing has superseded is on every home's disk under its name.

use std::collections::HashMap;

use super::Judgement;
use crate::history::{Action, History};
use crate::scenario::WorkloadKind;

/// Keys with one write (the set's) are followed to the disks; names are compared within every key.
pub fn judge(history: &History) -> Judgement {
    let promise = "one dot never names two writes, and a dot that nothing superseded is on disk";
    let mut judgement = Judgement::new("C3", promise);
    let mut named: HashMap<(&str, &str), Option<&str>> = HashMap::new();
    for op in history.ops.iter().filter(|op| op.writes()) {
        let Some(dot) = op.answer().and_then(|answer| answer.dot.as_deref()) else { continue };
        let (key, value) = (op.invoke.key.as_str(), op.invoke.value.as_deref());
        judgement.judged += 1;
        // A dot is unique within its key, as version vectors need it. Two keys may share one: a stamp
        // from the far future raises the stamp of the write made over it, and not the actor's clock.
        if let Some(other) = named.insert((key, dot), value)
            && other != value
        {
            judgement.wrong(key, format!("{dot} names both {other:?} and {value:?}"));
        }
        if op.invoke.workload == WorkloadKind::Set && op.invoke.action == Action::Write {
            follow(history, key, dot, &mut judgement);
        }
    }
    judgement
}

fn follow(history: &History, key: &str, dot: &str, judgement: &mut Judgement) {
    let Some(told) = history.copies.get(key) else {
        judgement.open += 1;
        return;
    };
    let without: Vec<&str> = told
        .homes
        .iter()
        .filter(|copy| !copy.dots.iter().any(|held| held == dot))
        .map(|copy| copy.node.as_str())
        .collect();
    if told.homes.is_empty() || !without.is_empty() {
        let homes = without.join(", ");
        judgement.lost(key, format!("{dot} was acknowledged and is not on the disk of {homes}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn a_dot_on_every_disk_is_right() {
        let disk: (&str, &[&str]) = ("h", &["a@0.0"]);
        let history = history([write(0, "set/a", "v", 0, 9), copies("set/a", [disk, disk, disk])]);
        assert_eq!(judge(&history).violations, []);
    }

    #[test]
    fn a_dot_missing_on_one_disk_is_found() {
        let disk: (&str, &[&str]) = ("h", &["a@0.0"]);
        let without: (&str, &[&str]) = ("h", &["a@7.0"]);
        let history =
            history([write(0, "set/a", "v", 0, 9), copies("set/a", [disk, without, disk])]);
        let violations = judge(&history).violations;
        assert!(violations.len() == 1 && violations[0].what.ends_with("n1"), "{violations:?}");
    }

    #[test]
    fn one_dot_for_two_values_is_found() {
        let one = named("a@1.0", write(0, "register/a", "v", 0, 9));
        let two = named("a@1.0", write(1, "register/a", "w", 10, 19));
        let elsewhere = named("a@1.0", write(2, "register/b", "x", 5, 6));
        let judgement = judge(&history([one.clone(), elsewhere.clone()]));
        assert_eq!(judgement.violations, [], "the name is another key's");
        assert_eq!(judge(&history([one, elsewhere, two])).violations.len(), 1);
    }
}
