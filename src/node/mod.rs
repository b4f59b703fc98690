//! Everything wired together: one node from its start to its end.
//!
//! ```text
//!  main thread (or several)  data path: workers, streams, gRPC, timers
//!  gossip                    UDP and the control core; nothing delays it
//!  commit, mark              the committer and its mark
//!  admin                     HTTP; answers even if the data path stands still
//!  a few more                scans of the store, and what operators look up there
//! ```
//!
//! Start: bind every port, open the data folder, start the committer, the workers, the streams,
//! the gossip, the services. Stop: no new requests, wait for those under way, commit and sync
//! what is queued, write the mark, close. A store that failed, or a defect, stops the node at
//! once and loudly; from then on it acknowledges nothing.

#[cfg(test)]
mod cluster_tests;
mod cores;
mod ending;
mod handle;
mod hint_age;
pub mod host;
#[cfg(test)]
mod host_tests;
mod inspect;
mod metrics;
mod orders;
mod ports;
mod run;
mod spans;
mod start;
#[cfg(test)]
mod tests;
mod wires;

#[cfg(any(test, feature = "seeded-defects"))]
pub(crate) use cores::seeded_defect;
pub use cores::{RealCores, serve};
pub use ending::{ComesBack, Ending, Failed};
pub use handle::{NodeHandle, Reports};
pub use ports::{PortError, Ports};
pub use run::{Serve, Served, Services, run};
pub use start::{Cores, Node, Prepared, Start};
