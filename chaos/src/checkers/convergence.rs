//! C6: convergence. In bounded time after the last fault every home of a key holds the same, nobody
//! keeps anything for others, and every node says that it is ready.

use super::Judgement;
use crate::history::History;

/// Compares what is on the disks, key by key.
pub fn judge(history: &History) -> Judgement {
    let promise = "after the last fault all copies of a key are equal, and no hint is left";
    let mut judgement = Judgement::new("C6", promise);
    let homes = history.header.replicas;
    for (key, told) in &history.copies {
        judgement.judged += 1;
        if told.are_equal(homes) {
            continue;
        }
        let mut each: Vec<_> =
            told.homes.iter().map(|copy| format!("{}: {}", copy.node, shown(copy))).collect();
        each.extend(told.unanswered.iter().map(|node| format!("{node}: no answer")));
        judgement.wrong(key, format!("copies at {homes} homes differ: {}", each.join(", ")));
    }
    for node in history.nodes.iter().filter(|node| !node.ready) {
        judgement.wrong("", format!("{} is not ready: {}", node.node, node.state));
    }
    match &history.settled {
        None => judgement.wrong("", "the run was broken off before the cluster came to rest"),
        Some(settled) => settled.unsettled.iter().for_each(|what| judgement.wrong("", what)),
    }
    judgement
}

fn shown(copy: &crate::history::Copy) -> &str {
    if copy.hash.is_empty() { "nothing" } else { &copy.hash }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;
    use crate::history::{Event, NodeState, Settled};

    fn at_rest() -> Vec<Event> {
        vec![Event::Settled(Settled::default())]
    }

    #[test]
    fn equal_copies_are_right() {
        let disk: (&str, &[&str]) = ("h", &[]);
        let judgement = judge(&history([copies("set/a", [disk, disk, disk]), at_rest()]));
        assert_eq!((judgement.judged, judgement.violations), (1, vec![]));
    }

    #[test]
    fn a_copy_that_differs_or_is_absent_is_found() {
        type Copy = (&'static str, &'static [&'static str]);
        let (disk, other): (Copy, Copy) = (("h", &[]), ("", &[]));
        let judgement = judge(&history([copies("set/a", [disk, other, disk]), at_rest()]));
        assert_eq!(judgement.violations.len(), 1);
        assert!(judgement.violations[0].what.contains("n1: nothing"), "{judgement:?}");
        let mut two = copies("set/a", [disk, disk, disk]);
        if let Event::Copies(copies) = &mut two[0] {
            copies.homes.pop();
        }
        assert_eq!(judge(&history([two, at_rest()])).violations.len(), 1);
        let mut silent = copies("set/a", [disk, disk, disk]);
        if let Event::Copies(copies) = &mut silent[0] {
            copies.unanswered.push("n3".to_owned());
        }
        assert_eq!(judge(&history([silent, at_rest()])).violations.len(), 1);
        let damaged: Copy = ("damaged", &[]);
        let alike = copies("set/a", [damaged, damaged, damaged]);
        assert_eq!(judge(&history([alike, at_rest()])).violations.len(), 1);
    }

    #[test]
    fn a_node_that_is_not_ready_at_the_end_is_found() {
        let node = NodeState { node: "n1".to_owned(), ..NodeState::default() };
        let judgement = judge(&history([vec![Event::Node(node)], at_rest()]));
        assert_eq!(judgement.violations.len(), 1);
    }

    #[test]
    fn a_cluster_that_does_not_come_to_rest_is_found() {
        assert_eq!(judge(&history([])).violations.len(), 1);
        let left = Settled { after_ms: 1, unsettled: vec!["node-1 keeps 3 hints".to_owned()] };
        assert_eq!(judge(&history([vec![Event::Settled(left)]])).violations.len(), 1);
    }
}
