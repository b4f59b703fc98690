//! The streams between nodes: plain TCP, frames with checksums, one stream dialled by each side.
//!
//! ```text
//!      dialler                                acceptor
//!         │ preamble, hello ──────────────────────▶│ is it one of us?
//!         │◀────────────────────── preamble, hello │ (or a refusal, with the reason)
//!         │ messages, pings ──────────────────────▶│
//!         │◀────────────────────── messages, pings │
//! ```
//!
//! Every node keeps a stream to every address that the control core names, so that two nodes
//! usually share two streams. There is nothing to agree on: each sends on the stream that it
//! dialled while that lives, else on the newest that it has accepted, and reads from all.
//!
//! Invariants:
//! - a message is handed over only after the control core has accepted the hello of its stream,
//!   and only if it names the peer of that hello as its sender;
//! - the control core hears of a stream that is dialled before its hello, and of the end of every
//!   stream that was dialled or accepted exactly once, as soon as it ends;
//! - sending never waits: what does not fit into the bounded queue of a stream is dropped and
//!   counted. Messages may be lost, duplicated by their sender and reordered between streams; the
//!   protocol is made for that.
//!
//! Batching needs no timer: whoever sends encodes into the queue of the stream, whose writer
//! takes all of it at once and writes it in one go. While it writes, the next batch gathers.

mod dial;
pub mod frame;
#[cfg(test)]
pub(crate) mod free_ports;
mod link;
pub(crate) mod quiet;
mod registry;

#[cfg(test)]
mod tests;

pub use link::Wake;
pub use registry::{Inbox, Limits, Peers, Report};
