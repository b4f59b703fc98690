//! C5: last writer wins. Of the siblings that are left, the one that is shown has the highest dot.
//! What the policy hides is counted apart, and is no loss: it is still among the siblings, or was
//! overwritten by somebody who supplied no context.

use std::collections::HashMap;

use super::Judgement;
use crate::history::History;

/// The time, the counter and the actor of a dot: `actor@milliseconds.counter`.
fn parts(dot: &str) -> Option<(u64, u64, &str)> {
    let (actor, stamp) = dot.split_once('@')?;
    let (millis, counter) = stamp.split_once('.')?;
    Some((millis.parse().ok()?, counter.parse().ok()?, actor))
}

/// Judges every key that is left with siblings whose names are known by their receipts.
pub fn judge(history: &History) -> Judgement {
    let promise = "of several values, a plain read shows the one with the highest dot";
    let mut judgement = Judgement::new("C5", promise);
    let mut dots: HashMap<(&str, &str), &str> = HashMap::new();
    for op in &history.ops {
        let dot = op.answer().filter(|answer| answer.attempts == 1).and_then(|a| a.dot.as_deref());
        if let (Some(dot), Some(value)) = (dot, op.invoke.value.as_deref()) {
            dots.insert((&op.invoke.key, value), dot);
        }
    }
    for (key, read) in &history.finals {
        let Some([first, others @ ..]) = read.values.as_deref() else { continue };
        let named = |value: &String| parts(dots.get(&(key.as_str(), value.as_str()))?);
        let Some(shown) = named(first) else {
            judgement.open += usize::from(!others.is_empty());
            continue;
        };
        for (other, dot) in others.iter().filter_map(|other| Some((other, named(other)?))) {
            judgement.judged += 1;
            if dot > shown {
                judgement.wrong(key, format!("`{first}` is shown, and `{other}` is younger"));
            }
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn the_younger_sibling_must_be_shown() {
        let v = named("b@10.0", write(0, "overwrite/a", "v", 0, 9));
        let w = named("a@9.5", write(1, "overwrite/a", "w", 0, 9));
        let right = last("overwrite/a", &["v", "w"]);
        let judgement = judge(&history([v.clone(), w.clone(), right]));
        assert_eq!((judgement.judged, judgement.violations.len()), (1, 0));
        let wrong = last("overwrite/a", &["w", "v"]);
        assert_eq!(judge(&history([v, w, wrong])).violations.len(), 1);
    }

    #[test]
    fn time_comes_before_the_counter_and_the_counter_before_the_actor() {
        assert!(parts("a@10.0") > parts("b@9.7") && parts("a@9.10") > parts("b@9.9"));
        assert_eq!(parts("nonsense"), None);
    }
}
