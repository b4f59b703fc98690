//! Disks that lose, damage, delay and refuse what is written to them, under real nodes.
//!
//! | | |
//! |---|---|
//! | `power` | the layer under a node that forgets what was not synced, and the power cut |
//! | `cuts` | power cuts of all nodes at once, and that the layer bites |
//! | `slow` | disks that are slow, full, or fail; clocks that jump |
//! | `flips` | one bit of each kind of file is wrong, or the file is cut short |

mod cuts;
mod flips;
mod power;
mod slow;
