//! The shapes of partitions: which wires are cut.

use rand::seq::SliceRandom as _;
use serde::Deserialize;

use crate::target::Wire;

/// Who is cut off from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// One node from all others.
    Isolate,
    /// The smaller half from the larger one.
    Halves,
    /// One node is heard by nobody, and hears all.
    OneWay,
    /// Two halves that hear each other only by way of one node between them.
    Bridge,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What is cut; sorted.
    pub wires: Vec<Wire>,
    /// The nodes on the smaller side, which cannot be counted on; sorted.
    pub apart: Vec<usize>,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Isolate, Self::Halves, Self::OneWay, Self::Bridge];

    /// Cuts a cluster of these nodes, at least three; chance says whom.
    pub fn cut(self, nodes: &[usize], random: &mut impl rand::Rng) -> Cut {
        let (mut order, count) = (nodes.to_vec(), nodes.len());
        order.shuffle(random);
        let (apart, rest) = match self {
            Self::Isolate | Self::OneWay => order.split_at(1),
            Self::Halves => order.split_at((count - 1) / 2),
            // The last one is the bridge.
            Self::Bridge => order[..count - 1].split_at((count - 1) / 2),
        };
        let mut wires = Vec::new();
        for &from in apart {
            for &to in rest {
                wires.push(Wire { from, to });
                if self != Self::OneWay {
                    wires.push(Wire { from: to, to: from });
                }
            }
        }
        let mut apart = apart.to_vec();
        wires.sort_unstable();
        apart.sort_unstable();
        Cut { wires, apart }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::ChaCha8Rng;

    use super::*;

    fn cut(shape: Shape, count: usize) -> Cut {
        let nodes: Vec<usize> = (0..count).collect();
        shape.cut(&nodes, &mut ChaCha8Rng::seed_from_u64(7))
    }

    #[test]
    fn each_shape_cuts_what_its_name_says() {
        for count in 3..8 {
            let small = (count - 1) / 2;
            assert_eq!(cut(Shape::Isolate, count).wires.len(), 2 * (count - 1));
            assert_eq!(cut(Shape::Halves, count).wires.len(), 2 * small * (count - small));
            let one_way = cut(Shape::OneWay, count);
            assert_eq!(one_way.wires.len(), count - 1);
            assert!(one_way.wires.iter().all(|wire| wire.from == one_way.apart[0]));
        }
    }

    #[test]
    fn everybody_hears_the_bridge() {
        for count in 3..8 {
            let Cut { wires, apart } = cut(Shape::Bridge, count);
            let touched = |node| wires.iter().any(|wire| wire.from == node || wire.to == node);
            assert_eq!((0..count).filter(|&node| !touched(node)).count(), 1);
            assert!(!apart.is_empty() && apart.len() < count.div_ceil(2));
        }
    }

    #[test]
    fn the_larger_side_is_a_majority() {
        for (shape, count) in Shape::ALL.into_iter().zip(3..8) {
            assert!(cut(shape, count).apart.len() <= (count - 1) / 2, "{shape:?} of {count}");
        }
    }
}
