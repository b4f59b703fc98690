//! C2: causal read-modify-write. The union of the final siblings contains every acknowledged
//! addition: whoever writes with a context supersedes only what it has read, and keeps that.

use std::collections::{BTreeMap, BTreeSet};

use super::Judgement;
use crate::history::{Action, History};
use crate::scenario::WorkloadKind;
use crate::workload::tokens;

#[derive(Default)]
struct Cart<'a> {
    acknowledged: BTreeSet<&'a str>,
    attempted: BTreeSet<&'a str>,
}

/// Values are lists of tokens; each write adds one to the union of what it has read.
pub fn judge(history: &History) -> Judgement {
    let promise = "the union of a key's siblings contains every acknowledged addition";
    let mut judgement = Judgement::of(WorkloadKind::Cart, "C2", promise);
    let mut carts: BTreeMap<&str, Cart> = BTreeMap::new();
    for op in history.of(WorkloadKind::Cart).filter(|op| op.invoke.action == Action::Write) {
        let cart = carts.entry(&op.invoke.key).or_default();
        let value = op.invoke.value.as_deref().unwrap_or_default();
        cart.attempted.extend(tokens(value));
        if op.answer().is_some() {
            cart.acknowledged.extend(tokens(value));
        }
    }
    for (key, cart) in carts {
        judgement.judged += cart.acknowledged.len();
        let values = history.final_values(key).unwrap_or_default();
        let found: BTreeSet<&str> = values.iter().flat_map(|value| tokens(value)).collect();
        let named = |tokens: Vec<&&str>| tokens.into_iter().copied().collect::<Vec<_>>().join(" ");
        let lost: Vec<_> = cart.acknowledged.difference(&found).collect();
        if !lost.is_empty() {
            let count = lost.len();
            judgement.lost(key, format!("{count} acknowledged additions lost: {}", named(lost)));
        }
        let phantoms: Vec<_> = found.difference(&cart.attempted).collect();
        if !phantoms.is_empty() {
            judgement.wrong(key, format!("nobody has added {}", named(phantoms)));
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn siblings_together_hold_what_was_added() {
        let history = history([
            write(0, "cart/a", "x", 0, 9),
            write(1, "cart/a", "x y", 10, 19),
            write(2, "cart/a", "x z", 10, 19),
            unknown(3, "cart/a", "x y w", 20, 29),
            last("cart/a", &["x y", "x z"]),
        ]);
        let judgement = judge(&history);
        assert_eq!((judgement.judged, judgement.violations.len()), (3, 0));
    }

    #[test]
    fn a_lost_sibling_is_found_and_its_additions_are_named() {
        let history = history([
            write(1, "cart/a", "x y", 10, 19),
            write(2, "cart/a", "x z", 10, 19),
            last("cart/a", &["x z"]),
        ]);
        let violations = judge(&history).violations;
        assert!(violations.len() == 1 && violations[0].lost, "{violations:?}");
        assert!(violations[0].what.ends_with("lost: y"), "{violations:?}");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_lost_and_an_addition_of_nobody_is_found() {
        let added = write(1, "cart/a", "x", 10, 19);
        assert!(judge(&history([added.clone(), unreadable("cart/a")])).violations[0].lost);
        let phantom = judge(&history([added, last("cart/a", &["x q"])])).violations;
        assert!(phantom.len() == 1 && !phantom[0].lost);
    }
}
