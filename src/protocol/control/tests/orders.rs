//! What an operator is refused, with the reason and with what to do instead.

use super::founded;
use super::net::{Hold, Index, World, name};
use super::ring::{CHANGE_MS, add, give, newest, settles};
use crate::protocol::control::*;
use crate::protocol::placement::{Change, Member, PlanRefused};
use crate::types::NodeName;

fn remove(node: &str, force: bool) -> Order {
    Order::Remove { name: name(node), force, accept_loss: false }
}

fn answer(world: &mut World, at: Index, order: Order) -> Result<Agreed, Refusal> {
    let id = give(world, at, order);
    let answered = |w: &World| w.nodes[at].answers.contains_key(&id);
    assert!(world.run_until(CHANGE_MS, answered).is_some(), "no answer");
    world.nodes[at].answers[&id].clone()
}

fn refusal(world: &mut World, order: Order) -> Refusal {
    let before = newest(world, 0);
    let refusal = answer(world, 0, order).expect_err("it was agreed to");
    world.run_ms(1_000);
    assert_eq!(newest(world, 0), before, "a refused order has changed something");
    refusal
}

fn apply(world: &World, change: Change) -> Order {
    Order::Apply { expected: newest(world, 0), change }
}

#[test]
fn what_would_leave_too_few_is_refused() {
    let mut world = founded(200, 3);
    world.run_ms(3_000);
    let refused = refusal(&mut world, Order::Decommission(name("node-2")));
    assert!(
        matches!(refused, Refusal::Plan(PlanRefused::TooFew { wanted: 3, left: 2 })),
        "{refused}"
    );
    world.kill(2);
    world.run_ms(10_000);
    let refused = refusal(&mut world, remove("node-2", true));
    assert!(matches!(refused, Refusal::Plan(PlanRefused::TooFew { .. })), "{refused}");
    let mut world = founded(201, 1);
    world.run_ms(3_000);
    let refused = refusal(&mut world, Order::Decommission(name("node-0")));
    assert_eq!(refused, Refusal::Plan(PlanRefused::NobodyLeft), "the last copy");
}

#[test]
fn a_stale_plan_and_unknown_names_are_refused() {
    let mut world = founded(202, 4);
    world.run_ms(3_000);
    let reweighed = vec![(name("node-1"), 2)];
    let change = Change { reweighed, ..Change::default() };
    let mut expected = newest(&world, 0);
    expected.hash ^= 1;
    let refused = refusal(&mut world, Order::Apply { expected, change: change.clone() });
    assert!(matches!(refused, Refusal::Stale { .. }), "{refused}");
    let refused = refusal(&mut world, Order::Decommission(name("nobody")));
    assert_eq!(refused, Refusal::Plan(PlanRefused::MemberUnknown(name("nobody"))));
    let refused = refusal(&mut world, remove("nobody", true));
    assert_eq!(refused, Refusal::Plan(PlanRefused::MemberUnknown(name("nobody"))));
    let join = |text: &str| {
        let member = Member { name: name(text), zone: String::new(), weight: 1 };
        Change { joins: vec![member], ..Change::default() }
    };
    let order = apply(&world, join("node-1"));
    let refused = refusal(&mut world, order);
    assert_eq!(refused, Refusal::Plan(PlanRefused::MemberAlready(name("node-1"))));
    let order = apply(&world, join("nobody"));
    assert_eq!(refusal(&mut world, order), Refusal::Absent(name("nobody")));
}

#[test]
fn the_living_are_not_removed_and_the_dead_not_decommissioned() {
    let mut world = founded(203, 5);
    world.run_ms(3_000);
    let refused = refusal(&mut world, remove("node-4", false));
    assert_eq!(refused, Refusal::NeedsForce(name("node-4")));
    assert_eq!(refusal(&mut world, remove("node-4", true)), Refusal::Lives(name("node-4")));
    // One member hears it: the others do not take it from the ring.
    (0..3).for_each(|other| world.cut(4, other));
    world.run_ms(10_000);
    let refused = refusal(&mut world, remove("node-4", true));
    assert!(
        matches!(&refused, Refusal::NoAnswer(said) if said.contains("node-3 has heard")),
        "{refused}"
    );
    world.heal();
    world.run_ms(5_000);
    world.kill(4);
    world.run_ms(10_000);
    let refused = refusal(&mut world, Order::Decommission(name("node-4")));
    assert_eq!(refused, Refusal::Unreachable(name("node-4")));
    assert!(refused.to_string().contains("coterie remove node-4 --force"));
}

#[test]
fn a_second_order_waits_for_the_first_change_and_is_told_who_holds_it_up() {
    let mut world = founded(204, 4);
    world.run_ms(3_000);
    world.nodes[2].holds = Hold::Syncs;
    let change = |weight| Change { reweighed: vec![(name("node-1"), weight)], ..Change::default() };
    let order = apply(&world, change(2));
    assert!(answer(&mut world, 0, order).is_ok());
    world.run_ms(5_000);
    let order = apply(&world, change(3));
    let refused = refusal(&mut world, order);
    assert!(matches!(&refused, Refusal::UnderWay { newest: 2, .. }), "{refused}");
    assert!(refused.to_string().contains("node-2 holds it up"), "{refused}");
    world.nodes[2].holds = Hold::Nothing;
    world.work(2);
    settles(&mut world, &[0, 1, 2, 3]);
}

#[test]
fn a_second_removal_before_the_first_is_over_asks_for_consent() {
    let mut world = founded(205, 7);
    world.run_ms(3_000);
    world.nodes[0].holds = Hold::Syncs;
    [5, 6].into_iter().for_each(|gone| world.kill(gone));
    world.run_ms(10_000);
    assert!(answer(&mut world, 0, remove("node-6", true)).is_ok());
    let changing = |w: &World| w.nodes[0].view.as_ref().unwrap().is_changing();
    assert!(world.run_until(CHANGE_MS, changing).is_some());
    let refused = refusal(&mut world, remove("node-5", true));
    let earlier: Vec<NodeName> = vec![name("node-6")];
    assert_eq!(refused, Refusal::NotRepaired { name: name("node-5"), earlier });
    let order = Order::Remove { name: name("node-5"), force: true, accept_loss: true };
    assert!(answer(&mut world, 0, order).is_ok());
    world.nodes[0].holds = Hold::Nothing;
    world.work(0);
    settles(&mut world, &[0, 1, 2, 3, 4]);
}

#[test]
fn a_removal_that_no_majority_can_agree_to_is_refused() {
    let mut world = founded(206, 5);
    world.run_ms(3_000);
    (2..5).for_each(|gone| world.kill(gone));
    world.run_ms(10_000);
    let refused = refusal(&mut world, remove("node-4", true));
    assert_eq!(refused, Refusal::NoMajority { name: name("node-4"), there: 2, members: 5 });
}

/// Seed 2007462: each of two changes left enough members, both together too few; and then nobody could join.
#[test]
fn a_removal_that_would_leave_too_few_is_made_once_another_node_has_joined() {
    let mut world = founded(206, 4);
    world.run_ms(3_000);
    world.kill(3);
    world.run_ms(10_000);
    let orders = [(0, remove("node-3", true)), (1, Order::Decommission(name("node-2")))];
    let given = orders.map(|(at, order)| (at, give(&mut world, at, order)));
    let agreed = |w: &World, (at, id): (Index, OrderId)| {
        w.nodes[at].answers.get(&id).is_some_and(Result::is_ok)
    };
    let both = |w: &World| given.iter().all(|&order| agreed(w, order));
    assert!(world.run_until(CHANGE_MS, both).is_some(), "the changes do not meet");
    world.run_ms(10_000);
    let index = add(&mut world, "node-4");
    settles(&mut world, &[0, 1, index]);
}

/// Seed 2014977: the names and disks were the same as before, and so nobody told it what it had missed.
#[test]
fn a_node_that_was_away_while_another_came_and_was_removed_hears_of_both() {
    let mut world = founded(207, 4);
    world.run_ms(3_000);
    world.kill(2);
    let index = add(&mut world, "node-4");
    let joins = |w: &World| newest(w, 0).number == 2;
    assert!(world.run_until(CHANGE_MS, joins).is_some(), "node-4 does not join");
    world.kill(index);
    world.run_ms(10_000);
    assert!(answer(&mut world, 0, remove("node-4", true)).is_ok());
    world.run_ms(10_000);
    world.start(2);
    settles(&mut world, &[0, 1, 2, 3]);
}
