//! Hash trees are what is durable: whatever is under way, refused, or being read.

use proptest::prelude::*;

use super::sync::{ROUND, name_of};
use super::*;
use crate::protocol::tree::Tree;

impl Cluster {
    /// The tree of what a node's disk holds of a partition.
    fn tree_of_disk(&self, node: usize, partition: Partition) -> Tree {
        let mut tree = Tree::default();
        let prefix = Bytes::copy_from_slice(&partition.0.to_be_bytes());
        let page = self.nodes[node].page(Space::Records, &prefix, Bytes::new(), usize::MAX);
        for (stored_key, stored) in page.entries {
            let key = Key::new(stored_key.slice(2..)).unwrap();
            tree.change(&key, None, Some(Sealed::from_stored(stored).unwrap().hash()));
        }
        tree
    }

    pub(super) fn assert_trees_are_true(&self, node: usize) {
        for partition in (0..64).map(Partition) {
            let known = self.workers[node].trees.known(partition).expect("all are read by now");
            assert_eq!(*known, self.tree_of_disk(node, partition), "{partition}");
        }
    }

    fn markers(&self, node: usize) -> usize {
        let meta = self.nodes[node].disk.keys().filter(|key| key.0 == Space::Meta);
        meta.filter(|key| key.1.starts_with(b"dirty/")).count()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    /// One commit is done, or refused.
    Commit(bool),
    /// Answers of scans come late, or those that are late come.
    Late(bool),
    Pass,
    Scrub(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..40usize).prop_map(Step::Write),
        6 => prop::bool::weighted(0.8).prop_map(Step::Commit),
        1 => any::<bool>().prop_map(Step::Late),
        1 => Just(Step::Pass),
        1 => (0..64u16).prop_map(Step::Scrub),
    ];
    prop::collection::vec(step, 0..60)
}

/// One scan is answered; what is asked then waits again.
fn come_one(cluster: &mut Cluster) {
    let late = cluster.nodes[0].late_scans.as_mut().expect("scans are late");
    assert!(!late.is_empty(), "nothing was asked");
    let answer = late.remove(0);
    cluster.input(0, answer);
}

fn come(cluster: &mut Cluster) {
    let late = cluster.nodes[0].late_scans.take().unwrap_or_default();
    late.into_iter().for_each(|answer| cluster.input(0, answer));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_tree_is_what_is_durable(steps in steps()) {
        let mut cluster = Cluster::new(1, 1);
        (0..30).for_each(|number| cluster.plant(0, &name_of(number), "planted"));
        let mut cluster = cluster.comparing();
        cluster.nodes[0].held = true;
        for step in steps {
            match step {
                Step::Write(number) => {
                    cluster.start(0, put(&name_of(number), "written", None, None));
                }
                Step::Commit(done) if !cluster.nodes[0].queue.is_empty() => {
                    cluster.nodes[0].refuses = !done;
                    cluster.flush_one(0);
                    cluster.nodes[0].refuses = false;
                }
                Step::Commit(_) => {}
                Step::Late(true) => _ = cluster.nodes[0].late_scans.get_or_insert_default(),
                Step::Late(false) => come(&mut cluster),
                Step::Pass => cluster.pass(50_000),
                Step::Scrub(partition) => {
                    let now = cluster.now;
                    let why = crate::protocol::worker::rescan::Why::Scrub;
                    cluster.workers[0].rescan(now, Partition(partition), why);
                }
            }
        }
        come(&mut cluster);
        cluster.release(0);
        cluster.pass(SECOND);
        cluster.assert_trees_are_true(0);
        prop_assert_eq!(cluster.workers[0].stats().trees_rebuilt, 0);
    }
}

#[test]
fn a_partition_is_marked_by_its_first_write_and_until_its_tree_is_saved() {
    let mut cluster = Cluster::new(1, 1).comparing();
    cluster.pass(ROUND);
    assert_eq!(cluster.markers(0), 0);
    // The commit that carries the marker is refused: the next one carries it again.
    cluster.nodes[0].refuses = true;
    cluster.start(0, put(&key("k"), "refused", None, None));
    cluster.nodes[0].refuses = false;
    cluster.set(0, &key("k"), "value");
    assert_eq!(cluster.markers(0), 1);
    cluster.set(0, &key("k"), "again");
    cluster.pass(ROUND);
    assert_eq!(cluster.markers(0), 0);
    cluster.set(0, &key("k"), "after the tree was saved");
    assert_eq!(cluster.markers(0), 1);
}

#[test]
fn after_a_start_only_partitions_that_were_written_since_are_read() {
    let mut cluster = Cluster::new(1, 1).comparing();
    for number in 0..300 {
        cluster.set(0, &name_of(number), "value");
    }
    cluster.pass(2 * ROUND);
    cluster.set(0, &name_of(1), "after the trees were saved");
    cluster.kill(0);
    cluster.nodes[0].late_scans = Some(vec![]);
    let mut cluster = cluster.revived();
    let known = |cluster: &Cluster| 64 - cluster.workers[0].stats().trees_unknown;
    // Hints, lost records, lost partitions and markers are looked through before it serves.
    while !cluster.workers[0].serves() {
        come_one(&mut cluster);
    }
    assert_eq!(known(&cluster), 0);
    // Saved trees are one page; then what is read are partitions.
    come_one(&mut cluster);
    assert_eq!(known(&cluster), 63);
    come(&mut cluster);
    cluster.assert_trees_are_true(0);
}

#[test]
fn a_scrub_finds_what_is_damaged_and_what_a_tree_does_not_know() {
    let mut cluster = Cluster::new(2, 2).comparing();
    let (k, other) = (key("k"), key("other"));
    cluster.set(0, &k, "value");
    cluster.set(0, &other, "value");
    cluster.pass(ROUND);
    cluster.damage(0, &k);
    // Nobody has written it: a tree that is true would know of it.
    cluster.plant(0, &name_of(3), "from nowhere");
    let now = cluster.now;
    for partition in [&k, &name_of(3)].map(|key| key.partition(64)) {
        let why = crate::protocol::worker::rescan::Why::Scrub;
        cluster.workers[0].rescan(now, partition, why);
    }
    cluster.pass(4 * ROUND);
    assert_eq!(cluster.stored(0, &k), cluster.stored(1, &k));
    assert!(cluster.events.contains(&(0, Event::RecordLost(k.partition(64), k))));
    assert!(cluster.workers[0].stats().trees_rebuilt > 0);
    assert!(cluster.stored(1, &name_of(3)).is_some(), "what was found was not exchanged");
    cluster.assert_trees_are_true(0);
}

impl Cluster {
    /// A node that was killed is there again, and compares as before.
    fn revived(mut self) -> Self {
        self.nodes.iter_mut().for_each(|node| node.down = false);
        self.comparing()
    }
}
